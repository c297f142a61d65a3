//! Faults on demand: which calls they hit, and what happens to them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use super::config::ConfigError;

/// A rule; the first one that hits a call decides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Only this action; none means any.
    #[serde(default)]
    pub action: Option<String>,
    /// Only calls that change something.
    #[serde(default)]
    pub mutating: bool,
    /// Only calls that name this disk.
    #[serde(default)]
    pub disk: Option<String>,
    /// Only calls that name this VM.
    #[serde(default)]
    pub vm: Option<String>,
    /// Let this many calls pass first.
    #[serde(default)]
    pub skip: u32,
    /// Hit at most this many calls.
    #[serde(default)]
    pub count: Option<u32>,
    /// Hit a call with this probability.
    #[serde(default = "always")]
    pub probability: f64,
    /// What happens.
    pub effect: Effect,
}

impl Rule {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn check(&self) -> Result<(), ConfigError> {
        if !(0.0..=1.0).contains(&self.probability) {
            return Err(ConfigError::Value(format!(
                "faults: probability is {}: expected 0 to 1",
                self.probability
            )));
        }
        match self.effect {
            Effect::Status { status, .. }
            | Effect::GatewayBefore { status }
            | Effect::GatewayAfter { status }
                if !(100..600).contains(&status) =>
            {
                Err(ConfigError::Value(format!(
                    "faults: status is {status}: expected 100 to 599"
                )))
            }
            _ => Ok(()),
        }
    }
}

fn always() -> f64 {
    1.0
}

/// What happens to a call. "Before" means that the call is not carried out; "after" that it is, and only the answer
/// suffers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Too many requests (code invented).
    Throttle,
    /// An error answer of the API, before.
    Refuse {
        /// `Code`.
        code: String,
    },
    /// This HTTP status, before: with an error of the API if a code is given, else with a gateway's page.
    Status {
        /// HTTP status.
        status: u16,
        /// `Code`.
        #[serde(default)]
        code: Option<String>,
    },
    /// `Server.InternalError`, before.
    InternalErrorBefore,
    /// `Server.InternalError`, after.
    InternalErrorAfter,
    /// A gateway's page of this status, before.
    GatewayBefore {
        /// HTTP status.
        status: u16,
    },
    /// A gateway's page of this status, after.
    GatewayAfter {
        /// HTTP status.
        status: u16,
    },
    /// The connection closes without an answer, before.
    DropBefore,
    /// The connection closes without an answer, after.
    DropAfter,
    /// The call waits, then goes on.
    Delay {
        /// How long.
        ms: u64,
    },
    /// The call is parked before it is carried out, until it is released or dropped.
    HoldBefore,
    /// The answer is parked after the call was carried out.
    HoldAfter,
    /// The change that the call begins takes longer.
    Stuck {
        /// How much longer.
        ms: u64,
    },
}

/// A call as rules see it.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen<'a> {
    pub(super) action: &'a str,
    pub(super) mutating: bool,
    pub(super) disk: Option<&'a str>,
    pub(super) vm: Option<&'a str>,
}

#[derive(Debug, Default)]
struct Counted {
    seen: u32,
    hit: u32,
}

/// A rule that was added, and what it has done.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RuleInForce {
    /// For [`super::Control::remove_fault`].
    pub id: u64,
    /// Calls it has hit.
    pub hits: u32,
    /// The rule.
    pub rule: Rule,
}

/// The rules in force.
#[derive(Debug)]
pub(super) struct Faults {
    rules: BTreeMap<u64, (Rule, Counted)>,
    next: u64,
    random: fastrand::Rng,
    pub(super) hits: u64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            rules: BTreeMap::new(),
            next: 1,
            random: fastrand::Rng::with_seed(1),
            hits: 0,
        }
    }
}

impl Faults {
    pub(super) fn add(&mut self, rule: Rule) -> u64 {
        let id = self.next;
        self.next += 1;
        self.rules.insert(id, (rule, Counted::default()));
        id
    }

    /// The rules, and how many calls each has hit.
    pub(super) fn list(&self) -> Vec<RuleInForce> {
        let rules = self.rules.iter();
        rules
            .map(|(id, (rule, counted))| RuleInForce {
                id: *id,
                hits: counted.hit,
                rule: rule.clone(),
            })
            .collect()
    }

