//! Port: what the node plugin needs of the machine it runs on.
//!
//! All methods block; callers run them off the reactor. The real implementation is `host::linux::LinuxHost`; its
//! roots (sysfs, /dev, mountinfo, tools) are parameters, so that the same code runs on a fake tree in tests, on
//! the emulator's loop devices and on VMware's SCSI disks.
//!
//! The port offers primitives and facts. What to do with them (format or refuse, mount or clear) is decided in
//! `csi::node`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use thiserror::Error;

use crate::domain::capability::FsType;
use crate::domain::device::{DevNo, ScsiAddress};
use crate::domain::id::FsUuid;

mod bypath;
mod command;
mod device;
pub mod equipment;
mod fault;
mod format;
mod grow;
mod health;
pub mod linux;
mod mount;
pub mod mountinfo;
mod mounts;
mod paths;
pub mod probe;
mod release;
mod stats;
mod sysfs;
mod wait;

pub use mounts::Mounts;

/// A block device that was found at a slot or under a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockDevice {
    /// The kernel's node, such as `/dev/sdb`. Names are reused: compare [`BlockDevice::devno`].
    pub path: PathBuf,
    /// Device number.
    pub devno: DevNo,
    /// The slot it was found at, where known.
    pub address: Option<ScsiAddress>,
}

/// Which disk it is, read anew at each call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Size in bytes.
    pub size: u64,
    /// Unit serial number (VPD page 0x80), if the hypervisor shows it.
    pub serial: Option<String>,
    /// World-wide name (VPD page 0x83), if shown.
    pub wwid: Option<String>,
}

/// What the kernel tells about a device, read anew at each call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Which disk it is.
    pub identity: Identity,
    /// Write-protected.
    pub read_only: bool,
    /// Names of devices stacked on this one (device mapper, md, partitions in use).
    pub holders: Vec<String>,
}

/// What is on a disk. Only [`Content::Blank`] may be formatted without a switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Proven blank: every probed region was read and is zero, and blkid finds nothing.
    Blank,
    /// No signature, but the probed regions are not all zero.
    NonZero {
        /// Offset of the first byte that is not zero.
        offset: u64,
    },
    /// A file system that this driver can mount.
    Known {
        /// Its type.
        fs: FsType,
        /// Its UUID.
        uuid: Option<FsUuid>,
    },
    /// A file system that this driver began to make on this disk and did not finish (its marker is still there).
    HalfMade {
        /// The UUID that it was to get.
        uuid: FsUuid,
    },
    /// Something else's data: partition table, LVM, RAID, LUKS, swap, another file system.
    Foreign {
        /// What it is, in words for an operator.
        what: String,
    },
    /// Not known: a region could not be read, or the two witnesses disagree.
    Unknown {
        /// Why.
        why: String,
    },
}

/// What the intact superblock of a volume's own file system tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intact {
    /// [`Host::check`] would find nothing to do: unmounted cleanly, no error recorded, no check due (XFS and Btrfs look
    /// after themselves).
    pub clean: bool,
    /// The file system fills its disk: nothing is to grow.
    pub full: bool,
}

/// How to make a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatPlan {
    /// Type.
    pub fs: FsType,
    /// UUID to stamp.
    pub uuid: FsUuid,
    /// mkfs keys of the StorageClass (`domain::params::MKFS_KEYS`), already checked for form.
    pub options: BTreeMap<String, String>,
    /// Format a disk that reads non-zero but has no signature ([`Content::NonZero`]).
    pub allow_non_zero: bool,
}

/// Outcome of a file-system check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckOutcome {
    /// Nothing to repair.
    Clean,
    /// Errors were corrected; the text tells what the tool said.
    Repaired(String),
    /// The tool does not apply to this type (XFS and Btrfs replay their logs at mount).
    NotApplicable,
}

/// A row of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Mount id.
    pub id: u64,
    /// Parent mount id.
    pub parent: u64,
    /// Device number of the mounted file system. For a bind of a device node this is devtmpfs. Btrfs shows an
    /// anonymous number in mountinfo; here it is the number of the device that the row names as its source, so that
    /// one comparison serves all types.
    pub devno: DevNo,
    /// Root of the mount within the file system (for a bind: the bound path).
    pub root: PathBuf,
    /// Mount point.
    pub target: PathBuf,
    /// Per-mount options.
    pub options: Vec<String>,
    /// Type of the file system.
    pub fs_type: String,
    /// Source, as given to mount(2).
    pub source: String,
    /// Per-superblock options.
    pub super_options: Vec<String>,
}

impl MountEntry {
    /// Whether writes through this mount are refused.
    #[must_use]
    pub fn read_only(&self) -> bool {
        let ro = |options: &[String]| options.iter().any(|option| option == "ro");
        ro(&self.options) || ro(&self.super_options)
    }
}

