//! Lists, health, validation, bad input, and the contract with the Go driver.

use additional_storage_csi::proto::csi::v1::volume_capability::access_mode::Mode;
use additional_storage_csi::proto::csi::v1::*;
use tonic::Code;

use crate::controller_harness::*;
use crate::node_harness::{ext4, mount_as, refused};

/// As the Go driver made it: a name of eight characters that the cloud chose, the claim in the description.
const GO_DISK: &str = "a1B2c3D4";

#[tokio::test]
async fn a_disk_of_the_go_driver_is_published_grown_unpublished_and_deleted_without_an_edit() {
    let rig = Rig::new().await;
    rig.control()
        .put_disk(disk_record(GO_DISK, PUBLISHED, None))
        .unwrap();
    let context = rig.publish(GO_DISK, "node1").await.unwrap();
    assert_eq!(context["devicePath"], "SCSI (0:1)");
    assert_eq!(rig.expand(GO_DISK, 200, 0).await.unwrap(), 200);
    rig.unpublish(GO_DISK, "node1").await.unwrap();
    assert_eq!(rig.expand(GO_DISK, 300, 0).await.unwrap(), 300);
    assert_eq!(
        rig.disk(GO_DISK).unwrap().description,
        format!("pvc-{DISK}free"),
        "the claim, without its hyphens"
    );
    rig.publish(GO_DISK, "node1").await.unwrap();
    assert_eq!(rig.disk(GO_DISK).unwrap().description, PUBLISHED);
    rig.unpublish(GO_DISK, "node1").await.unwrap();
    rig.delete(GO_DISK).await.unwrap();
    assert!(rig.disk(GO_DISK).is_none());
}

#[tokio::test]
async fn a_disk_made_by_hand_is_used_and_deleted_but_never_described_anew() {
    let rig = Rig::new().await;
    for description in ["", "ニフクラの台帳", "pv"] {
        rig.control()
            .put_disk(disk_record("byhand", description, None))
            .unwrap();
        let detached = rig.expand("byhand", 200, 0).await;
        refused(
            detached,
            Code::FailedPrecondition,
            &["byhand", "made by hand", "start the pod"],
        );
        rig.publish("byhand", "node1").await.unwrap();
        refused(
            rig.delete("byhand").await,
            Code::FailedPrecondition,
            &["node1"],
        );
        assert_eq!(rig.expand("byhand", 200, 0).await.unwrap(), 200);
        rig.unpublish("byhand", "node1").await.unwrap();
        assert_eq!(rig.disk("byhand").unwrap().description, description);
        rig.delete("byhand").await.unwrap();
    }
    assert!(!rig.changes().contains(&"ModifyVolumeAttribute".to_owned()));
}

#[tokio::test]
async fn volumes_are_listed_page_by_page_with_the_nodes_they_are_published_on() {
    let rig = Rig::new().await;
    let put =
        |name: &str, text: &str, vm| rig.control().put_disk(disk_record(name, text, vm)).unwrap();
    put("a1", PUBLISHED, Some("node1"));
    put("b1", NEW, Some("node2"));
    put("c1", "by hand", Some("node1"));
    put("d1", PUBLISHED, None);
    let all = rig.list(0, "").await.unwrap();
    let seen: Vec<(String, Vec<String>)> = all
        .entries
        .into_iter()
        .map(|e| {
            (
                e.volume.unwrap().volume_id,
                e.status.unwrap().published_node_ids,
            )
        })
        .collect();
    let node = |vm: &str| vec![vm.to_owned()];
    assert_eq!(
        seen,
        [
            ("a1".to_owned(), node("node1")),
            ("b1".to_owned(), vec![]),
            ("d1".to_owned(), vec![])
        ]
    );
    assert_eq!(all.next_token, "");
    let first = rig.list(2, "").await.unwrap();
    assert_eq!((first.entries.len(), first.next_token.as_str()), (2, "d1"));
    // A disk that goes or comes between two pages neither repeats nor hides others.
    put("a0", PUBLISHED, None);
    let second = rig.list(2, &first.next_token).await.unwrap();
    assert_eq!(second.entries[0].volume.as_ref().unwrap().volume_id, "d1");
    assert_eq!((second.entries.len(), second.next_token.as_str()), (1, ""));
    refused(
        rig.list(0, "invalid-token").await,
        Code::Aborted,
        &["invalid-token", "from the start"],
    );
    refused(
        rig.list(-1, "").await,
        Code::InvalidArgument,
        &["max_entries"],
    );
}

