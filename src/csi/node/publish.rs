//! NodePublishVolume: from the staging path to a pod.

use super::command::Publish;
use super::error::NodeError;
use super::kernel::{Kernel, Staged, names};
use crate::domain::capability::{Access, Mode};
use crate::host::{BlockDevice, MountEntry};

pub(super) fn publish(kernel: &Kernel, command: &Publish) -> Result<(), NodeError> {
    let (staged, device) = kernel.staged_device(&command.disk, &command.staging, command.at)?;
    match (&command.capability.access, &staged) {
        (Access::Mount { .. }, Staged::Mount { entry, .. }) => {
            publish_mount(kernel, command, &staged, entry, &device)
        }
        (Access::Block, Staged::Block { .. }) => publish_block(kernel, command, &staged, &device),
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

fn taken(command: &Publish, found: &BlockDevice, device: &BlockDevice) -> NodeError {
    NodeError::PathTaken {
        path: command.target.clone(),
        volume: command.disk.to_string(),
        found: found.devno.to_string(),
        expected: format!("device {}", device.devno),
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
    staged: &Staged,
    staging: &MountEntry,
    device: &BlockDevice,
) -> Result<(), NodeError> {
    // A volume staged read-only cannot be written through any bind.
    let wanted = command.read_only || bound_read_only(staging);
    if let Some(entry) = kernel.host.mount_at(&command.target)? {
        match kernel.device_of(&entry)? {
            Some(there) if there.devno == device.devno => {
                return same_way(command, staging, &entry, wanted);
            }
            Some(other) => return Err(taken(command, &other, device)),
            None => clear_dead(kernel, command)?,
        }
    }
    single_writer(kernel, command, staged)?;
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
    staged: &Staged,
    device: &BlockDevice,
) -> Result<(), NodeError> {
    if command.read_only && !kernel.host.inspect(device)?.read_only {
        return Err(NodeError::ReadOnlyBlock {
            volume: command.disk.to_string(),
        });
    }
    if kernel.host.mount_at(&command.target)?.is_some() {
        let there = match kernel.host.block_node_at(&command.target)? {
            Some(devno) => kernel.host.device_by_number(devno)?,
            None => None,
        };
        match there {
            Some(there) if there.devno == device.devno => return Ok(()),
            Some(other) => return Err(taken(command, &other, device)),
            None => clear_dead(kernel, command)?,
        }
    }
    single_writer(kernel, command, staged)?;
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
    kernel.unmount_verified(&command.disk, &command.target)
}

/// ReadWriteOncePod: one target at a time (CSI specification, SINGLE_NODE_SINGLE_WRITER).
fn single_writer(kernel: &Kernel, command: &Publish, staged: &Staged) -> Result<(), NodeError> {
    if command.capability.mode != Mode::SingleNodeSingleWriter {
        return Ok(());
    }
    // The caller has seen that nothing of this volume is at the target itself.
    let others = kernel.targets(staged)?;
    if others.is_empty() {
        return Ok(());
    }
    Err(NodeError::SecondTarget {
        volume: command.disk.to_string(),
        at: names(&others),
    })
}
