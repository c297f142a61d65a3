//! Why the controller could not do it, and which gRPC code that is.
//!
//! The provisioner takes Canceled, DeadlineExceeded, Unavailable and Aborted of CreateVolume as "may be running" and
//! everything else as "nothing is left behind"; the attacher and the resizer read the same codes as "not final". So an
//! error after which a disk may exist, or an operation may run, has one of those codes.

use thiserror::Error;
use tonic::Code;
use tracing::Level;

use crate::cloud::{CallError, Rejection};
use crate::domain::size::{DiskSize, SizeError};
use crate::fleet::FleetError;

/// Every way in which a controller RPC fails after its request was found to be sound.
#[derive(Debug, Clone, Error)]
pub enum ControllerError {
    /// The cloud could not be asked, or did not finish.
    #[error(transparent)]
    Fleet(FleetError),
    /// The API does not accept the driver's keys.
    #[error(
        "the computing API does not accept the driver's keys; expected both keys of one pair that is in force, and a \
         clock that is right: correct the Secret (NIFCLOUD_ACCESS_KEY_ID, NIFCLOUD_SECRET_ACCESS_KEY) or the clock"
    )]
    Keys {
        /// The API's answer.
        source: CallError,
    },
    /// CreateVolume cannot tell whether its disk exists.
    #[error(
        "disk {disk} may exist, which could not be found out: {reason}; retry to find it or to make it"
    )]
    MayExist {
        /// The disk.
        disk: String,
        /// What stood in the way.
        reason: String,
    },
    /// No such disk: proven by the API.
    #[error(
        "disk {disk} does not exist in this region; check the volume handle and NIFCLOUD_REGION, and whether somebody \
         deleted or renamed the disk"
    )]
    NoDisk {
        /// The disk.
        disk: String,
    },
    /// No such VM: proven by the API.
    #[error(
        "VM {vm} does not exist in this region; node ids are VM names (InstanceId): check that the node is named as \
         its VM, and whether somebody deleted or renamed the VM"
    )]
    NoVm {
        /// The VM.
        vm: String,
    },
    /// A disk of this claim's name that this driver did not make.
    #[error(
        "a disk of the name {disk} exists that this driver did not make (description {description:?}); it was left \
         alone: rename or delete it in the control panel"
    )]
    NotOurs {
        /// The disk.
        disk: String,
        /// Its description.
        description: String,
    },
    /// The disk exists with other properties.
    #[error(
        "disk {disk} exists already with {what} {found}; asked for {asked}; use another name, or ask for what exists"
    )]
    Different {
        /// The disk.
        disk: String,
        /// The property.
        what: &'static str,
        /// What it is.
        found: String,
        /// What was asked for.
        asked: String,
    },
    /// The selected VM has no free slot.
    #[error(
        "VM {vm} has no free slot: it holds {held} of at most 14 additional disks; another node must be chosen, or \
         disks detached"
    )]
    Full {
        /// The VM.
        vm: String,
        /// Its disks.
        held: usize,
    },
    /// The selected VM cannot take a disk.
    #[error(
        "VM {vm}, the selected node, cannot take a disk: {found}; another node must be chosen, or the VM started"
    )]
    Unfit {
        /// The VM.
        vm: String,
        /// Its state in words.
        found: String,
    },
    /// No VM can give birth to the disk, or hold it while it grows.
    #[error(
        "no running VM with a free slot in {zones}: a NIFCLOUD disk is made and grown while attached to a VM of its \
         zone; start a VM there or detach disks"
    )]
    NoAnchor {
        /// The zones, in words.
        zones: String,
    },
    /// None of the topology terms has our zone segment.
    #[error(
        "none of the requested topologies has the segment topology.additional-storage.csi.nifcloud.com/zone: check \
         that the node plugin runs on the nodes and knows its zone, and the StorageClass's allowedTopologies"
    )]
    NoZone,
    /// The API refused, for good as far as its code tells.
    #[error(
        "the computing API refused what {disk} needs; nothing was changed: look up the code, correct the cause and retry"
    )]
    Refused {
        /// The disk.
        disk: String,
        /// The API's answer.
        source: CallError,
    },
    /// The API answers server errors again and again.
    #[error("the computing API keeps failing for disk {disk}; retry later")]
    Failing {
        /// The disk.
        disk: String,
        /// The last answer.
        source: CallError,
    },
    /// Published on another node.
    #[error(
        "disk {disk} is attached to VM {holder}, not to {wanted}; it must be unpublished there first (if nothing uses \
         it there, detach it in the control panel)"
    )]
    AttachedElsewhere {
        /// The disk.
        disk: String,
        /// The VM that holds it.
        holder: String,
        /// The VM asked for.
        wanted: String,
    },
    /// Delete of a disk that is in use.
    #[error(
        "disk {disk} is attached to VM {holder} and was published; it must be unpublished before it can be deleted"
    )]
    InUse {
        /// The disk.
        disk: String,
        /// The VM that holds it.
        holder: String,
    },
    /// Disk and VM are in different zones.
    #[error(
        "disk {disk} is in zone {zone}, VM {vm} in zone {vm_zone}; a disk can be attached only in its own zone: \
         schedule the pod to a node of {zone}"
    )]
    OtherZone {
        /// The disk.
        disk: String,
        /// Its zone.
        zone: String,
        /// The VM.
        vm: String,
        /// The VM's zone.
        vm_zone: String,
    },
    /// A detached disk that this driver may not touch.
    #[error(
        "disk {disk} was made by hand (description {description:?}) and is detached; the driver grows such disks only \
         while a pod uses them: start the pod and retry"
    )]
    ForeignOffline {
        /// The disk.
        disk: String,
        /// Its description.
        description: String,
    },
    /// No size of this disk satisfies the range.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// A disk cannot shrink.
    #[error("disk {disk} has {size} already, above limit_bytes {limit}; a disk cannot shrink")]
    AboveLimit {
        /// The disk.
        disk: String,
        /// Its size.
        size: DiskSize,
        /// The limit in bytes.
        limit: u64,
    },
    /// Attached, but the VM's slots do not show it.
    #[error(
        "disk {disk} is attached to VM {vm}, but the VM's blockDeviceMapping does not show its slot; retry"
    )]
    NoSlot {
        /// The disk.
        disk: String,
        /// The VM.
        vm: String,
    },
    /// Somebody else changed the disk at the same time.
    #[error("disk {disk} was changed by somebody else at the same time: {what}; retry")]
    Moved {
        /// The disk.
        disk: String,
        /// What changed.
        what: String,
    },
    /// The caller's time is over; the job goes on.
    #[error("{operation} of disk {disk} is still running; retry to wait for its end")]
    StillRunning {
        /// The RPC.
        operation: &'static str,
        /// The disk.
        disk: String,
        /// What keeps the job from its end, where that is known: the API cannot be used.
        #[source]
        trouble: Option<Box<CallError>>,
    },
    /// Not a token that ListVolumes gave.
    #[error("starting_token {token:?} is not one that this driver gave; list again from the start")]
    BadToken {
        /// The token as it came.
        token: String,
    },
}

