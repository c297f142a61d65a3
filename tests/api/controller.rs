//! The controller's promises, one life of a disk at a time.

use std::time::{Duration, Instant};

use additional_storage_csi::domain::id::{DiskName, VmName};
use additional_storage_csi::emulator::Effect;
use additional_storage_csi::proto::csi::v1::*;
use tonic::Code;

use crate::controller_harness::*;
use crate::node_harness::refused;
#[tokio::test]
async fn from_claim_to_pod_costs_one_slow_operation() {
    let rig = Rig::new().await;
    let begun = Instant::now();
    let volume = rig.create(selected("node2")).await.unwrap();
    assert_eq!(
        rig.holder(DISK).as_deref(),
        Some("node2"),
        "born there, and stays"
    );
    assert_eq!(rig.disk(DISK).unwrap().description, NEW);
    let reads = || {
        let calls = rig.control().calls();
        ["DescribeVolumes", "DescribeInstanceAttribute"].map(|action| calls.get(action).copied())
    };
    let [to_create, _] = reads();
    let context = rig.publish(DISK, "node2").await.unwrap();
    assert_eq!(context["devicePath"], "SCSI (0:1)");
    assert_eq!(
        rig.changes(),
        ["CreateVolume node2", "ModifyVolumeAttribute"]
    );
    let [to_publish, slots] = reads();
    assert_eq!(slots, Some(1));
    // On a machine that was held up meanwhile, what was read then is too old.
    if begun.elapsed() < Duration::from_secs(2) {
        assert_eq!(
            to_publish, to_create,
            "the read that saw it made is good for its journal"
        );
    }
    assert_eq!(rig.disk(DISK).unwrap().description, PUBLISHED);
    assert_eq!(volume.capacity_bytes, 100 * GIB);
}

