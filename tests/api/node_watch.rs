//! What the node tells and how it grows a volume.

use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use additional_storage_csi::host::{Finding, Severity};
use additional_storage_csi::proto::csi::v1::volume_capability::access_mode::Mode;
use additional_storage_csi::proto::csi::v1::*;
use tonic::Code;

use crate::fake_host::GIB;
use crate::node_harness::{DISK, Harness, block, ext4, mount_as, refused};

#[tokio::test]
async fn growth_reaches_the_file_system_and_is_verified_first() {
    for fs in ["ext4", "xfs", "btrfs", "ext3"] {
        let node = Harness::new().await;
        let disk = node.host.plug(3);
        let capability = mount_as(fs, Mode::SingleNodeWriter);
        node.stage(3, capability.clone()).await.unwrap();
        let mut request = node.publish_request("pods/a", capability);
        request.readonly = true;
        node.try_publish(request).await.unwrap();
        refused(
            node.expand("pods/a", 200 * GIB).await,
            Code::Unavailable,
            &["after a rescan"],
        );
        node.host.with(disk, |disk| disk.real_size = 200 * GIB);
        let capacity = node.expand("pods/a", 200 * GIB).await.unwrap();
        assert_eq!(capacity, i64::try_from(200 * GIB).unwrap());
        node.host
            .with(disk, |disk| assert_eq!(disk.fs_size, 200 * GIB));
    }
}

#[tokio::test]
async fn growth_while_detached_is_finished_at_the_next_stage() {
    for fs in ["ext4", "xfs", "btrfs", "ext3"] {
        let node = Harness::new().await;
        let disk = node.host.plug(3);
        let capability = mount_as(fs, Mode::SingleNodeWriter);
        node.stage(3, capability.clone()).await.unwrap();
        let made = node.host.with(disk, |disk| disk.clone());
        node.unstage().await.unwrap();
        node.host.get().disks.insert(disk, made);
        node.host.with(disk, |disk| {
            disk.real_size = 200 * GIB;
            disk.facts.identity.size = 200 * GIB;
        });
        node.stage(3, capability).await.unwrap();
        node.host
            .with(disk, |disk| assert_eq!(disk.fs_size, 200 * GIB, "{fs}"));
    }
}

#[tokio::test]
async fn raw_block_stops_after_the_size_also_when_the_kubelet_names_its_loop_device() {
    let node = Harness::new().await;
    let disk = node.host.plug(3);
    let other = node.host.plug(9);
    node.host.with(other, |disk| disk.at = None);
    node.stage(3, block()).await.unwrap();
    node.host.with(disk, |disk| disk.real_size = 200 * GIB);
    let request = NodeExpandVolumeRequest {
        volume_id: DISK.to_owned(),
        volume_path: "/dev/fake9".to_owned(),
        volume_capability: Some(block()),
        ..NodeExpandVolumeRequest::default()
    };
    let mut client = node.client.clone();
    let answer = client
        .node_expand_volume(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.capacity_bytes, i64::try_from(200 * GIB).unwrap());
}

