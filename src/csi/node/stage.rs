//! NodeStageVolume: from a slot to a mounted file system or a bound device node.

use std::time::{Duration, Instant};

use super::command::Stage;
use super::error::NodeError;
use super::kernel::{Kernel, Staged, block_node, is_file_system};
use super::prepare::{self, Carried};
use super::records::Record;
use crate::domain::capability::{Access, FsType};
use crate::host::{BlockDevice, CheckOutcome, DeviceFacts, HostError, Identity, Mounts};

/// What the proof found out about the disk.
#[derive(Debug)]
pub(super) struct Proof {
    pub(super) identity: Identity,
    /// The file system is mounted already, at a publish target: it must not be checked or grown unmounted.
    pub(super) mounted: bool,
}

/// How long a mount table counts as the present: when the disk had to be waited for, it is read again.
const MOMENT: Duration = Duration::from_millis(100);

pub(super) fn stage(kernel: &Kernel, command: &Stage, deadline: Instant) -> Result<(), NodeError> {
    let began = Instant::now();
    let mut mounts = kernel.host.mounts()?;
    if already_staged(kernel, command, &mut mounts)? {
        return Ok(());
    }
    let device = kernel.host.find_device(command.at, deadline)?;
    if began.elapsed() > MOMENT {
        mounts = kernel.host.mounts()?;
    }
    let proof = prove(kernel, command, &device, &mounts)?;
    let block = command.capability.access == Access::Block;
    let record = Record::new(
        &command.disk,
        &command.staging,
        block,
        command.at,
        device.devno,
        proof.identity.serial.clone(),
        kernel.records.boot(),
    );
    kernel.records.store(&command.disk, &record)?;
    let result = match &command.capability.access {
        Access::Block => stage_block(kernel, command, &device),
        Access::Mount { fs, flags } => stage_mount(kernel, command, &device, &proof, *fs, flags),
    };
    if let Err(error) = &result
        && settled(error)
        && kernel.staged(&command.disk, &command.staging)? == Staged::Nothing
    {
        kernel.records.remove(&command.disk)?;
    }
    result
}

/// After a final error the CO does not call NodeUnstageVolume: nothing may be left for it to do.
fn settled(error: &NodeError) -> bool {
    use tonic::Code::{Aborted, Cancelled, DeadlineExceeded, Unavailable};
    !matches!(
        error.verdict().0,
        Aborted | Cancelled | DeadlineExceeded | Unavailable
    )
}

/// Whether the volume's own device is at the staging path. A mount of a device that is gone is cleared, and `mounts` is then
/// the table of afterwards.
fn already_staged(
    kernel: &Kernel,
    command: &Stage,
    mounts: &mut Mounts,
) -> Result<bool, NodeError> {
    let staged = kernel.staged_in(mounts, &command.disk, &command.staging)?;
    let path = match &staged {
        Staged::Nothing => return Ok(false),
        Staged::Mount { .. } => command.staging.clone(),
        Staged::Block { node, .. } => node.clone(),
    };
    let Some(device) = staged.device() else {
        if let Staged::Mount { entry, .. } = &staged
            && !is_file_system(entry)
        {
            return Err(NodeError::PathTaken {
                path,
                volume: command.disk.to_string(),
                found: format!("{} ({})", entry.source, entry.fs_type),
                expected: format!("the disk in slot {}", command.at),
            });
        }
        tracing::warn!(?path, "clearing a mount whose device is gone");
        *mounts = kernel.unmount_verified(&command.disk, &path)?;
        return Ok(false);
    };
    let in_slot = kernel.host.device_at(command.at)?;
    if in_slot.as_ref().map(|found| found.devno) != Some(device.devno) {
        return Err(NodeError::PathTaken {
            path,
            volume: command.disk.to_string(),
            found: format!("device {}, which is alive", device.devno),
            expected: in_slot.map_or_else(
                || format!("a disk in slot {}, which is empty", command.at),
                |found| format!("device {} in slot {}", found.devno, command.at),
            ),
        });
    }
    compatible(command, &staged)?;
    kernel.look_anew(&command.disk, device)?;
    if let Staged::Mount { entry, .. } = &staged
        && let Access::Mount { fs, .. } = &command.capability.access
    {
        grow(kernel, command, device, *fs, entry.read_only())?;
    }
    Ok(true)
}

fn compatible(command: &Stage, staged: &Staged) -> Result<(), NodeError> {
    let found = match (&command.capability.access, staged) {
        (Access::Mount { fs, .. }, Staged::Mount { entry, .. }) => {
            if entry.fs_type == fs.name() {
                return Ok(());
            }
            entry.fs_type.clone()
        }
        (Access::Block, Staged::Block { .. }) | (_, Staged::Nothing) => return Ok(()),
        (Access::Block, Staged::Mount { entry, .. }) => entry.fs_type.clone(),
        (Access::Mount { .. }, Staged::Block { .. }) => "raw block".to_owned(),
    };
    let asked = match &command.capability.access {
        Access::Mount { fs, .. } => fs.to_string(),
        Access::Block => "raw block".to_owned(),
    };
    Err(NodeError::Incompatible {
        volume: command.disk.to_string(),
        path: command.staging.clone(),
        found,
        asked,
    })
}

