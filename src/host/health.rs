//! What the kernel shows about a disk in trouble. Reads only; never hangs on a dead mount.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::device::{Kernel, names, number, text};
use super::mount::Table;
use super::stats::Asked;
use super::{Finding, HostError, MountEntry, Severity};
use crate::domain::device::DevNo;

/// How long a mount may take to answer before it counts as dead.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the look needs.
#[derive(Debug)]
pub(super) struct Examiner<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) table: &'a Table,
    pub(super) asked: &'a Asked,
}

fn finding(severity: Severity, reason: &'static str, message: String) -> Finding {
    Finding {
        severity,
        reason,
        message,
    }
}

impl Examiner<'_> {
    /// Everything that is wrong, worst first.
    pub(super) fn findings(
        &self,
        devno: DevNo,
        mounted_at: Option<&Path>,
    ) -> Result<Vec<Finding>, HostError> {
        let mut found: Vec<_> = self.device(devno).into_iter().collect();
        if let Some(path) = mounted_at {
            match self.table.at(path)? {
                None => found.push(finding(
                    Severity::Inaccessible,
                    "NotMounted",
                    format!("nothing is mounted at {}; restart the pod", path.display()),
                )),
                Some(entry) if entry.devno != devno => found.push(finding(
                    Severity::Inaccessible,
                    "WrongDevice",
                    format!(
                        "{} is a mount of device {} ({}), not of {devno}; restart the pod",
                        path.display(),
                        entry.devno,
                        entry.source
                    ),
                )),
                Some(entry) => found.extend(self.mounted(devno, path, &entry)),
            }
        }
        found.sort_by_key(|one| match one.severity {
            Severity::DataLoss => 0,
            Severity::Inaccessible => 1,
            Severity::Degraded => 2,
        });
        Ok(found)
    }

    fn device(&self, devno: DevNo) -> Option<Finding> {
        let gone = |message: String| Some(finding(Severity::Inaccessible, "DeviceGone", message));
        let Some(directory) = self.kernel.directory(devno) else {
            return gone(format!(
                "the kernel has no device {devno} any more: the disk was detached from the VM while in use"
            ));
        };
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        if number(&directory.join("size")) == Some(0) {
            return gone(format!("{name} has no medium any more"));
        }
        if let Some(state) = text(&directory.join("device/state"))
            && state != "running"
        {
            return Some(finding(
                Severity::Inaccessible,
                "DeviceOffline",
                format!(
                    "the kernel has taken {name} offline (state {state}) after I/O errors or a removal"
                ),
            ));
        }
        (number(&directory.join("ro")) == Some(1)).then(|| {
            finding(
                Severity::Degraded,
                "DeviceReadOnly",
                format!("{name} is write-protected by the hypervisor or by an administrator"),
            )
        })
    }

    fn mounted(&self, devno: DevNo, path: &Path, entry: &MountEntry) -> Vec<Finding> {
        let mut found = Vec::new();
        let has = |word: &str| entry.super_options.iter().any(|option| option == word);
        let per_mount_ro = entry.options.iter().any(|option| option == "ro");
        if has("shutdown") {
            found.push(finding(
                Severity::Inaccessible,
                "FileSystemShutDown",
                format!(
                    "{} was shut down by the kernel after an error",
                    entry.fs_type
                ),
            ));
        } else if has("emergency_ro") || (has("ro") && !per_mount_ro) {
            found.push(finding(
                Severity::Degraded,
                "RemountedReadOnly",
                format!(
                    "{} was turned read-only by the kernel after an error; stop the pod and let the volume be \
                     staged again, which checks it",
                    entry.fs_type
                ),
            ));
        }
        let answer = self.asked.statvfs(path, Instant::now() + PATIENCE);
        match answer {
            Err(HostError::TimedOut { .. }) => found.push(finding(
                Severity::Inaccessible,
                "MountHangs",
                format!(
                    "{} does not answer; its device is probably gone",
                    path.display()
                ),
            )),
            Err(HostError::Io {
                errno: Some(errno),
                reason,
                ..
            }) if [Errno::EIO, Errno::ENXIO, Errno::ENODEV, Errno::ESTALE]
                .contains(&Errno::from_raw(errno)) =>
            {
                found.push(finding(
                    Severity::Inaccessible,
                    "MountDead",
                    format!("{} gives {reason}", path.display()),
                ));
            }
            _ => {}
        }
        found.extend(self.errors(devno, &entry.fs_type));
        found
    }

    /// Error counters that file systems keep in sysfs.
    fn errors(&self, devno: DevNo, fs_type: &str) -> Vec<Finding> {
        let Some(name) = self.kernel.name(devno) else {
            return Vec::new();
        };
        let fs = self.kernel.sysfs.join("fs");
        if fs_type.starts_with("ext") {
            let count = number(&fs.join("ext4").join(name).join("errors_count")).unwrap_or(0);
            let recorded = (count > 0).then(|| {
                finding(
                    Severity::Degraded,
                    "FileSystemErrors",
                    format!(
                        "{fs_type} has recorded {count} errors; it is checked at the next stage"
                    ),
                )
            });
            return recorded.into_iter().collect();
        }
        if fs_type == "btrfs" {
            btrfs_errors(&fs.join("btrfs"), &name)
        } else {
            Vec::new()
        }
    }
}

