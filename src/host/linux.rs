//! The `Host` port on Linux: this file only wires the parts.
//!
//! ```text
//! LinuxHost -- find ----> sysfs (SCSI address) | bypath (a directory of links)
//!           -- probe ---> probe (own reader + blkid)
//!           -- change --> format, grow, mount, release
//!           -- watch ---> stats, health
//!                          \__ command: the only place that starts processes
//! ```

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::bypath::ByPath;
use super::command::{self, Tools};
use super::device::{self, Kernel, Open};
use super::health::Examiner;
use super::mount::Table;
use super::release::Leave;
use super::stats::Asked;
use super::sysfs::{Checks, Scsi};
use super::wait::{Backoff, Slot, Slots, bounded, millis};
use super::{
    BlockDevice, CheckOutcome, Content, DeviceFacts, Finding, FormatPlan, FsStats, Host, HostError,
    Identity, Intact, MountEntry, Mounts, Severity, format, grow, paths, probe,
};
use crate::domain::capability::FsType;
use crate::domain::device::{DevNo, ScsiAddress};
use crate::domain::id::FsUuid;

/// Roots and limits. The default is a real machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostConfig {
    /// sysfs.
    pub sysfs: PathBuf,
    /// The directory of device nodes.
    pub dev: PathBuf,
    /// A directory of by-path links to look disks up in, instead of the SCSI part of sysfs.
    pub device_dir: Option<PathBuf>,
    /// This process's mount table.
    pub mountinfo: PathBuf,
    /// Where external tools are; a fixed list, `$PATH` is not consulted.
    pub tool_dirs: Vec<PathBuf>,
    /// mkfs, fsck and resize that may run at once.
    pub heavy_tools: usize,
    /// Address space of one external tool, in bytes.
    pub tool_memory: Option<u64>,
    /// Limit of calls that have no deadline of their own, such as blkid.
    pub quick: Duration,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            sysfs: "/sys".into(),
            dev: "/dev".into(),
            device_dir: None,
            mountinfo: "/proc/self/mountinfo".into(),
            tool_dirs: ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
                .map(PathBuf::from)
                .into(),
            heavy_tools: 2,
            tool_memory: Some(2 << 30),
            quick: Duration::from_secs(30),
        }
    }
}

/// This machine.
#[derive(Debug)]
pub struct LinuxHost {
    pub(super) config: HostConfig,
    kernel: Kernel,
    pub(super) scsi: Scsi,
    by_path: Option<ByPath>,
    table: Table,
    pub(super) tools: Tools,
    slots: Slots,
    asked: Asked,
}

impl LinuxHost {
    /// Looks at nothing yet.
    #[must_use]
    pub fn new(config: HostConfig) -> Self {
        let kernel = Kernel {
            sysfs: config.sysfs.clone(),
            dev: config.dev.clone(),
        };
        Self {
            scsi: Scsi::new(kernel.clone()),
            by_path: config.device_dir.clone().map(|dir| ByPath { dir }),
            table: Table {
                path: config.mountinfo.clone(),
            },
            tools: Tools {
                dirs: config.tool_dirs.clone(),
                memory: config.tool_memory,
            },
            slots: Slots::new(config.heavy_tools),
            asked: Asked::default(),
            kernel,
            config,
        }
    }

    fn soon(&self) -> Instant {
        Instant::now() + self.config.quick
    }

    fn heavy(&self, what: &str, deadline: Instant) -> Result<Slot<'_>, HostError> {
        let started = Instant::now();
        self.slots
            .take(deadline)
            .ok_or_else(|| HostError::TimedOut {
                what: format!(
                    "waiting to run {what}: {} of them run already, which",
                    self.config.heavy_tools
                ),
                limit_ms: millis(started.elapsed()),
            })
    }

    fn find_link(
        &self,
        by_path: &ByPath,
        at: ScsiAddress,
        deadline: Instant,
    ) -> Result<BlockDevice, HostError> {
        let started = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(500));
        loop {
            let seen = match by_path.device_at(&self.kernel, at)? {
                Some(device) => match readable(&device) {
                    Ok(()) => return Ok(device),
                    Err(why) => why,
                },
                None => format!("no link for it in {}", by_path.dir.display()),
            };
            if !backoff.pause(deadline) {
                return Err(HostError::NotFound {
                    address: at,
                    waited_ms: millis(started.elapsed()),
                    seen,
                });
            }
        }
    }

    fn in_use(&self, devno: DevNo) -> bool {
        let held = self
            .kernel
            .directory(devno)
            .is_some_and(|directory| !device::holders(&directory).is_empty());
        held || self
            .mounts_of(devno)
            .map_or(true, |mounts| !mounts.is_empty())
    }

    pub(super) fn disks(&self) -> Vec<BlockDevice> {
        match &self.by_path {
            Some(by_path) => by_path
                .list(&self.kernel)
                .into_iter()
                .filter_map(|(_, disk)| disk)
                .collect(),
            None => self.scsi.list(),
        }
    }
}

