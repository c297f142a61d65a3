//! StorageClass parameters, mutable parameters (VolumeAttributesClass) and the volume context.
//!
//! Keys are read in any letter case, as the Go driver did. An unknown key is refused, so that a typo never turns
//! into a disk of the wrong kind.

use std::collections::BTreeMap;

use thiserror::Error;

use super::disk::Accounting;
use super::size::{DiskSize, MAX_GIB};

/// The StorageClass `type` when none is given.
pub const DEFAULT_TYPE: &str = "standard-flash-a";

/// Volume-context key: the UUID that the file system on this disk must carry (set by CreateVolume).
pub const CONTEXT_FS_UUID: &str = "fsUuid";
/// PV attribute that switches the identity check off for one volume: `identityCheck: "off"`.
pub const CONTEXT_IDENTITY_CHECK: &str = "identityCheck";
/// PV/StorageClass attribute: what to do with a disk that is not zero but carries no signature on first use:
/// `refuse` (default) or `format`.
pub const CONTEXT_NON_ZERO: &str = "nonZeroBlankDisk";

/// mkfs keys of a StorageClass, handed to the node in the volume context under the same names.
pub const MKFS_KEYS: [&str; 7] = [
    "blockSize",
    "inodeSize",
    "bytesPerInode",
    "numberOfInodes",
    "ext4BigAlloc",
    "ext4ClusterSize",
    "xfsProfile",
];

/// A parameter that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParamError {
    /// No such key.
    #[error("unknown parameter {key:?}: known are {known}")]
    UnknownKey {
        /// The key as it came.
        key: String,
        /// The keys that exist.
        known: String,
    },
    /// The key is given twice in different letter case.
    #[error("parameter {key:?} is given twice")]
    Twice {
        /// The key.
        key: String,
    },
    /// A value outside the table.
    #[error("parameter {key} is {value:?}: expected {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value as it came.
        value: String,
        /// What is possible.
        expected: String,
    },
}

/// A disk type: the StorageClass value, the request code, the name in responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeRow {
    /// Value of the StorageClass key `type`.
    pub class: &'static str,
    /// `DiskType` of CreateVolume.
    pub code: &'static str,
    /// `diskType` of DescribeVolumes.
    pub name: &'static str,
}

/// The types whose codes are known (reference: vendor SDKs and Go driver).
pub const TYPES: [TypeRow; 8] = [
    TypeRow {
        class: "standard",
        code: "2",
        name: "Standard Storage",
    },
    TypeRow {
        class: "high-speed-a",
        code: "3",
        name: "High-Speed Storage A",
    },
    TypeRow {
        class: "high-speed-b",
        code: "4",
        name: "High-Speed Storage B",
    },
    TypeRow {
        class: "flash",
        code: "5",
        name: "Flash Storage",
    },
    TypeRow {
        class: "standard-flash-a",
        code: "6",
        name: "Standard Flash Storage A",
    },
    TypeRow {
        class: "standard-flash-b",
        code: "7",
        name: "Standard Flash Storage B",
    },
    TypeRow {
        class: "high-speed-flash-a",
        code: "8",
        name: "High-Speed Flash Storage A",
    },
    TypeRow {
        class: "high-speed-flash-b",
        code: "9",
        name: "High-Speed Flash Storage B",
    },
];

/// Names without a suffix: the storage group is chosen per disk.
const UNSUFFIXED: [(&str, [&str; 2]); 3] = [
    ("high-speed", ["3", "4"]),
    ("standard-flash", ["6", "7"]),
    ("high-speed-flash", ["8", "9"]),
];

/// What the StorageClass wants of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskType {
    /// Acceptable request codes, in order: one, or two where the suffix was left out.
    pub codes: Vec<String>,
}

