//! Wrong disks, taken paths, dead mounts: what the node refuses, in which words, and that it changes nothing.

use std::path::Path;

use additional_storage_csi::domain::capability::FsType;
use additional_storage_csi::domain::device::{DevNo, ScsiAddress};
use additional_storage_csi::domain::id::{DiskName, FsUuid};
use additional_storage_csi::host::{Content, HostError};
use additional_storage_csi::proto::csi::v1::volume_capability::access_mode::Mode;
use additional_storage_csi::proto::csi::v1::{NodeStageVolumeRequest, NodeUnstageVolumeRequest};
use tonic::Code;

use crate::fake_host::{Disk, GIB, devno};
use crate::node_harness::{DISK, Harness, block, ext4, mount_as, refused};

const OTHER: &str = "ffffffffffffffffffffffffffffffff";

fn other_uuid() -> FsUuid {
    DiskName::parse(OTHER).unwrap().fs_uuid()
}

fn known(fs: FsType, uuid: Option<FsUuid>) -> Content {
    Content::Known { fs, uuid }
}

#[tokio::test]
async fn no_disk_that_is_not_the_volumes_is_touched() {
    type Change = fn(&mut Disk);
    let cases: [(&str, Change, &[&str]); 9] = [
        (
            "another volume's file system",
            |disk| disk.content = known(FsType::Ext4, Some(other_uuid())),
            &["ffffffff", "0a1b2c3d", "identityCheck"],
        ),
        (
            "a file system without UUID",
            |disk| disk.content = known(FsType::Ext4, None),
            &["none", "identityCheck"],
        ),
        (
            "another type",
            |disk| disk.content = known(FsType::Xfs, None),
            &["xfs", "expected ext4"],
        ),
        (
            "foreign data",
            |disk| {
                disk.content = Content::Foreign {
                    what: "an LVM physical volume".to_owned(),
                };
            },
            &["LVM", "Wipe"],
        ),
        (
            "unknown content",
            |disk| {
                disk.content = Content::Unknown {
                    why: "the last region cannot be read".to_owned(),
                };
            },
            &["last region"],
        ),
        (
            "not zero",
            |disk| disk.content = Content::NonZero { offset: 4096 },
            &["4096", "nonZeroBlankDisk"],
        ),
        (
            "half-made by another volume",
            |disk| disk.content = Content::HalfMade { uuid: other_uuid() },
            &["half-made"],
        ),
        (
            "write-protected",
            |disk| disk.facts.read_only = true,
            &["write-protected"],
        ),
        (
            "held by device mapper",
            |disk| disk.facts.holders = vec!["dm-3".to_owned()],
            &["dm-3", "in use"],
        ),
    ];
    for (name, change, words) in cases {
        let node = Harness::new().await;
        let disk = node.host.plug(3);
        node.host.with(disk, change);
        let before = node.host.with(disk, |disk| disk.content.clone());
        let answer = node.stage(3, ext4()).await;
        let words: Vec<&str> = words.iter().copied().chain([DISK, "/dev/fake3"]).collect();
        refused(answer, Code::FailedPrecondition, &words);
        assert_eq!(node.host.changes(), Vec::<String>::new(), "{name}");
        node.host
            .with(disk, |disk| assert_eq!(disk.content, before, "{name}"));
        assert!(!node.record(DISK).exists(), "{name}");
    }
}

#[tokio::test]
async fn the_documented_switches_and_no_others_override_a_refusal() {
    let node = Harness::new().await;
    let disk = node.host.plug(3);
    let foreign = known(FsType::Ext4, Some(other_uuid()));
    node.host.with(disk, |disk| disk.content = foreign.clone());
    let mut request = node.stage_request(3, ext4());
    request
        .volume_context
        .insert("identityCheck".to_owned(), "off".to_owned());
    node.try_stage(request).await.unwrap();
    node.host
        .with(disk, |disk| assert_eq!(disk.content, foreign));

    let node = Harness::new().await;
    let disk = node.host.plug(3);
    node.host
        .with(disk, |disk| disk.content = Content::NonZero { offset: 0 });
    let mut request = node.stage_request(3, ext4());
    request
        .volume_context
        .insert("nonZeroBlankDisk".to_owned(), "format".to_owned());
    node.try_stage(request).await.unwrap();
}

