//! Keeps the books in a directory: a snapshot and a journal of what changed since.
//!
//! ```text
//! state.json      the books at some moment; replaced as a whole (written beside, synced, renamed)
//! journal.jsonl   one line per committed call: the records it changed, as they were afterwards (null = gone)
//! lock            held while an emulator uses the directory
//! ```
//!
//! A line is handed to the kernel before its call is answered: an emulator that is killed forgets nothing that it
//! answered, whatever the number of disks. It is not synced for each call, so a machine that loses power may forget the
//! last ones. When the journal outgrows the snapshot, a new snapshot is made; as lines hold whole records, replaying
//! them over a newer snapshot changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::backend::BackendError;
use super::state::{DiskRecord, State, VmRecord};

/// Journals shorter than this are never worth a new snapshot.
const SHORT: u64 = 4 << 20;

/// One committed call.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    next_id: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    disks: BTreeMap<String, Option<DiskRecord>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    vms: BTreeMap<String, Option<VmRecord>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retired: Option<BTreeSet<String>>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    /// None after [`Store::close`].
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    journal: File,
    journal_len: u64,
    snapshot_len: u64,
    _lock: File,
}

impl Store {
    /// Takes the directory, and reads the books if there are any.
    pub(super) fn open(dir: &Path) -> Result<(Self, State), BackendError> {
        let failed = |e: &dyn std::fmt::Display| {
            BackendError::new(format!("use the state in {}", dir.display()), e)
        };
        std::fs::create_dir_all(dir).map_err(|e| failed(&e))?;
        let lock = File::create(dir.join("lock")).map_err(|e| failed(&e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(failed(
                    &"another emulator uses it; stop that one or name another directory",
                ));
            }
            Err(TryLockError::Error(e)) => return Err(failed(&e)),
        }
        let mut state = match std::fs::read(dir.join("state.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| failed(&e))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => State::default(),
            Err(e) => return Err(failed(&e)),
        };
        replay(&dir.join("journal.jsonl"), &mut state)?;
        let snapshot_len = snapshot(dir, &state).map_err(|e| failed(&e))?;
        let journal = File::create(dir.join("journal.jsonl")).map_err(|e| failed(&e))?;
        let store = Self {
            dir: dir.to_owned(),
            open: Mutex::new(Some(Open {
                journal,
                journal_len: 0,
                snapshot_len,
                _lock: lock,
            })),
        };
        Ok((store, state))
    }

    /// Writes what changed.
    pub(super) fn save(&self, state: &mut State) {
        let touched = state.take_touched();
        if touched.disks.is_empty() && touched.vms.is_empty() {
            return;
        }
        let mut open = self.lock();
        let Some(open) = open.as_mut() else { return };
        let line = Line {
            next_id: state.next_id,
            retired: (!touched.vms.is_empty()).then(|| state.retired.clone()),
            disks: records(touched.disks, &state.disks),
            vms: records(touched.vms, &state.vms),
        };
        let mut result = open.append(&line);
        if result.is_err() {
            // The line may be torn (the disk is full): only a new snapshot makes the journal whole again.
            open.journal_len = u64::MAX;
        }
        result = open.compact(&self.dir, state).and(result);
        if let Err(error) = result {
            tracing::error!(%error, dir = %self.dir.display(), "the state could not be written");
        }
    }

    /// Writes a snapshot and lets go of the directory.
    pub(super) fn close(&self, state: &State) {
        if self.lock().take().is_some()
            && let Err(error) = snapshot(&self.dir, state)
        {
            tracing::error!(%error, dir = %self.dir.display(), "the state could not be written");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn append(&mut self, line: &Line) -> std::io::Result<()> {
        if self.journal_len == u64::MAX {
            return Ok(());
        }
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        self.journal.write_all(&bytes)?;
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.journal_len = self.journal_len.saturating_add(len);
        Ok(())
    }

    fn compact(&mut self, dir: &Path, state: &State) -> std::io::Result<()> {
        if self.journal_len < SHORT.max(2 * self.snapshot_len) {
            return Ok(());
        }
        self.snapshot_len = snapshot(dir, state)?;
        self.journal = File::create(dir.join("journal.jsonl"))?;
        self.journal_len = 0;
        Ok(())
    }
}

fn records<R: Clone>(
    names: BTreeSet<String>,
    all: &BTreeMap<String, R>,
) -> BTreeMap<String, Option<R>> {
    names
        .into_iter()
        .map(|name| {
            let record = all.get(&name).cloned();
            (name, record)
        })
        .collect()
}

/// Replaces the snapshot. Answers its length.
fn snapshot(dir: &Path, state: &State) -> std::io::Result<u64> {
    let (path, new) = (dir.join("state.json"), dir.join("state.json.new"));
    let bytes = serde_json::to_vec(state)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&new)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, &path)?;
    File::open(dir)?.sync_all()?;
    Ok(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
}

fn replay(path: &Path, state: &mut State) -> Result<(), BackendError> {
    let failed = |e: &dyn std::fmt::Display| {
        BackendError::new(
            format!("read {}", path.display()),
            format!("{e}; move the file away to go on from state.json alone"),
        )
    };
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(&e)),
    };
    for (number, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        if !line.ends_with(b"\n") {
            // The emulator died while it wrote this line: its call was not answered.
            break;
        }
        let line: Line = serde_json::from_slice(line)
            .map_err(|e| failed(&format!("line {}: {e}", number + 1)))?;
        state.next_id = state.next_id.max(line.next_id);
        apply(line.disks, &mut state.disks);
        apply(line.vms, &mut state.vms);
        if let Some(retired) = line.retired {
            state.retired = retired;
        }
    }
    Ok(())
}

