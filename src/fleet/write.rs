//! The fleet's writes and the wait for their end.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::bucket::Class;
use super::tracker::Missed;
use super::{Fleet, FleetError, Operation, Paid, Turn};
use crate::cloud::CallError;
use crate::domain::disk::{Accounting, Disk, NewDisk};
use crate::domain::id::{DiskName, VmName};

/// An accepted operation that nobody waited for is forgotten after this time.
const FORGET: Duration = Duration::from_secs(900);
const FORGET_ABOVE: usize = 1024;

/// When the API accepted which operation of this process.
#[derive(Debug, Default)]
pub(super) struct Accepted(Mutex<HashMap<DiskName, (Operation, Instant)>>);

impl Accepted {
    fn note(&self, disk: &DiskName, operation: Operation) {
        let now = Instant::now();
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if table.len() > FORGET_ABOVE {
            table.retain(|_, (_, then)| now.saturating_duration_since(*then) < FORGET);
        }
        table.insert(disk.clone(), (operation, now));
    }

    fn take(&self, disk: &DiskName, operation: Operation) -> Option<Instant> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (accepted, at) = table.remove(disk)?;
        (accepted == operation).then_some(at)
    }
}

/// How long the read that ended a creation may stand for a read of its own. Shorter than any operation of the cloud that
/// could take the disk away.
const JUST_MADE: Duration = Duration::from_secs(2);

/// Disks as they were when this process saw them made.
#[derive(Debug, Default)]
pub(super) struct Made(Mutex<HashMap<DiskName, (Disk, Instant)>>);

impl Made {
    fn note(&self, disk: &Disk) {
        let now = Instant::now();
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.retain(|_, (_, then)| now.saturating_duration_since(*then) < JUST_MADE);
        table.insert(disk.name.clone(), (disk.clone(), now));
    }

    fn take(&self, disk: &DiskName) -> Option<Disk> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (disk, then) = table.remove(disk)?;
        (then.elapsed() < JUST_MADE).then_some(disk)
    }
}

/// What a write is and whom it concerns.
struct Write<'a> {
    action: &'static str,
    class: Class,
    disk: &'a DiskName,
    operation: Option<Operation>,
    until: Until,
}

/// How long a call may be repeated.
#[derive(Clone)]
pub struct Until {
    deadline: Instant,
    wanted: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
}

