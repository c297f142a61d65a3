//! Bad input: every row is refused with its code, says what was wrong and what was expected, and changes nothing.

use additional_storage_csi::proto::csi::v1::volume_capability::access_mode::Mode;
use additional_storage_csi::proto::csi::v1::*;
use tonic::Code;

use crate::node_harness::{DISK, Harness, block, ext4, mount_as, refused};

type StageRow = (
    fn(&mut NodeStageVolumeRequest),
    Code,
    &'static [&'static str],
);

#[tokio::test]
async fn a_bad_stage_request_is_refused_before_anything_happens() {
    let rows: [StageRow; 22] = [
        (
            |r| r.volume_id.clear(),
            Code::InvalidArgument,
            &["volume_id"],
        ),
        (
            |r| r.volume_id = "fake-vol-id-1".to_owned(),
            Code::NotFound,
            &["fake-vol-id-1", "1 to 32"],
        ),
        (
            |r| r.volume_id = "../../etc/passwd".to_owned(),
            Code::NotFound,
            &["letters and digits"],
        ),
        (
            |r| r.staging_target_path.clear(),
            Code::InvalidArgument,
            &["staging_target_path"],
        ),
        (
            |r| r.staging_target_path = "staging".to_owned(),
            Code::InvalidArgument,
            &["absolute"],
        ),
        (
            |r| r.staging_target_path.push_str("/../../../etc"),
            Code::InvalidArgument,
            &["\"..\""],
        ),
        (
            |r| r.staging_target_path = "/etc".to_owned(),
            Code::InvalidArgument,
            &["below", "kubelet"],
        ),
        (
            |r| r.volume_capability = None,
            Code::InvalidArgument,
            &["volume_capability is missing"],
        ),
        (
            |r| r.volume_capability.as_mut().unwrap().access_type = None,
            Code::InvalidArgument,
            &["block or mount"],
        ),
        (
            |r| r.volume_capability.as_mut().unwrap().access_mode = None,
            Code::InvalidArgument,
            &["access mode"],
        ),
        (
            |r| r.volume_capability = Some(mount_as("ext4", Mode::MultiNodeMultiWriter)),
            Code::InvalidArgument,
            &["MULTI_NODE_MULTI_WRITER", "ReadWriteOnce"],
        ),
        (
            |r| r.volume_capability = Some(mount_as("ntfs", Mode::SingleNodeWriter)),
            Code::InvalidArgument,
            &["ntfs", "ext3, ext4, xfs or btrfs"],
        ),
        (
            |r| r.publish_context.clear(),
            Code::InvalidArgument,
            &["devicePath", "missing"],
        ),
        (
            |r| {
                r.publish_context
                    .insert("devicePath".to_owned(), "/dev/sda".to_owned());
            },
            Code::InvalidArgument,
            &["/dev/sda", "SCSI (B:N)"],
        ),
        (
            |r| {
                r.publish_context
                    .insert("devicePath".to_owned(), "SCSI (0:999)".to_owned());
            },
            Code::InvalidArgument,
            &["SCSI (0:999)"],
        ),
        (
            |r| {
                r.publish_context
                    .insert("sizeGib".to_owned(), "-1".to_owned());
            },
            Code::InvalidArgument,
            &["sizeGib", "whole number"],
        ),
        (
            |r| {
                r.volume_context.insert("fsUuid".to_owned(), "x".to_owned());
            },
            Code::InvalidArgument,
            &["fsUuid", "UUID"],
        ),
        (
            |r| {
                r.volume_context
                    .insert("identityCheck".to_owned(), "no".to_owned());
            },
            Code::InvalidArgument,
            &["identityCheck", "on or off"],
        ),
        (
            |r| {
                r.volume_context
                    .insert("nonZeroBlankDisk".to_owned(), "yes".to_owned());
            },
            Code::InvalidArgument,
            &["nonZeroBlankDisk", "refuse or format"],
        ),
        (
            |r| {
                r.volume_context
                    .insert("blockSize".to_owned(), "4097".to_owned());
            },
            Code::InvalidArgument,
            &["blockSize", "power of two"],
        ),
        (
            |r| {
                let Some(volume_capability::AccessType::Mount(mount)) =
                    r.volume_capability.as_mut().unwrap().access_type.as_mut()
                else {
                    return;
                };
                mount.volume_mount_group = "1000".to_owned();
            },
            Code::InvalidArgument,
            &["VOLUME_MOUNT_GROUP"],
        ),
        (
            |r| {
                let Some(volume_capability::AccessType::Mount(mount)) =
                    r.volume_capability.as_mut().unwrap().access_type.as_mut()
                else {
                    return;
                };
                mount.mount_flags = vec![String::new()];
            },
            Code::InvalidArgument,
            &["mount_flags"],
        ),
    ];
    let node = Harness::new().await;
    node.host.plug(3);
    for (break_it, code, words) in rows {
        let mut request = node.stage_request(3, ext4());
        break_it(&mut request);
        refused(node.try_stage(request).await, code, words);
    }
    assert_eq!(node.host.changes(), Vec::<String>::new());
    assert!(!node.record(DISK).exists());
    node.stage(3, ext4()).await.unwrap();
}

