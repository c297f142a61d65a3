//! The controller's promises, one life of a disk at a time.

use additional_storage_csi::emulator::{Effect, Rule};
use additional_storage_csi::proto::csi::v1::*;
use tonic::Code;

use crate::controller_harness::*;
use crate::node_harness::refused;

#[tokio::test]
async fn from_claim_to_pod_costs_one_slow_operation() {
    let rig = Rig::new().await;
    let volume = rig.create(selected("node2")).await.unwrap();
    assert_eq!(
        rig.holder(DISK).as_deref(),
        Some("node2"),
        "born there, and stays"
    );
    assert_eq!(rig.disk(DISK).unwrap().description, NEW);
    let context = rig.publish(DISK, "node2").await.unwrap();
    assert_eq!(context["devicePath"], "SCSI (0:1)");
    assert_eq!(
        rig.changes(),
        ["CreateVolume node2", "ModifyVolumeAttribute"]
    );
    assert_eq!(rig.disk(DISK).unwrap().description, PUBLISHED);
    assert_eq!(volume.capacity_bytes, 100 * GIB);
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
            "AttachVolume node2"
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

#[tokio::test]
async fn a_published_disk_grows_in_place_and_never_past_what_is_wanted() {
    let rig = Rig::new().await;
    rig.create(selected("node1")).await.unwrap();
    rig.publish(DISK, "node1").await.unwrap();
    assert_eq!(rig.expand(DISK, 301, 0).await.unwrap(), 400);
    assert_eq!(rig.expand(DISK, 301, 0).await.unwrap(), 400);
    assert_eq!(rig.expand(DISK, 100, 0).await.unwrap(), 400);
    assert_eq!(rig.disk(DISK).unwrap().size, 400);
    let steps = rig
        .changes()
        .iter()
        .filter(|c| c.starts_with("Extend"))
        .count();
    assert_eq!(steps, 3);
    refused(
        rig.expand(DISK, 410, 450).await,
        Code::OutOfRange,
        &["500 GiB", "steps of 100"],
    );
    refused(
        rig.expand(DISK, 100, 300).await,
        Code::OutOfRange,
        &["cannot shrink"],
    );
    refused(
        rig.expand(DISK, 8001, 0).await,
        Code::OutOfRange,
        &["8000 GiB"],
    );
    refused(
        rig.expand("nosuchdisk", 200, 0).await,
        Code::NotFound,
        &["nosuchdisk"],
    );
    assert_eq!(rig.holder(DISK).as_deref(), Some("node1"));
}

#[tokio::test]
async fn a_detached_disk_grows_on_an_anchor_and_comes_back_detached() {
    let rig = Rig::new().await;
    rig.create(selected("node1")).await.unwrap();
    rig.publish(DISK, "node1").await.unwrap();
    rig.unpublish(DISK, "node1").await.unwrap();
    assert_eq!(rig.expand(DISK, 200, 200).await.unwrap(), 200);
    let disk = rig.disk(DISK).unwrap();
    assert_eq!((disk.size, disk.attachment), (200, None));
    assert_eq!(disk.description, PUBLISHED);
    rig.publish(DISK, "node1").await.unwrap();
}

#[tokio::test]
async fn a_growth_that_was_cut_is_finished_or_taken_over_by_whoever_comes_next() {
    let grw = NEW.replace("new-", "grw-");
    for attached in [None, Some("node3")] {
        let rig = Rig::new().await;
        let put = || {
            rig.control()
                .put_disk(disk_record(DISK, &grw, attached))
                .unwrap();
        };
        put();
        assert_eq!(rig.expand(DISK, 200, 0).await.unwrap(), 200);
        assert_eq!(rig.disk(DISK).unwrap().description, PUBLISHED);
        assert_eq!(rig.holder(DISK), None);
        rig.delete(DISK).await.unwrap();
        put();
        rig.unpublish(DISK, "node3").await.unwrap();
        rig.publish(DISK, "node3").await.unwrap();
        assert_eq!(rig.disk(DISK).unwrap().description, PUBLISHED);
        rig.unpublish(DISK, "node3").await.unwrap();
        rig.delete(DISK).await.unwrap();
        put();
        rig.delete(DISK).await.unwrap();
        assert!(rig.disk(DISK).is_none());
    }
}

#[tokio::test]
async fn whatever_reply_is_lost_the_call_finishes_and_does_nothing_twice() {
    let effects = [
        Effect::DropBefore,
        Effect::DropAfter,
        Effect::InternalErrorBefore,
        Effect::InternalErrorAfter,
        Effect::GatewayBefore { status: 502 },
        Effect::GatewayAfter { status: 502 },
        Effect::Throttle,
        Effect::Refuse {
            code: "Server.ResourceIncorrectState.Instance.Processing".to_owned(),
        },
    ];
    let lives = effects.into_iter().map(one_life_with);
    lives.collect::<tokio::task::JoinSet<()>>().join_all().await;
}

/// Each call of one disk's life suffers once.
async fn one_life_with(effect: Effect) {
    let rig = Rig::new().await;
    let fault = |action: &str| rig.fault(action, 0, effect.clone());
    fault("CreateVolume");
    fault("DetachVolume");
    rig.create(immediate()).await.unwrap();
    assert_eq!(rig.control().state().disks.len(), 1, "{effect:?}");
    assert_eq!(rig.holder(DISK), None, "{effect:?}");
    fault("ModifyVolumeAttribute");
    fault("AttachVolume");
    fault("DescribeInstanceAttribute");
    // The slot is read without a second try: the sidecar repeats the call.
    let first = rig.publish(DISK, "node1").await;
    if first.is_err() {
        assert_eq!(code(first), Code::Unavailable);
    }
    rig.publish(DISK, "node1").await.unwrap();
    assert_eq!(rig.disk(DISK).unwrap().description, PUBLISHED, "{effect:?}");
    fault("ExtendVolumeSize");
    assert_eq!(rig.expand(DISK, 300, 300).await.unwrap(), 300, "{effect:?}");
    fault("ModifyVolumeAttribute");
    rig.modify(DISK, "monthly").await.unwrap();
    fault("DetachVolume");
    rig.unpublish(DISK, "node1").await.unwrap();
    assert_eq!(rig.holder(DISK), None, "{effect:?}");
    fault("DeleteVolume");
    rig.delete(DISK).await.unwrap();
    assert!(rig.control().state().disks.is_empty(), "{effect:?}");
}

#[tokio::test]
async fn an_api_that_keeps_failing_never_makes_a_create_final() {
    let effects = [
        Effect::InternalErrorAfter,
        Effect::DropAfter,
        Effect::Refuse {
            code: "Client.AuthFailure".to_owned(),
        },
        Effect::Refuse {
            code: "Client.Odd".to_owned(),
        },
    ];
    let tries = effects.into_iter().map(create_that_cannot_read);
    tries.collect::<tokio::task::JoinSet<()>>().join_all().await;
}

/// The first create makes the disk and its reply is lost; then nothing can be read.
async fn create_that_cannot_read(effect: Effect) {
    let rig = Rig::new().await;
    rig.fault("CreateVolume", 0, Effect::DropAfter);
    rig.control().add_fault(Rule {
        action: Some("DescribeVolumes".to_owned()),
        mutating: false,
        disk: None,
        vm: None,
        skip: 0,
        count: None,
        probability: 1.0,
        effect: effect.clone(),
    });
    let limit = std::time::Duration::from_secs(20);
    let answer = tokio::time::timeout(limit, rig.create(selected("node1"))).await;
    let found = code(answer.unwrap());
    let temporary = [Code::Unavailable, Code::DeadlineExceeded, Code::Aborted];
    assert!(temporary.contains(&found), "{effect:?}: {found:?}");
    rig.control().clear_faults();
    rig.create(selected("node1")).await.unwrap();
}

#[tokio::test]
async fn a_refusal_by_the_cloud_is_final_and_carries_its_code() {
    let rig = Rig::new().await;
    rig.fault(
        "CreateVolume",
        0,
        Effect::Refuse {
            code: "Client.ResourceLimitExceeded.Volume".to_owned(),
        },
    );
    let answer = rig.create(selected("node1")).await;
    refused(
        answer,
        Code::FailedPrecondition,
        &["Client.ResourceLimitExceeded.Volume", "nothing was changed"],
    );
    assert!(rig.disk(DISK).is_none());
}

#[tokio::test]
async fn a_retry_joins_and_another_operation_is_aborted() {
    let mut config = cloud();
    config.latency.create = 400;
    let rig = Rig::with(config).await;
    let (one, two, other) = tokio::join!(
        rig.create(selected("node1")),
        rig.create(selected("node1")),
        async {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            rig.delete(DISK).await
        }
    );
    assert_eq!(one.unwrap(), two.unwrap());
    refused(other, Code::Aborted, &["CreateVolume is in progress"]);
    assert_eq!(rig.changes(), ["CreateVolume node1"]);
}

#[tokio::test]
async fn a_caller_that_gives_up_hears_that_the_work_goes_on() {
    let mut config = cloud();
    config.latency.create = 3000;
    let rig = Rig::with(config).await;
    let mut request = tonic::Request::new(selected("node1"));
    request.set_timeout(std::time::Duration::from_secs(1));
    let answer = rig.client.clone().create_volume(request).await;
    refused(answer, Code::DeadlineExceeded, &["still running"]);
    rig.create(selected("node1")).await.unwrap();
    assert_eq!(rig.changes(), ["CreateVolume node1"]);
    assert!(rig.jobs.is_empty());
}

#[tokio::test]
async fn two_controllers_make_one_disk_grow_it_once_and_never_take_it_from_its_pod() {
    for _ in 0..3 {
        let rig = Rig::new().await;
        let twin = rig.twin().await;
        let (a, b) = tokio::join!(rig.create(immediate()), twin.create(immediate()));
        assert_eq!(a.unwrap().volume_id, b.unwrap().volume_id);
        assert_eq!(rig.control().state().disks.len(), 1);
        let (published, _stale) =
            tokio::join!(rig.publish(DISK, "node1"), twin.create(immediate()));
        published.unwrap();
        assert_eq!(rig.holder(DISK).as_deref(), Some("node1"));
        let (a, b) = tokio::join!(rig.expand(DISK, 400, 0), twin.expand(DISK, 400, 0));
        assert_eq!((a.unwrap(), b.unwrap()), (400, 400));
        assert_eq!(rig.disk(DISK).unwrap().size, 400);
        let (a, b) = tokio::join!(rig.unpublish(DISK, "node1"), twin.unpublish(DISK, "node1"));
        assert!(a.is_ok() && b.is_ok());
        let (a, b) = tokio::join!(rig.delete(DISK), twin.delete(DISK));
        assert!(a.is_ok() && b.is_ok());
    }
}

#[tokio::test]
async fn billing_changes_once_and_only_billing() {
    let rig = Rig::new().await;
    let mut request = selected("node1");
    request.mutable_parameters = [("accountingType".into(), "monthly".into())].into();
    rig.create(request).await.unwrap();
    assert_eq!(rig.disk(DISK).unwrap().accounting, "1");
    rig.modify(DISK, "Hourly").await.unwrap();
    rig.modify(DISK, "hourly").await.unwrap();
    assert_eq!(rig.disk(DISK).unwrap().next_accounting, "2");
    assert_eq!(
        rig.changes(),
        ["CreateVolume node1", "ModifyVolumeAttribute"]
    );
    refused(
        rig.modify(DISK, "daily").await,
        Code::InvalidArgument,
        &["daily", "monthly or hourly"],
    );
    refused(
        rig.modify("nosuchdisk", "hourly").await,
        Code::NotFound,
        &["nosuchdisk"],
    );
}
