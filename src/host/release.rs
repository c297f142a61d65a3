//! Taking a disk out of the kernel before the cloud detaches it. The computing API asks for it: a disk that is
//! pulled while the guest knows it leaves a dead device that the next disk in this slot inherits.

use std::time::{Duration, Instant};

use super::device::{self, Kernel, Open};
use super::mount::Table;
use super::sysfs::Scsi;
use super::wait::{Backoff, millis};
use super::{BlockDevice, HostError};

/// What release needs.
#[derive(Debug)]
pub(super) struct Leave<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) scsi: &'a Scsi,
    pub(super) table: &'a Table,
}

impl Leave<'_> {
    /// Waits for the last user, flushes, deletes the SCSI device, and sees it gone.
    pub(super) fn release(&self, target: &BlockDevice, deadline: Instant) -> Result<(), HostError> {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(500));
        while let Err(busy) = self.quiet(target) {
            if !matches!(busy, HostError::Busy { .. }) || !backoff.pause(deadline) {
                return Err(busy);
            }
        }
        let Some(directory) = self.kernel.directory(target.devno) else {
            return Ok(());
        };
        let delete = directory.join("device/delete");
        if !delete.exists() {
            // A loop device: its maker takes it away.
            return Ok(());
        }
        self.scsi.set(&delete, "1", "delete the SCSI device")?;
        let started = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(200));
        // The number may be given to another disk at once: what counts is that this directory's device is gone.
        while self.kernel.directory(target.devno).as_ref() == Some(&directory) && delete.exists() {
            if !backoff.pause(deadline) {
                return Err(HostError::TimedOut {
                    what: format!("removal of {:?} from the kernel", target.path),
                    limit_ms: millis(started.elapsed()),
                });
            }
        }
        Ok(())
    }

    /// Nobody uses it and nothing is left to write, or it is gone.
    fn quiet(&self, target: &BlockDevice) -> Result<(), HostError> {
        let Some(directory) = self.kernel.directory(target.devno) else {
            return Ok(());
        };
        if self.kernel.device(target.devno, None).is_none() {
            // No medium: a loop device without a file, a dead disk of size 0. Nothing can be flushed.
            return Ok(());
        }
        let mut users: Vec<_> = (self.table.mounts()?.of(target.devno).into_iter())
            .map(|entry| format!("a mount on {:?}", entry.target))
            .collect();
        users.extend(device::holders(&directory));
        if !users.is_empty() {
            return Err(HostError::Busy {
                path: target.path.clone(),
                users: users.join(", "),
            });
        }
        let file = match device::open(target, Open::Exclusive) {
            Err(HostError::Io {
                errno: Some(errno), ..
            }) if errno == nix::libc::EROFS || errno == nix::libc::EACCES => {
                // A write-protected disk has nothing to flush.
                device::open(target, Open::Read)?
            }
            Err(HostError::Io {
                errno: Some(errno), ..
            }) if gone(errno) => return Ok(()),
            other => other?,
        };
        match device::flush(&file, target) {
            // The disk was pulled already; what it did not get is lost, and waiting does not bring it back.
            Err(HostError::Io { .. }) if self.kernel.directory(target.devno).is_none() => Ok(()),
            other => other,
        }
    }
}

fn gone(errno: i32) -> bool {
    matches!(
        errno,
        nix::libc::ENXIO | nix::libc::ENODEV | nix::libc::ENOENT
    )
}
