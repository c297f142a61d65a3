//! A cloud in memory that behaves: asynchronous states on virtual time, one operation per VM, counted calls.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep};

use crate::cloud::{CallError, Cloud, Rejection};
use crate::domain::device::ScsiAddress;
use crate::domain::disk::{
    Accounting, Attachment, AttachmentStatus, Disk, DiskStatus, NewDisk, Slot, Vm, VmState,
};
use crate::domain::id::{DiskName, VmName};
use crate::domain::size::DiskSize;
use crate::domain::topology::Zone;

#[derive(Debug)]
pub(super) struct Fake {
    /// Time of one call.
    pub(super) call: Duration,
    /// Time of one asynchronous operation.
    pub(super) operation: Duration,
    /// Whether a refusal quotes the unknown name.
    pub(super) quotes: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    disks: BTreeMap<DiskName, (Disk, Option<(Instant, Change)>)>,
    vms: BTreeMap<VmName, Option<Instant>>,
    calls: Vec<Call>,
    faults: HashMap<&'static str, VecDeque<CallError>>,
    at_once: HashMap<String, (usize, usize)>,
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Settle,
    Free,
    Grow,
    Vanish,
}

#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) action: &'static str,
    pub(super) names: usize,
    pub(super) at: Instant,
}

pub(super) fn disk_name(i: usize) -> DiskName {
    DiskName::parse(&format!("disk{i:05}")).unwrap()
}

pub(super) fn vm_name(i: usize) -> VmName {
    VmName::parse(&format!("vm{i:03}")).unwrap()
}

pub(super) fn refused(action: &'static str, kind: Rejection, message: &str) -> CallError {
    CallError::Rejected {
        action,
        kind,
        code: format!("Test.{kind:?}"),
        message: message.to_owned(),
        retry_after: None,
    }
}

pub(super) fn lost(action: &'static str) -> CallError {
    CallError::Unknown {
        action,
        reason: "connection reset".to_owned(),
        throttled: false,
    }
}

impl Fake {
    pub(super) fn new(vms: usize, operation: Duration) -> Self {
        let fake = Self {
            call: Duration::from_millis(100),
            operation,
            quotes: false,
            state: Mutex::default(),
        };
        let vms = (0..vms).map(|i| (vm_name(i), None)).collect();
        fake.state.lock().unwrap().vms = vms;
        fake
    }

    /// A disk at rest, attached to the VM or free.
    pub(super) fn put(&self, name: &DiskName, vm: Option<&VmName>) {
        let disk = make(name, 100, vm);
        let mut state = self.state.lock().unwrap();
        state.disks.insert(name.clone(), (disk, None));
    }

    /// The next calls of the action fail with these errors, one each.
    pub(super) fn fail(&self, action: &'static str, errors: Vec<CallError>) {
        self.state
            .lock()
            .unwrap()
            .faults
            .insert(action, errors.into());
    }

    pub(super) fn calls(&self, action: &str) -> Vec<Call> {
        let state = self.state.lock().unwrap();
        let of = state.calls.iter().filter(|call| call.action == action);
        of.cloned().collect()
    }

    pub(super) fn count(&self, action: &str) -> usize {
        self.calls(action).len()
    }

    /// Most calls of that sort (action, or action and VM) that were ever under way together.
    pub(super) fn most_at_once(&self, key: &str) -> usize {
        let state = self.state.lock().unwrap();
        state.at_once.get(key).map_or(0, |(_, most)| *most)
    }

    async fn enter(
        &self,
        action: &'static str,
        names: usize,
        key: String,
    ) -> Result<(), CallError> {
        let fault = {
            let mut state = self.state.lock().unwrap();
            let at = Instant::now();
            state.calls.push(Call { action, names, at });
            let (now, most) = state.at_once.entry(key.clone()).or_default();
            *now += 1;
            *most = (*most).max(*now);
            state.faults.get_mut(action).and_then(VecDeque::pop_front)
        };
        sleep(self.call).await;
        let mut state = self.state.lock().unwrap();
        state.at_once.get_mut(&key).unwrap().0 -= 1;
        state.advance();
        fault.map_or(Ok(()), Err)
    }

