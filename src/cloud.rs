//! Port: what the driver needs of the NIFCLOUD computing API.
//!
//! One call of the API per method, no policy: no waiting, no retry, no idempotency. Those live in [`crate::fleet`].
//! Every mutating call ends in one of three ways, and the caller must treat them differently:
//!
//! | outcome | type | what to do |
//! |---|---|---|
//! | not sent | [`CallError::NotSent`] | nothing happened: safe to repeat |
//! | rejected | [`CallError::Rejected`] | the API answered with a code: nothing was changed |
//! | unknown | [`CallError::Unknown`] | it may have been carried out: read before deciding |

pub mod nifcloud;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use thiserror::Error;

use crate::domain::disk::{Accounting, Disk, NewDisk, Slot, Vm};
use crate::domain::id::{DiskName, VmName};

/// The computing API. Implementations send each call once and classify its outcome.
///
/// Cancellation: dropping the future of a mutating call leaves its outcome unknown.
#[async_trait]
pub trait Cloud: Send + Sync + fmt::Debug {
    /// `DescribeVolumes` for the given names; an empty list reads all disks of the region. One unknown name fails
    /// the whole call with [`Rejection::VolumeNotFound`]. An answer that lacks a name without saying that it does
    /// not exist proves nothing and is [`CallError::Unknown`]: every name asked for is in an `Ok`.
    async fn describe_disks(&self, names: &[DiskName]) -> Result<Vec<Disk>, CallError>;

    /// `DescribeInstances` for the given names; an empty list reads all VMs of the region. Unknown and lacking names
    /// fail the call as in [`Cloud::describe_disks`].
    async fn describe_vms(&self, names: &[VmName]) -> Result<Vec<Vm>, CallError>;

    /// `DescribeInstanceAttribute` with `blockDeviceMapping`: the slots of one VM.
    async fn describe_slots(&self, vm: &VmName) -> Result<Vec<Slot>, CallError>;

    /// `CreateVolume`: asynchronous; the disk appears as `creating`, attached to its anchor.
    async fn create_disk(&self, disk: &NewDisk) -> Result<(), CallError>;

    /// `DeleteVolume`: asynchronous; the disk may stay visible for a while.
    async fn delete_disk(&self, disk: &DiskName) -> Result<(), CallError>;

    /// `AttachVolume`: asynchronous.
    async fn attach_disk(&self, disk: &DiskName, vm: &VmName) -> Result<(), CallError>;

    /// `DetachVolume` with `Agreement=true`: asynchronous.
    async fn detach_disk(&self, disk: &DiskName, vm: &VmName) -> Result<(), CallError>;

    /// `ExtendVolumeSize` with `NiftyReboot=false`: asynchronous; adds exactly 100 GiB. Not idempotent.
    async fn extend_disk(&self, disk: &DiskName) -> Result<(), CallError>;

    /// `ModifyVolumeAttribute` with `description`.
    async fn set_description(&self, disk: &DiskName, description: &str) -> Result<(), CallError>;

    /// `ModifyVolumeAttribute` with `accountingType`; takes effect next month.
    async fn set_accounting(
        &self,
        disk: &DiskName,
        accounting: Accounting,
    ) -> Result<(), CallError>;

    /// `DescribeAvailabilityZones`: the names of the region's zones; also the cheapest check of endpoint and keys.
    async fn describe_zones(&self) -> Result<Vec<String>, CallError>;
}

/// How a call failed.
#[derive(Debug, Clone, Error)]
pub enum CallError {
    /// The request did not leave this machine (no connection, no credentials): nothing happened.
    #[error("{action} was not sent: {reason}")]
    NotSent {
        /// The API action.
        action: &'static str,
        /// Why, without secrets.
        reason: String,
    },
    /// The API answered with an error code: the action was not carried out.
    #[error("{action} was refused: {code}: {message}")]
    Rejected {
        /// The API action.
        action: &'static str,
        /// What the code means to the driver.
        kind: Rejection,
        /// The API's `Code`, verbatim.
        code: String,
        /// The API's `Message`, bounded.
        message: String,
        /// `Retry-After`, where the API gave it.
        retry_after: Option<Duration>,
    },
    /// The request may have been carried out: time-out, lost connection, an answer that is not the API's
    /// (a gateway's 502), or a server error that may have come after the commit.
    #[error("the outcome of {action} is unknown: {reason}")]
    Unknown {
        /// The API action.
        action: &'static str,
        /// What was seen instead of an answer, without secrets.
        reason: String,
        /// Whether the service asked to slow down (429, 503).
        throttled: bool,
    },
}

/// The meaning of an error code. Codes are matched by `Code`, never by HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rejection {
    /// `Client.InvalidParameterNotFound.Volume`: no disk of that name. Proof of absence.
    VolumeNotFound,
    /// `Client.InvalidParameterNotFound.Instance`: no VM of that name. Proof of absence.
    InstanceNotFound,
    /// `Server.Inoperable.Volume.AlreadyAttached`: to which VM must be read.
    AlreadyAttached,
    /// `Client.Inoperable.Volume.DetachedFromInstance`.
    AlreadyDetached,
    /// `Client.InvalidParameterDuplicate.*`: a disk of that name exists.
    DuplicateName,
    /// `Server.ResourceIncorrectState.*.Processing`: another operation is running; wait and retry.
    Processing,
    /// Too many requests; wait and retry.
    Throttled,
    /// The key or signature was refused (`Client.AuthFailure*` and kin).
    Auth,
    /// Any other `Client.*`: final.
    Client,
    /// Any other `Server.*`, or a code of no known form: may pass.
    Server,
}

impl CallError {
    /// The rejection's meaning, if the API answered.
    #[must_use]
    pub fn rejection(&self) -> Option<Rejection> {
        match self {
            Self::Rejected { kind, .. } => Some(*kind),
            Self::NotSent { .. } | Self::Unknown { .. } => None,
        }
    }

    /// Whether a mutating call may have been carried out.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Unknown { .. } => true,
            // An unclassified server error may have come after the commit.
            Self::Rejected { kind, .. } => *kind == Rejection::Server,
            Self::NotSent { .. } => false,
        }
    }

    /// Whether the API cannot be used at present, whatever is asked of it.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            Self::NotSent { .. } | Self::Unknown { .. } => true,
            Self::Rejected { kind, .. } => matches!(kind, Rejection::Auth | Rejection::Throttled),
        }
    }

    /// Whether waiting and repeating (after reading, where the outcome is unknown) may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NotSent { .. } | Self::Unknown { .. } => true,
            Self::Rejected { kind, .. } => match kind {
                Rejection::Processing | Rejection::Throttled | Rejection::Server => true,
                Rejection::VolumeNotFound
                | Rejection::InstanceNotFound
                | Rejection::AlreadyAttached
                | Rejection::AlreadyDetached
                | Rejection::DuplicateName
                | Rejection::Auth
                | Rejection::Client => false,
            },
        }
    }
}
