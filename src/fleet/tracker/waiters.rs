//! Who waits for what, and who is served by the next read.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::Operation;
use super::super::api::pause;
use super::super::batch::{Seen, Sent};
use super::super::config::FleetConfig;
use super::super::kind::Kind;
use super::super::learn::{Ended, Plan};
use super::Answer;

/// A name that was absent is asked apart from the others for this long.
const ABSENT_FOR: Duration = Duration::from_secs(60);
/// From this many polls on, sharing counts as much as promptness.
const CROWD: u32 = 16;
/// Longest delay of a poll for the sake of the queue for calls.
const BACKLOG_MAX: Duration = Duration::from_secs(2);
/// The same for single reads.
const FRESH_BACKLOG_MAX: Duration = Duration::from_millis(1500);
/// The last look before a deadline.
const LAST_LOOK: Duration = Duration::from_millis(300);

pub(super) type Until<K> = Box<dyn Fn(Option<&<K as Kind>::Item>) -> bool + Send + Sync>;

/// What a waiter wants.
pub(super) enum Goal<K: Kind> {
    /// Any answer.
    Fresh {
        /// Transient errors are repeated until then.
        give_up: Instant,
    },
    /// An answer for which the predicate holds.
    Until {
        until: Until<K>,
        operation: Operation,
        /// This process started the operation, so its duration can be learned.
        own: bool,
        plan: Plan,
        deadline: Instant,
    },
}

pub(super) struct Request<K: Kind> {
    pub(super) name: K::Name,
    /// The operation's start.
    pub(super) since: Instant,
    /// First look, after `since`.
    pub(super) first: Duration,
    pub(super) goal: Goal<K>,
}

struct Waiter<K: Kind> {
    name: K::Name,
    since: Instant,
    goal: Goal<K>,
    due: Instant,
    reading: bool,
    not_yet: Option<Duration>,
    failures: u32,
    last: Option<String>,
    tell: oneshot::Sender<Answer<K>>,
}

/// One logical read.
pub(super) struct Batch<K: Kind> {
    pub(super) ids: Vec<u64>,
    pub(super) likely: Vec<K::Name>,
    pub(super) doubtful: Vec<K::Name>,
}

pub(super) struct Waiters<K: Kind> {
    config: FleetConfig,
    next_id: u64,
    table: BTreeMap<u64, Waiter<K>>,
    absent: HashMap<K::Name, Instant>,
}

impl<K: Kind> Waiters<K> {
    pub(super) fn new(config: FleetConfig) -> Self {
        Self {
            config,
            next_id: 0,
            table: BTreeMap::new(),
            absent: HashMap::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub(super) fn add(&mut self, request: Request<K>, tell: oneshot::Sender<Answer<K>>) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let due = (request.since + request.first).max(Instant::now());
        let mut waiter = Waiter {
            name: request.name,
            since: request.since,
            goal: request.goal,
            due,
            reading: false,
            not_yet: None,
            failures: 0,
            last: None,
            tell,
        };
        waiter.look_at(due);
        self.table.insert(id, waiter);
        id
    }

    /// Takes a waiter out; returns what it saw last.
    pub(super) fn remove(&mut self, id: u64) -> Option<String> {
        self.table.remove(&id).and_then(|waiter| waiter.last)
    }

    pub(super) fn exists(&mut self, name: &K::Name) {
        self.absent.remove(name);
    }

    /// When the next read must start; waiters that are not lone accept a little delay, so that one read serves
    /// many of them. While calls queue up (`backlog`), each read saved lets all others pass sooner.
    pub(super) fn next_tick(&self, backlog: Duration) -> Option<Instant> {
        let waiting = || self.table.values().filter(|waiter| !waiter.reading);
        let polls = waiting().filter(|waiter| waiter.plan().is_some()).count();
        let crowd = u32::try_from(polls)
            .unwrap_or(CROWD)
            .saturating_sub(1)
            .min(CROWD);
        waiting()
            .map(|waiter| match waiter.plan() {
                None => waiter.due + (backlog / 2).min(FRESH_BACKLOG_MAX),
                Some(plan) => {
                    let slack = plan.slack.max(backlog.min(BACKLOG_MAX));
                    waiter.latest(waiter.due + (plan.spread + slack * 3 / 2) * crowd / CROWD)
                }
            })
            .min()
    }

    /// Fixes the next batch: everybody due by `now`, and as many others as fit without another call.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Batch<K>> {
        let mut order: Vec<(bool, Instant, u64)> = self
            .table
            .iter()
            .filter(|(_, waiter)| !waiter.reading)
            .map(|(id, w)| (w.plan().is_some() && w.due > now, w.due, *id))
            .collect();
        order.sort_unstable();
        if order.first().is_none_or(|(later, _, _)| *later) {
            return None;
        }
        self.absent
            .retain(|_, then| now.saturating_duration_since(*then) < ABSENT_FOR);
        let cap = self.config.names_per_read;
        let mut batch = Batch {
            ids: Vec::new(),
            likely: Vec::new(),
            doubtful: Vec::new(),
        };
        let mut names = HashSet::new();
        for (later, _, id) in order {
            let Some(waiter) = self.table.get_mut(&id) else {
                continue;
            };
            let doubtful = waiter.may_vanish() || self.absent.contains_key(&waiter.name);
            let new = !names.contains(&waiter.name);
            if later && new && (doubtful || batch.likely.len() >= cap) {
                continue;
            }
            waiter.reading = true;
            batch.ids.push(id);
            if new {
                names.insert(waiter.name.clone());
                let list = if doubtful {
                    &mut batch.doubtful
                } else {
                    &mut batch.likely
                };
                list.push(waiter.name.clone());
            }
        }
        Some(batch)
    }

