//! What changes the books. Every change is noted in `touched`, so that the store writes what changed and no more.

use std::collections::{BTreeMap, BTreeSet};

use super::super::code::Code;
use super::{
    AttachmentRecord, Change, DiskRecord, Refusal, State, TARGETS, Touched, VmRecord, duplicate,
};

impl State {
    /// An opaque stable id.
    pub fn unique_id(&mut self, prefix: &str) -> String {
        self.next_id += 1;
        // Spread so that ids do not look like a sequence (nobody may rely on one).
        let mixed = self.next_id.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        format!("{prefix}-{:08x}", mixed >> 32)
    }

    /// What changed since the last call.
    pub(in super::super) fn take_touched(&mut self) -> Touched {
        std::mem::take(&mut self.touched)
    }

    pub(in super::super) fn disk_mut(&mut self, name: &str) -> Option<&mut DiskRecord> {
        let disk = self.disks.get_mut(name)?;
        self.touched.disks.insert(name.to_owned());
        Some(disk)
    }

    pub(in super::super) fn vm_mut(&mut self, name: &str) -> Option<&mut VmRecord> {
        let vm = self.vms.get_mut(name)?;
        self.touched.vms.insert(name.to_owned());
        Some(vm)
    }

    pub(in super::super) fn insert_disk(&mut self, disk: DiskRecord) {
        self.touched.disks.insert(disk.name.clone());
        self.disks.insert(disk.name.clone(), disk);
    }

    pub(in super::super) fn remove_disk(&mut self, name: &str) -> Option<DiskRecord> {
        let disk = self.disks.remove(name)?;
        self.touched.disks.insert(name.to_owned());
        Some(disk)
    }

    /// Adds a VM, or makes a new one of the same name.
    pub fn insert_vm(&mut self, name: &str, zone: &str, state: &str) {
        let unique_id = self.unique_id("i");
        self.touched.vms.insert(name.to_owned());
        self.retired.remove(name);
        self.vms.insert(
            name.to_owned(),
            VmRecord {
                name: name.to_owned(),
                unique_id,
                zone: zone.to_owned(),
                state: state.to_owned(),
                slots: BTreeMap::new(),
                busy: BTreeSet::new(),
            },
        );
    }

    /// The VM's lowest free slot.
    pub fn free_target(&self, vm: &str) -> Result<u8, Refusal> {
        let slots = &self.vm(vm)?.slots;
        let free = TARGETS
            .into_iter()
            .find(|target| !slots.contains_key(target));
        free.ok_or_else(|| {
            Refusal::new(
                Code::NoSlot,
                format!("The instance '{vm}' has no free slot for a volume."),
            )
        })
    }

    /// Begins to plug a disk into the VM's lowest free slot.
    pub fn begin_attach(
        &mut self,
        disk: &str,
        vm: &str,
        now: &str,
        change: Change,
    ) -> Result<(), Refusal> {
        let target = self.free_target(vm)?;
        if let Some(record) = self.vm_mut(vm) {
            record.slots.insert(target, disk.to_owned());
            record.busy.insert(disk.to_owned());
        }
        if let Some(disk) = self.disk_mut(disk) {
            disk.attachment = Some(AttachmentRecord {
                vm: vm.to_owned(),
                target,
                since: now.to_owned(),
            });
            disk.change = Some(change);
        }
        Ok(())
    }

    /// Begins another change; the VM that holds the disk is busy with it.
    pub fn begin(&mut self, disk: &str, change: Change) {
        let Some(record) = self.disk_mut(disk) else {
            return;
        };
        record.change = Some(change);
        let holder = record.attachment.as_ref().map(|at| at.vm.clone());
        if let Some(vm) = holder.and_then(|vm| self.vm_mut(&vm)) {
            vm.busy.insert(disk.to_owned());
        }
    }

    /// Ends the change that is in flight on a disk. Answers what ended.
    pub fn finish(&mut self, name: &str) -> Option<Change> {
        let disk = self.disk_mut(name)?;
        let change = disk.change.take()?;
        let holder = disk
            .attachment
            .as_ref()
            .map(|at| (at.vm.clone(), at.target));
        match change {
            Change::Create | Change::Attach => {}
            Change::Extend => disk.size += 100,
            Change::Detach => disk.attachment = None,
            Change::Delete => {
                self.remove_disk(name);
            }
        }
        if let Some((vm, target)) = holder
            && let Some(vm) = self.vm_mut(&vm)
        {
            vm.busy.remove(name);
            if change == Change::Detach {
                vm.slots.remove(&target);
            }
        }
        Some(change)
    }

    /// Gives up the change that is in flight because the disk behind it failed: a disk that could not be plugged is
    /// detached, any other stays as it was.
    pub fn abandon(&mut self, name: &str) {
        let Some(disk) = self.disk_mut(name) else {
            return;
        };
        match disk.change {
            Some(Change::Create | Change::Attach) => {
                disk.change = Some(Change::Detach);
                self.finish(name);
            }
            Some(Change::Detach | Change::Extend | Change::Delete) => {
                disk.change = None;
                let holder = disk.attachment.as_ref().map(|at| at.vm.clone());
                if let Some(vm) = holder.and_then(|vm| self.vm_mut(&vm)) {
                    vm.busy.remove(name);
                }
            }
            None => {}
        }
    }

    /// Removes a VM. Answers the disks that were plugged into it; they still say so, and are to be detached or
    /// removed by the caller.
    pub fn delete_vm(&mut self, name: &str) -> Result<Vec<String>, Refusal> {
        self.vm(name)?;
        self.touched.vms.insert(name.to_owned());
        self.retired.insert(name.to_owned());
        let vm = self.vms.remove(name);
        Ok(vm.map_or_else(Vec::new, |vm| vm.slots.into_values().collect()))
    }

    /// Renames a VM, as `ModifyInstanceAttribute` does.
    pub fn rename_vm(&mut self, from: &str, to: &str) -> Result<(), Refusal> {
        self.vm(from)?;
        if self.vms.contains_key(to) {
            return Err(Refusal::named(
                "Client.InvalidParameterDuplicate.Instance",
                format!("The instance '{to}' already exists."),
            ));
        }
        let Some(mut vm) = self.vms.remove(from) else {
            return Ok(());
        };
        to.clone_into(&mut vm.name);
        self.touched.vms.extend([from.to_owned(), to.to_owned()]);
        self.retired.insert(from.to_owned());
        self.retired.remove(to);
        for disk in vm.slots.values() {
            if let Some(at) = self.disk_mut(disk).and_then(|d| d.attachment.as_mut()) {
                to.clone_into(&mut at.vm);
            }
        }
        self.vms.insert(to.to_owned(), vm);
        Ok(())
    }

    /// Renames a disk, as `ModifyVolumeAttribute` with `volumeName` does.
    pub fn rename_disk(&mut self, from: &str, to: &str) -> Result<(), Refusal> {
        self.disk_ready(from)?;
        if self.disks.contains_key(to) {
            return Err(duplicate(to));
        }
        let Some(mut disk) = self.remove_disk(from) else {
            return Ok(());
        };
        to.clone_into(&mut disk.name);
        if let Some(at) = &disk.attachment
            && let Some(vm) = self.vm_mut(&at.vm)
        {
            vm.slots.insert(at.target, to.to_owned());
        }
        self.insert_disk(disk);
        Ok(())
    }
}
