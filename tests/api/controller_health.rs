//! What the controller's health calls tell of disks in trouble.

use std::sync::Arc;
use std::time::Duration;

use additional_storage_csi::cloud::Cloud as _;
use additional_storage_csi::cloud::nifcloud::{Client, ClientConfig, Credentials};
use additional_storage_csi::csi::controller::ControllerConfig;
use additional_storage_csi::domain::id::{DiskName, VmName};
use additional_storage_csi::emulator::Effect;
use additional_storage_csi::proto::csi::v1::*;

use crate::controller_harness::{DISK, PUBLISHED, Rig, disk_record, selected, settings};

const GROWING: &str = "grw-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";

/// A controller that soon calls a disk stuck.
async fn impatient() -> Rig {
    let rig = Rig::new().await;
    let settings = ControllerConfig {
        job: Duration::from_secs(2),
        ..settings()
    };
    Rig::over(Arc::clone(&rig.emulator), settings).await
}

/// The control panel.
fn panel(rig: &Rig) -> (Client, DiskName) {
    let keys = Credentials::from_values("EMULATORKEY", "emulator-secret");
    let mut config = ClientConfig::new("jp-east-1", keys);
    config.endpoint = Some(rig.emulator.endpoint());
    (Client::new(config).unwrap(), DiskName::parse(DISK).unwrap())
}

async fn health(rig: &Rig) -> Option<VolumeHealth> {
    let request = ControllerGetVolumeHealthRequest {
        volume_id: DISK.to_owned(),
        ..ControllerGetVolumeHealthRequest::default()
    };
    let mut client = rig.client.clone();
    let answer = client.controller_get_volume_health(request);
    answer.await.unwrap().into_inner().volume_health
}

async fn list(rig: &Rig) -> Vec<VolumeHealth> {
    let mut client = rig.client.clone();
    let request = ControllerListVolumeHealthRequest::default();
    let answer = client.controller_list_volume_health(request);
    answer.await.unwrap().into_inner().entries
}

/// The one finding in the list, once there is one; asked for by name it is the same.
async fn finding(rig: &Rig) -> (VolumeHealthErrorType, String) {
    let mut entries = Vec::new();
    for _ in 0..500 {
        entries = list(rig).await;
        if !entries.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(entries.len(), 1, "{entries:?}");
    let found = &entries[0];
    assert_eq!(found.health_statuses.len(), 1, "{found:?}");
    let entry = &found.health_statuses[0];
    assert_eq!(found.volume_id, DISK);
    // How long it has lasted is part of the message.
    let again = health(rig).await.unwrap();
    assert_eq!(again.health_statuses[0].reason, entry.reason);
    assert!(!entry.message.is_empty());
    (entry.status(), entry.reason.clone())
}

#[tokio::test]
async fn a_disk_that_does_not_leave_a_state_is_reported_with_it() {
    for (action, vm, reason) in [
        ("AttachVolume", None, "StuckAttaching"),
        ("DetachVolume", Some("node1"), "StuckDetaching"),
    ] {
        let rig = impatient().await;
        let record = disk_record(DISK, PUBLISHED, vm);
        rig.control().put_disk(record).unwrap();
        rig.fault(action, 0, Effect::Stuck { ms: 3_600_000 });
        let (panel, disk) = panel(&rig);
        let node1 = VmName::parse("node1").unwrap();
        if vm.is_none() {
            panel.attach_disk(&disk, &node1).await.unwrap();
        } else {
            panel.detach_disk(&disk, &node1).await.unwrap();
        }
        assert_eq!(
            health(&rig).await.unwrap().health_statuses,
            [],
            "seen for the first time"
        );
        let found = finding(&rig).await;
        let expected = (VolumeHealthErrorType::Inaccessible, reason.to_owned());
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn a_disk_that_is_where_the_journal_does_not_say_is_reported_until_it_is_put_right() {
    let free = format!("pvc-{DISK}free");
    for (description, reason) in [(GROWING, "GrowthAbandoned"), (&free, "AttachedElsewhere")] {
        let rig = impatient().await;
        let record = disk_record(DISK, description, Some("node1"));
        rig.control().put_disk(record).unwrap();
        let expected = (VolumeHealthErrorType::Degraded, reason.to_owned());
        assert_eq!(finding(&rig).await, expected);
        let healer = Rig::over(Arc::clone(&rig.emulator), settings()).await;
        healer.publish(DISK, "node2").await.unwrap();
        assert_eq!(health(&rig).await.unwrap().health_statuses, []);
    }
}

#[tokio::test]
async fn a_published_disk_that_somebody_deleted_is_reported_as_lost_until_it_is_unpublished() {
    let rig = Rig::new().await;
    rig.create(selected("node1")).await.unwrap();
    rig.publish(DISK, "node1").await.unwrap();
    assert_eq!(health(&rig).await.unwrap().health_statuses, []);
    let (panel, disk) = panel(&rig);
    panel
        .detach_disk(&disk, &VmName::parse("node1").unwrap())
        .await
        .unwrap();
    while panel.delete_disk(&disk).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    while rig.disk(DISK).is_some() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let expected = (VolumeHealthErrorType::DataLoss, "DiskMissing".to_owned());
    assert_eq!(finding(&rig).await, expected);
    rig.unpublish(DISK, "node1").await.unwrap();
    assert_eq!(list(&rig).await, []);
}
