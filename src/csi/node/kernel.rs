//! What the kernel says is where: the only truth about staged and published volumes.
//!
//! Everything is compared by device number, never by "something is mounted there" or by a device's name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::NodeConfig;
use super::error::{Advice, NodeError};
use super::known::Known;
use super::records::{Record, Records};
use super::strangers::Strangers;
use crate::domain::capability::FsType;
use crate::domain::device::{DevNo, ScsiAddress};
use crate::domain::id::DiskName;
use crate::host::{BlockDevice, Host, MountEntry, Mounts};

/// What the verbs work with; they run on blocking threads.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    pub(crate) host: Arc<dyn Host>,
    pub(crate) config: Arc<NodeConfig>,
    pub(crate) records: Records,
    pub(crate) known: Known,
    pub(crate) strangers: Strangers,
}

/// What is at a staging path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Staged {
    Nothing,
    /// A file system; its device, if the kernel still has it.
    Mount {
        entry: MountEntry,
        device: Option<BlockDevice>,
    },
    /// A device node bound below the staging path.
    Block {
        node: PathBuf,
        entry: MountEntry,
        device: Option<BlockDevice>,
    },
}

impl Staged {
    pub(crate) fn device(&self) -> Option<&BlockDevice> {
        match self {
            Self::Nothing => None,
            Self::Mount { device, .. } | Self::Block { device, .. } => device.as_ref(),
        }
    }
}

/// Whether a mount is one of a disk's file system. Any other mount at a volume's path is the bind of a device node
/// (devtmpfs, or whatever `/dev` is). A `stat` of a file system whose disk is gone may hang; one of a node cannot.
pub(crate) fn is_file_system(entry: &MountEntry) -> bool {
    FsType::parse(&entry.fs_type).is_ok()
}

/// Where a raw block volume is bound: below the staging directory, under the volume's own name.
pub(crate) fn block_node(staging: &Path, disk: &DiskName) -> PathBuf {
    staging.join(disk.as_str())
}

/// A volume found at a path: its device, and its mount where it is a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) device: BlockDevice,
    pub(crate) entry: Option<MountEntry>,
}

pub(crate) fn names(paths: &[PathBuf]) -> String {
    let all: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    all.join(", ")
}

impl Kernel {
    /// Whether a mount point belongs to the kubelet. mountinfo shows paths without symlinks, and the kubelet's
    /// directory is often one.
    pub(crate) fn kubelets(&self, target: &Path) -> bool {
        let root = &self.config.kubelet_dir;
        target.starts_with(root)
            || root
                .canonicalize()
                .is_ok_and(|real| target.starts_with(real))
    }

    /// The device under a mounted file system; `None` if it is gone.
    pub(crate) fn device_of(&self, entry: &MountEntry) -> Result<Option<BlockDevice>, NodeError> {
        // Btrfs has anonymous device numbers (major 0) in mountinfo: there the source names the device.
        let devno = if entry.devno.major == 0 {
            self.host.block_node_at(Path::new(&entry.source))?
        } else {
            Some(entry.devno)
        };
        self.by_number(devno)
    }

    fn by_number(&self, devno: Option<DevNo>) -> Result<Option<BlockDevice>, NodeError> {
        match devno {
            Some(devno) => Ok(self.host.device_by_number(devno)?),
            None => Ok(None),
        }
    }

    /// What is at a staging path.
    pub(crate) fn staged(&self, disk: &DiskName, staging: &Path) -> Result<Staged, NodeError> {
        self.staged_in(&self.host.mounts()?, disk, staging)
    }

    /// As [`Kernel::staged`], in a table that was read just now.
    pub(crate) fn staged_in(
        &self,
        mounts: &Mounts,
        disk: &DiskName,
        staging: &Path,
    ) -> Result<Staged, NodeError> {
        if let Some(entry) = mounts.at(staging) {
            let device = self.device_of(&entry)?;
            return Ok(Staged::Mount { entry, device });
        }
        let node = block_node(staging, disk);
        if let Some(entry) = mounts.at(&node) {
            let device = match self.by_number(self.host.block_node_at(&node)?)? {
                Some(device) if self.reused(disk, &entry, &device)? => None,
                device => device,
            };
            return Ok(Staged::Block {
                node,
                entry,
                device,
            });
        }
        Ok(Staged::Nothing)
    }

    /// Whether a bound node's number belongs to another disk by now. Nothing keeps the number of a pulled disk from
    /// being given to the next one as long as nobody has the node open; a mounted file system would.
    fn reused(
        &self,
        disk: &DiskName,
        entry: &MountEntry,
        device: &BlockDevice,
    ) -> Result<bool, NodeError> {
        // devtmpfs removes a node with its device, and mountinfo tells.
        if entry.root.to_string_lossy().ends_with("//deleted") {
            return Ok(true);
        }
        let Some(record) = self.current_record(disk)? else {
            return Ok(false);
        };
        let in_slot = self.host.device_at(record.address())?;
        Ok(in_slot.is_none_or(|there| there.devno != device.devno))
    }

