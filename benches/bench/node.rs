//! The node's RPCs on loop devices, against the bare system calls. Needs root.
//!
//! Stage and publish are compared in two ways: `stage_over_mount` and `publish_over_bind` are the whole call over the
//! system call alone; `..._and_rpc` is the whole call over the system call and a call that does nothing
//! (`rpc_floor_ms`), because no gRPC call takes less than that, while a bind takes microseconds. All in one loop.
//!
//! What the kernel itself takes under the same load is in the rows `kernel_*`: as many threads as callers, each with a
//! disk of its own, make the same system calls without any driver. `flush` is the exclusive open and fsync(2) of the
//! disk that an unstage owes after its unmount. `rpc_above_kernel_*` is the RPC's figure minus the kernel's.

use std::fs::OpenOptions;
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use additional_storage_csi::demo::claim::{Claim, Form, Node};
use additional_storage_csi::proto::csi::v1::node_client::NodeClient;
use additional_storage_csi::proto::csi::v1::*;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::controller::timed;
use super::process::{Driver, node_arguments};
use super::rows::{Row, each, millis, percentile, rpc};

const DISKS: usize = 16;
const DISK_BYTES: u64 = 1 << 30;
/// Samples of a row, shared by its callers: the 99th percentile of fewer than a hundred is their maximum.
const SAMPLES: usize = 400;
/// Rounds of the comparison with the system calls alone.
const ROUNDS: usize = 100;
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
        let kernel = alone(&disks, callers);
        rows.extend(kernel.rows(callers));
        rows.extend(reads(&client, callers).await);
        rows.extend(lives(&disks, &node, &kernel, callers).await);
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

