//! How long each kind of operation takes, learned from reads.
//!
//! ```text
//! accepted ------- floor ]----- the end is in here -----[ done --> time
//!        seen running ^         (sample: its middle)      ^ seen ended
//! ```
//!
//! Times are those at which reads were sent, so that what is learned is when to send one. An operation that is over at the
//! first look tells no lower end of its own; the last one known serves. Where durations hardly vary, the first look comes
//! just after the expected end, as a miss costs more than that delay; where they vary, before it. Whether the cloud has
//! become faster is found out by a scout now and then: a look of one waiter, long before the others'.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Operation;
use super::config::FleetConfig;

/// Before anything is learned: first look after this many of the shortest poll interval.
const FIRST_LOOK: u32 = 2;
/// Weight of a new sample once a few have been seen.
const WEIGHT: f64 = 0.25;
/// A sample this near to the estimate, as a part of it, refines it, with this weight.
const NEAR: f64 = 0.03;
const WEIGHT_NEAR: f64 = 0.5;
/// Weight of a sample's distance in the estimate of how much durations vary.
const WEIGHT_DEVIATION: f64 = 0.6;
/// One stuck operation must not move the estimate by more than this factor's worth.
const OUTLIER: f64 = 1.5;
/// Unlearned or overdue: poll again after this part of the time that has already passed.
const OVERDUE: f64 = 0.2;
/// Intervals between polls grow by this factor.
const GROWTH: f64 = 1.25;
/// The same below the shortest interval of a slow operation.
const GROWTH_QUICK: f64 = 2.0;
/// The shortest interval of all.
const QUICK: Duration = Duration::from_micros(500);
/// Interval after the first poll, as a part of the learned duration.
const STEP: f64 = 0.005;
/// Durations that vary by no more than this part of themselves are looked at just after the expected end.
const TIGHT: f64 = 0.02;
/// A scout goes out after every so many operations in a row that were over at the first look,
const SCOUT_EVERY: u32 = 4;
/// at one of these parts of the expected duration.
const SCOUTS: [f64; 3] = [0.95, 0.8, 0.5];
/// An end that was found without a lower end lies at about this part of the time.
const GUESS: f64 = 0.9;

#[derive(Debug, Default)]
pub(super) struct Learned(Mutex<HashMap<Operation, Estimate>>);

#[derive(Debug, Clone, Copy)]
struct Estimate {
    mean: f64,
    deviation: f64,
    samples: u32,
    /// The latest time at which an operation was seen running, unless one was seen ended sooner since.
    floor: f64,
    /// Operations in a row that were over at the first look.
    first_hits: u32,
    /// The count of `first_hits` for which a scout is out.
    scouted: u32,
    /// Scouts in a row that found the operation ended.
    finds: usize,
}

/// An operation that was seen to end; times since the API accepted it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub(super) operation: Operation,
    /// When the last read that saw it running was sent.
    pub(super) not_yet: Option<Duration>,
    /// When the read that saw its end was sent.
    pub(super) done: Duration,
    /// When that read was answered.
    pub(super) took: Duration,
}

/// When to look at an operation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Plan {
    /// First poll, counted from the API's acceptance.
    pub(super) first: Duration,
    /// Second poll, likewise, where the first is a scout.
    pub(super) then: Option<Duration>,
    /// Interval after these; grows.
    pub(super) step: Duration,
    /// How long a poll may wait for others: the price of sharing. Grows with the interval.
    pub(super) slack: Duration,
    /// The same for the first poll alone: how much durations vary.
    pub(super) spread: Duration,
}

impl Plan {
    /// The next interval, `elapsed` after the acceptance.
    pub(super) fn next(&mut self, elapsed: Duration, config: &FleetConfig) -> Duration {
        if let Some(left) = self.then.take().and_then(|at| at.checked_sub(elapsed)) {
            return left;
        }
        let limit = elapsed.mul_f64(OVERDUE).max(config.poll_min);
        let step = self.step.min(limit);
        let growth = if step < config.poll_min {
            GROWTH_QUICK
        } else {
            GROWTH
        };
        self.step = step.mul_f64(growth);
        self.slack = self.slack.max(step / 2);
        self.spread = Duration::ZERO;
        step
    }
}

impl Learned {
    pub(super) fn plan(&self, operation: Operation, config: &FleetConfig) -> Plan {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(estimate) = table.get_mut(&operation) else {
            return Plan {
                first: config.poll_min * FIRST_LOOK,
                then: None,
                step: Duration::MAX,
                slack: config.poll_min,
                spread: Duration::ZERO,
            };
        };
        let mean = Duration::from_secs_f64(estimate.mean);
        let look = Duration::from_secs_f64(estimate.look());
        let scout = estimate.scout().map(|part| look.mul_f64(part));
        // What is over at once shall be met at once.
        let floor = config.poll_min.min(mean / 4).max(QUICK);
        Plan {
            first: scout.unwrap_or(look),
            then: scout.map(|_| look),
            step: mean.mul_f64(STEP).max(floor),
            slack: mean.mul_f64(config.poll_fraction).max(floor),
            spread: mean.saturating_sub(look),
        }
    }