#[tokio::test]
async fn a_volume_of_the_go_driver_is_taken_with_whatever_uuid_it_has() {
    let node = Harness::new().await;
    let disk = node.host.plug(3);
    let formatted = known(FsType::Ext4, Some(other_uuid()));
    node.host.with(disk, |disk| disk.content = formatted);
    node.try_stage(unpromised(&node, &[])).await.unwrap();
    assert!(!node.host.changes().join("\n").contains("format"));
}

/// A request of a volume whose context promises no UUID.
fn unpromised(node: &Harness, more: &[(&str, &str)]) -> NodeStageVolumeRequest {
    let mut request = node.stage_request(3, ext4());
    request.volume_context.remove("fsUuid");
    for (key, value) in more {
        let pair = ((*key).to_owned(), (*value).to_owned());
        request.volume_context.extend([pair]);
    }
    request
}

#[tokio::test]
async fn a_volume_of_the_go_driver_keeps_the_file_system_that_the_node_has_seen() {
    for first in [known(FsType::Ext4, Some(other_uuid())), Content::Blank] {
        let node = Harness::new().await;
        let disk = node.host.plug(3);
        node.host.with(disk, |disk| disk.content = first.clone());
        node.try_stage(unpromised(&node, &[])).await.unwrap();
        let ours = node.host.with(disk, |disk| disk.content.clone());
        node.unstage().await.unwrap();
        let node = node.restarted(|_| {}).await;
        let others = [
            known(FsType::Ext4, Some(FsUuid::from_bytes([7; 16]))),
            known(FsType::Ext4, None),
            Content::Blank,
            Content::NonZero { offset: 0 },
        ];
        for other in others {
            let disk = node.host.plug(3);
            node.host.with(disk, |disk| disk.content = other.clone());
            let request = unpromised(&node, &[("nonZeroBlankDisk", "format")]);
            let before = node.host.changes().len();
            let note = format!("state/known/{DISK}");
            let words = ["on this node before", "identityCheck", &note];
            refused(
                node.try_stage(request).await,
                Code::FailedPrecondition,
                &words,
            );
            assert_eq!(node.host.changes().len(), before, "{other:?}");
            node.host.unplug(disk);
        }
        let disk = node.host.plug(3);
        node.host.with(disk, |disk| disk.content = ours.clone());
        node.try_stage(unpromised(&node, &[])).await.unwrap();
        node.unstage().await.unwrap();
        // Both ways out that the message names.
        node.host.unplug(disk);
        let disk = node.host.plug(3);
        let other = known(FsType::Ext4, Some(FsUuid::from_bytes([8; 16])));
        node.host.with(disk, |disk| disk.content = other);
        let off = unpromised(&node, &[("identityCheck", "off")]);
        node.try_stage(off).await.unwrap();
        node.unstage().await.unwrap();
        let note = node.dir.path().join(format!("state/known/{DISK}"));
        std::fs::remove_file(note).unwrap();
        let disk = node.host.plug(3);
        node.host.with(disk, |disk| disk.content = Content::Blank);
        node.try_stage(unpromised(&node, &[])).await.unwrap();
    }
}

#[tokio::test]
async fn a_disk_smaller_than_the_cloud_says_is_not_used() {
    let node = Harness::new().await;
    let disk = node.host.plug(3);
    let mut request = node.stage_request(3, ext4());
    request
        .publish_context
        .insert("sizeGib".to_owned(), "200".to_owned());
    refused(
        node.try_stage(request.clone()).await,
        Code::Unavailable,
        &["107374182400", "214748364800"],
    );
    assert_eq!(node.host.changes(), Vec::<String>::new());
    node.host.with(disk, |disk| disk.real_size = 200 * GIB);
    node.try_stage(request).await.unwrap();
}

#[tokio::test]
async fn an_empty_slot_says_which_slot_and_may_be_tried_again() {
    let node = Harness::new().await;
    refused(
        node.stage(3, ext4()).await,
        Code::Unavailable,
        &["SCSI (0:3)"],
    );
    assert!(!node.record(DISK).exists());
}

