//! Usage of a file system, without ever hanging on a dead one.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use nix::sys::statvfs::{Statvfs, statvfs};

use super::wait::{bounded, millis};
use super::{FsStats, HostError, Usage, fault};

/// Paths with a `statvfs` under way: one at a time each. The kubelet asks every minute: without this a mount that
/// hangs would collect a thread per minute.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked(Arc<Pending>);

#[derive(Debug, Default)]
struct Pending {
    paths: Mutex<HashSet<PathBuf>>,
    answered: Condvar,
}

impl Asked {
    /// `statvfs`, bounded. Waits for an earlier question about the same path.
    pub(super) fn statvfs(&self, path: &Path, deadline: Instant) -> Result<Statvfs, HostError> {
        let what = format!("statvfs of {}", path.display());
        self.0.begin(path, &what, deadline)?;
        let (mine, pending) = (path.to_owned(), Arc::clone(&self.0));
        let answer = bounded(&what, deadline, move || {
            let answer = statvfs(&mine);
            pending.end(&mine);
            answer
        });
        if matches!(answer, Err(HostError::Io { .. })) {
            // The thread never started.
            self.0.end(path);
        }
        answer?.map_err(|errno| fault::sys("statvfs", path, errno))
    }

    /// Usage as the kubelet shows it.
    pub(super) fn usage(&self, path: &Path, deadline: Instant) -> Result<FsStats, HostError> {
        Ok(usage(&self.statvfs(path, deadline)?))
    }
}

impl Pending {
    fn begin(&self, path: &Path, what: &str, deadline: Instant) -> Result<(), HostError> {
        let started = Instant::now();
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        while !paths.insert(path.to_owned()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(HostError::TimedOut {
                    what: format!("an earlier {what}"),
                    limit_ms: millis(started.elapsed()),
                });
            }
            (paths, _) =
                (self.answered.wait_timeout(paths, left)).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    fn end(&self, path: &Path) {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        paths.remove(path);
        self.answered.notify_all();
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn many_may_ask_at_once_and_one_that_hangs_stops_only_its_own_path() {
        let asked = Asked::default();
        let soon = Instant::now() + Duration::from_secs(30);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| asked.usage(Path::new("/"), soon).unwrap());
            }
        });
        asked.0.begin(Path::new("/hangs"), "", soon).unwrap();
        let again = asked
            .statvfs(Path::new("/hangs"), Instant::now())
            .unwrap_err();
        assert!(matches!(again, HostError::TimedOut { .. }), "{again:?}");
        asked.usage(Path::new("/"), soon).unwrap();
        asked.0.end(Path::new("/hangs"));
        let missing = asked.statvfs(Path::new("/hangs"), soon).unwrap_err();
        assert!(matches!(missing, HostError::Io { .. }), "{missing:?}");
    }
}
