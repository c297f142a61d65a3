//! Holds what callers were told against what really exists, which the emulated cloud knows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use additional_storage_csi::domain::id::VmName;
use additional_storage_csi::domain::journal::{Phase, lent_to};
use additional_storage_csi::emulator::{Change, Control, DiskRecord, Emulator, State};
use tonic::Code;

use crate::caller::{Answer, Rpc};
use crate::model::{Sizes, Told, Volume};

/// Violations that are printed; more of them tell nothing new.
const PRINTED: usize = 40;

#[derive(Debug, Default)]
struct Detaches {
    last: u64,
    by_disk: BTreeMap<String, u64>,
}

/// See the module's documentation.
pub(crate) struct Judge {
    emulator: Emulator,
    detaches: Mutex<Detaches>,
    violations: Mutex<Vec<String>>,
}

impl Judge {
    pub(crate) fn new(emulator: Emulator) -> Self {
        Self {
            emulator,
            detaches: Mutex::default(),
            violations: Mutex::default(),
        }
    }

    pub(crate) fn control(&self) -> &Control {
        self.emulator.control()
    }

    pub(crate) fn endpoint(&self) -> String {
        self.emulator.endpoint()
    }

    pub(crate) fn violation(&self, what: String) {
        let mut all = lock(&self.violations);
        if all.len() < PRINTED {
            println!("VIOLATION {what}");
        }
        all.push(what);
    }

    pub(crate) fn violations(&self) -> usize {
        lock(&self.violations).len()
    }

    /// DetachVolume calls that were carried out for the disk so far.
    fn detaches(&self, disk: &str) -> u64 {
        let mut seen = lock(&self.detaches);
        for event in self.control().history_after(seen.last) {
            seen.last = event.id;
            if let (true, "DetachVolume", Some(disk)) =
                (event.committed, event.action.as_str(), event.disk)
            {
                *seen.by_disk.entry(disk).or_default() += 1;
            }
        }
        seen.by_disk.get(disk).copied().unwrap_or(0)
    }

    /// A disk that a caller was told is published stays so.
    pub(crate) fn told(&self, disk: &str, volume: &mut Volume) {
        let Some(told) = volume.told.clone() else {
            return;
        };
        let state = self.control().state();
        let same =
            |vm: &&additional_storage_csi::emulator::VmRecord| vm.unique_id == told.incarnation;
        if state.vms.get(&told.vm).filter(same).is_none() {
            // The VM is gone, and so is the attachment.
            volume.told = None;
            return;
        }
        let detaches = self.detaches(disk);
        let record = state.disks.get(disk);
        let there = record.is_some_and(|record| {
            record.change != Some(Change::Detach)
                && record
                    .attachment
                    .as_ref()
                    .is_some_and(|at| at.vm == told.vm)
        });
        if !there || detaches != told.detaches {
            self.violation(format!(
                "{disk}: told that it is on {}, but it is {record:?}, detached {} times since; {}",
                told.vm,
                detaches - told.detaches,
                self.story(disk)
            ));
            volume.told = None;
        }
    }

    /// No disk is larger than any request for it.
    pub(crate) fn size(&self, disk: &str, sizes: Sizes) {
        if let Some(record) = self.control().disk(disk)
            && record.size > sizes.asked
        {
            self.violation(format!(
                "{disk}: {} GiB, but at most {} were asked for; {}",
                record.size,
                sizes.asked,
                self.story(disk)
            ));
        }
    }

    /// Somebody makes a disk.
    pub(crate) fn import(&self, disk: &str, description: &str, zone: &str) {
        let record = DiskRecord {
            name: disk.to_owned(),
            unique_id: String::new(),
            size: 100,
            disk_type: "Standard Flash Storage A".to_owned(),
            zone: zone.to_owned(),
            accounting: "2".to_owned(),
            next_accounting: "2".to_owned(),
            description: description.to_owned(),
            created: String::new(),
            attachment: None,
            change: None,
        };
        self.control().put_disk(record).unwrap();
    }

    /// What a person wrote stays.
    pub(crate) fn imported(&self, disk: &str, description: &str) {
        if Phase::of(description) == Phase::Foreign
            && let Some(record) = self.control().disk(disk)
            && record.description != description
        {
            self.violation(format!(
                "{disk}: described as {:?}, was {description:?}; {}",
                record.description,
                self.story(disk)
            ));
        }
    }

    pub(crate) fn created(&self, disk: &str, volume: &Volume, rpc: &Rpc, answer: &Answer) {
        let Rpc::Create { zone, nodes, .. } = rpc else {
            return;
        };
        let Some(record) = self.control().disk(disk) else {
            return self.violation(format!(
                "{disk}: created, but does not exist; {}",
                self.story(disk)
            ));
        };
        let small = record.size < answer.gib;
        // Of a disk that no node was selected for, the attachment of its birth has ended.
        let left = nodes.len() > 1
            && volume.published_to.is_none()
            && record.description.starts_with("new-")
            && record.attachment.is_some();
        if small || left || record.zone != *zone {
            self.violation(format!(
                "{disk}: created by {rpc:?} with {answer:?}, but is {record:?}"
            ));
        }
    }

