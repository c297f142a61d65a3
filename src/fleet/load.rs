//! Which slots this process has promised, so that a burst of claims spreads over VMs.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::disk::Vm;
use crate::domain::id::{DiskName, VmName};

type Promised = HashMap<VmName, HashMap<DiskName, usize>>;

/// A slot that is promised to one disk until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    vm: VmName,
    disk: DiskName,
    load: Load,
}

impl Reservation {
    /// The VM whose slot it is.
    #[must_use]
    pub fn vm(&self) -> &VmName {
        &self.vm
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut promised = self.load.lock();
        let Some(disks) = promised.get_mut(&self.vm) else {
            return;
        };
        if let Some(count) = disks.get_mut(&self.disk) {
            *count -= 1;
            if *count == 0 {
                disks.remove(&self.disk);
            }
        }
        if disks.is_empty() {
            promised.remove(&self.vm);
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Load {
    slots: usize,
    promised: Arc<Mutex<Promised>>,
}

impl Load {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            slots,
            promised: Arc::default(),
        }
    }

    pub(super) fn free(&self, vm: &Vm) -> usize {
        self.slots.saturating_sub(used(&self.lock(), vm))
    }

    /// `None`: the VM is full. A disk that is on the VM already needs no further slot.
    pub(super) fn reserve(&self, vm: &Vm, disk: &DiskName) -> Option<Reservation> {
        let mut promised = self.lock();
        let known = vm.disks.contains(disk)
            || promised
                .get(&vm.name)
                .is_some_and(|disks| disks.contains_key(disk));
        if !known && used(&promised, vm) >= self.slots {
            return None;
        }
        let disks = promised.entry(vm.name.clone()).or_default();
        *disks.entry(disk.clone()).or_insert(0) += 1;
        Some(Reservation {
            vm: vm.name.clone(),
            disk: disk.clone(),
            load: self.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Promised> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Disks on the VM or promised to it, each counted once.
fn used(promised: &Promised, vm: &Vm) -> usize {
    let on: HashSet<&DiskName> = vm.disks.iter().collect();
    let coming = promised
        .get(&vm.name)
        .map_or(0, |disks| disks.keys().filter(|d| !on.contains(d)).count());
    on.len() + coming
}
