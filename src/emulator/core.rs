//! The running cloud: takes a call, applies faults, changes the books, lets time and the backend do the rest.

mod change;
mod device;
mod live;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use live::Event;
pub(super) use live::Live;

use super::actions::{Call, MUTATING, perform};
use super::backend::Backend;
use super::code::Code;
use super::config::{Config, Latency, ThrottleAnswer};
use super::faults::{Decision, Effect, Holds, Seen};
use super::sign::{Params, expected};
use super::state::{Change, Refusal, State};
use super::store::Store;
use super::xml;

/// Shared by the API and the admin endpoint.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) config: Config,
    pub(super) holds: Holds,
    pub(super) tasks: TaskTracker,
    live: Mutex<Live>,
    backend: Arc<dyn Backend>,
    store: Option<Store>,
    started: Instant,
    /// One at a time per disk (by unique id) does what the books say.
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// No change begins or ends after this.
    pub(super) stop: CancellationToken,
}

/// A request as it came.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) host: String,
    pub(super) path: String,
    pub(super) params: Params,
}

/// An answer; `None` closes the connection without one.
pub(super) type Reply = Option<(u16, String)>;

impl Core {
    pub(super) fn new(
        config: Config,
        state: State,
        backend: Arc<dyn Backend>,
        store: Option<Store>,
    ) -> Self {
        let live = Live::new(&config, state);
        Self {
            config,
            holds: Holds::default(),
            tasks: TaskTracker::new(),
            live: Mutex::new(live),
            locks: Mutex::default(),
            backend,
            store,
            started: Instant::now(),
            stop: CancellationToken::new(),
        }
    }

    pub(super) fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since the start.
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Serves one call.
    pub(super) async fn handle(self: &Arc<Self>, request: Request) -> Reply {
        let params = &request.params;
        let action = params.get("Action").map_or("", String::as_str).to_owned();
        let disk = params.get("VolumeId").cloned();
        let vm = params.get("InstanceId").cloned();
        let mutating = MUTATING.contains(&action.as_str());
        let seen = Seen {
            action: &action,
            mutating,
            disk: disk.as_deref(),
            vm: vm.as_deref(),
        };
        let (effect, throttled, reply_ms) = {
            let mut live = self.live();
            *live.calls.entry(action.clone()).or_default() += 1;
            (
                live.faults.hit(&seen),
                !live.take_token(),
                live.latency.of_reply(&action, mutating),
            )
        };
        if let Some(reply) = self.before(effect.as_ref(), &seen).await {
            return reply;
        }
        if reply_ms > 0 {
            tokio::time::sleep(Duration::from_millis(reply_ms)).await;
        }
        if throttled {
            return Some(self.throttled());
        }
        let stuck = match effect {
            Some(Effect::Stuck { ms }) => ms,
            _ => 0,
        };
        let reply = match self.check_signature(&request) {
            Ok(()) => self.commit(&action, &request, &seen, stuck),
            Err(refusal) => Some((self.live().switches.auth_status, error_body(&refusal))),
        };
        self.after(effect.as_ref(), &seen, reply).await
    }

    async fn before(&self, effect: Option<&Effect>, seen: &Seen<'_>) -> Option<Reply> {
        match effect? {
            Effect::Throttle => Some(Some(self.throttled())),
            Effect::Refuse { code } => Some(Some(
                self.refuse(&Refusal::named(code, "A fault was asked for.")),
            )),
            Effect::Status { status, code: None } => Some(Some(gateway(*status))),
            Effect::Status {
                status,
                code: Some(code),
            } => Some(Some((
                *status,
                error_body(&Refusal::named(code, "A fault was asked for.")),
            ))),
            Effect::InternalErrorBefore => Some(Some(self.refuse(&internal()))),
            Effect::GatewayBefore { status } => Some(Some(gateway(*status))),
            Effect::DropBefore => Some(None),
            Effect::Delay { ms } => {
                tokio::time::sleep(Duration::from_millis(*ms)).await;
                None
            }
            Effect::HoldBefore => match self.holds.park(seen, false).await {
                Decision::Release => None,
                Decision::Drop => Some(None),
            },
            Effect::InternalErrorAfter
            | Effect::GatewayAfter { .. }
            | Effect::DropAfter
            | Effect::HoldAfter
            | Effect::Stuck { .. } => None,
        }
    }

    async fn after(&self, effect: Option<&Effect>, seen: &Seen<'_>, reply: Reply) -> Reply {
        match effect {
            Some(Effect::InternalErrorAfter) => Some(self.refuse(&internal())),
            Some(Effect::GatewayAfter { status }) => Some(gateway(*status)),
            Some(Effect::DropAfter) => None,
            Some(Effect::HoldAfter) => match self.holds.park(seen, true).await {
                Decision::Release => reply,
                Decision::Drop => None,
            },
            _ => reply,
        }
    }

    fn refuse(&self, refusal: &Refusal) -> (u16, String) {
        let status = self.live().switches.error_status;
        (status, error_body(refusal))
    }

