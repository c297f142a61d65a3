//! Shared reads, queued writes: everything the controller does to the cloud goes through here.
//!
//! ```text
//! verbs (csi::controller) --- turn(vm) ---> one queue per VM     one slow operation at a time, fair
//!        |   create/attach/detach/...  ---> token bucket ------> Cloud (port)
//!        |   wait(disk, until), disk() ---> tracker: one DescribeVolumes for all waiters
//!        `   disks(), vms(), slot()    ---> snapshots, invalidated by own writes
//! ```
//!
//! The fleet repeats only what is certainly safe: calls that were not sent, and calls that the API refused with
//! `Processing` or throttling. An unknown outcome is handed to the verb, which reads before it decides. Detach, extend
//! and the journal are sent once whatever comes back: they are right only as long as the last read is true.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

mod api;
mod batch;
mod bucket;
mod config;
#[cfg(test)]
mod fake;
mod kind;
mod learn;
mod load;
mod observer;
mod queue;
mod slots;
mod snapshot;
#[cfg(test)]
mod tests;
mod tracker;
mod write;

pub use self::api::Paid;
pub use self::bucket::Class;
pub use self::config::{FleetConfig, FleetConfigError};
pub use self::load::Reservation;
pub use self::observer::{Observer, Silent};
pub use self::queue::Turn;
pub use self::slots::Expected;
pub use self::write::Until;

use self::api::Api;
use self::kind::{Disks, Kind, Vms};
use self::load::Load;
use self::queue::Queues;
use self::slots::Slots;
use self::snapshot::Shared;
use self::tracker::Tracker;
use self::write::{Accepted, Made};
use crate::cloud::{CallError, Cloud};
use crate::domain::device::ScsiAddress;
use crate::domain::disk::{Disk, Vm};
use crate::domain::id::{DiskName, VmName};

/// A slow, asynchronous operation of the cloud; each kind has its own learned duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// CreateVolume until attached to its anchor.
    Create,
    /// AttachVolume until attached.
    Attach,
    /// DetachVolume until available.
    Detach,
    /// ExtendVolumeSize until attached again with the new size.
    Extend,
    /// DeleteVolume until not found.
    Delete,
    /// ModifyVolumeAttribute until readable.
    Modify,
}

/// Why the fleet gave up.
#[derive(Debug, Clone, Error)]
pub enum FleetError {
    /// The call failed for good, or its outcome is unknown ([`CallError::outcome_unknown`]).
    #[error(transparent)]
    Call(#[from] CallError),
    /// The deadline passed; the operation may still be running in the cloud.
    #[error("{what} did not finish in time; it may still be running, retry to join it{last}")]
    Deadline {
        /// What was waited for.
        what: String,
        /// The last thing seen, starting with "; " where there is one.
        last: String,
    },
}

/// All disks at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Sorted by name.
    pub disks: Vec<Disk>,
}

impl Snapshot {
    /// The disk of that name.
    #[must_use]
    pub fn find(&self, name: &DiskName) -> Option<&Disk> {
        let at = self.disks.binary_search_by(|disk| disk.name.cmp(name));
        at.ok().and_then(|index| self.disks.get(index))
    }
}

/// See the module's documentation.
pub struct Fleet {
    api: Arc<Api>,
    disk_reads: Tracker<Disks>,
    vm_reads: Tracker<Vms>,
    snapshot: Shared<Snapshot>,
    machines: Shared<Vec<Vm>>,
    slots: Slots,
    queues: Queues,
    load: Load,
    accepted: Accepted,
    made: Made,
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet")
            .field("api", &self.api)
            .finish_non_exhaustive()
    }
}

impl Fleet {
    /// A fleet over one cloud, with the default settings.
    #[must_use]
    pub fn new(cloud: Arc<dyn Cloud>) -> Self {
        Self::build(cloud, FleetConfig::default(), Arc::new(Silent))
    }

