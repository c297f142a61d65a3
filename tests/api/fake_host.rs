//! A machine in memory: slots, disks with content, a mount table. It behaves as Linux does where the node's policy
//! can see it; every change is counted, so that a test can say that nothing was changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use additional_storage_csi::domain::capability::FsType;
use additional_storage_csi::domain::device::{DevNo, ScsiAddress};
use additional_storage_csi::domain::id::FsUuid;
use additional_storage_csi::host::{
    BlockDevice, CheckOutcome, Content, DeviceFacts, Finding, FormatPlan, FsStats, Host, HostError,
    Identity, Intact, MountEntry, Mounts, Usage,
};

pub const DEVTMPFS: DevNo = DevNo { major: 0, minor: 5 };
pub const GIB: u64 = 1 << 30;

#[derive(Debug, Clone)]
pub struct Disk {
    pub facts: DeviceFacts,
    pub content: Content,
    pub at: Option<ScsiAddress>,
    /// The size that the hypervisor gives; the kernel learns it at a rescan.
    pub real_size: u64,
    pub fs_size: u64,
}

#[derive(Debug, Default)]
pub struct Machine {
    pub disks: BTreeMap<DevNo, Disk>,
    pub mounts: Vec<MountEntry>,
    pub paths: BTreeSet<PathBuf>,
    pub calls: Vec<String>,
    /// The next call of this name fails.
    pub fail: BTreeMap<&'static str, HostError>,
    /// Mounts that do not go away.
    pub stuck: BTreeSet<PathBuf>,
    pub findings: Vec<Finding>,
    pub storage_findings: Vec<Finding>,
    pub foreign: u32,
    pub boom: bool,
    /// The last disk that left the machine, as the cloud keeps it.
    pub cloud: Option<Disk>,
    /// `grow_*` waits here, if set: the test opens the gate.
    pub gate: Option<std::sync::Arc<std::sync::Barrier>>,
    /// `fs_stats` hangs here, if set.
    pub stats_gate: Option<std::sync::Arc<std::sync::Barrier>>,
}

#[derive(Debug, Default)]
pub struct FakeHost(Mutex<Machine>);

pub fn devno(n: u32) -> DevNo {
    DevNo {
        major: 8,
        minor: 16 * n,
    }
}

fn node_of(devno: DevNo) -> PathBuf {
    PathBuf::from(format!("/dev/fake{}", devno.minor / 16))
}

fn io(action: &'static str, path: &Path, reason: &str) -> HostError {
    HostError::Io {
        action,
        path: path.to_owned(),
        reason: reason.to_owned(),
        errno: None,
    }
}

impl FakeHost {
    pub fn get(&self) -> MutexGuard<'_, Machine> {
        self.0.lock().unwrap()
    }

    /// Puts a blank disk of 100 GiB into slot 0:`n`, as device 8:16n.
    pub fn plug(&self, n: u8) -> DevNo {
        let number = devno(u32::from(n));
        let size = 100 * GIB;
        let disk = Disk {
            facts: DeviceFacts {
                identity: Identity {
                    size,
                    serial: Some(format!("6000c29{n}")),
                    wwid: None,
                },
                read_only: false,
                holders: Vec::new(),
            },
            content: Content::Blank,
            at: Some(ScsiAddress { bus: 0, target: n }),
            real_size: size,
            fs_size: 0,
        };
        self.get().disks.insert(number, disk);
        number
    }

    /// The hypervisor takes the disk; mounts of it stay, dead.
    pub fn unplug(&self, number: DevNo) {
        let mut machine = self.get();
        machine.cloud = machine.disks.remove(&number);
    }

    pub fn with<T>(&self, number: DevNo, change: impl FnOnce(&mut Disk) -> T) -> T {
        change(self.get().disks.get_mut(&number).unwrap())
    }

    fn stuck_gate(&self) -> Option<std::sync::Arc<std::sync::Barrier>> {
        self.get().stats_gate.clone()
    }

    pub fn changes(&self) -> Vec<String> {
        self.get().calls.clone()
    }

    pub fn mounted(&self, path: &Path) -> Option<MountEntry> {
        self.get().at(path)
    }
}

