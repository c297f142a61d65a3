//! Usage of a file system, without ever hanging on a dead one.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use nix::sys::statvfs::{Statvfs, statvfs};

use super::wait::bounded;
use super::{FsStats, HostError, Usage, fault};

/// Paths with a `statvfs` under way. The kubelet asks every minute: without this a mount that hangs would collect
/// a thread per minute.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked(Arc<Mutex<HashSet<PathBuf>>>);

impl Asked {
    /// `statvfs`, bounded.
    pub(super) fn statvfs(&self, path: &Path, deadline: Instant) -> Result<Statvfs, HostError> {
        let what = format!("statvfs of {}", path.display());
        if !self.lock().insert(path.to_owned()) {
            return Err(HostError::TimedOut {
                what: format!("an earlier {what}"),
                limit_ms: 0,
            });
        }
        let (mine, asked) = (path.to_owned(), self.clone());
        let answer = bounded(&what, deadline, move || {
            let answer = statvfs(&mine);
            asked.lock().remove(&mine);
            answer
        });
        if matches!(answer, Err(HostError::Io { .. })) {
            // The thread never started.
            self.lock().remove(path);
        }
        answer?.map_err(|errno| fault::sys("statvfs", path, errno))
    }

    /// Usage as the kubelet shows it.
    pub(super) fn usage(&self, path: &Path, deadline: Instant) -> Result<FsStats, HostError> {
        Ok(usage(&self.statvfs(path, deadline)?))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[allow(
    clippy::useless_conversion,
    reason = "the C types of statvfs are narrower on 32-bit targets"
)]
fn usage(stats: &Statvfs) -> FsStats {
    let block = u64::from(stats.fragment_size());
    let of = |total: u64, free: u64, available: u64, unit: u64| Usage {
        total: total.saturating_mul(unit),
        available: available.saturating_mul(unit),
        used: total.saturating_sub(free).saturating_mul(unit),
    };
    FsStats {
        bytes: of(
            u64::from(stats.blocks()),
            u64::from(stats.blocks_free()),
            u64::from(stats.blocks_available()),
            block,
        ),
        inodes: of(
            u64::from(stats.files()),
            u64::from(stats.files_free()),
            u64::from(stats.files_available()),
            1,
        ),
    }
}