/// The disk is writable as asked, large enough, and nobody else's.
fn prove(
    kernel: &Kernel,
    command: &Stage,
    device: &BlockDevice,
    mounts: &Mounts,
) -> Result<Proof, NodeError> {
    let volume = || command.disk.to_string();
    let DeviceFacts {
        mut identity,
        read_only,
        holders,
    } = kernel.host.inspect(device)?;
    if read_only && !command.capability.mode.read_only() {
        return Err(NodeError::WriteProtected {
            device: device.path.clone(),
            volume: volume(),
        });
    }
    let used_by = |users: String| NodeError::InUse {
        device: device.path.clone(),
        volume: volume(),
        users,
    };
    if !holders.is_empty() {
        return Err(used_by(holders.join(", ")));
    }
    let mounts = mounts.of(device.devno);
    if let Some(stranger) = mounts.iter().find(|mount| !kernel.kubelets(&mount.target)) {
        return Err(used_by(format!("a mount at {}", stranger.target.display())));
    }
    if let Some(owner) = kernel.other_owner(&command.disk, device.devno)? {
        return Err(used_by(format!(
            "volume {}, staged at {}",
            owner.volume,
            owner.staging.display()
        )));
    }
    if let Some(expected) = command.size
        && identity.size < expected
    {
        identity.size = kernel.host.rescan(device)?;
        if identity.size < expected {
            return Err(HostError::StillSmall {
                device: device.path.clone(),
                actual: identity.size,
                expected,
            }
            .into());
        }
    }
    Ok(Proof {
        identity,
        mounted: !mounts.is_empty(),
    })
}

fn stage_block(kernel: &Kernel, command: &Stage, device: &BlockDevice) -> Result<(), NodeError> {
    let node = block_node(&command.staging, &command.disk);
    kernel.host.bind_device(device, &node)?;
    verify(kernel, command, device, &kernel.host.mounts()?)
}

fn stage_mount(
    kernel: &Kernel,
    command: &Stage,
    device: &BlockDevice,
    proof: &Proof,
    fs: FsType,
    flags: &[String],
) -> Result<(), NodeError> {
    let limit = kernel.config.timeouts.format;
    let read_only = command.capability.mode.read_only();
    let carried = prepare::content(kernel, command, device, proof, fs)?;
    let quiet = !read_only && !proof.mounted;
    if quiet && !carried.clean() {
        check(kernel, command, device, fs)?;
    }
    if quiet && !carried.full() && carried != Carried::Made {
        kernel
            .host
            .grow_unmounted(device, fs, Instant::now() + limit)?;
    }
    prepare::unchanged(kernel, command, device, &proof.identity)?;
    let mut options = flags.to_vec();
    if read_only && !options.iter().any(|option| option == "ro") {
        options.push("ro".to_owned());
    }
    let mounts = kernel.host.mount(device, &command.staging, fs, &options)?;
    let done = carried.full() || options.iter().any(|option| option == "ro");
    let grown = verify(kernel, command, device, &mounts)
        .and_then(|()| grow(kernel, command, device, fs, done));
    if grown.is_err() {
        kernel.unmount_verified(&command.disk, &command.staging)?;
    }
    grown
}

/// The disk may have grown while it was detached. Also at a repeated call: the one before may have been killed between
/// mounting and growing.
fn grow(
    kernel: &Kernel,
    command: &Stage,
    device: &BlockDevice,
    fs: FsType,
    done: bool,
) -> Result<(), NodeError> {
    if done || !matches!(fs, FsType::Xfs | FsType::Btrfs) {
        return Ok(());
    }
    let until = Instant::now() + kernel.config.timeouts.format;
    let at = &command.staging;
    Ok(kernel.host.grow_mounted(device, fs, at, until)?)
}

fn check(
    kernel: &Kernel,
    command: &Stage,
    device: &BlockDevice,
    fs: FsType,
) -> Result<(), NodeError> {
    let until = Instant::now() + kernel.config.timeouts.format;
    match kernel.host.check(device, fs, until)? {
        CheckOutcome::Clean | CheckOutcome::NotApplicable => {}
        CheckOutcome::Repaired(told) => {
            tracing::warn!(volume = %command.disk, device = ?device.path, told, "the file system was repaired");
        }
    }
    Ok(())
}

/// The kernel shows this device at the staging path.
fn verify(
    kernel: &Kernel,
    command: &Stage,
    device: &BlockDevice,
    mounts: &Mounts,
) -> Result<(), NodeError> {
    let (_, there) = kernel.staged_device(mounts, &command.disk, &command.staging, None)?;
    if there.devno == device.devno {
        return Ok(());
    }
    Err(NodeError::NotStaged {
        volume: command.disk.to_string(),
        staging: command.staging.clone(),
        found: format!("device {} instead of {}", there.devno, device.devno),
    })
}
