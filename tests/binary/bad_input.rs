//! Bad input as a sidecar or the kubelet may send it, on the real program: the code, words that name what was wrong and
//! what was expected, and nothing changed in the cloud or on the node.

use std::collections::HashMap;
use std::path::Path;

use additional_storage_csi::demo::claim::connect;
use additional_storage_csi::emulator::{Config, Emulator, Latency};
use additional_storage_csi::proto::csi::v1::controller_client::ControllerClient;
use additional_storage_csi::proto::csi::v1::node_client::NodeClient;
use additional_storage_csi::proto::csi::v1::volume_capability::access_mode::Mode;
use additional_storage_csi::proto::csi::v1::volume_capability::{
    AccessMode, AccessType, MountVolume,
};
use additional_storage_csi::proto::csi::v1::*;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{KEYS, Place, Running, serving};

const GIB: i64 = 1 << 30;
/// A well-formed name of a disk that does not exist.
pub(super) const NOBODY: &str = "0a1b2c3d4e5f60718293a4b5c6d7e8f9";

pub(super) fn capability(mode: Mode) -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode { mode: mode.into() }),
        access_type: Some(AccessType::Mount(MountVolume {
            fs_type: "ext4".to_owned(),
            ..MountVolume::default()
        })),
    }
}

fn formatted(fs: &str) -> VolumeCapability {
    VolumeCapability {
        access_type: Some(AccessType::Mount(MountVolume {
            fs_type: fs.to_owned(),
            ..MountVolume::default()
        })),
        ..capability(Mode::SingleNodeWriter)
    }
}

pub(super) fn create(change: impl FnOnce(&mut CreateVolumeRequest)) -> CreateVolumeRequest {
    let mut request = CreateVolumeRequest {
        name: "pvc-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9".to_owned(),
        volume_capabilities: vec![capability(Mode::SingleNodeWriter)],
        ..CreateVolumeRequest::default()
    };
    change(&mut request);
    request
}

fn parameter(key: &str, value: &str) -> CreateVolumeRequest {
    create(|request| request.parameters = HashMap::from([(key.to_owned(), value.to_owned())]))
}

fn capacity(required: i64, limit: i64) -> CreateVolumeRequest {
    create(|request| {
        request.capacity_range = Some(CapacityRange {
            required_bytes: required,
            limit_bytes: limit,
        });
    })
}

/// What was sent, the answer, its code, and words of its message.
type Row = (
    &'static str,
    Result<(), Status>,
    Code,
    &'static [&'static str],
);

