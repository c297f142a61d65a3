//! The controller as a process of its own, and its client.

use std::collections::HashMap;
use std::process::Stdio;
use std::time::Duration;

use additional_storage_csi::domain::topology::{NODE_KEY, ZONE_KEY};
use additional_storage_csi::proto::csi::v1::controller_client::ControllerClient;
use additional_storage_csi::proto::csi::v1::volume_capability::access_mode::Mode;
use additional_storage_csi::proto::csi::v1::volume_capability::{
    AccessMode, AccessType, BlockVolume,
};
use additional_storage_csi::proto::csi::v1::*;
use tokio::process::Child;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

const GIB: i64 = 1 << 30;
const CLAIM: &str = "pvc-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
pub(crate) const DISK: &str = "0a1b2c3d4e5f60718293a4b5c6d7e8f9";
/// Retries of one RPC, as a sidecar would do them.
const RETRIES: u32 = 40;

/// One RPC about the one disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    CreateOn(&'static str),
    CreateAnywhere,
    Publish(&'static str),
    Unpublish(&'static str),
    Delete,
    /// GiB.
    Expand(i64),
    Modify,
}

pub(crate) struct Driver {
    child: Child,
    client: ControllerClient<Channel>,
    _dir: tempfile::TempDir,
}

impl Driver {
    pub(crate) async fn start(cloud: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = format!("unix://{}", dir.path().join("csi.sock").display());
        #[allow(
            clippy::disallowed_methods,
            reason = "the driver itself is started, not one of its tools"
        )]
        let child =
            tokio::process::Command::new(env!("CARGO_BIN_EXE_nifcloud-additional-storage-csi"))
                .args([
                    "controller",
                    "--endpoint",
                    &socket,
                    "--cloud-endpoint",
                    cloud,
                ])
                .args(["--log-level", "error", "--api-rate", "1000"])
                .env_clear()
                .env("NIFCLOUD_REGION", "jp-east-1")
                .env("NIFCLOUD_ACCESS_KEY_ID", "EMULATORKEY")
                .env("NIFCLOUD_SECRET_ACCESS_KEY", "emulator-secret")
                .stdin(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .unwrap();
        let endpoint = Endpoint::try_from(socket).unwrap();
        for _ in 0..3000 {
            if let Ok(channel) = endpoint.connect().await {
                return Self {
                    child,
                    client: ControllerClient::new(channel),
                    _dir: dir,
                };
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the driver does not serve");
    }

    /// SIGKILL.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// One call.
    pub(crate) async fn run(&self, step: Step) -> Result<(), Status> {
        let mut client = self.client.clone();
        let volume_id = DISK.to_owned();
        match step {
            Step::CreateOn(vm) => client.create_volume(claim(&[vm])).await.map(drop),
            Step::CreateAnywhere => {
                let request = claim(&["node1", "node2", "node3"]);
                client.create_volume(request).await.map(drop)
            }
            Step::Publish(vm) => {
                let request = ControllerPublishVolumeRequest {
                    volume_id,
                    node_id: vm.to_owned(),
                    volume_capability: Some(block()),
                    ..ControllerPublishVolumeRequest::default()
                };
                client.controller_publish_volume(request).await.map(drop)
            }
            Step::Unpublish(vm) => {
                let request = ControllerUnpublishVolumeRequest {
                    volume_id,
                    node_id: vm.to_owned(),
                    ..ControllerUnpublishVolumeRequest::default()
                };
                client.controller_unpublish_volume(request).await.map(drop)
            }
            Step::Delete => {
                let request = DeleteVolumeRequest {
                    volume_id,
                    ..DeleteVolumeRequest::default()
                };
                client.delete_volume(request).await.map(drop)
            }
            Step::Expand(gib) => {
                let request = ControllerExpandVolumeRequest {
                    volume_id,
                    capacity_range: Some(CapacityRange {
                        required_bytes: gib * GIB,
                        limit_bytes: gib * GIB,
                    }),
                    ..ControllerExpandVolumeRequest::default()
                };
                client.controller_expand_volume(request).await.map(drop)
            }
            Step::Modify => {
                let request = ControllerModifyVolumeRequest {
                    volume_id,
                    mutable_parameters: [("accountingType".into(), "monthly".into())].into(),
                    ..ControllerModifyVolumeRequest::default()
                };
                client.controller_modify_volume(request).await.map(drop)
            }
        }
    }

    /// Calls until success or a final error, as sidecars do.
    pub(crate) async fn finish(&self, step: Step) -> Result<(), Status> {
        let mut last = Ok(());
        for _ in 0..RETRIES {
            last = self.run(step).await;
            match &last {
                Err(status) if may_be_running(status.code()) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                _ => return last,
            }
        }
        last
    }
}

fn may_be_running(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled | Code::DeadlineExceeded | Code::Unavailable | Code::Aborted
    )
}

fn block() -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode {
            mode: Mode::SingleNodeWriter.into(),
        }),
        access_type: Some(AccessType::Block(BlockVolume {})),
    }
}

fn claim(nodes: &[&str]) -> CreateVolumeRequest {
    let term = |node: &&str| Topology {
        segments: HashMap::from([
            (ZONE_KEY.to_owned(), "east-11".to_owned()),
            (NODE_KEY.to_owned(), (*node).to_owned()),
        ]),
    };
    let terms: Vec<Topology> = nodes.iter().map(term).collect();
    CreateVolumeRequest {
        name: CLAIM.to_owned(),
        volume_capabilities: vec![block()],
        accessibility_requirements: Some(TopologyRequirement {
            requisite: terms.clone(),
            preferred: terms,
        }),
        ..CreateVolumeRequest::default()
    }
}