async fn lives(disks: &Disks, node: &Node, kernel: &Bare, callers: usize) -> Vec<Row> {
    let lives = each(callers, SAMPLES / callers, |caller, _| {
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
        ("NodeStageVolume", Some(&kernel.mount)),
        ("NodePublishVolume", Some(&kernel.bind)),
        ("NodeGetVolumeStats", None),
        ("NodeUnpublishVolume", Some(&kernel.unbind)),
        ("NodeUnstageVolume", Some(&kernel.leave)),
    ];
    let mut rows = Vec::new();
    for (index, (name, kernel)) in names.into_iter().enumerate() {
        let samples: Vec<_> = lives.iter().map(|life| life[index]).collect();
        rows.extend(rpc(name, callers, &samples));
        if let Some(kernel) = kernel {
            rows.extend(above(name, callers, &samples, kernel));
        }
    }
    rows
}

fn above(name: &str, callers: usize, samples: &[Duration], kernel: &[Duration]) -> [Row; 2] {
    let row = |kind: &str, part, bound| {
        let value = millis(percentile(samples, part)) - millis(percentile(kernel, part));
        let name = format!("rpc_above_kernel_{kind}_ms/{name}/{callers}");
        Row::new(name, value, "ms", bound)
    };
    [row("p50", 0.5, 2.0), row("p99", 0.99, 10.0)]
}

/// The system calls of one life without any driver.
#[derive(Default)]
struct Bare {
    mount: Vec<Duration>,
    bind: Vec<Duration>,
    unbind: Vec<Duration>,
    umount: Vec<Duration>,
    flush: Vec<Duration>,
    /// Both of the above, as an unstage makes them.
    leave: Vec<Duration>,
}

impl Bare {
    fn life(&mut self, device: &Path, fs: &Path, bound: &Path) {
        let none = None::<&str>;
        self.mount.push(took(|| {
            mount(Some(device), fs, Some("ext4"), MsFlags::empty(), none).unwrap();
        }));
        self.bind.push(took(|| {
            mount(Some(fs), bound, none, MsFlags::MS_BIND, none).unwrap();
        }));
        let unmount = |target: &Path| took(|| umount2(target, MntFlags::UMOUNT_NOFOLLOW).unwrap());
        self.unbind.push(unmount(bound));
        let umount = unmount(fs);
        let flush = took(|| {
            let mut exclusive = OpenOptions::new();
            exclusive
                .read(true)
                .write(true)
                .custom_flags(nix::libc::O_EXCL);
            exclusive.open(device).unwrap().sync_all().unwrap();
        });
        self.umount.push(umount);
        self.flush.push(flush);
        self.leave.push(umount + flush);
    }

    fn rows(&self, callers: usize) -> Vec<Row> {
        let calls = [
            ("mount", &self.mount),
            ("bind", &self.bind),
            ("unbind", &self.unbind),
            ("umount", &self.umount),
            ("flush", &self.flush),
        ];
        let row = |kind, part, (name, samples): (&str, &Vec<Duration>)| {
            let name = format!("kernel_{kind}_ms/{name}/{callers}");
            Row::plain(name, millis(percentile(samples, part)), "ms")
        };
        let both = |call| [row("p50", 0.5, call), row("p99", 0.99, call)];
        calls.into_iter().flat_map(both).collect()
    }
}

fn took(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

/// As many threads as callers, each on a disk of its own.
fn alone(disks: &Disks, callers: usize) -> Bare {
    let lives = |number: usize| {
        let place = |kind: &str| disks.dir.path().join(format!("{kind}-{number}-{callers}"));
        let (fs, bound) = (place("fs"), place("bound"));
        std::fs::create_dir(&fs).unwrap();
        std::fs::create_dir(&bound).unwrap();
        let mut bare = Bare::default();
        for _ in 0..SAMPLES / callers {
            bare.life(Path::new(&disks.devices[number]), &fs, &bound);
        }
        bare
    };
    let mut all = Bare::default();
    std::thread::scope(|scope| {
        let lives = &lives;
        let threads: Vec<_> = (0..callers)
            .map(|number| scope.spawn(move || lives(number)))
            .collect();
        for thread in threads {
            let one = thread.join().unwrap();
            all.mount.extend(one.mount);
            all.bind.extend(one.bind);
            all.unbind.extend(one.unbind);
            all.umount.extend(one.umount);
            all.flush.extend(one.flush);
            all.leave.extend(one.leave);
        }
    });
    all
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
    let (mut mounts, mut stages, mut binds, mut publishes, mut floors) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let null = || async {
        let mut client = node.client.clone();
        let request = NodeGetCapabilitiesRequest {};
        timed(client.node_get_capabilities(request)).await
    };
    for _ in 0..ROUNDS {
        mounts.push(bare(&device, &target, Some("ext4"), MsFlags::empty()));
        floors.push(null().await);
        stages.push(timed(claim.stage(node)).await);
        binds.push(bare(&claim.staging(node), &target, None, MsFlags::MS_BIND));
        floors.push(null().await);
        publishes.push(timed(claim.publish(node)).await);
        timed(claim.unpublish(node)).await;
        timed(claim.unstage(node)).await;
    }
    let half = |samples: &[Duration]| millis(percentile(samples, 0.5));
    let (mount, bind, floor) = (half(&mounts), half(&binds), half(&floors));
    let (stage, publish) = (half(&stages), half(&publishes));
    eprintln!(
        "  ms: mount(2) {mount:.3}, stage {stage:.3}, bind {bind:.3}, publish {publish:.3}, null RPC {floor:.3}"
    );
    vec![
        Row::plain("rpc_floor_ms", floor, "ms"),
        Row::new("stage_over_mount", stage / mount, "x", 1.3),
        Row::new(
            "stage_over_mount_and_rpc",
            stage / (mount + floor),
            "x",
            1.3,
        ),
        Row::new("publish_over_bind", publish / bind, "x", 1.2),
        Row::new(
            "publish_over_bind_and_rpc",
            publish / (bind + floor),
            "x",
            1.2,
        ),
    ]
}
