//! The mark of a file system that is being made.
//!
//! mkfs takes seconds to minutes and may be cut anywhere: the plugin killed, the VM reset. What it leaves may
//! look like data, or like a finished file system whose last blocks never reached the disk. So before mkfs starts,
//! the same 512-byte record is written and flushed at a few fixed places, and taken away only after mkfs ended
//! well, its writes were flushed and the result was read back.
//!
//! ```text
//! blank --(1) marks, flush--> mkfs --(2) flush, probe--> clear marks --(3) flush--> mountable
//!          any cut from here ................................. to here: HalfMade
//! ```
//!
//! Why this is safe:
//! - *Recognised after any cut.* The places lie outside everything that mkfs of the four types writes (group
//!   headers, journals, AG headers, log, mirrors), and mkfs runs without discard. Should one place be hit by an
//!   exotic option, the others remain; one valid record is enough. Each record is one sector, which disks write
//!   whole. Were the first record torn all the same, the disk reads as not blank and is refused: no harm.
//! - *Never taken for data.* A file system is mounted only when no mark counts, so no file lies in a marked
//!   block, and clearing first compares the sector: what mkfs has overwritten is not touched.
//! - *Data is never taken for it.* A record holds magic, its own offset, the UUID and a SHA-256 over all of it. A file
//!   might still contain one at just that place (a copied disk image). So with a superblock in place a mark counts only if
//!   that superblock has the UUID of the record **and shows that it was never mounted** (ext: mount time and count;
//!   XFS: empty log; Btrfs: no commit since mkfs). Mounted once means data, whatever else is found; cannot tell
//!   means `Unknown`, which nobody formats.
//!
//! The places do not depend on the disk's size: a disk that was grown in between is still recognised.

use sha2::{Digest, Sha256};

use crate::domain::capability::FsType;
use crate::domain::id::FsUuid;

/// Length of a record.
pub(in crate::host) const LENGTH: usize = 512;

/// Where the records go, as far as the disk reaches: beside the metadata at the starts of 128-MiB block groups and
/// of XFS's allocation groups, away from the middle of the disk (journal, log) and from its last MiB.
pub(in crate::host) const PLACES: [u64; 5] = [
    44 << 20,
    100 << 20,
    356 << 20,
    (12 * 128 + 100) << 20,
    (76 * 128 + 100) << 20,
];

/// Smallest disk that has at least one place.
pub(in crate::host) const SMALLEST_DISK: u64 = 64 << 20;

const MAGIC: &[u8; 96] = b"additional-storage.csi.nifcloud.com: mkfs is not finished here; this disk holds no data yet. v1\n";
const AT_OFFSET: usize = 96;
const AT_UUID: usize = 104;
const AT_FS: usize = 140;
const AT_SUM: usize = 480;

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::host) struct Marker {
    pub(in crate::host) fs: FsType,
    pub(in crate::host) uuid: FsUuid,
}

impl Marker {
    /// The record for one place.
    pub(in crate::host) fn encode(&self, offset: u64) -> [u8; LENGTH] {
        let mut record = [0; LENGTH];
        record[..AT_OFFSET].copy_from_slice(MAGIC);
        record[AT_OFFSET..AT_UUID].copy_from_slice(&offset.to_le_bytes());
        let uuid = self.uuid.as_str().as_bytes();
        record[AT_UUID..AT_UUID + uuid.len()].copy_from_slice(uuid);
        let fs = self.fs.name().as_bytes();
        record[AT_FS..AT_FS + fs.len()].copy_from_slice(fs);
        let sum = Sha256::digest(&record[..AT_SUM]);
        record[AT_SUM..].copy_from_slice(&sum);
        record
    }

    /// Reads what is at one place.
    pub(in crate::host) fn decode(sector: &[u8], offset: u64) -> Option<Self> {
        let record: &[u8; LENGTH] = sector.get(..LENGTH)?.try_into().ok()?;
        if !record.starts_with(MAGIC) {
            return None;
        }
        let text = |range: &[u8]| {
            let end = range
                .iter()
                .position(|byte| *byte == 0)
                .unwrap_or(range.len());
            std::str::from_utf8(&range[..end]).ok().map(str::to_owned)
        };
        let fs = text(&record[AT_FS..AT_FS + 16])?;
        let marker = Self {
            fs: FsType::ALL.into_iter().find(|known| known.name() == fs)?,
            uuid: FsUuid::parse(&text(&record[AT_UUID..AT_FS])?)?,
        };
        // Encoding again checks the offset, the padding and the sum at once.
        (marker.encode(offset) == *record).then_some(marker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker() -> Marker {
        Marker {
            fs: FsType::Xfs,
            uuid: FsUuid::from_bytes([7; 16]),
        }
    }

    #[test]
    fn a_record_reads_back_only_at_its_own_place() {
        for at in PLACES {
            let record = marker().encode(at);
            assert_eq!(Marker::decode(&record, at), Some(marker()));
            assert_eq!(Marker::decode(&record, at + 512), None);
        }
    }

    #[test]
    fn any_changed_byte_spoils_it() {
        let at = PLACES[0];
        let good = marker().encode(at);
        for index in 0..LENGTH {
            let mut bad = good;
            bad[index] ^= 1;
            assert_eq!(Marker::decode(&bad, at), None, "byte {index}");
        }
        assert_eq!(Marker::decode(&good[..LENGTH - 1], at), None);
    }

    #[test]
    fn the_smallest_disk_has_a_place() {
        assert!(PLACES[0] + LENGTH as u64 <= SMALLEST_DISK);
        assert!(PLACES.is_sorted());
    }
}
