//! Body of the fuzz target for the own reader of disks, and the small corpus that ordinary tests run it on.
//!
//! Not part of the API. An input describes a disk that is zero but for a few pieces:
//!
//! ```text
//! size: 1   flags: 1   then pieces: place: 1  shift: 1  length: 1  bytes: length
//! ```
//!
//! A superblock's checksum is out of a fuzzer's reach; by a flag it is put right after all pieces are.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};

use super::blkid::Blkid;
use super::marker::{self, Marker};
use super::{
    HEAD, SAMPLE, Sighting, Signature, Superblock, TAIL, Verdict, conclude, crc32c, known, look,
    primary, samples,
};
use crate::domain::capability::FsType;
use crate::domain::id::FsUuid;
use crate::host::Content;

const BLOCK: usize = 4096;

/// Sizes of disks, in bytes. Few large ones: their ends are 5 MiB to be read.
const SIZES: [u64; 26] = [
    64 << 10,
    1,
    512,
    1024,
    2048,
    4096,
    8192,
    65536 + 4095,
    65536 + 4096,
    72 << 10,
    96 << 10,
    128 << 10,
    (128 << 10) + 512,
    160 << 10,
    192 << 10,
    256 << 10,
    (256 << 10) + 7,
    300_000,
    68 << 10,
    320 << 10,
    512 << 10,
    513 << 10,
    1 << 20,
    6 << 20,
    160 << 20,
    100 << 30,
];

/// Where pieces begin: at a place that a reader looks at.
const PLACES: [u64; 24] = [
    0,
    512,
    1024,
    4080,
    2048,
    4096,
    4120,
    8192,
    16384,
    32768,
    65536,
    65588,
    65600,
    131_072,
    1 << 20,
    2 << 20,
    64 << 20,
    marker::PLACES[0],
    marker::PLACES[1],
    40 << 20,
    4096 * 8 * 4096,
    25 << 30,
    50 << 30,
    75 << 30,
];

const REPAIR: u8 = 1;
const BAD_REGION: u8 = 2;
const MARK: u8 = 4;

/// A disk of zeros and pieces, which cannot be read in one region.
#[derive(Debug, Default)]
struct Disk {
    size: u64,
    /// Blocks that are not all zero, perhaps.
    blocks: BTreeMap<u64, [u8; BLOCK]>,
    bad: Option<u64>,
    at: u64,
}

impl Disk {
    fn parse(input: &[u8]) -> Option<Self> {
        let (&[size, flags], mut rest) = input.split_first_chunk()?;
        let mut disk = Self {
            size: SIZES[usize::from(size) % SIZES.len()],
            ..Self::default()
        };
        while let Some((&[place, shift, length], after)) = rest.split_first_chunk() {
            let (bytes, after) = after.split_at(after.len().min(length.into()));
            disk.put(disk.place(place, shift), bytes);
            rest = after;
        }
        if flags & REPAIR != 0 {
            disk.repair();
        }
        let place = usize::from(flags >> 4) % PLACES.len();
        if flags & MARK != 0 {
            let at = marker::PLACES[place % 2];
            let fs = FsType::ALL[place % FsType::ALL.len()];
            let uuid = match fs {
                FsType::Xfs => disk.array(32),
                FsType::Btrfs => disk.array((64 << 10) + 32),
                FsType::Ext3 | FsType::Ext4 => disk.array(1024 + 104),
            };
            let uuid = FsUuid::from_bytes(uuid);
            disk.put(at, &Marker { fs, uuid }.encode(at));
        }
        disk.bad = (flags & BAD_REGION != 0).then_some(PLACES[place]);
        Some(disk)
    }

    /// The upper places are counted from the end.
    fn place(&self, place: u8, shift: u8) -> u64 {
        let base = PLACES[usize::from(place & 0x7F) % PLACES.len()] + u64::from(shift) * 4;
        if place & 0x80 == 0 {
            base
        } else {
            self.size.saturating_sub(base)
        }
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        for (at, byte) in (at..self.size).zip(bytes) {
            let (block, within) = split(at);
            self.blocks.entry(block).or_insert([0; BLOCK])[within] = *byte;
        }
    }

    /// Copies what is at `from` and after into `out`.
    fn fill(&self, from: u64, out: &mut [u8]) {
        out.fill(0);
        let to = from + out.len() as u64;
        for (block, bytes) in self.blocks.range(split(from).0..=split(to).0) {
            let start = block * BLOCK as u64;
            let (begin, end) = (from.max(start), to.min(start + BLOCK as u64));
            let into = |at: u64| usize::try_from(at - from).unwrap_or(usize::MAX);
            let of = |at: u64| usize::try_from(at - start).unwrap_or(usize::MAX);
            if begin < end {
                out[into(begin)..into(end)].copy_from_slice(&bytes[of(begin)..of(end)]);
            }
        }
    }