#[tokio::test]
async fn a_disk_that_somebody_else_uses_is_refused_by_name() {
    let node = Harness::new().await;
    let disk = node.host.plug(3);
    node.host.get().mount(
        disk,
        Path::new("/"),
        Path::new("/mnt/by-hand"),
        "ext4",
        false,
    );
    refused(
        node.stage(3, ext4()).await,
        Code::FailedPrecondition,
        &["/mnt/by-hand"],
    );

    let node = Harness::new().await;
    node.host.plug(3);
    let mut first = node.stage_request(3, block());
    first.volume_id = OTHER.to_owned();
    first.staging_target_path = node.path("other-staging").display().to_string();
    node.try_stage(first).await.unwrap();
    refused(
        node.stage(3, block()).await,
        Code::FailedPrecondition,
        &[OTHER, "other-staging"],
    );
    assert!(!node.record(DISK).exists());
}

#[tokio::test]
async fn a_dead_mount_is_cleared_and_a_live_one_of_another_disk_is_not() {
    let node = Harness::new().await;
    let disk = node.host.plug(3);
    node.stage(3, ext4()).await.unwrap();
    node.publish("pods/a", ext4()).await.unwrap();
    let content = node.host.with(disk, |disk| disk.content.clone());
    node.host.unplug(disk);
    // The same disk comes back under a new number.
    let again = node.host.plug(4);
    node.host.with(again, |disk| {
        disk.at = Some(ScsiAddress { bus: 0, target: 3 });
        disk.content = content;
    });
    refused(
        node.publish("pods/b", ext4()).await,
        Code::FailedPrecondition,
        &["gone", "stage it again"],
    );
    node.stage(3, ext4()).await.unwrap();
    assert_eq!(
        node.host.mounted(&node.path("staging")).unwrap().devno,
        again
    );
    node.publish("pods/a", ext4()).await.unwrap();
    assert_eq!(
        node.host.mounted(&node.path("pods/a")).unwrap().devno,
        again
    );

    let node = Harness::new().await;
    let stranger = node.host.plug(5);
    let staging = node.path("staging");
    node.host
        .get()
        .mount(stranger, Path::new("/"), &staging, "ext4", false);
    node.host.plug(3);
    refused(
        node.stage(3, ext4()).await,
        Code::FailedPrecondition,
        &["8:80", "8:48", "staging"],
    );
    refused(
        {
            let mut request = node.publish_request("pods/a", ext4());
            request
                .publish_context
                .insert("devicePath".to_owned(), "SCSI (0:3)".to_owned());
            node.try_publish(request).await
        },
        Code::FailedPrecondition,
        &["8:80", "8:48"],
    );
    assert_eq!(node.host.changes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_target_that_holds_another_disk_is_left_alone() {
    let node = Harness::new().await;
    node.host.plug(3);
    let stranger = node.host.plug(5);
    node.stage(3, ext4()).await.unwrap();
    let target = node.path("pods/a");
    node.host
        .get()
        .mount(stranger, Path::new("/"), &target, "ext4", false);
    refused(
        node.publish("pods/a", ext4()).await,
        Code::FailedPrecondition,
        &["8:80"],
    );
    assert_eq!(node.host.mounted(&target).unwrap().devno, stranger);
    let tmpfs = DevNo {
        major: 0,
        minor: 77,
    };
    let target = node.path("pods/b");
    node.host
        .get()
        .mount(tmpfs, Path::new("/"), &target, "tmpfs", false);
    refused(
        node.publish("pods/b", ext4()).await,
        Code::FailedPrecondition,
        &["tmpfs"],
    );
    node.unpublish("pods/a").await.unwrap();
    node.unstage().await.unwrap();
    let staging = node.path("staging");
    node.host.plug(3);
    node.host
        .get()
        .mount(tmpfs, Path::new("/"), &staging, "tmpfs", false);
    refused(
        node.stage(3, ext4()).await,
        Code::FailedPrecondition,
        &["tmpfs"],
    );
    assert!(node.host.mounted(&staging).is_some());
}

#[tokio::test]
async fn publish_without_stage_is_refused() {
    let node = Harness::new().await;
    node.host.plug(3);
    refused(
        node.publish("pods/a", ext4()).await,
        Code::FailedPrecondition,
        &["not staged", "nothing is mounted"],
    );
    assert_eq!(node.host.changes(), Vec::<String>::new());
}

#[tokio::test]
async fn staged_in_one_way_is_not_staged_in_another() {
    let node = Harness::new().await;
    node.host.plug(3);
    node.stage(3, ext4()).await.unwrap();
    refused(
        node.stage(3, block()).await,
        Code::AlreadyExists,
        &["ext4", "raw block"],
    );
    let xfs = mount_as("xfs", Mode::SingleNodeWriter);
    refused(
        node.stage(3, xfs).await,
        Code::AlreadyExists,
        &["ext4", "xfs"],
    );
}

#[tokio::test]
async fn a_disk_that_changes_under_a_live_mount_is_told() {
    let node = Harness::new().await;
    let disk = node.host.plug(3);
    node.stage(3, ext4()).await.unwrap();
    node.host.with(disk, |disk| {
        disk.facts.identity.serial = Some("swapped".to_owned());
    });
    refused(
        node.stage(3, ext4()).await,
        Code::FailedPrecondition,
        &["swapped", "6000c293"],
    );
}

#[tokio::test]
async fn a_reader_never_formats_and_mounts_read_only() {
    let node = Harness::new().await;
    let disk = node.host.plug(3);
    let reader = || mount_as("ext4", Mode::SingleNodeReaderOnly);
    refused(
        node.stage(3, reader()).await,
        Code::FailedPrecondition,
        &["writable once"],
    );
    assert_eq!(node.host.changes(), Vec::<String>::new());
    let ours = DiskName::parse(DISK).unwrap().fs_uuid();
    node.host.with(disk, |disk| {
        disk.content = known(FsType::Ext4, Some(ours));
        disk.facts.read_only = true;
    });
    node.stage(3, reader()).await.unwrap();
    node.publish("pods/a", reader()).await.unwrap();
    assert!(node.host.mounted(&node.path("pods/a")).unwrap().read_only());
    let changes = node.host.changes().join("\n");
    assert!(
        !changes.contains("check") && !changes.contains("grow"),
        "{changes}"
    );
}

#[tokio::test]
async fn a_failure_after_the_mount_leaves_no_mount() {
    let node = Harness::new().await;
    node.host.plug(3);
    let failed = HostError::Tool {
        tool: "xfs_growfs",
        status: "exit 1".to_owned(),
        output: "no".to_owned(),
    };
    node.host.get().fail.insert("grow_mounted", failed);
    let xfs = || mount_as("xfs", Mode::SingleNodeWriter);
    refused(node.stage(3, xfs()).await, Code::Internal, &["xfs_growfs"]);
    assert!(node.host.get().mounts.is_empty());
    assert!(!node.record(DISK).exists());
    node.stage(3, xfs()).await.unwrap();
}

#[tokio::test]
async fn an_old_record_never_lets_go_of_another_volumes_disk() {
    let node = Harness::new().await;
    node.host.plug(3);
    node.host
        .with(devno(3), |disk| disk.facts.identity.serial = None);
    node.stage(3, block()).await.unwrap();
    // The volume's mount vanishes with its disk; another volume's disk gets its slot and number.
    node.host.get().mounts.clear();
    let mut other = node.stage_request(3, block());
    other.volume_id = OTHER.to_owned();
    other.staging_target_path = node.path("other-staging").display().to_string();
    node.try_stage(other).await.unwrap();
    node.unstage().await.unwrap();
    assert!(node.host.get().disks.contains_key(&devno(3)));
    assert_eq!(node.host.get().mounts.len(), 1);
    let request = NodeUnstageVolumeRequest {
        volume_id: OTHER.to_owned(),
        staging_target_path: node.path("other-staging").display().to_string(),
    };
    node.client
        .clone()
        .node_unstage_volume(request)
        .await
        .unwrap();
    assert!(node.host.get().disks.is_empty());
}
