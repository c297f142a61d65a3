//! What the demo runs on: an emulated cloud, a controller, and a node service for each of its VMs.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::claim::{Claim, Node, connect};
use super::data::{self, Written};
use super::lab::Lab;
use crate::app::{Driver, DriverParts, Ended};
use crate::cli;
use crate::config::NodeSettings;
use crate::domain::id::VmName;
use crate::domain::topology::Zone;
use crate::emulator::{BackendKind, Config, Emulator, Latency};
use crate::host::Host as _;
use crate::host::linux::{HostConfig, LinuxHost};
use crate::proto::csi::v1::controller_client::ControllerClient;
use crate::telemetry::LogLevel;

/// The VMs: two in one zone, one in another.
pub(super) const VMS: [(&str, &str); 3] = [
    ("web01", "east-11"),
    ("web02", "east-11"),
    ("db01", "east-12"),
];
/// The real cloud's proportions, several times faster.
const LATENCY: Latency = Latency {
    create: 1500,
    attach: 900,
    detach: 900,
    extend: 1200,
    delete: 500,
    modify: 30,
    describe: 0,
    reply: 5,
};
const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_SYS_RESOURCE: u64 = 1 << 24;
/// How long what is left may take to go.
const TIDY: Duration = Duration::from_secs(30);

/// What this machine lets the demo do.
#[derive(Debug, Clone)]
pub(super) struct Abilities {
    /// Why there are no real mounts, if so.
    pub(super) no_mounts: Option<String>,
    /// Whether a mounted ext4 can be grown.
    pub(super) ext_online: bool,
    /// Whether mkfs.xfs is there.
    pub(super) xfs: bool,
    /// What VMs boot from, if the disks are to be theirs.
    pub(super) lab: Option<PathBuf>,
}

fn capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

fn installed(tool: &str) -> bool {
    HostConfig::default()
        .tool_dirs
        .iter()
        .any(|dir| dir.join(tool).exists())
}

impl Abilities {
    pub(super) fn look() -> Self {
        let root = fs::metadata("/proc/self").is_ok_and(|of| of.uid() == 0);
        let capabilities = capabilities();
        let no_mounts = if !root || capabilities & CAP_SYS_ADMIN == 0 {
            Some("it is not run as root with CAP_SYS_ADMIN (try: sudo make demo)".to_owned())
        } else if fs::File::open("/dev/loop-control").is_err() {
            Some(
                "there are no loop devices here (/dev/loop-control; try: modprobe loop)".to_owned(),
            )
        } else if !installed("losetup") || !installed("mkfs.ext4") {
            Some("losetup or mkfs.ext4 is missing (install util-linux and e2fsprogs)".to_owned())
        } else {
            None
        };
        Self {
            no_mounts,
            ext_online: capabilities & CAP_SYS_RESOURCE != 0,
            xfs: installed("mkfs.xfs"),
            lab: None,
        }
    }

    /// VMs have everything, whatever this machine has.
    pub(super) fn of_vms(lab: PathBuf) -> Self {
        Self {
            no_mounts: None,
            ext_online: true,
            xfs: true,
            lab: Some(lab),
        }
    }
}

/// What stayed behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) disks: usize,
    /// Loop devices here, or SCSI disks in the VMs.
    pub(super) devices: usize,
    pub(super) mounts: usize,
}

impl Left {
    pub(super) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct World {
    dir: PathBuf,
    pub(super) emulator: Emulator,
    pub(super) controller: ControllerClient<Channel>,
    pub(super) nodes: Vec<Node>,
    drivers: Vec<JoinHandle<anyhow::Result<Ended>>>,
    stop: CancellationToken,
    claims: Mutex<Vec<Claim>>,
    lab: Option<Lab>,
}

impl World {
    pub(super) async fn start(
        dir: &Path,
        abilities: &Abilities,
        level: LogLevel,
    ) -> anyhow::Result<Self> {
        let lab = match &abilities.lab {
            // Two run; the third only has a name, in another zone.
            Some(lab) => Some(Lab::start(lab, dir, &VMS[..2]).await?),
            None => None,
        };
        let config = config(dir, abilities, lab.as_ref());
        let keys = config.keys.first_key_value();
        let keys = keys.map(|(id, secret)| (id.clone().into(), secret.clone().into()));
        let emulator = Emulator::start(config)
            .await
            .context("cannot start the emulated cloud")?;
        let (stop, mut drivers) = (CancellationToken::new(), Vec::new());
        let mut start = async |name: &str, change: &dyn Fn(&mut DriverParts)| {
            let socket = dir.join(format!("{name}.sock"));
            let mut parts = DriverParts::new(&socket.display().to_string(), level.clone(), TIDY);
            change(&mut parts);
            let driver = Driver::build(parts).await?;
            drivers.push(tokio::spawn(driver.serve(stop.clone())));
            Ok::<_, anyhow::Error>(connect(&socket).await?)
        };
        let cloud = cli::Cloud {
            region: String::new(),
            cloud_endpoint: Some(emulator.endpoint()),
            allow_insecure_endpoint: false,
            api_rate: 100.0,
        };
        let channel = start("controller", &|parts| {
            parts.cloud = Some(cloud.clone());
            parts.keys.clone_from(&keys);
        })
        .await?;
        let controller = ControllerClient::new(channel);
        let mut nodes = Vec::new();
        for (vm, zone) in VMS {
            if let Some(lab) = &lab {
                nodes.push(lab.node(vm, zone)?);
                continue;
            }
            let settings = settings(dir, vm, zone)?;
            let kubelet = settings.kubelet_dir.clone();
            fs::create_dir_all(&kubelet)?;
            let channel = start(vm, &|parts| parts.node = Some(settings.clone())).await?;
            nodes.push(Node::new(vm, zone, kubelet, channel));
        }
        Ok(Self {
            dir: dir.to_owned(),
            emulator,
            controller,
            nodes,
            drivers,
            stop,
            claims: Mutex::default(),
            lab,
        })
    }

