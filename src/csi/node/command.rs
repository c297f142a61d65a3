//! Requests of the Node service as typed commands. Whoever has a command has a sound request.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::csi::validate::{InputError, absolute, capability, disk, path_below, required, shorten};
use crate::domain::capability::{Access, Capability};
use crate::domain::device::ScsiAddress;
use crate::domain::id::{DiskName, FsUuid};
use crate::domain::params::{
    CONTEXT_FS_UUID, CONTEXT_IDENTITY_CHECK, CONTEXT_NON_ZERO, MKFS_KEYS, ParamError,
    check_node_param,
};
use crate::domain::size::SizeError;
use crate::proto::csi::v1::{
    CapacityRange, NodeExpandVolumeRequest, NodeGetVolumeHealthRequest, NodeGetVolumeStatsRequest,
    NodePublishVolumeRequest, NodeStageVolumeRequest, NodeUnpublishVolumeRequest,
    NodeUnstageVolumeRequest,
};

/// Publish-context key: the slot, as the API writes it (`SCSI (0:3)`); set by ControllerPublishVolume.
pub const DEVICE_PATH: &str = "devicePath";
/// Publish-context key, optional: the disk's size in GiB as the cloud knows it.
pub const SIZE_GIB: &str = "sizeGib";

/// NodeStageVolume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stage {
    pub(crate) disk: DiskName,
    pub(crate) staging: PathBuf,
    pub(crate) capability: Capability,
    pub(crate) at: ScsiAddress,
    /// The UUID that the file system must carry, where CreateVolume promised one.
    pub(crate) fs_uuid: Option<FsUuid>,
    pub(crate) identity_check: bool,
    pub(crate) allow_non_zero: bool,
    pub(crate) mkfs: BTreeMap<String, String>,
    pub(crate) size: Option<u64>,
}

/// NodePublishVolume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Publish {
    pub(crate) disk: DiskName,
    pub(crate) staging: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) capability: Capability,
    pub(crate) read_only: bool,
    pub(crate) at: Option<ScsiAddress>,
}

/// NodeUnpublishVolume and NodeUnstageVolume: a volume and the path to clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Clear {
    pub(crate) disk: DiskName,
    pub(crate) path: PathBuf,
}

/// NodeExpandVolume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expand {
    pub(crate) disk: DiskName,
    /// May be anything that the CO calls the volume's path; whether the volume is there is for the node to say.
    pub(crate) path: PathBuf,
    pub(crate) required: u64,
    pub(crate) limit: Option<u64>,
}

/// NodeGetVolumeStats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) disk: DiskName,
    pub(crate) path: PathBuf,
}

/// NodeGetVolumeHealth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) disk: DiskName,
    pub(crate) staging: Option<PathBuf>,
    pub(crate) target: Option<PathBuf>,
}

/// A value of a context map, its key in any letter case (a person may have written it on the PV).
fn value<'a, M>(context: M, key: &str) -> Option<&'a str>
where
    M: IntoIterator<Item = (&'a String, &'a String)>,
{
    context
        .into_iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(key))
        .map(|(_, value)| value.as_str())
}

fn slot(text: &str) -> Result<ScsiAddress, InputError> {
    ScsiAddress::parse(text).map_err(|source| InputError::Slot {
        key: DEVICE_PATH,
        source,
    })
}

fn gib(text: &str) -> Result<u64, InputError> {
    text.parse::<u64>()
        .ok()
        .and_then(|gib| gib.checked_mul(1 << 30))
        .ok_or_else(|| InputError::Field {
            field: "publish_context[\"sizeGib\"]",
            value: shorten(text),
            expected: "a whole number of GiB".to_owned(),
        })
}

fn param<'a>(key: &'static str, found: Option<&'a str>) -> Result<Option<&'a str>, InputError> {
    if let Some(value) = found {
        check_node_param(key, value)?;
    }
    Ok(found)
}

fn uuid(text: &str) -> Result<FsUuid, InputError> {
    FsUuid::parse(text).ok_or_else(|| {
        InputError::Param(ParamError::Value {
            key: CONTEXT_FS_UUID,
            value: shorten(text),
            expected: "a UUID (8-4-4-4-12 hex digits)".to_owned(),
        })
    })
}

/// Options travel to mount(2) joined by commas.
fn check_flags(capability: &Capability) -> Result<(), InputError> {
    let Access::Mount { flags, .. } = &capability.access else {
        return Ok(());
    };
    for flag in flags {
        if flag.is_empty() || flag.bytes().any(|b| b == 0 || b == b'\n') {
            return Err(InputError::Field {
                field: "volume_capability.mount.mount_flags",
                value: shorten(flag),
                expected: "mount options, none of them empty".to_owned(),
            });
        }
    }
    Ok(())
}

