//! Disks of QEMU virtual machines: plugged into their pvscsi controller while they run.

use std::collections::BTreeMap;
use std::path::PathBuf;

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::super::qmp::{Plug, Qmp, QmpError};
use super::super::state::DiskRecord;
use super::{Backend, BackendError, remove_file, size_image};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Qemu {
    images: PathBuf,
    sockets: std::sync::Mutex<BTreeMap<String, PathBuf>>,
    connections: Mutex<BTreeMap<String, Qmp>>,
}

impl Qemu {
    pub(super) fn new(images: PathBuf, sockets: BTreeMap<String, PathBuf>) -> Self {
        Self {
            images,
            sockets: std::sync::Mutex::new(sockets),
            connections: Mutex::default(),
        }
    }

    fn sockets(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, PathBuf>> {
        self.sockets
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn image(&self, disk: &DiskRecord) -> PathBuf {
        self.images.join(format!("{}.img", disk.unique_id))
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

    /// Does `work` on the VM's connection; a broken connection is made anew once (the VM may have been rebooted).
    async fn perform(&self, vm: &str, work: &Work) -> Result<(), BackendError> {
        let failed = |error: &dyn std::fmt::Display| {
            BackendError::new(format!("{} {vm}", work.name()), error)
        };
        let socket = self.sockets().get(vm).cloned();
        let socket = socket.ok_or_else(|| failed(&"no such VM"))?;
        let mut connections = self.connections.lock().await;
        if let Some(qmp) = connections.get_mut(vm) {
            match work.run(qmp).await {
                Err(QmpError::Unreachable { .. }) => {
                    connections.remove(vm);
                }
                other => return other.map_err(|e| failed(&e)),
            }
        }
        let mut qmp = Qmp::connect(&socket).await.map_err(|e| failed(&e))?;
        let result = work.run(&mut qmp).await.map_err(|e| failed(&e));
        connections.insert(vm.to_owned(), qmp);
        result
    }
}

/// What QEMU is asked to do.
#[derive(Debug)]
enum Work {
    Plug(Plug),
    Unplug { id: String },
    Resize { id: String, bytes: u64 },
}

impl Work {
    fn name(&self) -> &'static str {
        match self {
            Self::Plug(_) => "plug a disk into",
            Self::Unplug { .. } => "unplug a disk from",
            Self::Resize { .. } => "grow a disk of",
        }
    }

    async fn run(&self, qmp: &mut Qmp) -> Result<(), QmpError> {
        match self {
            Self::Plug(plug) => {
                if qmp.plugged().await?.contains(&plug.id) {
                    return Ok(());
                }
                qmp.plug(plug).await
            }
            Self::Unplug { id } => qmp.unplug(id).await,
            Self::Resize { id, bytes } => qmp.resize(id, *bytes).await,
        }
    }
}

#[async_trait]
impl Backend for Qemu {
    async fn attach(&self, disk: &DiskRecord, vm: &str, target: u8) -> Result<(), BackendError> {
        let image = self.image(disk);
        size_image(&image, disk.size)?;
        let plug = Plug {
            id: disk.unique_id.clone(),
            file: image,
            bus: 0,
            target,
            serial: Some(Self::serial(disk)),
            read_only: false,
            bad_sectors: Vec::new(),
        };
        self.perform(vm, &Work::Plug(plug)).await
    }

    async fn detach(&self, disk: &DiskRecord, vm: &str, _target: u8) -> Result<(), BackendError> {
        self.perform(
            vm,
            &Work::Unplug {
                id: disk.unique_id.clone(),
            },
        )
        .await
    }

    async fn extend(&self, disk: &DiskRecord, gib: u32) -> Result<(), BackendError> {
        // QEMU grows the file itself and tells the controller; the guest sees it after a rescan.
        match &disk.attachment {
            Some(at) => {
                let id = disk.unique_id.clone();
                self.perform(
                    &at.vm,
                    &Work::Resize {
                        id,
                        bytes: u64::from(gib) << 30,
                    },
                )
                .await
            }
            None => size_image(&self.image(disk), gib),
        }
    }

    async fn delete(&self, disk: &DiskRecord) -> Result<(), BackendError> {
        remove_file(&self.image(disk))
    }

    fn rename_vm(&self, from: &str, to: &str) {
        let mut sockets = self.sockets();
        if let Some(socket) = sockets.remove(from) {
            // The connection is found by name as well: under the new one it is made anew.
            sockets.insert(to.to_owned(), socket);
        }
        drop(sockets);
        if let Ok(mut connections) = self.connections.try_lock() {
            connections.remove(from);
        }
    }

    fn release(&self) {
        // A connection that is in use ends with its work.
        if let Ok(mut connections) = self.connections.try_lock() {
            connections.clear();
        }
    }
}
