//! What is wrong with a disk: as far as the cloud shows, and as far as this process remembers.

use std::collections::HashMap;
use std::time::Duration;

use super::failed;
use super::view::published_on;
use crate::csi::error::Failure;
use crate::domain::disk::{AttachmentStatus, Disk, DiskStatus, Vm, VmState};
use crate::domain::id::{DiskName, VmName};
use crate::domain::journal::Phase;
use crate::fleet::Fleet;
use crate::proto::csi::v1::volume_health::VolumeHealthEntry;
use crate::proto::csi::v1::{VolumeHealth, VolumeHealthErrorType};

mod watch;

pub(super) use watch::Watch;

/// The health of one volume; `None`: its disk does not exist, and nobody was told that it is published.
pub(super) async fn one(
    fleet: &Fleet,
    watch: &Watch,
    name: &DiskName,
) -> Result<Option<VolumeHealth>, Failure> {
    let Some(disk) = fleet.disk(name).await.map_err(failed)? else {
        return Ok(watch.told(name).map(|vm| missing(name, &vm)));
    };
    let vms = fleet.vms().await.map_err(failed)?;
    Ok(Some(of(&disk, &by_name(&vms), watch.look(&disk))))
}

/// Volumes with findings, sorted by name. Disks that people made and that no PV is known for are not among them.
pub(super) async fn all(
    fleet: &Fleet,
    watch: &Watch,
) -> Result<Vec<(DiskName, VolumeHealth)>, Failure> {
    let snapshot = fleet.disks().await.map_err(failed)?;
    let vms = fleet.vms().await.map_err(failed)?;
    let vms = by_name(&vms);
    let mut sick = Vec::new();
    for (name, vm) in watch.look_at_all(&snapshot.disks) {
        // Younger than the snapshot, or unpublished since?
        let exists = fleet.disk(&name).await.map_err(failed)?.is_some();
        if !exists && watch.told(&name).is_some() {
            let health = missing(&name, &vm);
            sick.push((name, health));
        }
    }
    for disk in &snapshot.disks {
        let health = of(disk, &vms, watch.look(disk));
        if disk.phase() != Phase::Foreign && !health.health_statuses.is_empty() {
            sick.push((disk.name.clone(), health));
        }
    }
    sick.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(sick)
}

fn by_name(vms: &[Vm]) -> HashMap<&VmName, &Vm> {
    vms.iter().map(|vm| (&vm.name, vm)).collect()
}

/// The health of a disk that exists. `vms` are all VMs, by name; `stuck` is [`Watch::look`]'s answer.
fn of(disk: &Disk, vms: &HashMap<&VmName, &Vm>, stuck: Option<Duration>) -> VolumeHealth {
    let mut found = Vec::new();
    if let DiskStatus::Other(status) = &disk.status {
        found.push(entry(
            VolumeHealthErrorType::Degraded,
            "UnexpectedState",
            format!(
                "the computing API reports status {status:?}; look at the disk in the control panel"
            ),
        ));
    }
    found.extend(stuck.and_then(|time| lasting(disk, time)));
    found.extend(holder(disk, vms));
    VolumeHealth {
        volume_id: disk.name.to_string(),
        health_statuses: found,
    }
}

/// The health of a disk that does not exist, though it was published on `vm` when it was seen last.
fn missing(disk: &DiskName, vm: &VmName) -> VolumeHealth {
    VolumeHealth {
        volume_id: disk.to_string(),
        health_statuses: vec![entry(
            VolumeHealthErrorType::DataLoss,
            "DiskMissing",
            format!(
                "the disk does not exist in this region any more, though it was published on VM {vm} and this \
                 controller did not delete it: if the volume still exists in Kubernetes, find out who deleted or renamed \
                 the disk, and restore the data from a backup"
            ),
        )],
    }
}

fn entry(status: VolumeHealthErrorType, reason: &str, message: String) -> VolumeHealthEntry {
    VolumeHealthEntry {
        status: status.into(),
        reason: reason.to_owned(),
        message,
    }
}

/// A state that ought to have passed long ago.
fn lasting(disk: &Disk, time: Duration) -> Option<VolumeHealthEntry> {
    let minutes = time.as_secs() / 60;
    let stuck = |reason, doing: String| {
        let message = format!(
            "{doing} for more than {minutes} minutes, without an end: look at the disk and its VM in the control panel, \
             and ask NIFCLOUD's support if it stays so"
        );
        Some(entry(VolumeHealthErrorType::Inaccessible, reason, message))
    };
    if let Some(at) = &disk.attachment {
        match &at.status {
            AttachmentStatus::Attaching => {
                return stuck(
                    "StuckAttaching",
                    format!("attaching to VM {} (or growing there)", at.vm),
                );
            }
            AttachmentStatus::Detaching => {
                return stuck("StuckDetaching", format!("detaching from VM {}", at.vm));
            }
            AttachmentStatus::Other(status) => {
                return stuck(
                    "StuckInState",
                    format!("its attachment to VM {} has been {status:?}", at.vm),
                );
            }
            AttachmentStatus::Attached => {}
        }
    }
    if disk.status == DiskStatus::Creating {
        return stuck("StuckCreating", "being made".to_owned());
    }
    let holder = disk.holder()?;
    if disk.is_lent() {
        let message = format!(
            "lent to VM {holder} to be grown for more than {minutes} minutes: whoever grew it is gone; the next \
             expansion, publication or deletion of the volume brings it back"
        );
        return Some(entry(
            VolumeHealthErrorType::Degraded,
            "GrowthAbandoned",
            message,
        ));
    }
    disk.is_stray().then(|| {
        let message = format!(
            "attached to VM {holder}, which no publication that ended well and no growth explains: the volume's next \
             publication elsewhere or its deletion detaches it; if nothing on that VM uses it, it can also be detached \
             in the control panel"
        );
        entry(
            VolumeHealthErrorType::Degraded,
            "AttachedElsewhere",
            message,
        )
    })
}

