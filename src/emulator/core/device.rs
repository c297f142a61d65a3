//! Devices that do not what the books say, on demand.

use super::super::backend::BackendError;
use super::super::devices::DeviceFaults;
use super::super::state::{AttachmentRecord, DiskRecord};
use super::Core;

impl Core {
    fn attached(&self, name: &str) -> Result<(DiskRecord, AttachmentRecord), BackendError> {
        let failed = |reason| BackendError::new(format!("use the device of {name}"), reason);
        let disk = self.live().state.disks.get(name).cloned();
        let disk = disk.ok_or_else(|| failed("there is no such disk"))?;
        let at = disk.attachment.clone();
        let at = at.ok_or_else(|| failed("the disk is not attached"))?;
        Ok((disk, at))
    }

    pub(in super::super) fn device_faults(&self, name: &str) -> DeviceFaults {
        self.backend.faults(name)
    }

    pub(in super::super) async fn set_device_faults(
        &self,
        name: &str,
        faults: Option<DeviceFaults>,
    ) -> Result<(), BackendError> {
        let disk = self.live().state.disks.get(name).cloned();
        let lock = disk.as_ref().map(|disk| self.lock_of(disk));
        let _held = match &lock {
            Some(lock) => Some(lock.lock().await),
            None => None,
        };
        self.backend.set_faults(name, faults, disk.as_ref()).await
    }

    pub(in super::super) async fn pull(
        &self,
        name: &str,
        silent: bool,
    ) -> Result<(), BackendError> {
        let (disk, _) = self.attached(name)?;
        let lock = self.lock_of(&disk);
        let _held = lock.lock().await;
        self.backend.pull(&disk, silent).await
    }

    pub(in super::super) async fn put(&self, name: &str, silent: bool) -> Result<(), BackendError> {
        let (disk, at) = self.attached(name)?;
        let lock = self.lock_of(&disk);
        let _held = lock.lock().await;
        self.backend.put(&disk, &at.vm, at.target, silent).await
    }

    pub(in super::super) async fn swap(
        &self,
        one: &str,
        other: &str,
        silent: bool,
    ) -> Result<(), BackendError> {
        let ((one, at_one), (other, at_other)) = (self.attached(one)?, self.attached(other)?);
        let _held = self.lock_both(&one, &other).await?;
        self.backend.pull(&one, silent).await?;
        self.backend.pull(&other, silent).await?;
        let (vm, target) = (&at_other.vm, at_other.target);
        self.backend.put(&one, vm, target, silent).await?;
        let (vm, target) = (&at_one.vm, at_one.target);
        self.backend.put(&other, vm, target, silent).await
    }

    pub(in super::super) async fn replace(
        &self,
        old: &str,
        new: &str,
        silent: bool,
    ) -> Result<(), BackendError> {
        let ((old, at), (new, _)) = (self.attached(old)?, self.attached(new)?);
        let _held = self.lock_both(&old, &new).await?;
        self.backend.pull(&old, silent).await?;
        self.backend.pull(&new, silent).await?;
        self.backend.put(&new, &at.vm, at.target, silent).await
    }

    async fn lock_both(
        &self,
        one: &DiskRecord,
        other: &DiskRecord,
    ) -> Result<[tokio::sync::OwnedMutexGuard<()>; 2], BackendError> {
        if one.unique_id == other.unique_id {
            let what = format!("use the device of {}", one.name);
            return Err(BackendError::new(what, "two different disks are needed"));
        }
        // In one order, whoever asks.
        let (first, second) = if one.unique_id < other.unique_id {
            (one, other)
        } else {
            (other, one)
        };
        let first = self.lock_of(first).lock_owned().await;
        Ok([first, self.lock_of(second).lock_owned().await])
    }
}
