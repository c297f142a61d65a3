//! ext2/3/4: superblock at 1024 (kernel documentation, `filesystems/ext4/super.rst`).

use super::view::{View, le16, le32, uuid};
use super::{Signature, Superblock, crc32c};
use crate::domain::capability::FsType;
use crate::domain::id::FsUuid;

/// Offset of the primary superblock.
pub(super) const AT: u64 = 1024;
const LENGTH: usize = 1024;

const COMPAT_HAS_JOURNAL: u32 = 0x4;
/// FILETYPE, RECOVER, META_BG: what ext3 understands. One bit more makes it ext4.
const INCOMPAT_EXT3: u32 = 0x2 | 0x4 | 0x10;
const INCOMPAT_JOURNAL_DEV: u32 = 0x8;
const INCOMPAT_64BIT: u32 = 0x80;
/// SPARSE_SUPER, LARGE_FILE, BTREE_DIR.
const RO_COMPAT_EXT3: u32 = 0x1 | 0x2 | 0x4;
const RO_COMPAT_METADATA_CSUM: u32 = 0x400;

/// Whether a block starts with something that can only be an ext superblock, for backup copies.
pub(super) fn resembles(block: &[u8]) -> bool {
    le16(block, 56) == 0xEF53 && le32(block, 24) <= 6 && le32(block, 4) != 0 && le32(block, 32) != 0
}

/// Blocks in one group: a grown or shrunk remainder smaller than this may be left unused by resize2fs.
pub(super) fn group_bytes(sb: &[u8]) -> u64 {
    u64::from(le32(sb, 32)) << (10 + le32(sb, 24).min(6))
}

/// Whether e2fsck in preen mode would have nothing to do: unmounted cleanly, no errors recorded, no journal to
/// replay, no check due by count or date.
fn clean(sb: &[u8]) -> bool {
    const VALID: u16 = 1;
    const RECOVER: u32 = 0x4;
    const ORPHAN_PRESENT: u32 = 0x10000;
    let counted = le16(sb, 54);
    // A maximum of 0 or -1 means never.
    let due = counted != 0 && counted != u16::MAX && le16(sb, 52) >= counted;
    // s_error_count is at 0x194, s_checkinterval at 72, the head of the orphan list at 0xE8; the newer orphan file
    // has a flag.
    let orphans = le32(sb, 0xE8) != 0 || le32(sb, 100) & ORPHAN_PRESENT != 0;
    !orphans
        && le16(sb, 58) == VALID
        && le32(sb, 96) & RECOVER == 0
        && le32(sb, 0x194) == 0
        && le32(sb, 72) == 0
        && !due
}

pub(super) fn look(view: &View) -> Option<Signature> {
    let sb = view.bytes(AT, LENGTH)?;
    if le16(sb, 56) != 0xEF53 {
        return None;
    }
    let broken = |why: &str| {
        Some(Signature::Broken {
            why: format!("an ext superblock that is damaged: {why}"),
        })
    };
    let (compat, incompat, ro_compat) = (le32(sb, 92), le32(sb, 96), le32(sb, 100));
    if le32(sb, 24) > 6 || le32(sb, 32) == 0 {
        return broken("its block size is impossible");
    }
    if ro_compat & RO_COMPAT_METADATA_CSUM != 0 && crc32c::update(!0, &sb[..1020]) != le32(sb, 1020)
    {
        return broken("its checksum does not fit");
    }
    let high = if incompat & INCOMPAT_64BIT == 0 {
        0
    } else {
        le32(sb, 0x150)
    };
    let blocks = u64::from(le32(sb, 4)) | (u64::from(high) << 32);
    let bytes = blocks.saturating_mul(1024 << le32(sb, 24));
    if blocks == 0 || bytes > view.size {
        return broken(&format!(
            "it claims {bytes} bytes of a disk that has {}",
            view.size
        ));
    }
    let id = uuid(sb, 104);
    if incompat & INCOMPAT_JOURNAL_DEV != 0 {
        return Some(Signature::foreign("an external ext journal"));
    }
    let fs = if incompat & !INCOMPAT_EXT3 != 0 || ro_compat & !RO_COMPAT_EXT3 != 0 {
        FsType::Ext4
    } else if compat & COMPAT_HAS_JOURNAL != 0 {
        FsType::Ext3
    } else {
        return Some(Signature::foreign("an ext2 file system"));
    };
    Some(Signature::Known(Superblock {
        fs,
        uuid: (id != [0; 16]).then(|| FsUuid::from_bytes(id)),
        bytes,
        // s_mtime and s_mnt_count: the kernel writes both at every writable mount.
        never_mounted: Some(le32(sb, 44) == 0 && le16(sb, 52) == 0),
        slack: group_bytes(sb),
        clean: clean(sb),
    }))
}
