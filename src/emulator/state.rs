//! The cloud's books: disks, VMs, what is in flight. Pure: no clock, no I/O; a change is begun by a call and ended by
//! [`State::finish`] when its time has come.
//!
//! ```text
//!            CreateVolume           DetachVolume            DeleteVolume
//! (nothing) ------------> creating -> in-use ----> ... -> available ----> deleting -> (nothing)
//!                                      ^   \ ExtendVolumeSize (attachment `attaching`, then size + 100)
//!                                      AttachVolume
//! ```

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Slots a VM offers to additional disks: targets 1 to 15 without 7, the controller's own.
pub(super) const TARGETS: [u8; 14] = [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15];

/// A change that takes time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// CreateVolume.
    Create,
    /// AttachVolume.
    Attach,
    /// DetachVolume.
    Detach,
    /// ExtendVolumeSize.
    Extend,
    /// DeleteVolume.
    Delete,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRecord {
    /// `volumeId`.
    pub name: String,
    /// `volumeUniqueId`.
    pub unique_id: String,
    /// GiB.
    pub size: u32,
    /// `diskType` as answers write it.
    pub disk_type: String,
    /// `availabilityZone`.
    pub zone: String,
    /// `accountingType`.
    pub accounting: String,
    /// `nextMonthAccountingType`.
    pub next_accounting: String,
    /// `description`.
    pub description: String,
    /// `createTime`.
    pub created: String,
    /// The attachment, from the moment it begins to the moment it is gone.
    pub attachment: Option<AttachmentRecord>,
    /// What is in flight.
    pub change: Option<Change>,
}

/// Where a disk is plugged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentRecord {
    /// `instanceId`.
    pub vm: String,
    /// SCSI target on controller 0.
    pub target: u8,
    /// `attachTime`.
    pub since: String,
}

/// A VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRecord {
    /// `instanceId`.
    pub name: String,
    /// `instanceUniqueId`.
    pub unique_id: String,
    /// Zone.
    pub zone: String,
    /// `running`, `stopped` or another state's name.
    pub state: String,
    /// Disks plugged here, by target.
    pub slots: BTreeMap<u8, String>,
    /// Operations in flight on this VM (by disk).
    pub busy: BTreeSet<String>,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// By name.
    pub disks: BTreeMap<String, DiskRecord>,
    /// By name.
    pub vms: BTreeMap<String, VmRecord>,
    /// For unique ids.
    pub next_id: u64,
}

/// An error answer: code and message. Codes marked "invented" in `actions` are this emulator's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `Code`.
    pub code: String,
    /// `Message`.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    #[must_use]
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
        }
    }
}

impl DiskRecord {
    /// `status` in answers.
    #[must_use]
    pub fn status(&self) -> &'static str {
        match (self.change, &self.attachment) {
            (Some(Change::Create), _) => "creating",
            (_, Some(_)) => "in-use",
            (_, None) => "available",
        }
    }

    /// The attachment's `status`.
    #[must_use]
    pub fn attachment_status(&self) -> &'static str {
        match self.change {
            Some(Change::Create | Change::Attach | Change::Extend) => "attaching",
            Some(Change::Detach) => "detaching",
            Some(Change::Delete) | None => "attached",
        }
    }
}

impl State {
    /// An opaque stable id.
    pub fn unique_id(&mut self, prefix: &str) -> String {
        self.next_id += 1;
        // Spread so that ids do not look like a sequence (nobody may rely on one).
        let mixed = self.next_id.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        format!("{prefix}-{:08x}", mixed >> 32)
    }

    /// A disk that can be seen.
    pub fn disk(&self, name: &str) -> Result<&DiskRecord, Refusal> {
        self.disks.get(name).ok_or_else(|| {
            Refusal::new(
                "Client.InvalidParameterNotFound.Volume",
                format!("The volume ID '{name}' does not exist."),
            )
        })
    }

    /// A VM.
    pub fn vm(&self, name: &str) -> Result<&VmRecord, Refusal> {
        self.vms.get(name).ok_or_else(|| {
            Refusal::new(
                "Client.InvalidParameterNotFound.Instance",
                format!("The instance ID '{name}' does not exist."),
            )
        })
    }

    /// Checks that a VM can take an operation, and that nothing else is in flight on it.
    pub fn vm_ready(&self, name: &str, processing: bool) -> Result<&VmRecord, Refusal> {
        let vm = self.vm(name)?;
        if !matches!(vm.state.as_str(), "running" | "stopped") {
            // invented
            return Err(Refusal::new(
                "Client.Inoperable.Instance.IncorrectState",
                format!("The instance '{name}' is {}.", vm.state),
            ));
        }
        if processing && !vm.busy.is_empty() {
            return Err(Refusal::new(
                "Server.ResourceIncorrectState.Instance.Processing",
                format!("The instance '{name}' is being processed."),
            ));
        }
        Ok(vm)
    }

    /// Checks that nothing is in flight on a disk.
    pub fn disk_ready(&self, name: &str) -> Result<&DiskRecord, Refusal> {
        let disk = self.disk(name)?;
        match disk.change {
            None => Ok(disk),
            Some(_) => Err(Refusal::new(
                "Server.ResourceIncorrectState.Volume.Processing",
                format!("The volume '{name}' is being processed."),
            )),
        }
    }

