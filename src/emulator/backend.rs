//! What stands behind a disk: nothing, a loop device, a disk of a QEMU VM.

mod loop_device;
mod qemu;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use thiserror::Error;

use super::config::{BackendKind, Config};
use super::devices::DeviceFaults;
use super::state::DiskRecord;

/// Makes the books true. Every method may be called again after a restart and then finds its work done.
#[async_trait]
pub(super) trait Backend: Send + Sync + std::fmt::Debug {
    /// Plugs the disk into the VM at this SCSI target; makes its image if there is none.
    async fn attach(&self, disk: &DiskRecord, vm: &str, target: u8) -> Result<(), BackendError>;
    /// Takes it out again.
    async fn detach(&self, disk: &DiskRecord, vm: &str, target: u8) -> Result<(), BackendError>;
    /// Gives the image `gib`, and the device, if it is plugged.
    async fn extend(&self, disk: &DiskRecord, gib: u32) -> Result<(), BackendError>;
    /// Removes the image.
    async fn delete(&self, disk: &DiskRecord) -> Result<(), BackendError>;
    /// After a start, before disks are plugged again: removes what an emulator that was killed left behind.
    async fn restore(&self, _disks: &[DiskRecord]) -> Result<(), BackendError> {
        Ok(())
    }
    /// How the device of a disk of this name misbehaves.
    fn faults(&self, _disk: &str) -> DeviceFaults {
        DeviceFaults::default()
    }
    /// Makes devices of disks of this name misbehave from their next plugging on (`"*"`: all that have no faults of
    /// their own), and this one at once where that can be.
    async fn set_faults(
        &self,
        _name: &str,
        _faults: Option<DeviceFaults>,
        _disk: Option<&DiskRecord>,
    ) -> Result<(), BackendError> {
        Err(no_faults())
    }
    /// Takes a device out behind the books.
    async fn pull(&self, _disk: &DiskRecord, _silent: bool) -> Result<(), BackendError> {
        Err(no_faults())
    }
    /// Plugs a device that was pulled, wherever it is asked to.
    async fn put(
        &self,
        _disk: &DiskRecord,
        _vm: &str,
        _target: u8,
        _silent: bool,
    ) -> Result<(), BackendError> {
        Err(no_faults())
    }
    /// A VM has another name now.
    fn rename_vm(&self, _from: &str, _to: &str) {}
    /// Lets go of devices when the emulator stops; images stay.
    fn release(&self) {}
}

/// Why the disk behind the books failed.
#[derive(Debug, Clone, Error)]
#[error("cannot {action}: {reason}")]
pub struct BackendError {
    pub(super) action: String,
    pub(super) reason: String,
}

impl BackendError {
    pub(super) fn new(action: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self {
            action: action.into(),
            reason: reason.to_string(),
        }
    }
}

fn no_faults() -> BackendError {
    BackendError::new("break a device", "only the qmp backend can")
}

/// No disk at all.
#[derive(Debug)]
struct Nothing;

#[async_trait]
impl Backend for Nothing {
    async fn attach(&self, _: &DiskRecord, _: &str, _: u8) -> Result<(), BackendError> {
        Ok(())
    }
    async fn detach(&self, _: &DiskRecord, _: &str, _: u8) -> Result<(), BackendError> {
        Ok(())
    }
    async fn extend(&self, _: &DiskRecord, _: u32) -> Result<(), BackendError> {
        Ok(())
    }
    async fn delete(&self, _: &DiskRecord) -> Result<(), BackendError> {
        Ok(())
    }
}

/// The backend that a checked configuration names.
pub(super) fn open(config: &Config) -> Result<Arc<dyn Backend>, BackendError> {
    let images = || -> Result<PathBuf, BackendError> {
        let dir = config.data_dir.clone().unwrap_or_default().join("disks");
        std::fs::create_dir_all(&dir)
            .map_err(|e| BackendError::new(format!("make {}", dir.display()), e))?;
        Ok(dir)
    };
    Ok(match config.backend {
        BackendKind::None => Arc::new(Nothing),
        BackendKind::Loop => {
            let devices = config.device_dir.clone().unwrap_or_default();
            let vms = config.vms.iter().map(|vm| vm.name.as_str());
            Arc::new(loop_device::LoopDevices::open(&images()?, devices, vms)?)
        }
        BackendKind::Qmp => {
            let sockets = config
                .vms
                .iter()
                .filter_map(|vm| Some((vm.name.clone(), vm.qmp.clone()?)));
            Arc::new(qemu::Qemu::new(images()?, sockets.collect()))
        }
    })
}

/// Makes or grows a sparse image file. Never shrinks one.
pub(super) fn size_image(path: &std::path::Path, gib: u32) -> Result<(), BackendError> {
    let failed = |e: std::io::Error| BackendError::new(format!("size {}", path.display()), e);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(failed)?;
    let bytes = u64::from(gib) << 30;
    if file.metadata().map_err(failed)?.len() < bytes {
        file.set_len(bytes).map_err(failed)?;
    }
    Ok(())
}

/// Removes a file; a missing one is success.
pub(super) fn remove_file(path: &std::path::Path) -> Result<(), BackendError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(BackendError::new(format!("remove {}", path.display()), e))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