impl Machine {
    fn at(&self, path: &Path) -> Option<MountEntry> {
        self.mounts.iter().rev().find(|m| m.target == path).cloned()
    }

    fn call(&mut self, name: &'static str, what: &dyn std::fmt::Debug) -> Result<(), HostError> {
        self.calls.push(format!("{name} {what:?}"));
        self.fail.remove(name).map_or(Ok(()), Err)
    }

    fn device(&self, number: DevNo) -> Option<BlockDevice> {
        self.disks.get(&number).map(|disk| BlockDevice {
            path: node_of(number),
            devno: number,
            address: disk.at,
        })
    }

    fn disk(&mut self, device: &BlockDevice) -> Result<&mut Disk, HostError> {
        self.disks
            .get_mut(&device.devno)
            .ok_or_else(|| io("open", &device.path, "No such device"))
    }

    pub fn mount(&mut self, number: DevNo, root: &Path, target: &Path, fs: &str, ro: bool) {
        assert!(self.at(target).is_none(), "mounts are never stacked");
        self.paths.insert(target.to_owned());
        let id = self.mounts.last().map_or(1, |last| last.id + 1);
        let source = if number.major == 0 {
            fs.to_owned()
        } else {
            node_of(number).display().to_string()
        };
        self.mounts.push(MountEntry {
            id,
            parent: 0,
            devno: number,
            root: root.to_owned(),
            target: target.to_owned(),
            options: vec![if ro { "ro" } else { "rw" }.to_owned()],
            fs_type: fs.to_owned(),
            source,
            super_options: vec!["rw".to_owned()],
        });
    }

    fn wait_at_gate(machine: MutexGuard<'_, Self>) {
        let gate = machine.gate.clone();
        drop(machine);
        if let Some(gate) = gate {
            gate.wait();
            gate.wait();
        }
    }
}

impl Host for FakeHost {
    fn find_device(&self, at: ScsiAddress, _deadline: Instant) -> Result<BlockDevice, HostError> {
        let mut machine = self.get();
        assert!(!machine.boom, "boom");
        if let Some(error) = machine.fail.remove("find") {
            return Err(error);
        }
        drop(machine);
        self.device_at(at)?.ok_or(HostError::NotFound {
            address: at,
            waited_ms: 1,
            seen: "nothing".to_owned(),
        })
    }

    fn device_by_number(&self, number: DevNo) -> Result<Option<BlockDevice>, HostError> {
        Ok(self.get().device(number))
    }

    fn device_at(&self, at: ScsiAddress) -> Result<Option<BlockDevice>, HostError> {
        let machine = self.get();
        let found = machine.disks.iter().find(|(_, disk)| disk.at == Some(at));
        Ok(found.and_then(|(number, _)| machine.device(*number)))
    }

    fn identify(&self, device: &BlockDevice) -> Result<Identity, HostError> {
        self.inspect(device).map(|facts| facts.identity)
    }

    fn inspect(&self, device: &BlockDevice) -> Result<DeviceFacts, HostError> {
        self.get().disk(device).map(|disk| disk.facts.clone())
    }

    fn carries(
        &self,
        device: &BlockDevice,
        fs: FsType,
        uuid: &FsUuid,
    ) -> Result<Option<Intact>, HostError> {
        let uuid = Some(uuid.clone());
        let mut machine = self.get();
        let disk = machine.disk(device)?;
        // Never clean: a check is asked for, and counted.
        let intact = Intact {
            clean: false,
            full: disk.fs_size == disk.facts.identity.size,
        };
        Ok((disk.content == Content::Known { fs, uuid }).then_some(intact))
    }

    fn probe(&self, device: &BlockDevice) -> Result<Content, HostError> {
        self.get().disk(device).map(|disk| disk.content.clone())
    }