impl Stage {
    pub(crate) fn read(request: &NodeStageVolumeRequest, root: &Path) -> Result<Self, InputError> {
        required("volume_id", &request.volume_id)?;
        required("staging_target_path", &request.staging_target_path)?;
        let capability = capability(request.volume_capability.as_ref())?;
        check_flags(&capability)?;
        let staging = path_below("staging_target_path", &request.staging_target_path, root)?;
        let disk = disk(&request.volume_id)?;
        let at = value(&request.publish_context, DEVICE_PATH).ok_or(InputError::Missing {
            field: "publish_context[\"devicePath\"]",
        })?;
        let volume = |key| value(&request.volume_context, key);
        let mut mkfs = BTreeMap::new();
        for key in MKFS_KEYS {
            if let Some(found) = param(key, volume(key))? {
                mkfs.insert(key.to_owned(), found.to_owned());
            }
        }
        let identity = param(CONTEXT_IDENTITY_CHECK, volume(CONTEXT_IDENTITY_CHECK))?;
        let non_zero = param(CONTEXT_NON_ZERO, volume(CONTEXT_NON_ZERO))?;
        Ok(Self {
            disk,
            staging,
            capability,
            at: slot(at)?,
            fs_uuid: volume(CONTEXT_FS_UUID).map(uuid).transpose()?,
            identity_check: identity != Some("off"),
            allow_non_zero: non_zero == Some("format"),
            mkfs,
            size: value(&request.publish_context, SIZE_GIB)
                .map(gib)
                .transpose()?,
        })
    }

    /// The UUID that a file system made now gets.
    pub(crate) fn stamp(&self) -> FsUuid {
        self.fs_uuid.clone().unwrap_or_else(|| self.disk.fs_uuid())
    }
}

impl Publish {
    pub(crate) fn read(
        request: &NodePublishVolumeRequest,
        root: &Path,
    ) -> Result<Self, InputError> {
        required("volume_id", &request.volume_id)?;
        required("target_path", &request.target_path)?;
        let capability = capability(request.volume_capability.as_ref())?;
        required("staging_target_path", &request.staging_target_path)?;
        let read_only = request.readonly || capability.mode.read_only();
        Ok(Self {
            disk: disk(&request.volume_id)?,
            staging: path_below("staging_target_path", &request.staging_target_path, root)?,
            target: path_below("target_path", &request.target_path, root)?,
            capability,
            read_only,
            at: value(&request.publish_context, DEVICE_PATH)
                .map(slot)
                .transpose()?,
        })
    }
}

impl Clear {
    pub(crate) fn target(
        request: &NodeUnpublishVolumeRequest,
        root: &Path,
    ) -> Result<Self, InputError> {
        required("volume_id", &request.volume_id)?;
        Ok(Self {
            path: path_below("target_path", &request.target_path, root)?,
            disk: disk(&request.volume_id)?,
        })
    }

    pub(crate) fn staging(
        request: &NodeUnstageVolumeRequest,
        root: &Path,
    ) -> Result<Self, InputError> {
        required("volume_id", &request.volume_id)?;
        Ok(Self {
            path: path_below("staging_target_path", &request.staging_target_path, root)?,
            disk: disk(&request.volume_id)?,
        })
    }
}

fn bytes(field: &'static str, value: i64) -> Result<u64, InputError> {
    u64::try_from(value).map_err(|_| SizeError::Negative { field, value }.into())
}

impl Expand {
    pub(crate) fn read(request: &NodeExpandVolumeRequest) -> Result<Self, InputError> {
        required("volume_id", &request.volume_id)?;
        required("volume_path", &request.volume_path)?;
        if request.volume_capability.is_some() {
            // The kubelet sends the PV's file system for mounts and a placeholder for block.
            capability(request.volume_capability.as_ref())?;
        }
        let (required, limit) = match request.capacity_range.as_ref() {
            Some(CapacityRange {
                required_bytes,
                limit_bytes,
                ..
            }) => (
                bytes("required_bytes", *required_bytes)?,
                bytes("limit_bytes", *limit_bytes)?,
            ),
            None => (0, 0),
        };
        if limit != 0 && required > limit {
            return Err(SizeError::Contradiction { required, limit }.into());
        }
        Ok(Self {
            disk: disk(&request.volume_id)?,
            path: PathBuf::from(&request.volume_path),
            required,
            limit: (limit != 0).then_some(limit),
        })
    }
}

impl Look {
    pub(crate) fn read(request: &NodeGetVolumeStatsRequest) -> Result<Self, InputError> {
        required("volume_id", &request.volume_id)?;
        required("volume_path", &request.volume_path)?;
        Ok(Self {
            disk: disk(&request.volume_id)?,
            path: PathBuf::from(&request.volume_path),
        })
    }
}

impl Health {
    pub(crate) fn read(request: &NodeGetVolumeHealthRequest) -> Result<Self, InputError> {
        let optional = |field, value: &str| {
            (!value.is_empty())
                .then(|| absolute(field, value))
                .transpose()
        };
        Ok(Self {
            disk: disk(&request.volume_id)?,
            staging: optional("staging_target_path", &request.staging_target_path)?,
            target: optional("volume_publish_path", &request.volume_publish_path)?,
        })
    }
}
