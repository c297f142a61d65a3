//! Why the node could not do it, and which gRPC code that is.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;
use tonic::Code;
use tracing::Level;

use crate::host::HostError;

/// What to do about a refused disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// The disk carries another volume's file system.
    OverrideIdentity,
    /// The disk does not carry what this volume had on this node before.
    Forget,
    /// The disk carries something that is not asked for.
    EmptyIt,
    /// The disk is neither blank nor known.
    SetNonZero,
    /// Something is wrong with the disk or the slot.
    Look,
    /// A reader wants a file system that nobody has made.
    WriteFirst,
    /// A disk in use has become another.
    StopPods,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OverrideIdentity => {
                "Look in the control panel which disk is in this slot; if this disk is meant, use a PV whose \
                 attribute identityCheck is \"off\""
            }
            Self::Forget => {
                "Look in the control panel which disk is in this slot; if this disk is meant, remove that file on the \
                 node, or use a PV whose attribute identityCheck is \"off\""
            }
            Self::EmptyIt => {
                "Wipe the disk by hand if nothing on it is needed, or use a PV that asks for what is there"
            }
            Self::SetNonZero => {
                "If nothing on the disk is needed, set nonZeroBlankDisk: \"format\" in the StorageClass or on the PV"
            }
            Self::Look => "Look at the kernel's log and at the disk in the control panel",
            Self::WriteFirst => "Publish the volume writable once, so that a file system can be made",
            Self::StopPods => "Stop its pods and let the volume be unstaged",
        })
    }
}

/// Every way in which a node RPC fails after its request was found to be sound.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NodeError {
    /// The machine refused or failed.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Nothing of this volume is at the path.
    #[error("volume {volume} is not at {path:?} on this node: {found}")]
    NotHere {
        /// The volume.
        volume: String,
        /// Where it was looked for.
        path: PathBuf,
        /// What is there instead.
        found: String,
    },
    /// The volume is not staged here at all.
    #[error("volume {volume} is not staged on this node")]
    NotOnNode {
        /// The volume.
        volume: String,
    },
    /// Publish without a good stage.
    #[error(
        "volume {volume} is not staged at {staging:?}: {found}; expected the mount that NodeStageVolume makes: \
         stage it again"
    )]
    NotStaged {
        /// The volume.
        volume: String,
        /// The staging path.
        staging: PathBuf,
        /// What is there instead.
        found: String,
    },
    /// The disk in the slot is not the volume's disk.
    #[error(
        "{device:?} is not the disk of volume {volume}: expected {expected}, found {found}; nothing was changed. \
         {advice}"
    )]
    WrongDisk {
        /// The device.
        device: PathBuf,
        /// The volume.
        volume: String,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
        /// What to do.
        advice: Advice,
    },
    /// The disk holds something that may not be overwritten.
    #[error(
        "{device:?} of volume {volume} holds {found}; expected {expected}; nothing was changed. {advice}"
    )]
    WrongContent {
        /// The device.
        device: PathBuf,
        /// The volume.
        volume: String,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
        /// What to do.
        advice: Advice,
    },
    /// Somebody else uses the disk.
    #[error("{device:?} of volume {volume} is in use by {users}; stop them and retry")]
    InUse {
        /// The device.
        device: PathBuf,
        /// The volume.
        volume: String,
        /// Mount points or holders.
        users: String,
    },
    /// A path is taken by another live device.
    #[error(
        "{path:?} is taken by {found}; expected {expected} for volume {volume}: unmount it by hand if it is a \
         left-over"
    )]
    PathTaken {
        /// The path.
        path: PathBuf,
        /// The volume.
        volume: String,
        /// The device that is there.
        found: String,
        /// The volume's device in words.
        expected: String,
    },
    /// Staged or published already, in another way.
    #[error("volume {volume} is at {path:?} already, as {found}; asked for {asked}")]
    Incompatible {
        /// The volume.
        volume: String,
        /// The path.
        path: PathBuf,
        /// How it is there.
        found: String,
        /// How it was asked for.
        asked: String,
    },
    /// A second pod of a ReadWriteOncePod volume.
    #[error(
        "volume {volume} is published for a single writer at {at} already; \
         SINGLE_NODE_SINGLE_WRITER (ReadWriteOncePod) allows one target"
    )]
    SecondTarget {
        /// The volume.
        volume: String,
        /// Where it is published.
        at: String,
    },
    /// Unstage while targets remain.
    #[error("volume {volume} is still mounted at {at}; unpublish it there first")]
    StillPublished {
        /// The volume.
        volume: String,
        /// Where.
        at: String,
    },
    /// A write-protected disk was asked for writing.
    #[error(
        "{device:?} of volume {volume} is write-protected by the hypervisor; expected a writable disk: \
         publish it read-only or look at the disk in the control panel"
    )]
    WriteProtected {
        /// The device.
        device: PathBuf,
        /// The volume.
        volume: String,
    },
    /// A read-only raw block volume.
    #[error(
        "raw block volume {volume} cannot be published read-only: the kernel lets a bind-mounted device node be \
         written whatever the mount says; publish it writable, or use a file system"
    )]
    ReadOnlyBlock {
        /// The volume.
        volume: String,
    },
    /// Larger than the caller allows.
    #[error("volume {volume} has {actual} bytes, above limit_bytes {limit}; a disk cannot shrink")]
    AboveLimit {
        /// The volume.
        volume: String,
        /// Its size.
        actual: u64,
        /// The limit.
        limit: u64,
    },
    /// The driver's own notes cannot be read or written.
    #[error("cannot {action} the driver's record {path:?}: {reason}")]
    Record {
        /// What was tried, in the infinitive.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// A read took longer than its caller can wait; most often a mount whose device hangs.
    #[error(
        "{what} did not answer within {limit_ms} ms; the device may hang: see the kernel's log"
    )]
    Hangs {
        /// What was asked.
        what: String,
        /// The limit, in milliseconds.
        limit_ms: u128,
    },
}