/// Usage of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FsStats {
    /// Bytes in all, available to users, used.
    pub bytes: Usage,
    /// Inodes; zero in all where the type has no fixed number.
    pub inodes: Usage,
}

/// Three numbers of `statvfs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// In all.
    pub total: u64,
    /// Free for an unprivileged user.
    pub available: u64,
    /// In use.
    pub used: u64,
}

/// Something wrong with a disk or its file system, as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// Stable CamelCase reason.
    pub reason: &'static str,
    /// Words for an operator.
    pub message: String,
}

/// Severity of a [`Finding`]; the values of `VolumeHealth` in CSI 1.13.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Works, but not as it should.
    Degraded,
    /// Cannot be used.
    Inaccessible,
    /// Data is gone.
    DataLoss,
}

/// The machine, as far as disks go.
pub trait Host: Send + Sync + fmt::Debug {
    /// Finds the disk at a slot: clears a dead device there, scans that one address, waits until the device is
    /// readable.
    ///
    /// # Errors
    /// [`HostError::NotFound`] when nothing appears before `deadline`.
    fn find_device(&self, at: ScsiAddress, deadline: Instant) -> Result<BlockDevice, HostError>;

    /// The device with this number, if the kernel still has it.
    fn device_by_number(&self, devno: DevNo) -> Result<Option<BlockDevice>, HostError>;

    /// The device at a slot right now, without scanning or waiting.
    fn device_at(&self, at: ScsiAddress) -> Result<Option<BlockDevice>, HostError>;

    /// Which disk the device is.
    ///
    /// # Errors
    /// [`HostError::WrongKind`] when the kernel no longer has it.
    fn identify(&self, device: &BlockDevice) -> Result<Identity, HostError>;

    /// Identity, protection and users of a device. Its node is opened: it must still be this device's.
    fn inspect(&self, device: &BlockDevice) -> Result<DeviceFacts, HostError>;

    /// What the disk's superblock tells, if the disk provably carries exactly this file system: the superblock, read
    /// past the page cache, is intact and has this type and UUID, and no mkfs of it is unfinished. Cheap; `None` only
    /// means that [`Host::probe`] must be asked.
    ///
    /// # Errors
    /// [`HostError::Io`] when the device cannot be opened.
    fn carries(
        &self,
        device: &BlockDevice,
        fs: FsType,
        uuid: &FsUuid,
    ) -> Result<Option<Intact>, HostError>;

    /// What is on the disk.
    fn probe(&self, device: &BlockDevice) -> Result<Content, HostError>;

    /// Makes a file system. Proves blankness again on the exclusively opened device right before.
    ///
    /// # Errors
    /// [`HostError::NotBlank`], [`HostError::Tool`], [`HostError::ToolMissing`], [`HostError::Busy`].
    fn format(
        &self,
        device: &BlockDevice,
        plan: &FormatPlan,
        deadline: Instant,
    ) -> Result<(), HostError>;

    /// Checks (and where safe repairs) an unmounted file system.
    fn check(
        &self,
        device: &BlockDevice,
        fs: FsType,
        deadline: Instant,
    ) -> Result<CheckOutcome, HostError>;

    /// Mounts a file system on a directory (created if missing); answers the mount table that shows it there.
    fn mount(
        &self,
        device: &BlockDevice,
        target: &Path,
        fs: FsType,
        options: &[String],
    ) -> Result<Mounts, HostError>;

    /// Binds a mounted directory onto another (created if missing). Read-only takes two mount calls and is
    /// verified in mountinfo; a writable bind of the same directory that is there already is what a process left that
    /// was killed between the two, and gets the second.
    fn bind(&self, source: &Path, target: &Path, read_only: bool) -> Result<(), HostError>;

    /// Binds a device node onto a file (created if missing).
    fn bind_device(&self, device: &BlockDevice, target: &Path) -> Result<(), HostError>;

    /// Unmounts everything stacked at `target`, without following symlinks; nothing there is success. Answers the mount
    /// table of afterwards. A mount that stays busy for a second is an error that names its users.
    fn unmount(&self, target: &Path) -> Result<Mounts, HostError>;

    /// Removes an empty directory or a file that is not a mount point; missing is success.
    fn remove_target(&self, target: &Path) -> Result<(), HostError>;

    /// All mounts of this mount namespace, as they are now.
    fn mounts(&self) -> Result<Mounts, HostError>;

    /// The topmost mount at exactly this path.
    fn mount_at(&self, target: &Path) -> Result<Option<MountEntry>, HostError> {
        Ok(self.mounts()?.at(target))
    }

    /// All mounts of a file system on this device, in this mount namespace.
    fn mounts_of(&self, devno: DevNo) -> Result<Vec<MountEntry>, HostError> {
        Ok(self.mounts()?.of(devno))
    }

