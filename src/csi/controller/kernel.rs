//! Steps that the verbs share: read, settle, write the journal, detach what is ours.
//!
//! Irreversible calls are sent once, right after a read that allows them; whatever they answer, the next step is
//! another read. That is what keeps two controllers from undoing each other's work.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::ControllerConfig;
use super::error::ControllerError;
use crate::cloud::{CallError, Rejection};
use crate::domain::disk::{AttachmentStatus, Disk, DiskStatus, Vm};
use crate::domain::id::{DiskName, VmName};
use crate::domain::journal::Phase;
use crate::fleet::{Fleet, FleetError, Operation, Paid, Turn, Until};
use crate::jobs::Interest;

pub(super) type Outcome<T> = Result<T, ControllerError>;

/// What was read longer ago than this is read again before the journal is moved.
const FRESH: Duration = Duration::from_millis(100);
/// Between two reads that are expected to differ.
const PAUSE: Duration = Duration::from_millis(250);
/// Unknown outcomes and server errors that one job answers by trying again.
pub(super) const TRIES: u32 = 4;

/// What a verb works with.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    pub(super) fleet: Arc<Fleet>,
    pub(super) config: Arc<ControllerConfig>,
    /// VMs that requests have named as nodes: preferred as anchors.
    pub(super) nodes: Arc<Mutex<HashSet<VmName>>>,
    /// When the job gives up.
    pub(super) deadline: Instant,
    /// Whether anybody waits for it.
    pub(super) interest: Interest,
}

/// What became of an irreversible call.
#[derive(Debug)]
pub(super) enum Sent {
    /// Accepted; it takes its time now.
    Accepted,
    /// Not accepted, or unknown: read and decide again.
    Again(Option<CallError>),
    /// Refused for good.
    Refused(CallError),
}

/// What became of an attachment that was to end.
#[derive(Debug)]
pub(super) enum Detached {
    /// The disk does not exist.
    NoDisk,
    /// It is not attached to that VM (any more).
    Free,
    /// It may not be detached: the read just before the call said so.
    Kept(Box<Disk>),
}

impl Kernel {
    pub(super) fn know(&self, vm: &VmName) {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if !nodes.contains(vm) {
            nodes.insert(vm.clone());
        }
    }

    pub(super) fn knows(&self, vm: &VmName) -> bool {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.contains(vm)
    }

    /// The disk as it is now; `None` is proof that it does not exist.
    pub(super) async fn find(&self, name: &DiskName) -> Outcome<Option<Disk>> {
        if Instant::now() >= self.deadline {
            return Err(FleetError::Deadline {
                what: format!("the work on disk {name}"),
                last: String::new(),
            }
            .into());
        }
        Ok(self.fleet.disk(name).await?)
    }

    pub(super) async fn vm(&self, name: &VmName) -> Outcome<Option<Vm>> {
        Ok(self.fleet.vm(name).await?)
    }

    /// The disk once no operation runs on it as far as the API shows.
    pub(super) async fn settled(&self, name: &DiskName) -> Outcome<Option<Disk>> {
        match self.find(name).await? {
            Some(disk) if !disk.is_settled() => self.settle(&disk).await,
            other => Ok(other),
        }
    }

    /// Waits until a disk that was seen in motion is at rest or gone.
    pub(super) async fn settle(&self, disk: &Disk) -> Outcome<Option<Disk>> {
        let operation = match (&disk.status, disk.attachment.as_ref().map(|a| &a.status)) {
            (DiskStatus::Creating, _) => Operation::Create,
            (_, Some(AttachmentStatus::Detaching)) => Operation::Detach,
            _ => Operation::Attach,
        };
        self.wait(&disk.name, operation, |disk| {
            disk.is_none_or(Disk::is_settled)
        })
        .await
    }

    pub(super) async fn wait<P>(
        &self,
        name: &DiskName,
        operation: Operation,
        until: P,
    ) -> Outcome<Option<Disk>>
    where
        P: Fn(Option<&Disk>) -> bool + Send + Sync + 'static,
    {
        let waited = self.fleet.wait(name, operation, self.deadline, until).await;
        Ok(waited?)
    }

    pub(super) async fn turn(&self, vm: &VmName) -> Outcome<Turn> {
        Ok(self.fleet.turn(vm, self.deadline).await?)
    }

