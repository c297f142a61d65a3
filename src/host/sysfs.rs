//! SCSI disks by address, through sysfs.
//!
//! ```text
//! SCSI (B:N)  ->  /sys/class/scsi_host/hostH     B-th controller in PCI order
//!             ->  /sys/bus/scsi/devices/H:0:N:0  target N, lun 0
//!             ->  .../block/sdX/dev              device number
//! ```
//!
//! Links made by udev are not used: they may be missing (no `disk.EnableUUID`) or point at what was there before.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::device::{Kernel, names, number, read_devno, text};
use super::equipment::{ControllerFacts, driver_of};
use super::wait::{Backoff, millis};
use super::{BlockDevice, HostError, fault};
use crate::domain::device::{DevNo, ScsiAddress};

/// Writes an attribute; a parameter, so that a test can play the kernel.
pub(super) type Write = Arc<dyn Fn(&Path, &str) -> io::Result<()> + Send + Sync>;

/// The SCSI part of sysfs.
#[derive(Clone)]
pub(super) struct Scsi {
    pub(super) kernel: Kernel,
    pub(super) write: Write,
}

/// A SCSI host adapter. Sorts in PCI order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Controller {
    pci: PciAddress,
    /// The kernel's number: order of probing, not of slots.
    host: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

/// How long the kernel gets to make a disk of a SCSI device that it has found.
const COMING: Duration = Duration::from_secs(1);

/// What is at an address.
#[derive(Debug)]
enum Seen {
    Nothing,
    /// A SCSI device that has no disk yet: the kernel asks it for its size in the background.
    Coming(&'static str),
    /// A SCSI device without a usable disk, and why.
    Dead(String),
    Disk(BlockDevice),
}

/// The decisions of the search that need more than sysfs.
pub(super) struct Checks<'a> {
    /// Reads the first sector; why it cannot, with the device's name.
    pub(super) readable: &'a dyn Fn(&BlockDevice) -> Result<(), String>,
    /// Whether anything in this mount namespace or stacked on it uses the device.
    pub(super) in_use: &'a dyn Fn(DevNo) -> bool,
}

impl PciAddress {
    /// `0000:03:00.0`.
    fn parse(text: &str) -> Option<Self> {
        let (rest, function) = text.split_once('.')?;
        let mut parts = rest.split(':');
        let (domain, bus, device) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || domain.len() < 4 || bus.len() != 2 || device.len() != 2 {
            return None;
        }
        Some(Self {
            domain: u32::from_str_radix(domain, 16).ok()?,
            bus: u8::from_str_radix(bus, 16).ok()?,
            device: u8::from_str_radix(device, 16).ok()?,
            function: u8::from_str_radix(function, 16).ok()?,
        })
    }
}

impl fmt::Debug for Scsi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scsi")
            .field("kernel", &self.kernel)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Checks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Checks")
    }
}

impl Scsi {
    /// On the real sysfs.
    pub(super) fn new(kernel: Kernel) -> Self {
        Self {
            kernel,
            write: Arc::new(|path, value| fs::write(path, value)),
        }
    }

    /// The SCSI controllers in PCI order. SATA, USB and iSCSI hosts are not slots of a VM: their host directory does not
    /// lie directly in a PCI device's (virtio-scsi has one level between, `virtioN`).
    pub(super) fn controllers(&self) -> Vec<Controller> {
        let class = self.kernel.sysfs.join("class/scsi_host");
        let mut found: Vec<_> = names(&class)
            .iter()
            .filter_map(|name| {
                let host = name.strip_prefix("host")?.parse().ok()?;
                // .../0000:03:00.0/host2/scsi_host/host2
                let path = self.kernel.resolved(&class.join(name))?;
                let adapter = path.ancestors().skip(1).find(|above| {
                    above
                        .file_name()
                        .is_some_and(|last| last.to_string_lossy() == *name)
                })?;
                let above = |path: &Path| {
                    let name = path.file_name()?.to_string_lossy().into_owned();
                    Some((name, path.parent()?.to_owned()))
                };
                let (mut parent, next) = above(adapter.parent()?)?;
                if parent.starts_with("virtio") {
                    (parent, _) = above(&next)?;
                }
                Some(Controller {
                    pci: PciAddress::parse(&parent)?,
                    host,
                })
            })
            .collect();
        found.sort_unstable();
        found
    }

    /// The controllers in PCI order, in words.
    pub(super) fn described(&self) -> Vec<ControllerFacts> {
        let class = self.kernel.sysfs.join("class/scsi_host");
        let controllers = self.controllers().into_iter();
        let facts = controllers.map(|controller| {
            let host = format!("host{}", controller.host);
            let driver = driver_of(&class.join(&host));
            ControllerFacts { host, driver }
        });
        facts.collect()
    }

    fn controller(&self, at: ScsiAddress) -> Option<Controller> {
        self.controllers().into_iter().nth(usize::from(at.bus))
    }

    fn directory(&self, controller: &Controller, target: u8) -> PathBuf {
        let name = format!("{}:0:{target}:0", controller.host);
        self.kernel.sysfs.join("bus/scsi/devices").join(name)
    }

    fn seen(&self, controller: &Controller, at: ScsiAddress) -> Seen {
        let directory = self.directory(controller, at.target);
        if !directory.exists() {
            return Seen::Nothing;
        }
        let state = text(&directory.join("state")).unwrap_or_default();
        if state == "created" {
            return Seen::Coming("a SCSI device that is being added");
        }
        if state != "running" {
            return Seen::Dead(format!("a device in state {state:?}"));
        }
        let block = directory.join("block");
        let Some(name) = names(&block).into_iter().next() else {
            return Seen::Coming("a SCSI device without a block device");
        };
        if number(&block.join(&name).join("size")).unwrap_or(0) == 0 {
            return Seen::Dead(format!("{name} of size 0"));
        }
        match read_devno(&block.join(&name).join("dev")) {
            Some(devno) => Seen::Disk(BlockDevice {
                path: self.kernel.dev.join(&name),
                devno,
                address: Some(at),
            }),
            None => Seen::Dead(format!("{name} without a device number")),
        }
    }

