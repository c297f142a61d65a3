//! RPCs as sidecars send them, to one of two controllers over the same cloud.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use additional_storage_csi::cloud::nifcloud::{Client, ClientConfig, Credentials};
use additional_storage_csi::csi::controller::{Controller, ControllerConfig};
use additional_storage_csi::domain::topology::{NODE_KEY, ZONE_KEY};
use additional_storage_csi::fleet::{Fleet, FleetConfig, Silent};
use additional_storage_csi::jobs::Jobs;
use additional_storage_csi::proto::csi::v1::controller_server::Controller as _;
use additional_storage_csi::proto::csi::v1::volume_capability::access_mode::Mode;
use additional_storage_csi::proto::csi::v1::volume_capability::{
    AccessMode, AccessType, BlockVolume,
};
use additional_storage_csi::proto::csi::v1::*;
use tonic::{Code, Request, Status};

const GIB: i64 = 1 << 30;
/// How long it takes at least until the sidecar of the other controller is in charge.
pub(crate) const LEASE: Duration = Duration::from_millis(400);

/// What the weather adds to a call's way, the age of the read that it rests on, and as much again as a busy machine takes.
const FLIGHT: Duration = Duration::from_millis(500);

/// One RPC, with everything that a retry repeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rpc {
    /// On the first node if there is one, else on any of the zone.
    Create {
        name: String,
        zone: String,
        nodes: Vec<String>,
        gib: u32,
    },
    Publish {
        vm: String,
    },
    Unpublish {
        vm: String,
    },
    Delete,
    Expand {
        gib: u32,
    },
    Modify {
        monthly: bool,
    },
    Get,
    List,
    Health,
    ListHealth,
}

/// What an RPC answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    /// GiB, of Create and Expand.
    pub(crate) gib: u32,
    /// Publish context; or the entries of a list: id and nodes; or findings: id and reason.
    pub(crate) context: HashMap<String, String>,
}

/// How long the caller listens.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Patience {
    /// As long as it takes.
    Endless,
    /// Its deadline: the driver answers before it.
    Deadline(Duration),
    /// It goes away without a word, as a sidecar that loses its lease.
    Leaves(Duration),
}

/// Two controllers.
pub(crate) struct Callers {
    controllers: [Controller; 2],
    jobs: [Jobs; 2],
}

impl Callers {
    pub(crate) fn new(endpoint: &str) -> Self {
        let jobs = [Jobs::default(), Jobs::default()];
        let controllers = jobs.clone().map(|jobs| controller(endpoint, jobs));
        Self { controllers, jobs }
    }

    /// Waits for the end of everything that runs.
    pub(crate) async fn drain(&self) {
        for jobs in &self.jobs {
            jobs.drain().await;
        }
    }

    /// One RPC. `None`: the caller did not wait for the answer.
    pub(crate) async fn call(
        &self,
        to: usize,
        disk: &str,
        rpc: &Rpc,
        patience: Patience,
    ) -> Option<Result<Answer, Status>> {
        let answer = send(&self.controllers[to], disk, rpc, patience);
        match patience {
            Patience::Endless | Patience::Deadline(_) => Some(answer.await),
            Patience::Leaves(after) => tokio::time::timeout(after, answer).await.ok(),
        }
    }
}

fn controller(endpoint: &str, jobs: Jobs) -> Controller {
    let keys = Credentials::from_values("EMULATORKEY", "emulator-secret");
    let mut config = ClientConfig::new("jp-east-1", keys);
    config.endpoint = Some(endpoint.to_owned());
    let client = Client::new(config).unwrap();
    // As fast as the emulated cloud; throttling slows it down, but not to a crawl.
    let pace = FleetConfig {
        rate: 5_000.0,
        burst: 1_000,
        rate_floor: 500.0,
        window: Duration::from_millis(2),
        poll_min: Duration::from_millis(10),
        disks_max_age: Duration::from_millis(200),
        vms_max_age: Duration::from_millis(200),
        ..FleetConfig::default()
    };
    let fleet = Fleet::with(Arc::new(client), pace, Arc::new(Silent)).unwrap();
    let config = ControllerConfig {
        zone: None,
        job: Duration::from_secs(20),
        doubt: Duration::from_millis(50),
        flight: FLIGHT,
        lend_patience: Duration::from_millis(500),
        linger: LEASE / 2,
    };
    Controller::new(Arc::new(fleet), config, jobs)
}

/// Whether a sidecar must take the operation as perhaps running.
pub(crate) fn may_be_running(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled | Code::DeadlineExceeded | Code::Unavailable | Code::Aborted
    )
}

fn request<T>(message: T, patience: Patience) -> Request<T> {
    let mut request = Request::new(message);
    if let Patience::Deadline(limit) = patience {
        request.set_timeout(limit);
    }
    request
}

fn range(gib: u32) -> Option<CapacityRange> {
    Some(CapacityRange {
        required_bytes: i64::from(gib) * GIB,
        limit_bytes: 0,
    })
}

fn block() -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode {
            mode: Mode::SingleNodeWriter.into(),
        }),
        access_type: Some(AccessType::Block(BlockVolume {})),
    }
}

