//! Compares the cloud's disks with what the cluster knows of them. Pure; changes nothing.
//!
//! A disk costs money as long as it exists, and a PersistentVolume without a disk is data that is gone: both are found
//! only by putting the two lists side by side.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use crate::domain::disk::Disk;
use crate::domain::id::VmName;
use crate::domain::journal::{self, Phase};
use crate::kube::{Attachment, PersistentVolume};

/// What is wrong. The names are stable: scripts may look for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A PersistentVolume whose disk does not exist.
    MissingDisk,
    /// Two PersistentVolumes with the same disk.
    DuplicateVolume,
    /// Two disks that were made for the same claim.
    DuplicateDisk,
    /// A disk that was born and never published, without a PersistentVolume.
    HalfMade,
    /// A published disk without a PersistentVolume.
    Orphan,
    /// A disk that is lent to a VM to be grown.
    Lent,
    /// A published disk that is attached where no VolumeAttachment says so.
    UnknownAttachment,
    /// A VolumeAttachment that says attached, while the disk is not attached there.
    MissingAttachment,
}

impl Kind {
    fn meaning(self) -> &'static str {
        match self {
            Self::MissingDisk => "its disk does not exist in this region",
            Self::DuplicateVolume => "more than one PersistentVolume names this disk: keep one",
            Self::DuplicateDisk => "more than one disk was made for this claim",
            Self::HalfMade => {
                "born, never published, no PersistentVolume: a claim that is being made right now, one that was given up, \
                 or another cluster's"
            }
            Self::Orphan => {
                "no PersistentVolume of this cluster names it: kept on purpose (Retain), forgotten, or another cluster's"
            }
            Self::Lent => "lent to a VM to be grown: the next call for this volume brings it back",
            Self::UnknownAttachment => {
                "attached to a VM without a VolumeAttachment of this cluster"
            }
            Self::MissingAttachment => {
                "a VolumeAttachment says that it is attached to a node, but it is not"
            }
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// The disk's name, which is the volume handle.
    pub disk: String,
    /// Size, place, PersistentVolume, claim: whatever helps to decide.
    pub about: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = format!("{:?}", self.kind);
        write!(
            f,
            "{kind:<17} {:<32} {}: {}",
            self.disk,
            self.about,
            self.kind.meaning()
        )
    }
}

/// All findings, worst kinds first. Disks that people made count only when a PersistentVolume names them.
#[must_use]
pub fn compare(
    disks: &[Disk],
    volumes: &[PersistentVolume],
    attachments: &[Attachment],
) -> Vec<Finding> {
    let mut by_handle: BTreeMap<&str, Vec<&PersistentVolume>> = BTreeMap::new();
    for volume in volumes {
        by_handle.entry(&volume.handle).or_default().push(volume);
    }
    let mut found = Vec::new();
    let mut find = |kind, disk: &str, about: String| {
        found.push(Finding {
            kind,
            disk: disk.to_owned(),
            about,
        });
    };
    let existing: HashSet<&str> = disks.iter().map(|disk| disk.name.as_str()).collect();
    for (handle, volumes) in &by_handle {
        let names: Vec<String> = volumes.iter().map(|volume| about_volume(volume)).collect();
        if !existing.contains(handle) {
            find(Kind::MissingDisk, handle, names.join(", "));
        }
        if volumes.len() > 1 {
            find(Kind::DuplicateVolume, handle, names.join(", "));
        }
    }
    for twin in twins(disks) {
        find(Kind::DuplicateDisk, twin.name.as_str(), about_disk(twin));
    }
    for disk in disks {
        let name = disk.name.as_str();
        let volumes = by_handle.get(name).map_or(&[][..], Vec::as_slice);
        if let Some(kind) = by_phase(disk.phase(), volumes.is_empty()) {
            find(kind, name, about_disk(disk));
        }
        if volumes.is_empty() {
            continue;
        }
        let of_disk = |one: &&Attachment| volumes.iter().any(|volume| volume.name == one.volume);
        let holder = disk.holder().map(VmName::as_str);
        if let Some(holder) = holder.filter(|_| !disk.is_ours())
            && !attachments
                .iter()
                .filter(of_disk)
                .any(|one| one.node == holder)
        {
            find(Kind::UnknownAttachment, name, about_disk(disk));
        }
        for one in attachments.iter().filter(of_disk) {
            if one.attached && holder != Some(one.node.as_str()) {
                let about = format!("{}, expected on {}", about_disk(disk), one.node);
                find(Kind::MissingAttachment, name, about);
            }
        }
    }
    found.sort();
    found
}

