//! XFS: superblock at 0, big-endian (XFS Algorithms & Data Structures, "Superblocks").

use super::view::{View, be16, be32, be64, le32, uuid};
use super::{Signature, Superblock, crc32c};
use crate::domain::capability::FsType;
use crate::domain::id::FsUuid;

/// First bytes of every allocation group.
pub(super) const MAGIC: &[u8] = b"XFSB";

pub(super) fn look(view: &View) -> Option<Signature> {
    let sb = view.bytes(0, 512)?;
    if !sb.starts_with(MAGIC) {
        return None;
    }
    let broken = |why: &str| {
        Some(Signature::Broken {
            why: format!("an XFS superblock that is damaged: {why}"),
        })
    };
    let block = be32(sb, 4);
    let sector = be16(sb, 102);
    if !block.is_power_of_two() || !(512..=65536).contains(&block) {
        return broken("its block size is impossible");
    }
    if !sector.is_power_of_two() || !(512..=32768).contains(&sector) {
        return broken("its sector size is impossible");
    }
    if sb[126] != 0 {
        return broken("it is still being made (in-progress flag)");
    }
    let version = be16(sb, 100) & 0xF;
    if version == 5 {
        let mut whole = view.bytes(0, usize::from(sector))?.to_vec();
        let stored = le32(&whole, 224);
        whole[224..228].fill(0);
        if crc32c::of(&whole) != stored {
            return broken("its checksum does not fit");
        }
    } else if version != 4 {
        return broken("its version is unknown");
    }
    let bytes = be64(sb, 8).saturating_mul(u64::from(block));
    if bytes == 0 || bytes > view.size {
        return broken(&format!(
            "it claims {bytes} bytes of a disk that has {}",
            view.size
        ));
    }
    let id = uuid(sb, 32);
    Some(Signature::Known(Superblock {
        fs: FsType::Xfs,
        uuid: (id != [0; 16]).then(|| FsUuid::from_bytes(id)),
        bytes,
        // Decided by the log, which is not in these regions.
        never_mounted: None,
        slack: 0,
        clean: true,
    }))
}

/// Offset of the log's third block of 512 bytes. mkfs writes two (an unmount record) and zeroes the rest, the
/// first transaction of the first mount goes right behind: zero there means that nothing was ever changed.
pub(super) fn first_transaction_at(sb: &[u8]) -> Option<u64> {
    let block = u64::from(be32(sb, 4));
    let start = be64(sb, 48);
    let ag_blocks = u64::from(be32(sb, 84));
    let ag_bits = u32::from(*sb.get(124)?);
    if start == 0 || ag_bits > 32 {
        return None;
    }
    let within = start & ((1_u64 << ag_bits) - 1);
    let blocks = (start >> ag_bits)
        .checked_mul(ag_blocks)?
        .checked_add(within)?;
    blocks.checked_mul(block)?.checked_add(2 * 512)
}
