//! Loop devices: a sparse file per disk, and per VM a directory of links as udev's `by-path` would show them.

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

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct LoopDevices {
    images: PathBuf,
    devices: PathBuf,
}

impl LoopDevices {
    pub(super) fn open<'a>(
        images: PathBuf,
        devices: PathBuf,
        vms: impl Iterator<Item = &'a str>,
    ) -> Result<Self, BackendError> {
        for vm in vms {
            let dir = devices.join(vm);
            std::fs::create_dir_all(&dir)
                .map_err(|e| BackendError::new(format!("make {}", dir.display()), e))?;
        }
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

    /// The loop devices over an image (normally none or one).
    async fn loops_of(&self, image: &Path) -> Result<Vec<String>, BackendError> {
        let listed = losetup(&["-j", &image.display().to_string(), "-O", "NAME", "-n"]).await?;
        Ok(listed.split_whitespace().map(str::to_owned).collect())
    }
}

async fn losetup(arguments: &[&str]) -> Result<String, BackendError> {
    let action = || format!("run losetup {}", arguments.join(" "));
    #[allow(
        clippy::disallowed_methods,
        reason = "the emulator is no part of the node plugin"
    )]
    let mut command = Command::new("/usr/sbin/losetup");
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

#[async_trait]
impl Backend for LoopDevices {
    async fn attach(&self, disk: &DiskRecord, vm: &str, target: u8) -> Result<(), BackendError> {
        let image = self.image(disk);
        size_image(&image, disk.size)?;
        let device = if let Some(device) = self.loops_of(&image).await?.pop() {
            device
        } else {
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
            attempt?.trim().to_owned()
        };
        let link = self.link(vm, target);
        remove_file(&link)?;
        std::os::unix::fs::symlink(&device, &link)
            .map_err(|e| BackendError::new(format!("link {}", link.display()), e))
    }

    async fn detach(&self, disk: &DiskRecord, vm: &str, target: u8) -> Result<(), BackendError> {
        remove_file(&self.link(vm, target))?;
        for device in self.loops_of(&self.image(disk)).await? {
            losetup(&["-d", &device]).await?;
        }
        Ok(())
    }

    async fn extend(&self, disk: &DiskRecord, gib: u32) -> Result<(), BackendError> {
        let image = self.image(disk);
        size_image(&image, gib)?;
        for device in self.loops_of(&image).await? {
            losetup(&["-c", &device]).await?;
        }
        Ok(())
    }

    async fn delete(&self, disk: &DiskRecord) -> Result<(), BackendError> {
        remove_file(&self.image(disk))
    }

    async fn close(&self) {
        let Ok(images) = std::fs::read_dir(&self.images) else {
            return;
        };
        for image in images.flatten() {
            for device in self.loops_of(&image.path()).await.unwrap_or_default() {
                if let Err(error) = losetup(&["-d", &device]).await {
                    tracing::warn!(%error, "a loop device stays");
                }
            }
        }
        let Ok(vms) = std::fs::read_dir(&self.devices) else {
            return;
        };
        for vm in vms.flatten() {
            for link in std::fs::read_dir(vm.path()).into_iter().flatten().flatten() {
                if link.file_name().to_string_lossy().starts_with(PCI) {
                    let _ = remove_file(&link.path());
                }
            }
        }
    }
}