fn gib(bytes: i64) -> u32 {
    assert_eq!(bytes % GIB, 0, "not a whole GiB");
    u32::try_from(bytes / GIB).unwrap()
}

fn claim(name: &str, zone: &str, nodes: &[String], size: u32) -> CreateVolumeRequest {
    let term = |node: &String| Topology {
        segments: HashMap::from([
            (ZONE_KEY.to_owned(), zone.to_owned()),
            (NODE_KEY.to_owned(), node.clone()),
        ]),
    };
    let terms: Vec<Topology> = nodes.iter().map(term).collect();
    CreateVolumeRequest {
        name: name.to_owned(),
        capacity_range: range(size),
        volume_capabilities: vec![block()],
        accessibility_requirements: Some(TopologyRequirement {
            requisite: terms.clone(),
            preferred: terms,
        }),
        ..CreateVolumeRequest::default()
    }
}

async fn send(
    to: &Controller,
    disk: &str,
    rpc: &Rpc,
    patience: Patience,
) -> Result<Answer, Status> {
    let volume_id = disk.to_owned();
    match rpc {
        Rpc::Create {
            name,
            zone,
            nodes,
            gib: size,
        } => {
            let message = claim(name, zone, nodes, *size);
            let answer = to
                .create_volume(request(message, patience))
                .await?
                .into_inner();
            let volume = answer.volume.unwrap();
            assert_eq!(volume.volume_id, disk);
            Ok(Answer {
                gib: gib(volume.capacity_bytes),
                ..Answer::default()
            })
        }
        Rpc::Publish { vm } => {
            let message = ControllerPublishVolumeRequest {
                volume_id,
                node_id: vm.clone(),
                volume_capability: Some(block()),
                ..ControllerPublishVolumeRequest::default()
            };
            let answer = to
                .controller_publish_volume(request(message, patience))
                .await?;
            let context = answer.into_inner().publish_context;
            Ok(Answer {
                context,
                ..Answer::default()
            })
        }
        Rpc::Unpublish { vm } => {
            let message = ControllerUnpublishVolumeRequest {
                volume_id,
                node_id: vm.clone(),
                ..ControllerUnpublishVolumeRequest::default()
            };
            let answer = to
                .controller_unpublish_volume(request(message, patience))
                .await;
            answer.map(|_| Answer::default())
        }
        Rpc::Delete => {
            let message = DeleteVolumeRequest {
                volume_id,
                ..DeleteVolumeRequest::default()
            };
            let answer = to.delete_volume(request(message, patience)).await;
            answer.map(|_| Answer::default())
        }
        Rpc::Expand { gib: wanted } => {
            let message = ControllerExpandVolumeRequest {
                volume_id,
                capacity_range: range(*wanted),
                ..ControllerExpandVolumeRequest::default()
            };
            let answer = to
                .controller_expand_volume(request(message, patience))
                .await?;
            let bytes = answer.into_inner().capacity_bytes;
            Ok(Answer {
                gib: gib(bytes),
                ..Answer::default()
            })
        }
        Rpc::Modify { monthly } => {
            let value = if *monthly { "monthly" } else { "hourly" };
            let message = ControllerModifyVolumeRequest {
                volume_id,
                mutable_parameters: [("accountingType".into(), value.into())].into(),
                ..ControllerModifyVolumeRequest::default()
            };
            let answer = to
                .controller_modify_volume(request(message, patience))
                .await;
            answer.map(|_| Answer::default())
        }
        Rpc::Get => {
            let message = ControllerGetVolumeRequest { volume_id };
            let answer = to.controller_get_volume(request(message, patience)).await;
            answer.map(|_| Answer::default())
        }
        Rpc::List => {
            let answer = to
                .list_volumes(request(ListVolumesRequest::default(), patience))
                .await?;
            let entries = answer.into_inner().entries.into_iter();
            let context = entries.map(|entry| {
                let nodes = entry
                    .status
                    .map(|s| s.published_node_ids)
                    .unwrap_or_default();
                (entry.volume.unwrap().volume_id, nodes.join(","))
            });
            Ok(Answer {
                context: context.collect(),
                ..Answer::default()
            })
        }
        Rpc::Health => {
            let message = ControllerGetVolumeHealthRequest {
                volume_id,
                ..ControllerGetVolumeHealthRequest::default()
            };
            let answer = to
                .controller_get_volume_health(request(message, patience))
                .await?;
            Ok(findings(answer.into_inner().volume_health))
        }
        Rpc::ListHealth => {
            let message = ControllerListVolumeHealthRequest::default();
            let answer = to
                .controller_list_volume_health(request(message, patience))
                .await?;
            Ok(findings(answer.into_inner().entries))
        }
    }
}

fn findings(of: impl IntoIterator<Item = VolumeHealth>) -> Answer {
    let reason = |health: VolumeHealth| {
        let reasons = health.health_statuses.into_iter();
        let reasons: Vec<String> = reasons.map(|entry| entry.reason).collect();
        (health.volume_id, reasons.join(","))
    };
    Answer {
        context: of.into_iter().map(reason).collect(),
        ..Answer::default()
    }
}
