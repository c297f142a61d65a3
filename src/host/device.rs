//! Block devices as the kernel shows them: `/sys/dev/block/<major:minor>` and the node under `/dev`.
//!
//! A name such as `sdb` says nothing about identity: it is given anew after a hot-remove. So every open compares
//! the node's device number with the one that was found, and everything else is looked up by number.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::stat::{major, minor};

use super::wait::Backoff;
use super::{BlockDevice, DeviceFacts, HostError, Identity, fault};
use crate::domain::device::{DevNo, ScsiAddress};

/// How a device is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Open {
    /// For reading, shared.
    Read,
    /// For reading past the page cache.
    Direct,
    /// For reading and writing, shared.
    Write,
    /// For reading and writing, refused while anything in the kernel (mount, device mapper, md, mkfs) holds it.
    Exclusive,
}

/// Roots of the kernel's view.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    pub(super) sysfs: PathBuf,
    pub(super) dev: PathBuf,
}

impl Kernel {
    /// The device's directory in sysfs, resolved; `None` when the kernel has no such device.
    pub(super) fn directory(&self, devno: DevNo) -> Option<PathBuf> {
        let link = self.sysfs.join("dev/block").join(devno.to_string());
        self.resolved(&link).filter(|directory| directory.is_dir())
    }

    /// Where a link two levels below the root of sysfs leads. The kernel's links are relative to their directory: one
    /// call, where walking the whole path takes twenty.
    pub(super) fn resolved(&self, link: &Path) -> Option<PathBuf> {
        let target = fs::read_link(link).ok()?;
        match target.strip_prefix("../..") {
            Ok(below) => Some(self.sysfs.join(below)),
            Err(_) => link.canonicalize().ok(),
        }
    }

    /// The kernel's name, such as `sdb`.
    pub(super) fn name(&self, devno: DevNo) -> Option<String> {
        let directory = self.directory(devno)?;
        Some(directory.file_name()?.to_string_lossy().into_owned())
    }

    /// The device with this number, unless it is gone or has no medium (a loop device without a file).
    pub(super) fn device(&self, devno: DevNo, address: Option<ScsiAddress>) -> Option<BlockDevice> {
        let directory = self.directory(devno)?;
        if number(&directory.join("size")).unwrap_or(0) == 0 {
            return None;
        }
        Some(BlockDevice {
            path: self.dev.join(directory.file_name()?),
            devno,
            address,
        })
    }

    /// Which disk it is.
    pub(super) fn identity(&self, device: &BlockDevice) -> Result<Identity, HostError> {
        self.directory(device.devno)
            .and_then(|directory| identity_in(&directory))
            .ok_or_else(|| gone(device))
    }

    /// What a finding or a decision needs to know about a device.
    pub(super) fn facts(&self, device: &BlockDevice) -> Result<DeviceFacts, HostError> {
        let _held = open(device, Open::Read)?;
        let directory = self.directory(device.devno).ok_or_else(|| gone(device))?;
        Ok(DeviceFacts {
            identity: identity_in(&directory).ok_or_else(|| gone(device))?,
            read_only: number(&directory.join("ro")) == Some(1),
            holders: holders(&directory),
        })
    }
}

fn gone(device: &BlockDevice) -> HostError {
    HostError::WrongKind {
        path: device.path.clone(),
        expected: "a disk that the kernel still has",
        found: format!("no {} in sysfs", device.devno),
    }
}

/// `None` when the device goes away meanwhile.
fn identity_in(directory: &Path) -> Option<Identity> {
    Some(Identity {
        // sysfs counts sectors of 512 bytes, whatever the disk's own are.
        size: number(&directory.join("size"))?.saturating_mul(512),
        serial: fs::read(directory.join("device/vpd_pg80"))
            .ok()
            .and_then(|page| serial(&page)),
        wwid: text(&directory.join("device/wwid")),
    })
}