    /// The disk in a slot now; neither scans nor waits.
    pub(super) fn device_at(&self, at: ScsiAddress) -> Option<BlockDevice> {
        match self.seen(&self.controller(at)?, at) {
            Seen::Disk(device) => Some(device),
            Seen::Nothing | Seen::Coming(_) | Seen::Dead(_) => None,
        }
    }

    /// All disks in slots.
    pub(super) fn list(&self) -> Vec<BlockDevice> {
        let mut found = Vec::new();
        for (bus, controller) in self.controllers().iter().enumerate() {
            let prefix = format!("{}:0:", controller.host);
            let targets = names(&self.kernel.sysfs.join("bus/scsi/devices"))
                .into_iter()
                .filter_map(|name| name.strip_prefix(&prefix)?.strip_suffix(":0")?.parse().ok());
            for target in targets {
                let Ok(bus) = u8::try_from(bus) else { continue };
                if let Seen::Disk(device) = self.seen(controller, ScsiAddress { bus, target }) {
                    found.push(device);
                }
            }
        }
        found
    }

    /// Finds the disk in a slot. Hot-plug messages get lost, so the address is scanned; what was there before and is
    /// dead is deleted first, or the kernel would keep its identity for the next disk.
    pub(super) fn find(
        &self,
        at: ScsiAddress,
        deadline: Instant,
        checks: &Checks<'_>,
    ) -> Result<BlockDevice, HostError> {
        let started = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        let mut quick = Backoff::new(Duration::from_millis(5), Duration::from_millis(50));
        let mut coming = None;
        loop {
            let seen = match self.controller(at) {
                None => format!(
                    "the VM has {} SCSI controllers and no number {}",
                    self.controllers().len(),
                    at.bus
                ),
                Some(controller) => match self.look(&controller, at, checks, &mut coming)? {
                    Ok(device) => return Ok(device),
                    Err(seen) => seen,
                },
            };
            let pause = match coming {
                Some(_) => &mut quick,
                None => &mut backoff,
            };
            if !pause.pause(deadline) {
                return Err(HostError::NotFound {
                    address: at,
                    waited_ms: millis(started.elapsed()),
                    seen,
                });
            }
        }
    }

    /// One look: a usable disk, or what is there instead after a clean-up and a scan. `coming` tells since when the
    /// kernel has been adding a disk: it is not to be taken for a dead one meanwhile.
    fn look(
        &self,
        controller: &Controller,
        at: ScsiAddress,
        checks: &Checks<'_>,
        coming: &mut Option<Instant>,
    ) -> Result<Result<BlockDevice, String>, HostError> {
        let directory = self.directory(controller, at.target);
        let mut seen = self.seen(controller, at);
        let scanned = matches!(seen, Seen::Nothing);
        if scanned {
            self.scan(controller, at.target)?;
            seen = self.seen(controller, at);
        }
        let since = coming.take();
        let why = match seen {
            Seen::Nothing => return Ok(Err("nothing at this address".to_owned())),
            Seen::Coming(what) => {
                let since = since.unwrap_or_else(Instant::now);
                if since.elapsed() < COMING {
                    *coming = Some(since);
                    return Ok(Err(what.to_owned()));
                }
                what.to_owned()
            }
            Seen::Disk(device) if scanned => return Ok(self.fresh(&directory, &device, checks)),
            Seen::Dead(what) if scanned => return Ok(Err(what)),
            Seen::Disk(device) => match self.fresh(&directory, &device, checks) {
                Ok(device) => return Ok(Ok(device)),
                // A stale mount or a dm table on a dead disk is cleared by its owner, not by pulling it away.
                Err(why) if (checks.in_use)(device.devno) => {
                    return Ok(Err(format!("{why}, still in use")));
                }
                Err(why) => why,
            },
            Seen::Dead(why) => why,
        };
        self.set(&directory.join("delete"), "1", "delete the dead device")?;
        self.scan(controller, at.target)?;
        Ok(Err(why))
    }

    /// Makes the kernel read the identity and size again (another disk may have come behind the same address
    /// unnoticed), then reads the first sector.
    fn fresh(
        &self,
        directory: &Path,
        device: &BlockDevice,
        checks: &Checks<'_>,
    ) -> Result<BlockDevice, String> {
        self.rescan(directory).map_err(|error| error.to_string())?;
        (checks.readable)(device).map(|()| device.clone())
    }

    /// Makes the kernel read one device's identity and size again.
    pub(super) fn rescan(&self, directory: &Path) -> Result<(), HostError> {
        self.set(&directory.join("rescan"), "1", "rescan")
    }

    fn scan(&self, controller: &Controller, target: u8) -> Result<(), HostError> {
        let name = format!("host{}/scan", controller.host);
        let path = self.kernel.sysfs.join("class/scsi_host").join(name);
        let address = format!("0 {target} 0");
        (self.write)(&path, &address).map_err(|error| fault::io("scan", &path, &error))
    }

    /// Writes an attribute of a device. Gone meanwhile is what a deletion wants, and the next look will tell.
    pub(super) fn set(
        &self,
        path: &Path,
        value: &str,
        action: &'static str,
    ) -> Result<(), HostError> {
        match (self.write)(path, value) {
            Err(error)
                if error.kind() != io::ErrorKind::NotFound
                    && error.raw_os_error() != Some(nix::libc::ENODEV) =>
            {
                Err(fault::io(action, path, &error))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
