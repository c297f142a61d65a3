//! The cloud's books: disks, VMs, what is in flight. Pure: no clock, no I/O; a change is begun by a call and ended by
//! [`State::finish`] when its time has come.
//!
//! ```text
//!            CreateVolume           DetachVolume            DeleteVolume
//! (nothing) ------------> creating -> in-use ----> ... -> available ----> deleting -> (nothing)
//!                                      ^   \ ExtendVolumeSize (attachment `attaching`, then size + 100)
//!                                      AttachVolume
//! ```

mod changes;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::code::Code;

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
    #[serde(default)]
    pub unique_id: String,
    /// GiB.
    #[serde(default = "smallest")]
    pub size: u32,
    /// `diskType` as answers write it.
    #[serde(default = "flash")]
    pub disk_type: String,
    /// `availabilityZone`.
    #[serde(default)]
    pub zone: String,
    /// `accountingType`.
    #[serde(default = "hourly")]
    pub accounting: String,
    /// `nextMonthAccountingType`.
    #[serde(default = "hourly")]
    pub next_accounting: String,
    /// `description`.
    #[serde(default)]
    pub description: String,
    /// `createTime`.
    #[serde(default)]
    pub created: String,
    /// The attachment, from the moment it begins to the moment it is gone.
    pub attachment: Option<AttachmentRecord>,
    /// What is in flight.
    pub change: Option<Change>,
}

fn smallest() -> u32 {
    100
}

fn flash() -> String {
    "Standard Flash Storage A".to_owned()
}

fn hourly() -> String {
    "2".to_owned()
}

/// Where a disk is plugged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentRecord {
    /// `instanceId`.
    pub vm: String,
    /// SCSI target on controller 0.
    #[serde(default)]
    pub target: u8,
    /// `attachTime`.
    #[serde(default)]
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
    /// VMs of the configuration that were deleted or renamed: a restart does not bring them back.
    #[serde(default)]
    pub retired: BTreeSet<String>,
    /// What changed since the books were last written.
    #[serde(skip)]
    pub(super) touched: Touched,
}

/// Names of records that changed; no part of what the books say, so any two are equal.
#[derive(Debug, Clone, Default)]
pub(super) struct Touched {
    pub(super) disks: BTreeSet<String>,
    pub(super) vms: BTreeSet<String>,
}

impl PartialEq for Touched {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Touched {}

/// An error answer: code and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `Code`.
    pub code: String,
    /// `Message`.
    pub message: String,
}

impl Refusal {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self::named(code.as_str(), message)
    }

    /// With a code that the API never answers by itself.
    pub(super) fn named(code: &str, message: impl Into<String>) -> Self {
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
    /// A disk that can be seen.
    pub fn disk(&self, name: &str) -> Result<&DiskRecord, Refusal> {
        self.disks.get(name).ok_or_else(|| {
            Refusal::new(
                Code::VolumeNotFound,
                format!("The volume ID '{name}' does not exist."),
            )
        })
    }

    /// A VM.
    pub fn vm(&self, name: &str) -> Result<&VmRecord, Refusal> {
        self.vms.get(name).ok_or_else(|| {
            Refusal::new(
                Code::InstanceNotFound,
                format!("The instance ID '{name}' does not exist."),
            )
        })
    }

    /// Checks that a VM can take an operation, and that nothing else is in flight on it.
    pub fn vm_ready(&self, name: &str, processing: bool) -> Result<&VmRecord, Refusal> {
        let vm = self.vm(name)?;
        if !matches!(vm.state.as_str(), "running" | "stopped") {
            return Err(Refusal::new(
                Code::InstanceState,
                format!("The instance '{name}' is {}.", vm.state),
            ));
        }
        if processing && !vm.busy.is_empty() {
            return Err(Refusal::new(
                Code::InstanceProcessing,
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
                Code::VolumeProcessing,
                format!("The volume '{name}' is being processed."),
            )),
        }
    }
}

/// The answer to a name that is taken (presumed by analogy with other resources).
pub(super) fn duplicate(name: &str) -> Refusal {
    Refusal::new(
        Code::DuplicateVolume,
        format!("The volume '{name}' already exists."),
    )
}