/// How long an exclusive open is tried again.
const PATIENCE: Duration = Duration::from_millis(100);

/// Opens the device's node and makes sure that it still is that device.
pub(super) fn open(device: &BlockDevice, how: Open) -> Result<File, HostError> {
    open_within(device, how, PATIENCE)
}

/// As [`open`], with a patience of its own.
pub(super) fn open_within(
    device: &BlockDevice,
    how: Open,
    patience: Duration,
) -> Result<File, HostError> {
    let mut options = OpenOptions::new();
    options.read(true);
    match how {
        Open::Read => {}
        Open::Direct => {
            options.custom_flags(libc::O_DIRECT);
        }
        Open::Write => {
            options.write(true);
        }
        Open::Exclusive => {
            options.write(true).custom_flags(libc::O_EXCL);
        }
    }
    let file = insist(&options, device, how, patience).map_err(|error| {
        if error.kind() == ErrorKind::ResourceBusy {
            return HostError::Busy {
                path: device.path.clone(),
                users: "the kernel (a mount, also in another mount namespace, device mapper, md) or a tool"
                    .to_owned(),
            };
        }
        fault::io("open", &device.path, &error)
    })?;
    let meta = file
        .metadata()
        .map_err(|error| fault::io("stat", &device.path, &error))?;
    if !meta.file_type().is_block_device() {
        return Err(HostError::WrongKind {
            path: device.path.clone(),
            expected: "a block device",
            found: "another kind of file".to_owned(),
        });
    }
    let found = devno(meta.rdev());
    if found != device.devno {
        return Err(HostError::WrongKind {
            path: device.path.clone(),
            expected: "the device that was found before",
            found: format!("device number {found} instead of {}", device.devno),
        });
    }
    Ok(file)
}

/// Opens; an exclusive open is tried again for a moment. A tool that is being started elsewhere holds copies of this
/// process's descriptors between fork and exec, so that a device that was closed just now may still count as held.
fn insist(
    options: &OpenOptions,
    device: &BlockDevice,
    how: Open,
    patience: Duration,
) -> io::Result<File> {
    let until = Instant::now() + patience;
    let mut backoff = Backoff::new(Duration::from_millis(2), Duration::from_millis(20));
    loop {
        match options.open(&device.path) {
            Err(error)
                if how == Open::Exclusive
                    && error.kind() == ErrorKind::ResourceBusy
                    && backoff.pause(until) => {}
            other => return other,
        }
    }
}

/// The size in bytes, as the kernel has it now.
pub(super) fn size_of(file: &mut File, device: &BlockDevice) -> Result<u64, HostError> {
    file.seek(SeekFrom::End(0))
        .map_err(|error| fault::io("read the size of", &device.path, &error))
}

/// Writes dirty pages of the device, makes the disk write its own cache, and forgets clean pages, so that the next read
/// comes from the disk.
pub(super) fn flush(file: &File, device: &BlockDevice) -> Result<(), HostError> {
    file.sync_all()
        .map_err(|error| fault::io("flush", &device.path, &error))?;
    forget(file, device)
}

/// Writes dirty pages and forgets clean ones, so that the next read comes from the disk; the disk's own cache, which
/// answers reads as well, is left alone.
pub(super) fn forget(file: &File, device: &BlockDevice) -> Result<(), HostError> {
    forget_pages(file).map_err(|errno| fault::sys("flush", &device.path, errno))
}

#[allow(unsafe_code, reason = "nix has no wrapper for BLKFLSBUF")]
fn forget_pages(file: &File) -> nix::Result<()> {
    nix::ioctl_none_bad!(blkflsbuf, nix::request_code_none!(0x12, 97));
    // SAFETY: BLKFLSBUF takes no argument; the descriptor is open for the whole call.
    unsafe { blkflsbuf(file.as_raw_fd()) }.map(drop)
}

