//! One small file per staged volume: what the node did to which device.
//!
//! A record is written before the first mount and removed after the last release, so that a NodeUnstageVolume after a
//! crash can finish what another began (unmounted, but the SCSI device still there). The kernel's state always wins
//! over a record; a record of an earlier boot is a hint that must be proved.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::error::NodeError;
use crate::domain::device::{DevNo, ScsiAddress};
use crate::domain::id::DiskName;

/// What is known of a staged volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The volume.
    pub(crate) volume: String,
    /// Staging path of the request.
    pub(crate) staging: PathBuf,
    /// Raw block, not a file system.
    pub(crate) block: bool,
    /// Slot: controller.
    bus: u8,
    /// Slot: target.
    target: u8,
    /// Device number: major.
    major: u32,
    /// Device number: minor.
    minor: u32,
    /// Unit serial number, where the hypervisor shows one.
    pub(crate) serial: Option<String>,
    /// The boot in which all this was true.
    pub(crate) boot: String,
}

impl Record {
    pub(crate) fn new(
        disk: &DiskName,
        staging: &Path,
        block: bool,
        at: ScsiAddress,
        devno: DevNo,
        serial: Option<String>,
        boot: &str,
    ) -> Self {
        Self {
            volume: disk.as_str().to_owned(),
            staging: staging.to_owned(),
            block,
            bus: at.bus,
            target: at.target,
            major: devno.major,
            minor: devno.minor,
            serial,
            boot: boot.to_owned(),
        }
    }

    pub(crate) fn address(&self) -> ScsiAddress {
        ScsiAddress {
            bus: self.bus,
            target: self.target,
        }
    }

    pub(crate) fn devno(&self) -> DevNo {
        DevNo {
            major: self.major,
            minor: self.minor,
        }
    }
}

/// The records of one node.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    dir: PathBuf,
    boot: String,
    /// What [`Records::all`] read last, by file: every stage looks at the records of all volumes. A hint of a hint:
    /// what is found is checked against the kernel, and a volume's own record is read from its file.
    seen: Arc<Mutex<HashMap<PathBuf, (Version, Record)>>>,
}

/// What tells one content of a file from the next: inode, length, time of the last change.
type Version = (u64, u64, i64, i64);

impl Records {
    /// Records below `state_dir`, valid for boot `boot`.
    pub(crate) fn new(state_dir: &Path, boot: &str) -> Self {
        Self {
            dir: state_dir.join("staged"),
            boot: boot.to_owned(),
            seen: Arc::default(),
        }
    }

    /// The running boot.
    pub(crate) fn boot(&self) -> &str {
        &self.boot
    }

    /// Whether a record speaks of the running boot: only then are its device numbers meaningful.
    pub(crate) fn current(&self, record: &Record) -> bool {
        record.boot == self.boot
    }

    fn path(&self, disk: &DiskName) -> PathBuf {
        // A disk name is 1 to 32 alphanumerics: it cannot leave the directory.
        self.dir.join(format!("{disk}.json"))
    }

    /// The record of a volume. A damaged file is told in the log and counts as none: it is a hint, not a truth.
    pub(crate) fn load(&self, disk: &DiskName) -> Result<Option<Record>, NodeError> {
        let path = self.path(disk);
        match fs::read(&path) {
            Ok(bytes) => Ok(parse(&path, &bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path, &error)),
        }
    }

    /// All records.
    pub(crate) fn all(&self) -> Result<Vec<Record>, NodeError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("list", &self.dir, &error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry
                .map_err(|error| failed("list", &self.dir, &error))?
                .path();
            if path.extension().is_none_or(|ending| ending != "json") {
                continue;
            }
            match self.look(&path) {
                Ok(record) => found.extend(record),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("read", &path, &error)),
            }
        }
        Ok(found)
    }

    fn look(&self, path: &Path) -> io::Result<Option<Record>> {
        let meta = fs::metadata(path)?;
        let version = (meta.ino(), meta.len(), meta.ctime(), meta.ctime_nsec());
        if let Some((then, record)) = self.seen().get(path)
            && *then == version
        {
            return Ok(Some(record.clone()));
        }
        let record = parse(path, &fs::read(path)?);
        if let Some(record) = &record {
            let entry = (version, record.clone());
            self.seen().insert(path.to_owned(), entry);
        }
        Ok(record)
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<PathBuf, (Version, Record)>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a record so that a kill leaves the old one or the new one, never half of one. Not synced: after a power
    /// cut the kernel has forgotten its devices, and there is nothing left to release.
    pub(crate) fn store(&self, disk: &DiskName, record: &Record) -> Result<(), NodeError> {
        let path = self.path(disk);
        let write = || -> io::Result<()> {
            fs::create_dir_all(&self.dir)?;
            let draft = path.with_extension("new");
            fs::write(&draft, serde_json::to_vec(record)?)?;
            fs::rename(&draft, &path)
        };
        self.seen().remove(&path);
        write().map_err(|error| failed("write", &path, &error))
    }

    /// Removes a record; missing is success.
    pub(crate) fn remove(&self, disk: &DiskName) -> Result<(), NodeError> {
        let path = self.path(disk);
        self.seen().remove(&path);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &path, &error))
            }
            _ => Ok(()),
        }
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Option<Record> {
    match serde_json::from_slice(bytes) {
        Ok(record) => Some(record),
        Err(error) => {
            tracing::warn!(?path, %error, "a record is damaged; the kernel's state is used instead");
            None
        }
    }
}

pub(super) fn failed(action: &'static str, path: &Path, error: &io::Error) -> NodeError {
    NodeError::Record {
        action,
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_and_a_damaged_one_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path(), "boot");
        let disk = DiskName::parse("abc").unwrap();
        assert_eq!(records.load(&disk).unwrap(), None);
        assert!(records.all().unwrap().is_empty());
        let at = ScsiAddress { bus: 0, target: 3 };
        let devno = DevNo {
            major: 8,
            minor: 16,
        };
        let record = Record::new(&disk, Path::new("/s"), false, at, devno, None, "boot");
        records.store(&disk, &record).unwrap();
        assert_eq!(records.load(&disk).unwrap(), Some(record.clone()));
        assert_eq!(records.all().unwrap(), std::slice::from_ref(&record));
        assert_eq!((record.address(), record.devno()), (at, devno));
        assert_eq!(records.all().unwrap(), std::slice::from_ref(&record));
        let moved = Record {
            minor: 32,
            ..record
        };
        records.store(&disk, &moved).unwrap();
        assert_eq!(records.all().unwrap(), [moved]);
        fs::write(records.path(&disk), b"{").unwrap();
        assert_eq!(records.load(&disk).unwrap(), None);
        assert_eq!(records.all().unwrap(), []);
        records.remove(&disk).unwrap();
        records.remove(&disk).unwrap();
    }
}