    async fn change(
        &self,
        action: &'static str,
        name: &DiskName,
        vm: Option<&VmName>,
        born: Option<Disk>,
        change: Change,
        apply: impl FnOnce(&mut Disk),
    ) -> Result<(), CallError> {
        self.enter(action, 1, action.to_owned()).await?;
        let mut state = self.state.lock().unwrap();
        let until = Instant::now() + self.operation;
        if let Some(vm) = vm {
            let busy = state.vms.get_mut(vm).unwrap();
            if busy.is_some() {
                return Err(refused(action, Rejection::Processing, "busy"));
            }
            *busy = Some(until);
        }
        if let Some(disk) = born {
            if state.disks.contains_key(name) {
                return Err(refused(action, Rejection::DuplicateName, "exists"));
            }
            state.disks.insert(name.clone(), (disk, None));
        }
        let Some((disk, next)) = state.disks.get_mut(name) else {
            return Err(refused(action, Rejection::VolumeNotFound, ""));
        };
        apply(disk);
        *next = Some((until, change));
        Ok(())
    }
}

fn make(name: &DiskName, gib: u32, vm: Option<&VmName>) -> Disk {
    Disk {
        name: name.clone(),
        unique_id: format!("vol-{name}"),
        size: DiskSize::from_gib(gib).unwrap(),
        disk_type: "High-Speed Storage A".to_owned(),
        zone: Zone::parse("east-11").unwrap(),
        status: vm.map_or(DiskStatus::Available, |_| DiskStatus::InUse),
        attachment: vm.map(|vm| attachment(vm, AttachmentStatus::Attached)),
        description: String::new(),
        accounting: Some(Accounting::Hourly),
        next_accounting: Some(Accounting::Hourly),
    }
}

fn attachment(vm: &VmName, status: AttachmentStatus) -> Attachment {
    Attachment {
        vm: vm.clone(),
        vm_unique_id: format!("i-{vm}"),
        status,
    }
}

impl State {
    fn advance(&mut self) {
        let now = Instant::now();
        for busy in self.vms.values_mut() {
            *busy = busy.filter(|until| now < *until);
        }
        let mut gone = Vec::new();
        for (name, (disk, next)) in &mut self.disks {
            let Some((_, change)) = next.take_if(|(at, _)| *at <= now) else {
                continue;
            };
            match change {
                Change::Vanish => gone.push(name.clone()),
                Change::Free => {
                    disk.attachment = None;
                    disk.status = DiskStatus::Available;
                }
                Change::Settle | Change::Grow => {
                    disk.status = DiskStatus::InUse;
                    if let Some(attachment) = &mut disk.attachment {
                        attachment.status = AttachmentStatus::Attached;
                    }
                    if matches!(change, Change::Grow) {
                        disk.size = disk.size.next_step();
                    }
                }
            }
        }
        for name in gone {
            self.disks.remove(&name);
        }
    }
}

#[async_trait]
impl Cloud for Fake {
    async fn describe_disks(&self, names: &[DiskName]) -> Result<Vec<Disk>, CallError> {
        let action = "DescribeVolumes";
        self.enter(action, names.len(), action.to_owned()).await?;
        let state = self.state.lock().unwrap();
        if names.is_empty() {
            return Ok(state.disks.values().map(|(disk, _)| disk.clone()).collect());
        }
        let find = |name: &DiskName| match state.disks.get(name) {
            Some((disk, _)) => Ok(disk.clone()),
            None if self.quotes => {
                let message = format!("The volume ID '{name}' does not exist.");
                Err(refused(action, Rejection::VolumeNotFound, &message))
            }
            None => Err(refused(action, Rejection::VolumeNotFound, "not found")),
        };
        names.iter().map(find).collect()
    }

