//! A node service on a socket of its own, and a client for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use additional_storage_csi::csi::identity::Identity;
use additional_storage_csi::csi::layer::Unobserved;
use additional_storage_csi::csi::node::{Node, NodeConfig, Timeouts};
use additional_storage_csi::csi::server::Endpoint;
use additional_storage_csi::domain::id::{DiskName, VmName};
use additional_storage_csi::domain::topology::Zone;
use additional_storage_csi::host::Host;
use additional_storage_csi::jobs::Jobs;
use additional_storage_csi::proto::csi::v1::identity_client::IdentityClient;
use additional_storage_csi::proto::csi::v1::identity_server::IdentityServer;
use additional_storage_csi::proto::csi::v1::node_client::NodeClient;
use additional_storage_csi::proto::csi::v1::node_server::NodeServer;
use additional_storage_csi::proto::csi::v1::volume_capability::access_mode::Mode;
use additional_storage_csi::proto::csi::v1::volume_capability::{
    AccessMode, AccessType, BlockVolume, MountVolume,
};
use additional_storage_csi::proto::csi::v1::*;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::fake_host::FakeHost;

/// A disk name as a claim of Kubernetes gives it.
pub const DISK: &str = "0a1b2c3d4e5f60718293a4b5c6d7e8f9";
pub const BOOT: &str = "boot-1";

pub struct Harness {
    pub host: Arc<FakeHost>,
    pub dir: tempfile::TempDir,
    pub client: NodeClient<Channel>,
    pub identity: IdentityClient<Channel>,
    pub jobs: Jobs,
    stop: CancellationToken,
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub fn config(dir: &Path) -> NodeConfig {
    NodeConfig {
        name: VmName::parse("web01").unwrap(),
        zone: Zone::parse("east-11"),
        max_volumes: None,
        reserved_slots: 0,
        kubelet_dir: dir.join("kubelet"),
        state_dir: dir.join("state"),
        boot_id: BOOT.to_owned(),
        timeouts: Timeouts {
            release: Duration::from_secs(5),
            ..Timeouts::default()
        },
    }
}

impl Harness {
    pub async fn new() -> Self {
        Self::with(Arc::default(), tempfile::tempdir().unwrap(), |_| {}).await
    }

    /// The same machine and state directory under a new process of the driver.
    pub async fn restarted(self, change: impl FnOnce(&mut NodeConfig)) -> Self {
        let host = Arc::clone(&self.host);
        let mut old = self;
        let dir = std::mem::replace(&mut old.dir, tempfile::tempdir().unwrap());
        drop(old);
        Self::with(host, dir, change).await
    }