    pub(super) async fn pause(&self) {
        tokio::time::sleep(PAUSE).await;
    }

    /// Gives a call whose outcome is unknown time to show what it did.
    pub(super) async fn doubt(&self) {
        tokio::time::sleep(self.config.doubt).await;
    }

    /// Whether something new may be begun: nobody but a caller that waits, or was told that the work goes on, is known
    /// to be still in charge of the disk.
    pub(super) fn wanted(&self, name: &DiskName) -> Outcome<()> {
        if self.interest.lasts(self.config.linger) {
            return Ok(());
        }
        Err(FleetError::Deadline {
            what: format!("the work on disk {name}"),
            last: "; its caller has gone, so nothing new was begun".to_owned(),
        }
        .into())
    }

    /// How long a call may be repeated.
    pub(super) fn until(&self) -> Until {
        let (interest, linger) = (self.interest.clone(), self.config.linger);
        Until::wanted(self.deadline, move || interest.lasts(linger))
    }

    /// Takes the right to send one call ahead: a call that rests on a read must follow it at once, however long the
    /// queue for calls is.
    pub(super) async fn pay(&self, name: &DiskName) -> Outcome<Paid> {
        Ok(self.fleet.pay(name, self.deadline).await?)
    }

    /// Sorts the answer of a call into what to do next; waits where reading at once would show nothing new.
    pub(super) async fn sort(&self, answer: Result<(), FleetError>) -> Sent {
        let error = match answer {
            Ok(()) => return Sent::Accepted,
            Err(FleetError::Deadline { .. }) => {
                self.pause().await;
                return Sent::Again(None);
            }
            Err(FleetError::Call(error)) => error,
        };
        match &error {
            CallError::Unknown { .. } => self.doubt().await,
            CallError::NotSent { .. } => self.pause().await,
            CallError::Rejected { kind, .. } => match kind {
                Rejection::Server => self.doubt().await,
                Rejection::VolumeNotFound
                | Rejection::AlreadyAttached
                | Rejection::AlreadyDetached
                | Rejection::DuplicateName
                | Rejection::Processing
                | Rejection::Throttled => self.pause().await,
                Rejection::InstanceNotFound | Rejection::Auth | Rejection::Client => {
                    return Sent::Refused(error);
                }
            },
        }
        Sent::Again(Some(error))
    }

    /// Moves the disk's journal to `text` and knows that it is written. A foreign disk, which has no journal (`None`), is
    /// left as it is.
    pub(super) async fn journal(&self, disk: &Disk, text: Option<String>) -> Outcome<()> {
        let Some(text) = text else {
            return Ok(());
        };
        let name = &disk.name;
        let mut tries = Tries::new(name);
        let (mut seen, mut at) = (disk.description.clone(), Instant::now());
        // A disk that was seen attached needs no second look: whoever moves it meanwhile finds `pvc-` there, and the
        // caller reads its place after this write. In a burst this spares one read for each volume.
        let mut harmless = Phase::of(&text) == Phase::Published && disk.is_attached();
        let lending = Phase::of(&text) == Phase::Growing;
        let read = async || {
            let now = self.find(name).await?.ok_or_else(|| no_disk(name))?;
            let moved = lending && now.holder() != disk.holder();
            match now.holder().filter(|_| moved) {
                // Published meanwhile: what is written now would say that it is lent.
                Some(vm) => Err(ControllerError::Moved {
                    disk: name.to_string(),
                    what: format!("it was attached to VM {vm}"),
                }),
                None => Ok(now.description),
            }
        };
        loop {
            let paid = self.pay(name).await?;
            if at.elapsed() > FRESH && !harmless {
                seen = read().await?;
            }
            if seen == text {
                return Ok(());
            }
            if seen != disk.description {
                return Err(ControllerError::Moved {
                    disk: name.to_string(),
                    what: format!("its description became {seen:?}"),
                });
            }
            self.wanted(name)?;
            let written = self.fleet.describe(paid, name, &text).await;
            match self.sort(written).await {
                Sent::Accepted => return Ok(()),
                Sent::Again(why) => tries.count(why)?,
                Sent::Refused(error) => return Err(refused(name, error)),
            }
            (seen, at) = (read().await?, Instant::now());
            harmless = false;
        }
    }

