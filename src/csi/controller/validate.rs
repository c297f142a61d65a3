//! ValidateVolumeCapabilities: would this disk do for that?

use super::command::Validate;
use crate::domain::disk::Disk;
use crate::proto::csi::v1::validate_volume_capabilities_response::Confirmed;
use crate::proto::csi::v1::{
    ValidateVolumeCapabilitiesRequest, ValidateVolumeCapabilitiesResponse,
};

/// Confirms what was asked, or says what stands against it.
pub(super) fn answer(
    command: &Validate,
    disk: &Disk,
    request: ValidateVolumeCapabilitiesRequest,
) -> ValidateVolumeCapabilitiesResponse {
    match against(command, disk) {
        Some(message) => ValidateVolumeCapabilitiesResponse {
            confirmed: None,
            message,
        },
        None => ValidateVolumeCapabilitiesResponse {
            confirmed: Some(Confirmed {
                volume_context: request.volume_context,
                volume_capabilities: request.volume_capabilities,
                parameters: request.parameters,
                mutable_parameters: request.mutable_parameters,
            }),
            message: String::new(),
        },
    }
}

fn against(command: &Validate, disk: &Disk) -> Option<String> {
    if let Some(reason) = &command.unsupported {
        return Some(reason.clone());
    }
    let class = match &command.class {
        Ok(class) => class,
        Err(reason) => return Some(reason.clone()),
    };
    if command.with_parameters && !class.disk_type.matches(&disk.disk_type) {
        return Some(format!(
            "disk {} is of type {:?}, not of DiskType {}",
            disk.name,
            disk.disk_type,
            class.disk_type.codes.join(" or ")
        ));
    }
    match &command.mutable {
        Err(reason) => Some(reason.clone()),
        Ok(Some(wanted)) if disk.next_accounting.or(disk.accounting) != Some(*wanted) => {
            Some(format!("disk {} is not billed {wanted:?}", disk.name))
        }
        Ok(_) => None,
    }
}
