//! Bounded waiting in blocking code: a pause that knows its deadline, slots for expensive tools, and a way to
//! leave a system call that may never return.

use std::sync::mpsc;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::HostError;

/// Growing pauses between looks at something that changes by itself.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    most: Duration,
}

impl Backoff {
    pub(super) fn new(first: Duration, most: Duration) -> Self {
        Self { next: first, most }
    }

    /// Sleeps, at most until `deadline`; `false` when the deadline has passed already.
    pub(super) fn pause(&mut self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        sleep(self.next.min(left));
        self.next = (self.next * 2).min(self.most);
        true
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "the host port is blocking by contract and runs off the reactor; every pause is bounded by a deadline"
)]
fn sleep(duration: Duration) {
    std::thread::sleep(duration);
}

/// A counted resource: so many heavy tools at once on this machine.
#[derive(Debug)]
pub(super) struct Slots {
    free: Mutex<usize>,
    changed: Condvar,
}

/// One slot, given back when dropped.
#[derive(Debug)]
pub(super) struct Slot<'a>(&'a Slots);

impl Slots {
    /// `count` slots, at least one.
    pub(super) fn new(count: usize) -> Self {
        Self {
            free: Mutex::new(count.max(1)),
            changed: Condvar::new(),
        }
    }

    /// Takes a slot; `None` when none became free before `deadline`.
    pub(super) fn take(&self, deadline: Instant) -> Option<Slot<'_>> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            (free, _) = self
                .changed
                .wait_timeout(free, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Some(Slot(self))
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.changed.notify_one();
    }
}

/// Runs `work` on a thread of its own and leaves it behind when it has not answered by `deadline`: `statvfs` and
/// `stat` on a mount whose device is gone may stay in the kernel for ever.
pub(super) fn bounded<T: Send + 'static>(
    what: &str,
    deadline: Instant,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, HostError> {
    let (send, receive) = mpsc::sync_channel(1);
    let started = Instant::now();
    let spawned = std::thread::Builder::new()
        .name("host-bounded".to_owned())
        .spawn(move || {
            // Nobody listens any more when the time was up; the result is dropped then.
            let _ = send.send(work());
        });
    if let Err(error) = spawned {
        return Err(HostError::Io {
            action: "start a thread for",
            path: what.into(),
            reason: error.to_string(),
            errno: error.raw_os_error(),
        });
    }
    let limit = deadline.saturating_duration_since(started);
    receive
        .recv_timeout(limit)
        .map_err(|_| HostError::TimedOut {
            what: what.to_owned(),
            limit_ms: millis(limit),
        })
}

/// Milliseconds, saturating.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_slot_is_not_given_twice_and_comes_back() {
        let slots = Slots::new(1);
        let slot = slots.take(Instant::now()).unwrap();
        assert!(slots.take(Instant::now()).is_none());
        drop(slot);
        assert!(slots.take(Instant::now()).is_some());
    }

    #[test]
    fn work_that_never_returns_is_left_behind() {
        let (_keep, never) = mpsc::channel::<()>();
        let result = bounded("statvfs of \"/x\"", Instant::now(), move || never.recv());
        assert!(
            matches!(result, Err(HostError::TimedOut { .. })),
            "{result:?}"
        );
    }
}