impl DiskType {
    /// Reads the value of `type`. Digits are passed to the API as they are: the list of codes grows.
    ///
    /// # Errors
    /// [`ParamError::Value`].
    pub fn parse(value: &str) -> Result<Self, ParamError> {
        let wanted = value.to_ascii_lowercase();
        let one = |code: &str| Self {
            codes: vec![code.to_owned()],
        };
        if let Some(row) = TYPES.iter().find(|row| row.class == wanted) {
            return Ok(one(row.code));
        }
        if let Some((_, codes)) = UNSUFFIXED.iter().find(|(name, _)| *name == wanted) {
            return Ok(Self {
                codes: codes.iter().map(|code| (*code).to_owned()).collect(),
            });
        }
        let numeric = !wanted.is_empty() && wanted.len() <= 3;
        if numeric && wanted.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(one(&wanted));
        }
        let names: Vec<&str> = TYPES
            .iter()
            .map(|row| row.class)
            .chain(UNSUFFIXED.iter().map(|row| row.0))
            .collect();
        Err(ParamError::Value {
            key: "type",
            value: value.chars().take(64).collect(),
            expected: format!("one of {}, or a numeric DiskType code", names.join(", ")),
        })
    }

    /// The code to ask for, given any number (a random or hashed one) to choose between storage groups.
    #[must_use]
    pub fn choose(&self, pick: usize) -> &str {
        self.codes
            .get(pick % self.codes.len().max(1))
            .map_or("6", String::as_str)
    }

    /// Whether an existing disk, by its response name, is of this type. Types that the table does not know cannot
    /// be compared and match.
    #[must_use]
    pub fn matches(&self, response_name: &str) -> bool {
        let known: Vec<&TypeRow> = TYPES
            .iter()
            .filter(|row| self.codes.iter().any(|code| code == row.code))
            .collect();
        known.is_empty()
            || !TYPES.iter().any(|row| row.name == response_name)
            || known.iter().any(|row| row.name == response_name)
    }

    /// The largest disk of this type.
    #[must_use]
    pub fn largest(&self) -> DiskSize {
        let gib = if self.codes == ["5"] { 1000 } else { MAX_GIB };
        DiskSize::from_gib(gib).unwrap_or(DiskSize::SMALLEST)
    }
}

impl Accounting {
    /// Reads `monthly` or `hourly`, any letter case.
    ///
    /// # Errors
    /// [`ParamError::Value`].
    pub fn parse(value: &str) -> Result<Self, ParamError> {
        match value.to_ascii_lowercase().as_str() {
            "monthly" => Ok(Self::Monthly),
            "hourly" => Ok(Self::Hourly),
            _ => Err(ParamError::Value {
                key: "accountingType",
                value: value.chars().take(64).collect(),
                expected: "monthly or hourly".to_owned(),
            }),
        }
    }

    /// The API's code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Monthly => "1",
            Self::Hourly => "2",
        }
    }
}

/// Parameters of a StorageClass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassParams {
    /// `type`.
    pub disk_type: DiskType,
    /// `accountingType`.
    pub accounting: Accounting,
    /// What the node needs to know: mkfs options and policies, keys in canonical spelling.
    pub node: BTreeMap<String, String>,
    /// `namespace/name` of the claim, where the provisioner tells (`--extra-create-metadata`); for logs only.
    pub claim: Option<String>,
}

/// Keys that the provisioner adds or leaves; they ask nothing of the cloud.
const PROVISIONER_PREFIX: &str = "csi.storage.k8s.io/";

impl ClassParams {
    /// Reads the parameters of CreateVolume. Values of mkfs keys are checked by `host::format`'s plan on the node
    /// and by [`check_node_param`] here.
    ///
    /// # Errors
    /// [`ParamError`] for an unknown key, a key given twice, a value outside its table.
    pub fn parse<'a>(
        parameters: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, ParamError> {
        let mut disk_type = None;
        let mut accounting = None;
        let mut node = BTreeMap::new();
        let (mut pvc_name, mut pvc_namespace) = (None, None);
        for (key, value) in parameters {
            let lower = key.to_ascii_lowercase();
            let twice = || ParamError::Twice {
                key: key.to_owned(),
            };
            if let Some(rest) = lower.strip_prefix(PROVISIONER_PREFIX) {
                match rest {
                    "pvc/name" => pvc_name = Some(value.to_owned()),
                    "pvc/namespace" => pvc_namespace = Some(value.to_owned()),
                    _ => {}
                }
            } else if lower == "type" {
                if disk_type.replace(DiskType::parse(value)?).is_some() {
                    return Err(twice());
                }
            } else if lower == "accountingtype" {
                if accounting.replace(Accounting::parse(value)?).is_some() {
                    return Err(twice());
                }
            } else if let Some(name) = node_key(&lower) {
                check_node_param(name, value)?;
                if node.insert(name.to_owned(), value.to_owned()).is_some() {
                    return Err(twice());
                }
            } else {
                return Err(unknown(key));
            }
        }
        let disk_type = match disk_type {
            Some(disk_type) => disk_type,
            None => DiskType::parse(DEFAULT_TYPE)?,
        };
        let claim = pvc_name.map(|name| match pvc_namespace {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name,
        });
        Ok(Self {
            disk_type,
            accounting: accounting.unwrap_or(Accounting::Hourly),
            node,
            claim,
        })
    }
}

