//! NodeUnstageVolume: the machine lets go of a disk, so that the cloud may take it away.
//!
//! The order makes each step repeatable: nothing is forgotten before the SCSI device is gone, so a call that was
//! killed anywhere is finished by the next one.

use std::path::PathBuf;
use std::time::Instant;

use super::command::Clear;
use super::error::NodeError;
use super::kernel::{Kernel, Staged, block_node, names};
use super::records::Record;
use crate::domain::id::DiskName;
use crate::host::{BlockDevice, Content, Mounts};

pub(super) fn unstage(kernel: &Kernel, command: &Clear) -> Result<(), NodeError> {
    let mut mounts = kernel.host.mounts()?;
    let staged = kernel.staged_in(&mounts, &command.disk, &command.path)?;
    let targets = Kernel::targets(&mounts, &staged);
    if !targets.is_empty() {
        return Err(NodeError::StillPublished {
            volume: command.disk.to_string(),
            at: names(&targets),
        });
    }
    let record = kernel.records.load(&command.disk)?;
    let device = match staged.device() {
        Some(device) => Some(device.clone()),
        None => left_over(kernel, &command.disk, record.as_ref())?,
    };
    match &staged {
        Staged::Nothing => {}
        Staged::Mount { .. } => mounts = kernel.unmount_verified(&command.disk, &command.path)?,
        Staged::Block { node, .. } => mounts = kernel.unmount_verified(&command.disk, node)?,
    }
    // Also after a crash between creating the file and binding the node.
    kernel
        .host
        .remove_target(&block_node(&command.path, &command.disk))?;
    if let Some(device) = device {
        release(kernel, &mounts, &command.disk, &device)?;
    }
    kernel.records.remove(&command.disk)
}

fn release(
    kernel: &Kernel,
    mounts: &Mounts,
    disk: &DiskName,
    device: &BlockDevice,
) -> Result<(), NodeError> {
    let left: Vec<PathBuf> = mounts
        .of(device.devno)
        .into_iter()
        .map(|mount| mount.target)
        .collect();
    if !left.is_empty() {
        return Err(NodeError::StillPublished {
            volume: disk.to_string(),
            at: names(&left),
        });
    }
    let until = Instant::now() + kernel.config.timeouts.release;
    Ok(kernel.host.release(device, until)?)
}

/// The device of a volume that is unmounted already but not released: what the record says, if it can be proved.
fn left_over(
    kernel: &Kernel,
    disk: &DiskName,
    record: Option<&Record>,
) -> Result<Option<BlockDevice>, NodeError> {
    let Some(record) = record else {
        return Ok(None);
    };
    let Some(device) = kernel.host.device_at(record.address())? else {
        return Ok(None);
    };
    let same_boot = kernel.records.current(record);
    if kernel.other_owner(disk, device.devno)?.is_some() {
        return Ok(None);
    }
    let serial = kernel.host.identify(&device)?.serial;
    let proved = match (&record.serial, &serial) {
        // Pulled and plugged again, it is still the volume's.
        (Some(then), Some(now)) => then == now,
        _ if same_boot => device.devno == record.devno(),
        // Without serial numbers only the stamp on the disk can tell after a reboot.
        _ => matches!(
            kernel.host.probe(&device)?,
            Content::Known { uuid: Some(uuid), .. } if uuid == disk.fs_uuid()
        ),
    };
    if !proved {
        tracing::warn!(
            volume = %disk, device = ?device.path,
            "the disk in the volume's slot is another one now; it is left alone"
        );
    }
    Ok(proved.then_some(device))
}
