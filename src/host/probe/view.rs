//! The regions of a disk that the prober holds in memory: its beginning and its end.

/// What was read.
#[derive(Debug)]
pub(super) struct View {
    pub(super) head: Vec<u8>,
    pub(super) tail: Vec<u8>,
    pub(super) tail_at: u64,
    pub(super) size: u64,
}

impl View {
    /// `length` bytes at `offset`, if they are held.
    pub(super) fn bytes(&self, offset: u64, length: usize) -> Option<&[u8]> {
        slice(&self.head, offset, length).or_else(|| {
            let within = offset.checked_sub(self.tail_at)?;
            slice(&self.tail, within, length)
        })
    }

    /// Whether these bytes are at `offset`.
    pub(super) fn has(&self, offset: u64, magic: &[u8]) -> bool {
        self.bytes(offset, magic.len()) == Some(magic)
    }

    /// As [`View::has`], counted from the end of the disk.
    pub(super) fn has_at_end(&self, before_end: u64, magic: &[u8]) -> bool {
        self.size
            .checked_sub(before_end)
            .is_some_and(|offset| self.has(offset, magic))
    }
}

fn slice(bytes: &[u8], offset: u64, length: usize) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    bytes.get(start..start.checked_add(length)?)
}

fn array<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let end = offset.saturating_add(N);
    bytes
        .get(offset..end)
        .and_then(|part| part.try_into().ok())
        .unwrap_or([0; N])
}

/// Little-endian numbers of on-disk structures; zero beyond the end.
pub(super) fn le16(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(array(bytes, offset))
}
pub(super) fn le32(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(array(bytes, offset))
}
pub(super) fn le64(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(array(bytes, offset))
}
/// Big-endian ones (XFS).
pub(super) fn be16(bytes: &[u8], offset: usize) -> u16 {
    u16::from_be_bytes(array(bytes, offset))
}
pub(super) fn be32(bytes: &[u8], offset: usize) -> u32 {
    u32::from_be_bytes(array(bytes, offset))
}
pub(super) fn be64(bytes: &[u8], offset: usize) -> u64 {
    u64::from_be_bytes(array(bytes, offset))
}
/// Sixteen bytes of a UUID.
pub(super) fn uuid(bytes: &[u8], offset: usize) -> [u8; 16] {
    array(bytes, offset)
}
