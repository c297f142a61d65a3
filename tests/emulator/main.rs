//! The emulator, driven by the driver's own client over HTTP.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod admin;
mod vendor_cli;

use std::sync::Arc;
use std::time::Duration;

use additional_storage_csi::cloud::nifcloud::{
    Client, ClientConfig, Credentials, install_crypto_provider,
};
use additional_storage_csi::cloud::{Cloud, Rejection};
use additional_storage_csi::domain::disk::{Accounting, Disk, NewDisk};
use additional_storage_csi::domain::id::{DiskName, VmName};
use additional_storage_csi::domain::size::DiskSize;
use additional_storage_csi::emulator::{BackendKind, Config, Effect, Emulator, Rule};

fn client(emulator: &Emulator) -> Arc<dyn Cloud> {
    install_crypto_provider();
    let keys = Credentials::from_values("EMULATORKEY", "emulator-secret");
    let mut config = ClientConfig::new("jp-east-1", keys);
    config.endpoint = Some(emulator.endpoint());
    Arc::new(Client::new(config).unwrap())
}

fn vm(name: &str) -> VmName {
    VmName::parse(name).unwrap()
}

fn disk(name: &str) -> DiskName {
    DiskName::parse(name).unwrap()
}

fn new_disk(name: &str, anchor: &str) -> NewDisk {
    NewDisk {
        name: disk(name),
        size: DiskSize::SMALLEST,
        type_code: "6".into(),
        accounting: Accounting::Hourly,
        anchor: vm(anchor),
        description: "new-made by a test".into(),
    }
}

async fn until(cloud: &Arc<dyn Cloud>, name: &str, good: impl Fn(&Disk) -> bool) -> Disk {
    for _ in 0..1000 {
        let disks = cloud.describe_disks(&[disk(name)]).await.unwrap();
        if good(&disks[0]) {
            return disks[0].clone();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{name} never got there");
}

fn rule(effect: Effect) -> Rule {
    Rule {
        action: Some("AttachVolume".into()),
        mutating: true,
        disk: None,
        vm: None,
        skip: 0,
        count: Some(1),
        probability: 1.0,
        effect,
    }
}

#[tokio::test]
async fn a_disk_lives_its_whole_life() {
    let config = Config::default()
        .vm("node1", "east-11")
        .vm("node2", "east-11")
        .vm("far", "east-12");
    let emulator = Emulator::start(config).await.unwrap();
    let cloud = client(&emulator);
    cloud.create_disk(&new_disk("d1", "node1")).await.unwrap();
    let twice = cloud
        .create_disk(&new_disk("d1", "node2"))
        .await
        .unwrap_err();
    assert_eq!(twice.rejection(), Some(Rejection::DuplicateName), "{twice}");
    until(&cloud, "d1", |d| d.is_attached_to(&vm("node1"))).await;
    let slots = cloud.describe_slots(&vm("node1")).await.unwrap();
    assert_eq!(slots[0].address.to_string(), "SCSI (0:1)");
    cloud.extend_disk(&disk("d1")).await.unwrap();
    assert_eq!(until(&cloud, "d1", Disk::is_attached).await.size.gib(), 200);
    let again = cloud
        .attach_disk(&disk("d1"), &vm("node2"))
        .await
        .unwrap_err();
    assert_eq!(again.rejection(), Some(Rejection::AlreadyAttached));
    cloud.detach_disk(&disk("d1"), &vm("node1")).await.unwrap();
    until(&cloud, "d1", Disk::is_detached).await;
    let again = cloud
        .detach_disk(&disk("d1"), &vm("node1"))
        .await
        .unwrap_err();
    assert_eq!(again.rejection(), Some(Rejection::AlreadyDetached));
    assert!(cloud.attach_disk(&disk("d1"), &vm("far")).await.is_err());
    cloud.delete_disk(&disk("d1")).await.unwrap();
    emulator.control().settle().await;
    let gone = cloud.describe_disks(&[disk("d1")]).await.unwrap_err();
    assert_eq!(gone.rejection(), Some(Rejection::VolumeNotFound));
    emulator.shutdown().await;
}

#[tokio::test]
async fn a_dropped_reply_leaves_the_outcome_unknown_and_the_disk_attached() {
    let emulator = Emulator::start(Config::default().vm("node1", "east-11"))
        .await
        .unwrap();
    let cloud = client(&emulator);
    cloud.create_disk(&new_disk("d1", "node1")).await.unwrap();
    until(&cloud, "d1", Disk::is_attached).await;
    cloud.detach_disk(&disk("d1"), &vm("node1")).await.unwrap();
    until(&cloud, "d1", Disk::is_detached).await;
    emulator.control().add_fault(rule(Effect::DropAfter));
    let lost = cloud
        .attach_disk(&disk("d1"), &vm("node1"))
        .await
        .unwrap_err();
    assert!(lost.outcome_unknown(), "{lost}");
    until(&cloud, "d1", Disk::is_attached).await;
    emulator.shutdown().await;
}

#[tokio::test]
async fn the_state_and_what_is_in_flight_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        data_dir: Some(dir.path().to_owned()),
        ..Config::default().vm("n", "z")
    };
    let emulator = Emulator::start(config.clone()).await.unwrap();
    client(&emulator)
        .create_disk(&new_disk("d1", "n"))
        .await
        .unwrap();
    emulator.shutdown().await;
    let emulator = Emulator::start(config).await.unwrap();
    until(&client(&emulator), "d1", |d| d.is_attached_to(&vm("n"))).await;
    emulator.shutdown().await;
}

#[tokio::test]
async fn loop_devices_come_and_go_with_attachments() {
    // SAFETY-free check of root: creating a loop device needs it.
    if !std::fs::metadata("/proc/1/root/")
        .is_ok_and(|_| std::path::Path::new("/dev/loop-control").exists())
    {
        eprintln!("skipped: needs root and loop devices");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        data_dir: Some(dir.path().join("data")),
        device_dir: Some(dir.path().join("devices")),
        backend: BackendKind::Loop,
        ..Config::default().vm("n", "z")
    };
    let emulator = Emulator::start(config).await.unwrap();
    let cloud = client(&emulator);
    cloud.create_disk(&new_disk("d1", "n")).await.unwrap();
    until(&cloud, "d1", Disk::is_attached).await;
    let link = dir.path().join("devices/n/pci-0000:03:00.0-scsi-0:0:1:0");
    let device = std::fs::read_link(&link).unwrap();
    let name = device.file_name().unwrap().to_str().unwrap();
    let sectors = || std::fs::read_to_string(format!("/sys/block/{name}/size")).unwrap();
    assert_eq!(sectors().trim(), (100_u64 << 21).to_string());
    cloud.extend_disk(&disk("d1")).await.unwrap();
    until(&cloud, "d1", Disk::is_attached).await;
    assert_eq!(sectors().trim(), (200_u64 << 21).to_string());
    emulator.shutdown().await;
    assert!(!link.exists());
    let backing = std::fs::read_to_string(format!("/sys/block/{name}/loop/backing_file"));
    assert!(!backing.is_ok_and(|file| file.starts_with(dir.path().to_str().unwrap())));
}
