//! One polling loop for all waiters.
//!
//! ```text
//! wait(disk, until) --+                 +-- due now -----> one DescribeVolumes --> every waiter of the batch
//! disk(name) ---------+--> waiters ----+-- due soon: reads along for nothing
//! ```
//!
//! A waiter is served only by a read that started after it registered: a batch is fixed before it is sent, and
//! only the waiters that were in it then see its answer.

mod waiters;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use self::waiters::{Batch, Waiters};
use self::waiters::{Goal, Request, Until};
use super::Operation;
use super::api::Api;
use super::batch::{Reader, Sent};
use super::kind::Kind;
use super::learn::Learned;
use crate::cloud::CallError;

/// A read that hangs longer does not hold up the others.
const HANGING: Duration = Duration::from_secs(1);
const READS_AT_ONCE: usize = 4;
/// What the runtime's timer cannot tell apart: a read that is due this soon is due, as waiting would take longer.
const TICK: Duration = Duration::from_millis(1);
/// The price of sharing a read: what it takes, divided by this.
const SHARE: u32 = 20;

type Answer<K> = Result<Option<<K as Kind>::Item>, CallError>;

/// Why a wait ended without an answer.
pub(super) enum Missed {
    /// The deadline passed; what was seen last.
    Late(Option<String>),
    /// A read failed for good.
    Failed(CallError),
}

pub(super) struct Tracker<K: Kind> {
    inner: Arc<Inner<K>>,
    task: OnceLock<AbortHandle>,
}

struct Inner<K: Kind> {
    api: Arc<Api>,
    reader: Reader,
    learned: Learned,
    changed: Notify,
    waiters: Mutex<Waiters<K>>,
    /// What the last read took, in microseconds.
    took: AtomicU64,
}

impl<K: Kind> Drop for Tracker<K> {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl<K: Kind> Tracker<K> {
    pub(super) fn new(api: Arc<Api>) -> Self {
        let inner = Inner {
            waiters: Mutex::new(Waiters::new(api.config.clone())),
            api,
            reader: Reader::default(),
            learned: Learned::default(),
            changed: Notify::new(),
            took: AtomicU64::new(u64::MAX),
        };
        Self {
            inner: Arc::new(inner),
            task: OnceLock::new(),
        }
    }

    /// The item as it is now.
    pub(super) async fn read(&self, name: &K::Name) -> Answer<K> {
        let now = Instant::now();
        let request = Request {
            name: name.clone(),
            since: now,
            first: self.inner.window(),
            goal: Goal::Fresh {
                give_up: now + self.inner.api.config.read_patience,
            },
        };
        let (_guard, answer) = self.register(request);
        answer.await.unwrap_or_else(|_| Err(stopped(K::ACTION)))
    }

    /// Waits until `until` holds. `accepted`: when the API accepted the operation, if this process asked for it.
    pub(super) async fn wait(
        &self,
        name: &K::Name,
        operation: Operation,
        accepted: Option<Instant>,
        deadline: Instant,
        until: Until<K>,
    ) -> Result<Option<K::Item>, Missed> {
        let config = &self.inner.api.config;
        let plan = self.inner.learned.plan(operation, config);
        let request = Request {
            name: name.clone(),
            since: accepted.unwrap_or_else(Instant::now),
            // Somebody else's operation may be over already.
            first: accepted.map_or_else(|| self.inner.window(), |_| plan.first),
            goal: Goal::Until {
                until,
                operation,
                own: accepted.is_some(),
                plan,
                deadline,
            },
        };
        let (guard, answer) = self.register(request);
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(Ok(item))) => Ok(item),
            Ok(Ok(Err(error))) => Err(Missed::Failed(error)),
            Ok(Err(_)) => Err(Missed::Failed(stopped(K::ACTION))),
            Err(_) => Err(Missed::Late(guard.inner.lock().remove(guard.id))),
        }
    }

    /// The item was just made: no longer expected to be absent.
    pub(super) fn exists(&self, name: &K::Name) {
        self.inner.lock().exists(name);
    }

    /// How many there are in the account.
    pub(super) fn total(&self, items: usize) {
        self.inner.reader.total(items);
    }

    fn register(&self, request: Request<K>) -> (Registered<K>, oneshot::Receiver<Answer<K>>) {
        let (tell, answer) = oneshot::channel();
        let id = self.inner.lock().add(request, tell);
        self.task
            .get_or_init(|| tokio::spawn(run(Arc::clone(&self.inner))).abort_handle());
        self.inner.changed.notify_one();
        let inner = Arc::clone(&self.inner);
        (Registered { inner, id }, answer)
    }
}