type PublishRow = (
    fn(&mut NodePublishVolumeRequest),
    Code,
    &'static [&'static str],
);

#[tokio::test]
async fn a_bad_publish_request_is_refused_before_anything_happens() {
    let rows: [PublishRow; 8] = [
        (
            |r| r.volume_id.clear(),
            Code::InvalidArgument,
            &["volume_id"],
        ),
        (
            |r| r.target_path.clear(),
            Code::InvalidArgument,
            &["target_path"],
        ),
        (
            |r| r.target_path = "/".to_owned(),
            Code::InvalidArgument,
            &["target_path", "below"],
        ),
        (
            |r| r.target_path = "/usr/bin".to_owned(),
            Code::InvalidArgument,
            &["/usr/bin"],
        ),
        (
            |r| r.staging_target_path.clear(),
            Code::InvalidArgument,
            &["staging_target_path"],
        ),
        (
            |r| r.volume_capability = None,
            Code::InvalidArgument,
            &["volume_capability"],
        ),
        (
            |r| r.volume_capability = Some(block()),
            Code::AlreadyExists,
            &["raw block"],
        ),
        (
            |r| {
                r.volume_id = "unknown0".to_owned();
                let slot = ("devicePath".to_owned(), "SCSI (0:4)".to_owned());
                r.publish_context = [slot].into();
            },
            Code::FailedPrecondition,
            &["unknown0", "slot"],
        ),
    ];
    let node = Harness::new().await;
    node.host.plug(3);
    node.host.plug(4);
    node.stage(3, ext4()).await.unwrap();
    let before = node.host.changes();
    for (break_it, code, words) in rows {
        let mut request = node.publish_request("pods/a", ext4());
        break_it(&mut request);
        refused(node.try_publish(request).await, code, words);
    }
    assert_eq!(node.host.changes(), before);
}

#[tokio::test]
async fn the_other_verbs_check_their_input_too() {
    let node = Harness::new().await;
    let mut client = node.client.clone();
    let target = node.path("pods/a").display().to_string();
    for (id, path, word) in [
        ("", target.as_str(), "volume_id"),
        (DISK, "", "target_path"),
        (DISK, "/etc", "below"),
    ] {
        let answer = client
            .node_unpublish_volume(NodeUnpublishVolumeRequest {
                volume_id: id.to_owned(),
                target_path: path.to_owned(),
            })
            .await;
        refused(answer, Code::InvalidArgument, &[word]);
        let answer = client
            .node_unstage_volume(NodeUnstageVolumeRequest {
                volume_id: id.to_owned(),
                staging_target_path: path.to_owned(),
            })
            .await;
        refused(answer, Code::InvalidArgument, &[word]);
    }
    for (id, path, code) in [
        ("", "some/path", Code::InvalidArgument),
        (DISK, "", Code::InvalidArgument),
        (DISK, "some/path", Code::NotFound),
        (DISK, "/nowhere", Code::NotFound),
        ("fake-vol-id-1", "some/path", Code::NotFound),
    ] {
        let answer = client
            .node_get_volume_stats(NodeGetVolumeStatsRequest {
                volume_id: id.to_owned(),
                volume_path: path.to_owned(),
                ..NodeGetVolumeStatsRequest::default()
            })
            .await;
        refused(answer, code, &[]);
        let answer = client
            .node_expand_volume(NodeExpandVolumeRequest {
                volume_id: id.to_owned(),
                volume_path: path.to_owned(),
                ..NodeExpandVolumeRequest::default()
            })
            .await;
        refused(answer, code, &[]);
    }
    let answer = client
        .node_get_volume_health(NodeGetVolumeHealthRequest::default())
        .await;
    refused(answer, Code::InvalidArgument, &["volume_id"]);
    assert_eq!(node.host.changes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_capacity_that_no_disk_can_have_is_refused() {
    let node = Harness::new().await;
    node.host.plug(3);
    node.stage(3, ext4()).await.unwrap();
    let ask = |required_bytes, limit_bytes| NodeExpandVolumeRequest {
        volume_id: DISK.to_owned(),
        volume_path: node.path("staging").display().to_string(),
        capacity_range: Some(CapacityRange {
            required_bytes,
            limit_bytes,
        }),
        ..NodeExpandVolumeRequest::default()
    };
    let mut client = node.client.clone();
    for (required, limit, word) in [
        (-1, 0, "required_bytes"),
        (0, -1, "limit_bytes"),
        (2, 1, "above limit_bytes"),
        (0, 1, "cannot shrink"),
    ] {
        let answer = client.node_expand_volume(ask(required, limit)).await;
        refused(answer, Code::OutOfRange, &[word]);
    }
}
