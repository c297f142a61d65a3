//! A driver: one socket, the services of its roles, its registration and its admin endpoint.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use secrecy::SecretString;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::usage;
use crate::admin::{self, Admin, Check};
use crate::cli;
use crate::cloud::nifcloud::{CallObserver, Client, ClientConfig, Credentials};
use crate::config::NodeSettings;
use crate::csi::controller::{Controller, ControllerConfig};
use crate::csi::identity::{Identity, Readiness};
use crate::csi::layer::RpcObserver;
use crate::csi::node::{Node, NodeConfig, Timeouts};
use crate::csi::registration::{Registration, RegistrationState, socket_path};
use crate::csi::server::{Bound, Drained, Endpoint};
use crate::domain::topology::Zone;
use crate::fleet::{Fleet, FleetConfig, Observer};
use crate::host::linux::{HostConfig, LinuxHost};
use crate::jobs::Jobs;
use crate::proto::csi::v1::controller_server::ControllerServer;
use crate::proto::csi::v1::identity_server::IdentityServer;
use crate::proto::csi::v1::node_server::NodeServer;
use crate::proto::pluginregistration::registration_server::RegistrationServer;
use crate::telemetry::LogLevel;
use crate::telemetry::metrics::Metrics;

/// The kubelet and the sidecars run as root or share the volume's group; nobody else may talk to the driver.
const SOCKET_MODE: u32 = 0o660;
/// The node uses its own random id of a boot to tell device numbers of different boots apart.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What a driver is built from.
#[derive(Debug, Clone)]
pub struct DriverParts {
    /// `unix:///...`.
    pub endpoint: String,
    /// The controller role's cloud.
    pub cloud: Option<cli::Cloud>,
    /// Keys instead of the environment's (embedded cloud).
    pub keys: Option<(SecretString, SecretString)>,
    /// Zone of disks whose claim names none; without it any zone with a running VM.
    pub zone: Option<Zone>,
    /// The node role's machine.
    pub node: Option<NodeSettings>,
    /// Admin endpoint, if any.
    pub admin: Option<SocketAddr>,
    /// Log level handle for the admin endpoint.
    pub log_level: LogLevel,
    /// How long running operations may take at the end.
    pub grace: Duration,
}

impl DriverParts {
    /// A driver without a role yet.
    #[must_use]
    pub fn new(endpoint: &str, log_level: LogLevel, grace: Duration) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            cloud: None,
            keys: None,
            zone: None,
            node: None,
            admin: None,
            log_level,
            grace,
        }
    }
}

/// A driver whose sockets are bound.
#[derive(Debug)]
pub struct Driver {
    csi: Bound,
    routes: Routes,
    registration: Option<(Bound, Registration)>,
    metrics: Arc<Metrics>,
    jobs: Vec<Jobs>,
    admin: Option<(SocketAddr, Admin)>,
    grace: Duration,
}

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All jobs ended.
    Drained,
    /// The grace period passed first; the journal in the cloud and the records on the node finish the rest.
    Interrupted,
}

impl Driver {
    /// Builds all parts; binds sockets last, when everything else is known to be right.
    ///
    /// # Errors
    /// A wrong configuration (exit status 64), or a socket that cannot be bound.
    pub async fn build(parts: DriverParts) -> anyhow::Result<Self> {
        let endpoint = Endpoint::parse(&parts.endpoint).map_err(|e| usage(&e))?;
        let metrics = Arc::new(Metrics::new());
        let mut jobs = Vec::new();
        let identity = Identity::new(env!("CARGO_PKG_VERSION"), ready());
        let mut routes = Routes::new(IdentityServer::new(identity));
        if let Some(cloud) = &parts.cloud {
            let controller = controller(cloud, &parts, &metrics, &mut jobs)?;
            routes = routes.add_service(ControllerServer::new(controller));
        }
        if let Some(settings) = &parts.node {
            let node = node(settings, &mut jobs)?;
            routes = routes.add_service(NodeServer::new(node));
        }
        let csi = endpoint.bind(SOCKET_MODE).await.map_err(|e| usage(&e))?;
        let state = Arc::new(RegistrationState::default());
        let registry = parts
            .node
            .as_ref()
            .and_then(|node| node.plugins_registry.as_ref());
        let registration = match registry {
            None => None,
            Some(directory) => {
                let at = Endpoint::parse(&socket_path(directory).display().to_string())
                    .map_err(|e| usage(&e))?;
                let bound = at.bind(SOCKET_MODE).await.map_err(|e| usage(&e))?;
                Some((
                    bound,
                    Registration::new(endpoint.path(), Arc::clone(&state)),
                ))
            }
        };
        let registered = registration.is_some();
        let admin = parts.admin.map(|address| {
            let admin = Admin {
                alive: alive(registered.then(|| Arc::clone(&state))),
                ready: Arc::new(|| Ok(())),
                metrics: Arc::clone(&metrics),
                log_level: parts.log_level.clone(),
            };
            (address, admin)
        });
        Ok(Self {
            csi,
            routes,
            registration,
            metrics,
            jobs,
            admin,
            grace: parts.grace,
        })
    }