fn stopped(action: &'static str) -> CallError {
    CallError::NotSent {
        action,
        reason: "the driver is shutting down".to_owned(),
    }
}

/// Takes the waiter out when its caller goes away.
struct Registered<K: Kind> {
    inner: Arc<Inner<K>>,
    id: u64,
}

impl<K: Kind> Drop for Registered<K> {
    fn drop(&mut self) {
        self.inner.lock().remove(self.id);
    }
}

impl<K: Kind> Inner<K> {
    fn lock(&self) -> MutexGuard<'_, Waiters<K>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a read waits for others: not at all when there are none, and never long compared with the read itself.
    /// Those who come while it runs share the next.
    fn window(&self) -> Duration {
        if self.lock().is_empty() {
            return Duration::ZERO;
        }
        let took = Duration::from_micros(self.took.load(Ordering::Relaxed));
        self.api.config.window.min(took / SHARE)
    }
}

async fn run<K: Kind>(inner: Arc<Inner<K>>) {
    let mut reads = JoinSet::new();
    let mut newest: Option<Instant> = None;
    loop {
        while reads.try_join_next().is_some() {}
        let backlog = inner.api.bucket.backlog();
        let tick = inner.lock().next_tick(backlog);
        let tick = match (reads.len(), newest) {
            (0, _) => tick,
            (READS_AT_ONCE.., _) => None,
            (_, started) => tick.map(|at| at.max(started.map_or(at, |then| then + HANGING))),
        };
        let now = Instant::now();
        if tick.is_some_and(|at| at <= now + TICK) {
            let batch = inner.lock().take_due(now + TICK);
            if let Some(batch) = batch {
                newest = Some(now);
                reads.spawn(read(Arc::clone(&inner), batch));
                continue;
            }
        }
        tokio::select! {
            _ = reads.join_next(), if !reads.is_empty() => {}
            () = inner.changed.notified() => {}
            () = tokio::time::sleep_until(tick.unwrap_or(now)), if tick.is_some() => {}
        }
    }
}

async fn read<K: Kind>(inner: Arc<Inner<K>>, batch: Batch<K>) {
    let started = Instant::now();
    inner
        .api
        .observer
        .batch(batch.likely.len() + batch.doubtful.len());
    let release = Release {
        inner: Arc::clone(&inner),
        ids: batch.ids.clone(),
    };
    let (seen, sent) = inner
        .reader
        .read::<K>(&inner.api, batch.likely, batch.doubtful)
        .await;
    let sent = sent.unwrap_or(Sent {
        first: started,
        last: started,
    });
    let took = u64::try_from(sent.first.elapsed().as_micros()).unwrap_or(u64::MAX);
    inner.took.store(took, Ordering::Relaxed);
    let ended = inner.lock().settle(&batch.ids, &seen, sent);
    drop(release);
    inner.learned.observe_all(&ended);
    for end in ended {
        inner.api.observer.operation(end.operation, end.took);
    }
}

/// Makes the waiters readable again even if the read panicked.
struct Release<K: Kind> {
    inner: Arc<Inner<K>>,
    ids: Vec<u64>,
}

impl<K: Kind> Drop for Release<K> {
    fn drop(&mut self) {
        self.inner.lock().release(&self.ids);
    }
}