/// Reads the first sector past the page cache.
fn readable(device: &BlockDevice) -> Result<(), String> {
    probe::first_sector(device).map_err(|error| error.to_string())
}

impl Host for LinuxHost {
    fn find_device(&self, at: ScsiAddress, deadline: Instant) -> Result<BlockDevice, HostError> {
        match &self.by_path {
            Some(by_path) => self.find_link(by_path, at, deadline),
            None => {
                let checks = Checks {
                    readable: &readable,
                    in_use: &|devno| self.in_use(devno),
                };
                self.scsi.find(at, deadline, &checks)
            }
        }
    }

    fn device_by_number(&self, devno: DevNo) -> Result<Option<BlockDevice>, HostError> {
        Ok(self.kernel.device(devno, None))
    }

    fn device_at(&self, at: ScsiAddress) -> Result<Option<BlockDevice>, HostError> {
        match &self.by_path {
            Some(by_path) => by_path.device_at(&self.kernel, at),
            None => Ok(self.scsi.device_at(at)),
        }
    }

    fn identify(&self, device: &BlockDevice) -> Result<Identity, HostError> {
        self.kernel.identity(device)
    }

    fn inspect(&self, device: &BlockDevice) -> Result<DeviceFacts, HostError> {
        self.kernel.facts(device)
    }

    fn carries(
        &self,
        device: &BlockDevice,
        fs: FsType,
        uuid: &FsUuid,
    ) -> Result<Option<Intact>, HostError> {
        probe::carries(device, fs, uuid)
    }

    fn probe(&self, device: &BlockDevice) -> Result<Content, HostError> {
        probe::probe(&self.tools, device, self.soon())
    }

    fn format(
        &self,
        device: &BlockDevice,
        plan: &FormatPlan,
        deadline: Instant,
    ) -> Result<(), HostError> {
        if self.kernel.facts(device)?.read_only {
            return Err(HostError::WrongKind {
                path: device.path.clone(),
                expected: "a writable disk",
                found: "a write-protected one; nothing was written".to_owned(),
            });
        }
        let _slot = self.heavy("mkfs", deadline)?;
        format::format(&self.tools, device, plan, deadline)
    }

    fn check(
        &self,
        device: &BlockDevice,
        fs: FsType,
        deadline: Instant,
    ) -> Result<CheckOutcome, HostError> {
        if !grow::needs_check(device, fs)? {
            return Ok(CheckOutcome::Clean);
        }
        let _slot = self.heavy("a file-system check", deadline)?;
        grow::check(&self.tools, device, fs, deadline)
    }

    fn mount(
        &self,
        device: &BlockDevice,
        target: &Path,
        fs: FsType,
        options: &[String],
    ) -> Result<Mounts, HostError> {
        self.table.mount(device, target, fs, options)
    }

    fn bind(&self, source: &Path, target: &Path, read_only: bool) -> Result<(), HostError> {
        self.table.bind(source, target, read_only)
    }

    fn bind_device(&self, device: &BlockDevice, target: &Path) -> Result<(), HostError> {
        self.table.bind_device(device, target)
    }

    fn unmount(&self, target: &Path) -> Result<Mounts, HostError> {
        self.table.unmount(target)
    }

