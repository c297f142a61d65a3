//! Disks of QEMU virtual machines: plugged into their pvscsi controller while they run.

mod line;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex as AsyncMutex;

use super::super::devices::DeviceFaults;
use super::super::qmp::Plug;
use super::super::state::DiskRecord;
use super::{Backend, BackendError, remove_file, size_image};
use line::{Line, Work};

/// Faults of disks that have none of their own.
const ALL: &str = "*";

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Qemu {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    images: PathBuf,
    /// By the VM's name.
    lines: Mutex<BTreeMap<String, Arc<Line>>>,
    /// By the disk's name.
    faults: Mutex<BTreeMap<String, DeviceFaults>>,
    /// By the disk's unique id.
    devices: Mutex<HashMap<String, Arc<AsyncMutex<Device>>>>,
    closed: AtomicBool,
}

/// Where a disk's device really is; the books may say something else.
#[derive(Debug, Default)]
struct Device {
    plugged: Option<Arc<Line>>,
    read_only: bool,
    /// A device that is late comes only if this is unchanged.
    turn: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The 32 digits that VMware shows as a disk's serial: its prefix, then digits of our own.
fn serial(disk: &DiskRecord) -> String {
    let digits: String = disk
        .unique_id
        .chars()
        .filter(char::is_ascii_hexdigit)
        .collect();
    format!("6000c29{digits:0>25}")
}

impl Qemu {
    pub(super) fn new(images: PathBuf, sockets: BTreeMap<String, PathBuf>) -> Self {
        let lines = sockets
            .into_iter()
            .map(|(vm, socket)| (vm, Arc::new(Line::new(socket))));
        Self {
            shared: Arc::new(Shared {
                images,
                lines: Mutex::new(lines.collect()),
                faults: Mutex::default(),
                devices: Mutex::default(),
                closed: AtomicBool::new(false),
            }),
        }
    }
}

impl Shared {
    fn image(&self, disk: &DiskRecord) -> PathBuf {
        self.images.join(format!("{}.img", disk.unique_id))
    }

    fn line(&self, vm: &str) -> Result<Arc<Line>, BackendError> {
        let line = lock(&self.lines).get(vm).cloned();
        line.ok_or_else(|| {
            BackendError::new(format!("reach {vm}"), "it has no control socket of QEMU")
        })
    }

    fn device(&self, disk: &DiskRecord) -> Arc<AsyncMutex<Device>> {
        Arc::clone(
            lock(&self.devices)
                .entry(disk.unique_id.clone())
                .or_default(),
        )
    }

    fn faults(&self, disk: &str) -> DeviceFaults {
        let faults = lock(&self.faults);
        let own = faults.get(disk).or_else(|| faults.get(ALL));
        own.cloned().unwrap_or_default()
    }

    async fn plug(
        &self,
        device: &mut Device,
        disk: &DiskRecord,
        line: Arc<Line>,
        target: u8,
        silent: bool,
    ) -> Result<(), BackendError> {
        let faults = self.faults(&disk.name);
        let plug = Plug {
            id: disk.unique_id.clone(),
            file: self.image(disk),
            bus: 0,
            target,
            serial: (!faults.no_identity).then(|| serial(disk)),
            read_only: faults.read_only,
            bad_sectors: Vec::new(),
        };
        let (bad, silent) = (faults.bad_io(disk.size), silent || faults.silent);
        line.perform(&Work::Plug { plug, bad, silent }).await?;
        device.plugged = Some(line);
        device.read_only = faults.read_only;
        Ok(())
    }

    async fn unplug(disk: &DiskRecord, line: &Line, silent: bool) -> Result<(), BackendError> {
        let id = disk.unique_id.clone();
        line.perform(&Work::Unplug { id, silent }).await
    }

    /// Plugs a disk after a while, unless something else happens to it before.
    fn plug_later(
        self: Arc<Self>,
        wait: u64,
        turn: u64,
        disk: DiskRecord,
        line: Arc<Line>,
        target: u8,
    ) {
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(wait)).await;
            let device = self.device(&disk);
            let mut device = device.lock().await;
            if device.turn != turn || self.closed.load(Ordering::Relaxed) {
                return;
            }
            if let Err(error) = self.plug(&mut device, &disk, line, target, false).await {
                tracing::error!(%error, disk = disk.name, "the late device did not come");
            }
        });
    }
}