    /// Random bytes into a volume of a node.
    pub(super) async fn write(
        &self,
        node: &Node,
        path: PathBuf,
        offset: u64,
    ) -> anyhow::Result<Written> {
        match &self.lab {
            Some(lab) => lab.write(node.vm, path, offset).await,
            None => data::write(path, offset).await,
        }
    }

    /// They are still there.
    pub(super) async fn verify(&self, node: &Node, written: Written) -> anyhow::Result<()> {
        match &self.lab {
            Some(lab) => lab.verify(node.vm, &written).await,
            None => data::verify(written).await,
        }
    }

    /// Remembers a claim, to be removed should the walk end early.
    pub(super) fn remember(&self, claim: &Claim) {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        claims.retain(|known| known.name != claim.name);
        claims.push(claim.clone());
    }

    /// The walk ended early: takes every claim from pod to nothing, by the same calls that Kubernetes would make.
    pub(super) async fn tidy(&self) {
        let claims = self
            .claims
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let until = Instant::now() + TIDY;
        for claim in claims {
            // A call that was cut off may still run: its volume answers Aborted until it ends.
            while let Err(error) = self.remove(&claim).await {
                if Instant::now() > until {
                    tracing::error!(%error, claim = claim.name, "cannot clean up");
                    break;
                }
                sleep(Duration::from_millis(300)).await;
            }
        }
    }

    async fn remove(&self, claim: &Claim) -> anyhow::Result<()> {
        let mut claim = claim.clone();
        if claim.id.is_empty() {
            // CreateVolume was cut off: the same request finds its disk.
            let Some((vm, zone)) = VMS.first().copied() else {
                return Ok(());
            };
            claim.create(&self.controller, (vm, zone), 100).await?;
        }
        for node in &self.nodes {
            claim.unpublish(node).await?;
            claim.unstage(node).await?;
            claim.detach(&self.controller, node.vm).await?;
        }
        claim.delete(&self.controller).await?;
        Ok(())
    }

    /// Counts what exists now; waits a moment for deletions that the cloud has accepted.
    pub(super) async fn left(&self) -> Left {
        let until = Instant::now() + 4 * Duration::from_millis(LATENCY.delete);
        loop {
            let left = self.count().await;
            if left.is_nothing() || Instant::now() > until {
                return left;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn count(&self) -> Left {
        let disks = self.emulator.control().state().disks.len();
        if let Some(lab) = &self.lab {
            // A VM that does not answer has not given anything back.
            let (devices, mounts) = lab.count().await.unwrap_or((usize::MAX, usize::MAX));
            return Left {
                disks,
                devices,
                mounts,
            };
        }
        let ours = |path: PathBuf| {
            fs::read_to_string(path).is_ok_and(|file| Path::new(&file).starts_with(&self.dir))
        };
        let blocks = fs::read_dir("/sys/block").into_iter().flatten().flatten();
        let mounts = LinuxHost::new(HostConfig::default()).mounts_below(&self.dir);
        Left {
            disks,
            devices: blocks
                .filter(|block| ours(block.path().join("loop/backing_file")))
                .count(),
            mounts: mounts.map_or(0, |mounts| mounts.len()),
        }
    }

    /// Ends the drivers and the cloud and removes the directory.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        let Self {
            dir,
            emulator,
            controller,
            nodes,
            drivers,
            stop,
            lab,
            ..
        } = self;
        drop((controller, nodes));
        stop.cancel();
        for driver in drivers {
            // A job that hangs must not keep the rest from being cleaned up.
            let _ = timeout(TIDY, driver).await;
        }
        let host = LinuxHost::new(HostConfig::default());
        let mut mounts = host.mounts_below(&dir)?;
        // Newest first: what was mounted last is on top.
        mounts.sort_by_key(|mount| std::cmp::Reverse(mount.id));
        for mount in mounts {
            host.unmount(&mount.target)?;
        }
        emulator.shutdown().await;
        drop(lab);
        if let Some(mount) = host.mounts_below(&dir)?.first() {
            bail!(
                "{} is still mounted; {} was not removed",
                mount.target.display(),
                dir.display()
            );
        }
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))
    }
}

fn config(dir: &Path, abilities: &Abilities, lab: Option<&Lab>) -> Config {
    let mut config = Config {
        latency: LATENCY,
        data_dir: Some(dir.join("cloud")),
        device_dir: Some(dir.join("devices")),
        ..Config::default()
    };
    if lab.is_some() {
        config.backend = BackendKind::Qmp;
    } else if abilities.no_mounts.is_none() {
        config.backend = BackendKind::Loop;
    }
    for (vm, zone) in VMS {
        config = config.vm(vm, zone);
    }
    if let Some(lab) = lab {
        for vm in &mut config.vms {
            let nowhere = || dir.join(&vm.name).join("qmp");
            vm.qmp = Some(lab.qmp(&vm.name).unwrap_or_else(nowhere));
        }
    }
    config
}

fn settings(dir: &Path, vm: &str, zone: &str) -> anyhow::Result<NodeSettings> {
    let own = dir.join(vm);
    Ok(NodeSettings {
        name: VmName::parse(vm)?,
        zone: Some(Zone::parse(zone).context("a VM without a zone")?),
        device_dir: Some(dir.join("devices").join(vm)),
        kubelet_dir: own.join("kubelet"),
        state_dir: own.join("state"),
        max_volumes: None,
        reserve_slots: 0,
        plugins_registry: None,
    })
}
