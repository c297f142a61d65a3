//! The node service's promises while things go well, are repeated, or are cut.

use std::path::Path;
use std::sync::{Arc, Barrier};

use additional_storage_csi::domain::capability::FsType;
use additional_storage_csi::domain::id::DiskName;
use additional_storage_csi::host::{Content, HostError};
use additional_storage_csi::proto::csi::v1::volume_capability::access_mode::Mode;
use additional_storage_csi::proto::csi::v1::*;
use tonic::Code;

use crate::fake_host::{GIB, devno};
use crate::node_harness::{DISK, Harness, block, ext4, mount_as, refused};

#[tokio::test]
async fn a_blank_disk_is_formatted_mounted_bound_and_let_go() {
    let node = Harness::new().await;
    let disk = node.host.plug(3);
    node.stage(3, ext4()).await.unwrap();
    let uuid = DiskName::parse(DISK).unwrap().fs_uuid();
    node.host.with(disk, |disk| {
        let known = Content::Known {
            fs: FsType::Ext4,
            uuid: Some(uuid),
        };
        assert_eq!(disk.content, known);
    });
    assert_eq!(
        node.host.mounted(&node.path("staging")).unwrap().devno,
        disk
    );
    assert!(node.record(DISK).exists());
    node.publish("pods/a", ext4()).await.unwrap();
    node.publish("pods/b", ext4()).await.unwrap();
    assert_eq!(node.stats("pods/a").await.unwrap().len(), 2);
    assert_eq!(node.health().await.unwrap(), []);
    refused(
        node.unstage().await,
        Code::FailedPrecondition,
        &["pods/a", "pods/b", "unpublish"],
    );
    node.unpublish("pods/a").await.unwrap();
    node.unpublish("pods/b").await.unwrap();
    node.unstage().await.unwrap();
    let machine = node.host.get();
    assert!(machine.mounts.is_empty());
    assert!(machine.disks.is_empty(), "the SCSI device is deleted");
    assert!(!machine.paths.contains(&node.path("pods/a")));
    assert!(!node.record(DISK).exists());
}

#[tokio::test]
async fn every_step_can_be_repeated_and_changes_nothing_the_second_time() {
    for capability in [ext4(), mount_as("xfs", Mode::SingleNodeWriter), block()] {
        let node = Harness::new().await;
        node.host.plug(3);
        node.stage(3, capability.clone()).await.unwrap();
        let after = node.host.changes();
        node.stage(3, capability.clone()).await.unwrap();
        let mut again = node.host.changes();
        if again.len() > after.len() {
            // Asked again in case the first call was killed before it; nothing to do on a file system of full size.
            let grown = again.pop().unwrap();
            assert!(grown.starts_with("grow_mounted"), "{grown}");
        }
        assert_eq!(again, after);
        node.publish("pods/a", capability.clone()).await.unwrap();
        let after = node.host.changes();
        node.publish("pods/a", capability.clone()).await.unwrap();
        assert_eq!(node.host.changes(), after);
        node.unpublish("pods/a").await.unwrap();
        let after = node.host.changes();
        node.unpublish("pods/a").await.unwrap();
        assert_eq!(node.host.changes(), after);
        node.unstage().await.unwrap();
        let after = node.host.changes();
        node.unstage().await.unwrap();
        assert_eq!(node.host.changes(), after);
    }
}

#[tokio::test]
async fn a_raw_block_volume_is_bound_and_its_content_is_never_touched() {
    let node = Harness::new().await;
    let disk = node.host.plug(3);
    let partitioned = Content::Foreign {
        what: "a partition table".to_owned(),
    };
    node.host
        .with(disk, |disk| disk.content = partitioned.clone());
    node.stage(3, block()).await.unwrap();
    node.publish("volumeDevices/publish/a", block())
        .await
        .unwrap();
    let usage = node.stats("volumeDevices/publish/a").await.unwrap();
    assert_eq!(usage.len(), 1);
    assert_eq!(usage[0].total, i64::try_from(100 * GIB).unwrap());
    refused(
        node.unstage().await,
        Code::FailedPrecondition,
        &["publish/a"],
    );
    let mut second = node.publish_request("volumeDevices/publish/b", block());
    second
        .volume_capability
        .as_mut()
        .unwrap()
        .access_mode
        .as_mut()
        .unwrap()
        .mode = Mode::SingleNodeSingleWriter.into();
    refused(
        node.try_publish(second).await,
        Code::FailedPrecondition,
        &["publish/a"],
    );
    node.host
        .with(disk, |disk| assert_eq!(disk.content, partitioned));
    node.unpublish("volumeDevices/publish/a").await.unwrap();
    node.unstage().await.unwrap();
    let changes = node.host.changes().join("\n");
    assert!(
        !changes.contains("format") && !changes.contains("check"),
        "{changes}"
    );
    assert!(node.host.get().disks.is_empty() && node.host.get().mounts.is_empty());
}

