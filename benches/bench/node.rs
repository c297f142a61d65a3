//! The node's RPCs on loop devices, and stage and publish against the bare system calls. Needs root.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use additional_storage_csi::demo::claim::{Claim, Form, Node};
use additional_storage_csi::proto::csi::v1::node_client::NodeClient;
use additional_storage_csi::proto::csi::v1::*;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::controller::timed;
use super::process::{Driver, node_arguments};
use super::rows::{Row, each, percentile, rpc};

const DISKS: usize = 16;
const DISK_BYTES: u64 = 1 << 30;
const ROUNDS: usize = 25;
const READS: usize = 200;

/// Loop devices with by-path links; taken away when dropped.
struct Disks {
    dir: tempfile::TempDir,
    devices: Vec<String>,
    claims: Vec<Claim>,
}

#[allow(
    clippy::disallowed_methods,
    reason = "losetup prepares what the driver finds"
)]
fn losetup(arguments: &[&str]) -> Option<String> {
    let output = std::process::Command::new("/usr/sbin/losetup")
        .args(arguments)
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Disks {
    fn new() -> Option<Self> {
        let mut disks = Self {
            dir: tempfile::tempdir().unwrap(),
            devices: Vec::new(),
            claims: Vec::new(),
        };
        let links = disks.dir.path().join("devices");
        std::fs::create_dir(&links).unwrap();
        std::fs::create_dir(disks.dir.path().join("kubelet")).unwrap();
        for number in 0..DISKS {
            let image = disks.dir.path().join(format!("{number}.img"));
            std::fs::File::create(&image)
                .unwrap()
                .set_len(DISK_BYTES)
                .unwrap();
            let device = losetup(&["-f", "--show", &image.display().to_string()])?;
            // Eight disks on each of two controllers.
            let (bus, target) = (number / 8, 1 + number % 8);
            let target = if target >= 7 { target + 1 } else { target };
            symlink(
                &device,
                links.join(format!("pci-0000:{:02x}:00.0-scsi-0:0:{target}:0", bus + 3)),
            )
            .unwrap();
            disks.devices.push(device);
            let id = format!("{:032x}", fastrand::u128(..));
            disks.claims.push(Claim::existing(
                Form::Mounted("ext4"),
                id,
                format!("SCSI ({bus}:{target})"),
            ));
        }
        Some(disks)
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mine = |line: &&str| line.contains(&self.dir.path().display().to_string());
        for line in table.lines().rev().filter(mine) {
            let _ = line
                .split(' ')
                .nth(4)
                .map(|target| umount2(target, MntFlags::MNT_DETACH));
        }
        for device in &self.devices {
            losetup(&["-d", device]);
        }
    }
}

pub(crate) async fn rows(binary: &Path) -> Vec<Row> {
    let Some(disks) = Disks::new() else {
        eprintln!("LEFT OUT the node's rows: they need root and loop devices");
        return Vec::new();
    };
    let dir = disks.dir.path();
    let (driver, _) = Driver::start(binary, dir, &node_arguments(dir, "web01", "east-11"));
    let client = NodeClient::new(driver.channel().await);
    let node = Node {
        vm: "web01",
        zone: "east-11",
        kubelet: dir.join("kubelet"),
        client: client.clone(),
    };
    // The first stage formats.
    for claim in &disks.claims {
        timed(claim.stage(&node)).await;
        timed(claim.unstage(&node)).await;
    }
    let mut rows = against_the_kernel(&disks, &node).await;
    for callers in [1, DISKS] {
        rows.extend(reads(&client, callers).await);
        rows.extend(lives(&disks, &node, callers).await);
    }
    drop(disks);
    driver.end().await;
    rows
}

async fn reads(client: &NodeClient<tonic::transport::Channel>, callers: usize) -> Vec<Row> {
    let infos = each(callers, READS, |_, _| {
        let mut client = client.clone();
        async move { timed(client.node_get_info(NodeGetInfoRequest {})).await }
    })
    .await;
    let capabilities = each(callers, READS, |_, _| {
        let mut client = client.clone();
        async move { timed(client.node_get_capabilities(NodeGetCapabilitiesRequest {})).await }
    })
    .await;
    [
        ("NodeGetInfo", infos),
        ("NodeGetCapabilities", capabilities),
    ]
    .iter()
    .flat_map(|(name, samples)| rpc(name, callers, samples))
    .collect()
}

async fn lives(disks: &Disks, node: &Node, callers: usize) -> Vec<Row> {
    let lives = each(callers, ROUNDS, |caller, _| {
        let (claim, node) = (disks.claims[caller].clone(), node.clone());
        async move {
            [
                timed(claim.stage(&node)).await,
                timed(claim.publish(&node)).await,
                timed(claim.fs_gib(&node)).await,
                timed(claim.unpublish(&node)).await,
                timed(claim.unstage(&node)).await,
            ]
        }
    })
    .await;
    let names = [
        "NodeStageVolume",
        "NodePublishVolume",
        "NodeGetVolumeStats",
        "NodeUnpublishVolume",
        "NodeUnstageVolume",
    ];
    let of = |index: usize| lives.iter().map(|life| life[index]).collect::<Vec<_>>();
    names
        .iter()
        .enumerate()
        .flat_map(|(index, name)| rpc(name, callers, &of(index)))
        .collect()
}

fn bare(source: &Path, target: &Path, fs: Option<&str>, flags: MsFlags) -> Duration {
    let begin = Instant::now();
    mount(Some(source), target, fs, flags, None::<&str>).unwrap();
    let took = begin.elapsed();
    umount2(target, MntFlags::UMOUNT_NOFOLLOW).unwrap();
    took
}

/// Alternates the system call and the RPC, so that both meet the same machine.
async fn against_the_kernel(disks: &Disks, node: &Node) -> Vec<Row> {
    let (claim, device) = (&disks.claims[0], PathBuf::from(&disks.devices[0]));
    let target = disks.dir.path().join("bare");
    std::fs::create_dir(&target).unwrap();
    let (mut mounts, mut stages, mut binds, mut publishes) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        mounts.push(bare(&device, &target, Some("ext4"), MsFlags::empty()));
        stages.push(timed(claim.stage(node)).await);
        binds.push(bare(&claim.staging(node), &target, None, MsFlags::MS_BIND));
        publishes.push(timed(claim.publish(node)).await);
        timed(claim.unpublish(node)).await;
        timed(claim.unstage(node)).await;
    }
    let ratio = |over: &[Duration], under: &[Duration]| {
        percentile(over, 0.5).as_secs_f64() / percentile(under, 0.5).as_secs_f64()
    };
    eprintln!(
        "  mount(2) {:?}, stage {:?}, bind {:?}, publish {:?}",
        percentile(&mounts, 0.5),
        percentile(&stages, 0.5),
        percentile(&binds, 0.5),
        percentile(&publishes, 0.5)
    );
    vec![
        Row::new("stage_over_mount", ratio(&stages, &mounts), "x", 1.3),
        Row::new("publish_over_bind", ratio(&publishes, &binds), "x", 1.2),
    ]
}