    /// Where else the staged volume is mounted or bound: its publish targets. Sub-path mounts of the kubelet have
    /// another root and are not targets.
    pub(crate) fn targets(mounts: &Mounts, staged: &Staged) -> Vec<PathBuf> {
        let (entry, mounts) = match staged {
            Staged::Nothing | Staged::Mount { device: None, .. } => return Vec::new(),
            Staged::Mount {
                entry,
                device: Some(device),
            } => (entry, mounts.of(device.devno)),
            // All binds of device nodes are mounts of devtmpfs; the bound path tells which node.
            Staged::Block { entry, .. } => (entry, mounts.of(entry.devno)),
        };
        mounts
            .into_iter()
            .filter(|mount| mount.root == entry.root && mount.target != entry.target)
            .map(|mount| mount.target)
            .collect()
    }

    /// The device of a volume that must be staged.
    pub(crate) fn staged_device(
        &self,
        mounts: &Mounts,
        disk: &DiskName,
        staging: &Path,
        at: Option<ScsiAddress>,
    ) -> Result<(Staged, BlockDevice), NodeError> {
        let staged = self.staged_in(mounts, disk, staging)?;
        let refuse = |found: String| NodeError::NotStaged {
            volume: disk.to_string(),
            staging: staging.to_owned(),
            found,
        };
        if staged == Staged::Nothing {
            return Err(refuse("nothing is mounted there".to_owned()));
        }
        let Some(device) = staged.device().cloned() else {
            return Err(refuse("its device is gone".to_owned()));
        };
        if let Some(record) = self.current_record(disk)?
            && record.devno() != device.devno
        {
            return Err(refuse(format!(
                "device {} is there, but device {} was staged",
                device.devno,
                record.devno()
            )));
        }
        if let Some(at) = at
            && let Some(now) = self.host.device_at(at)?
            && now.devno != device.devno
        {
            return Err(refuse(format!(
                "device {} is there, but the disk in slot {at} is device {}",
                device.devno, now.devno
            )));
        }
        Ok((staged, device))
    }

    /// Reads the identity and size of a staged device anew; its size in bytes. A hot-plug message may get lost: the
    /// disk behind an address is then another one, under a file system that the kernel still has in its memory.
    pub(crate) fn look_anew(
        &self,
        disk: &DiskName,
        device: &BlockDevice,
    ) -> Result<u64, NodeError> {
        let size = self.host.rescan(device)?;
        let Some(record) = self.current_record(disk)? else {
            return Ok(size);
        };
        let Some(then) = record.serial else {
            return Ok(size);
        };
        match self.host.identify(device)?.serial {
            Some(now) if then != now => Err(NodeError::WrongDisk {
                device: device.path.clone(),
                volume: disk.to_string(),
                expected: format!("serial number {then}"),
                found: format!("serial number {now} under a mount that is in use"),
                advice: Advice::StopPods,
            }),
            _ => Ok(size),
        }
    }

    /// The record of a volume, if it speaks of the running boot.
    pub(crate) fn current_record(&self, disk: &DiskName) -> Result<Option<Record>, NodeError> {
        Ok(self
            .records
            .load(disk)?
            .filter(|record| self.records.current(record)))
    }

    /// Another volume that is staged from this device now.
    pub(crate) fn other_owner(
        &self,
        disk: &DiskName,
        devno: DevNo,
    ) -> Result<Option<Record>, NodeError> {
        for record in self.records.all()? {
            if record.volume == disk.as_str()
                || record.devno() != devno
                || !self.records.current(&record)
            {
                continue;
            }
            let Ok(owner) = DiskName::parse(&record.volume) else {
                continue;
            };
            let staged = self.staged(&owner, &record.staging)?;
            if staged.device().is_some_and(|there| there.devno == devno) {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// The volume's device at a path that the CO named: a mount, a bound device node, or a device node itself.
    pub(crate) fn place(&self, disk: &DiskName, path: &Path) -> Result<Place, NodeError> {
        let refuse = |found: String| NodeError::NotHere {
            volume: disk.to_string(),
            path: path.to_owned(),
            found,
        };
        if !path.is_absolute() {
            return Err(refuse("it is not an absolute path".to_owned()));
        }
        let entry = self.host.mount_at(path)?.filter(is_file_system);
        let device = match &entry {
            Some(entry) => self.device_of(entry)?,
            None => match self.host.block_node_at(path)? {
                Some(devno) => self.host.device_by_number(devno)?,
                None => return Err(refuse("nothing is mounted there".to_owned())),
            },
        };
        let Some(device) = device else {
            return Err(refuse("its device is gone".to_owned()));
        };
        let Some(record) = self.current_record(disk)? else {
            return Ok(Place { device, entry });
        };
        if record.devno() == device.devno {
            return Ok(Place { device, entry });
        }
        // The kubelet puts a loop device on top of a raw block volume and may name that one.
        if record.block
            && entry.is_none()
            && let Some(device) = self.host.device_by_number(record.devno())?
        {
            return Ok(Place {
                device,
                entry: None,
            });
        }
        Err(refuse(format!(
            "device {} is there, but device {} was staged",
            device.devno,
            record.devno()
        )))
    }

    /// Unmounts and looks whether it is true; answers the table that says so.
    pub(crate) fn unmount_verified(
        &self,
        disk: &DiskName,
        path: &Path,
    ) -> Result<Mounts, NodeError> {
        let mounts = self.host.unmount(path)?;
        match mounts.at(path) {
            None => Ok(mounts),
            Some(left) => Err(NodeError::InUse {
                device: PathBuf::from(left.source),
                volume: disk.to_string(),
                users: format!("a mount that stays at {}", path.display()),
            }),
        }
    }
}