    pub(super) fn remove(&mut self, id: u64) -> bool {
        self.rules.remove(&id).is_some()
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    pub(super) fn seed(&mut self, seed: u64) {
        self.random = fastrand::Rng::with_seed(seed);
    }

    /// The effect on this call, if any rule hits it.
    pub(super) fn hit(&mut self, call: &Seen<'_>) -> Option<Effect> {
        let same = |wanted: &Option<String>, got: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| got == Some(wanted))
        };
        for (rule, counted) in self.rules.values_mut() {
            let hits = same(&rule.action, Some(call.action))
                && (!rule.mutating || call.mutating)
                && same(&rule.disk, call.disk)
                && same(&rule.vm, call.vm);
            if !hits || rule.count.is_some_and(|count| counted.hit >= count) {
                continue;
            }
            counted.seen += 1;
            if counted.seen <= rule.skip || self.random.f64() >= rule.probability {
                continue;
            }
            counted.hit += 1;
            self.hits += 1;
            return Some(rule.effect.clone());
        }
        None
    }
}

/// A call that waits for somebody to decide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeldCall {
    /// For [`super::Control::release`] and [`super::Control::drop_held`].
    pub id: u64,
    /// The action.
    pub action: String,
    /// The disk it names.
    pub disk: Option<String>,
    /// The VM it names.
    pub vm: Option<String>,
    /// Whether it has been carried out.
    pub committed: bool,
}

/// What becomes of a held call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    Release,
    Drop,
}

/// The parked calls.
#[derive(Debug)]
pub(super) struct Holds {
    calls: Mutex<BTreeMap<u64, (HeldCall, oneshot::Sender<Decision>)>>,
    changed: watch::Sender<u64>,
    next: AtomicU64,
}

impl Default for Holds {
    fn default() -> Self {
        Self {
            calls: Mutex::default(),
            next: AtomicU64::new(0),
            changed: watch::Sender::new(0),
        }
    }
}

impl Holds {
    /// Parks a call. Without a decision (shutdown) it is dropped.
    pub(super) async fn park(&self, seen: &Seen<'_>, committed: bool) -> Decision {
        let (decide, decided) = oneshot::channel();
        let call = HeldCall {
            id: self.next.fetch_add(1, Ordering::Relaxed) + 1,
            action: seen.action.to_owned(),
            disk: seen.disk.map(str::to_owned),
            vm: seen.vm.map(str::to_owned),
            committed,
        };
        self.lock().insert(call.id, (call, decide));
        self.changed.send_modify(|count| *count += 1);
        decided.await.unwrap_or(Decision::Drop)
    }

    pub(super) fn list(&self) -> Vec<HeldCall> {
        self.lock().values().map(|(call, _)| call.clone()).collect()
    }

    pub(super) fn decide(&self, id: u64, decision: Decision) -> bool {
        let held = self.lock().remove(&id);
        self.changed.send_modify(|count| *count += 1);
        held.is_some_and(|(_, decide)| decide.send(decision).is_ok())
    }

    pub(super) fn drop_all(&self) {
        self.lock().clear();
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn lock(
        &self,
    ) -> std::sync::MutexGuard<'_, BTreeMap<u64, (HeldCall, oneshot::Sender<Decision>)>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_skips_then_hits_as_often_as_it_says() {
        let mut faults = Faults::default();
        faults.add(Rule {
            action: Some("AttachVolume".into()),
            mutating: false,
            disk: Some("a".into()),
            vm: None,
            skip: 1,
            count: Some(2),
            probability: 1.0,
            effect: Effect::DropAfter,
        });
        let call = Seen {
            action: "AttachVolume",
            mutating: true,
            disk: Some("a"),
            vm: None,
        };
        let hits: Vec<bool> = (0..5).map(|_| faults.hit(&call).is_some()).collect();
        assert_eq!(hits, [false, true, true, false, false]);
        assert_eq!(
            faults.hit(&Seen {
                disk: Some("b"),
                ..call
            }),
            None
        );
    }
}
