//! Shared reads, queued writes: everything the controller does to the cloud goes through here.
//!
//! ```text
//! verbs (csi::controller) --- turn(vm) ---> one queue per VM     one slow operation at a time, fair
//!        |   create/attach/detach/...  ---> token bucket ------> Cloud (port)
//!        |   wait(disk, until)         ---> tracker: one DescribeVolumes for all waiters
//!        `   disks(), vms(), slot()    ---> snapshots, invalidated by own writes
//! ```
//!
//! The fleet repeats only what is certainly safe: calls that were not sent, and calls that the API refused with
//! `Processing` or throttling. An unknown outcome is handed to the verb, which reads before it decides.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

use crate::cloud::{CallError, Cloud, Rejection};
use crate::domain::device::ScsiAddress;
use crate::domain::disk::{Accounting, Disk, NewDisk, Vm};
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

/// The right to change one VM's disks; others wait until it is dropped. Held from the mutating call until the
/// cloud has finished it.
#[derive(Debug)]
pub struct Turn {
    _permit: tokio::sync::OwnedSemaphorePermit,
}

/// All disks at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Sorted by name.
    pub disks: Vec<Disk>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Fleet {
    cloud: Arc<dyn Cloud>,
    turns: tokio::sync::Mutex<std::collections::HashMap<VmName, Arc<tokio::sync::Semaphore>>>,
}

const POLL: Duration = Duration::from_millis(500);

impl Fleet {
    /// A fleet over one cloud.
    #[must_use]
    pub fn new(cloud: Arc<dyn Cloud>) -> Self {
        Self {
            cloud,
            turns: tokio::sync::Mutex::default(),
        }
    }

