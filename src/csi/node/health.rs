//! NodeGetVolumeHealth and NodeGetStorageHealth (CSI 1.13): what is wrong, with stable reasons.

use std::path::Path;

use super::command::Health;
use super::error::NodeError;
use super::info;
use super::kernel::{Kernel, Staged, is_file_system};
use super::records::Record;
use crate::domain::device::{DevNo, SLOTS_PER_VM};
use crate::host::{Finding, Severity};
use crate::proto::csi::v1::node_get_storage_health_response::StorageBackendHealth;
use crate::proto::csi::v1::volume_health::VolumeHealthEntry;
use crate::proto::csi::v1::{
    NodeGetStorageHealthResponse, NodeGetVolumeHealthResponse, StorageHealthErrorType,
    VolumeHealth, VolumeHealthErrorType,
};

/// The device of the volume is gone from the machine.
const DEVICE_GONE: &str = "DeviceGone";
/// Another device than the staged one is at the volume's path.
const WRONG_DEVICE: &str = "WrongDevice";
/// The staging mount is gone while the volume counts as staged.
const NOT_MOUNTED: &str = "NotMounted";
/// All slots are taken by disks that are not this driver's.
const NO_FREE_SLOT: &str = "NoFreeSlot";

pub(super) fn volume(
    kernel: &Kernel,
    command: &Health,
) -> Result<NodeGetVolumeHealthResponse, NodeError> {
    let record = kernel.current_record(&command.disk)?;
    let staging = command
        .staging
        .clone()
        .or_else(|| record.as_ref().map(|record| record.staging.clone()));
    let expected = record.as_ref().map(Record::devno);
    let mut findings = Vec::new();
    let mut seen = false;
    if let Some(path) = &staging {
        let staged = kernel.staged(&command.disk, path)?;
        if staged == Staged::Nothing && record.is_some() {
            findings.push(missing(path));
        }
        if staged != Staged::Nothing {
            seen = true;
            let devno = staged.device().map(|device| device.devno);
            let at = matches!(staged, Staged::Mount { .. }).then_some(path.as_path());
            look(kernel, devno, expected, at, &mut findings)?;
            // What cannot be read anew is told by the other findings.
            if let Some(device) = staged.device()
                && let Err(error @ NodeError::WrongDisk { .. }) =
                    kernel.look_anew(&command.disk, device)
            {
                findings.push(Finding {
                    severity: Severity::Inaccessible,
                    reason: WRONG_DEVICE,
                    message: error.to_string(),
                });
            }
        }
    }
    if let Some(path) = &command.target {
        seen |= target(kernel, path, expected, &mut findings)?;
    }
    if !seen && record.is_none() {
        return Err(NodeError::NotOnNode {
            volume: command.disk.to_string(),
        });
    }
    Ok(NodeGetVolumeHealthResponse {
        volume_health: Some(VolumeHealth {
            volume_id: command.disk.to_string(),
            health_statuses: entries(findings),
        }),
    })
}

/// Looks at what is published at `path`; tells whether anything is.
fn target(
    kernel: &Kernel,
    path: &Path,
    expected: Option<DevNo>,
    findings: &mut Vec<Finding>,
) -> Result<bool, NodeError> {
    let Some(entry) = kernel.host.mount_at(path)? else {
        return Ok(false);
    };
    let mounted = is_file_system(&entry);
    let device = match mounted {
        true => kernel.device_of(&entry)?,
        false => match kernel.host.block_node_at(path)? {
            Some(devno) => kernel.host.device_by_number(devno)?,
            None => None,
        },
    };
    let devno = device.map(|device| device.devno);
    let at = mounted.then_some(path);
    look(kernel, devno, expected, at, findings)?;
    Ok(true)
}

fn look(
    kernel: &Kernel,
    devno: Option<DevNo>,
    expected: Option<DevNo>,
    at: Option<&Path>,
    findings: &mut Vec<Finding>,
) -> Result<(), NodeError> {
    let Some(devno) = devno else {
        findings.push(Finding {
            severity: Severity::Inaccessible,
            reason: DEVICE_GONE,
            message: "the disk is gone from this machine while it is mounted: look at it in the control panel, \
                      then stop its pods"
                .to_owned(),
        });
        return Ok(());
    };
    if let Some(expected) = expected.filter(|expected| *expected != devno) {
        findings.push(Finding {
            severity: Severity::Inaccessible,
            reason: WRONG_DEVICE,
            message: format!("device {devno} is mounted, but device {expected} was staged"),
        });
    }
    findings.extend(kernel.host.findings(devno, at)?);
    Ok(())
}

fn missing(path: &Path) -> Finding {
    Finding {
        severity: Severity::Inaccessible,
        reason: NOT_MOUNTED,
        message: format!(
            "nothing is mounted at {} although the volume was staged there",
            path.display()
        ),
    }
}

/// No two entries with the same status and reason (CSI specification, `VolumeHealthEntry`).
fn distinct(findings: Vec<Finding>) -> Vec<Finding> {
    let mut kept: Vec<Finding> = Vec::new();
    for finding in findings {
        if !kept
            .iter()
            .any(|k| (k.severity, k.reason) == (finding.severity, finding.reason))
        {
            kept.push(finding);
        }
    }
    kept
}

fn entries(findings: Vec<Finding>) -> Vec<VolumeHealthEntry> {
    distinct(findings)
        .into_iter()
        .map(|finding| {
            let status = match finding.severity {
                Severity::Degraded => VolumeHealthErrorType::Degraded,
                Severity::Inaccessible => VolumeHealthErrorType::Inaccessible,
                Severity::DataLoss => VolumeHealthErrorType::DataLoss,
            };
            VolumeHealthEntry {
                status: status.into(),
                reason: finding.reason.to_owned(),
                message: finding.message,
            }
        })
        .collect()
}

pub(super) fn storage(kernel: &Kernel) -> Result<NodeGetStorageHealthResponse, NodeError> {
    let mut findings = kernel.host.storage_findings()?;
    let foreign = info::foreign(kernel)?;
    if foreign >= SLOTS_PER_VM {
        findings.push(Finding {
            severity: Severity::Degraded,
            reason: NO_FREE_SLOT,
            message: format!(
                "{foreign} disks that are not this driver's fill all {SLOTS_PER_VM} slots: no volume can be attached"
            ),
        });
    }
    let backend_health = distinct(findings)
        .into_iter()
        .map(|finding| {
            let status = match finding.severity {
                Severity::Degraded => StorageHealthErrorType::StorageDegraded,
                Severity::Inaccessible | Severity::DataLoss => {
                    StorageHealthErrorType::StorageUnreachable
                }
            };
            StorageBackendHealth {
                status: status.into(),
                reason: finding.reason.to_owned(),
                message: finding.message,
                volume_capability: None,
            }
        })
        .collect();
    Ok(NodeGetStorageHealthResponse { backend_health })
}
