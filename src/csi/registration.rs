//! The driver registers itself with the kubelet, which saves a sidecar on every node.
//!
//! The kubelet watches `plugins_registry/`, calls `GetInfo` on each new socket there, connects to the endpoint that it
//! answers, and reports the outcome by `NotifyRegistrationStatus`. A failed registration is kept and shown by
//! [`RegistrationState::check`], so that the liveness probe restarts the pod and the kubelet tries again.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tonic::{Request, Response, Status};

use crate::domain::DRIVER_NAME;
use crate::proto::pluginregistration::registration_server::Registration as RegistrationService;
use crate::proto::pluginregistration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
};

/// What the kubelet calls a CSI driver (`k8s.io/kubelet/pkg/apis/pluginregistration/v1`, `CSIPlugin`).
const PLUGIN_TYPE: &str = "CSIPlugin";
/// The CSI versions that the kubelet accepts; it compares the major number only.
const SUPPORTED_VERSIONS: [&str; 1] = ["1.0.0"];

/// Where the registration socket goes: `<plugins_registry>/<driver>@reg.sock`.
///
/// The kubelet dials the bare path, and grpc-go makes the request's `:authority` of it: percent-encoded, slashes
/// included. A percent sign is legal in an authority's user part alone, so the HTTP/2 library resets every call whose
/// authority has no `@` after the last one. grpc-go leaves `@` as it is (`encodeAuthority`); all that we choose is the
/// file's name.
#[must_use]
pub fn socket_path(plugins_registry: &Path) -> PathBuf {
    plugins_registry.join(format!("{DRIVER_NAME}@reg.sock"))
}

/// What the kubelet said last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Outcome {
    #[default]
    Waiting,
    Registered,
    Failed(String),
}

/// The registration as seen from the outside: liveness, metrics.
#[derive(Debug, Default)]
pub struct RegistrationState {
    outcome: Mutex<Outcome>,
    asked: AtomicU64,
    failures: AtomicU64,
}

impl RegistrationState {
    /// Whether the kubelet has registered the driver; `Ok(false)` while it has not answered yet.
    ///
    /// # Errors
    /// The kubelet's words when it refused.
    pub fn check(&self) -> Result<bool, String> {
        match &*self.lock() {
            Outcome::Waiting => Ok(false),
            Outcome::Registered => Ok(true),
            Outcome::Failed(why) => Err(format!(
                "the kubelet refused to register the driver: {why}; see the kubelet's log"
            )),
        }
    }

    /// How often the kubelet asked who we are.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// How often it refused.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The service `pluginregistration.Registration`.
#[derive(Debug, Clone)]
pub struct Registration {
    endpoint: String,
    state: Arc<RegistrationState>,
}

impl Registration {
    /// `endpoint` is the CSI socket's path as the kubelet sees it, which differs from the container's view.
    #[must_use]
    pub fn new(endpoint: &Path, state: Arc<RegistrationState>) -> Self {
        Self {
            endpoint: endpoint.display().to_string(),
            state,
        }
    }
}

#[tonic::async_trait]
impl RegistrationService for Registration {
    async fn get_info(
        &self,
        _request: Request<InfoRequest>,
    ) -> Result<Response<PluginInfo>, Status> {
        self.state.asked.fetch_add(1, Ordering::Relaxed);
        tracing::info!(endpoint = self.endpoint, "the kubelet asks for the driver");
        Ok(Response::new(PluginInfo {
            r#type: PLUGIN_TYPE.to_owned(),
            name: DRIVER_NAME.to_owned(),
            endpoint: self.endpoint.clone(),
            supported_versions: SUPPORTED_VERSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        let outcome = if status.plugin_registered {
            tracing::info!("the kubelet has registered the driver");
            Outcome::Registered
        } else {
            self.state.failures.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                error = status.error,
                "the kubelet refused to register the driver"
            );
            Outcome::Failed(status.error)
        };
        *self.state.lock() = outcome;
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