/// What is wrong with the VM that a published disk is on.
fn holder(disk: &Disk, vms: &HashMap<&VmName, &Vm>) -> Option<VolumeHealthEntry> {
    let holder = disk.holder().filter(|_| !published_on(disk).is_empty())?;
    let (reason, message) = match vms.get(holder).map(|vm| &vm.state) {
        Some(VmState::Running) => return None,
        Some(state) => (
            "VmNotRunning",
            format!(
                "VM {holder}, which holds the disk, is {state:?}; start it, or let the pod move"
            ),
        ),
        None => (
            "VmMissing",
            format!("VM {holder}, which holds the disk, does not exist; let the pod move"),
        ),
    };
    Some(entry(VolumeHealthErrorType::Inaccessible, reason, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::disk::Attachment;
    use crate::domain::size::DiskSize;
    use crate::domain::topology::Zone;

    pub(super) const LIMIT: Duration = Duration::from_secs(600);

    pub(super) fn disk(
        status: DiskStatus,
        at: Option<(&str, AttachmentStatus)>,
        description: &str,
    ) -> Disk {
        Disk {
            name: DiskName::parse("disk1").unwrap(),
            unique_id: "vol-1".to_owned(),
            size: DiskSize::from_gib(100).unwrap(),
            disk_type: "Standard Flash Storage A".to_owned(),
            zone: Zone::parse("east-11").unwrap(),
            status,
            attachment: at.map(|(vm, status)| Attachment {
                vm: VmName::parse(vm).unwrap(),
                vm_unique_id: "i-1".to_owned(),
                status,
            }),
            description: description.to_owned(),
            accounting: None,
            next_accounting: None,
        }
    }

    fn reasons(watch: &Watch, disk: &Disk) -> Vec<(VolumeHealthErrorType, String)> {
        let health = of(disk, &HashMap::new(), watch.look(disk));
        let found = health.health_statuses.into_iter();
        found
            .filter(|entry| !entry.reason.starts_with("Vm"))
            .map(|entry| {
                assert!(!entry.message.is_empty());
                (entry.status(), entry.reason)
            })
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn every_state_that_ought_to_pass_is_reported_once_it_has_lasted_too_long() {
        use VolumeHealthErrorType::{Degraded, Inaccessible};
        let lent = "grw-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
        let free = "pvc-0a1b2c3d4e5f60718293a4b5c6d7e8f9free";
        let in_use = || DiskStatus::InUse;
        let cases = [
            (
                DiskStatus::Creating,
                None,
                "new-1",
                Inaccessible,
                "StuckCreating",
            ),
            (
                in_use(),
                Some(AttachmentStatus::Attaching),
                "pvc-1",
                Inaccessible,
                "StuckAttaching",
            ),
            (
                in_use(),
                Some(AttachmentStatus::Detaching),
                "mine",
                Inaccessible,
                "StuckDetaching",
            ),
            (
                in_use(),
                Some(AttachmentStatus::Other("odd".to_owned())),
                "pvc-1",
                Inaccessible,
                "StuckInState",
            ),
            (
                in_use(),
                Some(AttachmentStatus::Attached),
                lent,
                Degraded,
                "GrowthAbandoned",
            ),
            (
                in_use(),
                Some(AttachmentStatus::Attached),
                free,
                Degraded,
                "AttachedElsewhere",
            ),
        ];
        for (status, at, description, kind, reason) in cases {
            let watch = Watch::new(LIMIT);
            let disk = disk(status, at.map(|at| ("node1", at)), description);
            assert_eq!(reasons(&watch, &disk), []);
            for _ in 0..4 {
                tokio::time::advance(LIMIT / 4).await;
                assert_eq!(reasons(&watch, &disk), []);
            }
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(reasons(&watch, &disk), [(kind, reason.to_owned())]);
        }
    }

    #[test]
    fn a_disk_that_is_gone_is_data_loss_in_words() {
        let name = DiskName::parse("disk1").unwrap();
        let health = missing(&name, &VmName::parse("node1").unwrap());
        let found = &health.health_statuses[0];
        assert_eq!(found.reason, "DiskMissing");
        assert_eq!(found.status(), VolumeHealthErrorType::DataLoss);
        assert!(found.message.contains("VM node1"), "{}", found.message);
    }
}