impl From<FleetError> for ControllerError {
    fn from(error: FleetError) -> Self {
        match error {
            FleetError::Call(source) if source.rejection() == Some(Rejection::Auth) => {
                Self::Keys { source }
            }
            error => Self::Fleet(error),
        }
    }
}

impl ControllerError {
    /// The row of the error table.
    #[must_use]
    pub fn verdict(&self) -> (Code, Level) {
        match self {
            Self::Fleet(error) => fleet_verdict(error),
            Self::Keys { source } => call_verdict(source),
            Self::MayExist { .. } | Self::Failing { .. } | Self::NoSlot { .. } => {
                (Code::Unavailable, Level::WARN)
            }
            Self::NoDisk { .. } | Self::NoVm { .. } => (Code::NotFound, Level::INFO),
            Self::NotOurs { .. } => (Code::AlreadyExists, Level::WARN),
            Self::Different { .. } => (Code::AlreadyExists, Level::INFO),
            Self::Full { .. } | Self::Unfit { .. } | Self::NoAnchor { .. } | Self::NoZone => {
                (Code::ResourceExhausted, Level::WARN)
            }
            Self::Refused { .. } => (Code::FailedPrecondition, Level::WARN),
            Self::AttachedElsewhere { .. } | Self::InUse { .. } | Self::OtherZone { .. } => {
                (Code::FailedPrecondition, Level::INFO)
            }
            Self::ForeignOffline { .. } => (Code::FailedPrecondition, Level::INFO),
            Self::Size(_) | Self::AboveLimit { .. } => (Code::OutOfRange, Level::INFO),
            Self::Moved { .. } | Self::BadToken { .. } => (Code::Aborted, Level::INFO),
            Self::StillRunning { trouble, .. } => {
                let level = trouble.as_ref().map_or(Level::INFO, |_| Level::WARN);
                (Code::DeadlineExceeded, level)
            }
        }
    }

    /// Whether the caller may conclude that nothing is left behind.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(
            self.verdict().0,
            Code::Cancelled | Code::DeadlineExceeded | Code::Unavailable | Code::Aborted
        )
    }
}

fn fleet_verdict(error: &FleetError) -> (Code, Level) {
    match error {
        FleetError::Deadline { .. } => (Code::DeadlineExceeded, Level::WARN),
        FleetError::Call(error) => call_verdict(error),
    }
}

fn call_verdict(error: &CallError) -> (Code, Level) {
    match error {
        CallError::NotSent { .. } | CallError::Unknown { .. } => (Code::Unavailable, Level::WARN),
        CallError::Rejected { kind, .. } => match kind {
            Rejection::VolumeNotFound | Rejection::InstanceNotFound => {
                (Code::NotFound, Level::INFO)
            }
            Rejection::AlreadyAttached | Rejection::AlreadyDetached | Rejection::DuplicateName => {
                (Code::Aborted, Level::INFO)
            }
            Rejection::Processing | Rejection::Throttled | Rejection::Server => {
                (Code::Unavailable, Level::WARN)
            }
            // Wrong keys say nothing about disks; and the operator mends them while claims wait.
            Rejection::Auth => (Code::Unavailable, Level::ERROR),
            Rejection::Client => (Code::FailedPrecondition, Level::WARN),
        },
    }
}