    /// Ends the attachment of a disk to `vm`, if `may` allows it at the very last read, and waits for the end.
    pub(super) async fn detach<F>(
        &self,
        name: &DiskName,
        vm: &VmName,
        turn: Option<Turn>,
        may: F,
    ) -> Outcome<Detached>
    where
        F: Fn(&Disk) -> bool,
    {
        let turn = match turn {
            Some(turn) => turn,
            None => self.turn(vm).await?,
        };
        let mut tries = Tries::new(name);
        loop {
            let paid = self.pay(name).await?;
            let Some(disk) = self.find(name).await? else {
                return Ok(Detached::NoDisk);
            };
            if disk.holder() != Some(vm) {
                return Ok(Detached::Free);
            }
            if !disk.is_settled() {
                drop(paid);
                self.settle(&disk).await?;
                continue;
            }
            if !may(&disk) {
                return Ok(Detached::Kept(Box::new(disk)));
            }
            self.wanted(name)?;
            let sent = self.fleet.detach(&turn, paid, name, vm).await;
            match self.sort(sent).await {
                Sent::Accepted => {
                    let from = vm.clone();
                    self.wait(name, Operation::Detach, move |disk| {
                        disk.is_none_or(|disk| disk.holder() != Some(&from))
                    })
                    .await?;
                    return Ok(Detached::Free);
                }
                Sent::Again(why) => tries.count(why)?,
                Sent::Refused(error) => {
                    // A VM that does not exist holds nothing, whatever the disk still shows.
                    let gone = error.rejection() == Some(Rejection::InstanceNotFound)
                        && self.vm(vm).await?.is_none();
                    return if gone {
                        Ok(Detached::Free)
                    } else {
                        Err(refused(name, error))
                    };
                }
            }
        }
    }
}

/// Counts server errors and unknown outcomes, so that a job ends with the API's own words.
#[derive(Debug)]
pub(super) struct Tries<'a> {
    disk: &'a DiskName,
    left: u32,
}

impl<'a> Tries<'a> {
    pub(super) fn new(disk: &'a DiskName) -> Self {
        Self { disk, left: TRIES }
    }

    /// # Errors
    /// [`ControllerError::Failing`] when there have been too many.
    pub(super) fn count(&mut self, why: Option<CallError>) -> Outcome<()> {
        let Some(error) = why.filter(counts) else {
            return Ok(());
        };
        self.left -= 1;
        if self.left == 0 {
            return Err(ControllerError::Failing {
                disk: self.disk.to_string(),
                source: error,
            });
        }
        Ok(())
    }
}

/// Being busy or throttled passes by itself; the others may last.
fn counts(error: &CallError) -> bool {
    !matches!(
        error.rejection(),
        Some(Rejection::Processing | Rejection::Throttled)
    )
}

pub(super) fn refused(disk: &DiskName, error: CallError) -> ControllerError {
    match error.rejection() {
        Some(Rejection::Auth) => FleetError::Call(error).into(),
        _ => ControllerError::Refused {
            disk: disk.to_string(),
            source: error,
        },
    }
}

pub(super) fn no_disk(disk: &DiskName) -> ControllerError {
    ControllerError::NoDisk {
        disk: disk.to_string(),
    }
}

/// Why `vm` did not take the disk, as far as the VM itself shows; `None`: it should have.
pub(super) fn unfit(name: &VmName, vm: Option<&Vm>, disk: &DiskName) -> Option<ControllerError> {
    let unfit = |found: String| {
        Some(ControllerError::Unfit {
            vm: name.to_string(),
            found,
        })
    };
    match vm {
        None => unfit("it does not exist".to_owned()),
        Some(vm) if !vm.can_hold_disks() => unfit(format!("its state is {}", vm.state)),
        Some(vm) if is_full(vm, disk) => Some(ControllerError::Full {
            vm: name.to_string(),
            held: vm.disks.len(),
        }),
        Some(_) => None,
    }
}

fn is_full(vm: &Vm, disk: &DiskName) -> bool {
    vm.disks.len() >= crate::domain::device::SLOTS_PER_VM && !vm.disks.contains(disk)
}