#[tokio::test]
async fn a_volume_in_growth_is_still_listed_on_its_node() {
    let mut config = cloud();
    config.latency.extend = 400;
    let rig = Rig::with(config).await;
    rig.create(selected("node1")).await.unwrap();
    rig.publish(DISK, "node1").await.unwrap();
    let (grown, listed) = tokio::join!(rig.expand(DISK, 200, 0), async {
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        rig.list(0, "").await.unwrap()
    });
    assert_eq!(grown.unwrap(), 200);
    assert_eq!(
        listed.entries[0]
            .status
            .as_ref()
            .unwrap()
            .published_node_ids,
        ["node1"]
    );
}

#[tokio::test]
async fn one_volume_is_shown_as_it_is() {
    let rig = Rig::new().await;
    rig.create(selected("node1")).await.unwrap();
    let get = |id: &str| {
        let request = ControllerGetVolumeRequest {
            volume_id: id.to_owned(),
        };
        let mut client = rig.client.clone();
        async move { client.controller_get_volume(request).await }
    };
    let seen = get(DISK).await.unwrap().into_inner();
    assert!(seen.status.unwrap().published_node_ids.is_empty());
    rig.publish(DISK, "node1").await.unwrap();
    let seen = get(DISK).await.unwrap().into_inner();
    assert_eq!(seen.status.unwrap().published_node_ids, ["node1"]);
    assert_eq!(seen.volume.unwrap().capacity_bytes, 100 * GIB);
    refused(get("nosuchdisk").await, Code::NotFound, &["nosuchdisk"]);
    refused(get("").await, Code::InvalidArgument, &["volume_id"]);
}

#[tokio::test]
async fn only_disks_in_trouble_are_listed_as_unhealthy() {
    let rig = Rig::new().await;
    let put = |name: &str, vm| {
        rig.control()
            .put_disk(disk_record(name, PUBLISHED, vm))
            .unwrap();
    };
    put("a1", Some("node1"));
    put("b1", Some("node2"));
    put("c1", None);
    rig.control().set_vm_state("node2", "stopped").unwrap();
    let mut client = rig.client.clone();
    let list = client.controller_list_volume_health(ControllerListVolumeHealthRequest::default());
    let list = list.await.unwrap().into_inner();
    assert_eq!(list.entries.len(), 1);
    assert_eq!(list.entries[0].volume_id, "b1");
    let entry = &list.entries[0].health_statuses[0];
    assert_eq!(entry.status(), VolumeHealthErrorType::Inaccessible);
    assert_eq!(entry.reason, "VmNotRunning");
    let mut get = async |id: &str| {
        let request = ControllerGetVolumeHealthRequest {
            volume_id: id.to_owned(),
            ..ControllerGetVolumeHealthRequest::default()
        };
        let answer = client.controller_get_volume_health(request).await?;
        Ok::<_, tonic::Status>(answer.into_inner().volume_health.unwrap())
    };
    assert!(get("a1").await.unwrap().health_statuses.is_empty());
    assert_eq!(get("b1").await.unwrap(), list.entries[0]);
    refused(get("nosuchdisk").await, Code::NotFound, &["nosuchdisk"]);
}

