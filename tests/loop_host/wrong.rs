//! The wrong-device table: every disk here holds something, and none may be formatted.
//!
//! `cargo test --test loop_host wrong_disk -- --nocapture` prints it with the messages.

use std::fs::{self, File};
use std::path::Path;

use additional_storage_csi::domain::capability::FsType;
use additional_storage_csi::host::HostError;

use crate::{MIB, Rig, able, attach, have, plan, put, run, succeed};

/// One row: name, how the image is filled, what the message must say.
type Row = (&'static str, Box<dyn Fn(&Path)>, &'static str);

fn bytes_at(parts: &'static [(u64, &'static [u8])]) -> Box<dyn Fn(&Path)> {
    Box::new(move |image| {
        for (offset, bytes) in parts {
            put(image, *offset, bytes);
        }
    })
}

fn tool(program: &'static str, args: &'static [&'static str]) -> Box<dyn Fn(&Path)> {
    Box::new(move |image| {
        let image = image.to_str().unwrap();
        succeed(program, &[args, &[image]].concat());
    })
}

const WRONG_SIZE: u64 = 80 * MIB;

fn md(offset: u64, own_sector: u64) -> Box<dyn Fn(&Path)> {
    Box::new(move |image| {
        let mut sb = vec![0; 256];
        sb[..4].copy_from_slice(&0xA92B_4EFC_u32.to_le_bytes());
        sb[4..8].copy_from_slice(&1_u32.to_le_bytes());
        sb[144..152].copy_from_slice(&own_sector.to_le_bytes());
        put(image, offset, &sb);
    })
}

fn wrong_by_bytes() -> Vec<Row> {
    let last = WRONG_SIZE;
    vec![
        (
            "MBR",
            bytes_at(&[
                (446, b"\x80\0\0\0\x83\0\0\0\0\x08\0\0\0\0\x01\0"),
                (510, b"\x55\xaa"),
            ]),
            "MBR partition table with 1",
        ),
        (
            "boot sector",
            bytes_at(&[(0, b"\xeb\x3c\x90"), (510, b"\x55\xaa")]),
            "boot sector",
        ),
        (
            "GPT",
            bytes_at(&[(450, b"\xee"), (510, b"\x55\xaa"), (512, b"EFI PART")]),
            "GPT",
        ),
        (
            "GPT backup",
            bytes_at(&[(WRONG_SIZE - 512, b"EFI PART")]),
            "backup of a GPT",
        ),
        (
            "LVM2 bytes",
            bytes_at(&[(512, b"LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001")]),
            "LVM2",
        ),
        ("md 1.0", md(last - 8192, (last - 8192) / 512), "md 1.0"),
        ("md 1.1", md(0, 0), "md 1.1"),
        ("md 1.2", md(4096, 8), "md 1.2"),
        (
            "md 0.90",
            bytes_at(&[(WRONG_SIZE - 65536, b"\xfc\x4e\x2b\xa9\0\0\0\0\x5a\0\0\0")]),
            "md 0.90",
        ),
        (
            "LUKS1 bytes",
            bytes_at(&[(0, b"LUKS\xba\xbe\0\x01")]),
            "LUKS",
        ),
        (
            "LUKS2 second header",
            bytes_at(&[(0x4000, b"SKUL\xba\xbe\0\x02")]),
            "LUKS2",
        ),
        (
            "ZFS label",
            bytes_at(&[(131_072, b"\x0c\xb1\xba\0\0\0\0\0")]),
            "ZFS",
        ),
        (
            "ZFS label at the end",
            bytes_at(&[(WRONG_SIZE - 131_072, b"\x0c\xb1\xba\0\0\0\0\0")]),
            "ZFS",
        ),
        (
            "bcache",
            bytes_at(&[(
                4120,
                b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
            )]),
            "bcache",
        ),
        (
            "NTFS",
            bytes_at(&[(3, b"NTFS    "), (510, b"\x55\xaa")]),
            "NTFS",
        ),
        (
            "FAT32",
            bytes_at(&[(82, b"FAT32   "), (510, b"\x55\xaa")]),
            "FAT32",
        ),
        ("ISO 9660", bytes_at(&[(32769, b"CD001")]), "ISO 9660"),
        ("ReiserFS", bytes_at(&[(65588, b"ReIsEr2Fs")]), "ReiserFS"),
        ("JFS", bytes_at(&[(32768, b"JFS1")]), "JFS"),
        ("F2FS", bytes_at(&[(1024, b"\x10\x20\xf5\xf2")]), "F2FS"),
        ("VMFS", bytes_at(&[(1 << 20, b"\x0d\xd0\x01\xc0")]), "VMFS"),
        (
            "DRBD",
            bytes_at(&[(WRONG_SIZE - 4096 + 60, b"\x83\x74\x02\x6b")]),
            "DRBD",
        ),
        (
            "Ceph BlueStore",
            bytes_at(&[(0, b"bluestore block device\n")]),
            "BlueStore",
        ),
        (
            "Stratis",
            bytes_at(&[(516, b"!Stra0tis\x86\xff\x02^\x41rh")]),
            "Stratis",
        ),
        ("one byte at the start", bytes_at(&[(0, b"x")]), "offset 0;"),
        (
            "one byte in the first MiB",
            bytes_at(&[(777_777, b"x")]),
            "offset 777777",
        ),
        (
            "one byte at the very end",
            bytes_at(&[(WRONG_SIZE - 1, b"x")]),
            "not zero",
        ),
        (
            "a sampled byte in the middle",
            bytes_at(&[(64 * MIB, b"x")]),
            "not zero",
        ),
        (
            "a Btrfs mirror alone",
            bytes_at(&[(64 * MIB + 64, b"_BHRfS_M")]),
            "copy of a Btrfs superblock",
        ),
        (
            "XFS of which only the last AG is left",
            bytes_at(&[(60 * MIB, b"XFSB")]),
            "copy of an XFS superblock",
        ),
        (
            "an XFS magic with nothing behind",
            bytes_at(&[(0, b"XFSB")]),
            "damaged",
        ),
        (
            "an ext magic with nothing behind",
            bytes_at(&[(1080, b"\x53\xef")]),
            "damaged",
        ),
        (
            "a Btrfs that mkfs did not finish, not ours",
            bytes_at(&[(65600, b"!BHRfS_M")]),
            "still being made",
        ),
    ]
}

/// Signatures at fixed places, as the formats' own documents give them.
fn wrong_by_signature() -> Vec<Row> {
    const SIGNATURES: [(&str, u64, &[u8], &str); 33] = [
        ("GPT of 4-KiB sectors", 4096, b"EFI PART", "GPT"),
        (
            "LUKS2, far second header",
            0x8000,
            b"SKUL\xba\xbe\0\x02",
            "LUKS2",
        ),
        ("BitLocker", 3, b"-FVE-FS-", "BitLocker"),
        ("LVM1", 0, b"HM\x01\0", "LVM1"),
        ("dm-integrity", 0, b"integrt\0", "dm-integrity"),
        ("dm-verity", 0, b"verity\0\0", "dm-verity"),
        ("dm snapshot", 0, b"SnAp", "snapshot"),
        ("VDO", 0, b"dmvdo001", "VDO"),
        ("Oracle ASM", 32, b"ORCLDISK", "Oracle ASM"),
        (
            "bcachefs",
            4120,
            b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef",
            "bcachefs",
        ),
        ("exFAT", 3, b"EXFAT   ", "exFAT"),
        ("FAT16", 54, b"FAT16   ", "FAT"),
        ("UDF", 32769, b"BEA01", "UDF"),
        ("Reiser4", 65536, b"ReIsEr4", "Reiser4"),
        ("EROFS", 1024, b"\xe2\xe1\xf5\xe0", "EROFS"),
        ("HFS+", 1024, b"H+\0\x04", "HFS+"),
        ("APFS", 32, b"NXSB", "APFS"),
        ("SquashFS", 0, b"hsqs", "SquashFS"),
        ("cramfs", 0, b"\x45\x3d\xcd\x28", "cramfs"),
        ("UFS2", 66908, b"\x19\x01\x54\x19", "UFS2"),
        ("GFS2", 65536, b"\x01\x16\x19\x70", "GFS2"),
        ("OCFS2", 8192, b"OCFSV2", "OCFS2"),
        ("VMFS file system", 2 << 20, b"\x5e\xf1\xab\x2f", "VMFS"),
        ("XFS log", 0, b"\xfe\xed\xba\xbe", "XFS log"),
        ("BSD disk label", 512, b"\x57\x45\x56\x82", "BSD"),
        ("Apple partition map", 0, b"ER\x02\0", "Apple"),
        ("VHD image", 0, b"conectix", "VHD"),
        ("qcow2 image", 0, b"QFI\xfb", "qcow2"),
        ("VMDK image", 0, b"KDMV", "VMDK"),
        ("hibernated system", 4086, b"S1SUSPEND\0", "suspended"),
        ("swap of 64-KiB pages", 65526, b"SWAPSPACE2", "swap"),
        (
            "firmware RAID",
            WRONG_SIZE - 1024,
            b"Intel Raid ISM Cfg Sig. ",
            "firmware RAID",
        ),
        (
            "old md, other byte order",
            WRONG_SIZE - 65536,
            b"\xa9\x2b\x4e\xfc\0\0\0\0\0\0\0\x5a",
            "md 0.90",
        ),
    ];
    let row = |(name, offset, magic, message): (&'static str, u64, &'static [u8], &'static str)| {
        let fill: Box<dyn Fn(&Path)> = Box::new(move |image| put(image, offset, magic));
        (name, fill, message)
    };
    SIGNATURES.map(row).into()
}

fn wrong_by_tools() -> Vec<Row> {
    vec![
        ("swap", tool("mkswap", &[]), "swap"),
        ("ext2", tool("mke2fs", &["-q", "-F", "-t", "ext2"]), "ext2"),
        (
            "an ext journal device",
            tool("mke2fs", &["-q", "-F", "-O", "journal_dev"]),
            "external ext journal",
        ),
        (
            "another volume's ext4",
            tool("mke2fs", &["-q", "-F", "-t", "ext4"]),
            "ext4 with UUID",
        ),
        (
            "ext4 without its first superblock",
            Box::new(|image| {
                tool("mke2fs", &["-q", "-F", "-t", "ext4"])(image);
                put(image, 0, &vec![0; 4 << 20]);
            }),
            "copy of an ext superblock",
        ),
        (
            "ext4 with one wrong byte in its superblock",
            Box::new(|image| {
                tool("mke2fs", &["-q", "-F", "-t", "ext4"])(image);
                put(image, 1024 + 200, b"\xff");
            }),
            "checksum",
        ),
        (
            "ext4 that is larger than the disk",
            Box::new(|image| {
                File::options()
                    .write(true)
                    .open(image)
                    .unwrap()
                    .set_len(2 * WRONG_SIZE)
                    .unwrap();
                tool("mke2fs", &["-q", "-F", "-t", "ext4"])(image);
                File::options()
                    .write(true)
                    .open(image)
                    .unwrap()
                    .set_len(WRONG_SIZE)
                    .unwrap();
            }),
            "claims",
        ),
        (
            "ext4 with a swap signature beside",
            Box::new(|image| {
                tool("mke2fs", &["-q", "-F", "-t", "ext4", "-b", "1024"])(image);
                put(image, 4086, b"SWAPSPACE2");
            }),
            "swap",
        ),
        (
            "a member of a RAID 1 with ext4 on it",
            Box::new(|image| {
                tool("mke2fs", &["-q", "-F", "-t", "ext4"])(image);
                md(WRONG_SIZE - 8192, (WRONG_SIZE - 8192) / 512)(image);
            }),
            "md 1.0",
        ),
        (
            "another volume's xfs",
            tool(
                "mkfs.xfs",
                &["-q", "-f", "-m", "crc=1", "-d", "size=80m", "--unsupported"],
            ),
            "xfs with UUID",
        ),
        (
            "another volume's btrfs",
            tool("mkfs.btrfs", &["-q", "-f", "-M"]),
            "btrfs with UUID",
        ),
        (
            "btrfs without its first superblock",
            Box::new(|image| {
                tool("mkfs.btrfs", &["-q", "-f", "-M"])(image);
                put(image, 0, &vec![0; 1 << 20]);
            }),
            "copy of a Btrfs superblock",
        ),
        (
            "xfs without its first superblock",
            Box::new(|image| {
                tool("mkfs.xfs", &["-q", "-f", "--unsupported"])(image);
                put(image, 0, &vec![0; 4096]);
            }),
            "XFS",
        ),
        (
            "ext4 whose first half was zeroed",
            Box::new(|image| {
                tool("mke2fs", &["-q", "-F", "-t", "ext4"])(image);
                put(image, 0, &vec![0; 40 << 20]);
            }),
            "copy of an ext superblock",
        ),
    ]
}

/// Made by tools that not every machine has.
fn optional() -> Vec<Row> {
    let looped = |image: &Path, work: &dyn Fn(&str)| {
        let device = attach(image, &[]);
        work(&device);
        run("losetup", &["-d", &device]);
    };
    let rows: [(&str, Row); 6] = [
        (
            "sfdisk",
            (
                "GPT by sfdisk",
                Box::new(|image| {
                    sh(&format!(
                        "echo 'label: gpt\nsize=10M' | sfdisk -q {}",
                        image.display()
                    ));
                }),
                "GPT",
            ),
        ),
        (
            "sfdisk",
            (
                "MBR by sfdisk",
                Box::new(|image| sh(&format!("echo 'size=10M' | sfdisk -q {}", image.display()))),
                "MBR partition table with 1",
            ),
        ),
        (
            "mkfs.vfat",
            ("FAT by mkfs.vfat", tool("mkfs.vfat", &[]), "FAT"),
        ),
        (
            "pvcreate",
            (
                "LVM2 by pvcreate",
                Box::new(move |image| {
                    looped(image, &|device| {
                        succeed(
                            "pvcreate",
                            &["-q", "-ff", "-y", "--devices", device, device],
                        );
                    });
                }),
                "LVM2",
            ),
        ),
        ("cryptsetup", ("LUKS2 by cryptsetup", luks("luks2"), "LUKS")),
        ("cryptsetup", ("LUKS1 by cryptsetup", luks("luks1"), "LUKS")),
    ];
    let mut found = Vec::new();
    for (program, row) in rows {
        if have(program) {
            found.push(row);
        } else {
            eprintln!("LEFT OUT: {} ({program} is not installed)", row.0);
        }
    }
    found
}

fn sh(script: &str) {
    succeed("sh", &["-c", script]);
}

fn luks(kind: &'static str) -> Box<dyn Fn(&Path)> {
    Box::new(move |image| {
        let key = image.with_extension("key");
        fs::write(&key, "secret").unwrap();
        let (key, image) = (key.display(), image.display());
        sh(&format!(
            "cryptsetup luksFormat -q --type {kind} --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file {key} {image}"
        ));
    })
}

/// None is formatted, and not one byte of any changes.
fn refuse(rows: Vec<Row>) {
    if !able("wrong-device table") {
        return;
    }
    println!("| disk | found |\n|---|---|");
    let count = rows.len();
    for (name, fill, message) in rows {
        let rig = Rig::with(WRONG_SIZE, fill, |_| {});
        let before = rig.checksum();
        match rig.format(&plan(FsType::Ext4)) {
            Err(HostError::NotBlank { found, .. }) => {
                assert!(
                    found.contains(message),
                    "{name}: {found:?} does not say {message:?}"
                );
                println!("| {name} | {found} |");
            }
            other => panic!("{name}: {other:?}"),
        }
        succeed("sync", &["-f", rig.image.to_str().unwrap()]);
        assert_eq!(rig.checksum(), before, "{name} was changed");
    }
    println!("{count} wrong disks refused");
}

#[test]
fn no_wrong_disk_with_a_layout_of_another_is_formatted() {
    refuse(wrong_by_bytes());
}

#[test]
fn no_wrong_disk_with_a_known_signature_is_formatted() {
    refuse(wrong_by_signature());
}

#[test]
fn no_wrong_disk_made_by_another_tool_is_formatted() {
    if able("wrong-device table") {
        refuse(wrong_by_tools().into_iter().chain(optional()).collect());
    }
}
