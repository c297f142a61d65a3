//! A controller service on a socket of its own, over the driver's real client and an emulated cloud.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use additional_storage_csi::cloud::Cloud;
use additional_storage_csi::cloud::nifcloud::{
    Client, ClientConfig, Credentials, install_crypto_provider,
};
use additional_storage_csi::csi::controller::{Controller, ControllerConfig};
use additional_storage_csi::csi::layer::Unobserved;
use additional_storage_csi::csi::server::Endpoint;
use additional_storage_csi::domain::topology::{NODE_KEY, ZONE_KEY};
use additional_storage_csi::emulator::{
    AttachmentRecord, Config, Control, DiskRecord, Effect, Emulator, Rule,
};
use additional_storage_csi::fleet::Fleet;
use additional_storage_csi::jobs::Jobs;
use additional_storage_csi::proto::csi::v1::controller_client::ControllerClient;
use additional_storage_csi::proto::csi::v1::controller_server::ControllerServer;
use additional_storage_csi::proto::csi::v1::*;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::node_harness::ext4;

pub const GIB: i64 = 1 << 30;
/// A claim's name, and the disk name that it gives.
pub const CLAIM: &str = "pvc-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
pub const DISK: &str = "0a1b2c3d4e5f60718293a4b5c6d7e8f9";
/// Its descriptions.
pub const NEW: &str = "new-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
pub const PUBLISHED: &str = "pvc-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";

pub struct Rig {
    pub emulator: Arc<Emulator>,
    pub client: ControllerClient<Channel>,
    pub jobs: Jobs,
    /// The driver's client, for calls past the driver.
    pub cloud: Arc<dyn Cloud>,
    _dir: tempfile::TempDir,
    stop: CancellationToken,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Three VMs in east-11, one in east-12.
pub fn cloud() -> Config {
    Config::default()
        .vm("node1", "east-11")
        .vm("node2", "east-11")
        .vm("node3", "east-11")
        .vm("far", "east-12")
}

pub fn settings() -> ControllerConfig {
    ControllerConfig {
        doubt: Duration::from_millis(100),
        flight: Duration::from_millis(100),
        lend_patience: Duration::from_millis(300),
        linger: Duration::from_secs(10),
        job: Duration::from_secs(30),
        zone: None,
    }
}

impl Rig {
    pub async fn new() -> Self {
        Self::with(cloud()).await
    }

    pub async fn with(config: Config) -> Self {
        let emulator = Arc::new(Emulator::start(config).await.unwrap());
        Self::over(emulator, settings()).await
    }

    /// Another controller over the same cloud.
    pub async fn twin(&self) -> Self {
        Self::over(Arc::clone(&self.emulator), settings()).await
    }

