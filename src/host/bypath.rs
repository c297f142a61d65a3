//! Disks in a directory of by-path links, as udev names them and as the emulator makes them for loop devices:
//! `pci-0000:03:00.0-scsi-0:0:3:0 -> /dev/loop7` is target 3 of the first controller.

use std::path::PathBuf;

use super::device::{Kernel, block_number, names};
use super::{BlockDevice, HostError};
use crate::domain::device::ScsiAddress;

/// A directory of links.
#[derive(Debug, Clone)]
pub(super) struct ByPath {
    pub(super) dir: PathBuf,
}

/// A link's name, taken apart. Sorts in PCI order: addresses are hexadecimal numbers of fixed width.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Link {
    controller: (String, u32),
    target: u8,
    name: String,
}

impl Link {
    fn parse(name: &str) -> Option<Self> {
        let (pci, scsi) = name.strip_prefix("pci-")?.split_once("-scsi-")?;
        let mut numbers = scsi.split(':');
        let host = numbers.next()?.parse().ok()?;
        let channel: u32 = numbers.next()?.parse().ok()?;
        let target = numbers.next()?.parse().ok()?;
        // A partition's link ends in "0-part1" here, which is no number.
        let lun: u32 = numbers.next()?.parse().ok()?;
        (channel == 0 && lun == 0 && numbers.next().is_none()).then(|| Self {
            controller: (pci.to_ascii_lowercase(), host),
            target,
            name: name.to_owned(),
        })
    }
}

impl ByPath {
    /// All slots with a link. A link whose device is gone has none.
    pub(super) fn list(&self, kernel: &Kernel) -> Vec<(ScsiAddress, Option<BlockDevice>)> {
        let slots = self.slots().into_iter();
        slots
            .map(|(at, name)| (at, self.resolve(kernel, at, &name)))
            .collect()
    }

    /// Slots and their links' names, in PCI order.
    fn slots(&self) -> Vec<(ScsiAddress, String)> {
        let mut links: Vec<_> = names(&self.dir)
            .iter()
            .filter_map(|name| Link::parse(name))
            .collect();
        links.sort_unstable();
        let mut controllers: Vec<_> = links.iter().map(|link| link.controller.clone()).collect();
        controllers.dedup();
        let slots = links.into_iter().filter_map(|link| {
            let bus = controllers.iter().position(|c| *c == link.controller)?;
            let at = ScsiAddress {
                bus: u8::try_from(bus).ok()?,
                target: link.target,
            };
            Some((at, link.name))
        });
        slots.collect()
    }

    fn resolve(&self, kernel: &Kernel, at: ScsiAddress, name: &str) -> Option<BlockDevice> {
        block_number(&self.dir.join(name)).and_then(|devno| kernel.device(devno, Some(at)))
    }

    /// The device in a slot now.
    pub(super) fn device_at(
        &self,
        kernel: &Kernel,
        at: ScsiAddress,
    ) -> Result<Option<BlockDevice>, HostError> {
        if !self.dir.is_dir() {
            return Err(HostError::WrongKind {
                path: self.dir.clone(),
                expected: "the directory of disks",
                found: "no directory".to_owned(),
            });
        }
        let slot = self.slots().into_iter().find(|(slot, _)| *slot == at);
        Ok(slot.and_then(|(_, name)| self.resolve(kernel, at, &name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_disks_on_lun_0_are_slots() {
        let link = Link::parse("pci-0000:03:00.0-scsi-0:0:14:0").unwrap();
        assert_eq!(link.target, 14);
        for other in [
            "pci-0000:03:00.0-scsi-0:0:1:0-part1",
            "pci-0000:03:00.0-scsi-0:0:1:1",
            "pci-0000:03:00.0-scsi-0:1:1:0",
            "pci-0000:03:00.0-scsi-0:0:300:0",
            "pci-0000:03:00.0-ata-1",
            "virtio-0",
            "",
        ] {
            assert_eq!(Link::parse(other), None, "{other}");
        }
    }

    #[test]
    fn controllers_count_in_pci_order() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "pci-0000:0b:00.0-scsi-0:0:1:0",
            "pci-0000:03:00.0-scsi-0:0:2:0",
            "pci-0000:03:00.0-scsi-1:0:5:0",
            "not-a-disk",
        ] {
            std::os::unix::fs::symlink("/nonexistent", dir.path().join(name)).unwrap();
        }
        let kernel = Kernel {
            sysfs: "/nonexistent".into(),
            dev: "/nonexistent".into(),
        };
        let slots = ByPath {
            dir: dir.path().to_owned(),
        }
        .list(&kernel);
        let shown: Vec<_> = slots.iter().map(|(at, _)| at.to_string()).collect();
        assert_eq!(shown, ["SCSI (0:2)", "SCSI (1:5)", "SCSI (2:1)"]);
    }
}