    fn format(
        &self,
        device: &BlockDevice,
        plan: &FormatPlan,
        _deadline: Instant,
    ) -> Result<(), HostError> {
        let mut machine = self.get();
        let outcome = machine.call("format", plan);
        let mounted = machine.mounts.iter().any(|m| m.devno == device.devno);
        assert!(!mounted, "a mounted disk is never formatted");
        let disk = machine.disk(device)?;
        let may = match &disk.content {
            Content::Blank => true,
            Content::HalfMade { uuid } => *uuid == plan.uuid,
            Content::NonZero { .. } => plan.allow_non_zero,
            _ => false,
        };
        assert!(may, "data is never formatted over: {:?}", disk.content);
        if outcome.is_err() {
            disk.content = Content::HalfMade {
                uuid: plan.uuid.clone(),
            };
            return outcome;
        }
        disk.content = Content::Known {
            fs: plan.fs,
            uuid: Some(plan.uuid.clone()),
        };
        disk.fs_size = disk.facts.identity.size;
        Ok(())
    }

    fn check(
        &self,
        device: &BlockDevice,
        _fs: FsType,
        _deadline: Instant,
    ) -> Result<CheckOutcome, HostError> {
        let mut machine = self.get();
        let mounted = machine.mounts.iter().any(|m| m.devno == device.devno);
        assert!(!mounted, "a mounted file system is never checked");
        machine.call("check", &device.path)?;
        Ok(CheckOutcome::Clean)
    }

    fn mount(
        &self,
        device: &BlockDevice,
        target: &Path,
        fs: FsType,
        options: &[String],
    ) -> Result<Mounts, HostError> {
        let mut machine = self.get();
        machine.call("mount", &(target, options))?;
        let content = machine.disk(device)?.content.clone();
        assert!(
            matches!(content, Content::Known { fs: there, .. } if there == fs),
            "only a file system of the right type is mounted"
        );
        let ro = options.iter().any(|option| option == "ro");
        machine.mount(device.devno, Path::new("/"), target, fs.name(), ro);
        Ok(Mounts::of_rows(machine.mounts.clone()))
    }

    fn bind(&self, source: &Path, target: &Path, read_only: bool) -> Result<(), HostError> {
        let mut machine = self.get();
        machine.call("bind", &(source, target, read_only))?;
        let from = machine
            .at(source)
            .ok_or_else(|| io("bind", source, "not a mount"))?;
        let half_done =
            |entry: &&mut MountEntry| entry.target == target && entry.devno == from.devno;
        if let Some(entry) = machine
            .mounts
            .iter_mut()
            .find(half_done)
            .filter(|_| read_only)
        {
            entry.options = vec!["ro".to_owned()];
            return Ok(());
        }
        machine.mount(from.devno, &from.root, target, &from.fs_type, read_only);
        Ok(())
    }

    fn bind_device(&self, device: &BlockDevice, target: &Path) -> Result<(), HostError> {
        let mut machine = self.get();
        machine.call("bind_device", &target)?;
        machine.disk(device)?;
        let name = device.path.file_name().unwrap_or_default();
        let root = Path::new("/").join(name);
        machine.mount(DEVTMPFS, &root, target, "devtmpfs", false);
        Ok(())
    }

    fn unmount(&self, target: &Path) -> Result<Mounts, HostError> {
        let mut machine = self.get();
        machine.call("unmount", &target)?;
        if !machine.stuck.contains(target) {
            machine.mounts.retain(|mount| mount.target != target);
        }
        Ok(Mounts::of_rows(machine.mounts.clone()))
    }

    fn remove_target(&self, target: &Path) -> Result<(), HostError> {
        let mut machine = self.get();
        assert!(machine.at(target).is_none(), "a mount point is not removed");
        if machine.paths.remove(target) {
            machine.call("remove", &target)?;
        }
        Ok(())
    }

    fn mounts(&self) -> Result<Mounts, HostError> {
        Ok(Mounts::of_rows(self.get().mounts.clone()))
    }

