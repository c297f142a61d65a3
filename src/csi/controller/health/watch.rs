//! What this process remembers of disks, because the cloud does not tell it.
//!
//! The API does not say since when a disk is in a state, nor what callers were told. Each read of all disks (ListVolumes,
//! health) is looked at here, and each answer to a publish is noted. A replica that has just started therefore needs as
//! long as the limit before it calls anything stuck.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::disk::{Attachment, Disk, DiskStatus};
use crate::domain::id::{DiskName, VmName};
use crate::domain::size::DiskSize;

/// What this process remembers of disks.
#[derive(Debug)]
pub(in super::super) struct Watch {
    /// In a state that passes for longer than this: stuck.
    limit: Duration,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    passing: HashMap<DiskName, Passing>,
    /// Disks that a caller was told are published, and where.
    told: HashMap<DiskName, VmName>,
}

/// A state that ought to end by itself.
#[derive(Debug)]
struct Passing {
    status: DiskStatus,
    attachment: Option<Attachment>,
    description: String,
    /// A growth of many steps moves all the time.
    size: DiskSize,
    since: Instant,
    seen: Instant,
}

impl Passing {
    fn is_of(&self, disk: &Disk) -> bool {
        self.status == disk.status
            && self.attachment == disk.attachment
            && self.description == disk.description
            && self.size == disk.size
    }
}

impl Watch {
    /// `limit`: how long anything that the driver waits for may take.
    pub(in super::super) fn new(limit: Duration) -> Self {
        Self {
            limit,
            memory: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A caller is told that the disk is on the VM.
    pub(in super::super) fn published(&self, disk: &DiskName, vm: &VmName) {
        self.lock().told.insert(disk.clone(), vm.clone());
    }

    /// A caller has asked that this should end.
    pub(in super::super) fn unpublished(&self, disk: &DiskName) {
        self.lock().told.remove(disk);
    }

    /// Notes what a disk looks like now; answers for how long it has been in a state that ought to pass, if that is
    /// longer than it may be.
    pub(in super::super) fn look(&self, disk: &Disk) -> Option<Duration> {
        let mut memory = self.lock();
        let elsewhere = |vm: &VmName| disk.is_settled() && disk.holder() != Some(vm);
        if memory.told.get(&disk.name).is_some_and(elsewhere) {
            // Another replica's doing.
            memory.told.remove(&disk.name);
        }
        if disk.is_settled() && !disk.is_stray() && !disk.is_lent() {
            memory.passing.remove(&disk.name);
            return None;
        }
        let passing = memory
            .passing
            .entry(disk.name.clone())
            .or_insert_with(|| Passing {
                status: disk.status.clone(),
                attachment: disk.attachment.clone(),
                description: disk.description.clone(),
                size: disk.size,
                since: Instant::now(),
                seen: Instant::now(),
            });
        // What was not looked at for long may have come to rest in between.
        let lost = passing.seen.elapsed() > self.limit / 2;
        passing.seen = Instant::now();
        if lost || !passing.is_of(disk) {
            passing.status.clone_from(&disk.status);
            passing.attachment.clone_from(&disk.attachment);
            passing.description.clone_from(&disk.description);
            passing.size = disk.size;
            passing.since = Instant::now();
        }
        Some(passing.since.elapsed()).filter(|time| *time > self.limit)
    }

    /// Looks at all disks, sorted by name; answers those that should be among them and are not.
    pub(in super::super) fn look_at_all(&self, disks: &[Disk]) -> Vec<(DiskName, VmName)> {
        for disk in disks {
            self.look(disk);
        }
        let exists = |name: &DiskName| disks.binary_search_by(|disk| disk.name.cmp(name)).is_ok();
        let mut memory = self.lock();
        memory.passing.retain(|name, _| exists(name));
        let told = memory.told.iter().filter(|(name, _)| !exists(name));
        told.map(|(name, vm)| (name.clone(), vm.clone())).collect()
    }

    /// Where a caller was told that the disk is.
    pub(in super::super) fn told(&self, disk: &DiskName) -> Option<VmName> {
        self.lock().told.get(disk).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{LIMIT, disk};
    use super::*;
    use crate::domain::disk::AttachmentStatus;

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_moves_on_or_comes_to_rest_is_not_stuck() {
        let watch = Watch::new(LIMIT);
        let attaching = || Some(("node1", AttachmentStatus::Attaching));
        let mut growing = disk(DiskStatus::InUse, attaching(), "pvc-1");
        for _ in 0..4 {
            growing.size = growing.size.next_step();
            assert_eq!(watch.look(&growing), None);
            tokio::time::advance(LIMIT).await;
        }
        let resting = disk(
            DiskStatus::InUse,
            Some(("node1", AttachmentStatus::Attached)),
            "pvc-1",
        );
        assert_eq!(watch.look(&resting), None);
        tokio::time::advance(LIMIT / 2).await;
        assert_eq!(watch.look(&growing), None, "seen again for the first time");
        watch.look_at_all(&[]);
        tokio::time::advance(LIMIT / 2).await;
        assert_eq!(watch.look(&growing), None, "gone and come back");
        tokio::time::advance(LIMIT * 2).await;
        assert_eq!(watch.look(&growing), None, "not looked at for long");
    }

    #[tokio::test]
    async fn a_disk_that_vanished_while_it_was_published_is_missing() {
        let watch = Watch::new(LIMIT);
        let [here, there] = ["node1", "node2"].map(|vm| VmName::parse(vm).unwrap());
        let resting = |vm| {
            let at = Some((vm, AttachmentStatus::Attached));
            disk(DiskStatus::InUse, at, "pvc-1")
        };
        let name = resting("node1").name;
        watch.published(&name, &here);
        assert_eq!(watch.look_at_all(&[resting("node1")]), []);
        assert_eq!(watch.look_at_all(&[]), [(name.clone(), here.clone())]);
        watch.unpublished(&name);
        assert_eq!(watch.look_at_all(&[]), []);
        // Moved by another replica, which may delete it as well.
        watch.published(&name, &there);
        assert_eq!(watch.look_at_all(&[resting("node1")]), []);
        assert_eq!(watch.look_at_all(&[]), []);
    }
}
