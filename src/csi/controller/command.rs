//! Requests as typed commands: everything that can be wrong with a request is found here.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::csi::validate::{InputError, capability, disk, required, shorten};
use crate::domain::disk::Accounting;
use crate::domain::id::{DiskName, NameError, VmName};
use crate::domain::params::{ClassParams, parse_mutable};
use crate::domain::size::{CapacityRange, DiskSize};
use crate::domain::topology::Requirement;
use crate::proto::csi::v1::{
    CapacityRange as ProtoRange, ControllerExpandVolumeRequest, ControllerModifyVolumeRequest,
    ControllerPublishVolumeRequest, ControllerUnpublishVolumeRequest, CreateVolumeRequest,
    DeleteVolumeRequest, TopologyRequirement, ValidateVolumeCapabilitiesRequest, VolumeCapability,
};

/// CreateVolume.
#[derive(Debug, Clone)]
pub(crate) struct Create {
    pub(crate) csi_name: String,
    pub(crate) disk: DiskName,
    pub(crate) range: CapacityRange,
    /// The size to ask for: the smallest that satisfies `range`.
    pub(crate) size: DiskSize,
    pub(crate) class: ClassParams,
    pub(crate) accounting: Accounting,
    pub(crate) places: Requirement,
}

/// ControllerPublishVolume.
#[derive(Debug, Clone)]
pub(crate) struct Publish {
    pub(crate) disk: DiskName,
    pub(crate) vm: VmName,
}

/// ControllerUnpublishVolume; no VM means: from whichever holds it.
#[derive(Debug, Clone)]
pub(crate) struct Unpublish {
    pub(crate) disk: DiskName,
    pub(crate) vm: Option<VmName>,
}

/// ControllerExpandVolume.
#[derive(Debug, Clone)]
pub(crate) struct Expand {
    pub(crate) disk: DiskName,
    pub(crate) range: CapacityRange,
}

/// ControllerModifyVolume; no accounting means: nothing to change.
#[derive(Debug, Clone)]
pub(crate) struct Modify {
    pub(crate) disk: DiskName,
    pub(crate) accounting: Option<Accounting>,
}

/// ValidateVolumeCapabilities.
#[derive(Debug, Clone)]
pub(crate) struct Validate {
    pub(crate) disk: DiskName,
    pub(crate) class: Result<ClassParams, String>,
    /// Whether any parameters were given: without them the class's defaults are not asked for.
    pub(crate) with_parameters: bool,
    pub(crate) mutable: Result<Option<Accounting>, String>,
    pub(crate) unsupported: Option<String>,
}

impl Create {
    pub(crate) fn read(request: &CreateVolumeRequest) -> Result<Self, InputError> {
        required("name", &request.name)?;
        capabilities(&request.volume_capabilities)?;
        if request.volume_content_source.is_some() {
            return Err(InputError::Field {
                field: "volume_content_source",
                value: "a snapshot or volume".to_owned(),
                expected: "nothing: NIFCLOUD disks can be neither snapshotted nor cloned, use a new empty volume"
                    .to_owned(),
            });
        }
        let class = ClassParams::parse(pairs(&request.parameters))?;
        let mutable = parse_mutable(pairs(&request.mutable_parameters))?;
        let range = range(request.capacity_range.as_ref())?;
        Ok(Self {
            csi_name: request.name.clone(),
            disk: DiskName::from_csi_name(&request.name),
            size: range.smallest_disk(class.disk_type.largest())?,
            range,
            accounting: mutable.unwrap_or(class.accounting),
            class,
            places: places(request.accessibility_requirements.as_ref()),
        })
    }

    /// The single node of the requirement: under WaitForFirstConsumer with strict topology, the node that the
    /// scheduler selected.
    pub(crate) fn selected(&self) -> Option<&VmName> {
        match self.places.terms.as_slice() {
            [term] => term.node.as_ref(),
            _ => None,
        }
    }

    /// Equal for equal requests. A thousand topology terms are hashed, not printed.
    pub(crate) fn identity(&self) -> String {
        let mut hasher = DefaultHasher::new();
        for term in &self.places.terms {
            term.zone.hash(&mut hasher);
            term.node.hash(&mut hasher);
        }
        format!(
            "{:?} {:?} {:?} {:?} {:x}",
            self.csi_name,
            self.range,
            self.class,
            self.accounting,
            hasher.finish()
        )
    }
}

impl Publish {
    pub(crate) fn read(request: &ControllerPublishVolumeRequest) -> Result<Self, InputError> {
        required("volume_id", &request.volume_id)?;
        required("node_id", &request.node_id)?;
        capability(request.volume_capability.as_ref())?;
        if request.readonly {
            return Err(InputError::Field {
                field: "readonly",
                value: "true".to_owned(),
                expected: "false: the driver does not declare PUBLISH_READONLY; mount the volume read-only instead"
                    .to_owned(),
            });
        }
        Ok(Self {
            disk: disk(&request.volume_id)?,
            vm: VmName::parse(&request.node_id)?,
        })
    }
}