#[tokio::test]
async fn a_disk_that_was_taken_away_right_after_its_birth_is_brought_back_for_its_pod() {
    let rig = Rig::new().await;
    rig.create(selected("node2")).await.unwrap();
    let (disk, vm) = (
        DiskName::parse(DISK).unwrap(),
        VmName::parse("node2").unwrap(),
    );
    rig.cloud.detach_disk(&disk, &vm).await.unwrap();
    while rig.holder(DISK).is_some() {
        tokio::task::yield_now().await;
    }
    if let Err(status) = rig.publish(DISK, "node2").await {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
    let context = rig.publish(DISK, "node2").await.unwrap();
    assert_eq!(context["devicePath"], "SCSI (0:1)");
    assert_eq!(rig.holder(DISK).as_deref(), Some("node2"));
    assert_eq!(rig.disk(DISK).unwrap().description, PUBLISHED);
}

#[tokio::test]
async fn a_pod_on_another_node_than_selected_gets_the_disk_moved() {
    let rig = Rig::new().await;
    rig.create(selected("node1")).await.unwrap();
    rig.publish(DISK, "node2").await.unwrap();
    assert_eq!(
        rig.changes(),
        [
            "CreateVolume node1",
            "DetachVolume node1",
            "ModifyVolumeAttribute",
            "AttachVolume node2",
            "ModifyVolumeAttribute"
        ]
    );
    // Published once, it is nobody's but Unpublish's.
    rig.create(selected("node1")).await.unwrap();
    rig.create(immediate()).await.unwrap();
    assert_eq!(rig.holder(DISK).as_deref(), Some("node2"));
    let other = rig.publish(DISK, "node3").await;
    refused(
        other,
        Code::FailedPrecondition,
        &["node2", "node3", "unpublished"],
    );
    refused(
        rig.delete(DISK).await,
        Code::FailedPrecondition,
        &["node2", "unpublished"],
    );
    rig.unpublish(DISK, "node3").await.unwrap();
    assert_eq!(
        rig.holder(DISK).as_deref(),
        Some("node2"),
        "another VM's attachment is not touched"
    );
    rig.unpublish(DISK, "node2").await.unwrap();
    assert_eq!(rig.holder(DISK), None);
    rig.delete(DISK).await.unwrap();
    assert!(rig.disk(DISK).is_none());
}

#[tokio::test]
async fn immediate_binding_spreads_disks_and_leaves_them_detached() {
    let rig = Rig::new().await;
    for i in 0..6 {
        let mut request = immediate();
        request.name = format!("pvc-0a1b2c3d-4e5f-6071-8293-00000000000{i}");
        let volume = rig.create(request).await.unwrap();
        assert_eq!(rig.holder(&volume.volume_id), None);
        // Somebody keeps it, so that the next one goes elsewhere.
        let anchor = rig
            .changes()
            .iter()
            .rev()
            .find_map(|c| c.strip_prefix("DetachVolume ").map(str::to_owned));
        rig.publish(&volume.volume_id, &anchor.unwrap())
            .await
            .unwrap();
    }
    let state = rig.control().state();
    let loads: Vec<usize> = state.vms.values().map(|vm| vm.slots.len()).collect();
    assert_eq!(loads, [0, 2, 2, 2], "far takes none");
}

#[tokio::test]
async fn a_volume_tells_its_zone_its_true_size_and_its_file_system_id_and_no_more() {
    let rig = Rig::new().await;
    let mut request = selected("node1");
    request.capacity_range = Some(CapacityRange {
        required_bytes: 101 * GIB,
        limit_bytes: 0,
    });
    request.parameters = [("Type", "High-Speed-A"), ("blockSize", "4096")]
        .map(|(k, v)| (k.into(), v.into()))
        .into();
    let volume = rig.create(request).await.unwrap();
    assert_eq!(volume.volume_id, DISK);
    assert_eq!(volume.capacity_bytes, 200 * GIB);
    let segments = &volume.accessible_topology[0].segments;
    assert_eq!(volume.accessible_topology.len(), 1);
    assert_eq!(segments.len(), 1, "{segments:?}");
    assert_eq!(
        segments["topology.additional-storage.csi.nifcloud.com/zone"],
        "east-11"
    );
    assert_eq!(
        volume.volume_context["fsUuid"],
        "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
    );
    assert_eq!(volume.volume_context["blockSize"], "4096");
    assert_eq!(volume.volume_context.len(), 2);
    assert_eq!(rig.disk(DISK).unwrap().disk_type, "High-Speed Storage A");
}

#[tokio::test]
async fn a_repeated_create_finds_the_first_disk_and_a_different_one_is_refused() {
    let rig = Rig::new().await;
    let first = rig.create(selected("node1")).await.unwrap();
    assert_eq!(rig.create(selected("node1")).await.unwrap(), first);
    assert_eq!(rig.changes(), ["CreateVolume node1"]);
    let mut bigger = selected("node1");
    bigger.capacity_range = Some(CapacityRange {
        required_bytes: 200 * GIB,
        limit_bytes: 0,
    });
    refused(
        rig.create(bigger).await,
        Code::AlreadyExists,
        &["size", "100 GiB"],
    );
    let mut other = selected("node1");
    other.parameters = [("type".into(), "standard".into())].into();
    refused(
        rig.create(other).await,
        Code::AlreadyExists,
        &["type", "Standard Flash Storage A"],
    );
    let mut monthly = selected("node1");
    monthly.parameters = [("accountingType".into(), "monthly".into())].into();
    refused(
        rig.create(monthly).await,
        Code::AlreadyExists,
        &["accountingType"],
    );
    let far = claim(&[("east-12", Some("far"))]);
    refused(
        rig.create(far).await,
        Code::AlreadyExists,
        &["zone", "east-11", "east-12"],
    );
    assert_eq!(
        rig.changes(),
        ["CreateVolume node1"],
        "nothing else was made"
    );
}

#[tokio::test]
async fn a_disk_of_the_same_name_that_a_person_made_is_left_alone() {
    let rig = Rig::new().await;
    rig.control()
        .put_disk(disk_record(DISK, "my database", None))
        .unwrap();
    let answer = rig.create(selected("node1")).await;
    refused(
        answer,
        Code::AlreadyExists,
        &["my database", "control panel"],
    );
    assert!(rig.changes().is_empty());
}

#[tokio::test]
async fn a_full_or_missing_selected_vm_sends_the_pod_elsewhere_and_leaves_nothing() {
    let rig = Rig::new().await;
    for i in 0..14 {
        rig.control()
            .put_disk(disk_record(&format!("other{i}"), "x", Some("node1")))
            .unwrap();
    }
    refused(
        rig.create(selected("node1")).await,
        Code::ResourceExhausted,
        &["node1", "14"],
    );
    refused(
        rig.create(selected("gone")).await,
        Code::ResourceExhausted,
        &["gone", "does not exist"],
    );
    assert!(rig.disk(DISK).is_none());
    rig.create(selected("node2")).await.unwrap();
    refused(
        rig.publish(DISK, "node1").await,
        Code::ResourceExhausted,
        &["node1"],
    );
    assert_eq!(
        rig.holder(DISK).as_deref(),
        Some("node2"),
        "it did not leave for a full VM"
    );
    rig.control().set_vm_state("node3", "stopped").unwrap();
    let mut request = selected("node3");
    request.name = "other".to_owned();
    rig.create(request).await.unwrap();
}

#[tokio::test]
async fn a_full_vm_is_recognised_whatever_code_the_cloud_has_for_it() {
    let rig = Rig::new().await;
    for i in 0..14 {
        let other = disk_record(&format!("other{i}"), "x", Some("node1"));
        rig.control().put_disk(other).unwrap();
    }
    let odd = |action: &str| {
        let code = "Server.NobodyKnows".to_owned();
        rig.fault(action, 0, Effect::Refuse { code });
    };
    odd("CreateVolume");
    refused(
        rig.create(selected("node1")).await,
        Code::ResourceExhausted,
        &["node1", "14"],
    );
    assert!(rig.disk(DISK).is_none());
    rig.create(selected("node2")).await.unwrap();
    rig.unpublish(DISK, "node2").await.unwrap();
    odd("AttachVolume");
    refused(
        rig.publish(DISK, "node1").await,
        Code::ResourceExhausted,
        &["node1", "14"],
    );
}

#[tokio::test]
async fn without_a_vm_that_can_help_immediate_binding_is_exhausted() {
    let rig = Rig::new().await;
    for vm in ["node1", "node2", "node3"] {
        rig.control().set_vm_state(vm, "stopped").unwrap();
    }
    let answer = rig.create(immediate()).await;
    refused(answer, Code::ResourceExhausted, &["east-11", "start a VM"]);
    let nowhere = CreateVolumeRequest {
        accessibility_requirements: Some(TopologyRequirement {
            requisite: vec![Topology::default()],
            preferred: vec![],
        }),
        ..immediate()
    };
    refused(
        rig.create(nowhere).await,
        Code::ResourceExhausted,
        &["zone"],
    );
    let anywhere = CreateVolumeRequest {
        accessibility_requirements: None,
        ..immediate()
    };
    let volume = rig.create(anywhere).await.unwrap();
    let zone = volume.accessible_topology[0]
        .segments
        .values()
        .next()
        .cloned();
    assert_eq!(
        zone.as_deref(),
        Some("east-12"),
        "the only running VM is there"
    );
}

#[tokio::test]
async fn publish_names_what_is_missing() {
    let rig = Rig::new().await;
    rig.create(selected("node1")).await.unwrap();
    refused(
        rig.publish("nosuchdisk", "node1").await,
        Code::NotFound,
        &["nosuchdisk", "does not exist"],
    );
    refused(
        rig.publish("fake-vol-id-1", "node1").await,
        Code::NotFound,
        &["fake-vol-id-1"],
    );
    refused(
        rig.publish(DISK, "fake-node-id-1").await,
        Code::NotFound,
        &["fake-node-id-1"],
    );
    refused(
        rig.publish(DISK, "far").await,
        Code::FailedPrecondition,
        &["east-11", "east-12"],
    );
    assert_eq!(
        rig.holder(DISK).as_deref(),
        Some("node1"),
        "it stays where it was"
    );
    rig.unpublish(DISK, "node1").await.unwrap();
    refused(
        rig.publish(DISK, "far").await,
        Code::FailedPrecondition,
        &["east-11", "east-12"],
    );
    refused(
        rig.publish(DISK, "fake-node-id-1").await,
        Code::NotFound,
        &["fake-node-id-1"],
    );
}

#[tokio::test]
async fn what_is_gone_already_is_success_on_the_way_down() {
    let rig = Rig::new().await;
    for id in ["nosuchdisk", "fake-vol-id-1", &"x".repeat(100)] {
        rig.delete(id).await.unwrap();
        rig.unpublish(id, "node1").await.unwrap();
    }
    rig.create(selected("node1")).await.unwrap();
    rig.publish(DISK, "node1").await.unwrap();
    rig.unpublish(DISK, "fake-node-id-1").await.unwrap();
    rig.unpublish(DISK, "a VM that cannot exist").await.unwrap();
    assert_eq!(rig.holder(DISK).as_deref(), Some("node1"));
    rig.control().delete_vm("node1").unwrap();
    rig.unpublish(DISK, "node1").await.unwrap();
    rig.publish(DISK, "node2").await.unwrap();
    rig.unpublish(DISK, "").await.unwrap();
    assert_eq!(rig.holder(DISK), None, "no node means: from whichever");
    rig.delete(DISK).await.unwrap();
    rig.delete(DISK).await.unwrap();
}

#[tokio::test]
async fn a_disk_that_was_never_published_is_deleted_from_where_it_was_born() {
    let rig = Rig::new().await;
    rig.create(selected("node1")).await.unwrap();
    rig.delete(DISK).await.unwrap();
    assert!(rig.disk(DISK).is_none());
    assert!(rig.control().state().vms["node1"].slots.is_empty());
}
