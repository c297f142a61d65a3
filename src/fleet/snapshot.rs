//! A shared copy of everything of one sort, read by one call at a time.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::cloud::CallError;

type Outcome<T> = Option<Result<Arc<T>, CallError>>;
type Change<T> = Box<dyn Fn(&mut T) + Send>;

/// See the module's documentation.
pub(super) struct Shared<T>(Arc<Mutex<State<T>>>);

struct State<T> {
    /// Counts own writes, begun and ended.
    writes: u64,
    value: Option<Value<T>>,
    flight: Option<watch::Receiver<Outcome<T>>>,
    /// Own changes made while a read is under way, which the read may or may not have seen.
    changes: Vec<Change<T>>,
}

struct Value<T> {
    data: Arc<T>,
    started: Instant,
    writes: u64,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State {
            writes: 0,
            value: None,
            flight: None,
            changes: Vec::new(),
        })))
    }
}

impl<T> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

fn lock<T>(state: &Mutex<State<T>>) -> MutexGuard<'_, State<T>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Clone + Send + Sync + 'static> Shared<T> {
    /// The copy, at most `max_age` old and, if `after_writes`, read after this process's last write; else a new
    /// one from `read`. Callers that come while a read is under way wait for it, and read again only if it is
    /// too old for them.
    pub(super) async fn get<R, F>(
        &self,
        max_age: Duration,
        after_writes: bool,
        read: R,
    ) -> Result<Arc<T>, CallError>
    where
        R: FnOnce() -> F,
        F: Future<Output = Result<T, CallError>> + Send + 'static,
    {
        let asked = Instant::now();
        let asked_writes = lock(&self.0).writes;
        let mut read = Some(read);
        loop {
            let mut flight = {
                let mut state = lock(&self.0);
                let fresh = state.value.as_ref().filter(|value| {
                    asked.saturating_duration_since(value.started) <= max_age
                        && (!after_writes || value.writes >= asked_writes)
                });
                if let Some(value) = fresh {
                    return Ok(Arc::clone(&value.data));
                }
                match (&state.flight, read.take()) {
                    (Some(flight), again) => {
                        read = again;
                        flight.clone()
                    }
                    (None, Some(read)) => self.start(&mut state, read()),
                    (None, None) => {
                        // The own read was dropped with its runtime.
                        return Err(aborted());
                    }
                }
            };
            let outcome = flight.wait_for(Option::is_some).await;
            match outcome.ok().and_then(|outcome| outcome.clone()) {
                Some(Ok(data)) if read.is_none() => return Ok(data),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Err(aborted()),
            }
        }
    }

    fn start<F>(&self, state: &mut State<T>, read: F) -> watch::Receiver<Outcome<T>>
    where
        F: Future<Output = Result<T, CallError>> + Send + 'static,
    {
        let (tell, flight) = watch::channel(None);
        let (writes, started) = (state.writes, Instant::now());
        state.flight = Some(flight.clone());
        state.changes.clear();
        let shared = Arc::clone(&self.0);
        // A task of its own: the caller may go away, those who joined still want the answer.
        tokio::spawn(async move {
            let landing = Landing(Arc::clone(&shared));
            let answer = read.await;
            let outcome = {
                let mut state = lock(&shared);
                answer.map(|mut data| {
                    for change in state.changes.drain(..) {
                        change(&mut data);
                    }
                    let data = Arc::new(data);
                    state.value = Some(Value {
                        data: Arc::clone(&data),
                        started,
                        writes,
                    });
                    data
                })
            };
            drop(landing);
            tell.send_replace(Some(outcome));
        });
        flight
    }

    /// Applies an own change to the copy, and to the one being read. Must be harmless when repeated.
    pub(super) fn change(&self, change: impl Fn(&mut T) + Send + 'static) {
        let mut state = lock(&self.0);
        if let Some(value) = state.value.as_mut() {
            change(Arc::make_mut(&mut value.data));
        }
        if state.flight.is_some() {
            state.changes.push(Box::new(change));
        }
    }
}

impl<T> Shared<T> {
    /// This process begins or has ended a write: copies read before are too old from now on.
    pub(super) fn wrote(&self) {
        lock(&self.0).writes += 1;
    }
}

/// Ends the flight however the read ends.
struct Landing<T>(Arc<Mutex<State<T>>>);

impl<T> Drop for Landing<T> {
    fn drop(&mut self) {
        lock(&self.0).flight = None;
    }
}

fn aborted() -> CallError {
    CallError::NotSent {
        action: "Describe",
        reason: "the read was abandoned; retry".to_owned(),
    }
}
