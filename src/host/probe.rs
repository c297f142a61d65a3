//! What is on a disk: the question on which all data rests.
//!
//! ```text
//!               own reader (past the page cache)          blkid -p
//!  head 4 MiB, tail 1 MiB: signatures                        |
//!  marks of a mkfs that was cut                              |
//!  nothing found: backup superblocks, mirrors, AG headers,   |
//!                 64 samples over the whole disk             |
//!                        |                                   |
//!                        +----------- conclude --------------+
//!                                        |
//!             Blank | NonZero | Known | HalfMade | Foreign | Unknown
//! ```
//!
//! Both must agree on "nothing" and on a file system's type and UUID; otherwise the answer is `Unknown`, which nobody
//! formats or mounts. The reader is a pure function over `Read + Seek`.

use std::io::{Read, Seek, SeekFrom};
use std::time::Instant;

use self::marker::Marker;
use self::read::DirectReader;
pub(super) use self::read::first_sector;
use self::view::View;
use self::weigh::conclude;
use super::command::Tools;
use super::device::{self, Open};
use super::{BlockDevice, Content, HostError, Intact};
use crate::domain::capability::FsType;
use crate::domain::id::FsUuid;

mod blkid;
mod btrfs;
mod crc32c;
mod ext;
mod foreign;
pub mod fuzzing;
pub(super) mod marker;
mod read;
mod view;
mod weigh;
mod xfs;

/// Covers every primary signature, LUKS2's second header, VMFS, the first two ZFS labels.
pub(super) const HEAD: u64 = 4 << 20;
/// Covers md 0.90 and 1.0, the backup GPT, DRBD, the last two ZFS labels.
pub(super) const TAIL: u64 = 1 << 20;
/// Covers the primary superblocks of ext (at 1 KiB), XFS (0) and Btrfs (64 KiB).
const PRIMARY: u64 = 72 << 10;
const SAMPLE: usize = 4096;
const SAMPLES: u64 = 64;

/// What a superblock tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Superblock {
    pub(super) fs: FsType,
    pub(super) uuid: Option<FsUuid>,
    /// Size of the file system in bytes.
    pub(super) bytes: u64,
    /// Whether it was provably never mounted writable, or provably was; `None` if that cannot be told.
    pub(super) never_mounted: Option<bool>,
    /// Bytes at the end of a device that this file system may leave unused.
    pub(super) slack: u64,
    /// No check is needed before a mount (XFS and Btrfs look after themselves).
    pub(super) clean: bool,
}

impl Superblock {
    /// Bytes of a disk of `size` bytes that the file system could still take, if more than its format leaves unused.
    pub(super) fn room(&self, size: u64) -> Option<u64> {
        let left = size.saturating_sub(self.bytes);
        // An XFS or Btrfs of a mounted disk is ahead of its superblock on the disk: this may then see room where none
        // is, and the tool finds nothing to do.
        (left > self.slack.min(128 << 20)).then_some(left)
    }
}

/// One thing that was recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Signature {
    Known(Superblock),
    Foreign { what: String },
    Broken { why: String },
}

impl Signature {
    fn foreign(what: &str) -> Self {
        Self::Foreign {
            what: what.to_owned(),
        }
    }
}

/// What the own reader saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Every probed region was read and is zero.
    Zero,
    /// No signature, but not zero.
    NonZero { offset: u64 },
    /// A file system of ours, intact as far as its superblock goes.
    Known(Superblock),
    /// Something else.
    Foreign { what: String },
    /// A copy of a superblock without its primary.
    Remnant { what: String },
    /// A signature with impossible values or a wrong checksum.
    Broken { why: String },
    /// A region could not be read.
    Unreadable { why: String },
}

/// Verdict and mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sighting {
    pub(super) verdict: Verdict,
    pub(super) marker: Option<Marker>,
}

/// Both witnesses on a device. `deadline` bounds blkid.
pub(super) fn probe(
    tools: &Tools,
    target: &BlockDevice,
    deadline: Instant,
) -> Result<Content, HostError> {
    let own = examine(target)?;
    let second = blkid::ask(tools, target, deadline)?;
    Ok(conclude(own, &second))
}

/// The own reader on a device. Cached pages are dropped first, so that blkid, which reads through the cache, sees
/// the disk as well.
pub(super) fn examine(target: &BlockDevice) -> Result<Sighting, HostError> {
    let mut cached = device::open(target, Open::Read)?;
    let size = device::size_of(&mut cached, target)?;
    device::flush(&cached, target)?;
    // Every block device of Linux takes O_DIRECT; should one refuse, the pages were dropped just now.
    let file = device::open(target, Open::Direct).unwrap_or(cached);
    Ok(look(&mut DirectReader::new(file, size), size))
}