#[tokio::test]
async fn a_read_only_publish_is_read_only_and_the_other_way_round_is_told_apart() {
    let node = Harness::new().await;
    node.host.plug(3);
    node.stage(3, ext4()).await.unwrap();
    let mut request = node.publish_request("pods/a", ext4());
    request.readonly = true;
    node.try_publish(request.clone()).await.unwrap();
    assert!(node.host.mounted(&node.path("pods/a")).unwrap().read_only());
    node.try_publish(request).await.unwrap();
    refused(
        node.publish("pods/a", ext4()).await,
        Code::AlreadyExists,
        &["read-only", "writable"],
    );
    let mut request = node.publish_request("pods/b", block());
    request.readonly = true;
    refused(
        node.try_publish(request).await,
        Code::AlreadyExists,
        &["raw block"],
    );
}

#[tokio::test]
async fn a_read_only_bind_that_was_killed_half_way_is_finished() {
    let node = Harness::new().await;
    node.host.plug(3);
    node.stage(3, ext4()).await.unwrap();
    // Between the two mount calls a bind is writable.
    node.publish("pods/a", ext4()).await.unwrap();
    let mut request = node.publish_request("pods/a", ext4());
    request.readonly = true;
    node.try_publish(request).await.unwrap();
    assert!(node.host.mounted(&node.path("pods/a")).unwrap().read_only());
}

#[tokio::test]
async fn a_read_only_raw_block_volume_is_refused_because_the_kernel_could_not_hold_it() {
    let node = Harness::new().await;
    let disk = node.host.plug(3);
    node.stage(3, block()).await.unwrap();
    let mut request = node.publish_request("pods/a", block());
    request.readonly = true;
    refused(
        node.try_publish(request.clone()).await,
        Code::FailedPrecondition,
        &["read-only", "publish it writable"],
    );
    node.host.with(disk, |disk| disk.facts.read_only = true);
    node.try_publish(request).await.unwrap();
}

#[tokio::test]
async fn a_single_writer_volume_has_one_target() {
    let node = Harness::new().await;
    node.host.plug(3);
    let single = || mount_as("ext4", Mode::SingleNodeSingleWriter);
    node.stage(3, single()).await.unwrap();
    node.publish("pods/a", single()).await.unwrap();
    node.publish("pods/a", single()).await.unwrap();
    refused(
        node.publish("pods/b", single()).await,
        Code::FailedPrecondition,
        &["pods/a", "ReadWriteOncePod"],
    );
    node.unpublish("pods/a").await.unwrap();
    node.publish("pods/b", single()).await.unwrap();
}

#[tokio::test]
async fn a_kubelets_sub_path_mount_is_not_a_second_target() {
    let node = Harness::new().await;
    let disk = node.host.plug(3);
    let single = || mount_as("ext4", Mode::SingleNodeSingleWriter);
    node.stage(3, single()).await.unwrap();
    let sub = node.path("pods/old/volume-subpaths/0");
    node.host
        .get()
        .mount(disk, Path::new("/data"), &sub, "ext4", false);
    node.publish("pods/a", single()).await.unwrap();
    // But the disk is not taken from under it.
    node.unpublish("pods/a").await.unwrap();
    refused(
        node.unstage().await,
        Code::FailedPrecondition,
        &["volume-subpaths/0"],
    );
    node.host.get().mounts.retain(|mount| mount.target != sub);
    node.unstage().await.unwrap();
    assert!(node.host.get().disks.is_empty());
}

#[tokio::test]
async fn a_mkfs_that_was_cut_is_made_again_and_only_for_its_own_volume() {
    let node = Harness::new().await;
    let disk = node.host.plug(3);
    let cut = HostError::TimedOut {
        what: "mkfs.ext4".to_owned(),
        limit_ms: 1,
    };
    node.host.get().fail.insert("format", cut);
    refused(
        node.stage(3, ext4()).await,
        Code::DeadlineExceeded,
        &["mkfs.ext4"],
    );
    assert!(
        node.record(DISK).exists(),
        "the CO will call NodeUnstageVolume"
    );
    node.stage(3, ext4()).await.unwrap();
    node.unstage().await.unwrap();
    let disk = {
        assert_eq!(node.host.plug(3), disk);
        disk
    };
    let other = DiskName::parse("ffffffffffffffffffffffffffffffff").unwrap();
    let half = Content::HalfMade {
        uuid: other.fs_uuid(),
    };
    node.host.with(disk, |disk| disk.content = half);
    refused(
        node.stage(3, ext4()).await,
        Code::FailedPrecondition,
        &["half-made"],
    );
}

