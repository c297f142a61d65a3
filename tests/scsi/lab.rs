//! Machines, an emulated cloud that plugs disks into them, and a controller.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use additional_storage_csi::app::{Driver, DriverParts, Ended};
use additional_storage_csi::cli::{Cloud, LogFormat};
use additional_storage_csi::demo::claim::connect;
use additional_storage_csi::demo::vm::VmConfig;
use additional_storage_csi::emulator::{BackendKind, Config, Emulator};
use additional_storage_csi::proto::csi::v1::controller_client::ControllerClient;
use additional_storage_csi::telemetry;
use anyhow::{Context as _, Result, ensure};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::machine::Machine;

/// Names and zones of the machines.
const MACHINES: [(&str, &str); 2] = [("web01", "east-11"), ("web02", "east-11")];

/// What `make scsi` prepares, and a directory of this run.
#[derive(Debug)]
pub(crate) struct Setting {
    lab: PathBuf,
    binary: PathBuf,
    pub(crate) dir: PathBuf,
    count: AtomicU32,
}

impl Setting {
    pub(crate) fn from_environment() -> Option<Self> {
        let path = |name| Some(PathBuf::from(std::env::var_os(name)?));
        let (lab, binary) = (path("VM_LAB")?, path("CSI_BINARY")?);
        // Short: paths of Unix sockets have 108 bytes.
        let parent = std::env::temp_dir();
        for entry in fs::read_dir(&parent).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // Left by a run that was killed.
            if let Some(pid) = name.strip_prefix("csi-scsi.")
                && !PathBuf::from(format!("/proc/{pid}")).exists()
            {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let dir = parent.join(format!("csi-scsi.{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        Some(Self {
            lab,
            binary,
            dir,
            count: AtomicU32::new(0),
        })
    }
}

/// What the VMs of a group are made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Spec {
    /// One more than this many VMs.
    pub(crate) more_vms: u32,
    /// One more than this many pvscsi controllers.
    pub(crate) more_controllers: u8,
    /// Nothing may run beside it.
    pub(crate) alone: bool,
    /// Words of the kernel's command line.
    pub(crate) words: &'static [&'static str],
}

impl Spec {
    pub(crate) fn vms(&self) -> u32 {
        self.more_vms + 1
    }

    /// Of those that all groups share.
    pub(crate) fn places(&self) -> u32 {
        if self.alone { crate::VMS } else { self.vms() }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Lab {
    dir: PathBuf,
    /// What `make scsi` prepared: the kernel, its modules.
    pub(crate) parts: PathBuf,
    pub(crate) machines: Vec<Machine>,
    pub(crate) emulator: Emulator,
    pub(crate) controller: ControllerClient<Channel>,
    driver: JoinHandle<Result<Ended>>,
    stop: CancellationToken,
    disks: AtomicU32,
}

impl Lab {
    pub(crate) async fn start(setting: &Setting, group: &str, spec: &Spec) -> Result<Self> {
        let number = setting.count.fetch_add(1, Ordering::Relaxed);
        let dir = setting.dir.join(format!("{group}{number}"));
        fs::create_dir_all(&dir)?;
        let machines = boot(setting, &dir, spec).await?;
        let mut config = Config {
            backend: BackendKind::Qmp,
            data_dir: Some(dir.join("cloud")),
            ..Config::default()
        };
        for machine in &machines {
            config = config.vm(machine.name, machine.zone);
            config.vms.last_mut().unwrap().qmp = Some(machine.qmp());
        }
        let keys = config.keys.first_key_value();
        let keys = keys.map(|(id, secret)| (id.clone().into(), secret.clone().into()));
        let emulator = Emulator::start(config).await?;
        let socket = dir.join("controller.sock");
        let level = telemetry::start(LogFormat::Text, "error")?;
        let grace = Duration::from_secs(5);
        let mut parts = DriverParts::new(&format!("unix://{}", socket.display()), level, grace);
        parts.cloud = Some(Cloud {
            region: String::new(),
            cloud_endpoint: Some(emulator.endpoint()),
            allow_insecure_endpoint: false,
            api_rate: 1000.0,
        });
        parts.keys = keys;
        let stop = CancellationToken::new();
        let driver = tokio::spawn(Driver::build(parts).await?.serve(stop.clone()));
        let controller = ControllerClient::new(connect(&socket).await?);
        Ok(Self {
            dir,
            parts: setting.lab.clone(),
            machines,
            emulator,
            controller,
            driver,
            stop,
            disks: AtomicU32::new(1),
        })
    }

    /// The first machine.
    pub(crate) fn vm(&self) -> &Machine {
        &self.machines[0]
    }

    /// The controller's socket.
    pub(crate) fn controller_socket(&self) -> PathBuf {
        self.dir.join("controller.sock")
    }

    /// A new sparse disk image.
    pub(crate) fn image(&self, mib: u64) -> Result<PathBuf> {
        let number = self.disks.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("disk{number}.img"));
        fs::File::create(&path)?.set_len(mib << 20)?;
        Ok(path)
    }

    /// A number that no other disk of this lab has.
    pub(crate) fn number(&self) -> u32 {
        self.disks.fetch_add(1, Ordering::Relaxed)
    }

    /// Nothing is left of the case before.
    pub(crate) async fn is_clean(&self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let left = self.emulator.control().state().disks;
            if left.is_empty() {
                break;
            }
            ensure!(Instant::now() < end, "left behind in the cloud: {left:?}");
            sleep(Duration::from_millis(20)).await;
        }
        for machine in &self.machines {
            machine.is_clean().await?;
        }
        for entry in fs::read_dir(&self.dir)?.flatten() {
            if entry
                .path()
                .extension()
                .is_some_and(|ending| ending == "img")
            {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// What everybody has to say after a failure.
    pub(crate) async fn tell(&self) -> String {
        let mut told = Vec::new();
        for machine in &self.machines {
            told.push(machine.tell().await);
        }
        told.join("\n")
    }

    /// Ends the controller, the cloud and the VMs.
    pub(crate) async fn stop(self: Arc<Self>) {
        self.stop.cancel();
        let Some(lab) = Arc::into_inner(self) else {
            return;
        };
        let _ = lab.driver.await;
        lab.emulator.shutdown().await;
        drop(lab.machines);
        let _ = fs::remove_dir_all(&lab.dir);
    }
}

async fn boot(setting: &Setting, dir: &std::path::Path, spec: &Spec) -> Result<Vec<Machine>> {
    let mut booting = JoinSet::new();
    for (name, zone) in MACHINES.into_iter().take(usize::try_from(spec.vms())?) {
        let mut config = VmConfig::new(&setting.lab, &dir.join(name));
        config.controllers = spec.more_controllers + 1;
        config.kernel_words = spec.words.iter().map(|&word| word.to_owned()).collect();
        let binary = setting.binary.clone();
        booting.spawn(async move { Machine::start(name, zone, config, &binary).await });
    }
    let mut machines = Vec::new();
    while let Some(machine) = booting.join_next().await {
        machines.push(machine.context("a VM's start panicked")??);
    }
    machines.sort_by_key(|machine| machine.name);
    Ok(machines)
}