    pub async fn over(emulator: Arc<Emulator>, settings: ControllerConfig) -> Self {
        install_crypto_provider();
        let keys = Credentials::from_values("EMULATORKEY", "emulator-secret");
        let mut config = ClientConfig::new("jp-east-1", keys);
        config.endpoint = Some(emulator.endpoint());
        let cloud: Arc<dyn Cloud> = Arc::new(Client::new(config).unwrap());
        let jobs = Jobs::default();
        let service = Controller::new(
            Arc::new(Fleet::new(Arc::clone(&cloud))),
            settings,
            jobs.clone(),
        );
        let dir = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::parse(dir.path().join("c.sock").to_str().unwrap()).unwrap();
        let bound = endpoint.bind(0o600).await.unwrap();
        let address = format!("unix://{}", bound.path().display());
        let stop = CancellationToken::new();
        tokio::spawn(bound.serve(
            Routes::new(ControllerServer::new(service)),
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
            emulator,
            client: ControllerClient::new(channel),
            jobs,
            cloud,
            _dir: dir,
            stop,
        }
    }

    pub fn control(&self) -> &Control {
        self.emulator.control()
    }

    pub fn disk(&self, name: &str) -> Option<DiskRecord> {
        self.control().disk(name)
    }

    pub fn holder(&self, name: &str) -> Option<String> {
        self.disk(name)?.attachment.map(|at| at.vm)
    }

    /// Calls that changed the books, oldest first: action and VM.
    pub fn changes(&self) -> Vec<String> {
        let history = self.control().history();
        let committed = history.into_iter().filter(|event| event.committed);
        committed
            .map(|event| match event.vm {
                Some(vm) => format!("{} {vm}", event.action),
                None => event.action,
            })
            .collect()
    }

    /// One call of this action suffers.
    pub fn fault(&self, action: &str, skip: u32, effect: Effect) {
        self.control().add_fault(Rule {
            action: Some(action.to_owned()),
            mutating: false,
            disk: None,
            vm: None,
            skip,
            count: Some(1),
            probability: 1.0,
            effect,
        });
    }

    pub async fn create(&self, request: CreateVolumeRequest) -> Result<Volume, Status> {
        let answer = self.client.clone().create_volume(request).await?;
        Ok(answer.into_inner().volume.unwrap())
    }

    pub async fn delete(&self, disk: &str) -> Result<(), Status> {
        let request = DeleteVolumeRequest {
            volume_id: disk.to_owned(),
            ..DeleteVolumeRequest::default()
        };
        self.client.clone().delete_volume(request).await.map(|_| ())
    }

    pub async fn publish(&self, disk: &str, vm: &str) -> Result<HashMap<String, String>, Status> {
        let mut client = self.client.clone();
        let answer = client.controller_publish_volume(publish_request(disk, vm));
        Ok(answer.await?.into_inner().publish_context)
    }

    pub async fn unpublish(&self, disk: &str, vm: &str) -> Result<(), Status> {
        let request = ControllerUnpublishVolumeRequest {
            volume_id: disk.to_owned(),
            node_id: vm.to_owned(),
            ..ControllerUnpublishVolumeRequest::default()
        };
        let mut client = self.client.clone();
        client
            .controller_unpublish_volume(request)
            .await
            .map(|_| ())
    }

    /// Answers the true size in GiB.
    pub async fn expand(&self, disk: &str, gib: i64, limit: i64) -> Result<i64, Status> {
        let request = ControllerExpandVolumeRequest {
            volume_id: disk.to_owned(),
            capacity_range: Some(CapacityRange {
                required_bytes: gib * GIB,
                limit_bytes: limit * GIB,
            }),
            ..ControllerExpandVolumeRequest::default()
        };
        let mut client = self.client.clone();
        let answer = client.controller_expand_volume(request).await?.into_inner();
        assert!(answer.node_expansion_required);
        assert_eq!(answer.capacity_bytes % GIB, 0);
        Ok(answer.capacity_bytes / GIB)
    }

    pub async fn modify(&self, disk: &str, accounting: &str) -> Result<(), Status> {
        let request = ControllerModifyVolumeRequest {
            volume_id: disk.to_owned(),
            mutable_parameters: HashMap::from([("AccountingType".into(), accounting.into())]),
            ..ControllerModifyVolumeRequest::default()
        };
        let mut client = self.client.clone();
        client.controller_modify_volume(request).await.map(|_| ())
    }

    pub async fn list(&self, max: i32, token: &str) -> Result<ListVolumesResponse, Status> {
        let request = ListVolumesRequest {
            max_entries: max,
            starting_token: token.to_owned(),
        };
        let answer = self.client.clone().list_volumes(request).await?;
        Ok(answer.into_inner())
    }
}

pub fn publish_request(disk: &str, vm: &str) -> ControllerPublishVolumeRequest {
    ControllerPublishVolumeRequest {
        volume_id: disk.to_owned(),
        node_id: vm.to_owned(),
        volume_capability: Some(ext4()),
        ..ControllerPublishVolumeRequest::default()
    }
}

fn term(zone: &str, node: Option<&str>) -> Topology {
    let mut segments = HashMap::from([(ZONE_KEY.to_owned(), zone.to_owned())]);
    segments.extend(node.map(|node| (NODE_KEY.to_owned(), node.to_owned())));
    Topology { segments }
}

/// CreateVolume of [`CLAIM`] with 100 GiB, in these places: (zone, node).
pub fn claim(places: &[(&str, Option<&str>)]) -> CreateVolumeRequest {
    let terms: Vec<Topology> = places.iter().map(|(z, n)| term(z, *n)).collect();
    CreateVolumeRequest {
        name: CLAIM.to_owned(),
        capacity_range: Some(CapacityRange {
            required_bytes: 100 * GIB,
            limit_bytes: 0,
        }),
        volume_capabilities: vec![ext4()],
        accessibility_requirements: Some(TopologyRequirement {
            requisite: terms.clone(),
            preferred: terms,
        }),
        ..CreateVolumeRequest::default()
    }
}

/// As the provisioner asks under WaitForFirstConsumer with strict topology.
pub fn selected(node: &str) -> CreateVolumeRequest {
    claim(&[("east-11", Some(node))])
}

/// As the provisioner asks under Immediate binding.
pub fn immediate() -> CreateVolumeRequest {
    claim(&[
        ("east-11", Some("node1")),
        ("east-11", Some("node2")),
        ("east-11", Some("node3")),
    ])
}

/// A disk that is in the cloud already.
pub fn disk_record(name: &str, description: &str, vm: Option<&str>) -> DiskRecord {
    DiskRecord {
        name: name.to_owned(),
        unique_id: String::new(),
        size: 100,
        disk_type: "Standard Flash Storage A".to_owned(),
        zone: "east-11".to_owned(),
        accounting: "2".to_owned(),
        next_accounting: "2".to_owned(),
        description: description.to_owned(),
        created: "2026-01-01T00:00:00.000+09:00".to_owned(),
        attachment: vm.map(|vm| AttachmentRecord {
            vm: vm.to_owned(),
            target: 1,
            since: String::new(),
        }),
        change: None,
    }
}

#[track_caller]
pub fn code<T: std::fmt::Debug>(answer: Result<T, Status>) -> Code {
    answer.unwrap_err().code()
}