#[tokio::test]
async fn info_tells_the_vm_its_zone_and_the_slots_that_are_left() {
    let node = Harness::new().await;
    node.host.plug(3);
    node.stage(3, ext4()).await.unwrap();
    node.host.get().foreign = 2;
    let mut client = node.client.clone();
    let info = client
        .node_get_info(NodeGetInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(info.node_id, "web01");
    assert_eq!(
        info.max_volumes_per_node, 12,
        "the disk of a volume is not foreign"
    );
    let segments = info.accessible_topology.unwrap().segments;
    let expect = [
        (
            "topology.additional-storage.csi.nifcloud.com/zone",
            "east-11",
        ),
        ("topology.additional-storage.csi.nifcloud.com/node", "web01"),
    ];
    assert_eq!(segments.len(), expect.len());
    for (key, value) in expect {
        assert_eq!(segments[key], value);
    }
    // A disk that the Go driver staged has no record, and is not foreign either.
    let inherited = node.host.plug(5);
    let staging = node.path("plugins/kubernetes.io/csi/pv/pvc-1/globalmount");
    node.host
        .get()
        .mount(inherited, Path::new("/"), &staging, "ext4", false);
    let info = client
        .node_get_info(NodeGetInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(info.max_volumes_per_node, 12);
    node.host.plug(6);
    let info = client
        .node_get_info(NodeGetInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        info.max_volumes_per_node, 12,
        "a disk that has just come is a volume on its way"
    );
    let node = Harness::new().await;
    node.host.get().foreign = 20;
    let mut client = node.client.clone();
    let info = client
        .node_get_info(NodeGetInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(info.max_volumes_per_node, 1, "0 would mean no limit");
}

#[tokio::test]
async fn every_capability_of_the_node_is_an_rpc_and_identity_speaks_for_the_plugin() {
    let node = Harness::new().await;
    let mut client = node.client.clone();
    let request = NodeGetCapabilitiesRequest {};
    let answer = client
        .node_get_capabilities(request)
        .await
        .unwrap()
        .into_inner();
    let mut kinds = Vec::new();
    for capability in answer.capabilities {
        let Some(node_service_capability::Type::Rpc(rpc)) = capability.r#type else {
            panic!("an entry without an RPC");
        };
        kinds.push(rpc.r#type);
    }
    assert_eq!(kinds, [1, 2, 3, 5, 7, 8]);
    let mut identity = node.identity.clone();
    let info = identity
        .get_plugin_info(GetPluginInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(info.name, "additional-storage.csi.nifcloud.com");
    assert_eq!(info.vendor_version, "1.2.3");
    let answer = identity
        .get_plugin_capabilities(GetPluginCapabilitiesRequest {})
        .await
        .unwrap()
        .into_inner();
    let controller = answer.capabilities.iter().any(|capability| {
        matches!(
            &capability.r#type,
            Some(plugin_capability::Type::Service(service))
                if service.r#type == i32::from(plugin_capability::service::Type::ControllerService)
        )
    });
    // CSI specification, GetPluginCapabilities: the answer is that of the plugin, the sum of its instances.
    assert!(controller, "the plugin as a whole has a Controller service");
    let probe = identity.probe(ProbeRequest {}).await.unwrap().into_inner();
    assert_eq!(probe.ready, Some(true));
}

#[tokio::test]
async fn health_tells_a_lost_disk_a_lost_mount_and_what_the_kernel_shows() {
    let node = Harness::new().await;
    let disk = node.host.plug(3);
    refused(node.health().await, Code::NotFound, &[DISK]);
    node.stage(3, ext4()).await.unwrap();
    let finding = |reason| Finding {
        severity: Severity::Degraded,
        reason,
        message: "remounted".to_owned(),
    };
    node.host.get().findings = vec![finding("ReadOnly"), finding("ReadOnly")];
    assert_eq!(node.health().await.unwrap(), [(1, "ReadOnly".to_owned())]);
    node.host.unplug(disk);
    assert_eq!(node.health().await.unwrap(), [(2, "DeviceGone".to_owned())]);
    node.host.get().mounts.clear();
    assert_eq!(node.health().await.unwrap(), [(2, "NotMounted".to_owned())]);
}

#[tokio::test]
async fn storage_health_tells_a_missing_controller_and_full_slots() {
    let node = Harness::new().await;
    let mut client = node.client.clone();
    let ask = NodeGetStorageHealthRequest::default;
    let answer = client
        .node_get_storage_health(ask())
        .await
        .unwrap()
        .into_inner();
    assert!(answer.backend_health.is_empty());
    let node = Harness::new().await;
    let mut client = node.client.clone();
    node.host.get().foreign = 14;
    node.host.get().storage_findings = vec![Finding {
        severity: Severity::Inaccessible,
        reason: "NoScsiController",
        message: "none".to_owned(),
    }];
    let answer = client
        .node_get_storage_health(ask())
        .await
        .unwrap()
        .into_inner();
    let rows: Vec<_> = answer
        .backend_health
        .iter()
        .map(|row| (row.status, row.reason.as_str()))
        .collect();
    assert_eq!(rows, [(2, "NoScsiController"), (1, "NoFreeSlot")]);
}

#[tokio::test]
async fn a_device_that_hangs_stops_one_question_and_no_other_call() {
    let node = Harness::with(Arc::default(), tempfile::tempdir().unwrap(), |config| {
        config.timeouts.read = Duration::from_millis(50);
    })
    .await;
    node.host.plug(3);
    node.stage(3, ext4()).await.unwrap();
    let gate = Arc::new(Barrier::new(2));
    node.host.get().stats_gate = Some(Arc::clone(&gate));
    for _ in 0..3 {
        refused(
            node.stats("staging").await,
            Code::DeadlineExceeded,
            &["hang", "staging"],
        );
    }
    node.publish("pods/a", ext4()).await.unwrap();
    // One thread hangs for all three questions: one party opens the gate.
    node.host.get().stats_gate = None;
    tokio::task::spawn_blocking(move || gate.wait())
        .await
        .unwrap();
}
