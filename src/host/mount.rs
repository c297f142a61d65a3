//! mount(2), bind mounts, umount2(2), each verified in mountinfo afterwards.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, umount2};
use sys_mount::{Mount, MountFlags};

use super::device::{self, Open};
use super::wait::Backoff;
use super::{BlockDevice, HostError, MountEntry, Mounts, fault, paths};
use crate::domain::capability::FsType;

/// Bytes of a mount table; the kernel allows 100 000 mounts (sysctl fs.mount-max), a row has a few hundred bytes.
const MOST: u64 = 1 << 30;
/// How long a mount may be busy before somebody is taken to use it. Who looks at mounts in passing is gone sooner, and so
/// is a tool that is being started and has this process's open files until it runs.
const PASSING: Duration = Duration::from_secs(1);

/// The mount table of this process's namespace.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) path: PathBuf,
}

/// Options taken apart: what mount(2) takes as flags, and what the file system takes as text.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Split {
    flags: MountFlags,
    data: Vec<String>,
}

impl Table {
    /// All mounts.
    pub(super) fn read(&self) -> Result<Vec<MountEntry>, HostError> {
        Ok(self.mounts()?.all())
    }

    fn bytes(&self) -> Result<Vec<u8>, HostError> {
        // The file tells no size: reading would begin with a few bytes.
        let mut bytes = Vec::with_capacity(16 << 10);
        fs::File::open(&self.path)
            .and_then(|file| file.take(MOST).read_to_end(&mut bytes))
            .map_err(|error| fault::io("read", &self.path, &error))?;
        Ok(bytes)
    }

    /// The table of this moment, to be asked more than once.
    pub(super) fn mounts(&self) -> Result<Mounts, HostError> {
        Ok(Mounts::text(self.bytes()?))
    }

    /// The topmost mount at exactly this path.
    pub(super) fn at(&self, target: &Path) -> Result<Option<MountEntry>, HostError> {
        Ok(self.mounts()?.at(target))
    }

    /// Mounts a file system on a directory.
    pub(super) fn mount(
        &self,
        source: &BlockDevice,
        target: &Path,
        fs: FsType,
        options: &[String],
    ) -> Result<Mounts, HostError> {
        let Split { flags, mut data } = split(fs, options)?;
        // XFS refuses a UUID that is mounted already, also when that mount is the dead one of this very disk
        // before it was hot-removed. Who is who is decided by device number and by the UUID itself.
        if fs == FsType::Xfs && !data.iter().any(|option| option == "nouuid") {
            data.push("nouuid".to_owned());
        }
        paths::make_dir(target)?;
        // Held until the mount is there: an open device keeps its number.
        let _held = device::open(source, Open::Read)?;
        let joined = data.join(",");
        let mut builder = Mount::builder().fstype(fs.name()).flags(flags);
        if !joined.is_empty() {
            builder = builder.data(&joined);
        }
        let mounted = builder.mount(&source.path, target);
        if let Err(error) = mounted {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
            let what = format!(
                "mounting {:?} as {fs}, options {options:?}: {}",
                source.path,
                hint(errno)
            );
            return Err(fault::with_hint("mount on", target, errno, &what));
        }
        let mounts = self.mounts()?;
        match mounts.at(target) {
            Some(entry) if entry.devno == source.devno => Ok(mounts),
            other => {
                let _ = umount2(target, MntFlags::UMOUNT_NOFOLLOW);
                Err(unexpected(target, "a mount of the device", other.as_ref()))
            }
        }
    }

    /// Binds a directory onto another.
    pub(super) fn bind(
        &self,
        source: &Path,
        target: &Path,
        read_only: bool,
    ) -> Result<(), HostError> {
        let half_done = read_only
            && match (self.at(source)?, self.at(target)?) {
                (Some(from), Some(there)) => (from.devno, from.root) == (there.devno, there.root),
                _ => false,
            };
        if !half_done {
            paths::make_dir(target)?;
            bind_call(source, target)?;
        }
        if !read_only {
            return Ok(());
        }
        // One call with MS_BIND | MS_RDONLY leaves the bind writable: the kernel ignores the second flag.
        let done = self.make_read_only(target);
        if done.is_err() && !half_done {
            // Better no mount than a writable one. What matters is the first error.
            let _ = umount2(target, MntFlags::UMOUNT_NOFOLLOW);
        }
        done
    }

