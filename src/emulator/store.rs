//! Keeps the books in one JSON file.
//!
//! Small books are written before the call is answered, so that a killed emulator forgets nothing that it answered.
//! Large ones (thousands of disks, as in tests of scale) are written at most five times a second.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::backend::BackendError;
use super::state::State;

const SMALL: usize = 500;
const PAUSE: Duration = Duration::from_millis(200);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    last: Mutex<Option<Instant>>,
}

impl Store {
    /// Opens the file in `dir`, and reads the books if there are any.
    pub(super) fn open(dir: &Path) -> Result<(Self, Option<State>), BackendError> {
        let failed = |e: &dyn std::fmt::Display| {
            BackendError::new(format!("read the state in {}", dir.display()), e)
        };
        std::fs::create_dir_all(dir).map_err(|e| failed(&e))?;
        let path = dir.join("state.json");
        let state = match std::fs::read(&path) {
            Ok(bytes) => Some(serde_json::from_slice(&bytes).map_err(|e| failed(&e))?),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(failed(&e)),
        };
        Ok((
            Self {
                path,
                last: Mutex::new(None),
            },
            state,
        ))
    }

    /// Writes the books now, or leaves it to a later call if they are large and were written a moment ago.
    pub(super) fn save(&self, state: &State) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = last.is_some_and(|last| last.elapsed() < PAUSE);
        if state.disks.len() > SMALL && recent {
            return;
        }
        self.write(state);
        *last = Some(Instant::now());
    }

    /// Writes the books now.
    pub(super) fn flush(&self, state: &State) {
        let _last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        self.write(state);
    }

    fn write(&self, state: &State) {
        let temporary = self.path.with_extension("json.new");
        let result = serde_json::to_vec(state)
            .map_err(std::io::Error::other)
            .and_then(|bytes| {
                let mut file = std::fs::File::create(&temporary)?;
                file.write_all(&bytes)?;
                std::fs::rename(&temporary, &self.path)
            });
        if let Err(error) = result {
            tracing::error!(%error, path = %self.path.display(), "the state could not be written");
        }
    }
}
