//! Reading a disk past the page cache.
//!
//! Why: after a lost hot-plug event the kernel may keep pages of the disk that was at this address before. A
//! probe that believes them would call a full disk blank, or the wrong disk ours.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use crate::host::device::{self, Open};
use crate::host::{BlockDevice, HostError, fault};

/// Largest logical sector; O_DIRECT wants offset, length and buffer aligned to the sector.
const ALIGN: usize = 4096;
const WINDOW: usize = 1 << 20;

/// `Read + Seek` over a descriptor opened with O_DIRECT.
#[derive(Debug)]
pub(in crate::host) struct DirectReader {
    file: File,
    size: u64,
    at: u64,
    buffer: Vec<u8>,
}

impl DirectReader {
    pub(in crate::host) fn new(file: File, size: u64) -> Self {
        Self {
            file,
            size,
            at: 0,
            buffer: Vec::new(),
        }
    }
}

impl Read for DirectReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.size.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let wanted = out.len().min(left);
        if wanted == 0 {
            return Ok(0);
        }
        let skip = usize::try_from(self.at % ALIGN as u64).unwrap_or(0);
        let start = self.at - skip as u64;
        let to_end = usize::try_from(self.size - start).unwrap_or(usize::MAX);
        let length = (skip + wanted)
            .next_multiple_of(ALIGN)
            .min(WINDOW)
            .min(to_end);
        if self.buffer.len() < length + ALIGN {
            self.buffer.resize(length + ALIGN, 0);
        }
        let aligned = self.buffer.as_ptr().align_offset(ALIGN);
        let window = &mut self.buffer[aligned..aligned + length];
        let got = self.file.read_at(window, start)?;
        let usable = got.saturating_sub(skip).min(wanted);
        out[..usable].copy_from_slice(&window[skip..skip + usable]);
        self.at += usable as u64;
        Ok(usable)
    }
}

impl Seek for DirectReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(delta) => self.size.checked_add_signed(delta),
            SeekFrom::Current(delta) => self.at.checked_add_signed(delta),
        };
        self.at = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

/// Reads the first sector past the page cache, and drops what the cache has of a disk that was there before: whoever
/// mounts or checks reads through it.
pub(in crate::host) fn first_sector(target: &BlockDevice) -> Result<(), HostError> {
    let file = device::open(target, Open::Direct)?;
    device::forget(&file, target)?;
    let mut sector = [0; 512];
    DirectReader::new(file, u64::MAX)
        .read_exact(&mut sector)
        .map_err(|error| fault::io("read the first sector of", &target.path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_offset_and_length_gives_the_files_bytes() {
        // An ordinary file has no alignment to keep; the arithmetic is the same.
        let mut bytes = Vec::new();
        while bytes.len() < 3 * WINDOW + 512 {
            bytes.extend(u64::try_from(bytes.len()).unwrap().to_le_bytes());
        }
        let temp = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(temp.path(), &bytes).unwrap();
        let file = File::open(temp.path()).unwrap();
        let mut reader = DirectReader::new(file, bytes.len() as u64);
        for (at, length) in [
            (0, 10),
            (4095, 2),
            (511, 4096),
            (WINDOW - 1, WINDOW + 5),
            (bytes.len() - 3, 3),
        ] {
            reader.seek(SeekFrom::Start(at as u64)).unwrap();
            let mut out = vec![0; length];
            reader.read_exact(&mut out).unwrap();
            assert_eq!(out, bytes[at..at + length], "{at}+{length}");
        }
        let mut rest = Vec::new();
        assert_eq!(reader.read_to_end(&mut rest).unwrap(), 0);
    }
}