    fn make_read_only(&self, target: &Path) -> Result<(), HostError> {
        let entry = self.at(target)?;
        let Some(entry) = entry else {
            return Err(unexpected(target, "a bind mount", None));
        };
        // A remount sets all per-mount flags: those that the bind inherited must be said again.
        let kept = entry.options.iter().filter_map(|option| per_mount(option));
        let flags = kept.fold(
            MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY,
            |flags, one| flags | one,
        );
        nix::mount::mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
            .map_err(|errno| fault::sys("make read-only", target, errno))?;
        match self.at(target)? {
            Some(entry) if entry.read_only() => Ok(()),
            other => Err(unexpected(target, "a read-only bind mount", other.as_ref())),
        }
    }

    /// Binds a device node onto a file.
    pub(super) fn bind_device(&self, source: &BlockDevice, target: &Path) -> Result<(), HostError> {
        paths::make_file(target)?;
        let _held = device::open(source, Open::Read)?;
        bind_call(&source.path, target)?;
        match device::block_number(target) {
            Some(devno) if devno == source.devno => Ok(()),
            found => {
                let _ = umount2(target, MntFlags::UMOUNT_NOFOLLOW);
                Err(HostError::WrongKind {
                    path: target.to_owned(),
                    expected: "the device node just bound",
                    found: format!("{found:?} instead of {}", source.devno),
                })
            }
        }
    }

    /// Unmounts until nothing is mounted at exactly this path; the table that says so.
    pub(super) fn unmount(&self, target: &Path) -> Result<Mounts, HostError> {
        let target = paths::settled(target);
        let deadline = Instant::now() + PASSING;
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(50));
        loop {
            match umount2(&target, MntFlags::UMOUNT_NOFOLLOW) {
                Ok(()) => {}
                // No mount point, says the kernel; the table is the second witness (a locked mount gives EINVAL too).
                Err(errno @ (Errno::EINVAL | Errno::ENOENT)) => {
                    let mounts = self.mounts()?;
                    return match mounts.at(&target) {
                        None => Ok(mounts),
                        Some(_) => Err(fault::sys("unmount", &target, errno)),
                    };
                }
                Err(Errno::EBUSY) if backoff.pause(deadline) => {}
                Err(Errno::EBUSY) => {
                    return Err(HostError::Busy {
                        users: self.users(&target)?,
                        path: target,
                    });
                }
                Err(errno) => return Err(fault::sys("unmount", &target, errno)),
            }
        }
    }

    /// Who keeps a mount busy: mounts below it, and processes of this PID namespace.
    fn users(&self, target: &Path) -> Result<String, HostError> {
        let table = self.read()?;
        let below = table
            .iter()
            .filter(|entry| entry.target != target && entry.target.starts_with(target))
            .map(|entry| format!("mount {:?}", entry.target));
        let users: Vec<_> = below.chain(processes(target)).take(8).collect();
        Ok(if users.is_empty() {
            "somebody outside this container".to_owned()
        } else {
            users.join(", ")
        })
    }
}

fn bind_call(source: &Path, target: &Path) -> Result<(), HostError> {
    Mount::builder()
        .fstype("none")
        .flags(MountFlags::BIND)
        .mount(source, target)
        .map(drop)
        .map_err(|error| fault::io("bind onto", target, &error))
}

fn unexpected(target: &Path, expected: &'static str, found: Option<&MountEntry>) -> HostError {
    HostError::WrongKind {
        path: target.to_owned(),
        expected,
        found: found.map_or_else(
            || "nothing is mounted there".to_owned(),
            |entry| {
                format!(
                    "{} from {:?}, device {}, options {}",
                    entry.fs_type,
                    entry.source,
                    entry.devno,
                    entry.options.join(",")
                )
            },
        ),
    }
}

/// Processes with a working directory, root or open file below `target`. Reads links only, never the mount.
fn processes(target: &Path) -> Vec<String> {
    let inside = |link: PathBuf| fs::read_link(link).is_ok_and(|to| to.starts_with(target));
    let uses = |process: &Path| {
        inside(process.join("cwd"))
            || inside(process.join("root"))
            || fs::read_dir(process.join("fd"))
                .is_ok_and(|mut fds| fds.any(|fd| fd.is_ok_and(|fd| inside(fd.path()))))
    };
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().as_bytes().iter().all(u8::is_ascii_digit))
        .filter(|entry| uses(&entry.path()))
        .map(|entry| {
            let name = device::text(&entry.path().join("comm")).unwrap_or_default();
            format!(
                "process {} ({name})",
                OsStr::to_string_lossy(&entry.file_name())
            )
        })
        .take(8)
        .collect()
}

fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::EINVAL => {
            "an option that this kernel does not know, a feature of the file system that this kernel is too old \
             for, or damage; the kernel's log says which"
        }
        Errno::ENODEV => "this kernel has no such file system (is its module loaded?)",
        Errno::EUCLEAN => "the file system is damaged; check it by hand before it is used again",
        Errno::EROFS => "the disk is write-protected; mount it with option \"ro\"",
        Errno::EBUSY => "the device is in use elsewhere",
        Errno::EEXIST => "Btrfs has this UUID mounted from another device; unmount that one first",
        Errno::EIO => "the disk gives I/O errors",
        Errno::EPERM | Errno::EACCES => "the container needs to be privileged",
        _ => "the kernel's log may say more",
    }
}

