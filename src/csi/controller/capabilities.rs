//! What the controller declares, and what NIFCLOUD has not.

use tonic::Status;

use crate::proto::csi::v1::controller_service_capability::rpc::Type as Kind;
use crate::proto::csi::v1::controller_service_capability::{Rpc, Type};
use crate::proto::csi::v1::{ControllerGetCapabilitiesResponse, ControllerServiceCapability};

pub(super) const SNAPSHOTS: &str = "snapshots: NIFCLOUD has none of additional disks";

pub(super) fn capabilities() -> ControllerGetCapabilitiesResponse {
    let kinds = [
        Kind::CreateDeleteVolume,
        Kind::PublishUnpublishVolume,
        Kind::ListVolumes,
        Kind::ListVolumesPublishedNodes,
        Kind::ExpandVolume,
        Kind::GetVolume,
        Kind::ModifyVolume,
        Kind::SingleNodeMultiWriter,
        Kind::GetVolumeHealth,
        Kind::ListVolumeHealth,
    ];
    let capabilities = kinds
        .into_iter()
        .map(|kind| ControllerServiceCapability {
            r#type: Some(Type::Rpc(Rpc {
                r#type: kind.into(),
            })),
        })
        .collect();
    ControllerGetCapabilitiesResponse { capabilities }
}

pub(super) fn absent(what: &str) -> Status {
    Status::unimplemented(format!("this driver does not offer {what}"))
}