/// `dev_t` in the domain's form.
pub(super) fn devno(raw: u64) -> DevNo {
    // Linux has 12 bits of major and 20 of minor number in use; the conversions cannot fail.
    DevNo {
        major: u32::try_from(major(raw)).unwrap_or(u32::MAX),
        minor: u32::try_from(minor(raw)).unwrap_or(u32::MAX),
    }
}

/// The number of the block device that this path names, symlinks followed; `None` if it names none.
pub(super) fn block_number(path: &Path) -> Option<DevNo> {
    let meta = fs::metadata(path).ok()?;
    meta.file_type()
        .is_block_device()
        .then(|| devno(meta.rdev()))
}

/// Parses `major:minor` of a sysfs `dev` file.
pub(super) fn read_devno(path: &Path) -> Option<DevNo> {
    let line = text(path)?;
    let (major, minor) = line.split_once(':')?;
    Some(DevNo {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    })
}

/// A sysfs attribute, trimmed; `None` if missing, unreadable or empty.
pub(super) fn text(path: &Path) -> Option<String> {
    // An attribute is written out whole at the first read and is never longer than a page (sysfs(5)); those that are
    // asked for here are short.
    let mut bytes = [0; 512];
    let length = File::open(path).and_then(|mut file| file.read(&mut bytes));
    let text = String::from_utf8_lossy(&bytes[..length.ok()?]);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

/// A sysfs attribute that is a decimal number.
pub(super) fn number(path: &Path) -> Option<u64> {
    text(path)?.parse().ok()
}

/// Names of what lies on the device: its own holders and those of its partitions.
pub(super) fn holders(directory: &Path) -> Vec<String> {
    let mut found = names(&directory.join("holders"));
    let disk = directory.file_name().unwrap_or_default().to_string_lossy();
    for name in names(directory) {
        // The kernel names partitions after their disk: "sdb1", "nvme0n1p1".
        if name.starts_with(&*disk) && directory.join(&name).join("partition").exists() {
            found.extend(names(&directory.join(&name).join("holders")));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Names in a directory; none if it cannot be read.
pub(super) fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut names: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    names.sort_unstable();
    names
}

/// The serial number of VPD page 0x80 (SPC-4 7.8.17): four bytes of header, then ASCII, padded with blanks.
fn serial(page: &[u8]) -> Option<String> {
    let [_, 0x80, high, low, rest @ ..] = page else {
        return None;
    };
    let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
    let serial = String::from_utf8_lossy(&rest[..length]);
    let serial = serial.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!serial.is_empty()).then(|| serial.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_serial_page_gives_its_text_and_odd_pages_give_none() {
        let vmware = b"\x00\x80\x00\x206000c29000000000000000000000abcd";
        assert_eq!(
            serial(vmware).as_deref(),
            Some("6000c29000000000000000000000abcd")
        );
        assert_eq!(serial(b"\x00\x80\x00\x08  ab    "), Some("ab".to_owned()));
        assert_eq!(serial(b"\x00\x80\x00\xffab"), Some("ab".to_owned()));
        for odd in [
            b"".as_slice(),
            b"\x00\x80",
            b"\x00\x83\x00\x02ab",
            b"\x00\x80\x00\x00",
        ] {
            assert_eq!(serial(odd), None);
        }
    }

    #[test]
    fn holders_of_partitions_count() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["holders/dm-1", "sdb1/holders/md0", "queue/holders/no"] {
            fs::create_dir_all(dir.path().join("sdb").join(path)).unwrap();
        }
        fs::write(dir.path().join("sdb/sdb1/partition"), "1").unwrap();
        assert_eq!(holders(&dir.path().join("sdb")), ["dm-1", "md0"]);
    }

    #[test]
    fn a_file_that_is_no_block_device_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let device = BlockDevice {
            path: file.path().to_owned(),
            devno: DevNo { major: 7, minor: 0 },
            address: None,
        };
        assert!(matches!(
            open(&device, Open::Read),
            Err(HostError::WrongKind { .. })
        ));
    }
}
