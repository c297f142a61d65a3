//! What a claim may ask of a disk: file system or raw block, and who may use it at once.

use std::fmt;

use thiserror::Error;

/// A file system that the node can make, check, mount and grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FsType {
    /// ext3.
    Ext3,
    /// ext4, the default.
    Ext4,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
}

impl FsType {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 4] = [Self::Ext3, Self::Ext4, Self::Xfs, Self::Btrfs];

    /// The name in `mount(2)`, `mkfs.<name>` and StorageClasses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// Reads `fs_type`; empty means the default, ext4.
    ///
    /// # Errors
    /// [`CapabilityError::FsType`].
    pub fn parse(name: &str) -> Result<Self, CapabilityError> {
        if name.is_empty() {
            return Ok(Self::Ext4);
        }
        Self::ALL
            .into_iter()
            .find(|fs| fs.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| CapabilityError::FsType {
                name: name.chars().take(32).collect(),
            })
    }
}

impl fmt::Display for FsType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How the disk reaches the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// A mounted file system.
    Mount {
        /// Its type.
        fs: FsType,
        /// Mount options of the StorageClass or PV.
        flags: Vec<String>,
    },
    /// A device node.
    Block,
}

/// Who may use the disk at once. A NIFCLOUD disk is attached to one VM, so only single-node modes exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// SINGLE_NODE_WRITER (ReadWriteOnce).
    SingleNodeWriter,
    /// SINGLE_NODE_READER_ONLY.
    SingleNodeReader,
    /// SINGLE_NODE_SINGLE_WRITER (ReadWriteOncePod).
    SingleNodeSingleWriter,
    /// SINGLE_NODE_MULTI_WRITER.
    SingleNodeMultiWriter,
}

impl Mode {
    /// Whether the mode forbids writing.
    #[must_use]
    pub fn read_only(self) -> bool {
        self == Self::SingleNodeReader
    }
}

/// A checked `csi.v1.VolumeCapability`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// File system or block.
    pub access: Access,
    /// Who may use it.
    pub mode: Mode,
}

/// A capability that this driver cannot give.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CapabilityError {
    /// No capability at all.
    #[error("volume capability is missing")]
    Missing,
    /// Neither block nor mount.
    #[error("access type is missing: expected block or mount")]
    NoAccessType,
    /// The access mode is unset or unknown.
    #[error("access mode is missing or unknown")]
    NoMode,
    /// More than one node at once.
    #[error(
        "access mode {mode} is not supported: a NIFCLOUD disk is attached to one VM at a time; \
         use ReadWriteOnce or ReadWriteOncePod"
    )]
    MultiNode {
        /// The mode's name in the CSI specification.
        mode: &'static str,
    },
    /// A file system that the node cannot make.
    #[error("file system {name:?} is not supported: use ext3, ext4, xfs or btrfs")]
    FsType {
        /// The name as it came.
        name: String,
    },
}