    /// Begins to plug a disk into the VM's lowest free slot.
    pub fn begin_attach(
        &mut self,
        disk: &str,
        vm: &str,
        now: &str,
        change: Change,
    ) -> Result<(), Refusal> {
        let record = self
            .vms
            .get_mut(vm)
            .ok_or_else(|| Refusal::new("Server.InternalError", "vm"))?;
        let target = TARGETS
            .into_iter()
            .find(|target| !record.slots.contains_key(target));
        // invented
        let target = target.ok_or_else(|| {
            Refusal::new(
                "Client.ResourceLimitExceeded.Instance.Volume",
                format!("The instance '{vm}' has no free slot for a volume."),
            )
        })?;
        record.slots.insert(target, disk.to_owned());
        record.busy.insert(disk.to_owned());
        if let Some(disk) = self.disks.get_mut(disk) {
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
        let Some(record) = self.disks.get_mut(disk) else {
            return;
        };
        record.change = Some(change);
        if let Some(vm) = record
            .attachment
            .as_ref()
            .and_then(|at| self.vms.get_mut(&at.vm))
        {
            vm.busy.insert(disk.to_owned());
        }
    }

    /// Ends the change that is in flight on a disk. Answers what ended.
    pub fn finish(&mut self, name: &str) -> Option<Change> {
        let disk = self.disks.get_mut(name)?;
        let change = disk.change.take()?;
        let holder = disk
            .attachment
            .as_ref()
            .map(|at| (at.vm.clone(), at.target));
        match change {
            Change::Create | Change::Attach => {}
            Change::Extend => disk.size += 100,
            Change::Detach => {
                disk.attachment = None;
                if let Some((vm, target)) = &holder
                    && let Some(vm) = self.vms.get_mut(vm)
                {
                    vm.slots.remove(target);
                }
            }
            Change::Delete => {
                self.disks.remove(name);
            }
        }
        if let Some(vm) = holder.and_then(|(vm, _)| self.vms.get_mut(&vm)) {
            vm.busy.remove(name);
        }
        Some(change)
    }

    /// Gives up the change that is in flight because the disk behind it failed.
    pub fn abandon(&mut self, name: &str) {
        let change = self.disks.get(name).and_then(|disk| disk.change);
        match change {
            Some(Change::Create | Change::Attach) => {
                if let Some(disk) = self.disks.get_mut(name) {
                    disk.change = Some(Change::Detach);
                }
                self.finish(name);
            }
            Some(Change::Detach | Change::Extend | Change::Delete) => {
                if let Some(disk) = self.disks.get_mut(name) {
                    disk.change = None;
                    if let Some(vm) = disk
                        .attachment
                        .as_ref()
                        .and_then(|at| self.vms.get_mut(&at.vm))
                    {
                        vm.busy.remove(name);
                    }
                }
            }
            None => {}
        }
    }

    /// Removes a VM; its disks are available afterwards (invented: no source tells).
    pub fn delete_vm(&mut self, name: &str) -> Result<(), Refusal> {
        self.vm(name)?;
        self.vms.remove(name);
        for disk in self.disks.values_mut() {
            if disk.attachment.as_ref().is_some_and(|at| at.vm == name) {
                disk.attachment = None;
                if disk.change != Some(Change::Delete) {
                    disk.change = None;
                }
            }
        }
        Ok(())
    }

    /// Renames a VM, as `ModifyInstanceAttribute` does.
    pub fn rename_vm(&mut self, from: &str, to: &str) -> Result<(), Refusal> {
        self.vm(from)?;
        if self.vms.contains_key(to) {
            return Err(Refusal::new(
                "Client.InvalidParameterDuplicate.Instance",
                to,
            ));
        }
        if let Some(mut vm) = self.vms.remove(from) {
            to.clone_into(&mut vm.name);
            self.vms.insert(to.to_owned(), vm);
        }
        for disk in self.disks.values_mut() {
            if let Some(at) = disk.attachment.as_mut().filter(|at| at.vm == from) {
                to.clone_into(&mut at.vm);
            }
        }
        Ok(())
    }

    /// Renames a disk, as `ModifyVolumeAttribute` with `volumeName` does.
    pub fn rename_disk(&mut self, from: &str, to: &str) -> Result<(), Refusal> {
        self.disk_ready(from)?;
        if self.disks.contains_key(to) {
            return Err(duplicate(to));
        }
        if let Some(mut disk) = self.disks.remove(from) {
            to.clone_into(&mut disk.name);
            if let Some(at) = &disk.attachment
                && let Some(vm) = self.vms.get_mut(&at.vm)
            {
                vm.slots.insert(at.target, to.to_owned());
            }
            self.disks.insert(to.to_owned(), disk);
        }
        Ok(())
    }
}

/// The answer to a name that is taken (presumed by analogy with other resources).
pub(super) fn duplicate(name: &str) -> Refusal {
    Refusal::new(
        "Client.InvalidParameterDuplicate.Volume",
        format!("The volume '{name}' already exists."),
    )
}