#[tokio::test]
async fn capabilities_are_confirmed_or_the_reason_is_told() {
    let rig = Rig::new().await;
    rig.create(selected("node1")).await.unwrap();
    let base = ValidateVolumeCapabilitiesRequest {
        volume_id: DISK.to_owned(),
        volume_capabilities: vec![ext4()],
        ..ValidateVolumeCapabilitiesRequest::default()
    };
    let ask = |request: ValidateVolumeCapabilitiesRequest| {
        let mut client = rig.client.clone();
        async move {
            Ok::<_, tonic::Status>(
                client
                    .validate_volume_capabilities(request)
                    .await?
                    .into_inner(),
            )
        }
    };
    let good = ask(base.clone()).await.unwrap();
    assert_eq!(
        good.confirmed.unwrap().volume_capabilities,
        base.volume_capabilities
    );
    let mut many = base.clone();
    many.volume_capabilities = vec![mount_as("ext4", Mode::MultiNodeMultiWriter)];
    let answer = ask(many).await.unwrap();
    assert!(
        answer.confirmed.is_none() && answer.message.contains("ReadWriteOncePod"),
        "{answer:?}"
    );
    let mut typed = base.clone();
    typed.parameters = [("type".into(), "flash".into())].into();
    assert!(
        ask(typed)
            .await
            .unwrap()
            .message
            .contains("Standard Flash Storage A")
    );
    let mut gone = base.clone();
    gone.volume_id = "fake-vol-id-1".to_owned();
    refused(ask(gone).await, Code::NotFound, &["fake-vol-id-1"]);
    let mut none = base;
    none.volume_capabilities.clear();
    refused(
        ask(none).await,
        Code::InvalidArgument,
        &["volume_capabilities"],
    );
}

#[tokio::test]
async fn a_bad_create_is_refused_before_the_cloud_is_asked() {
    type Row = (fn(&mut CreateVolumeRequest), Code, &'static [&'static str]);
    let rows: [Row; 14] = [
        (
            |r| r.name.clear(),
            Code::InvalidArgument,
            &["name is missing"],
        ),
        (
            |r| r.volume_capabilities.clear(),
            Code::InvalidArgument,
            &["volume_capabilities"],
        ),
        (
            |r| r.volume_capabilities[0].access_type = None,
            Code::InvalidArgument,
            &["block or mount"],
        ),
        (
            |r| r.volume_capabilities[0].access_mode = None,
            Code::InvalidArgument,
            &["access mode"],
        ),
        (
            |r| {
                r.volume_capabilities
                    .push(mount_as("ext4", Mode::MultiNodeMultiWriter));
            },
            Code::InvalidArgument,
            &["ReadWriteOnce"],
        ),
        (
            |r| r.volume_capabilities = vec![mount_as("zfs", Mode::SingleNodeWriter)],
            Code::InvalidArgument,
            &["zfs", "ext4"],
        ),
        (
            |r| put(r, "tpye", "flash"),
            Code::InvalidArgument,
            &["tpye", "accountingType"],
        ),
        (
            |r| put(r, "type", "floppy"),
            Code::InvalidArgument,
            &["floppy", "standard-flash-a"],
        ),
        (
            |r| put(r, "accountingType", "daily"),
            Code::InvalidArgument,
            &["daily", "hourly"],
        ),
        (
            |r| r.mutable_parameters = [("iops".into(), "9".into())].into(),
            Code::InvalidArgument,
            &["iops", "accountingType"],
        ),
        (|r| range(r, -1, 0), Code::OutOfRange, &["negative"]),
        (
            |r| range(r, 10 * GIB, 20 * GIB),
            Code::OutOfRange,
            &["100 GiB", "limit_bytes"],
        ),
        (|r| range(r, 9000 * GIB, 0), Code::OutOfRange, &["8000 GiB"]),
        (
            |r| r.volume_content_source = Some(VolumeContentSource::default()),
            Code::InvalidArgument,
            &["volume_content_source", "cloned"],
        ),
    ];
    let rig = Rig::new().await;
    for (spoil, code, words) in rows {
        let mut request = selected("node1");
        spoil(&mut request);
        refused(rig.create(request).await, code, words);
    }
    assert!(
        rig.control().calls().is_empty(),
        "{:?}",
        rig.control().calls()
    );
}

fn put(request: &mut CreateVolumeRequest, key: &str, value: &str) {
    request.parameters.insert(key.to_owned(), value.to_owned());
}

fn range(request: &mut CreateVolumeRequest, required_bytes: i64, limit_bytes: i64) {
    request.capacity_range = Some(CapacityRange {
        required_bytes,
        limit_bytes,
    });
}

