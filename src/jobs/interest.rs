//! Whether anybody still waits for a job.
//!
//! A caller that goes away without an answer (its connection is gone) may have lost its lease: another replica may be
//! told the opposite at any moment. A caller that was told that the work goes on will come back, for a while. So a job
//! finishes what the cloud is already doing, but begins something new only while somebody is interested.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The interest in one job.
#[derive(Debug, Clone, Default)]
pub struct Interest(Arc<Mutex<Callers>>);

#[derive(Debug, Default)]
struct Callers {
    waiting: usize,
    /// When the last one that is expected back was told that the work goes on.
    told: Option<Instant>,
}

impl Interest {
    /// Whether somebody waits, or was told less than `linger` ago that the work goes on.
    #[must_use]
    pub fn lasts(&self, linger: Duration) -> bool {
        let callers = self.lock();
        callers.waiting > 0 || callers.told.is_some_and(|told| told.elapsed() < linger)
    }

    /// One more caller, until the guard is dropped.
    pub(super) fn join(&self) -> Caller {
        self.lock().waiting += 1;
        Caller {
            interest: self.clone(),
            told: false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Callers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A caller that waits.
#[derive(Debug)]
pub(super) struct Caller {
    interest: Interest,
    told: bool,
}

impl Caller {
    /// It leaves knowing that the work goes on.
    pub(super) fn tell(mut self) {
        self.told = true;
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let mut callers = self.interest.lock();
        callers.waiting -= 1;
        // The last one to leave speaks for all: it knows best who is in charge.
        callers.told = self.told.then(Instant::now);
    }
}