    fn remove_target(&self, target: &Path) -> Result<(), HostError> {
        // The kernel does not remove a mount point of this namespace: it says EBUSY.
        let removed = paths::remove(target);
        if let Err(HostError::Io {
            errno: Some(nix::libc::EBUSY),
            ..
        }) = &removed
            && let Some(entry) = self.table.at(target)?
        {
            return Err(HostError::Busy {
                path: target.to_owned(),
                users: format!("a mount of {}", entry.source),
            });
        }
        removed
    }

    fn mounts(&self) -> Result<Mounts, HostError> {
        self.table.mounts()
    }

    fn mounts_below(&self, dir: &Path) -> Result<Vec<MountEntry>, HostError> {
        let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        let mut table = self.table.read()?;
        table.retain(|entry| entry.target != dir && entry.target.starts_with(&dir));
        Ok(table)
    }

    fn block_node_at(&self, path: &Path) -> Result<Option<DevNo>, HostError> {
        let (what, path) = (format!("stat of {}", path.display()), path.to_owned());
        bounded(&what, self.soon(), move || device::block_number(&path))
    }

    fn release(&self, device: &BlockDevice, deadline: Instant) -> Result<(), HostError> {
        let leave = Leave {
            kernel: &self.kernel,
            scsi: &self.scsi,
            table: &self.table,
        };
        leave.release(device, deadline)
    }

    fn rescan(&self, device: &BlockDevice) -> Result<u64, HostError> {
        if let Some(directory) = self.kernel.directory(device.devno) {
            self.scsi.rescan(&directory.join("device"))?;
        }
        let mut file = device::open(device, Open::Read)?;
        device::size_of(&mut file, device)
    }

    fn grow_mounted(
        &self,
        device: &BlockDevice,
        fs: FsType,
        mounted_at: &Path,
        deadline: Instant,
    ) -> Result<(), HostError> {
        if grow::room(device)?.is_none() {
            return Ok(());
        }
        let _slot = self.heavy("a resize", deadline)?;
        grow::mounted(&self.tools, &self.asked, device, fs, mounted_at, deadline)
    }

    fn grow_unmounted(
        &self,
        device: &BlockDevice,
        fs: FsType,
        deadline: Instant,
    ) -> Result<(), HostError> {
        if grow::room(device)?.is_none() {
            return Ok(());
        }
        let _slot = self.heavy("a resize", deadline)?;
        grow::unmounted(&self.tools, device, fs, deadline)
    }

    fn fs_stats(&self, path: &Path, deadline: Instant) -> Result<FsStats, HostError> {
        self.asked.usage(path, deadline)
    }

    fn findings(
        &self,
        device: DevNo,
        mounted_at: Option<&Path>,
    ) -> Result<Vec<Finding>, HostError> {
        let examiner = Examiner {
            kernel: &self.kernel,
            table: &self.table,
            asked: &self.asked,
        };
        examiner.findings(device, mounted_at)
    }

    fn storage_findings(&self) -> Result<Vec<Finding>, HostError> {
        let mut found = Vec::new();
        match &self.by_path {
            Some(by_path) if !by_path.dir.is_dir() => found.push(Finding {
                severity: Severity::Inaccessible,
                reason: "DeviceDirMissing",
                message: format!(
                    "{} is not a directory; disks cannot be found",
                    by_path.dir.display()
                ),
            }),
            None if self.scsi.controllers().is_empty() => found.push(Finding {
                severity: Severity::Inaccessible,
                reason: "NoScsiController",
                message: "the VM has no SCSI controller, so no additional disk can appear"
                    .to_owned(),
            }),
            _ => {}
        }
        for tool in command::ALL {
            if let Err(missing) = self.tools.locate(*tool) {
                found.push(Finding {
                    severity: Severity::Degraded,
                    reason: "ToolMissing",
                    message: missing.to_string(),
                });
            }
        }
        Ok(found)
    }

    fn foreign_disks(&self, ours: &[DevNo]) -> Result<Vec<DevNo>, HostError> {
        // NIFCLOUD boots from SCSI (0:0); additional disks begin at (0:1).
        const BOOT: ScsiAddress = ScsiAddress { bus: 0, target: 0 };
        let foreign =
            |disk: &BlockDevice| disk.address != Some(BOOT) && !ours.contains(&disk.devno);
        let disks = self.disks().into_iter().filter(foreign);
        Ok(disks.map(|disk| disk.devno).collect())
    }
}
