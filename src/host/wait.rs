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

type Work = Box<dyn FnOnce() + Send>;

/// Threads that have answered and wait for more. One that hangs is not among them.
static IDLE: Mutex<Vec<mpsc::SyncSender<Work>>> = Mutex::new(Vec::new());
/// Threads that are kept waiting.
const SPARE: usize = 4;

/// Gives `work` to an idle thread or to a new one.
fn give(mut work: Work) -> std::io::Result<()> {
    loop {
        let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some(idle) = idle else { break };
        match idle.send(work) {
            Ok(()) => return Ok(()),
            Err(mpsc::SendError(back)) => work = back,
        }
    }
    std::thread::Builder::new()
        .name("host-bounded".to_owned())
        .spawn(move || serve(work))
        .map(drop)
}

fn serve(first: Work) {
    let (send, receive) = mpsc::sync_channel::<Work>(1);
    let mut next = Some(first);
    while let Some(work) = next {
        work();
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() >= SPARE {
            return;
        }
        idle.push(send.clone());
        drop(idle);
        next = receive.recv().ok();
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
    let given = give(Box::new(move || {
        // Nobody listens any more when the time was up; the result is dropped then.
        let _ = send.send(work());
    }));
    if let Err(error) = given {
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
    fn a_thread_that_hangs_gets_no_more_work() {
        let (release, hangs) = mpsc::channel::<()>();
        let stuck = bounded("x", Instant::now(), move || hangs.recv());
        assert!(stuck.is_err());
        let soon = Instant::now() + Duration::from_secs(30);
        for number in 0..3 * SPARE {
            assert_eq!(bounded("x", soon, move || number), Ok(number));
        }
        drop(release);
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