impl NodeError {
    /// The row of the error table.
    #[must_use]
    pub fn verdict(&self) -> (Code, Level) {
        match self {
            Self::Host(error) => host_verdict(error),
            Self::NotHere { .. } | Self::NotOnNode { .. } => (Code::NotFound, Level::INFO),
            Self::NotStaged { .. } | Self::StillPublished { .. } | Self::SecondTarget { .. } => {
                (Code::FailedPrecondition, Level::INFO)
            }
            Self::WrongDisk { .. } | Self::WrongContent { .. } | Self::PathTaken { .. } => {
                (Code::FailedPrecondition, Level::ERROR)
            }
            Self::InUse { .. } | Self::WriteProtected { .. } => {
                (Code::FailedPrecondition, Level::WARN)
            }
            Self::ReadOnlyBlock { .. } => (Code::FailedPrecondition, Level::INFO),
            Self::Incompatible { .. } => (Code::AlreadyExists, Level::INFO),
            Self::AboveLimit { .. } => (Code::OutOfRange, Level::INFO),
            Self::Record { .. } => (Code::Internal, Level::ERROR),
            Self::Hangs { .. } => (Code::DeadlineExceeded, Level::WARN),
        }
    }
}

/// The kubelet takes Unavailable, Aborted and DeadlineExceeded as "may have happened" and cleans up after them;
/// anything else as "did not happen".
fn host_verdict(error: &HostError) -> (Code, Level) {
    match error {
        HostError::NotFound { .. } | HostError::StillSmall { .. } => {
            (Code::Unavailable, Level::WARN)
        }
        HostError::WrongKind { .. } | HostError::Busy { .. } => {
            (Code::FailedPrecondition, Level::WARN)
        }
        HostError::NotBlank { .. } | HostError::ToolMissing { .. } => {
            (Code::FailedPrecondition, Level::ERROR)
        }
        HostError::BadOption { .. } => (Code::InvalidArgument, Level::INFO),
        HostError::Io { .. } | HostError::Tool { .. } => (Code::Internal, Level::ERROR),
        HostError::TimedOut { .. } => (Code::DeadlineExceeded, Level::WARN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kubelet keeps cleaning up after these codes and forgets the volume after any other.
    fn may_have_happened(error: &NodeError) -> bool {
        matches!(
            error.verdict().0,
            Code::Unavailable | Code::Aborted | Code::DeadlineExceeded | Code::Cancelled
        )
    }

    #[test]
    fn only_what_may_be_running_or_comes_with_time_is_told_as_temporary() {
        let at = || PathBuf::from("/dev/sdb");
        let text = || "x".to_owned();
        let temporary = [
            HostError::NotFound {
                address: crate::domain::device::ScsiAddress { bus: 0, target: 1 },
                waited_ms: 1,
                seen: text(),
            },
            HostError::StillSmall {
                device: at(),
                actual: 1,
                expected: 2,
            },
            HostError::TimedOut {
                what: text(),
                limit_ms: 1,
            },
        ];
        for error in temporary {
            assert!(may_have_happened(&error.clone().into()), "{error}");
        }
        let lasting = [
            HostError::NotBlank {
                device: at(),
                found: text(),
            },
            HostError::Busy {
                path: at(),
                users: text(),
            },
            HostError::ToolMissing {
                tool: "mkfs.xfs",
                package: "xfsprogs",
            },
            HostError::Tool {
                tool: "mkfs.xfs",
                status: text(),
                output: text(),
            },
            HostError::Io {
                action: "mount",
                path: at(),
                reason: text(),
                errno: None,
            },
        ];
        for error in lasting {
            assert!(!may_have_happened(&error.clone().into()), "{error}");
        }
    }
}