impl Until {
    /// Until `deadline`, as long as `wanted` says yes.
    pub fn wanted(deadline: Instant, wanted: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self {
            deadline,
            wanted: Some(Arc::new(wanted)),
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(super) fn is_over(&self) -> bool {
        let wanted = self.wanted.as_ref().is_none_or(|wanted| wanted());
        !wanted || Instant::now() >= self.deadline
    }
}

impl From<Instant> for Until {
    fn from(deadline: Instant) -> Self {
        Self {
            deadline,
            wanted: None,
        }
    }
}

impl fmt::Debug for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Until")
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl Fleet {
    /// `CreateVolume`. The caller holds the anchor's [`Turn`].
    ///
    /// # Errors
    /// [`FleetError`]; an unknown outcome is not repeated.
    pub async fn create(
        &self,
        _turn: &Turn,
        disk: &NewDisk,
        until: impl Into<Until>,
    ) -> Result<(), FleetError> {
        let write = Write {
            action: "CreateVolume",
            class: Class::Bring,
            disk: &disk.name,
            operation: Some(Operation::Create),
            until: until.into(),
        };
        self.write(write, || self.api.cloud.create_disk(disk))
            .await?;
        self.disk_reads.exists(&disk.name);
        self.placed(&disk.name, &disk.anchor);
        Ok(())
    }

    /// The disk as the read showed it that ended its creation by this process, a moment ago and before any other write of
    /// this process on it; once. A claim is published right after it was made, and this saves the claim a call: good
    /// enough where the next step is sound whatever happened since and is followed by a read.
    #[must_use]
    pub fn just_made(&self, disk: &DiskName) -> Option<Disk> {
        self.made.take(disk)
    }

    /// `AttachVolume`, sent once. The caller holds the VM's [`Turn`] and has read the disk since it paid.
    ///
    /// # Errors
    /// [`FleetError::Call`]; nothing is repeated, as the disk may be wanted elsewhere meanwhile.
    pub async fn attach(
        &self,
        _turn: &Turn,
        paid: Paid,
        disk: &DiskName,
        vm: &VmName,
    ) -> Result<(), FleetError> {
        let call = || self.api.cloud.attach_disk(disk, vm);
        let sent = self.api.write_once("AttachVolume", paid, call);
        self.noted(disk, Some(Operation::Attach), async { Ok(sent.await?) })
            .await?;
        self.placed(disk, vm);
        Ok(())
    }

    /// `DetachVolume`, sent once. The caller holds the VM's [`Turn`] and has read the disk since it paid.
    ///
    /// # Errors
    /// [`FleetError::Call`]; nothing is repeated, as the disk may have become somebody else's meanwhile.
    pub async fn detach(
        &self,
        _turn: &Turn,
        paid: Paid,
        disk: &DiskName,
        vm: &VmName,
    ) -> Result<(), FleetError> {
        let call = || self.api.cloud.detach_disk(disk, vm);
        let sent = self.api.write_once("DetachVolume", paid, call);
        self.noted(disk, Some(Operation::Detach), async { Ok(sent.await?) })
            .await
    }

    /// `ExtendVolumeSize`: +100 GiB, sent once. The caller holds the VM's [`Turn`] and has read the size since it paid.
    ///
    /// # Errors
    /// [`FleetError::Call`]; nothing is repeated, as somebody else may have grown the disk meanwhile.
    pub async fn extend(
        &self,
        _turn: &Turn,
        paid: Paid,
        disk: &DiskName,
    ) -> Result<(), FleetError> {
        let call = || self.api.cloud.extend_disk(disk);
        let sent = self.api.write_once("ExtendVolumeSize", paid, call);
        self.noted(disk, Some(Operation::Extend), async { Ok(sent.await?) })
            .await
    }

    /// `DeleteVolume`.
    ///
    /// # Errors
    /// [`FleetError`]; an unknown outcome is not repeated.
    pub async fn delete(&self, disk: &DiskName, until: impl Into<Until>) -> Result<(), FleetError> {
        let write = Write {
            action: "DeleteVolume",
            class: Class::Take,
            disk,
            operation: Some(Operation::Delete),
            until: until.into(),
        };
        self.write(write, || self.api.cloud.delete_disk(disk)).await
    }

    /// `ModifyVolumeAttribute` with `description`, sent once. The caller knows what the description is.
    ///
    /// # Errors
    /// [`FleetError::Call`]; nothing is repeated, as the journal may have moved on meanwhile.
    pub async fn describe(
        &self,
        paid: Paid,
        disk: &DiskName,
        description: &str,
    ) -> Result<(), FleetError> {
        let call = || self.api.cloud.set_description(disk, description);
        let sent = self.api.write_once("ModifyVolumeAttribute", paid, call);
        self.noted(disk, None, async { Ok(sent.await?) }).await
    }

    /// `ModifyVolumeAttribute` with `accountingType`. Setting the same value twice is harmless.
    ///
    /// # Errors
    /// [`FleetError`]; an unknown outcome is not repeated.
    pub async fn set_accounting(
        &self,
        disk: &DiskName,
        accounting: Accounting,
        until: impl Into<Until>,
    ) -> Result<(), FleetError> {
        let write = Write {
            action: "ModifyVolumeAttribute",
            class: Class::Bring,
            disk,
            operation: Some(Operation::Modify),
            until: until.into(),
        };
        self.write(write, || self.api.cloud.set_accounting(disk, accounting))
            .await
    }

    /// Waits until the disk, read after this call, satisfies `until` (`None`: it does not exist). The first look
    /// comes when the operation is expected to be over, if this process has just started it.
    ///
    /// # Errors
    /// [`FleetError::Deadline`] with the last state seen; read errors that may pass are waited out.
    pub async fn wait<P>(
        &self,
        name: &DiskName,
        operation: Operation,
        deadline: Instant,
        until: P,
    ) -> Result<Option<Disk>, FleetError>
    where
        P: Fn(Option<&Disk>) -> bool + Send + Sync + 'static,
    {
        let accepted = self.accepted.take(name, operation);
        let seen = self
            .disk_reads
            .wait(name, operation, accepted, deadline, Box::new(until))
            .await;
        match seen {
            Ok(disk) => {
                self.snapshot.wrote();
                self.left(name, disk.as_ref());
                if let Some(disk) = disk.as_ref().filter(|_| operation == Operation::Create) {
                    self.made.note(disk);
                }
                Ok(disk)
            }
            Err(Missed::Failed(error)) => Err(error.into()),
            Err(Missed::Late(last)) => Err(FleetError::Deadline {
                what: format!("{operation:?} of disk {name}"),
                last: last.map_or_else(String::new, |last| format!("; last seen: {last}")),
            }),
        }
    }

    async fn write<R>(&self, write: Write<'_>, call: impl FnMut() -> R) -> Result<(), FleetError>
    where
        R: Future<Output = Result<(), CallError>>,
    {
        let (disk, operation) = (write.disk, write.operation);
        let sent = self
            .api
            .write(write.action, write.class, disk, &write.until, call);
        self.noted(disk, operation, sent).await
    }

    /// Keeps the snapshots honest about a write.
    async fn noted<W>(
        &self,
        disk: &DiskName,
        operation: Option<Operation>,
        sent: W,
    ) -> Result<(), FleetError>
    where
        W: Future<Output = Result<(), FleetError>>,
    {
        // Also when this future is dropped: the call may have been carried out.
        let _ended = Ended(self);
        self.snapshot.wrote();
        self.made.take(disk);
        let answer = sent.await;
        match (&answer, operation) {
            (Ok(()), Some(operation)) => self.accepted.note(disk, operation),
            (Err(FleetError::Call(error)), Some(_)) if error.outcome_unknown() => {
                self.machines.wrote();
            }
            (Ok(()) | Err(_), _) => {}
        }
        answer
    }

    /// The disk occupies a slot of the VM from now on.
    fn placed(&self, disk: &DiskName, vm: &VmName) {
        let (disk, name) = (disk.clone(), vm.clone());
        self.machines.change(move |vms| {
            if let Some(vm) = vms.iter_mut().find(|vm| vm.name == name)
                && !vm.disks.contains(&disk)
            {
                vm.disks.push(disk.clone());
            }
        });
    }

    /// The disk has been seen where it is: it occupies no slot of any other VM.
    fn left(&self, name: &DiskName, disk: Option<&Disk>) {
        let (name, holder) = (name.clone(), disk.and_then(Disk::holder).cloned());
        self.machines.change(move |vms| {
            for vm in vms
                .iter_mut()
                .filter(|vm| Some(&vm.name) != holder.as_ref())
            {
                vm.disks.retain(|other| *other != name);
            }
        });
    }
}

/// Marks the end of a write.
struct Ended<'a>(&'a Fleet);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.snapshot.wrote();
    }
}
