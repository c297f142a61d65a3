//! The pure part of the prober. Real file systems made by real tools are in `tests/loop_host.rs`.

use std::io::Cursor;

use proptest::prelude::*;

use super::blkid::Blkid;
use super::*;

const SIZE: usize = 128 << 20;

fn uuid(n: u8) -> FsUuid {
    FsUuid::from_bytes([n; 16])
}

fn superblock(never_mounted: Option<bool>) -> Verdict {
    Verdict::Known(Superblock {
        fs: FsType::Ext4,
        uuid: Some(uuid(1)),
        bytes: 1 << 30,
        never_mounted,
        slack: 0,
        clean: true,
    })
}

fn sighting(verdict: Verdict, marker: Option<(FsType, u8)>) -> Sighting {
    Sighting {
        verdict,
        marker: marker.map(|(fs, n)| Marker { fs, uuid: uuid(n) }),
    }
}

fn found(what: &str, n: u8) -> Blkid {
    Blkid::Found {
        what: what.to_owned(),
        uuid: Some(uuid(n)),
    }
}

fn unclear() -> Blkid {
    Blkid::Unclear {
        why: "several".to_owned(),
    }
}

#[test]
fn blank_needs_both_witnesses_and_every_disagreement_is_unknown() {
    let zero = || sighting(Verdict::Zero, None);
    assert_eq!(conclude(zero(), &Blkid::Nothing), Content::Blank);
    for second in [found("ext4", 1), unclear()] {
        assert!(matches!(conclude(zero(), &second), Content::Unknown { .. }));
    }
    let nonzero = || sighting(Verdict::NonZero { offset: 7 }, None);
    assert_eq!(
        conclude(nonzero(), &Blkid::Nothing),
        Content::NonZero { offset: 7 }
    );
    assert!(matches!(
        conclude(nonzero(), &found("minix", 1)),
        Content::Foreign { .. }
    ));
    assert!(matches!(
        conclude(nonzero(), &unclear()),
        Content::Unknown { .. }
    ));
}

#[test]
fn a_file_system_is_known_only_with_one_type_and_one_uuid() {
    let known = || sighting(superblock(Some(false)), None);
    let yes = Content::Known {
        fs: FsType::Ext4,
        uuid: Some(uuid(1)),
    };
    assert_eq!(conclude(known(), &found("ext4", 1)), yes);
    for second in [
        found("ext4", 2),
        found("ext3", 1),
        Blkid::Nothing,
        unclear(),
    ] {
        assert!(
            matches!(conclude(known(), &second), Content::Unknown { .. }),
            "{second:?}"
        );
    }
}

#[test]
fn nothing_that_the_reader_objects_to_becomes_blank_or_known() {
    let why = || "x".to_owned();
    for verdict in [
        Verdict::Unreadable { why: why() },
        Verdict::Broken { why: why() },
        Verdict::Foreign { what: why() },
        Verdict::Remnant { what: why() },
    ] {
        for second in [Blkid::Nothing, found("ext4", 1), unclear()] {
            let content = conclude(sighting(verdict.clone(), None), &second);
            assert!(
                matches!(content, Content::Foreign { .. } | Content::Unknown { .. }),
                "{content:?}"
            );
        }
    }
}