/// The file system, if the primary superblock, read past the page cache, is intact and names exactly this one, and no
/// mark of an unfinished mkfs is there. A random UUID of 128 bits, asked for by the volume's own id, is witness enough
/// that the disk is the volume's and holds its data: nothing is decided here that could lead to a format.
pub(super) fn carries(
    target: &BlockDevice,
    fs: FsType,
    uuid: &FsUuid,
) -> Result<Option<Intact>, HostError> {
    let mut file = device::open(target, Open::Direct)?;
    let size = device::size_of(&mut file, target)?;
    let mut reader = DirectReader::new(file, size);
    let Ok(view) = primary(&mut reader, size) else {
        return Ok(None);
    };
    let found = match known(&view).as_slice() {
        [Signature::Known(found)] if found.fs == fs && found.uuid.as_ref() == Some(uuid) => {
            found.clone()
        }
        _ => return Ok(None),
    };
    // On a file system that was ever mounted a mark does not count (see `weigh`): it need not be looked for.
    let finished = found.never_mounted == Some(false) || mark(&mut reader, size) == Ok(None);
    Ok(finished.then(|| Intact {
        clean: found.clean,
        full: found.room(size).is_none(),
    }))
}

/// The superblock alone, through the page cache: ext keeps the current one of a mounted file system there. With the
/// size of the disk.
pub(super) fn superblock(target: &BlockDevice) -> Result<(Option<Superblock>, u64), HostError> {
    let mut file = device::open(target, Open::Read)?;
    let size = device::size_of(&mut file, target)?;
    let view = match primary(&mut file, size) {
        Ok(view) => view,
        Err(why) => {
            return Err(HostError::Io {
                action: "read the superblock of",
                path: target.path.clone(),
                reason: why,
                errno: None,
            });
        }
    };
    let found = known(&view)
        .into_iter()
        .find_map(|signature| match signature {
            Signature::Known(superblock) => Some(superblock),
            Signature::Foreign { .. } | Signature::Broken { .. } => None,
        });
    Ok((found, size))
}

/// Judges a disk of `size` bytes. Pure: the same bytes give the same answer, and no bytes make it panic.
pub(super) fn look<R: Read + Seek>(reader: &mut R, size: u64) -> Sighting {
    if size == 0 {
        return unreadable("the disk has no size".to_owned());
    }
    let view = match hold(reader, size) {
        Ok(view) => view,
        Err(why) => return unreadable(why),
    };
    let marker = match mark(reader, size) {
        Ok(marker) => marker,
        Err(why) => return unreadable(why),
    };
    let verdict = signatures(reader, &view).unwrap_or_else(|| beyond(reader, &view));
    Sighting { verdict, marker }
}

fn unreadable(why: String) -> Sighting {
    Sighting {
        verdict: Verdict::Unreadable { why },
        marker: None,
    }
}

fn hold<R: Read + Seek>(reader: &mut R, size: u64) -> Result<View, String> {
    let tail_at = size.saturating_sub(TAIL);
    Ok(View {
        head: region(reader, 0, size.min(HEAD))?,
        tail: region(reader, tail_at, size - tail_at)?,
        tail_at,
        size,
    })
}

/// The part of the head that holds every primary superblock.
fn primary<R: Read + Seek>(reader: &mut R, size: u64) -> Result<View, String> {
    Ok(View {
        head: region(reader, 0, size.min(PRIMARY))?,
        tail: Vec::new(),
        tail_at: size,
        size,
    })
}

fn region<R: Read + Seek>(reader: &mut R, offset: u64, length: u64) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    reader
        .seek(SeekFrom::Start(offset))
        .and_then(|_| reader.read_exact(&mut bytes))
        .map_err(|error| format!("{length} bytes at offset {offset} cannot be read: {error}"))?;
    Ok(bytes)
}

fn mark<R: Read + Seek>(reader: &mut R, size: u64) -> Result<Option<Marker>, String> {
    for place in marker::PLACES {
        if place + SAMPLE as u64 > size {
            break;
        }
        let sector = region(reader, place, marker::LENGTH as u64)?;
        if let Some(marker) = Marker::decode(&sector, place) {
            return Ok(Some(marker));
        }
    }
    Ok(None)
}

fn known(view: &View) -> Vec<Signature> {
    [ext::look(view), xfs::look(view), btrfs::look(view)]
        .into_iter()
        .flatten()
        .collect()
}

fn signatures<R: Read + Seek>(reader: &mut R, view: &View) -> Option<Verdict> {
    let mut found = known(view);
    let alone = !found.iter().any(|one| matches!(one, Signature::Known(_)));
    let mut foreign = foreign::look(view, alone);
    foreign.extend(found.iter().filter_map(|one| match one {
        Signature::Foreign { what } => Some(what.clone()),
        Signature::Known(_) | Signature::Broken { .. } => None,
    }));
    if !foreign.is_empty() {
        return Some(Verdict::Foreign {
            what: foreign.join(" and "),
        });
    }
    let first = found.pop()?;
    Some(match (first, found.is_empty()) {
        (Signature::Known(superblock), true) => Verdict::Known(with_log(reader, view, superblock)),
        (Signature::Broken { why }, _) => Verdict::Broken { why },
        _ => Verdict::Broken {
            why: "superblocks of several file systems".to_owned(),
        },
    })
}