/// What Btrfs has counted of a disk since it was formatted (the kernel's fs/btrfs/sysfs.c, `error_stats`).
fn btrfs_errors(directory: &Path, disk: &str) -> Vec<Finding> {
    let (mut corrupt, mut failed) = (Vec::new(), Vec::new());
    for uuid in names(directory) {
        let directory = directory.join(uuid);
        if !directory.join("devices").join(disk).exists() {
            continue;
        }
        for id in names(&directory.join("devinfo")) {
            let stats = text(&directory.join("devinfo").join(id).join("error_stats"));
            for line in stats.unwrap_or_default().lines() {
                match line.split_once(' ') {
                    Some((_, "0")) => {}
                    // Blocks whose checksum or age is not that of what was written.
                    Some(("corruption_errs" | "generation_errs", _)) => {
                        corrupt.push(line.to_owned());
                    }
                    _ => failed.push(line.to_owned()),
                }
            }
        }
    }
    let told = |lines: Vec<String>, severity, reason, what: &str| {
        let message = format!("Btrfs has {what}: {}", lines.join(", "));
        (!lines.is_empty()).then(|| finding(severity, reason, message))
    };
    let corrupt = told(
        corrupt,
        Severity::DataLoss,
        "BlocksCorrupted",
        "read blocks that are not what was written; `btrfs scrub` names the files, which must come from a backup",
    );
    let failed = told(
        failed,
        Severity::Degraded,
        "DeviceErrors",
        "counted errors of the disk",
    );
    corrupt.into_iter().chain(failed).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const SDB: DevNo = DevNo {
        major: 8,
        minor: 16,
    };

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let tree = Self(dir);
            tree.put("block/sdb/size", "2048");
            tree.put("block/sdb/ro", "0");
            tree.put("block/sdb/device/state", "running");
            tree.put("mountinfo", "");
            fs::create_dir_all(tree.0.path().join("dev/block")).unwrap();
            symlink(
                tree.0.path().join("block/sdb"),
                tree.0.path().join("dev/block/8:16"),
            )
            .unwrap();
            tree
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        /// A row for the tree's own directory, which statvfs can answer for.
        fn mounted(&self, devno: &str, options: &str, kind: &str, superblock: &str) {
            let at = self.0.path().canonicalize().unwrap();
            let row = format!(
                "40 30 {devno} / {} {options} - {kind} /dev/sdb {superblock}\n",
                at.display()
            );
            self.put("mountinfo", &row);
        }

        fn reasons(&self, mounted: bool) -> Vec<&'static str> {
            let kernel = Kernel {
                sysfs: self.0.path().to_owned(),
                dev: "/dev".into(),
            };
            let table = Table {
                path: self.0.path().join("mountinfo"),
            };
            let examiner = Examiner {
                kernel: &kernel,
                table: &table,
                asked: &Asked::default(),
            };
            let at = mounted.then(|| self.0.path());
            examiner
                .findings(SDB, at)
                .unwrap()
                .iter()
                .map(|one| one.reason)
                .collect()
        }
    }

    #[test]
    fn a_running_disk_and_a_writable_mount_are_healthy() {
        let tree = Tree::new();
        assert_eq!(tree.reasons(false), [""; 0]);
        tree.mounted("8:16", "ro", "ext4", "rw");
        assert_eq!(tree.reasons(true), [""; 0]);
        tree.mounted("8:16", "ro", "ext4", "ro");
        assert_eq!(tree.reasons(true), [""; 0], "asked to be read-only");
    }

    #[test]
    fn every_trouble_has_its_reason() {
        let tree = Tree::new();
        assert_eq!(tree.reasons(true), ["NotMounted"]);
        tree.mounted("8:32", "rw", "ext4", "rw");
        assert_eq!(tree.reasons(true), ["WrongDevice"]);
        tree.mounted("8:16", "rw", "ext4", "ro");
        assert_eq!(tree.reasons(true), ["RemountedReadOnly"]);
        tree.mounted("8:16", "rw", "ext4", "rw,emergency_ro");
        tree.put("fs/ext4/sdb/errors_count", "3");
        assert_eq!(
            tree.reasons(true),
            ["RemountedReadOnly", "FileSystemErrors"]
        );
        tree.mounted("8:16", "rw", "ext4", "rw,shutdown");
        tree.put("fs/ext4/sdb/errors_count", "0");
        assert_eq!(tree.reasons(true), ["FileSystemShutDown"]);
        tree.mounted("8:16", "rw", "btrfs", "rw");
        tree.put("fs/btrfs/uuid/devices/sdb/x", "");
        tree.put(
            "fs/btrfs/uuid/devinfo/1/error_stats",
            "write_errs 0\nread_errs 2\n",
        );
        assert_eq!(tree.reasons(true), ["DeviceErrors"]);
        tree.put(
            "fs/btrfs/uuid/devinfo/1/error_stats",
            "write_errs 0\nread_errs 2\ncorruption_errs 7\ngeneration_errs 0\n",
        );
        assert_eq!(tree.reasons(true), ["BlocksCorrupted", "DeviceErrors"]);
        tree.put("block/sdb/ro", "1");
        assert_eq!(tree.reasons(false), ["DeviceReadOnly"]);
        tree.put("block/sdb/device/state", "offline");
        assert_eq!(tree.reasons(false), ["DeviceOffline"]);
        tree.put("block/sdb/size", "0");
        assert_eq!(tree.reasons(false), ["DeviceGone"]);
        fs::remove_file(tree.0.path().join("dev/block/8:16")).unwrap();
        assert_eq!(tree.reasons(false), ["DeviceGone"]);
    }
}