async fn controller_rows(client: &mut ControllerClient<Channel>) -> Vec<Row> {
    use Code::{InvalidArgument, NotFound, OutOfRange};
    let mut rows = Vec::new();
    let creates: [(_, CreateVolumeRequest, _, &'static [_]); 10] = [
        (
            "unknown key",
            parameter("tpye", "standard"),
            InvalidArgument,
            &["tpye", "known are"],
        ),
        (
            "bad type",
            parameter("type", "floppy"),
            InvalidArgument,
            &["floppy", "expected"],
        ),
        (
            "bad accountingType",
            parameter("accountingType", "yearly"),
            InvalidArgument,
            &["yearly", "hourly"],
        ),
        (
            "bad file system",
            // The provisioner makes this of the StorageClass's csi.storage.k8s.io/fstype.
            create(|request| request.volume_capabilities = vec![formatted("ntfs")]),
            InvalidArgument,
            &["ntfs", "ext4"],
        ),
        (
            "no step between",
            capacity(110 * GIB, 190 * GIB),
            OutOfRange,
            &["no disk size fits"],
        ),
        (
            "limit below the least",
            capacity(0, 50 * GIB),
            OutOfRange,
            &["no disk size fits"],
        ),
        ("negative size", capacity(-1, 0), OutOfRange, &["negative"]),
        (
            "empty name",
            create(|request| request.name.clear()),
            InvalidArgument,
            &["name"],
        ),
        (
            "no capability",
            create(|request| request.volume_capabilities.clear()),
            InvalidArgument,
            &["capabilit"],
        ),
        (
            "many writers",
            create(|request| {
                request.volume_capabilities = vec![capability(Mode::MultiNodeMultiWriter)];
            }),
            InvalidArgument,
            &["MULTI_NODE_MULTI_WRITER", "ReadWriteOnce"],
        ),
    ];
    for (what, request, code, words) in creates {
        rows.push((
            what,
            client.create_volume(request).await.map(drop),
            code,
            words,
        ));
    }
    let publish = |volume: &str, node: &str| ControllerPublishVolumeRequest {
        volume_id: volume.to_owned(),
        node_id: node.to_owned(),
        volume_capability: Some(capability(Mode::SingleNodeWriter)),
        ..ControllerPublishVolumeRequest::default()
    };
    let publishes: [(_, _, _, &'static [_]); 5] = [
        (
            "publish: empty volume id",
            publish("", "web01"),
            InvalidArgument,
            &["volume"],
        ),
        (
            "publish: empty node id",
            publish(NOBODY, ""),
            InvalidArgument,
            &["node"],
        ),
        (
            "publish: not our id",
            publish("vol/../x", "web01"),
            NotFound,
            &["expected"],
        ),
        (
            "publish: no such disk",
            publish(NOBODY, "web01"),
            NotFound,
            &[NOBODY],
        ),
        (
            "publish: not a VM",
            publish(NOBODY, "no such vm!"),
            NotFound,
            &["VM"],
        ),
    ];
    for (what, request, code, words) in publishes {
        let answer = client.controller_publish_volume(request).await;
        rows.push((what, answer.map(drop), code, words));
    }
    let delete = DeleteVolumeRequest::default();
    rows.push((
        "delete: empty id",
        client.delete_volume(delete).await.map(drop),
        InvalidArgument,
        &["volume"],
    ));
    let modify = ControllerModifyVolumeRequest {
        volume_id: NOBODY.to_owned(),
        mutable_parameters: HashMap::from([("acountingType".to_owned(), "hourly".to_owned())]),
        ..ControllerModifyVolumeRequest::default()
    };
    rows.push((
        "modify: unknown key",
        client.controller_modify_volume(modify).await.map(drop),
        InvalidArgument,
        &["acountingType", "known are"],
    ));
    let expand = ControllerExpandVolumeRequest {
        volume_id: NOBODY.to_owned(),
        capacity_range: Some(CapacityRange {
            required_bytes: 200 * GIB,
            limit_bytes: 100 * GIB,
        }),
        ..ControllerExpandVolumeRequest::default()
    };
    rows.push((
        "expand: limit below the size",
        client.controller_expand_volume(expand).await.map(drop),
        OutOfRange,
        &["is above limit_bytes"],
    ));
    rows
}

async fn node_rows(client: &mut NodeClient<Channel>, kubelet: &Path) -> Vec<Row> {
    use Code::{InvalidArgument, NotFound};
    let mut rows = Vec::new();
    let good = kubelet
        .join("plugins/kubernetes.io/csi/x/globalmount")
        .display()
        .to_string();
    let stage = |volume: &str, path: &str, device: &str| NodeStageVolumeRequest {
        volume_id: volume.to_owned(),
        staging_target_path: path.to_owned(),
        volume_capability: Some(capability(Mode::SingleNodeWriter)),
        publish_context: HashMap::from([("devicePath".to_owned(), device.to_owned())]),
        ..NodeStageVolumeRequest::default()
    };
    let slot = "SCSI (0:1)";
    let stages: [(_, _, _, &'static [_]); 7] = [
        (
            "stage: not our id",
            stage("vol/../x", &good, slot),
            NotFound,
            &["expected"],
        ),
        (
            "stage: empty id",
            stage("", &good, slot),
            InvalidArgument,
            &["volume"],
        ),
        (
            "stage: empty path",
            stage(NOBODY, "", slot),
            InvalidArgument,
            &["staging_target_path"],
        ),
        (
            "stage: relative path",
            stage(NOBODY, "plugins/x", slot),
            InvalidArgument,
            &["absolute path"],
        ),
        (
            "stage: foreign path",
            stage(NOBODY, "/etc", slot),
            InvalidArgument,
            &["a path below"],
        ),
        (
            "stage: path with ..",
            stage(NOBODY, &format!("{good}/../../../../../../etc"), slot),
            InvalidArgument,
            &["absolute path"],
        ),
        (
            "stage: not a slot",
            stage(NOBODY, &good, "/dev/sdb"),
            InvalidArgument,
            &["SCSI (B:N)"],
        ),
    ];
    for (what, request, code, words) in stages {
        rows.push((
            what,
            client.node_stage_volume(request).await.map(drop),
            code,
            words,
        ));
    }
    let unpublish = |path: &str| NodeUnpublishVolumeRequest {
        volume_id: NOBODY.to_owned(),
        target_path: path.to_owned(),
    };
    let relative = client.node_unpublish_volume(unpublish("pods/x")).await;
    rows.push((
        "unpublish: relative path",
        relative.map(drop),
        InvalidArgument,
        &["absolute path"],
    ));
    let foreign = client.node_unpublish_volume(unpublish("/etc")).await;
    rows.push((
        "unpublish: foreign path",
        foreign.map(drop),
        InvalidArgument,
        &["a path below"],
    ));
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_get_their_code_and_words_and_change_nothing() {
    let place = Place::new();
    let config = Config {
        latency: Latency::FAST,
        ..Config::default()
    };
    let emulator = Emulator::start(config.vm("web01", "east-11"))
        .await
        .unwrap();
    let kubelet = place.dir.path().join("kubelet");
    let devices = place.dir.path().join("devices");
    std::fs::create_dir_all(&kubelet).unwrap();
    std::fs::create_dir_all(&devices).unwrap();
    let arguments = [
        "all".to_owned(),
        format!("--endpoint={}", place.endpoint()),
        format!("--cloud-endpoint={}", emulator.endpoint()),
        format!("--kubelet-dir={}", kubelet.display()),
        format!("--device-dir={}", devices.display()),
        format!("--state-dir={}", place.dir.path().join("state").display()),
        "--node-name=web01".to_owned(),
        "--zone=east-11".to_owned(),
        "--registration=false".to_owned(),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let _program = Running::start(&arguments, &KEYS);
    let mut controller = ControllerClient::new(serving(&place.socket()).await);
    let mut node = NodeClient::new(connect(&place.socket()).await.unwrap());
    let mut rows = controller_rows(&mut controller).await;
    rows.extend(node_rows(&mut node, &kubelet).await);
    for (what, answer, code, words) in rows {
        let status = answer.expect_err(what);
        assert_eq!(status.code(), code, "{what}: {}", status.message());
        for word in words {
            assert!(
                status.message().contains(word),
                "{what}: expected {word:?} in: {}",
                status.message()
            );
        }
    }
    assert!(
        emulator.control().state().disks.is_empty(),
        "a disk was made"
    );
    assert_eq!(
        std::fs::read_dir(&kubelet).unwrap().count(),
        0,
        "something was made below the kubelet's directory"
    );
    emulator.shutdown().await;
}
