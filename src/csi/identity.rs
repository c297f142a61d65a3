//! CSI Identity: who the driver is, what it has, whether it is ready.

use std::fmt;
use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::domain::DRIVER_NAME;
use crate::proto::csi::v1::identity_server::Identity as IdentityService;
use crate::proto::csi::v1::plugin_capability::{self, Service, VolumeExpansion};
use crate::proto::csi::v1::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest,
    GetPluginInfoResponse, PluginCapability, ProbeRequest, ProbeResponse,
};

/// Whether the role can serve, and if not, why. Must be cheap: the answer of a latch, not a call to the cloud.
pub type Readiness = Arc<dyn Fn() -> Result<bool, String> + Send + Sync>;

/// The Identity service, the same in every role.
#[derive(Clone)]
pub struct Identity {
    version: &'static str,
    readiness: Readiness,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// `readiness` answers `Ok(true)` when ready, `Ok(false)` while starting, `Err` with the reason when the role
    /// cannot work.
    #[must_use]
    pub fn new(version: &'static str, readiness: Readiness) -> Self {
        Self { version, readiness }
    }
}

fn service(kind: plugin_capability::service::Type) -> PluginCapability {
    PluginCapability {
        r#type: Some(plugin_capability::Type::Service(Service {
            r#type: kind.into(),
        })),
    }
}

fn expansion(kind: plugin_capability::volume_expansion::Type) -> PluginCapability {
    PluginCapability {
        r#type: Some(plugin_capability::Type::VolumeExpansion(VolumeExpansion {
            r#type: kind.into(),
        })),
    }
}

#[tonic::async_trait]
impl IdentityService for Identity {
    async fn get_plugin_info(
        &self,
        _request: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: DRIVER_NAME.to_owned(),
            vendor_version: self.version.to_owned(),
            ..Default::default()
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _request: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        use plugin_capability::{service::Type as Kind, volume_expansion::Type as Expansion};
        // Of the plugin as a whole: every instance answers the same, whichever services it serves (CSI specification,
        // GetPluginCapabilities). OFFLINE would tell the CO that a published disk cannot be grown; ONLINE allows both.
        let capabilities = vec![
            service(Kind::ControllerService),
            service(Kind::VolumeAccessibilityConstraints),
            expansion(Expansion::Online),
        ];
        Ok(Response::new(GetPluginCapabilitiesResponse {
            capabilities,
        }))
    }

    async fn probe(
        &self,
        _request: Request<ProbeRequest>,
    ) -> Result<Response<ProbeResponse>, Status> {
        match (self.readiness)() {
            Ok(ready) => Ok(Response::new(ProbeResponse { ready: Some(ready) })),
            // The specification names this code for a plugin that is not healthy (Probe errors).
            Err(why) => Err(Status::failed_precondition(why)),
        }
    }
}
