//! What can be wrong with a disk's device while the API's books are right (`qmp` backend): what a node plugin must
//! survive, and loop devices cannot show.

use serde::{Deserialize, Serialize};

use super::qmp::BadIo;

/// Sectors of a region that is named by its place: 64 KiB, beyond the first superblock of ext4, xfs and btrfs.
const REGION: u64 = 128;
/// Sectors that may be listed one by one; each is a rule in QEMU.
const MANY: u64 = 4096;

/// How a disk's device behaves. Everything holds from the disk's next plugging on; `io_errors` at once as well.
/// Forgotten when the emulator ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeviceFaults {
    /// It never comes, though the API says `attached`.
    pub absent: bool,
    /// It comes this many milliseconds after the API says `attached`.
    pub late_ms: u64,
    /// The guest gets no message when it comes or goes: it must scan to see it, and keeps a stale device after it.
    pub silent: bool,
    /// It cannot be written.
    pub read_only: bool,
    /// It shows neither serial number nor world-wide name, as in a VM without `disk.EnableUUID`.
    pub no_identity: bool,
    /// Regions that cannot be read or written.
    pub io_errors: Vec<BadRegion>,
}

/// A region that cannot be read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BadRegion {
    /// The whole disk.
    All,
    /// The first 64 KiB.
    First,
    /// 64 KiB in the middle.
    Middle,
    /// The last 64 KiB.
    Last,
    /// Sectors of 512 bytes.
    #[serde(untagged)]
    Sectors {
        /// The first one.
        first: u64,
        /// How many; at most 4096 in all.
        count: u64,
    },
}

impl BadRegion {
    fn range(self, sectors: u64) -> Option<(u64, u64)> {
        match self {
            Self::All => None,
            Self::First => Some((0, REGION)),
            Self::Middle => Some((sectors / 2, REGION)),
            Self::Last => Some((sectors - REGION, REGION)),
            Self::Sectors { first, count } => Some((first, count)),
        }
    }
}

impl DeviceFaults {
    /// What of a disk of `gib` is bad; `None` means nothing.
    pub(super) fn bad_io(&self, gib: u32) -> Option<BadIo> {
        let sectors = u64::from(gib) << 21;
        let ranges: Option<Vec<_>> = self.io_errors.iter().map(|r| r.range(sectors)).collect();
        match ranges {
            None => Some(BadIo::All),
            Some(ranges) if ranges.is_empty() => None,
            Some(ranges) => Some(BadIo::Sectors(
                ranges
                    .into_iter()
                    .flat_map(|(first, count)| first..first.saturating_add(count))
                    .collect(),
            )),
        }
    }

    /// Says what is wrong with it.
    pub(super) fn check(&self) -> Result<(), String> {
        let listed = self.io_errors.iter().map(|region| match region {
            BadRegion::Sectors { count, .. } => *count,
            _ => 0,
        });
        let total = listed.fold(0_u64, u64::saturating_add);
        if total > MANY {
            return Err(format!("io_errors lists {total} sectors: at most {MANY}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> DeviceFaults {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn regions_are_named_by_place_or_listed_by_sector() {
        let faults = parse(r#"{"io_errors": ["last", {"first": 7, "count": 2}]}"#);
        let Some(BadIo::Sectors(sectors)) = faults.bad_io(100) else {
            panic!("{faults:?}");
        };
        let end = 100 << 21;
        assert_eq!(sectors[..2], [end - 128, end - 127]);
        assert_eq!(sectors[127..], [end - 1, 7, 8]);
        let all = parse(r#"{"io_errors": ["first", "all"]}"#);
        assert_eq!(all.bad_io(100), Some(BadIo::All));
        assert_eq!(parse("{}").bad_io(100), None);
    }

    #[test]
    fn too_many_sectors_and_unknown_keys_are_refused() {
        let many = parse(r#"{"io_errors": [{"first": 0, "count": 4097}]}"#);
        assert!(many.check().unwrap_err().contains("4097"));
        assert!(
            parse(r#"{"io_errors": [{"first": 0, "count": 4096}]}"#)
                .check()
                .is_ok()
        );
        assert!(serde_json::from_str::<DeviceFaults>(r#"{"readonly": true}"#).is_err());
        assert!(serde_json::from_str::<DeviceFaults>(r#"{"io_errors": ["start"]}"#).is_err());
    }
}