    fn throttled(&self) -> (u16, String) {
        let switches = self.live().switches;
        let body = || error_body(&throttle());
        match switches.throttle {
            ThrottleAnswer::Error => (switches.error_status, body()),
            ThrottleAnswer::TooManyRequests => (429, body()),
            ThrottleAnswer::Gateway => gateway(503),
        }
    }

    fn check_signature(&self, request: &Request) -> Result<(), Refusal> {
        let failed = |message: &str| Err(Refusal::new(Code::AuthFailure, message));
        let params = &request.params;
        let secret = params
            .get("AccessKeyId")
            .and_then(|id| self.config.keys.get(id));
        let Some(secret) = secret else {
            return failed("The access key does not exist.");
        };
        let right = expected(
            &request.method,
            &request.host,
            &request.path,
            params,
            secret,
        );
        if right.is_none() || right.as_ref() != params.get("Signature") {
            return failed("The signature does not match.");
        }
        let switches = self.live().switches;
        match params
            .get("Timestamp")
            .map(|text| text.parse::<jiff::Timestamp>())
        {
            None if switches.timestamp_required => failed("The timestamp is missing."),
            Some(Err(_)) => failed("The timestamp is not YYYY-MM-DDThh:mm:ssZ."),
            Some(Ok(time)) if switches.clock_skew_seconds > 0 => {
                let away = switches.clock().duration_since(time).unsigned_abs();
                if away > Duration::from_secs(switches.clock_skew_seconds) {
                    return failed("The timestamp is too far from the server's time.");
                }
                Ok(())
            }
            None | Some(Ok(_)) => Ok(()),
        }
    }

    fn commit(
        self: &Arc<Self>,
        action: &str,
        request: &Request,
        seen: &Seen<'_>,
        stuck_ms: u64,
    ) -> Reply {
        let at_ms = self.now_ms();
        let now = timestamp();
        let mut live = self.live();
        if self.stop.is_cancelled() {
            // What began now would be neither kept nor carried out.
            return None;
        }
        let switches = live.switches;
        let call = Call {
            params: &request.params,
            switches: &switches,
            region: &self.config.region,
            zones: &self.config.zones,
            now: &now,
        };
        let result = perform(&mut live.state, action, &call);
        let event = if seen.mutating {
            live.remember(seen, at_ms, &result)
        } else {
            0
        };
        match result {
            Ok(done) => {
                if let Some((disk, change)) = done.begun {
                    let wait = live.latency.of_change(change) + Duration::from_millis(stuck_ms);
                    self.begin(&mut live, &disk, change, wait, event);
                } else {
                    live.complete(event, at_ms);
                }
                if seen.mutating {
                    self.save(&mut live.state);
                }
                drop(live);
                Some((200, done.xml.answer(action, &request_id())))
            }
            Err(refusal) => {
                drop(live);
                Some(self.refuse(&refusal))
            }
        }
    }

    /// Ends what runs, lets go of devices and of the data directory.
    pub(super) async fn close(&self) {
        self.stop.cancel();
        self.holds.drop_all();
        self.tasks.close();
        self.tasks.wait().await;
        self.release();
    }

    /// The part of [`Core::close`] that needs no waiting.
    pub(super) fn release(&self) {
        self.stop.cancel();
        self.holds.drop_all();
        self.backend.release();
        if let Some(store) = &self.store {
            store.close(&self.live().state);
        }
    }

    /// Writes what changed in the books, if they are kept.
    pub(super) fn save(&self, state: &mut State) {
        match &self.store {
            Some(store) => store.save(state),
            None => drop(state.take_touched()),
        }
    }
}

impl Latency {
    pub(super) fn of_change(&self, change: Change) -> Duration {
        Duration::from_millis(match change {
            Change::Create => self.create,
            Change::Attach => self.attach,
            Change::Detach => self.detach,
            Change::Extend => self.extend,
            Change::Delete => self.delete,
        })
    }

    /// How long an answer takes.
    fn of_reply(&self, action: &str, mutating: bool) -> u64 {
        match action {
            "ModifyVolumeAttribute" => self.reply + self.modify,
            _ if mutating => self.reply,
            _ => self.reply + self.describe,
        }
    }
}

fn throttle() -> Refusal {
    Refusal::new(Code::RequestLimit, "Too many requests.")
}

fn internal() -> Refusal {
    Refusal::new(
        Code::Internal,
        "An error has occurred. Please try again later.",
    )
}

fn gateway(status: u16) -> (u16, String) {
    (
        status,
        format!("<html><head><title>{status}</title></head><body>Bad gateway<br></body></html>"),
    )
}

fn error_body(refusal: &Refusal) -> String {
    xml::error(&refusal.code, &refusal.message, &request_id())
}

fn request_id() -> String {
    let id = fastrand::u128(..);
    let hex = format!("{id:032x}");
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// Now in Japan, as answers write it.
pub(super) fn timestamp() -> String {
    let zoned = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::fixed(jiff::tz::offset(9)));
    zoned.strftime("%Y-%m-%dT%H:%M:%S.000+09:00").to_string()
}
