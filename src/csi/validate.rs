//! What every request is checked for before anything is touched.
//!
//! [`InputError`] is everything a caller can get wrong; its text says what was wrong and what was expected.

use std::path::{Component, Path, PathBuf};

use thiserror::Error;

use crate::domain::capability::{Access, Capability, CapabilityError, FsType, Mode};
use crate::domain::device::SlotSyntax;
use crate::domain::id::{DiskName, NameError};
use crate::domain::params::ParamError;
use crate::domain::size::SizeError;
use crate::proto::csi::v1::volume_capability::AccessMode;
use crate::proto::csi::v1::volume_capability::access_mode::Mode as ProtoMode;
use crate::proto::csi::v1::{VolumeCapability, volume_capability};

/// A request that cannot be served whatever the state of the world.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InputError {
    /// A required field is empty.
    #[error("{field} is missing")]
    Missing {
        /// The field's name in the CSI specification.
        field: &'static str,
    },
    /// A field holds something else than it must.
    #[error("{field} is {value:?}: expected {expected}")]
    Field {
        /// The field's name in the CSI specification.
        field: &'static str,
        /// What it holds, shortened.
        value: String,
        /// What it must hold.
        expected: String,
    },
    /// An id that no disk or VM can have: such a thing does not exist.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A capability that this driver does not have.
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    /// A bad parameter or context value.
    #[error(transparent)]
    Param(#[from] ParamError),
    /// A capacity that no disk can have.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// A publish context without a slot in it.
    #[error("publish_context[{key:?}] is not usable")]
    Slot {
        /// The key.
        key: &'static str,
        /// What is wrong.
        source: SlotSyntax,
    },
}

/// A bounded copy of a caller's text for a message.
pub(crate) fn shorten(text: &str) -> String {
    text.chars().take(256).collect()
}

/// A required text.
pub(crate) fn required<'a>(field: &'static str, value: &'a str) -> Result<&'a str, InputError> {
    if value.is_empty() {
        return Err(InputError::Missing { field });
    }
    Ok(value)
}

/// `volume_id` as a disk's name.
pub(crate) fn disk(volume_id: &str) -> Result<DiskName, InputError> {
    required("volume_id", volume_id)?;
    Ok(DiskName::parse(volume_id)?)
}

/// An absolute path without `..`, strictly below `root`.
pub(crate) fn path_below(
    field: &'static str,
    value: &str,
    root: &Path,
) -> Result<PathBuf, InputError> {
    let path = absolute(field, value)?;
    if path == root || !path.starts_with(root) {
        return Err(InputError::Field {
            field,
            value: shorten(value),
            expected: format!(
                "a path below {} (set the driver's kubelet directory if yours is elsewhere)",
                root.display()
            ),
        });
    }
    Ok(path)
}

/// An absolute path without `..`.
pub(crate) fn absolute(field: &'static str, value: &str) -> Result<PathBuf, InputError> {
    required(field, value)?;
    let path = Path::new(value);
    let plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !plain || value.contains('\0') {
        return Err(InputError::Field {
            field,
            value: shorten(value),
            expected: "an absolute path without \"..\"".to_owned(),
        });
    }
    // Rebuilt from its components: no trailing slash, no doubled ones; comparable with mountinfo.
    Ok(path.components().collect())
}

/// A `VolumeCapability` as this driver understands it.
pub(crate) fn capability(asked: Option<&VolumeCapability>) -> Result<Capability, InputError> {
    let asked = asked.ok_or(InputError::Missing {
        field: "volume_capability",
    })?;
    let access = match asked.access_type.as_ref() {
        Some(volume_capability::AccessType::Block(_)) => Access::Block,
        Some(volume_capability::AccessType::Mount(mount)) => {
            if !mount.volume_mount_group.is_empty() {
                return Err(InputError::Field {
                    field: "volume_mount_group",
                    value: shorten(&mount.volume_mount_group),
                    expected: "nothing: the driver does not declare VOLUME_MOUNT_GROUP".to_owned(),
                });
            }
            Access::Mount {
                fs: FsType::parse(&mount.fs_type)?,
                flags: mount.mount_flags.clone(),
            }
        }
        None => return Err(CapabilityError::NoAccessType.into()),
    };
    let mode = asked.access_mode.as_ref().map(AccessMode::mode);
    let many = |mode| Err(CapabilityError::MultiNode { mode }.into());
    let mode = match mode {
        Some(ProtoMode::SingleNodeWriter) => Mode::SingleNodeWriter,
        Some(ProtoMode::SingleNodeReaderOnly) => Mode::SingleNodeReader,
        Some(ProtoMode::SingleNodeSingleWriter) => Mode::SingleNodeSingleWriter,
        Some(ProtoMode::SingleNodeMultiWriter) => Mode::SingleNodeMultiWriter,
        Some(ProtoMode::MultiNodeReaderOnly) => return many("MULTI_NODE_READER_ONLY"),
        Some(ProtoMode::MultiNodeSingleWriter) => return many("MULTI_NODE_SINGLE_WRITER"),
        Some(ProtoMode::MultiNodeMultiWriter) => return many("MULTI_NODE_MULTI_WRITER"),
        Some(ProtoMode::Unknown) | None => return Err(CapabilityError::NoMode.into()),
    };
    Ok(Capability { access, mode })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_leaves_the_kubelets_directory_is_refused() {
        let root = Path::new("/var/lib/kubelet");
        let check = |path: &str| path_below("target_path", path, root);
        assert_eq!(
            check("/var/lib/kubelet//pods/a/").unwrap(),
            Path::new("/var/lib/kubelet/pods/a")
        );
        for bad in [
            "",
            "pods/a",
            "/",
            "/etc",
            "/var/lib/kubelet",
            "/var/lib/kubelet/",
            "/var/lib/kubelet2/a",
            "/var/lib/kubelet/../../etc",
            "/var/lib/kubelet/a\0b",
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }
}
