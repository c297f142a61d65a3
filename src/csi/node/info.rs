//! NodeGetInfo and NodeGetCapabilities.

use std::time::Instant;

use super::error::NodeError;
use super::kernel::{Kernel, is_file_system};
use super::records::Record;
use crate::domain::device::{DevNo, SLOTS_PER_VM};
use crate::domain::topology::{NODE_KEY, ZONE_KEY};
use crate::proto::csi::v1::node_service_capability::{Rpc, Type, rpc::Type as Kind};
use crate::proto::csi::v1::{
    NodeGetCapabilitiesResponse, NodeGetInfoResponse, NodeServiceCapability, Topology,
};

pub(super) fn capabilities() -> NodeGetCapabilitiesResponse {
    let kinds = [
        Kind::StageUnstageVolume,
        Kind::GetVolumeStats,
        Kind::ExpandVolume,
        Kind::SingleNodeMultiWriter,
        Kind::GetVolumeHealth,
        Kind::GetStorageHealth,
    ];
    let capabilities = kinds
        .into_iter()
        .map(|kind| NodeServiceCapability {
            r#type: Some(Type::Rpc(Rpc {
                r#type: kind.into(),
            })),
        })
        .collect();
    NodeGetCapabilitiesResponse { capabilities }
}

pub(super) fn info(kernel: &Kernel) -> Result<NodeGetInfoResponse, NodeError> {
    let config = &kernel.config;
    let segments = config
        .zone
        .iter()
        .flat_map(|zone| {
            [
                (ZONE_KEY.to_owned(), zone.as_str().to_owned()),
                (NODE_KEY.to_owned(), config.name.as_str().to_owned()),
            ]
        })
        .collect();
    Ok(NodeGetInfoResponse {
        node_id: config.name.as_str().to_owned(),
        max_volumes_per_node: i64::from(max_volumes(kernel)?),
        accessible_topology: config.zone.as_ref().map(|_| Topology { segments }),
    })
}

/// 14 slots minus the disks that are not this driver's and the reserved ones, at least 1: 0 would mean "no limit".
fn max_volumes(kernel: &Kernel) -> Result<u16, NodeError> {
    if let Some(fixed) = kernel.config.max_volumes {
        return Ok(fixed.max(1));
    }
    let slots = u16::try_from(SLOTS_PER_VM).unwrap_or(u16::MAX);
    let foreign = u16::try_from(foreign(kernel)?).unwrap_or(u16::MAX);
    Ok(slots
        .saturating_sub(foreign)
        .saturating_sub(kernel.config.reserved_slots)
        .max(1))
}

/// Disks that are not this driver's, nor on their way to become so.
pub(super) fn foreign(kernel: &Kernel) -> Result<usize, NodeError> {
    let there = kernel.host.foreign_disks(&ours(kernel)?)?;
    Ok(kernel.strangers.count(&there, Instant::now()))
}

/// Devices that are this driver's: those with a record, and those that the kubelet has mounted for CSI. The latter
/// matters right after the Go driver was replaced: its disks are staged and have no record.
fn ours(kernel: &Kernel) -> Result<Vec<DevNo>, NodeError> {
    let records = kernel.records.all()?;
    let mut ours: Vec<DevNo> = records
        .iter()
        .filter(|record| kernel.records.current(record))
        .map(Record::devno)
        .collect();
    let csi = kernel.config.kubelet_dir.join("plugins/kubernetes.io/csi");
    for entry in kernel.host.mounts_below(&csi)? {
        if is_file_system(&entry) {
            ours.push(entry.devno);
        } else {
            ours.extend(kernel.host.block_node_at(&entry.target)?);
        }
    }
    Ok(ours)
}
