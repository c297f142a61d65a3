//! The running cloud: takes a call, applies faults, changes the books, lets time and the backend do the rest.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::actions::{Call, MUTATING, perform};
use super::backend::Backend;
use super::config::{Config, Latency, RateLimit, Switches};
use super::faults::{Decision, Effect, Faults, Holds, Seen};
use super::sign::{Params, expected};
use super::state::{Change, DiskRecord, Refusal, State};
use super::store::Store;
use super::xml;

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
pub(super) struct Live {
    pub(super) state: State,
    pub(super) latency: Latency,
    pub(super) switches: Switches,
    pub(super) rate_limit: Option<RateLimit>,
    pub(super) faults: Faults,
    pub(super) history: VecDeque<Event>,
    pub(super) calls: BTreeMap<String, u64>,
    tokens: f64,
    refilled: Instant,
    next_event: u64,
}

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
        let now = Instant::now();
        let live = Live {
            state,
            latency: config.latency,
            switches: config.switches,
            rate_limit: config.rate_limit,
            faults: Faults::default(),
            history: VecDeque::new(),
            calls: BTreeMap::new(),
            tokens: config.rate_limit.map_or(0.0, |limit| limit.burst),
            refilled: now,
            next_event: 0,
        };
        Self {
            config,
            holds: Holds::default(),
            tasks: TaskTracker::new(),
            live: Mutex::new(live),
            backend,
            store,
            started: now,
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
                live.latency.reply,
            )
        };
        if let Some(reply) = self.before(effect.as_ref(), &seen).await {
            return reply;
        }
        if reply_ms > 0 {
            tokio::time::sleep(Duration::from_millis(reply_ms)).await;
        }
        if throttled {
            return Some(self.refuse(&throttle()));
        }
        let stuck = match effect {
            Some(Effect::Stuck { ms }) => ms,
            _ => 0,
        };
        let reply = match self.check_signature(&request) {
            Ok(()) => self.commit(&action, &request, &seen, stuck),
            Err(refusal) => Some((401, error_body(&refusal))),
        };
        self.after(effect.as_ref(), &seen, reply).await
    }

    async fn before(&self, effect: Option<&Effect>, seen: &Seen<'_>) -> Option<Reply> {
        match effect? {
            Effect::Throttle => Some(Some(self.refuse(&throttle()))),
            Effect::Refuse { code } => Some(Some(
                self.refuse(&Refusal::new(code, "A fault was asked for.")),
            )),
            Effect::InternalErrorBefore => Some(Some(self.refuse(&internal()))),
            Effect::GatewayBefore { status } => Some(Some(gateway(*status))),
            Effect::DropBefore => Some(None),
            Effect::Delay { ms } => {
                tokio::time::sleep(Duration::from_millis(*ms)).await;
                None
            }
            Effect::HoldBefore => match self.holds.park(seen.action, seen.disk, false).await {
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
            Some(Effect::HoldAfter) => match self.holds.park(seen.action, seen.disk, true).await {
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

    fn check_signature(&self, request: &Request) -> Result<(), Refusal> {
        let failed = |message: &str| Err(Refusal::new("Client.AuthFailure", message));
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
                let away = jiff::Timestamp::now().duration_since(time).unsigned_abs();
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
        let zones = self.zones();
        let now = timestamp();
        let mut live = self.live();
        let switches = live.switches;
        let call = Call {
            params: &request.params,
            switches: &switches,
            region: &self.config.region,
            zones: &zones,
            now: &now,
        };
        let result = perform(&mut live.state, action, &call);
        let event = seen.mutating.then(|| live.remember(seen, at_ms, &result));
        match result {
            Ok(done) => {
                let latency = live.latency;
                if seen.mutating {
                    self.save(&live.state);
                }
                drop(live);
                if let (Some((disk, change)), Some(event)) = (done.begun, event) {
                    let wait = latency.of_change(change) + Duration::from_millis(stuck_ms);
                    self.begin(disk, change, wait, Some(event));
                }
                Some((200, done.xml.answer(action, &request_id())))
            }
            Err(refusal) => {
                drop(live);
                Some(self.refuse(&refusal))
            }
        }
    }

    /// Lets a change take its time, carries it out behind the books, then writes it there.
    fn begin(self: &Arc<Self>, disk: String, change: Change, wait: Duration, event: Option<u64>) {
        let core = Arc::clone(self);
        self.tasks.spawn(async move {
            tokio::time::sleep(wait).await;
            let record = core.live().state.disks.get(&disk).cloned();
            let Some(record) = record else { return };
            let result = core.carry_out(&record, change).await;
            let done_ms = core.now_ms();
            let mut live = core.live();
            match result {
                Ok(()) => {
                    live.state.finish(&disk);
                }
                Err(error) => {
                    tracing::error!(%error, %disk, ?change, "the disk behind the books failed");
                    live.state.abandon(&disk);
                }
            }
            if let Some(event) = event {
                live.complete(event, done_ms);
            }
            core.save(&live.state);
        });
    }

    async fn carry_out(
        &self,
        disk: &DiskRecord,
        change: Change,
    ) -> Result<(), super::backend::BackendError> {
        let place = disk.attachment.as_ref();
        match (change, place) {
            (Change::Create | Change::Attach, Some(at)) => {
                self.backend.attach(disk, &at.vm, at.target).await
            }
            (Change::Detach, Some(at)) => self.backend.detach(disk, &at.vm, at.target).await,
            (Change::Extend, _) => self.backend.extend(disk, disk.size + 100).await,
            (Change::Delete, _) => self.backend.delete(disk).await,
            (Change::Create | Change::Attach | Change::Detach, None) => Ok(()),
        }
    }

    /// After a start: plugs what the books say is plugged, and resumes what was in flight.
    pub(super) async fn resume(self: &Arc<Self>) -> Result<(), super::backend::BackendError> {
        let disks: Vec<DiskRecord> = self.live().state.disks.values().cloned().collect();
        for disk in disks {
            match (&disk.change, &disk.attachment) {
                (Some(change), _) => {
                    let wait = self.config.latency.of_change(*change);
                    self.begin(disk.name.clone(), *change, wait, None);
                }
                (None, Some(at)) => self.backend.attach(&disk, &at.vm, at.target).await?,
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// Plugs the disks that the books show on a VM.
    pub(super) async fn replug(&self, vm: &str) -> Result<(), super::backend::BackendError> {
        let disks: Vec<DiskRecord> = self.live().state.disks.values().cloned().collect();
        for disk in disks {
            if let Some(at) = disk.attachment.as_ref().filter(|at| at.vm == vm) {
                self.backend.attach(&disk, &at.vm, at.target).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn close(&self) {
        self.holds.drop_all();
        self.backend.close().await;
        if let Some(store) = &self.store {
            let state = self.live().state.clone();
            store.flush(&state);
        }
    }

    /// Writes the books, if they are kept.
    pub(super) fn save(&self, state: &State) {
        if let Some(store) = &self.store {
            store.save(state);
        }
    }

    pub(super) fn zones(&self) -> Vec<String> {
        let mut zones = self.config.zones.clone();
        zones.extend(self.config.vms.iter().map(|vm| vm.zone.clone()));
        zones.sort();
        zones.dedup();
        zones
    }
}

impl Live {
    fn take_token(&mut self) -> bool {
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

    fn remember<T>(&mut self, seen: &Seen<'_>, at_ms: u64, result: &Result<T, Refusal>) -> u64 {
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

    fn complete(&mut self, id: u64, done_ms: u64) {
        if let Some(event) = self.history.iter_mut().rev().find(|event| event.id == id) {
            event.done_ms = Some(done_ms);
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
}

fn throttle() -> Refusal {
    // invented: no source tells the code
    Refusal::new("Client.RequestLimitExceeded", "Too many requests.")
}

fn internal() -> Refusal {
    Refusal::new(
        "Server.InternalError",
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