fn apply<R>(changed: BTreeMap<String, Option<R>>, all: &mut BTreeMap<String, R>) {
    for (name, record) in changed {
        match record {
            Some(record) => all.insert(name, record),
            None => all.remove(&name),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a killed emulator leaves the directory: without a last snapshot.
    fn kill(store: Store) {
        drop(store);
    }

    #[test]
    fn a_killed_emulator_forgets_nothing_and_a_torn_line_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let (store, mut state) = Store::open(dir.path()).unwrap();
        for n in 0..2000 {
            state.insert_vm(&format!("vm{n}"), "z", "running");
            store.save(&mut state);
        }
        state.delete_vm("vm7").unwrap();
        store.save(&mut state);
        kill(store);
        let mut journal = OpenOptions::new()
            .append(true)
            .open(dir.path().join("journal.jsonl"))
            .unwrap();
        journal
            .write_all(b"{\"next_id\":99999,\"vms\":{\"vm1")
            .unwrap();
        let (store, read) = Store::open(dir.path()).unwrap();
        assert_eq!(read, state);
        kill(store);
        let (_store, again) = Store::open(dir.path()).unwrap();
        assert_eq!(again, state);
    }

    #[test]
    fn a_journal_that_outgrows_its_snapshot_is_folded_into_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let (store, mut state) = Store::open(dir.path()).unwrap();
        state.insert_vm("vm", "z", &"s".repeat(1 << 20));
        for _ in 0..9 {
            state.vm_mut("vm");
            store.save(&mut state);
        }
        let length = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(length("journal.jsonl") < 6 << 20 && length("state.json") > 1 << 20);
        kill(store);
        assert_eq!(Store::open(dir.path()).unwrap().1, state);
    }

    #[test]
    fn a_journal_older_than_the_snapshot_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (store, mut state) = Store::open(dir.path()).unwrap();
        state.insert_vm("a", "z", "running");
        store.save(&mut state);
        state.rename_vm("a", "b").unwrap();
        store.save(&mut state);
        // The snapshot is there, and the emulator dies before it empties the journal.
        snapshot(dir.path(), &state).unwrap();
        kill(store);
        assert_eq!(Store::open(dir.path()).unwrap().1, state);
    }

    #[test]
    fn a_directory_serves_one_emulator_and_a_damaged_journal_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path()).unwrap();
        let error = Store::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("another emulator"), "{error}");
        kill(store);
        std::fs::write(dir.path().join("journal.jsonl"), "nonsense\n{}\n").unwrap();
        let error = Store::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
    }
}
