//! Which file system a volume had when this node used it last: all the proof of identity that there is for a volume whose
//! context promises no UUID, as that of the Go driver or of an imported disk.
//!
//! One file per volume, with the UUID in it. It outlives the unstage, and reboots if the state directory does. It says
//! nothing at the first stage on a node.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::NodeError;
use super::records::failed;
use crate::domain::id::{DiskName, FsUuid};

/// Files that are kept: more volumes than a node sees in years. The oldest go.
const MOST: usize = 256;

/// The file systems of one node's volumes.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    dir: PathBuf,
}

impl Known {
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self {
            dir: state_dir.join("known"),
        }
    }

    /// The file of a volume.
    pub(crate) fn path(&self, disk: &DiskName) -> PathBuf {
        // A disk name is 1 to 32 alphanumerics: it cannot leave the directory.
        self.dir.join(disk.as_str())
    }

    /// The UUID that the volume's file system had. A damaged file counts as none.
    pub(crate) fn recall(&self, disk: &DiskName) -> Result<Option<FsUuid>, NodeError> {
        let path = self.path(disk);
        match fs::read(&path) {
            Ok(bytes) => Ok(FsUuid::parse(String::from_utf8_lossy(&bytes).trim())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path, &error)),
        }
    }

    /// Remembers it.
    pub(crate) fn keep(&self, disk: &DiskName, uuid: &FsUuid) -> Result<(), NodeError> {
        let path = self.path(disk);
        let write = || -> io::Result<()> {
            fs::create_dir_all(&self.dir)?;
            let draft = self.dir.join(format!(".{disk}"));
            fs::write(&draft, format!("{uuid}\n"))?;
            fs::rename(&draft, &path)?;
            self.prune()
        };
        write().map_err(|error| failed("write", &path, &error))
    }

    fn prune(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if let Ok(changed) = entry.metadata().and_then(|about| about.modified()) {
                files.push((changed, entry.path()));
            }
        }
        if files.len() <= MOST {
            return Ok(());
        }
        files.sort();
        for (_, path) in &files[..files.len() - MOST] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_kept_and_the_oldest_go_when_there_are_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let known = Known::new(dir.path());
        let disk = |n: usize| DiskName::parse(&format!("disk{n}")).unwrap();
        let uuid = |n: usize| disk(n).fs_uuid();
        assert_eq!(known.recall(&disk(0)).unwrap(), None);
        for n in 0..MOST + 5 {
            known.keep(&disk(n), &uuid(n)).unwrap();
        }
        let left = fs::read_dir(dir.path().join("known")).unwrap().count();
        assert_eq!(left, MOST);
        assert_eq!(known.recall(&disk(0)).unwrap(), None);
        let last = MOST + 4;
        assert_eq!(known.recall(&disk(last)).unwrap(), Some(uuid(last)));
        fs::write(known.path(&disk(last)), b"x").unwrap();
        assert_eq!(known.recall(&disk(last)).unwrap(), None);
    }
}
