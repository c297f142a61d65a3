//! The data that must survive: random bytes and their checksum.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use sha2::{Digest as _, Sha256};

/// One write.
const CHUNK: usize = 1 << 20;
/// How much is written.
pub(super) const MIB: usize = 16;

/// Written bytes: where, and what they were.
#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) path: PathBuf,
    pub(super) offset: u64,
    /// SHA-256, hexadecimal.
    pub(super) sum: String,
}

impl Written {
    /// The start of the checksum, for people.
    pub(super) fn short(&self) -> String {
        self.sum.chars().take(8).collect()
    }

    /// The same bytes under another path.
    pub(super) fn at(&self, path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            ..self.clone()
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .context("the work was cut off")?
}

/// Writes random bytes through to the disk.
pub(super) async fn write(path: PathBuf, offset: u64) -> anyhow::Result<Written> {
    blocking(move || {
        let what = || format!("cannot write {}", path.display());
        // A device node exists already; `create` is for files.
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(what)?;
        file.seek(SeekFrom::Start(offset)).with_context(what)?;
        let (mut hash, mut chunk) = (Sha256::new(), vec![0; CHUNK]);
        for _ in 0..MIB {
            fastrand::fill(&mut chunk);
            hash.update(&chunk);
            file.write_all(&chunk).with_context(what)?;
        }
        file.sync_all().with_context(what)?;
        let sum = hex(&hash.finalize());
        Ok(Written { path, offset, sum })
    })
    .await
}

/// Reads the bytes again and compares their checksum.
pub(super) async fn verify(written: Written) -> anyhow::Result<()> {
    blocking(move || {
        let what = || format!("cannot read {}", written.path.display());
        let mut file = File::open(&written.path).with_context(what)?;
        file.seek(SeekFrom::Start(written.offset))
            .with_context(what)?;
        let (mut hash, mut chunk) = (Sha256::new(), vec![0; CHUNK]);
        for _ in 0..MIB {
            file.read_exact(&mut chunk).with_context(what)?;
            hash.update(&chunk);
        }
        let sum = hex(&hash.finalize());
        ensure!(
            sum == written.sum,
            "{} does not hold what was written",
            written.path.display()
        );
        Ok(())
    })
    .await
}