    fn mounts_below(&self, dir: &Path) -> Result<Vec<MountEntry>, HostError> {
        let machine = self.get();
        let below = machine.mounts.iter().filter(|m| m.target.starts_with(dir));
        Ok(below.cloned().collect())
    }

    fn block_node_at(&self, path: &Path) -> Result<Option<DevNo>, HostError> {
        let machine = self.get();
        let mounted = machine.at(path).is_some_and(|m| m.devno.major != 0);
        assert!(
            !mounted,
            "a mount of a disk may hang: it is never asked by stat"
        );
        let bound = machine.at(path).filter(|mount| mount.devno == DEVTMPFS);
        let node = match &bound {
            Some(mount) => Path::new("/dev").join(mount.root.file_name().unwrap_or_default()),
            None => path.to_owned(),
        };
        let name = node.to_string_lossy().into_owned();
        let number = name.strip_prefix("/dev/fake").and_then(|n| n.parse().ok());
        Ok(number.map(devno))
    }

    fn release(&self, device: &BlockDevice, _deadline: Instant) -> Result<(), HostError> {
        let mut machine = self.get();
        machine.call("release", &device.path)?;
        let users = machine.mounts.iter().any(|m| m.devno == device.devno);
        assert!(!users, "a mounted device is never released");
        machine.cloud = machine.disks.remove(&device.devno);
        Ok(())
    }

    fn rescan(&self, device: &BlockDevice) -> Result<u64, HostError> {
        let mut machine = self.get();
        let disk = machine.disk(device)?;
        disk.facts.identity.size = disk.real_size;
        Ok(disk.facts.identity.size)
    }

    fn grow_mounted(
        &self,
        device: &BlockDevice,
        _fs: FsType,
        mounted_at: &Path,
        _deadline: Instant,
    ) -> Result<(), HostError> {
        let mut machine = self.get();
        machine.call("grow_mounted", &mounted_at)?;
        let entry = machine.at(mounted_at);
        assert!(
            entry.is_some_and(|mount| !mount.read_only()),
            "a file system is grown where it is writable"
        );
        let disk = machine.disk(device)?;
        disk.fs_size = disk.facts.identity.size;
        Machine::wait_at_gate(machine);
        Ok(())
    }

    fn grow_unmounted(
        &self,
        device: &BlockDevice,
        fs: FsType,
        _deadline: Instant,
    ) -> Result<(), HostError> {
        let mut machine = self.get();
        let disk = machine.disk(device)?;
        if matches!(fs, FsType::Ext3 | FsType::Ext4) && disk.fs_size != disk.facts.identity.size {
            disk.fs_size = disk.facts.identity.size;
            machine.call("grow_unmounted", &device.path)?;
        }
        Ok(())
    }

    fn fs_stats(&self, path: &Path, _deadline: Instant) -> Result<FsStats, HostError> {
        if let Some(gate) = self.stuck_gate() {
            gate.wait();
        }
        let machine = self.get();
        let entry = machine
            .at(path)
            .ok_or_else(|| io("statvfs", path, "gone"))?;
        let total = machine.disks.get(&entry.devno).map_or(0, |d| d.fs_size);
        let usage = |total| Usage {
            total,
            available: total / 2,
            used: total / 2,
        };
        let inodes = if entry.fs_type == "btrfs" { 0 } else { 1000 };
        Ok(FsStats {
            bytes: usage(total),
            inodes: usage(inodes),
        })
    }

    fn findings(
        &self,
        _device: DevNo,
        _mounted_at: Option<&Path>,
    ) -> Result<Vec<Finding>, HostError> {
        Ok(self.get().findings.clone())
    }

    fn storage_findings(&self) -> Result<Vec<Finding>, HostError> {
        Ok(self.get().storage_findings.clone())
    }

    fn foreign_disks(&self, ours: &[DevNo]) -> Result<Vec<DevNo>, HostError> {
        let machine = self.get();
        let others = (0..machine.foreign).map(|minor| DevNo { major: 250, minor });
        let unknown = machine.disks.keys().filter(|n| !ours.contains(n)).copied();
        Ok(others.chain(unknown).collect())
    }
}