#[tokio::test]
async fn a_repeated_unstage_finishes_what_a_killed_one_began() {
    for capability in [ext4(), block()] {
        let node = Harness::new().await;
        node.host.plug(3);
        node.stage(3, capability).await.unwrap();
        let busy = HostError::Busy {
            path: "/dev/fake3".into(),
            users: "multipathd".to_owned(),
        };
        node.host.get().fail.insert("release", busy);
        refused(
            node.unstage().await,
            Code::FailedPrecondition,
            &["multipathd"],
        );
        assert!(node.host.get().mounts.is_empty());
        let node = node.restarted(|_| {}).await;
        node.unstage().await.unwrap();
        assert!(node.host.get().disks.is_empty());
        assert!(!node.record(DISK).exists());
    }
}

#[tokio::test]
async fn a_record_of_an_earlier_boot_is_proved_before_a_disk_is_let_go() {
    let node = Harness::new().await;
    node.host.plug(3);
    node.stage(3, ext4()).await.unwrap();
    node.host.get().mounts.clear();
    let node = node
        .restarted(|config| config.boot_id = "boot-2".to_owned())
        .await;
    // Another disk is in the slot now: it stays.
    node.host.with(devno(3), |disk| {
        disk.facts.identity.serial = Some("another".to_owned());
    });
    node.unstage().await.unwrap();
    assert!(node.host.get().disks.contains_key(&devno(3)));
    // The same disk is let go.
    node.host.unplug(devno(3));
    node.host.plug(3);
    let node = node.restarted(|_| {}).await;
    node.stage(3, ext4()).await.unwrap();
    node.host.get().mounts.clear();
    let node = node
        .restarted(|config| config.boot_id = "boot-2".to_owned())
        .await;
    node.unstage().await.unwrap();
    assert!(node.host.get().disks.is_empty());
}

#[tokio::test]
async fn an_unmount_that_does_not_take_is_told_and_the_device_stays() {
    let node = Harness::new().await;
    node.host.plug(3);
    node.stage(3, ext4()).await.unwrap();
    node.host.get().stuck.insert(node.path("staging"));
    refused(node.unstage().await, Code::FailedPrecondition, &["staging"]);
    assert_eq!(node.host.get().disks.len(), 1);
    assert!(node.record(DISK).exists());
}

#[tokio::test]
async fn a_retry_joins_the_running_call_and_another_operation_is_told_to_wait() {
    let node = Harness::new().await;
    let disk = node.host.plug(3);
    node.stage(3, ext4()).await.unwrap();
    node.host.with(disk, |disk| disk.real_size = 200 * GIB);
    let gate = Arc::new(Barrier::new(2));
    node.host.get().gate = Some(Arc::clone(&gate));
    let grow = || async { node.expand("staging", 200 * GIB).await };
    let run = async {
        let inside = Arc::clone(&gate);
        tokio::task::spawn_blocking(move || inside.wait())
            .await
            .unwrap();
        refused(
            node.publish("pods/a", ext4()).await,
            Code::Aborted,
            &["NodeExpandVolume", DISK],
        );
        // Reads go on.
        node.stats("staging").await.unwrap();
        node.host.get().gate = None;
        let inside = Arc::clone(&gate);
        tokio::task::spawn_blocking(move || inside.wait())
            .await
            .unwrap();
    };
    let (first, second, ()) = tokio::join!(grow(), grow(), run);
    assert_eq!((first.unwrap(), second.unwrap()), (200 << 30, 200 << 30));
    let grown = node.host.changes();
    let times = grown
        .iter()
        .filter(|c| c.starts_with("grow_mounted"))
        .count();
    assert_eq!(times, 1);
}

#[tokio::test]
async fn a_panic_is_internal_and_the_next_call_is_served() {
    let node = Harness::new().await;
    node.host.plug(3);
    node.host.get().boom = true;
    let answer = node.stage(3, ext4()).await;
    refused(answer, Code::Internal, &[DISK]);
    // The fake's lock is poisoned now; a call that does not need it is served.
    let mut client = node.client.clone();
    let request = NodeGetCapabilitiesRequest {};
    assert!(client.node_get_capabilities(request).await.is_ok());
    assert!(node.jobs.is_empty());
}
