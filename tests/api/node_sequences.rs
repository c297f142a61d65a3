//! Random sequences of calls, faults, restarts, reboots and pulled disks. The machine in memory asserts what must never
//! happen (data formatted over, a mounted disk checked or released); here it is held that every mess can be cleaned up.

use std::path::PathBuf;

use additional_storage_csi::domain::capability::FsType;
use additional_storage_csi::domain::id::DiskName;
use additional_storage_csi::host::{Content, HostError};
use additional_storage_csi::proto::csi::v1::VolumeCapability;
use additional_storage_csi::proto::csi::v1::volume_capability::access_mode::Mode;
use tonic::{Code, Status};

use crate::fake_host::devno;
use crate::node_harness::{DISK, Harness, block, mount_as};

const TARGETS: [&str; 2] = ["pods/a", "pods/b"];
const FAULTS: [&str; 8] = [
    "find",
    "format",
    "check",
    "mount",
    "bind",
    "bind_device",
    "unmount",
    "release",
];

fn fault(pick: usize) -> HostError {
    match pick % 3 {
        0 => HostError::Busy {
            path: PathBuf::from("/dev/fake"),
            users: "somebody".to_owned(),
        },
        1 => HostError::TimedOut {
            what: "it".to_owned(),
            limit_ms: 1,
        },
        _ => HostError::Io {
            action: "do",
            path: PathBuf::from("/dev/fake"),
            reason: "EIO".to_owned(),
            errno: Some(5),
        },
    }
}

/// A defect of the driver or a broken promise of the fake shows as INTERNAL from a panic.
#[track_caller]
fn no_panic(seed: u64, answer: Result<(), Status>) {
    if let Err(status) = answer {
        let panicked = status.code() == Code::Internal && status.message().contains("driver's log");
        assert!(!panicked, "seed {seed}: {status:?}");
    }
}

/// The disk comes (back) into slot 0:3 under a number that was not used before.
fn attach(node: &Harness, next: &mut u32) {
    let number = devno(*next);
    *next += 1;
    let fresh = node.host.plug(3);
    let mut machine = node.host.get();
    let mut disk = machine.disks.remove(&fresh).unwrap();
    if let Some(kept) = machine.cloud.take() {
        disk = kept;
    }
    machine.disks.insert(number, disk);
}

async fn sequence(seed: u64, capability: &VolumeCapability) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut node = Harness::new().await;
    let mut next = 20;
    let mut boots = 1;
    attach(&node, &mut next);
    for _ in 0..40 {
        match random.u32(..16) {
            0..=3 => no_panic(seed, node.stage(3, capability.clone()).await),
            4..=6 => {
                let target = TARGETS[random.usize(..2)];
                no_panic(seed, node.publish(target, capability.clone()).await);
            }
            7 | 8 => no_panic(seed, node.unpublish(TARGETS[random.usize(..2)]).await),
            9 | 10 => no_panic(seed, node.unstage().await),
            11 => {
                let name = FAULTS[random.usize(..FAULTS.len())];
                node.host.get().fail.insert(name, fault(random.usize(..3)));
            }
            12 => node = node.restarted(|_| {}).await,
            13 => {
                boots += 1;
                node.host.get().mounts.clear();
                node = node
                    .restarted(|config| config.boot_id = format!("boot-{boots}"))
                    .await;
            }
            14 => {
                let there = node.host.get().disks.keys().next().copied();
                if let Some(number) = there {
                    node.host.unplug(number);
                }
            }
            _ => {
                let empty = node.host.get().disks.is_empty();
                if empty {
                    attach(&node, &mut next);
                }
            }
        }
    }
    node.host.get().fail.clear();
    for target in TARGETS {
        node.unpublish(target).await.unwrap();
    }
    node.unstage().await.unwrap();
    assert!(node.host.get().mounts.is_empty(), "seed {seed}");
    assert!(!node.record(DISK).exists(), "seed {seed}");
    // The disk works again, with what was on it.
    if node.host.get().disks.is_empty() {
        attach(&node, &mut next);
    }
    node.stage(3, capability.clone()).await.unwrap();
    node.publish("pods/a", capability.clone()).await.unwrap();
    let uuid = DiskName::parse(DISK).unwrap().fs_uuid();
    let content = {
        let machine = node.host.get();
        machine.disks.values().next().unwrap().content.clone()
    };
    let expected = if *capability == block() {
        Content::Blank
    } else {
        Content::Known {
            fs: FsType::Xfs,
            uuid: Some(uuid),
        }
    };
    assert_eq!(content, expected, "seed {seed}");
}

#[tokio::test]
async fn every_mess_of_a_file_system_can_be_cleaned_up_without_loss() {
    for seed in 0..60 {
        sequence(seed, &mount_as("xfs", Mode::SingleNodeWriter)).await;
    }
}

#[tokio::test]
async fn every_mess_of_a_raw_block_volume_can_be_cleaned_up_without_loss() {
    for seed in 0..60 {
        sequence(seed, &block()).await;
    }
}