    /// A fleet with settings of its own that tells `observer` what it does.
    ///
    /// # Errors
    /// [`FleetConfigError`] for a setting out of its range.
    pub fn with(
        cloud: Arc<dyn Cloud>,
        config: FleetConfig,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, FleetConfigError> {
        config.validate()?;
        Ok(Self::build(cloud, config, observer))
    }

    fn build(cloud: Arc<dyn Cloud>, config: FleetConfig, observer: Arc<dyn Observer>) -> Self {
        let queues = Queues::new(config.operations_per_vm);
        let load = Load::new(config.disks_per_vm);
        let api = Arc::new(Api::new(cloud, config, observer));
        Self {
            disk_reads: Tracker::new(Arc::clone(&api)),
            vm_reads: Tracker::new(Arc::clone(&api)),
            api,
            snapshot: Shared::default(),
            machines: Shared::default(),
            slots: Slots::default(),
            queues,
            load,
            accepted: Accepted::default(),
            made: Made::default(),
        }
    }

    /// The disk as it is now: the read starts after this call, together with everybody else's. `None` is proof
    /// that it does not exist.
    ///
    /// # Errors
    /// [`FleetError::Call`] when the API cannot be read.
    pub async fn disk(&self, name: &DiskName) -> Result<Option<Disk>, FleetError> {
        Ok(self.disk_reads.read(name).await?)
    }

    /// The disk as it was at most `max_age` ago, from one read of all disks however many ask. A hint that saves a
    /// call where the next call is checked by the server anyway (`CreateVolume` refuses a duplicate name); never
    /// a proof.
    ///
    /// # Errors
    /// [`FleetError::Call`].
    pub async fn hint(
        &self,
        name: &DiskName,
        max_age: Duration,
    ) -> Result<Option<Disk>, FleetError> {
        Ok(self.disks_within(max_age).await?.find(name).cloned())
    }

    /// All disks; may be a moment old, but never older than this process's own last write.
    ///
    /// # Errors
    /// [`FleetError::Call`].
    pub async fn disks(&self) -> Result<Arc<Snapshot>, FleetError> {
        self.all_disks(self.api.config.disks_max_age, true).await
    }

    /// All disks as they were at most `max_age` ago, own writes not counted: for the later pages of one listing.
    ///
    /// # Errors
    /// [`FleetError::Call`].
    pub async fn disks_within(&self, max_age: Duration) -> Result<Arc<Snapshot>, FleetError> {
        self.all_disks(max_age, false).await
    }

    async fn all_disks(
        &self,
        max_age: Duration,
        after_writes: bool,
    ) -> Result<Arc<Snapshot>, FleetError> {
        let api = Arc::clone(&self.api);
        let read = move || async move {
            let call = || api.cloud.describe_disks(&[]);
            let mut disks = api.read_patiently(Disks::ACTION, call).await?;
            disks.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            Ok(Snapshot { disks })
        };
        let snapshot = self.snapshot.get(max_age, after_writes, read).await?;
        self.disk_reads.total(snapshot.disks.len());
        Ok(snapshot)
    }

    /// The VM as it is now. `None` is proof that it does not exist.
    ///
    /// # Errors
    /// [`FleetError::Call`].
    pub async fn vm(&self, name: &VmName) -> Result<Option<Vm>, FleetError> {
        Ok(self.vm_reads.read(name).await?)
    }

    /// All VMs; may be a moment old, but own writes are always in it.
    ///
    /// # Errors
    /// [`FleetError::Call`].
    pub async fn vms(&self) -> Result<Arc<Vec<Vm>>, FleetError> {
        let api = Arc::clone(&self.api);
        let read = move || async move {
            let call = || api.cloud.describe_vms(&[]);
            api.read_patiently(Vms::ACTION, call).await
        };
        let max_age = self.api.config.vms_max_age;
        let vms = self.machines.get(max_age, true, read).await?;
        self.vm_reads.total(vms.len());
        Ok(vms)
    }

    /// Why the API cannot be used at present; `None` when its last answer was one about the request itself.
    #[must_use]
    pub fn trouble(&self) -> Option<CallError> {
        self.api.trouble()
    }

    /// Slots of the VM that neither a disk nor a [`Reservation`] of this process occupies.
    #[must_use]
    pub fn free_slots(&self, vm: &Vm) -> usize {
        self.load.free(vm)
    }

    /// Promises a slot of the VM to the disk, so that others that choose a VM at the same time see it taken.
    /// `None`: the VM is full.
    #[must_use]
    pub fn reserve(&self, vm: &Vm, disk: &DiskName) -> Option<Reservation> {
        self.load.reserve(vm, disk)
    }

    /// The slot of a disk on a VM, if it has one there. One call per VM at a time, however many disks ask.
    ///
    /// # Errors
    /// [`FleetError::Call`].
    pub async fn slot(
        &self,
        vm: &VmName,
        disk: &DiskName,
    ) -> Result<Option<ScsiAddress>, FleetError> {
        let slots = self.slots.read(&self.api, vm).await?;
        let own = slots.iter().find(|slot| slot.disk.as_ref() == Some(disk));
        Ok(own.map(|slot| slot.address))
    }

    /// Says that [`Fleet::slot`] will soon be asked for this VM: others that ask wait a moment, so that one call
    /// serves all who publish on it together. Hold it until the slot is known.
    #[must_use]
    pub fn expect_slot(&self, vm: &VmName) -> Expected {
        self.slots.expect(vm)
    }

    /// Takes the token of the next write on the disk ahead. A write that rests on a read must follow it at once;
    /// with the token in hand it does not wait for others in between.
    ///
    /// # Errors
    /// [`FleetError::Deadline`] when no call may be sent until `deadline`.
    pub async fn pay(&self, disk: &DiskName, deadline: Instant) -> Result<Paid, FleetError> {
        let paid = self.api.pay(disk, deadline).await;
        paid.ok_or_else(|| FleetError::Deadline {
            what: format!("waiting to send a call for disk {disk}"),
            last: "; the limit on calls is used up by others".to_owned(),
        })
    }

    /// Waits for this VM's turn, first come, first served.
    ///
    /// # Errors
    /// [`FleetError::Deadline`] when others hold it until `deadline`.
    pub async fn turn(&self, vm: &VmName, deadline: Instant) -> Result<Turn, FleetError> {
        let turn = self.queues.turn(vm, deadline).await;
        turn.ok_or_else(|| FleetError::Deadline {
            what: format!("waiting for the turn of VM {vm}"),
            last: "; other operations hold the VM".to_owned(),
        })
    }
}
