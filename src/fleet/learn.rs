//! How long each kind of operation takes, learned from polls.
//!
//! A poll only tells that an operation ended somewhere between the last "not yet" and the first "done". The middle
//! of that interval is the sample. "Done" at the very first poll has no lower end; it is taken as a sign that the
//! estimate is too long, the more so the more often it happens in a row.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Operation;
use super::config::FleetConfig;

/// Before anything is learned: first look after this many of the shortest poll interval.
const FIRST_LOOK: u32 = 2;
/// Weight of a new sample once a few have been seen.
const WEIGHT: f64 = 0.25;
/// One stuck operation must not move the estimate by more than this factor's worth.
const OUTLIER: f64 = 1.5;
/// Unlearned or overdue: poll again after this part of the time that has already passed.
const OVERDUE: f64 = 0.2;
/// Intervals between polls grow by this factor.
const GROWTH: f64 = 1.25;

#[derive(Debug, Default)]
pub(super) struct Learned(Mutex<HashMap<Operation, Estimate>>);

#[derive(Debug, Clone, Copy)]
struct Estimate {
    mean: f64,
    deviation: f64,
    samples: u32,
    first_hits: u32,
}

/// An operation that was seen to end; times since the API accepted it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub(super) operation: Operation,
    pub(super) not_yet: Option<Duration>,
    pub(super) took: Duration,
}

/// When to look at an operation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Plan {
    /// First poll, counted from the API's acceptance.
    pub(super) first: Duration,
    /// Interval after the first poll; grows.
    pub(super) step: Duration,
    /// How long a poll may wait for others: the price of sharing. Grows with the interval.
    pub(super) slack: Duration,
    /// The same for the first poll alone: how much durations vary.
    pub(super) spread: Duration,
}

impl Plan {
    /// The next interval, `elapsed` after the acceptance.
    pub(super) fn next(&mut self, elapsed: Duration, config: &FleetConfig) -> Duration {
        let limit = elapsed.mul_f64(OVERDUE).max(config.poll_min);
        let step = self.step.min(limit);
        self.step = step.mul_f64(GROWTH);
        self.slack = self.slack.max(step / 2);
        self.spread = Duration::ZERO;
        step
    }
}

impl Learned {
    pub(super) fn plan(&self, operation: Operation, config: &FleetConfig) -> Plan {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(estimate) = table.get(&operation) else {
            return Plan {
                first: config.poll_min * FIRST_LOOK,
                step: Duration::MAX,
                slack: config.poll_min,
                spread: Duration::ZERO,
            };
        };
        let mean = Duration::from_secs_f64(estimate.mean);
        let first = (estimate.mean - estimate.deviation).max(estimate.mean / 2.0);
        let slack = mean.mul_f64(config.poll_fraction).max(config.poll_min);
        Plan {
            // No floor: one look at the expected end is no crowd of polls, and a cloud that is done at once shall be
            // met at once.
            first: Duration::from_secs_f64(first),
            step: (slack / 4).max(config.poll_min),
            slack,
            spread: mean.saturating_sub(Duration::from_secs_f64(first)),
        }
    }

    /// Learns from all operations that one read saw end. They count once: a crowd that ends together tells no more
    /// about the next one than a lone operation does.
    pub(super) fn observe_all(&self, ended: &[Ended]) {
        let mut kinds: HashMap<Operation, Vec<&Ended>> = HashMap::new();
        for end in ended {
            kinds.entry(end.operation).or_default().push(end);
        }
        for (operation, ends) in kinds {
            let seen_running = ends.iter().any(|end| end.not_yet.is_some());
            let useful = || {
                ends.iter()
                    .filter(|end| end.not_yet.is_some() == seen_running)
            };
            let count = u32::try_from(useful().count()).unwrap_or(u32::MAX).max(1);
            let not_yet: Option<Duration> = useful().map(|end| end.not_yet).sum();
            let done: Duration = useful().map(|end| end.took).sum();
            self.observe(operation, not_yet.map(|sum| sum / count), done / count);
        }
    }

    /// The operation was seen running at `not_yet` (if at all) and finished at `done`, both since its acceptance.
    fn observe(&self, operation: Operation, not_yet: Option<Duration>, done: Duration) {
        let done = done.as_secs_f64();
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let estimate = table.entry(operation).or_insert(Estimate {
            mean: done,
            deviation: 0.0,
            samples: 0,
            first_hits: 0,
        });
        let sample = if let Some(not_yet) = not_yet {
            estimate.first_hits = 0;
            f64::midpoint(not_yet.as_secs_f64(), done)
        } else {
            estimate.first_hits = (estimate.first_hits + 1).min(6);
            done * (1.0 - 0.1 * f64::from(estimate.first_hits))
        };
        let sample = if estimate.samples >= 3 {
            sample.min(estimate.mean * OUTLIER)
        } else {
            sample
        };
        let weight = (1.0 / f64::from(estimate.samples + 1)).max(WEIGHT);
        let off = sample - estimate.mean;
        estimate.mean += weight * off;
        estimate.deviation += WEIGHT * (off.abs() - estimate.deviation);
        estimate.samples = estimate.samples.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Polls one operation of the given duration as the tracker does; returns (polls, delay after the end).
    fn poll(learned: &Learned, took: Duration) -> (u32, Duration) {
        let config = FleetConfig::default();
        let mut plan = learned.plan(Operation::Create, &config);
        let (mut at, mut polls, mut not_yet) = (plan.first, 1, None);
        while at < took {
            not_yet = Some(at);
            at += plan.next(at, &config);
            polls += 1;
        }
        learned.observe(Operation::Create, not_yet, at);
        (polls, at.checked_sub(took).unwrap())
    }

    #[test]
    fn a_steady_cloud_is_met_within_a_twentieth_and_a_few_polls() {
        let (learned, took) = (Learned::default(), Duration::from_secs(10));
        let (first_polls, _) = poll(&learned, took);
        assert!(first_polls <= 35, "{first_polls}");
        for _ in 0..5 {
            poll(&learned, took);
        }
        let (mut polls, mut late) = (0, Duration::ZERO);
        for _ in 0..100 {
            let (p, l) = poll(&learned, took);
            assert!(l <= took / 16, "{l:?}");
            polls += p;
            late += l;
        }
        assert!(late / 100 <= took / 40, "{late:?}");
        assert!(polls <= 600, "{polls}");
    }

    #[test]
    fn a_cloud_that_becomes_fast_is_noticed_soon() {
        let learned = Learned::default();
        for _ in 0..20 {
            poll(&learned, Duration::from_secs(10));
        }
        for _ in 0..20 {
            poll(&learned, Duration::from_millis(500));
        }
        let (_, late) = poll(&learned, Duration::from_millis(500));
        assert!(late < Duration::from_millis(500), "{late:?}");
    }

    #[test]
    fn one_stuck_operation_does_not_slow_the_next_ones_down() {
        let learned = Learned::default();
        for _ in 0..20 {
            poll(&learned, Duration::from_secs(2));
        }
        poll(&learned, Duration::from_secs(500));
        let (_, late) = poll(&learned, Duration::from_secs(2));
        assert!(late < Duration::from_secs(1), "{late:?}");
    }
}