#[tokio::test]
async fn other_bad_requests_are_refused_before_the_cloud_is_asked() {
    let rig = Rig::new().await;
    refused(rig.delete("").await, Code::InvalidArgument, &["volume_id"]);
    refused(
        rig.publish("", "node1").await,
        Code::InvalidArgument,
        &["volume_id"],
    );
    refused(
        rig.publish(DISK, "").await,
        Code::InvalidArgument,
        &["node_id"],
    );
    refused(
        rig.unpublish("", "node1").await,
        Code::InvalidArgument,
        &["volume_id"],
    );
    refused(
        rig.expand("", 200, 0).await,
        Code::InvalidArgument,
        &["volume_id"],
    );
    refused(
        rig.modify("", "hourly").await,
        Code::InvalidArgument,
        &["volume_id"],
    );
    let mut client = rig.client.clone();
    let mut request = publish_request(DISK, "node1");
    request.readonly = true;
    let answer = client.controller_publish_volume(request).await;
    refused(
        answer,
        Code::InvalidArgument,
        &["readonly", "PUBLISH_READONLY"],
    );
    let mut request = publish_request(DISK, "node1");
    request.volume_capability = None;
    let answer = client.controller_publish_volume(request).await;
    refused(answer, Code::InvalidArgument, &["volume_capability"]);
    let request = ControllerExpandVolumeRequest {
        volume_id: DISK.to_owned(),
        ..Default::default()
    };
    let answer = client.controller_expand_volume(request).await;
    refused(answer, Code::InvalidArgument, &["capacity_range"]);
    let answer = client
        .create_snapshot(CreateSnapshotRequest::default())
        .await;
    refused(answer, Code::Unimplemented, &["snapshots"]);
    assert!(rig.control().calls().is_empty());
}

#[tokio::test]
async fn a_thousand_topology_terms_cost_no_more_calls_than_one() {
    let rig = Rig::new().await;
    let names: Vec<String> = (0..1000).map(|i| format!("worker{i}")).collect();
    let mut places: Vec<(&str, Option<&str>)> = names
        .iter()
        .map(|n| ("east-11", Some(n.as_str())))
        .collect();
    places.push(("east-11", Some("node2")));
    rig.create(claim(&places)).await.unwrap();
    assert_eq!(
        rig.changes()[0],
        "CreateVolume node2",
        "the only one of them that exists"
    );
    assert_eq!(rig.control().calls()["DescribeInstances"], 1);
}

#[tokio::test]
async fn any_name_makes_a_volume() {
    let rig = Rig::new().await;
    for name in ["sanity", &"x".repeat(128), "データベース", "a/b c\u{301}"] {
        let mut request = selected("node1");
        request.name = name.to_owned();
        let volume = rig.create(request.clone()).await.unwrap();
        assert_eq!(rig.create(request).await.unwrap(), volume, "{name}");
        rig.delete(&volume.volume_id).await.unwrap();
    }
    assert!(rig.control().state().disks.is_empty());
}

#[tokio::test]
async fn the_controller_declares_what_nifcloud_allows_and_no_more() {
    use controller_service_capability::Type;
    use controller_service_capability::rpc::Type as Kind;
    let rig = Rig::new().await;
    let request = ControllerGetCapabilitiesRequest {};
    let mut client = rig.client.clone();
    let answer = client.controller_get_capabilities(request).await;
    let declared: Vec<Kind> = answer
        .unwrap()
        .into_inner()
        .capabilities
        .into_iter()
        .map(|capability| match capability.r#type.unwrap() {
            Type::Rpc(rpc) => rpc.r#type(),
        })
        .collect();
    assert_eq!(
        declared,
        [
            Kind::CreateDeleteVolume,
            Kind::PublishUnpublishVolume,
            Kind::ListVolumes,
            Kind::ListVolumesPublishedNodes,
            Kind::ExpandVolume,
            Kind::GetVolume,
            Kind::ModifyVolume,
            Kind::SingleNodeMultiWriter,
            Kind::GetVolumeHealth,
            Kind::ListVolumeHealth,
        ]
    );
}
