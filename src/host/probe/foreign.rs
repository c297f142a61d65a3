//! Signatures of everything else that may be on a disk. Being complete is not what safety rests on: a disk without
//! any of these is blank only if it reads as zeros, and blkid looks as well. They are here for a clear message.

use super::view::{View, be32, le16, le32, le64};

/// Fixed bytes at a fixed place.
const TABLE: &[(u64, &[u8], &str)] = &[
    (512, b"EFI PART", "a GPT partition table"),
    (4096, b"EFI PART", "a GPT partition table (4-KiB sectors)"),
    (0, b"LUKS\xba\xbe", "a LUKS encrypted volume"),
    (
        0x4000,
        b"SKUL\xba\xbe",
        "a LUKS2 encrypted volume (second header)",
    ),
    (
        0x8000,
        b"SKUL\xba\xbe",
        "a LUKS2 encrypted volume (second header)",
    ),
    (3, b"-FVE-FS-", "a BitLocker encrypted volume"),
    (0, b"HM\x01\0", "an LVM1 physical volume"),
    (0, b"integrt\0", "a dm-integrity device"),
    (0, b"verity\0\0", "a dm-verity hash device"),
    (0, b"SnAp", "a device-mapper snapshot store"),
    (0, b"dmvdo001", "a VDO device"),
    (
        516,
        b"!Stra0tis\x86\xff\x02^\x41rh",
        "a Stratis pool member",
    ),
    (0, b"bluestore block device\n", "a Ceph BlueStore device"),
    (32, b"ORCLDISK", "an Oracle ASM disk"),
    (
        4120,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
        "a bcache device",
    ),
    (
        4120,
        b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef",
        "a bcachefs file system",
    ),
    (3, b"NTFS    ", "an NTFS file system"),
    (3, b"EXFAT   ", "an exFAT file system"),
    (54, b"FAT", "a FAT file system"),
    (82, b"FAT32", "a FAT32 file system"),
    (32769, b"CD001", "an ISO 9660 file system"),
    (32769, b"BEA01", "a UDF file system"),
    (65588, b"ReIsErFs", "a ReiserFS file system"),
    (65588, b"ReIsEr2Fs", "a ReiserFS file system"),
    (65588, b"ReIsEr3Fs", "a ReiserFS file system"),
    (8244, b"ReIsErFs", "a ReiserFS file system"),
    (65536, b"ReIsEr4", "a Reiser4 file system"),
    (32768, b"JFS1", "a JFS file system"),
    (1024, b"\x10\x20\xf5\xf2", "an F2FS file system"),
    (1024, b"\xe2\xe1\xf5\xe0", "an EROFS file system"),
    (1024, b"H+\0\x04", "an HFS+ file system"),
    (1024, b"HX\0\x05", "an HFSX file system"),
    (32, b"NXSB", "an APFS container"),
    (0, b"hsqs", "a SquashFS file system"),
    (0, b"\x45\x3d\xcd\x28", "a cramfs file system"),
    (9564, b"\x54\x19\x01\x00", "a UFS file system"),
    (66908, b"\x54\x19\x01\x00", "a UFS file system"),
    (66908, b"\x19\x01\x54\x19", "a UFS2 file system"),
    (65536, b"\x01\x16\x19\x70", "a GFS2 file system"),
    (1024, b"OCFSV2", "an OCFS2 file system"),
    (2048, b"OCFSV2", "an OCFS2 file system"),
    (4096, b"OCFSV2", "an OCFS2 file system"),
    (8192, b"OCFSV2", "an OCFS2 file system"),
    (1 << 20, b"\x0d\xd0\x01\xc0", "a VMFS volume"),
    (2 << 20, b"\x5e\xf1\xab\x2f", "a VMFS file system"),
    (0, b"\xfe\xed\xba\xbe", "an external XFS log"),
    (512, b"\x57\x45\x56\x82", "a BSD disk label"),
    (0, b"ER\x02\0", "an Apple partition map"),
    (0, b"conectix", "a virtual disk image (VHD)"),
    (0, b"QFI\xfb", "a virtual disk image (qcow2)"),
    (0, b"KDMV", "a virtual disk image (VMDK)"),
];

/// All that is recognised. `alone` tells that no file system of ours is at its place: weaker signs at the end of
/// the disk count only then, because file data reaches there.
pub(super) fn look(view: &View, alone: bool) -> Vec<String> {
    let mut found: Vec<String> = TABLE
        .iter()
        .filter(|(offset, magic, _)| view.has(*offset, magic))
        .map(|(_, _, what)| (*what).to_owned())
        .collect();
    let more = [
        lvm2(view),
        md(view),
        swap(view),
        zfs(view, alone),
        drbd(view),
        raid_bios(view),
    ];
    found.extend(more.into_iter().flatten());
    if found.is_empty() {
        found.extend(boot_sector(view, alone));
    }
    if alone && found.is_empty() {
        let backup = view.has_at_end(512, b"EFI PART") || view.has_at_end(4096, b"EFI PART");
        found.extend(backup.then(|| "the backup of a GPT partition table".to_owned()));
    }
    found.dedup();
    found
}

