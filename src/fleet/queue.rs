//! One queue per VM, first come, first served.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::domain::id::VmName;

/// The right to change one VM's disks; others wait until it is dropped. Held from the mutating call until the
/// cloud has finished it.
#[derive(Debug)]
pub struct Turn {
    vm: VmName,
    permit: Option<OwnedSemaphorePermit>,
    queues: Queues,
}

impl Turn {
    /// The VM whose turn it is.
    #[must_use]
    pub fn vm(&self) -> &VmName {
        &self.vm
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.permit = None;
        self.queues.forget_idle(&self.vm);
    }
}

#[derive(Debug, Clone)]
pub(super) struct Queues {
    at_once: usize,
    table: Arc<Mutex<HashMap<VmName, Arc<Semaphore>>>>,
}

impl Queues {
    pub(super) fn new(at_once: usize) -> Self {
        Self {
            at_once,
            table: Arc::default(),
        }
    }

    /// `None`: the deadline passed first.
    pub(super) async fn turn(&self, vm: &VmName, deadline: Instant) -> Option<Turn> {
        let place = Place {
            vm: vm.clone(),
            queues: self.clone(),
        };
        let semaphore = Arc::clone(
            self.lock()
                .entry(vm.clone())
                .or_insert_with(|| Arc::new(Semaphore::new(self.at_once))),
        );
        let permit = tokio::time::timeout_at(deadline, semaphore.acquire_owned())
            .await
            .ok()?
            .ok()?;
        drop(place);
        Some(Turn {
            vm: vm.clone(),
            permit: Some(permit),
            queues: self.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<VmName, Arc<Semaphore>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget_idle(&self, vm: &VmName) {
        let mut table = self.lock();
        // Whoever waits or holds a permit has a reference too; new ones are taken under this lock only.
        if table.get(vm).is_some_and(|s| Arc::strong_count(s) == 1) {
            table.remove(vm);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }
}

/// Cleans up after a wait that was given up.
struct Place {
    vm: VmName,
    queues: Queues,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queues.forget_idle(&self.vm);
    }
}
