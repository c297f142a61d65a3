//! Loop devices: a sparse file per disk, and per VM a directory of links as udev's `by-path` would show them.
//!
//! Which device belongs to which image is read from sysfs (`loopN/loop/backing_file`), never remembered: after the
//! emulator was killed the devices are still there.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use tokio::process::Command;

use super::super::state::DiskRecord;
use super::{Backend, BackendError, remove_file, size_image};

/// The PCI address in the links' names; one controller per VM.
const PCI: &str = "pci-0000:03:00.0";
const LIMIT: Duration = Duration::from_secs(20);
/// A block device opened with it is refused while it is mounted or otherwise claimed.
const O_EXCL: i32 = 0o200;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct LoopDevices {
    images: PathBuf,
    devices: PathBuf,
}

/// A loop device over one of the images.
#[derive(Debug)]
struct Device {
    path: PathBuf,
    image: PathBuf,
    /// It goes away when its last user does: taken out while something still used it.
    dying: bool,
}

impl LoopDevices {
    pub(super) fn open<'a>(
        images: &Path,
        devices: PathBuf,
        vms: impl Iterator<Item = &'a str>,
    ) -> Result<Self, BackendError> {
        for vm in vms {
            make_dir(&devices.join(vm))?;
        }
        // The kernel tells canonical paths.
        let images = images
            .canonicalize()
            .map_err(|e| BackendError::new(format!("resolve {}", images.display()), e))?;
        Ok(Self { images, devices })
    }

    fn image(&self, disk: &DiskRecord) -> PathBuf {
        self.images.join(format!("{}.img", disk.unique_id))
    }

    fn link(&self, vm: &str, target: u8) -> PathBuf {
        self.devices
            .join(vm)
            .join(format!("{PCI}-scsi-0:0:{target}:0"))
    }

    /// All loop devices over images of ours.
    fn ours(&self) -> Vec<Device> {
        let Ok(blocks) = std::fs::read_dir("/sys/block") else {
            return Vec::new();
        };
        let device = |block: std::fs::DirEntry| {
            let read = |name: &str| std::fs::read_to_string(block.path().join("loop").join(name));
            let image = PathBuf::from(read("backing_file").ok()?.trim_end());
            image.starts_with(&self.images).then(|| Device {
                path: Path::new("/dev").join(block.file_name()),
                image,
                dying: read("autoclear").is_ok_and(|text| text.trim() == "1"),
            })
        };
        blocks.flatten().filter_map(device).collect()
    }

    /// The device that a disk shows itself as.
    fn live_device(&self, image: &Path) -> Option<PathBuf> {
        let mut ours = self.ours().into_iter();
        ours.find(|device| device.image == image && !device.dying)
            .map(|device| device.path)
    }

    fn links(&self) -> impl Iterator<Item = PathBuf> {
        let vms = std::fs::read_dir(&self.devices).into_iter().flatten();
        vms.flatten()
            .flat_map(|vm| std::fs::read_dir(vm.path()).into_iter().flatten().flatten())
            .filter(|link| link.file_name().to_string_lossy().starts_with(PCI))
            .map(|link| link.path())
    }
}

fn make_dir(dir: &Path) -> Result<(), BackendError> {
    std::fs::create_dir_all(dir)
        .map_err(|e| BackendError::new(format!("make {}", dir.display()), e))
}

fn program() -> &'static str {
    ["/usr/sbin/losetup", "/sbin/losetup", "/usr/bin/losetup"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .unwrap_or("/usr/sbin/losetup")
}