/// What the phase of a disk alone tells; `unnamed`: no PersistentVolume names it.
fn by_phase(phase: Phase, unnamed: bool) -> Option<Kind> {
    match phase {
        Phase::New if unnamed => Some(Kind::HalfMade),
        Phase::Published | Phase::Free if unnamed => Some(Kind::Orphan),
        Phase::Growing => Some(Kind::Lent),
        Phase::New | Phase::Published | Phase::Free | Phase::Foreign => None,
    }
}

/// Disks whose journals name the same claim.
fn twins(disks: &[Disk]) -> Vec<&Disk> {
    let mut by_claim: BTreeMap<String, Vec<&Disk>> = BTreeMap::new();
    for disk in disks {
        if let Some(claim) = journal::publish(&disk.description) {
            by_claim.entry(claim).or_default().push(disk);
        }
    }
    let several = by_claim
        .into_iter()
        .filter(|(claim, disks)| claim.len() > 4 && disks.len() > 1);
    several.flat_map(|(_, disks)| disks).collect()
}

fn about_volume(volume: &PersistentVolume) -> String {
    let claim = volume.claim.as_deref().unwrap_or("no claim");
    format!("{} ({claim}, {})", volume.name, volume.phase)
}

fn about_disk(disk: &Disk) -> String {
    let place = disk
        .holder()
        .map_or_else(|| "detached".to_owned(), |vm| format!("on {vm}"));
    format!(
        "{}, {}, {place}, {}",
        disk.size, disk.zone, disk.description
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::disk::{Attachment as CloudAttachment, AttachmentStatus, DiskStatus};
    use crate::domain::id::DiskName;
    use crate::domain::size::DiskSize;
    use crate::domain::topology::Zone;

    fn disk(name: &str, description: &str, vm: Option<&str>) -> Disk {
        Disk {
            name: DiskName::parse(name).unwrap(),
            unique_id: String::new(),
            size: DiskSize::from_gib(100).unwrap(),
            disk_type: String::new(),
            zone: Zone::parse("east-11").unwrap(),
            status: DiskStatus::Available,
            attachment: vm.map(|vm| CloudAttachment {
                vm: VmName::parse(vm).unwrap(),
                vm_unique_id: String::new(),
                status: AttachmentStatus::Attached,
            }),
            description: description.to_owned(),
            accounting: None,
            next_accounting: None,
        }
    }

    fn volume(name: &str, handle: &str) -> PersistentVolume {
        PersistentVolume {
            name: name.to_owned(),
            handle: handle.to_owned(),
            claim: None,
            phase: "Bound".to_owned(),
            deleting: false,
        }
    }

    fn on(node: &str, volume: &str) -> Attachment {
        Attachment {
            node: node.to_owned(),
            volume: volume.to_owned(),
            attached: true,
        }
    }

    #[test]
    fn a_cluster_in_order_has_no_findings() {
        let disks = [
            disk("a", "pvc-1", Some("web01")),
            disk("b", "pvc-2", None),
            disk("c", "new-3", Some("web02")),
            disk("d", "made by hand", Some("web01")),
        ];
        let volumes = [volume("pv1", "a"), volume("pv2", "b"), volume("pv3", "c")];
        assert_eq!(compare(&disks, &volumes, &[on("web01", "pv1")]), []);
    }

    #[test]
    fn everything_that_does_not_fit_is_found() {
        let disks = [
            disk("a", "pvc-1", Some("web01")),
            disk("b", "pvc-2", Some("web01")),
            disk("c", "new-3", Some("web01")),
            disk("d", "pvc-4", None),
            disk("e", "pvc-4", None),
            disk("f", "grw-5", Some("web02")),
        ];
        let volumes = [
            volume("pv1", "a"),
            volume("pv2", "b"),
            volume("pv4", "e"),
            volume("pv5", "f"),
            volume("pv6", "g"),
            volume("pv7", "b"),
        ];
        let found = compare(&disks, &volumes, &[on("web02", "pv2")]);
        let found: Vec<_> = found
            .iter()
            .map(|one| (one.kind, one.disk.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                (Kind::MissingDisk, "g"),
                (Kind::DuplicateVolume, "b"),
                (Kind::DuplicateDisk, "d"),
                (Kind::DuplicateDisk, "e"),
                (Kind::HalfMade, "c"),
                (Kind::Orphan, "d"),
                (Kind::Lent, "f"),
                (Kind::UnknownAttachment, "a"),
                (Kind::UnknownAttachment, "b"),
                (Kind::MissingAttachment, "b"),
            ]
        );
    }
}
