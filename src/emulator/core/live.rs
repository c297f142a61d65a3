//! What can change while the emulator runs: the books, the settings, the memory of calls.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde::Serialize;
use tokio::time::Instant;

use super::super::config::{Config, Latency, RateLimit, Switches};
use super::super::faults::{Faults, Seen};
use super::super::state::{Refusal, State};

/// Calls that are remembered, the oldest forgotten first.
const HISTORY: usize = 200_000;

/// A call that changed the books or tried to.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// Order of arrival.
    pub id: u64,
    /// The action.
    pub action: String,
    /// The disk it names.
    pub disk: Option<String>,
    /// The VM it names.
    pub vm: Option<String>,
    /// Milliseconds since the emulator started, when the call arrived.
    pub at_ms: u64,
    /// Whether the books were changed.
    pub committed: bool,
    /// When the change was complete.
    pub done_ms: Option<u64>,
    /// The error code of a refusal.
    pub code: Option<String>,
}

/// What can change while the emulator runs.
#[derive(Debug)]
pub(in super::super) struct Live {
    pub(in super::super) state: State,
    pub(in super::super) latency: Latency,
    pub(in super::super) switches: Switches,
    pub(in super::super) rate_limit: Option<RateLimit>,
    pub(in super::super) faults: Faults,
    pub(in super::super) history: VecDeque<Event>,
    pub(in super::super) calls: BTreeMap<String, u64>,
    /// The latest change of each disk that has one in flight; an older one that wakes up is void.
    pub(in super::super) in_flight: HashMap<String, u64>,
    next_change: u64,
    tokens: f64,
    refilled: Instant,
    next_event: u64,
}

impl Live {
    pub(in super::super) fn new(config: &Config, state: State) -> Self {
        let mut faults = Faults::default();
        for rule in &config.faults {
            faults.add(rule.clone());
        }
        Self {
            state,
            latency: config.latency,
            switches: config.switches,
            rate_limit: config.rate_limit,
            faults,
            history: VecDeque::new(),
            calls: BTreeMap::new(),
            in_flight: HashMap::new(),
            next_change: 0,
            tokens: config.rate_limit.map_or(0.0, |limit| limit.burst),
            refilled: Instant::now(),
            next_event: 0,
        }
    }

    /// Notes that a disk's change is in flight. Answers the number that tells this change from a later one.
    pub(in super::super) fn track(&mut self, disk: &str) -> u64 {
        self.next_change += 1;
        self.in_flight.insert(disk.to_owned(), self.next_change);
        self.next_change
    }

    /// Whether this is still the disk's latest change.
    pub(in super::super) fn is_current(&self, disk: &str, change: u64) -> bool {
        self.in_flight.get(disk) == Some(&change)
    }

    pub(in super::super) fn take_token(&mut self) -> bool {
        let Some(limit) = self.rate_limit else {
            return true;
        };
        let now = Instant::now();
        let gained = now.duration_since(self.refilled).as_secs_f64() * limit.per_second;
        self.tokens = (self.tokens + gained).min(limit.burst);
        self.refilled = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    /// Grants a whole burst, as after a pause.
    pub(in super::super) fn refill(&mut self) {
        self.tokens = self.rate_limit.map_or(0.0, |limit| limit.burst);
        self.refilled = Instant::now();
    }

    pub(in super::super) fn remember<T>(
        &mut self,
        seen: &Seen<'_>,
        at_ms: u64,
        result: &Result<T, Refusal>,
    ) -> u64 {
        self.next_event += 1;
        if self.history.len() >= HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(Event {
            id: self.next_event,
            action: seen.action.to_owned(),
            disk: seen.disk.map(str::to_owned),
            vm: seen.vm.map(str::to_owned),
            at_ms,
            committed: result.is_ok(),
            done_ms: None,
            code: result.as_ref().err().map(|refusal| refusal.code.clone()),
        });
        self.next_event
    }

    pub(in super::super) fn complete(&mut self, id: u64, done_ms: u64) {
        if let Some(event) = self.history.iter_mut().rev().find(|event| event.id == id) {
            event.done_ms = Some(done_ms);
        }
    }
}