    pub async fn with(
        host: Arc<FakeHost>,
        dir: tempfile::TempDir,
        change: impl FnOnce(&mut NodeConfig),
    ) -> Self {
        let mut config = config(dir.path());
        change(&mut config);
        let jobs = Jobs::default();
        let machine: Arc<dyn Host> = Arc::<FakeHost>::clone(&host);
        let node = Node::new(machine, config, jobs.clone());
        let name = format!("{:08x}.sock", fastrand::u32(..));
        let endpoint = Endpoint::parse(dir.path().join(name).to_str().unwrap()).unwrap();
        let bound = endpoint.bind(0o600).await.unwrap();
        let address = format!("unix://{}", bound.path().display());
        let stop = CancellationToken::new();
        let identity = Identity::new("1.2.3", Arc::new(|| Ok(true)));
        let routes = Routes::new(NodeServer::new(node)).add_service(IdentityServer::new(identity));
        tokio::spawn(bound.serve(
            routes,
            Arc::new(Unobserved),
            stop.clone(),
            Duration::from_secs(1),
        ));
        let channel = tonic::transport::Endpoint::try_from(address)
            .unwrap()
            .connect()
            .await
            .unwrap();
        Self {
            host,
            dir,
            client: NodeClient::new(channel.clone()),
            identity: IdentityClient::new(channel),
            jobs,
            stop,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("kubelet").join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub fn record(&self, disk: &str) -> PathBuf {
        self.dir.path().join(format!("state/staged/{disk}.json"))
    }

    /// NodeStageVolume of `disk` in slot 0:`slot`.
    pub fn stage_request(&self, slot: u8, capability: VolumeCapability) -> NodeStageVolumeRequest {
        NodeStageVolumeRequest {
            volume_id: DISK.to_owned(),
            publish_context: [("devicePath".to_owned(), format!("SCSI (0:{slot})"))].into(),
            staging_target_path: self.text("staging"),
            volume_capability: Some(capability),
            volume_context: [
                (
                    "fsUuid".to_owned(),
                    DiskName::parse(DISK).unwrap().fs_uuid().to_string(),
                ),
                (
                    "storage.kubernetes.io/csiProvisionerIdentity".to_owned(),
                    "1-2-x".to_owned(),
                ),
            ]
            .into(),
            ..NodeStageVolumeRequest::default()
        }
    }

    pub fn publish_request(
        &self,
        target: &str,
        capability: VolumeCapability,
    ) -> NodePublishVolumeRequest {
        NodePublishVolumeRequest {
            volume_id: DISK.to_owned(),
            staging_target_path: self.text("staging"),
            target_path: self.text(target),
            volume_capability: Some(capability),
            ..NodePublishVolumeRequest::default()
        }
    }

    pub async fn stage(&self, slot: u8, capability: VolumeCapability) -> Result<(), Status> {
        self.try_stage(self.stage_request(slot, capability)).await
    }

    pub async fn try_stage(&self, request: NodeStageVolumeRequest) -> Result<(), Status> {
        let mut client = self.client.clone();
        client.node_stage_volume(request).await.map(|_| ())
    }

    pub async fn publish(&self, target: &str, capability: VolumeCapability) -> Result<(), Status> {
        self.try_publish(self.publish_request(target, capability))
            .await
    }

    pub async fn try_publish(&self, request: NodePublishVolumeRequest) -> Result<(), Status> {
        let mut client = self.client.clone();
        client.node_publish_volume(request).await.map(|_| ())
    }

    pub async fn unpublish(&self, target: &str) -> Result<(), Status> {
        let request = NodeUnpublishVolumeRequest {
            volume_id: DISK.to_owned(),
            target_path: self.text(target),
        };
        let mut client = self.client.clone();
        client.node_unpublish_volume(request).await.map(|_| ())
    }

    pub async fn unstage(&self) -> Result<(), Status> {
        let request = NodeUnstageVolumeRequest {
            volume_id: DISK.to_owned(),
            staging_target_path: self.text("staging"),
        };
        let mut client = self.client.clone();
        client.node_unstage_volume(request).await.map(|_| ())
    }

    pub async fn expand(&self, path: &str, required: u64) -> Result<i64, Status> {
        let request = NodeExpandVolumeRequest {
            volume_id: DISK.to_owned(),
            volume_path: self.text(path),
            capacity_range: Some(CapacityRange {
                required_bytes: i64::try_from(required).unwrap(),
                limit_bytes: 0,
            }),
            ..NodeExpandVolumeRequest::default()
        };
        let mut client = self.client.clone();
        let answer = client.node_expand_volume(request).await?;
        Ok(answer.into_inner().capacity_bytes)
    }

    pub async fn stats(&self, path: &str) -> Result<Vec<VolumeUsage>, Status> {
        let request = NodeGetVolumeStatsRequest {
            volume_id: DISK.to_owned(),
            volume_path: self.text(path),
            ..NodeGetVolumeStatsRequest::default()
        };
        let mut client = self.client.clone();
        let answer = client.node_get_volume_stats(request).await?;
        Ok(answer.into_inner().usage)
    }

    pub async fn health(&self) -> Result<Vec<(i32, String)>, Status> {
        let request = NodeGetVolumeHealthRequest {
            volume_id: DISK.to_owned(),
            ..NodeGetVolumeHealthRequest::default()
        };
        let mut client = self.client.clone();
        let answer = client.node_get_volume_health(request).await?;
        let health = answer.into_inner().volume_health.unwrap();
        assert_eq!(health.volume_id, DISK);
        let entries = health.health_statuses.into_iter();
        Ok(entries.map(|entry| (entry.status, entry.reason)).collect())
    }
}

pub fn mount_as(fs: &str, mode: Mode) -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode { mode: mode.into() }),
        access_type: Some(AccessType::Mount(MountVolume {
            fs_type: fs.to_owned(),
            ..MountVolume::default()
        })),
    }
}

pub fn ext4() -> VolumeCapability {
    mount_as("ext4", Mode::SingleNodeWriter)
}

pub fn block() -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode {
            mode: Mode::SingleNodeWriter.into(),
        }),
        access_type: Some(AccessType::Block(BlockVolume {})),
    }
}

/// The code of an error, and that its message holds every one of these words.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, words: &[&str]) {
    let error = answer.unwrap_err();
    assert_eq!(error.code(), code, "{error:?}");
    for word in words {
        assert!(
            error.message().contains(word),
            "{word:?} is not in {:?}",
            error.message()
        );
    }
}