/// Flags of one mount that a bind inherits.
fn per_mount(option: &str) -> Option<MsFlags> {
    Some(match option {
        "nosuid" => MsFlags::MS_NOSUID,
        "nodev" => MsFlags::MS_NODEV,
        "noexec" => MsFlags::MS_NOEXEC,
        "noatime" => MsFlags::MS_NOATIME,
        "nodiratime" => MsFlags::MS_NODIRATIME,
        "relatime" => MsFlags::MS_RELATIME,
        _ => return None,
    })
}

/// Splits options as mount(8) does. What is not a flag goes to the file system as it stands (`discard`,
/// `context="..."`); that knows best what it accepts.
fn split(fs: FsType, options: &[String]) -> Result<Split, HostError> {
    let mut result = Split {
        flags: MountFlags::empty(),
        data: Vec::new(),
    };
    for option in options.iter().flat_map(|text| commas(text)) {
        let (set, flag) = match option {
            "ro" => (true, MountFlags::RDONLY),
            "rw" => (false, MountFlags::RDONLY),
            "nosuid" => (true, MountFlags::NOSUID),
            "suid" => (false, MountFlags::NOSUID),
            "nodev" => (true, MountFlags::NODEV),
            "dev" => (false, MountFlags::NODEV),
            "noexec" => (true, MountFlags::NOEXEC),
            "exec" => (false, MountFlags::NOEXEC),
            "sync" => (true, MountFlags::SYNCHRONOUS),
            "async" => (false, MountFlags::SYNCHRONOUS),
            "dirsync" => (true, MountFlags::DIRSYNC),
            "noatime" => (true, MountFlags::NOATIME),
            "atime" => (false, MountFlags::NOATIME),
            "nodiratime" => (true, MountFlags::NODIRATIME),
            "diratime" => (false, MountFlags::NODIRATIME),
            "relatime" => (true, MountFlags::RELATIME),
            "norelatime" => (false, MountFlags::RELATIME),
            "strictatime" => (true, MountFlags::STRICTATIME),
            "silent" => (true, MountFlags::SILENT),
            // Words of fstab that mount(8) keeps to itself.
            "" | "defaults" | "auto" | "noauto" | "nofail" | "_netdev" | "nouser" | "loud" => {
                continue;
            }
            other if other.starts_with("x-") => continue,
            "remount" | "bind" | "rbind" | "move" | "loop" | "shared" | "slave" | "private"
            | "rshared" | "rslave" | "rprivate" | "unbindable" | "runbindable" => {
                return Err(HostError::BadOption {
                    fs,
                    key: option.to_owned(),
                    reason: "it changes what a mount is, not how the file system behaves"
                        .to_owned(),
                });
            }
            other => {
                result.data.push(other.to_owned());
                continue;
            }
        };
        result.flags.set(flag, set);
    }
    Ok(result)
}

/// Splits at commas outside double quotes: SELinux contexts contain commas (`context="...:s0:c1,c2"`).
fn commas(text: &str) -> Vec<&str> {
    let mut quoted = false;
    text.split(move |c: char| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
    .map(str::trim)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(options: &[&str]) -> Result<Split, HostError> {
        let options: Vec<_> = options.iter().map(|o| (*o).to_owned()).collect();
        split(FsType::Ext4, &options)
    }

    #[test]
    fn flags_and_data_are_told_apart_and_the_last_word_counts() {
        let split = of(&[
            "ro,noatime",
            "discard",
            "defaults",
            "rw",
            "x-systemd.automount",
            "commit=5",
        ])
        .unwrap();
        assert_eq!(split.flags, MountFlags::NOATIME);
        assert_eq!(split.data, ["discard", "commit=5"]);
    }

    #[test]
    fn a_selinux_context_stays_whole() {
        let context = "context=\"system_u:object_r:container_file_t:s0:c1,c2\"";
        let split = of(&[&format!("ro,{context},noexec")]).unwrap();
        assert_eq!(split.data, [context]);
        assert_eq!(split.flags, MountFlags::RDONLY | MountFlags::NOEXEC);
    }

    #[test]
    fn options_that_change_what_a_mount_is_are_refused() {
        for option in ["bind", "remount,ro", "loop", "rshared"] {
            assert!(
                matches!(of(&[option]), Err(HostError::BadOption { .. })),
                "{option}"
            );
        }
    }
}