async fn losetup(arguments: &[&str]) -> Result<String, BackendError> {
    let action = || format!("run losetup {}", arguments.join(" "));
    #[allow(
        clippy::disallowed_methods,
        reason = "the emulator is no part of the node plugin"
    )]
    let mut command = Command::new(program());
    command
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output())
        .await
        .map_err(|_| BackendError::new(action(), "no answer"))?
        .map_err(|e| {
            BackendError::new(
                action(),
                format!("{e}; loop devices need root and util-linux"),
            )
        })?;
    if !output.status.success() {
        return Err(BackendError::new(
            action(),
            String::from_utf8_lossy(&output.stderr).trim(),
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A new device over an image.
async fn new_device(image: &Path) -> Result<PathBuf, BackendError> {
    let file = image.display().to_string();
    let mut attempt = losetup(&["-f", "--show", &file]).await;
    // Two processes may be offered the same free device; the loser asks again.
    for _ in 0..20 {
        match &attempt {
            Err(error) if error.reason.contains("busy") => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                attempt = losetup(&["-f", "--show", &file]).await;
            }
            Ok(_) | Err(_) => break,
        }
    }
    Ok(PathBuf::from(attempt?.trim()))
}

/// Takes a device away. One that is in use stays until its user lets go, then goes by itself.
async fn remove_device(device: &Path) -> Result<(), BackendError> {
    losetup(&["-d", &device.display().to_string()])
        .await
        .map(drop)
}

#[async_trait]
impl Backend for LoopDevices {
    async fn attach(&self, disk: &DiskRecord, vm: &str, target: u8) -> Result<(), BackendError> {
        let image = self.image(disk);
        size_image(&image, disk.size)?;
        let device = match self.live_device(&image) {
            Some(device) => device,
            None => new_device(&image).await?,
        };
        let link = self.link(vm, target);
        make_dir(&self.devices.join(vm))?;
        remove_file(&link)?;
        std::os::unix::fs::symlink(&device, &link)
            .map_err(|e| BackendError::new(format!("link {}", link.display()), e))
    }

    async fn detach(&self, disk: &DiskRecord, vm: &str, target: u8) -> Result<(), BackendError> {
        remove_file(&self.link(vm, target))?;
        match self.live_device(&self.image(disk)) {
            Some(device) => remove_device(&device).await,
            None => Ok(()),
        }
    }

    async fn extend(&self, disk: &DiskRecord, gib: u32) -> Result<(), BackendError> {
        let image = self.image(disk);
        size_image(&image, gib)?;
        match self.live_device(&image) {
            Some(device) => losetup(&["-c", &device.display().to_string()])
                .await
                .map(drop),
            None => Ok(()),
        }
    }

    async fn delete(&self, disk: &DiskRecord) -> Result<(), BackendError> {
        remove_file(&self.image(disk))
    }

    async fn restore(&self, disks: &[DiskRecord]) -> Result<(), BackendError> {
        let plugged = || {
            let attached = disks
                .iter()
                .filter_map(|d| Some((d, d.attachment.as_ref()?)));
            attached.map(|(disk, at)| (self.image(disk), self.link(&at.vm, at.target)))
        };
        let images: BTreeSet<PathBuf> = plugged().map(|(image, _)| image).collect();
        for device in self.ours() {
            if !images.contains(&device.image) && !device.dying {
                remove_device(&device.path).await?;
            }
        }
        let links: BTreeSet<PathBuf> = plugged().map(|(_, link)| link).collect();
        for link in self.links().filter(|link| !links.contains(link)) {
            remove_file(&link)?;
        }
        Ok(())
    }

    fn rename_vm(&self, from: &str, to: &str) {
        let (from, to) = (self.devices.join(from), self.devices.join(to));
        if let Err(error) = std::fs::rename(&from, &to) {
            tracing::error!(%error, from = %from.display(), "the VM's links keep their old directory");
        }
    }

    /// A device that is mounted stays, and is taken up again by the next start: pods survive a restart of the
    /// emulator.
    fn release(&self) {
        for device in self.ours().into_iter().filter(|device| !device.dying) {
            let claimed = OpenOptions::new()
                .read(true)
                .custom_flags(O_EXCL)
                .open(&device.path)
                .is_err();
            if claimed {
                tracing::warn!(device = %device.path.display(), "in use, so it stays");
                continue;
            }
            #[allow(
                clippy::disallowed_methods,
                reason = "also runs when a test fails, where nothing can be awaited"
            )]
            let mut command = std::process::Command::new(program());
            let status = command.arg("-d").arg(&device.path).status();
            if !status.is_ok_and(|status| status.success()) {
                tracing::warn!(device = %device.path.display(), "a loop device stays");
            }
        }
        let live: BTreeSet<PathBuf> = self.ours().into_iter().map(|d| d.path).collect();
        for link in self.links().collect::<Vec<_>>() {
            let kept = std::fs::read_link(&link).is_ok_and(|target| live.contains(&target));
            if !kept {
                let _ = remove_file(&link);
            }
        }
    }
}