fn lvm2(view: &View) -> Option<String> {
    let label = |sector: u64| {
        view.has(sector * 512, b"LABELONE") && view.has(sector * 512 + 24, b"LVM2 001")
    };
    (0..4)
        .any(label)
        .then(|| "an LVM2 physical volume".to_owned())
}

/// Linux software RAID: version 1.1 at 0, 1.2 at 4 KiB, 1.0 and 0.90 near the end. A mirror's member starts like
/// the file system on it, so that the superblock at the end decides; its own offset and version make sure that it is one.
fn md(view: &View) -> Option<String> {
    let near_end = (view.size / 512)
        .checked_sub(16)
        .map(|sector| (sector & !7) * 512);
    for (offset, minor) in [(Some(0), "1.1"), (Some(4096), "1.2"), (near_end, "1.0")] {
        let Some(sb) = offset.and_then(|offset| view.bytes(offset, 256)) else {
            continue;
        };
        let own = offset.is_some_and(|offset| le64(sb, 144) == offset / 512);
        if le32(sb, 0) == 0xA92B_4EFC && le32(sb, 4) == 1 && (own || minor != "1.0") {
            return Some(format!("a member of a Linux RAID (md {minor})"));
        }
    }
    let old = (view.size & !0xFFFF).checked_sub(65536)?;
    let sb = view.bytes(old, 128)?;
    let little = le32(sb, 0) == 0xA92B_4EFC && le32(sb, 4) == 0 && le32(sb, 8) == 90;
    let big = be32(sb, 0) == 0xA92B_4EFC && be32(sb, 4) == 0 && be32(sb, 8) == 90;
    (little || big).then(|| "a member of a Linux RAID (md 0.90)".to_owned())
}

fn swap(view: &View) -> Option<String> {
    const MAGICS: [(&[u8], &str); 6] = [
        (b"SWAPSPACE2", "a swap area"),
        (b"SWAP-SPACE", "a swap area (old format)"),
        (b"S1SUSPEND\0", "a suspended system's memory"),
        (b"S2SUSPEND\0", "a suspended system's memory"),
        (b"ULSUSPEND\0", "a suspended system's memory"),
        (b"LINHIB0001", "a suspended system's memory"),
    ];
    let pages = [4096, 8192, 16384, 65536];
    let found = |page: u64| {
        MAGICS
            .iter()
            .find(|(magic, _)| view.has(page - 10, magic))
            .map(|(_, what)| (*what).to_owned())
    };
    pages.into_iter().find_map(found)
}

/// ZFS keeps four labels of 256 KiB, two at each end; the upper half of each is an array of uberblocks.
fn zfs(view: &View, alone: bool) -> Option<String> {
    const LABEL: u64 = 256 << 10;
    const MAGIC: u64 = 0x00BA_B10C;
    let end = view.size - view.size % LABEL;
    let labels = [
        Some(0),
        Some(LABEL),
        end.checked_sub(2 * LABEL),
        end.checked_sub(LABEL),
    ];
    let uberblocks = |label: u64| {
        (0..128).filter(move |slot| {
            view.bytes(label + LABEL / 2 + slot * 1024, 8)
                .is_some_and(|bytes| {
                    let value = le64(bytes, 0);
                    value == MAGIC || value.swap_bytes() == MAGIC
                })
        })
    };
    let count: usize = labels
        .into_iter()
        .flatten()
        .map(|label| uberblocks(label).count())
        .sum();
    (count >= if alone { 1 } else { 4 }).then(|| "a ZFS pool member".to_owned())
}

/// DRBD's internal metadata is the last 4 KiB of a disk that starts like the file system on it.
fn drbd(view: &View) -> Option<String> {
    let block = view.bytes(view.size.checked_sub(4096)?, 4096)?;
    let version = match be32(block, 60) {
        0x8374_026B | 0x8374_026C => 8,
        0x8374_026D => 9,
        _ => return None,
    };
    Some(format!("a DRBD {version} backing device"))
}

/// Members of firmware RAID sets, whose metadata is at the end.
fn raid_bios(view: &View) -> Option<String> {
    let found = view.has_at_end(1024, b"Intel Raid ISM Cfg Sig. ")
        || view.has_at_end(512, b"\xde\x11\xde\x11")
        || view.has_at_end(512, b"\x11\xde\x11\xde");
    found.then(|| "a member of a firmware RAID set".to_owned())
}

/// An MBR with partitions, or any other boot sector.
fn boot_sector(view: &View, alone: bool) -> Option<String> {
    let sector = view.bytes(0, 512)?;
    if le16(sector, 510) != 0xAA55 {
        return None;
    }
    let entries = || (0..4).map(|index| &sector[446 + 16 * index..446 + 16 * (index + 1)]);
    let plausible = entries().all(|entry| entry[0] & 0x7F == 0);
    let used = entries().filter(|entry| entry[4] != 0).count();
    if plausible && used > 0 {
        return Some(format!("an MBR partition table with {used} partitions"));
    }
    alone.then(|| "a boot sector".to_owned())
}