impl Unpublish {
    /// `None`: the disk or the VM cannot exist, so nothing is attached.
    pub(crate) fn read(
        request: &ControllerUnpublishVolumeRequest,
    ) -> Result<Option<Self>, InputError> {
        let Some(disk) = possible(&request.volume_id)? else {
            return Ok(None);
        };
        let vm = match VmName::parse(&request.node_id) {
            Ok(vm) => Some(vm),
            Err(NameError::Empty { .. }) => None,
            Err(NameError::Impossible { .. }) => return Ok(None),
        };
        Ok(Some(Self { disk, vm }))
    }
}

/// DeleteVolume; `None`: the disk cannot exist.
pub(crate) fn delete(request: &DeleteVolumeRequest) -> Result<Option<DiskName>, InputError> {
    possible(&request.volume_id)
}

impl Expand {
    pub(crate) fn read(request: &ControllerExpandVolumeRequest) -> Result<Self, InputError> {
        required("volume_id", &request.volume_id)?;
        if request.capacity_range.is_none() {
            return Err(InputError::Missing {
                field: "capacity_range",
            });
        }
        if request.volume_capability.is_some() {
            capability(request.volume_capability.as_ref())?;
        }
        Ok(Self {
            range: range(request.capacity_range.as_ref())?,
            disk: disk(&request.volume_id)?,
        })
    }
}

impl Modify {
    pub(crate) fn read(request: &ControllerModifyVolumeRequest) -> Result<Self, InputError> {
        required("volume_id", &request.volume_id)?;
        Ok(Self {
            accounting: parse_mutable(pairs(&request.mutable_parameters))?,
            disk: disk(&request.volume_id)?,
        })
    }
}

impl Validate {
    pub(crate) fn read(request: &ValidateVolumeCapabilitiesRequest) -> Result<Self, InputError> {
        required("volume_id", &request.volume_id)?;
        if request.volume_capabilities.is_empty() {
            return Err(InputError::Missing {
                field: "volume_capabilities",
            });
        }
        let unsupported = capabilities(&request.volume_capabilities).err();
        Ok(Self {
            disk: disk(&request.volume_id)?,
            with_parameters: !request.parameters.is_empty(),
            class: ClassParams::parse(pairs(&request.parameters)).map_err(|e| e.to_string()),
            mutable: parse_mutable(pairs(&request.mutable_parameters)).map_err(|e| e.to_string()),
            unsupported: unsupported.map(|error| error.to_string()),
        })
    }
}

/// A paging request: how many entries, and from which disk on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) max: Option<usize>,
    pub(crate) from: Option<String>,
}

impl Page {
    pub(crate) fn read(max_entries: i32, starting_token: &str) -> Result<Self, InputError> {
        let max = usize::try_from(max_entries).map_err(|_| InputError::Field {
            field: "max_entries",
            value: max_entries.to_string(),
            expected: "zero (no limit) or a positive number".to_owned(),
        })?;
        Ok(Self {
            max: (max > 0).then_some(max),
            from: (!starting_token.is_empty()).then(|| shorten(starting_token)),
        })
    }
}

fn possible(volume_id: &str) -> Result<Option<DiskName>, InputError> {
    required("volume_id", volume_id)?;
    match DiskName::parse(volume_id) {
        Ok(disk) => Ok(Some(disk)),
        Err(NameError::Impossible { .. }) => Ok(None),
        Err(error @ NameError::Empty { .. }) => Err(error.into()),
    }
}

fn capabilities(asked: &[VolumeCapability]) -> Result<(), InputError> {
    if asked.is_empty() {
        return Err(InputError::Missing {
            field: "volume_capabilities",
        });
    }
    for one in asked {
        capability(Some(one))?;
    }
    Ok(())
}

fn range(asked: Option<&ProtoRange>) -> Result<CapacityRange, InputError> {
    let (required, limit) = asked.map_or((0, 0), |r| (r.required_bytes, r.limit_bytes));
    Ok(CapacityRange::new(required, limit)?)
}

fn pairs(map: &HashMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    // Sorted, so that a message about one of two bad keys is always about the same one.
    let sorted: BTreeMap<&str, &str> = map.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    sorted.into_iter()
}

fn places(asked: Option<&TopologyRequirement>) -> Requirement {
    let Some(asked) = asked else {
        return Requirement::default();
    };
    let segments = |list: &[crate::proto::csi::v1::Topology]| -> Vec<BTreeMap<String, String>> {
        list.iter()
            .map(|t| t.segments.clone().into_iter().collect())
            .collect()
    };
    let (preferred, requisite) = (segments(&asked.preferred), segments(&asked.requisite));
    Requirement::read(preferred.iter(), requisite.iter())
}
