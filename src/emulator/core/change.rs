//! Changes in flight: they wait their time, are carried out behind the books, then completed in them.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use super::super::actions::is_name;
use super::super::backend::BackendError;
use super::super::code::Code;
use super::super::config::BackendKind;
use super::super::state::{Change, DiskRecord, Refusal, duplicate};
use super::{Core, Live, timestamp};

impl Core {
    /// Lets a change that is in the books take its time, then carries it out behind them and completes it there.
    pub(super) fn begin(
        self: &Arc<Self>,
        live: &mut Live,
        disk: &str,
        change: Change,
        wait: Duration,
        event: u64,
    ) {
        let number = live.track(disk);
        let (core, disk) = (Arc::clone(self), disk.to_owned());
        self.tasks.spawn(async move {
            let over = async {
                // The timer's tick would make a millisecond of nothing.
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
            };
            tokio::select! {
                biased;
                () = core.stop.cancelled() => {}
                () = over => core.complete(&disk, change, number, event).await,
            }
        });
    }

    async fn complete(&self, disk: &str, change: Change, number: u64, event: u64) {
        let current = || {
            let live = self.live();
            let disk = live.state.disks.get(disk).cloned();
            disk.filter(|disk| live.is_current(&disk.name, number))
        };
        let Some(record) = current() else { return };
        let lock = self.lock_of(&record);
        let held = lock.lock().await;
        let Some(record) = current() else { return };
        let result = self.carry_out(&record, change).await;
        let done_ms = self.now_ms();
        let mut live = self.live();
        if !live.is_current(disk, number) {
            // Its VM was deleted meanwhile; the books have another change for the disk, which waits for the lock.
            return;
        }
        live.in_flight.remove(disk);
        match result {
            Ok(()) => {
                live.state.finish(disk);
            }
            Err(error) => {
                tracing::error!(%error, %disk, ?change, "the disk behind the books failed");
                let holder = record.attachment.as_ref().map(|at| &at.vm);
                if holder.is_some_and(|vm| !live.state.vms.contains_key(vm)) {
                    // Nothing can be plugged into a VM that is gone.
                    live.state.finish(disk);
                } else {
                    live.state.abandon(disk);
                }
            }
        }
        live.complete(event, done_ms);
        self.save(&mut live.state);
        let gone = !live.state.disks.contains_key(disk);
        drop(live);
        drop(held);
        if gone {
            self.locks().remove(&record.unique_id);
        }
    }

    fn locks(&self) -> MutexGuard<'_, HashMap<String, Arc<tokio::sync::Mutex<()>>>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_of(&self, disk: &DiskRecord) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.locks().entry(disk.unique_id.clone()).or_default())
    }

    async fn carry_out(&self, disk: &DiskRecord, change: Change) -> Result<(), BackendError> {
        let place = disk.attachment.as_ref();
        match (change, place) {
            (Change::Create | Change::Attach, Some(at)) => {
                self.backend.attach(disk, &at.vm, at.target).await
            }
            (Change::Detach, Some(at)) => self.backend.detach(disk, &at.vm, at.target).await,
            (Change::Extend, _) => self.backend.extend(disk, disk.size + 100).await,
            (Change::Delete, Some(at)) => {
                // Its VM was deleted, and the disk with it.
                self.backend.detach(disk, &at.vm, at.target).await?;
                self.backend.delete(disk).await
            }
            (Change::Delete, None) => self.backend.delete(disk).await,
            (Change::Create | Change::Attach | Change::Detach, None) => Ok(()),
        }
    }

    /// After a start: plugs what the books say is plugged, and resumes what was in flight.
    pub(in super::super) async fn resume(self: &Arc<Self>) -> Result<(), BackendError> {
        let disks: Vec<DiskRecord> = self.live().state.disks.values().cloned().collect();
        self.backend.restore(&disks).await?;
        for disk in &disks {
            if let (None, Some(at)) = (&disk.change, &disk.attachment) {
                self.backend.attach(disk, &at.vm, at.target).await?;
            }
        }
        let mut live = self.live();
        for disk in &disks {
            if let Some(change) = disk.change {
                let wait = self.config.latency.of_change(change);
                self.begin(&mut live, &disk.name, change, wait, 0);
            }
        }
        Ok(())
    }

    /// See [`super::super::Control::put_disk`].
    pub(in super::super) fn put_disk(
        self: &Arc<Self>,
        mut disk: DiskRecord,
    ) -> Result<(), Refusal> {
        let mut live = self.live();
        let books = &mut live.state;
        if !is_name(&disk.name, 32) {
            let message = format!("The name '{}' is invalid.", disk.name);
            return Err(Refusal::new(Code::InvalidVolumeId, message));
        }
        if books.disks.contains_key(&disk.name) {
            return Err(duplicate(&disk.name));
        }
        let holder = disk.attachment.take().map(|at| at.vm);
        if let Some(vm) = &holder {
            books.free_target(vm)?;
            if disk.zone.is_empty() {
                disk.zone.clone_from(&books.vm(vm)?.zone);
            }
        }
        if disk.zone.is_empty() {
            let message = "A disk that is not attached needs a zone.";
            return Err(Refusal::new(Code::MissingParameter, message));
        }
        if disk.unique_id.is_empty() {
            disk.unique_id = books.unique_id("vol");
        }
        if disk.created.is_empty() {
            disk.created = timestamp();
        }
        disk.change = None;
        let name = disk.name.clone();
        books.insert_disk(disk);
        if let Some(vm) = holder {
            books.begin_attach(&name, &vm, &timestamp(), Change::Attach)?;
            if self.config.backend == BackendKind::None {
                books.finish(&name);
            } else {
                self.begin(&mut live, &name, Change::Attach, Duration::ZERO, 0);
            }
        }
        self.save(&mut live.state);
        Ok(())
    }

    /// Removes a VM with what is in flight on it.
    pub(in super::super) fn delete_vm(self: &Arc<Self>, name: &str) -> Result<(), Refusal> {
        let mut live = self.live();
        let freed = live.state.delete_vm(name)?;
        let change = if live.switches.disks_die_with_vm {
            Change::Delete
        } else {
            Change::Detach
        };
        for disk in freed {
            live.in_flight.remove(&disk);
            if let Some(record) = live.state.disk_mut(&disk) {
                record.change = Some(change);
            }
            if self.config.backend == BackendKind::None {
                live.state.finish(&disk);
            } else {
                self.begin(&mut live, &disk, change, Duration::ZERO, 0);
            }
        }
        self.save(&mut live.state);
        Ok(())
    }

    /// Renames a VM and what its disks are found under.
    pub(in super::super) fn rename_vm(&self, from: &str, to: &str) -> Result<(), Refusal> {
        let mut live = self.live();
        live.state.rename_vm(from, to)?;
        self.backend.rename_vm(from, to);
        self.save(&mut live.state);
        Ok(())
    }

    /// Plugs the disks that the books show on a VM.
    pub(in super::super) async fn replug(&self, vm: &str) -> Result<(), BackendError> {
        let disks: Vec<DiskRecord> = self.live().state.disks.values().cloned().collect();
        for disk in disks {
            if let Some(at) = disk.attachment.as_ref().filter(|at| at.vm == vm) {
                self.backend.attach(&disk, &at.vm, at.target).await?;
            }
        }
        Ok(())
    }
}