/// XFS tells by its log whether anything was ever changed.
fn with_log<R: Read + Seek>(reader: &mut R, view: &View, mut superblock: Superblock) -> Superblock {
    if superblock.fs == FsType::Xfs {
        superblock.never_mounted = xfs::first_transaction_at(&view.head)
            .and_then(|at| region(reader, at, 512).ok())
            .map(|block| first_set(&block).is_none());
    }
    superblock
}

/// No signature in head and tail: is it zero, there and everywhere else that is looked at?
fn beyond<R: Read + Seek>(reader: &mut R, view: &View) -> Verdict {
    for (offset, what) in copies(view.size) {
        let block = match region(reader, offset, SAMPLE as u64) {
            Ok(block) => block,
            Err(why) => return Verdict::Unreadable { why },
        };
        let copy = match what {
            Copy::Ext => ext::resembles(&block),
            Copy::Xfs => block.starts_with(xfs::MAGIC),
            Copy::Btrfs => btrfs::resembles(&block),
        };
        if copy {
            return Verdict::Remnant {
                what: format!(
                    "a copy of {} superblock at offset {offset}, while the first is gone",
                    what.name()
                ),
            };
        }
    }
    if let Some(offset) = first_set(&view.head) {
        return Verdict::NonZero { offset };
    }
    for offset in samples(view.size) {
        match region(reader, offset, SAMPLE as u64) {
            Err(why) => return Verdict::Unreadable { why },
            Ok(block) => {
                if let Some(within) = first_set(&block) {
                    return Verdict::NonZero {
                        offset: offset + within,
                    };
                }
            }
        }
    }
    match first_set(&view.tail) {
        Some(within) => Verdict::NonZero {
            offset: view.tail_at + within,
        },
        None => Verdict::Zero,
    }
}

#[derive(Debug, Clone, Copy)]
enum Copy {
    Ext,
    Xfs,
    Btrfs,
}

impl Copy {
    fn name(self) -> &'static str {
        match self {
            Self::Ext => "an ext",
            Self::Xfs => "an XFS",
            Self::Btrfs => "a Btrfs",
        }
    }
}

/// Where copies of superblocks lie that mkfs makes with its defaults.
fn copies(size: u64) -> Vec<(u64, Copy)> {
    let mut places = Vec::new();
    // sparse_super: groups 1 and the powers of 3, 5, 7; a group is 8 * block size blocks, the first one of 1-KiB
    // blocks starts at block 1.
    for block in [1024_u64, 2048, 4096, 65536] {
        let first = u64::from(block == 1024);
        let at = |group: u64| ((group * 8 * block) + first) * block;
        places.extend([1, 3, 5, 7, 9, 25, 27, 49].map(|group| (at(group), Copy::Ext)));
    }
    places.extend(btrfs::MIRRORS.map(|at| (at, Copy::Btrfs)));
    // Four groups up to 4 TiB, also of the sizes that a disk had before it was grown (steps of 100 GiB), else 1 TiB.
    let quarter = (size / 4) & !4095;
    places.extend([quarter, 2 * quarter, 3 * quarter].map(|at| (at, Copy::Xfs)));
    places.extend((1..=20).map(|step| ((25 * step) << 30, Copy::Xfs)));
    places.extend((1..=4).map(|step| (step << 40, Copy::Xfs)));
    places.retain(|(at, _)| at.saturating_add(SAMPLE as u64) <= size);
    places
}

/// Places that must be zero on a blank disk, besides head and tail.
fn samples(size: u64) -> Vec<u64> {
    let step = size / (SAMPLES + 1);
    let even = (1..=SAMPLES).map(|n| (n * step) & !4095);
    let mut places: Vec<_> = even
        .chain(copies(size).into_iter().map(|(at, _)| at))
        .chain(marker::PLACES)
        .filter(|at| at.saturating_add(SAMPLE as u64) <= size)
        .collect();
    places.sort_unstable();
    places.dedup();
    places
}

/// Offset of the first byte that is not zero.
fn first_set(bytes: &[u8]) -> Option<u64> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut offset = 0;
    for chunk in bytes.chunks(ZEROS.len()) {
        // One memcmp for the usual case.
        if chunk != &ZEROS[..chunk.len()] {
            let within = chunk.iter().position(|byte| *byte != 0)?;
            return Some(offset + within as u64);
        }
        offset += chunk.len() as u64;
    }
    None
}

#[cfg(test)]
mod tests;
