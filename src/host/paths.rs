//! Paths of mount points: resolved and made without touching what is mounted on them.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{HostError, fault};

/// The path as mountinfo shows it: symlinks of the parent directories are followed, the last component is not
/// looked at. A `stat` of the mount point itself may hang when its device is gone; its parents are other mounts.
pub(super) fn settled(target: &Path) -> PathBuf {
    let resolved = target
        .parent()
        .and_then(|parent| Some(resolve(parent)?.join(target.file_name()?)));
    resolved.unwrap_or_else(|| target.to_owned())
}

/// A directory's path without symlinks. The kernel is asked for it: three calls, however deep it is.
fn resolve(directory: &Path) -> Option<PathBuf> {
    let opened = fs::OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_PATH | nix::libc::O_DIRECTORY)
        .open(directory)
        .ok()?;
    let path = fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd())).ok()?;
    // Renamed or removed meanwhile, or outside this root, it has another form.
    path.is_absolute().then_some(path)
}

/// Makes the directory and its parents if missing. Only the kubelet and root look into them: mode 0750.
pub(super) fn make_dir(target: &Path) -> Result<(), HostError> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(target);
    match made {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(HostError::WrongKind {
            path: target.to_owned(),
            expected: "a directory",
            found: "something else is there".to_owned(),
        }),
        Err(error) => Err(fault::io("make directory", target, &error)),
    }
}

/// Makes an empty file to bind a device node onto, if missing.
pub(super) fn make_file(target: &Path) -> Result<(), HostError> {
    if let Some(parent) = target.parent() {
        make_dir(parent)?;
    }
    let made = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o660)
        .open(target);
    match made {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => match target.symlink_metadata() {
            Ok(meta) if meta.is_file() => Ok(()),
            _ => Err(HostError::WrongKind {
                path: target.to_owned(),
                expected: "a file to bind the device onto",
                found: "something else is there".to_owned(),
            }),
        },
        Err(error) => Err(fault::io("make file", target, &error)),
    }
}

/// Removes an empty directory or a file; missing is success. Never removes what a directory contains.
pub(super) fn remove(target: &Path) -> Result<(), HostError> {
    let removed = match fs::remove_dir(target) {
        Err(error) if error.kind() == ErrorKind::NotADirectory => fs::remove_file(target),
        other => other,
    };
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Err(HostError::WrongKind {
            path: target.to_owned(),
            expected: "an empty directory",
            found: "files are in it, which would be lost; nothing was removed".to_owned(),
        }),
        other => other.map_err(|error| fault::io("remove", target, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_resolved_and_the_last_component_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        fs::create_dir(real.join("real")).unwrap();
        std::os::unix::fs::symlink(real.join("real"), real.join("link")).unwrap();
        std::os::unix::fs::symlink("/", real.join("real/last")).unwrap();
        assert_eq!(settled(&real.join("link/last")), real.join("real/last"));
        assert_eq!(settled(&real.join("no/such")), real.join("no/such"));
    }

    #[test]
    fn removal_takes_files_and_empty_directories_but_never_contents() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a/b");
        make_dir(&target).unwrap();
        fs::write(target.join("file"), "x").unwrap();
        assert!(matches!(remove(&target), Err(HostError::WrongKind { .. })));
        assert!(target.join("file").exists());
        remove(&target.join("file")).unwrap();
        remove(&target).unwrap();
        remove(&target).unwrap();
        assert!(!target.exists());
        make_file(&target).unwrap();
        make_file(&target).unwrap();
        assert!(matches!(
            make_dir(&target),
            Err(HostError::WrongKind { .. })
        ));
        remove(&target).unwrap();
    }
}
