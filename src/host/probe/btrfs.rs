//! Btrfs: superblock at 64 KiB, copies at 64 MiB and 256 GiB (btrfs documentation, "On-disk format").

use super::view::{View, le16, le32, le64, uuid};
use super::{Signature, Superblock, crc32c};
use crate::domain::capability::FsType;
use crate::domain::id::FsUuid;

const AT: u64 = 64 << 10;
/// Offsets of the copies.
pub(super) const MIRRORS: [u64; 2] = [64 << 20, 256 << 30];
const LENGTH: usize = 4096;
const MAGIC: &[u8] = b"_BHRfS_M";
/// What mkfs writes until it is done.
const UNFINISHED: &[u8] = b"!BHRfS_M";

/// Whether a block is a superblock, for mirror copies.
pub(super) fn resembles(block: &[u8]) -> bool {
    block.get(64..72) == Some(MAGIC)
}

pub(super) fn look(view: &View) -> Option<Signature> {
    let sb = view.bytes(AT, LENGTH)?;
    let broken = |why: &str| {
        Some(Signature::Broken {
            why: format!("a Btrfs superblock that is damaged: {why}"),
        })
    };
    if &sb[64..72] == UNFINISHED {
        return broken("it is still being made");
    }
    if &sb[64..72] != MAGIC {
        return None;
    }
    if le64(sb, 48) != AT {
        return broken("it names another place as its own");
    }
    // Type 0 is CRC-32C; others (xxHash, SHA-256, BLAKE2) are left to the second witness.
    if le16(sb, 196) == 0 && crc32c::of(&sb[32..]) != le32(sb, 0) {
        return broken("its checksum does not fit");
    }
    if le64(sb, 136) > 1 {
        return Some(Signature::foreign(
            "one of several devices of a Btrfs file system",
        ));
    }
    let bytes = le64(sb, 112);
    if bytes == 0 || bytes > view.size {
        return broken(&format!(
            "it claims {bytes} bytes of a disk that has {}",
            view.size
        ));
    }
    let id = uuid(sb, 32);
    Some(Signature::Known(Superblock {
        fs: FsType::Btrfs,
        uuid: (id != [0; 16]).then(|| FsUuid::from_bytes(id)),
        bytes,
        // A log tree exists after an fsync before the first commit; the first commit sets uuid_tree_generation.
        never_mounted: Some(le64(sb, 96) == 0 && le64(sb, 563) == 0),
        slack: 64 << 10,
        clean: true,
    }))
}