/// Mutable parameters (`VolumeAttributesClass`): only `accountingType`.
///
/// # Errors
/// [`ParamError`] for any other key, a key given twice, or a bad value. `None` when the map is empty.
pub fn parse_mutable<'a>(
    parameters: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<Option<Accounting>, ParamError> {
    let mut accounting = None;
    for (key, value) in parameters {
        if !key.eq_ignore_ascii_case("accountingtype") {
            return Err(ParamError::UnknownKey {
                key: key.chars().take(64).collect(),
                known: "accountingType (the only attribute of a disk that can be modified)"
                    .to_owned(),
            });
        }
        if accounting.replace(Accounting::parse(value)?).is_some() {
            return Err(ParamError::Twice {
                key: key.to_owned(),
            });
        }
    }
    Ok(accounting)
}

fn node_key(lower: &str) -> Option<&'static str> {
    MKFS_KEYS
        .into_iter()
        .chain([CONTEXT_IDENTITY_CHECK, CONTEXT_NON_ZERO])
        .find(|known| known.eq_ignore_ascii_case(lower))
}

fn unknown(key: &str) -> ParamError {
    let mut known = vec!["type", "accountingType", "csi.storage.k8s.io/fstype"];
    known.extend(MKFS_KEYS);
    known.extend([CONTEXT_IDENTITY_CHECK, CONTEXT_NON_ZERO]);
    ParamError::UnknownKey {
        key: key.chars().take(64).collect(),
        known: known.join(", "),
    }
}

/// Checks the value of a parameter that the node will use, so that a typo fails at the claim, not at the mount.
///
/// # Errors
/// [`ParamError::Value`].
pub fn check_node_param(key: &'static str, value: &str) -> Result<(), ParamError> {
    let bad = |expected: &str| {
        Err(ParamError::Value {
            key,
            value: value.chars().take(64).collect(),
            expected: expected.to_owned(),
        })
    };
    let number = value
        .parse::<u64>()
        .ok()
        .filter(|_| value.bytes().all(|b| b.is_ascii_digit()));
    let power = |low: u64, high: u64| {
        number.is_some_and(|n| n.is_power_of_two() && (low..=high).contains(&n))
    };
    match key {
        "blockSize" if !power(512, 65536) => bad("bytes, a power of two from 512 to 65536"),
        "inodeSize" if !power(128, 4096) => bad("bytes, a power of two from 128 to 4096"),
        "bytesPerInode" if number.is_none_or(|n| !(1024..=67_108_864).contains(&n)) => {
            bad("bytes, from 1024 to 67108864")
        }
        "numberOfInodes" if number.is_none_or(|n| n == 0 || n > u64::from(u32::MAX)) => {
            bad("a count from 1 to 4294967295")
        }
        "ext4BigAlloc" if !matches!(value, "true" | "false") => bad("true or false"),
        "ext4ClusterSize" if !power(2048, 268_435_456) => {
            bad("bytes, a power of two from 2048 to 268435456")
        }
        "xfsProfile" if !matches!(value, "default" | "conservative") => {
            bad("default or conservative (for kernels from 4.19)")
        }
        CONTEXT_IDENTITY_CHECK if !matches!(value, "on" | "off") => bad("on or off"),
        CONTEXT_NON_ZERO if !matches!(value, "refuse" | "format") => bad("refuse or format"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<ClassParams, ParamError> {
        ClassParams::parse(pairs.iter().copied())
    }

    #[test]
    fn the_defaults_are_those_of_the_go_driver() {
        let class = parse(&[]).unwrap();
        assert_eq!(class.disk_type.codes, ["6"]);
        assert_eq!(class.accounting, Accounting::Hourly);
    }

    #[test]
    fn keys_and_values_are_read_in_any_letter_case() {
        let class = parse(&[("TYPE", "High-Speed-A"), ("AccountingType", "Monthly")]).unwrap();
        assert_eq!(class.disk_type.codes, ["3"]);
        assert_eq!(class.accounting, Accounting::Monthly);
    }

    #[test]
    fn a_typo_is_an_error_that_names_what_is_known() {
        let error = parse(&[("tpye", "flash")]).unwrap_err();
        assert!(error.to_string().contains("accountingType"), "{error}");
        assert!(matches!(
            parse(&[("type", "floppy")]),
            Err(ParamError::Value { .. })
        ));
        assert!(matches!(
            parse(&[("accountingType", "")]),
            Err(ParamError::Value { .. })
        ));
        assert!(matches!(
            parse(&[("type", "flash"), ("Type", "flash")]),
            Err(ParamError::Twice { .. })
        ));
        assert!(matches!(
            parse(&[("blockSize", "+4096")]),
            Err(ParamError::Value { .. })
        ));
    }

    #[test]
    fn a_name_without_suffix_leaves_the_group_open() {
        let class = parse(&[("type", "standard-flash")]).unwrap();
        assert!(class.disk_type.matches("Standard Flash Storage A"));
        assert!(class.disk_type.matches("Standard Flash Storage B"));
        assert!(!class.disk_type.matches("Standard Storage"));
    }
}
