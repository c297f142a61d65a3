//! NodePublishVolume: from the staging path to a pod.
//!
//! A read-only raw block volume is refused unless the hypervisor protects the disk: a read-only bind of a device node
//! does not stop writes, and write-protecting the whole disk would also hit its other targets.

use super::command::Publish;
use super::error::NodeError;
use super::kernel::{Kernel, Staged, is_file_system, names};
use crate::domain::capability::{Access, Mode};
use crate::host::{BlockDevice, MountEntry, Mounts};

pub(super) fn publish(kernel: &Kernel, command: &Publish) -> Result<(), NodeError> {
    let mounts = kernel.host.mounts()?;
    let (staged, device) =
        kernel.staged_device(&mounts, &command.disk, &command.staging, command.at)?;
    kernel.look_anew(&command.disk, &device)?;
    match (&command.capability.access, &staged) {
        (Access::Mount { .. }, Staged::Mount { entry, .. }) => {
            publish_mount(kernel, command, &mounts, &staged, entry, &device)
        }
        (Access::Block, Staged::Block { .. }) => {
            publish_block(kernel, command, &mounts, &staged, &device)
        }
        (Access::Mount { .. }, _) => Err(incompatible(command, "raw block", "a file system")),
        (Access::Block, _) => Err(incompatible(command, "a file system", "raw block")),
    }
}

fn incompatible(command: &Publish, found: &str, asked: &str) -> NodeError {
    NodeError::Incompatible {
        volume: command.disk.to_string(),
        path: command.staging.clone(),
        found: found.to_owned(),
        asked: asked.to_owned(),
    }
}

/// What may be done about a mount that is at the target already.
enum There {
    /// It is the volume's own device.
    Ours,
    /// Its device is gone.
    Dead,
}

/// Looks who has the target; anybody else who is alive keeps it.
fn who(
    kernel: &Kernel,
    command: &Publish,
    entry: &MountEntry,
    device: &BlockDevice,
) -> Result<There, NodeError> {
    let taken = |found: String| NodeError::PathTaken {
        path: command.target.clone(),
        volume: command.disk.to_string(),
        found,
        expected: format!("device {}", device.devno),
    };
    let block = command.capability.access == Access::Block;
    let there = if is_file_system(entry) {
        kernel.device_of(entry)?
    } else {
        match kernel.host.block_node_at(&command.target)? {
            Some(devno) => kernel.host.device_by_number(devno)?,
            None => return Err(taken(format!("{} ({})", entry.source, entry.fs_type))),
        }
    };
    match there {
        None => Ok(There::Dead),
        Some(there) if there.devno == device.devno && block != is_file_system(entry) => {
            Ok(There::Ours)
        }
        Some(there) => Err(taken(format!("device {} ({})", there.devno, entry.fs_type))),
    }
}

/// Only the mount's own flag counts: a file system that went read-only after an error is a matter of health.
fn bound_read_only(entry: &MountEntry) -> bool {
    entry.options.iter().any(|option| option == "ro")
}

fn words(read_only: bool) -> &'static str {
    if read_only { "read-only" } else { "writable" }
}

fn publish_mount(
    kernel: &Kernel,
    command: &Publish,
    mounts: &Mounts,
    staged: &Staged,
    staging: &MountEntry,
    device: &BlockDevice,
) -> Result<(), NodeError> {
    // A volume staged read-only cannot be written through any bind.
    let wanted = command.read_only || bound_read_only(staging);
    if let Some(entry) = mounts.at(&command.target) {
        match who(kernel, command, &entry, device)? {
            There::Ours if half_done(staging, &entry, wanted) => {
                tracing::warn!(target_path = ?command.target, "finishing a read-only bind");
            }
            There::Ours => return same_way(command, staging, &entry, wanted),
            There::Dead => clear_dead(kernel, command)?,
        }
    }
    single_writer(command, mounts, staged)?;
    kernel
        .host
        .bind(&command.staging, &command.target, wanted)?;
    let entry = kernel.host.mount_at(&command.target)?;
    let there = match &entry {
        Some(entry) => kernel.device_of(entry)?,
        None => None,
    };
    match (entry, there) {
        (Some(entry), Some(there)) if there.devno == device.devno => {
            same_way(command, staging, &entry, wanted)
        }
        _ => Err(NodeError::NotHere {
            volume: command.disk.to_string(),
            path: command.target.clone(),
            found: "another mount than the one just made".to_owned(),
        }),
    }
}

/// A read-only bind is made writable and then protected; a plugin that is killed between the two leaves it writable.
/// The kubelet has not started the pod then. A target that was published writable is not harmed either: containers have
/// mounts of their own.
fn half_done(staging: &MountEntry, entry: &MountEntry, wanted: bool) -> bool {
    wanted && !bound_read_only(entry) && entry.root == staging.root
}

fn same_way(
    command: &Publish,
    staging: &MountEntry,
    entry: &MountEntry,
    read_only: bool,
) -> Result<(), NodeError> {
    let is = bound_read_only(entry);
    if is == read_only && entry.root == staging.root {
        return Ok(());
    }
    Err(NodeError::Incompatible {
        volume: command.disk.to_string(),
        path: command.target.clone(),
        found: format!("{} {}", entry.root.display(), words(is)),
        asked: format!("{} {}", staging.root.display(), words(read_only)),
    })
}

fn publish_block(
    kernel: &Kernel,
    command: &Publish,
    mounts: &Mounts,
    staged: &Staged,
    device: &BlockDevice,
) -> Result<(), NodeError> {
    if command.read_only && !kernel.host.inspect(device)?.read_only {
        return Err(NodeError::ReadOnlyBlock {
            volume: command.disk.to_string(),
        });
    }
    if let Some(entry) = mounts.at(&command.target) {
        match who(kernel, command, &entry, device)? {
            There::Ours => return Ok(()),
            There::Dead => clear_dead(kernel, command)?,
        }
    }
    single_writer(command, mounts, staged)?;
    kernel.host.bind_device(device, &command.target)?;
    if kernel.host.block_node_at(&command.target)? == Some(device.devno) {
        return Ok(());
    }
    Err(NodeError::NotHere {
        volume: command.disk.to_string(),
        path: command.target.clone(),
        found: "another node than the one just bound".to_owned(),
    })
}

fn clear_dead(kernel: &Kernel, command: &Publish) -> Result<(), NodeError> {
    tracing::warn!(target_path = ?command.target, "clearing a mount whose device is gone");
    kernel
        .unmount_verified(&command.disk, &command.target)
        .map(drop)
}

/// ReadWriteOncePod: one target at a time (CSI specification, SINGLE_NODE_SINGLE_WRITER).
fn single_writer(command: &Publish, mounts: &Mounts, staged: &Staged) -> Result<(), NodeError> {
    if command.capability.mode != Mode::SingleNodeSingleWriter {
        return Ok(());
    }
    // What is at the target itself is of no account: it was cleared, or this call finishes it.
    let mut others = Kernel::targets(mounts, staged);
    others.retain(|target| *target != command.target);
    if others.is_empty() {
        return Ok(());
    }
    Err(NodeError::SecondTarget {
        volume: command.disk.to_string(),
        at: names(&others),
    })
}
