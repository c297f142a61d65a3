//! NodeExpandVolume: the kernel learns the new size, then the file system fills it.

use std::path::PathBuf;
use std::time::Instant;

use super::command::Expand;
use super::error::NodeError;
use super::kernel::Kernel;
use crate::domain::capability::FsType;
use crate::domain::device::DevNo;
use crate::host::{HostError, MountEntry};

/// Grows the volume at the path; returns its size in bytes.
pub(super) fn expand(kernel: &Kernel, command: &Expand) -> Result<u64, NodeError> {
    let place = kernel.place(&command.disk, &command.path)?;
    let device = &place.device;
    let actual = kernel.look_anew(&command.disk, device)?;
    if actual < command.required {
        return Err(HostError::StillSmall {
            device: device.path.clone(),
            actual,
            expected: command.required,
        }
        .into());
    }
    if let Some(limit) = command.limit.filter(|limit| actual > *limit) {
        return Err(NodeError::AboveLimit {
            volume: command.disk.to_string(),
            actual,
            limit,
        });
    }
    if let Some(entry) = &place.entry {
        let fs = FsType::parse(&entry.fs_type).map_err(|_| NodeError::Incompatible {
            volume: command.disk.to_string(),
            path: command.path.clone(),
            found: entry.fs_type.clone(),
            asked: "a file system of this driver".to_owned(),
        })?;
        let at = writable(kernel, device.devno, entry)?;
        let until = Instant::now() + kernel.config.timeouts.format;
        kernel.host.grow_mounted(device, fs, &at, until)?;
    }
    Ok(actual)
}

/// A read-only bind is no place to grow a file system from; its staging mount is.
fn writable(kernel: &Kernel, devno: DevNo, entry: &MountEntry) -> Result<PathBuf, NodeError> {
    if !entry.read_only() {
        return Ok(entry.target.clone());
    }
    let other = kernel
        .host
        .mounts_of(devno)?
        .into_iter()
        .find(|mount| !mount.read_only());
    Ok(other.map_or_else(|| entry.target.clone(), |mount| mount.target))
}