#[async_trait]
impl Backend for Qemu {
    async fn attach(&self, disk: &DiskRecord, vm: &str, target: u8) -> Result<(), BackendError> {
        size_image(&self.shared.image(disk), disk.size)?;
        let (line, faults) = (self.shared.line(vm)?, self.shared.faults(&disk.name));
        let device = self.shared.device(disk);
        let mut device = device.lock().await;
        device.turn += 1;
        if faults.absent {
            return Ok(());
        }
        if faults.late_ms > 0 {
            let shared = Arc::clone(&self.shared);
            shared.plug_later(faults.late_ms, device.turn, disk.clone(), line, target);
            return Ok(());
        }
        self.shared
            .plug(&mut device, disk, line, target, false)
            .await
    }

    async fn detach(&self, disk: &DiskRecord, vm: &str, _target: u8) -> Result<(), BackendError> {
        let device = self.shared.device(disk);
        let mut device = device.lock().await;
        device.turn += 1;
        let line = match &device.plugged {
            Some(line) => Arc::clone(line),
            None => self.shared.line(vm)?,
        };
        let silent = self.shared.faults(&disk.name).silent && device.plugged.is_some();
        Shared::unplug(disk, &line, silent).await?;
        device.plugged = None;
        Ok(())
    }

    async fn extend(&self, disk: &DiskRecord, gib: u32) -> Result<(), BackendError> {
        let device = self.shared.device(disk);
        let device = device.lock().await;
        match &device.plugged {
            // QEMU grows the file itself and tells the controller; the guest sees it after a rescan.
            Some(line) => {
                let (id, bytes) = (disk.unique_id.clone(), u64::from(gib) << 30);
                line.perform(&Work::Resize { id, bytes }).await
            }
            None => size_image(&self.shared.image(disk), gib),
        }
    }

    async fn delete(&self, disk: &DiskRecord) -> Result<(), BackendError> {
        remove_file(&self.shared.image(disk))?;
        lock(&self.shared.devices).remove(&disk.unique_id);
        lock(&self.shared.faults).remove(&disk.name);
        Ok(())
    }

    fn faults(&self, disk: &str) -> DeviceFaults {
        self.shared.faults(disk)
    }

    async fn set_faults(
        &self,
        name: &str,
        faults: Option<DeviceFaults>,
        disk: Option<&DiskRecord>,
    ) -> Result<(), BackendError> {
        match faults {
            Some(faults) => lock(&self.shared.faults).insert(name.to_owned(), faults),
            None => lock(&self.shared.faults).remove(name),
        };
        let Some(disk) = disk else { return Ok(()) };
        let device = self.shared.device(disk);
        let device = device.lock().await;
        let Some(line) = &device.plugged else {
            return Ok(());
        };
        let (id, read_only) = (disk.unique_id.clone(), device.read_only);
        let bad = self.shared.faults(name).bad_io(disk.size);
        line.perform(&Work::Bad { id, read_only, bad }).await
    }

    async fn pull(&self, disk: &DiskRecord, silent: bool) -> Result<(), BackendError> {
        let device = self.shared.device(disk);
        let mut device = device.lock().await;
        device.turn += 1;
        if let Some(line) = &device.plugged {
            Shared::unplug(disk, line, silent).await?;
        }
        device.plugged = None;
        Ok(())
    }

    async fn put(
        &self,
        disk: &DiskRecord,
        vm: &str,
        target: u8,
        silent: bool,
    ) -> Result<(), BackendError> {
        let line = self.shared.line(vm)?;
        let device = self.shared.device(disk);
        let mut device = device.lock().await;
        device.turn += 1;
        self.shared
            .plug(&mut device, disk, line, target, silent)
            .await
    }

    fn rename_vm(&self, from: &str, to: &str) {
        let mut lines = lock(&self.shared.lines);
        if let Some(line) = lines.remove(from) {
            lines.insert(to.to_owned(), line);
        }
    }

    fn release(&self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        for line in lock(&self.shared.lines).values() {
            line.close();
        }
    }
}