    /// All mounts at paths below `dir`, in this mount namespace.
    fn mounts_below(&self, dir: &Path) -> Result<Vec<MountEntry>, HostError>;

    /// The device number of the block node bound at `path`; `None` if there is no block node.
    fn block_node_at(&self, path: &Path) -> Result<Option<DevNo>, HostError>;

    /// Takes a disk out of the kernel before the cloud detaches it: waits for its last user (bounded), flushes,
    /// deletes exactly that SCSI device. A device that is gone already, or that is no SCSI device, is success.
    ///
    /// # Errors
    /// [`HostError::Busy`] with the users' names after `deadline`.
    fn release(&self, device: &BlockDevice, deadline: Instant) -> Result<(), HostError>;

    /// Makes the kernel read the device's size again; returns it in bytes.
    fn rescan(&self, device: &BlockDevice) -> Result<u64, HostError>;

    /// Grows a mounted file system to its device. A no-op when it fills the device already.
    fn grow_mounted(
        &self,
        device: &BlockDevice,
        fs: FsType,
        mounted_at: &Path,
        deadline: Instant,
    ) -> Result<(), HostError>;

    /// Grows an unmounted ext file system to its device (XFS and Btrfs: nothing, they grow mounted).
    fn grow_unmounted(
        &self,
        device: &BlockDevice,
        fs: FsType,
        deadline: Instant,
    ) -> Result<(), HostError>;

    /// Usage of the file system mounted at `path`. Never hangs: bounded by `deadline`.
    fn fs_stats(&self, path: &Path, deadline: Instant) -> Result<FsStats, HostError>;

    /// What is wrong with a mounted or bound disk: read-only remount, device gone, I/O errors, aborted journal.
    /// An empty list means healthy.
    fn findings(&self, device: DevNo, mounted_at: Option<&Path>)
    -> Result<Vec<Finding>, HostError>;

    /// What is wrong with the machine's storage: no SCSI controller, a tool missing.
    fn storage_findings(&self) -> Result<Vec<Finding>, HostError>;

    /// Disks in slots other than the boot disk that are not in `ours`.
    fn foreign_disks(&self, ours: &[DevNo]) -> Result<Vec<DevNo>, HostError>;
}

/// Why the machine could not do it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HostError {
    /// No disk at the slot.
    #[error(
        "no disk appeared at {address} within {waited_ms} ms ({seen}); check that the VM shows the disk in this \
         slot and that its SCSI controller is present"
    )]
    NotFound {
        /// The slot.
        address: ScsiAddress,
        /// How long was waited, in milliseconds.
        waited_ms: u64,
        /// What was there instead.
        seen: String,
    },
    /// The path is not what it must be.
    #[error("{path:?} is not {expected}: {found}")]
    WrongKind {
        /// The path.
        path: PathBuf,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// The disk may not be formatted.
    #[error("{device:?} is not blank: {found}; nothing was written")]
    NotBlank {
        /// The device.
        device: PathBuf,
        /// What is on it.
        found: String,
    },
    /// A mkfs or mount option that this file system does not have, or that may not be given.
    #[error("option {key:?} cannot be used with {fs}: {reason}")]
    BadOption {
        /// The file system.
        fs: FsType,
        /// The option as it was given.
        key: String,
        /// Why, and what is possible.
        reason: String,
    },
    /// Somebody uses the device or the mount.
    #[error("{path:?} is in use by {users}")]
    Busy {
        /// Device or mount point.
        path: PathBuf,
        /// Who.
        users: String,
    },
    /// A system call or a read failed.
    #[error("cannot {action} {path:?}: {reason}")]
    Io {
        /// What was tried, in the infinitive.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's words.
        reason: String,
        /// errno, where there is one.
        errno: Option<i32>,
    },
    /// An external tool is not installed.
    #[error("{tool} is not installed in this image: install package {package}")]
    ToolMissing {
        /// The program.
        tool: &'static str,
        /// Debian's package.
        package: &'static str,
    },
    /// An external tool failed.
    #[error("{tool} failed ({status}): {output}")]
    Tool {
        /// The program.
        tool: &'static str,
        /// Exit status or signal in words.
        status: String,
        /// The end of its output, bounded.
        output: String,
    },
    /// It took longer than allowed; a tool was killed with its children.
    #[error("{what} did not finish in time ({limit_ms} ms)")]
    TimedOut {
        /// What.
        what: String,
        /// The limit, in milliseconds.
        limit_ms: u64,
    },
    /// The kernel still sees the old size.
    #[error("{device:?} still has {actual} bytes after a rescan; expected at least {expected}")]
    StillSmall {
        /// The device.
        device: PathBuf,
        /// Bytes that the kernel sees.
        actual: u64,
        /// Bytes expected.
        expected: u64,
    },
}