#[test]
fn a_mark_counts_unless_there_may_be_data() {
    let half = Content::HalfMade { uuid: uuid(1) };
    let ours = Some((FsType::Ext4, 1));
    for verdict in [
        Verdict::Zero,
        Verdict::NonZero { offset: 0 },
        Verdict::Remnant {
            what: String::new(),
        },
        Verdict::Broken { why: String::new() },
        superblock(Some(true)),
    ] {
        assert_eq!(conclude(sighting(verdict, ours), &unclear()), half);
    }
    // Mounted once, of another UUID, or of another type: data, and the mark is part of it.
    let known = Content::Known {
        fs: FsType::Ext4,
        uuid: Some(uuid(1)),
    };
    for (mounted, mark) in [
        (Some(false), (FsType::Ext4, 1)),
        (Some(true), (FsType::Ext4, 2)),
        (Some(true), (FsType::Xfs, 1)),
    ] {
        let content = conclude(sighting(superblock(mounted), Some(mark)), &found("ext4", 1));
        assert_eq!(content, known);
    }
    // Cannot tell, foreign, unreadable: nobody's to format.
    let unsure = conclude(sighting(superblock(None), ours), &found("ext4", 1));
    assert!(matches!(unsure, Content::Unknown { .. }));
    let foreign = sighting(
        Verdict::Foreign {
            what: String::new(),
        },
        ours,
    );
    assert!(matches!(
        conclude(foreign, &Blkid::Nothing),
        Content::Foreign { .. }
    ));
    let dark = sighting(Verdict::Unreadable { why: String::new() }, ours);
    assert!(matches!(
        conclude(dark, &Blkid::Nothing),
        Content::Unknown { .. }
    ));
}

/// A disk of zeros that fails to read at one offset.
struct Bad {
    disk: Cursor<Vec<u8>>,
    from: u64,
    to: u64,
}

impl Read for Bad {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let at = self.disk.position();
        if at < self.to && at + out.len() as u64 > self.from {
            return Err(std::io::Error::from_raw_os_error(nix::libc::EIO));
        }
        self.disk.read(out)
    }
}

impl Seek for Bad {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.disk.seek(to)
    }
}

#[test]
fn an_unreadable_region_at_either_end_or_in_the_middle_is_not_blank() {
    let size = SIZE as u64;
    for from in [0, 65536, 64 << 20, size - 512] {
        let mut disk = Bad {
            disk: Cursor::new(vec![0; SIZE]),
            from,
            to: from + 512,
        };
        let sighting = look(&mut disk, size);
        assert!(
            matches!(sighting.verdict, Verdict::Unreadable { .. }),
            "{from}: {sighting:?}"
        );
    }
}

#[test]
fn a_disk_that_is_shorter_than_it_says_is_not_blank() {
    let sighting = look(&mut Cursor::new(vec![0; 1 << 20]), 2 << 20);
    assert!(
        matches!(sighting.verdict, Verdict::Unreadable { .. }),
        "{sighting:?}"
    );
    let nothing = look(&mut Cursor::new(Vec::new()), 0);
    assert!(matches!(nothing.verdict, Verdict::Unreadable { .. }));
}

/// Magics that lead deep into the parsers.
const SEEDS: [(usize, &[u8]); 10] = [
    (1080, b"\x53\xef"),
    (0, b"XFSB"),
    (65600, b"_BHRfS_M"),
    (0, b"\xfc\x4e\x2b\xa9\x01\0\0\0"),
    (4096, b"\xfc\x4e\x2b\xa9\x01\0\0\0"),
    (510, b"\x55\xaa"),
    (512, b"EFI PART"),
    (512, b"LABELONE"),
    (0, b"LUKS\xba\xbe"),
    (131_072, b"\x0c\xb1\xba\0\0\0\0\0"),
];

proptest! {
    #[test]
    fn no_bytes_make_it_panic_and_none_but_zeros_are_zero(
        noise in proptest::collection::vec((0_usize..200_000, any::<[u8; 16]>()), 0..12),
        seed in proptest::option::of(0_usize..SEEDS.len()),
        size in 1_usize..300_000,
    ) {
        let mut bytes = vec![0; size];
        let mut put = |at: usize, what: &[u8]| {
            if let Some(room) = bytes.get_mut(at..at + what.len()) {
                room.copy_from_slice(what);
            }
        };
        for (at, what) in &noise {
            put(*at, what);
        }
        if let Some((at, magic)) = seed.map(|index| SEEDS[index]) {
            put(at, magic);
        }
        let zero = bytes.iter().all(|byte| *byte == 0);
        let sighting = look(&mut Cursor::new(&bytes), size as u64);
        // Disks of this size are read whole.
        prop_assert_eq!(sighting.verdict == Verdict::Zero, zero);
    }
}