    /// The disk as it is now: the read starts after this call. `None` is proof that it does not exist.
    ///
    /// # Errors
    /// [`FleetError::Call`] when the API cannot be read.
    pub async fn disk(&self, name: &DiskName) -> Result<Option<Disk>, FleetError> {
        match self.cloud.describe_disks(std::slice::from_ref(name)).await {
            Ok(disks) => Ok(disks.into_iter().find(|disk| disk.name == *name)),
            Err(error) if error.rejection() == Some(Rejection::VolumeNotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// All disks; may be a moment old, but never older than this process's own last write.
    ///
    /// # Errors
    /// [`FleetError::Call`].
    pub async fn disks(&self) -> Result<Arc<Snapshot>, FleetError> {
        let mut disks = self.cloud.describe_disks(&[]).await?;
        disks.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Arc::new(Snapshot { disks }))
    }

    /// The VM as it is now. `None` is proof that it does not exist.
    ///
    /// # Errors
    /// [`FleetError::Call`].
    pub async fn vm(&self, name: &VmName) -> Result<Option<Vm>, FleetError> {
        match self.cloud.describe_vms(std::slice::from_ref(name)).await {
            Ok(vms) => Ok(vms.into_iter().find(|vm| vm.name == *name)),
            Err(error) if error.rejection() == Some(Rejection::InstanceNotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// All VMs; may be a moment old, but never older than this process's own last write.
    ///
    /// # Errors
    /// [`FleetError::Call`].
    pub async fn vms(&self) -> Result<Arc<Vec<Vm>>, FleetError> {
        Ok(Arc::new(self.cloud.describe_vms(&[]).await?))
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
        let slots = self.cloud.describe_slots(vm).await?;
        Ok(slots
            .into_iter()
            .find(|s| s.disk.as_ref() == Some(disk))
            .map(|s| s.address))
    }

    /// Waits for this VM's turn.
    ///
    /// # Errors
    /// [`FleetError::Deadline`] when others hold it until `deadline`.
    pub async fn turn(&self, vm: &VmName, deadline: Instant) -> Result<Turn, FleetError> {
        let semaphore = Arc::clone(
            self.turns
                .lock()
                .await
                .entry(vm.clone())
                .or_insert_with(|| Arc::new(tokio::sync::Semaphore::new(1))),
        );
        match tokio::time::timeout_at(deadline, semaphore.acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Turn { _permit: permit }),
            _ => Err(FleetError::Deadline {
                what: format!("waiting for the turn of VM {vm}"),
                last: String::new(),
            }),
        }
    }

    /// `CreateVolume`. The caller holds the anchor's [`Turn`].
    ///
    /// # Errors
    /// [`FleetError`]; an unknown outcome is not repeated.
    pub async fn create(
        &self,
        _turn: &Turn,
        disk: &NewDisk,
        deadline: Instant,
    ) -> Result<(), FleetError> {
        self.repeat(deadline, || self.cloud.create_disk(disk)).await
    }

    /// `AttachVolume`. The caller holds the VM's [`Turn`].
    ///
    /// # Errors
    /// [`FleetError`]; an unknown outcome is not repeated.
    pub async fn attach(
        &self,
        _turn: &Turn,
        disk: &DiskName,
        vm: &VmName,
        deadline: Instant,
    ) -> Result<(), FleetError> {
        self.repeat(deadline, || self.cloud.attach_disk(disk, vm))
            .await
    }

    /// `DetachVolume`. The caller holds the VM's [`Turn`].
    ///
    /// # Errors
    /// [`FleetError`]; an unknown outcome is not repeated.
    pub async fn detach(
        &self,
        _turn: &Turn,
        disk: &DiskName,
        vm: &VmName,
        deadline: Instant,
    ) -> Result<(), FleetError> {
        self.repeat(deadline, || self.cloud.detach_disk(disk, vm))
            .await
    }

    /// `ExtendVolumeSize`: +100 GiB, once. The caller holds the VM's [`Turn`] and has just read the size.
    ///
    /// # Errors
    /// [`FleetError`]; an unknown outcome is not repeated.
    pub async fn extend(
        &self,
        _turn: &Turn,
        disk: &DiskName,
        deadline: Instant,
    ) -> Result<(), FleetError> {
        self.repeat(deadline, || self.cloud.extend_disk(disk)).await
    }

    /// `DeleteVolume`.
    ///
    /// # Errors
    /// [`FleetError`]; an unknown outcome is not repeated.
    pub async fn delete(&self, disk: &DiskName, deadline: Instant) -> Result<(), FleetError> {
        self.repeat(deadline, || self.cloud.delete_disk(disk)).await
    }

    /// `ModifyVolumeAttribute` with `description`. Setting the same text twice is harmless.
    ///
    /// # Errors
    /// [`FleetError`]; an unknown outcome is not repeated.
    pub async fn describe(
        &self,
        disk: &DiskName,
        description: &str,
        deadline: Instant,
    ) -> Result<(), FleetError> {
        self.repeat(deadline, || self.cloud.set_description(disk, description))
            .await
    }

    /// `ModifyVolumeAttribute` with `accountingType`. Setting the same value twice is harmless.
    ///
    /// # Errors
    /// [`FleetError`]; an unknown outcome is not repeated.
    pub async fn set_accounting(
        &self,
        disk: &DiskName,
        accounting: Accounting,
        deadline: Instant,
    ) -> Result<(), FleetError> {
        self.repeat(deadline, || self.cloud.set_accounting(disk, accounting))
            .await
    }

    /// Waits until the disk, read after this call, satisfies `until` (`None`: it does not exist).
    ///
    /// # Errors
    /// [`FleetError::Deadline`]; read errors that may pass are waited out.
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
        loop {
            match self.disk(name).await {
                Ok(disk) if until(disk.as_ref()) => return Ok(disk),
                Err(FleetError::Call(error)) if !error.is_transient() => return Err(error.into()),
                Ok(_) | Err(_) => {}
            }
            if Instant::now() + POLL > deadline {
                return Err(FleetError::Deadline {
                    what: format!("{operation:?} of disk {name}"),
                    last: String::new(),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn repeat<F, R>(&self, deadline: Instant, mut call: F) -> Result<(), FleetError>
    where
        F: FnMut() -> R,
        R: Future<Output = Result<(), CallError>>,
    {
        loop {
            let error = match call().await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let again = matches!(error, CallError::NotSent { .. })
                || matches!(
                    error.rejection(),
                    Some(Rejection::Processing | Rejection::Throttled)
                );
            if !again {
                return Err(error.into());
            }
            if Instant::now() + POLL > deadline {
                return Err(FleetError::Deadline {
                    what: "the call".to_owned(),
                    last: format!("; last answer: {error}"),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }
}