    fn array<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut out = [0; N];
        self.fill(at, &mut out);
        out
    }

    /// Makes checksums of superblocks right.
    fn repair(&mut self) {
        let ext: [u8; 1020] = self.array(1024);
        self.put(1024 + 1020, &crc32c::update(!0, &ext).to_le_bytes());
        let mut btrfs: [u8; 4096] = self.array(64 << 10);
        if btrfs[64..72] == *b"_BHRfS_M" {
            btrfs[48..56].copy_from_slice(&(64_u64 << 10).to_le_bytes());
            let sum = crc32c::of(&btrfs[32..]).to_le_bytes();
            self.put((64 << 10) + 48, &btrfs[48..56]);
            self.put(64 << 10, &sum);
        }
        let mut xfs: [u8; 512] = self.array(0);
        if xfs.starts_with(super::xfs::MAGIC) {
            xfs[102..104].copy_from_slice(&512_u16.to_be_bytes());
            xfs[224..228].fill(0);
            let sum = crc32c::of(&xfs).to_le_bytes();
            self.put(102, &xfs[102..104]);
            self.put(224, &sum);
        }
    }

    /// Whether a byte of a region is not zero.
    fn set_within(&self, (from, length): (u64, u64)) -> bool {
        let here = from..from + length;
        let bytes = self.blocks.iter().flat_map(|(block, bytes)| {
            let start = block * BLOCK as u64;
            (start..).zip(bytes).filter(|(_, byte)| **byte != 0)
        });
        bytes.map(|(at, _)| at).any(|at| here.contains(&at))
    }
}

fn split(at: u64) -> (u64, usize) {
    let within = at % BLOCK as u64;
    (at / BLOCK as u64, usize::try_from(within).unwrap_or(0))
}

impl Read for Disk {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.size.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let length = out.len().min(left);
        let end = self.at + length as u64;
        if self.bad.is_some_and(|bad| self.at <= bad && bad < end) {
            return Err(io::ErrorKind::Other.into());
        }
        self.fill(self.at, &mut out[..length]);
        self.at = end;
        Ok(length)
    }
}

impl Seek for Disk {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let SeekFrom::Start(at) = to else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        self.at = at;
        Ok(at)
    }
}

/// Any disk through the own reader. It never panics; no disk with anything in a region that is looked at, or with a
/// region that cannot be read, is blank; what is known fits the disk; a mark never makes a mounted file system half-made.
pub fn probe(input: &[u8]) {
    let Some(mut disk) = Disk::parse(input) else {
        return;
    };
    let size = disk.size;
    let sighting = look(&mut disk, size);
    if size <= HEAD {
        assert_eq!(look(&mut disk, size), sighting, "two answers");
    }
    let tail = size.min(TAIL);
    let ends = [(0, size.min(HEAD)), (size - tail, tail)];
    let bad = |(from, length): (u64, u64)| {
        let bad = disk.bad;
        bad.is_some_and(|bad| (from..from + length).contains(&bad))
    };
    let unread = ends.into_iter().any(bad);
    match &sighting.verdict {
        Verdict::Zero => {
            let block = |at| (at, SAMPLE as u64);
            let looked = ends.into_iter().chain(samples(size).into_iter().map(block));
            for region in looked {
                assert!(!bad(region), "not read: {region:?}");
                assert!(!disk.set_within(region), "not zero: {region:?}");
            }
        }
        Verdict::NonZero { offset } => assert!(disk.set_within((*offset, 1)), "zero: {offset}"),
        Verdict::Known(superblock) => {
            assert!((1..=size).contains(&superblock.bytes), "{superblock:?}");
            agrees(&mut disk, superblock);
        }
        Verdict::Foreign { what: text }
        | Verdict::Remnant { what: text }
        | Verdict::Broken { why: text } => told(text),
        Verdict::Unreadable { why } => {
            told(why);
            assert!(disk.bad.is_some(), "{why}");
        }
    }
    assert!(!unread || matches!(sighting.verdict, Verdict::Unreadable { .. }));
    weigh(&sighting);
}

fn told(text: &str) {
    assert!(
        !text.is_empty() && text.len() < 4096 && !text.contains(char::is_control),
        "{text:?}"
    );
}

/// With a second witness who sees nothing.
fn weigh(sighting: &Sighting) {
    let (verdict, mark) = (&sighting.verdict, &sighting.marker);
    match conclude(sighting.clone(), &Blkid::Nothing) {
        Content::Blank => assert!(*verdict == Verdict::Zero && mark.is_none()),
        Content::NonZero { .. } => assert!(mark.is_none(), "a mark was passed over"),
        Content::HalfMade { uuid } => {
            assert_eq!(mark.as_ref().map(|mark| &mark.uuid), Some(&uuid));
            if let Verdict::Known(superblock) = verdict {
                assert_eq!(superblock.never_mounted, Some(true));
            }
        }
        Content::Known { .. } => unreachable!("known to one witness only: {sighting:?}"),
        Content::Foreign { what: text } | Content::Unknown { why: text } => told(&text),
    }
}

/// The short look at the primary superblocks sees the same file system.
fn agrees(disk: &mut Disk, superblock: &Superblock) {
    let size = disk.size;
    let short = primary(disk, size).map(|view| known(&view));
    match short.as_deref() {
        Ok([Signature::Known(found)]) => {
            assert_eq!((found.fs, &found.uuid), (superblock.fs, &superblock.uuid));
        }
        other => unreachable!("{superblock:?} is {other:?} to the short look"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutants::{corpus, mutants};

    #[test]
    fn the_committed_corpus_of_disks_and_its_mutants_break_no_promise() {
        let corpus = corpus("probe");
        let mut seen = [0; 7];
        for (_, input) in &corpus {
            let mut disk = Disk::parse(input).unwrap();
            let size = disk.size;
            seen[match look(&mut disk, size).verdict {
                Verdict::Zero => 0,
                Verdict::NonZero { .. } => 1,
                Verdict::Known(_) => 2,
                Verdict::Foreign { .. } => 3,
                Verdict::Remnant { .. } => 4,
                Verdict::Broken { .. } => 5,
                Verdict::Unreadable { .. } => 6,
            }] += 1;
        }
        assert!(
            seen.iter().all(|count| *count > 0),
            "a verdict without an example: {seen:?}"
        );
        mutants(&corpus, 60, probe);
    }
}