    pub(crate) fn published(
        &self,
        disk: &str,
        vm: &str,
        before: &State,
        answer: &Answer,
    ) -> Option<Told> {
        let detaches = self.detaches(disk);
        let state = self.control().state();
        let incarnation = &state.vms.get(vm)?.unique_id;
        if before.vms.get(vm).map(|vm| &vm.unique_id) != Some(incarnation) {
            return None;
        }
        let record = state.disks.get(disk);
        let at = record.and_then(|record| record.attachment.as_ref());
        let slot = at.map(|at| format!("SCSI (0:{})", at.target));
        let right = at.is_some_and(|at| at.vm == vm)
            && record.is_some_and(|r| {
                matches!(Phase::of(&r.description), Phase::Published | Phase::Foreign)
                    && r.change != Some(Change::Detach)
            })
            && answer.context.get("devicePath") == slot.as_ref();
        if !right {
            self.violation(format!(
                "{disk}: published to {vm} with {:?}, but is {record:?}; {}",
                answer.context,
                self.story(disk)
            ));
            return None;
        }
        Some(Told {
            vm: vm.to_owned(),
            incarnation: incarnation.clone(),
            detaches,
        })
    }

    /// After a final error of publish the attacher takes the disk as not attached there.
    pub(crate) fn not_published(
        &self,
        disk: &str,
        vm: &str,
        before: &State,
        code: Code,
        said: &str,
    ) {
        let state = self.control().state();
        if code == Code::NotFound && state.disks.contains_key(disk) {
            let id = |state: &State| state.vms.get(vm).map(|vm| vm.unique_id.clone());
            if id(before).is_some() && id(before) == id(&state) {
                self.violation(format!(
                    "{disk}: publish to {vm} found nothing, but both exist: {said}"
                ));
            }
        }
        let left = state.disks.get(disk).filter(|record| {
            record.description.starts_with("pvc-")
                && record.attachment.as_ref().is_some_and(|at| at.vm == vm)
        });
        if let Some(record) = left {
            self.violation(format!(
                "{disk}: publish to {vm} failed for good ({said}), but it is {record:?}; {}",
                self.story(disk)
            ));
        }
    }

    pub(crate) fn unpublished(&self, disk: &str, vm: &str) {
        if let Some(record) = self.control().disk(disk)
            && record.attachment.as_ref().is_some_and(|at| at.vm == vm)
            && !lent_to(&record.description, &VmName::parse(vm).unwrap())
        {
            self.violation(format!(
                "{disk}: unpublished from {vm}, but is {record:?}; {}",
                self.story(disk)
            ));
        }
    }

    /// A disk that nobody uses can be deleted, unless its VM is in no state to let it go.
    pub(crate) fn kept(&self, disk: &str, before: &State, said: &str) {
        let able = |state: &State| {
            let at = state.disks.get(disk)?.attachment.as_ref()?;
            let vm = state.vms.get(&at.vm)?;
            Some(matches!(vm.state.as_str(), "running" | "stopped"))
        };
        if [able(before), able(&self.control().state())].contains(&Some(false)) {
            return;
        }
        self.violation(format!(
            "{disk}: cannot be deleted: {said}; {:?}; {}",
            self.control().disk(disk),
            self.story(disk)
        ));
    }

    pub(crate) fn absent(&self, disk: &str, why: &str) {
        if let Some(record) = self.control().disk(disk) {
            self.violation(format!(
                "{disk}: {why}, but it is {record:?}; {}",
                self.story(disk)
            ));
        }
    }

    pub(crate) fn grown(&self, disk: &str, wanted: u32, answer: &Answer) {
        // Deleted meanwhile is fine.
        if let Some(record) = self.control().disk(disk)
            && (record.size < wanted || record.size < answer.gib)
        {
            self.violation(format!(
                "{disk}: grown to {wanted} ({answer:?}), but is {record:?}"
            ));
        }
    }

    /// Disks that no claim asks for.
    pub(crate) fn strangers(&self, claimed: &BTreeSet<String>) {
        for disk in self.control().state().disks.keys() {
            if !claimed.contains(disk) {
                self.violation(format!("{disk}: leaked; {}", self.story(disk)));
            }
        }
    }

    pub(crate) fn nothing_left(&self) {
        let state = self.control().state();
        for record in state.disks.values() {
            self.violation(format!(
                "left at the end: {record:?}; {}",
                self.story(&record.name)
            ));
        }
        for vm in state.vms.values().filter(|vm| !vm.slots.is_empty()) {
            self.violation(format!("slots left at the end: {vm:?}"));
        }
    }

    /// The last calls for a disk.
    pub(crate) fn story(&self, disk: &str) -> String {
        let history = self.control().history_after(0);
        let own = history
            .iter()
            .rev()
            .filter(|event| event.disk.as_deref() == Some(disk));
        let mut last: Vec<String> = own
            .take(12)
            .map(|event| {
                let vm = event.vm.as_deref().unwrap_or("");
                let code = event.code.as_deref().unwrap_or("ok");
                format!("{} ms {} {vm} {code}", event.at_ms, event.action)
            })
            .collect();
        last.reverse();
        format!("its last calls: {}", last.join(" | "))
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