    /// Learns from all operations that one read saw end. They count once: a crowd that ends together tells no more
    /// about the next one than a lone operation does.
    pub(super) fn observe_all(&self, ended: &[Ended]) {
        let mut kinds: HashMap<Operation, (Option<Duration>, Duration)> = HashMap::new();
        for end in ended {
            let (running, done) = kinds.entry(end.operation).or_insert((None, end.done));
            *running = (*running).max(end.not_yet);
            *done = (*done).min(end.done);
        }
        for (operation, (running, done)) in kinds {
            self.observe(operation, running, done);
        }
    }

    /// The operation was seen running at `not_yet` (if at all) and finished at `done`, both since its acceptance. In a
    /// crowd that varies, the latest that was seen running may be later than the first that was finished.
    fn observe(&self, operation: Operation, not_yet: Option<Duration>, done: Duration) {
        let done = done.as_secs_f64();
        let running = not_yet.map(|time| time.as_secs_f64());
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match table.get_mut(&operation) {
            Some(estimate) => estimate.observe(running, done),
            None => drop(table.insert(operation, Estimate::first(running, done))),
        }
    }
}

impl Estimate {
    fn first(running: Option<f64>, done: f64) -> Self {
        let floor = running.unwrap_or(0.0).min(done);
        Self {
            mean: f64::midpoint(floor, done),
            deviation: (done - floor) / 4.0,
            samples: 1,
            floor,
            first_hits: 0,
            scouted: 0,
            finds: 0,
        }
    }

    /// When to look first.
    fn look(&self) -> f64 {
        let varies = 2.0 * self.deviation;
        if varies <= self.mean * TIGHT {
            self.mean + varies
        } else {
            (self.mean - self.deviation).max(self.mean / 2.0)
        }
    }

    /// Whether this look is to be a scout: one at a time.
    fn scout(&mut self) -> Option<f64> {
        let due = self.first_hits > 0 && self.first_hits.is_multiple_of(SCOUT_EVERY);
        if !due || self.scouted == self.first_hits {
            return None;
        }
        self.scouted = self.first_hits;
        let turn = usize::try_from(self.first_hits / SCOUT_EVERY - 1).unwrap_or(0) % SCOUTS.len();
        SCOUTS
            .get(turn.max(self.finds).min(SCOUTS.len() - 1))
            .copied()
    }

    fn observe(&mut self, running: Option<f64>, done: f64) {
        if done <= self.floor {
            self.floor = 0.0;
        }
        self.floor = self.floor.max(running.unwrap_or(0.0).min(done));
        let (mut sample, mut weight) = (f64::midpoint(self.floor, done), WEIGHT);
        if self.floor == 0.0 {
            sample = done * GUESS;
        }
        if running.is_some() {
            (self.first_hits, self.scouted, self.finds) = (0, 0, 0);
        } else if done < self.mean * SCOUTS[0] + self.deviation {
            // A scout's find: the next one goes out at once, and further.
            (self.first_hits, self.scouted) = (SCOUT_EVERY, 0);
            self.finds += 1;
            weight = 1.0;
        } else {
            self.first_hits = self.first_hits.saturating_add(1);
            self.finds = 0;
        }
        if self.samples >= 3 {
            sample = sample.min(self.mean * OUTLIER);
        }
        self.samples = self.samples.saturating_add(1);
        let off = sample - self.mean;
        if off.abs() <= self.mean * NEAR {
            weight = weight.max(WEIGHT_NEAR);
        }
        self.mean += weight.max(1.0 / f64::from(self.samples)) * off;
        self.deviation += WEIGHT_DEVIATION * (off.abs() - self.deviation);
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
    fn a_cloud_that_hardly_varies_is_met_at_once_with_one_look() {
        let learned = Learned::default();
        let took = |i: u32| Duration::from_millis(10_000 + u64::from(i * 7 % 5));
        for i in 0..12 {
            poll(&learned, took(i));
        }
        let (mut polls, mut late) = (0, Duration::ZERO);
        for i in 0..100 {
            let (p, l) = poll(&learned, took(i));
            polls += p;
            late += l;
        }
        assert!(late / 100 <= Duration::from_millis(40), "{late:?}");
        assert!(polls <= 200, "{polls}");
    }

    #[test]
    fn a_cloud_that_varies_is_met_soon_whatever_the_duration() {
        let learned = Learned::default();
        let took = |i: u32| Duration::from_millis(8_000 + u64::from(i * 7919 % 4001));
        for i in 0..20 {
            poll(&learned, took(i));
        }
        let (mut polls, mut late) = (0, Duration::ZERO);
        for i in 20..220 {
            let (p, l) = poll(&learned, took(i));
            polls += p;
            late += l;
        }
        assert!(late / 200 <= Duration::from_millis(300), "{:?}", late / 200);
        assert!(polls / 200 <= 12, "{}", polls / 200);
    }

    #[test]
    fn a_scout_is_one_of_a_crowd() {
        let learned = Learned::default();
        for _ in 0..60 {
            poll(&learned, Duration::from_secs(10));
            let config = FleetConfig::default();
            let plans: Vec<Plan> = (0..20)
                .map(|_| learned.plan(Operation::Create, &config))
                .collect();
            let scouts = plans.iter().filter(|plan| plan.then.is_some()).count();
            assert!(scouts <= 1, "{scouts}");
            if scouts == 1 {
                return;
            }
        }
        panic!("no scout in 60 operations");
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