    async fn describe_vms(&self, names: &[VmName]) -> Result<Vec<Vm>, CallError> {
        let action = "DescribeInstances";
        self.enter(action, names.len(), action.to_owned()).await?;
        let state = self.state.lock().unwrap();
        let make = |name: &VmName| {
            if !state.vms.contains_key(name) {
                return Err(refused(action, Rejection::InstanceNotFound, ""));
            }
            let on = |disk: &&Disk| disk.holder() == Some(name);
            let disks = state.disks.values().map(|(disk, _)| disk).filter(on);
            Ok(Vm {
                name: name.clone(),
                unique_id: format!("i-{name}"),
                state: VmState::Running,
                zone: Zone::parse("east-11").unwrap(),
                disks: disks.map(|disk| disk.name.clone()).collect(),
            })
        };
        if names.is_empty() {
            return state.vms.keys().map(make).collect();
        }
        names.iter().map(make).collect()
    }

    async fn describe_slots(&self, vm: &VmName) -> Result<Vec<Slot>, CallError> {
        let action = "DescribeInstanceAttribute";
        self.enter(action, 1, format!("{action} {vm}")).await?;
        let state = self.state.lock().unwrap();
        let disks = state.disks.values().map(|(disk, _)| disk);
        let on = disks.filter(|disk| disk.is_attached_to(vm));
        let slot = |(target, disk): (u8, &Disk)| Slot {
            address: ScsiAddress { bus: 0, target },
            disk: Some(disk.name.clone()),
            disk_unique_id: disk.unique_id.clone(),
        };
        Ok((1..).zip(on).map(slot).collect())
    }

    async fn create_disk(&self, new: &NewDisk) -> Result<(), CallError> {
        let anchor = &new.anchor;
        let apply = |disk: &mut Disk| {
            disk.status = DiskStatus::Creating;
            disk.attachment = Some(attachment(anchor, AttachmentStatus::Attaching));
        };
        let action = "CreateVolume";
        let born = Some(make(&new.name, new.size.gib(), None));
        self.change(action, &new.name, Some(anchor), born, Change::Settle, apply)
            .await
    }

    async fn delete_disk(&self, disk: &DiskName) -> Result<(), CallError> {
        self.change("DeleteVolume", disk, None, None, Change::Vanish, |_| {})
            .await
    }

    async fn attach_disk(&self, disk: &DiskName, vm: &VmName) -> Result<(), CallError> {
        let apply = |disk: &mut Disk| {
            disk.status = DiskStatus::InUse;
            disk.attachment = Some(attachment(vm, AttachmentStatus::Attaching));
        };
        self.change("AttachVolume", disk, Some(vm), None, Change::Settle, apply)
            .await
    }

    async fn detach_disk(&self, disk: &DiskName, vm: &VmName) -> Result<(), CallError> {
        let apply = |disk: &mut Disk| {
            disk.attachment = Some(attachment(vm, AttachmentStatus::Detaching));
        };
        self.change("DetachVolume", disk, Some(vm), None, Change::Free, apply)
            .await
    }

    async fn extend_disk(&self, disk: &DiskName) -> Result<(), CallError> {
        let apply = |disk: &mut Disk| {
            if let Some(attachment) = &mut disk.attachment {
                attachment.status = AttachmentStatus::Attaching;
            }
        };
        self.change("ExtendVolumeSize", disk, None, None, Change::Grow, apply)
            .await
    }

    async fn set_description(&self, disk: &DiskName, text: &str) -> Result<(), CallError> {
        let action = "ModifyVolumeAttribute";
        self.enter(action, 1, action.to_owned()).await?;
        let mut state = self.state.lock().unwrap();
        let found = state.disks.get_mut(disk);
        let (disk, _) = found.ok_or_else(|| refused(action, Rejection::VolumeNotFound, ""))?;
        text.clone_into(&mut disk.description);
        Ok(())
    }

    async fn set_accounting(&self, _: &DiskName, _: Accounting) -> Result<(), CallError> {
        let action = "ModifyVolumeAttribute";
        self.enter(action, 1, action.to_owned()).await
    }

    async fn describe_zones(&self) -> Result<Vec<String>, CallError> {
        Ok(vec!["east-11".to_owned()])
    }
}
