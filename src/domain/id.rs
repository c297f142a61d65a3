//! Names: disks, virtual machines, file-system UUIDs.
//!
//! NIFCLOUD lets the caller choose a disk's name (`VolumeId`) and refuses duplicates. The driver derives that
//! name from the CSI name, so that creating the same claim twice can only ever find the first disk.

use std::fmt;

use sha2::{Digest, Sha256};
use thiserror::Error;

/// Longest disk name that the API accepts (`CreateVolume`, parameter `VolumeId`).
pub const DISK_NAME_MAX: usize = 32;

/// A disk's name: the API's `VolumeId`, the CSI volume handle. 1 to 32 ASCII alphanumerics.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DiskName(String);

/// A virtual machine's name: the API's `InstanceId`, the CSI node id, the Kubernetes node name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VmName(String);

/// A text that cannot be the name of a NIFCLOUD disk or VM.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// The name is empty.
    #[error("the {what} is empty")]
    Empty {
        /// What was being named.
        what: &'static str,
    },
    /// The cloud cannot hold anything of this name, so nothing of this name exists.
    #[error("{name:?} is not a NIFCLOUD {what}: expected {expected}")]
    Impossible {
        /// What was being named.
        what: &'static str,
        /// The name as it came, shortened for display.
        name: String,
        /// The rule it breaks.
        expected: &'static str,
    },
}

/// A file-system UUID in canonical lower-case form (8-4-4-4-12).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FsUuid(String);

fn shorten(name: &str) -> String {
    name.chars().take(64).collect()
}

impl DiskName {
    /// Reads a CSI volume handle.
    ///
    /// # Errors
    /// [`NameError::Empty`] for an empty handle; [`NameError::Impossible`] when no disk can have this name:
    /// callers answer "not found" to that, never "invalid", as a CO may ask for any handle.
    pub fn parse(handle: &str) -> Result<Self, NameError> {
        const WHAT: &str = "disk name (VolumeId)";
        if handle.is_empty() {
            return Err(NameError::Empty { what: WHAT });
        }
        if handle.len() > DISK_NAME_MAX || !handle.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(NameError::Impossible {
                what: WHAT,
                name: shorten(handle),
                expected: "1 to 32 ASCII letters and digits",
            });
        }
        Ok(Self(handle.to_owned()))
    }

    /// The disk name for a CSI volume name: the 32 hex digits of `<prefix>-<uuid>`, else the first 32 hex digits
    /// of the name's SHA-256. The same CSI name always gives the same disk name.
    #[must_use]
    pub fn from_csi_name(name: &str) -> Self {
        if let Some(hex) = uuid_suffix(name) {
            return Self(hex);
        }
        Self(hex_of_sha256(name))
    }

    /// The name as the API writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The UUID that file systems on this disk carry: the name itself where it is 32 hex digits, else a UUID of
    /// version 8 made from the name's SHA-256.
    #[must_use]
    pub fn fs_uuid(&self) -> FsUuid {
        if self.0.len() == 32 && self.0.bytes().all(|b| b.is_ascii_hexdigit()) {
            return FsUuid::from_hex32(&self.0.to_ascii_lowercase());
        }
        let mut hex = hex_of_sha256(&self.0);
        hex.replace_range(12..13, "8");
        hex.replace_range(16..17, "8");
        FsUuid::from_hex32(&hex)
    }
}

/// `<prefix>-<8-4-4-4-12 hex>` -> 32 lower-case hex digits. The prefix is required and not empty.
fn uuid_suffix(name: &str) -> Option<String> {
    let split = name.len().checked_sub(37)?;
    let tail = name.get(split..)?;
    if split == 0 || !tail.starts_with('-') {
        return None;
    }
    let mut hex = String::with_capacity(32);
    for (i, c) in tail[1..].char_indices() {
        match (i, c) {
            (8 | 13 | 18 | 23, '-') => {}
            (8 | 13 | 18 | 23, _) => return None,
            (_, c) if c.is_ascii_hexdigit() => hex.push(c.to_ascii_lowercase()),
            _ => return None,
        }
    }
    Some(hex)
}

fn hex_of_sha256(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(16).map(|b| format!("{b:02x}")).collect()
}

impl VmName {
    /// Reads a CSI node id.
    ///
    /// # Errors
    /// [`NameError::Empty`] for an empty id; [`NameError::Impossible`] when no VM can have this name (the API
    /// allows 1 to 15 ASCII alphanumerics; longer ones are let through to 63 characters, hyphens and dots too,
    /// because only the cloud can say which names it really holds).
    pub fn parse(id: &str) -> Result<Self, NameError> {
        const WHAT: &str = "VM name (InstanceId)";
        if id.is_empty() {
            return Err(NameError::Empty { what: WHAT });
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_';
        if id.len() > 63 || !id.bytes().all(allowed) {
            return Err(NameError::Impossible {
                what: WHAT,
                name: shorten(id),
                expected: "a VM name of ASCII letters and digits",
            });
        }
        Ok(Self(id.to_owned()))
    }

    /// The name as the API writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// 32 hex digits that are the same for the same name.
    pub(super) fn digest(&self) -> String {
        hex_of_sha256(&self.0)
    }
}

impl FsUuid {
    fn from_hex32(hex: &str) -> Self {
        Self(format!(
            "{}-{}-{}-{}-{}",
            &hex[0..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..32]
        ))
    }

    /// Reads a UUID in canonical form, any letter case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        uuid_suffix(&format!("x-{text}")).map(|hex| Self::from_hex32(&hex))
    }

    /// Makes a UUID from the 16 bytes of a superblock.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        Self::from_hex32(&hex)
    }

    /// Canonical lower-case text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DiskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for FsUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_of_kubernetes_gives_the_digits_of_its_uuid() {
        let name = DiskName::from_csi_name("pvc-0A1B2c3d-4e5f-6071-8293-a4b5c6d7e8f9");
        assert_eq!(name.as_str(), "0a1b2c3d4e5f60718293a4b5c6d7e8f9");
        assert_eq!(
            name.fs_uuid().as_str(),
            "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
        );
    }

    #[test]
    fn any_other_name_gives_32_hex_digits_of_its_hash() {
        for name in [
            "sanity",
            "",
            "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9",
            "ディスク",
            &"x".repeat(128),
        ] {
            let disk = DiskName::from_csi_name(name);
            assert_eq!(disk, DiskName::parse(disk.as_str()).unwrap(), "{name}");
            assert_eq!(disk.as_str().len(), 32, "{name}");
        }
    }

    #[test]
    fn a_handle_that_no_disk_can_have_is_impossible_not_a_panic() {
        for handle in ["fake-vol-id-1", "a b", &"a".repeat(33), "é"] {
            assert!(
                matches!(DiskName::parse(handle), Err(NameError::Impossible { .. })),
                "{handle}"
            );
        }
        assert!(matches!(DiskName::parse(""), Err(NameError::Empty { .. })));
    }

    #[test]
    fn a_disk_of_the_go_driver_has_a_uuid_too() {
        let uuid = DiskName::parse("a1B2c3D4").unwrap().fs_uuid();
        assert_eq!(FsUuid::parse(uuid.as_str()), Some(uuid));
    }
}