    /// Tells the answers to the waiters of the batch and plans the next look of those that go on waiting.
    pub(super) fn settle(&mut self, ids: &[u64], seen: &Seen<K>, sent: Sent) -> Vec<Ended> {
        let now = Instant::now();
        for (name, answer) in seen {
            match answer {
                Ok(None) => drop(self.absent.insert(name.clone(), now)),
                Ok(Some(_)) => drop(self.absent.remove(name)),
                Err(_) => {}
            }
        }
        let mut ended = Vec::new();
        for id in ids {
            let Some(waiter) = self.table.get_mut(id) else {
                continue;
            };
            let Some(answer) = seen.get(&waiter.name) else {
                continue;
            };
            if !waiter.is_served_by(answer, now) {
                waiter.plan_next(answer, sent.first, now, &self.config);
                continue;
            }
            if let Some(waiter) = self.table.remove(id) {
                ended.extend(waiter.ended(answer.is_ok(), sent.last, now));
                // A caller that has gone does not want the answer.
                let _ = waiter.tell.send(answer.clone());
            }
        }
        ended
    }

    pub(super) fn release(&mut self, ids: &[u64]) {
        for id in ids {
            if let Some(waiter) = self.table.get_mut(id) {
                waiter.reading = false;
            }
        }
    }
}

impl<K: Kind> Waiter<K> {
    fn plan(&self) -> Option<&Plan> {
        match &self.goal {
            Goal::Fresh { .. } => None,
            Goal::Until { plan, .. } => Some(plan),
        }
    }

    fn may_vanish(&self) -> bool {
        matches!(
            &self.goal,
            Goal::Until {
                operation: Operation::Delete,
                ..
            }
        )
    }

    /// `at`, but not so late that the deadline passes without a look.
    fn latest(&self, at: Instant) -> Instant {
        let Goal::Until { deadline, .. } = &self.goal else {
            return at;
        };
        match deadline.checked_sub(LAST_LOOK) {
            Some(look) if look > Instant::now() => at.min(look),
            _ => at,
        }
    }

    fn look_at(&mut self, at: Instant) {
        self.due = self.latest(at);
    }

    fn is_served_by(&self, answer: &Answer<K>, now: Instant) -> bool {
        match (answer, &self.goal) {
            (Ok(_), Goal::Fresh { .. }) => true,
            (Ok(item), Goal::Until { until, .. }) => until(item.as_ref()),
            (Err(error), Goal::Fresh { give_up }) => !error.is_transient() || now >= *give_up,
            (Err(error), Goal::Until { .. }) => !error.is_transient(),
        }
    }

    fn plan_next(&mut self, answer: &Answer<K>, sent: Instant, now: Instant, config: &FleetConfig) {
        let item = match answer {
            Ok(item) => item.as_ref(),
            Err(error) => {
                self.last = Some(error.to_string());
                let at = now + pause(self.failures);
                self.failures += 1;
                self.look_at(at);
                return;
            }
        };
        self.failures = 0;
        self.last = Some(K::state(item));
        self.not_yet = Some(sent.saturating_duration_since(self.since));
        let elapsed = now.saturating_duration_since(self.since);
        let was_due = self.due <= now;
        let Goal::Until { plan, .. } = &mut self.goal else {
            return;
        };
        if was_due {
            let step = plan.next(elapsed, config);
            self.look_at(now + step);
        } else {
            // Read along with others; looking again sooner than an ordinary step is of no use.
            let soonest = now + plan.slack / 2;
            self.look_at(self.due.max(soonest));
        }
    }

    fn ended(&self, good: bool, sent: Instant, now: Instant) -> Option<Ended> {
        match &self.goal {
            Goal::Until {
                operation,
                own: true,
                ..
            } if good => Some(Ended {
                operation: *operation,
                not_yet: self.not_yet,
                done: sent.saturating_duration_since(self.since),
                took: now.saturating_duration_since(self.since),
            }),
            Goal::Until { .. } | Goal::Fresh { .. } => None,
        }
    }
}
