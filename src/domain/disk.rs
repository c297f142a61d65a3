//! Disks and VMs as the cloud reports them.

use std::fmt;

use super::device::ScsiAddress;
use super::id::{DiskName, VmName};
use super::journal::{Phase, lent_to};
use super::size::DiskSize;
use super::topology::Zone;

/// `status` of a disk (`DescribeVolumes`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DiskStatus {
    /// Being made.
    Creating,
    /// Attached to a VM, or on its way.
    InUse,
    /// Detached.
    Available,
    /// Anything else the API says, such as `configuring`.
    Other(String),
}

/// `status` of an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AttachmentStatus {
    /// On its way; also shown while `ExtendVolumeSize` runs.
    Attaching,
    /// Usable by the VM.
    Attached,
    /// Leaving the VM.
    Detaching,
    /// Anything else the API says.
    Other(String),
}

/// One attachment of a disk; this cloud never shows more than one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The VM.
    pub vm: VmName,
    /// The VM's stable id, where the API gives it.
    pub vm_unique_id: String,
    /// Where the attachment stands.
    pub status: AttachmentStatus,
}

/// A disk as `DescribeVolumes` reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// `volumeId`.
    pub name: DiskName,
    /// `volumeUniqueId`: survives a rename.
    pub unique_id: String,
    /// `size`.
    pub size: DiskSize,
    /// `diskType`: the name, not the request code.
    pub disk_type: String,
    /// `availabilityZone`.
    pub zone: Zone,
    /// `status`.
    pub status: DiskStatus,
    /// `attachmentSet`: the attachment, if any.
    pub attachment: Option<Attachment>,
    /// `description`: the journal.
    pub description: String,
    /// `accountingType`.
    pub accounting: Option<Accounting>,
    /// `nextMonthAccountingType`: what a change will become.
    pub next_accounting: Option<Accounting>,
}

impl Disk {
    /// The phase in the journal.
    #[must_use]
    pub fn phase(&self) -> Phase {
        Phase::of(&self.description)
    }

    /// Whether an attachment to `vm` belongs to the driver alone (its birth there, or a lending to be grown), so that it
    /// may end at any time.
    #[must_use]
    pub fn would_be_ours_on(&self, vm: &VmName) -> bool {
        self.phase() == Phase::New || lent_to(&self.description, vm)
    }

    /// Whether the attachment that there is belongs to the driver alone; any other one may be ended only by
    /// ControllerUnpublish.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.holder().is_some_and(|vm| self.would_be_ours_on(vm))
    }

    /// Whether the disk is attached to the VM that it is lent to.
    #[must_use]
    pub fn is_lent(&self) -> bool {
        self.phase() == Phase::Growing && self.is_ours()
    }

    /// Whether the disk is attached to a VM that neither a publish nor the journal's lending explains: a publish on its
    /// way, which has yet to write the journal, or a lending whose mark was written over. Nobody has been told that
    /// the disk is published.
    #[must_use]
    pub fn is_stray(&self) -> bool {
        let unexplained = matches!(self.phase(), Phase::Growing | Phase::Free);
        unexplained && self.holder().is_some() && !self.is_ours()
    }

    /// The VM that holds the disk in any attachment state.
    #[must_use]
    pub fn holder(&self) -> Option<&VmName> {
        self.attachment.as_ref().map(|attachment| &attachment.vm)
    }

    /// Fully attached to `vm` and at rest.
    #[must_use]
    pub fn is_attached_to(&self, vm: &VmName) -> bool {
        self.status == DiskStatus::InUse
            && self.attachment.as_ref().is_some_and(|attachment| {
                attachment.vm == *vm && attachment.status == AttachmentStatus::Attached
            })
    }

    /// Fully attached to some VM and at rest.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.holder().is_some_and(|vm| self.is_attached_to(vm))
    }

    /// Detached and at rest.
    #[must_use]
    pub fn is_detached(&self) -> bool {
        self.status == DiskStatus::Available && self.attachment.is_none()
    }

    /// At rest: no operation is running on it as far as the API shows.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.is_detached() || self.is_attached()
    }
}

/// How a disk is billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Accounting {
    /// By the month; the API's `1`.
    Monthly,
    /// By the hour; the API's `2`.
    Hourly,
}

impl fmt::Display for Accounting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Monthly => "monthly",
            Self::Hourly => "hourly",
        })
    }
}

/// `instanceState` of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum VmState {
    /// Running.
    Running,
    /// Stopped.
    Stopped,
    /// Anything else: pending, terminated, waiting, creating, warning, suspending, import_error.
    Other(String),
}

impl fmt::Display for VmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Other(state) => state,
        })
    }
}

/// A VM as `DescribeInstances` reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    /// `instanceId`.
    pub name: VmName,
    /// `instanceUniqueId`: survives a rename.
    pub unique_id: String,
    /// `instanceState`.
    pub state: VmState,
    /// `placement/availabilityZone`.
    pub zone: Zone,
    /// Additional disks in `blockDeviceMapping`, on their way or attached.
    pub disks: Vec<DiskName>,
}

impl Vm {
    /// Whether `CreateVolume`, `AttachVolume` and `DetachVolume` accept this VM.
    #[must_use]
    pub fn can_hold_disks(&self) -> bool {
        matches!(self.state, VmState::Running | VmState::Stopped)
    }
}

/// One row of a VM's `blockDeviceMapping` (`DescribeInstanceAttribute`), the only source of slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// `deviceName`.
    pub address: ScsiAddress,
    /// `ebs/volumeId`; the boot disk has none.
    pub disk: Option<DiskName>,
    /// `ebs/volumeUniqueId`.
    pub disk_unique_id: String,
}

/// What `CreateVolume` is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDisk {
    /// The name that makes the call idempotent.
    pub name: DiskName,
    /// A multiple of 100 GiB.
    pub size: DiskSize,
    /// The request code of the type, `2` to `9` or a newer one.
    pub type_code: String,
    /// Billing.
    pub accounting: Accounting,
    /// The VM that the disk is born on.
    pub anchor: VmName,
    /// The journal's first entry.
    pub description: String,
}