    /// Serves until `stop`, then drains.
    ///
    /// # Errors
    /// The gRPC server or the admin endpoint failed.
    pub async fn serve(self, stop: CancellationToken) -> anyhow::Result<Ended> {
        if let Some((address, admin)) = self.admin {
            admin::serve(address, admin, stop.clone())
                .await
                .with_context(|| format!("cannot listen on {address} (--admin-listen)"))?;
        }
        let observer: Arc<dyn RpcObserver> = self.metrics;
        let registering = self.registration.map(|(bound, service)| {
            let routes = Routes::new(RegistrationServer::new(service));
            tokio::spawn(bound.serve(routes, Arc::clone(&observer), stop.clone(), self.grace))
        });
        let jobs = self.jobs;
        let closing = {
            let (stop, jobs) = (stop.clone(), jobs.clone());
            tokio::spawn(async move {
                stop.cancelled().await;
                jobs.iter().for_each(Jobs::close);
            })
        };
        let served = self
            .csi
            .serve(self.routes, observer, stop.clone(), self.grace)
            .await;
        // Also when the server failed by itself: nothing else may go on alone.
        stop.cancel();
        closing.await.ok();
        let end = Instant::now() + self.grace;
        let mut drained = served? == Drained::Clean;
        for table in &jobs {
            drained &= timeout_at(end, table.drain()).await.is_ok();
        }
        if let Some(task) = registering {
            let _ = timeout_at(end, task).await;
        }
        Ok(if drained {
            Ended::Drained
        } else {
            Ended::Interrupted
        })
    }
}

/// Ready as soon as it is served: everything that could fail was checked before the socket was bound.
fn ready() -> Readiness {
    Arc::new(|| Ok(true))
}

fn alive(registration: Option<Arc<RegistrationState>>) -> Check {
    Arc::new(move || match &registration {
        Some(state) => state.check().map(|_| ()),
        None => Ok(()),
    })
}

/// A client of the cloud; the keys come from the environment unless they are given.
pub(super) fn client(
    cloud: &cli::Cloud,
    keys: Option<&(SecretString, SecretString)>,
    observer: Arc<dyn CallObserver>,
) -> anyhow::Result<Client> {
    let credentials = match keys {
        Some((id, secret)) => Credentials::from_values(id.clone(), secret.clone()),
        None => {
            Credentials::from_environment(|name| std::env::var(name).ok()).map_err(|e| usage(&e))?
        }
    };
    let mut config = ClientConfig::new(cloud.region.clone(), credentials);
    config.endpoint.clone_from(&cloud.cloud_endpoint);
    config.allow_insecure_endpoint = cloud.allow_insecure_endpoint;
    config.observer = Some(observer);
    Client::new(config).map_err(|e| usage(&e))
}

fn controller(
    cloud: &cli::Cloud,
    parts: &DriverParts,
    metrics: &Arc<Metrics>,
    jobs: &mut Vec<Jobs>,
) -> anyhow::Result<Controller> {
    let client = client(cloud, parts.keys.as_ref(), Arc::clone(metrics) as _)?;
    let pace = FleetConfig {
        rate: cloud.api_rate,
        rate_floor: FleetConfig::default().rate_floor.min(cloud.api_rate),
        ..FleetConfig::default()
    };
    let watching = Arc::clone(metrics) as Arc<dyn Observer>;
    let fleet = Fleet::with(Arc::new(client), pace, watching).map_err(|e| usage(&e))?;
    let table = Jobs::default();
    jobs.push(table.clone());
    let config = ControllerConfig {
        zone: parts.zone.clone(),
        ..ControllerConfig::default()
    };
    Ok(Controller::new(Arc::new(fleet), config, table))
}

fn node(settings: &NodeSettings, jobs: &mut Vec<Jobs>) -> anyhow::Result<Node> {
    let host = LinuxHost::new(HostConfig {
        device_dir: settings.device_dir.clone(),
        ..HostConfig::default()
    });
    let boot_id =
        std::fs::read_to_string(BOOT_ID).with_context(|| format!("cannot read {BOOT_ID}"))?;
    let table = Jobs::default();
    jobs.push(table.clone());
    let config = NodeConfig {
        name: settings.name.clone(),
        zone: settings.zone.clone(),
        max_volumes: settings.max_volumes,
        reserved_slots: settings.reserve_slots,
        kubelet_dir: settings.kubelet_dir.clone(),
        state_dir: settings.state_dir.clone(),
        boot_id: boot_id.trim().to_owned(),
        timeouts: Timeouts::default(),
    };
    Ok(Node::new(Arc::new(host), config, table))
}
