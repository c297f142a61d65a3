//! A token bucket over all calls, on tokio's time.
//!
//! Calls wait in one queue per class; classes share the tokens by weight, so that a wave of deletes cannot hold
//! up a claim, nor the other way round. When the API throttles, the rate is halved at once, comes back quickly to
//! just below where it was too high, and creeps on from there.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::config::FleetConfig;
use super::observer::Observer;

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// `Describe*`: everything waits for these, and they are few.
    Read,
    /// Towards a running pod: create, attach, extend, journal.
    Bring,
    /// Away from one: detach, delete.
    Take,
}

const CLASSES: [Class; 3] = [Class::Read, Class::Bring, Class::Take];
const WEIGHTS: [i32; 3] = [4, 3, 2];

/// Several throttled answers within this time are one event: they were sent at the same rate.
const ONE_EVENT: Duration = Duration::from_secs(1);
/// Part of the configured rate that is won back each second, up to the ceiling.
const RECOVERY: f64 = 0.25;
/// The same above the ceiling.
const PROBING: f64 = 0.02;
/// The ceiling, as a part of the rate that was too high.
const CEILING: f64 = 0.9;
/// A longer `Retry-After` is not believed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// The deadline passed before a token came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Late;

#[derive(Debug, Clone)]
pub(super) struct Bucket(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rate: f64,
    burst: f64,
    floor: f64,
    observer: Arc<dyn Observer>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    tokens: f64,
    filled: Option<Instant>,
    rate: f64,
    /// The highest rate that the API is believed to take.
    ceiling: f64,
    throttled: Option<Instant>,
    shut_until: Option<Instant>,
    queues: [VecDeque<oneshot::Sender<()>>; 3],
    credit: [i32; 3],
    pumping: bool,
}

impl Bucket {
    pub(super) fn new(config: &FleetConfig, observer: Arc<dyn Observer>) -> Self {
        let burst = f64::from(config.burst);
        Self(Arc::new(Inner {
            rate: config.rate,
            burst,
            floor: config.rate_floor,
            observer,
            state: Mutex::new(State {
                tokens: burst,
                filled: None,
                rate: config.rate,
                ceiling: config.rate,
                throttled: None,
                shut_until: None,
                queues: Default::default(),
                credit: [0; 3],
                pumping: false,
            }),
        }))
    }

    /// Waits for a token. Cancel safe: a caller that goes away leaves the queue.
    pub(super) async fn pass(&self, class: Class, deadline: Option<Instant>) -> Result<(), Late> {
        let Some(granted) = self.enter(class) else {
            return Ok(());
        };
        // A closed channel means that the pump died with its runtime; the call then fails by itself.
        match deadline {
            None => {
                let _ = granted.await;
                Ok(())
            }
            Some(deadline) => match tokio::time::timeout_at(deadline, granted).await {
                Ok(_) => Ok(()),
                Err(_) => Err(Late),
            },
        }
    }

    fn enter(&self, class: Class) -> Option<oneshot::Receiver<()>> {
        let mut state = self.0.lock();
        state.refill(&self.0, Instant::now());
        for queue in &mut state.queues {
            while queue.front().is_some_and(oneshot::Sender::is_closed) {
                queue.pop_front();
            }
        }
        if state.queues.iter().all(VecDeque::is_empty) && state.take() {
            return None;
        }
        let (grant, granted) = oneshot::channel();
        let queue = &mut state.queues[class.index()];
        queue.push_back(grant);
        self.0.observer.queued(class, queue.len());
        if !state.pumping {
            state.pumping = true;
            tokio::spawn(pump(Arc::clone(&self.0)));
        }
        Some(granted)
    }

    /// How long a call that asks now will wait, roughly: zero unless others wait.
    pub(super) fn backlog(&self) -> Duration {
        let state = self.0.lock();
        let waiting: usize = state.queues.iter().map(VecDeque::len).sum();
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        Duration::from_secs_f64(f64::from(waiting) / state.rate)
    }

    /// A token that was taken and not used.
    pub(super) fn refund(&self) {
        let mut state = self.0.lock();
        state.tokens += 1.0;
        while state.grant(&self.0) {}
    }

    /// The API asked to slow down.
    pub(super) fn throttled(&self, retry_after: Option<Duration>) {
        let now = Instant::now();
        let mut state = self.0.lock();
        state.refill(&self.0, now);
        let same_event = state.throttled.is_some_and(|then| now < then + ONE_EVENT);
        if !same_event {
            state.ceiling = state.rate * CEILING;
            state.rate = (state.rate / 2.0).max(self.0.floor);
            state.throttled = Some(now);
            state.tokens = 0.0;
        }
        if let Some(pause) = retry_after {
            let until = now + pause.min(RETRY_AFTER_MAX);
            state.shut_until = Some(state.shut_until.map_or(until, |other| other.max(until)));
        }
        let rate = state.rate;
        drop(state);
        self.0.observer.throttled(rate);
    }

    #[cfg(test)]
    pub(super) fn rate(&self) -> f64 {
        let mut state = self.0.lock();
        state.refill(&self.0, Instant::now());
        state.rate
    }
}

/// Hands out tokens until nobody waits.
async fn pump(inner: Arc<Inner>) {
    loop {
        let pause = {
            let mut state = inner.lock();
            state.refill(&inner, Instant::now());
            while state.grant(&inner) {}
            if state.queues.iter().all(VecDeque::is_empty) {
                state.pumping = false;
                return;
            }
            state.until_next(Instant::now())
        };
        tokio::time::sleep(pause).await;
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn refill(&mut self, inner: &Inner, now: Instant) {
        let from = self.filled.unwrap_or(now);
        self.filled = Some(now);
        if let Some(calm) = self.throttled.map(|then| then + ONE_EVENT) {
            let grown = now.saturating_duration_since(calm.max(from)).as_secs_f64();
            let quick = inner.rate * RECOVERY;
            let below = (self.ceiling - self.rate).max(0.0).min(quick * grown);
            let left = grown - below / quick;
            self.rate = (self.rate + below + inner.rate * PROBING * left).min(inner.rate);
        }
        let open = self.shut_until.map_or(from, |until| until.max(from));
        let grown = now.saturating_duration_since(open).as_secs_f64() * self.rate;
        let depth = (inner.burst * self.rate / inner.rate).max(1.0);
        self.tokens = (self.tokens + grown).min(depth);
    }

    fn is_shut(&self) -> bool {
        self.shut_until.is_some_and(|until| Instant::now() < until)
    }

    fn take(&mut self) -> bool {
        // The tolerance keeps rounding from costing a millisecond per token.
        let there = self.tokens > 1.0 - 1e-6 && !self.is_shut();
        if there {
            self.tokens -= 1.0;
        }
        there
    }

    /// Gives one token to the class whose share is most overdue. False: no token or nobody waits.
    fn grant(&mut self, inner: &Inner) -> bool {
        let waiting = |i: &usize| !self.queues[*i].is_empty();
        let classes: Vec<usize> = (0..CLASSES.len()).filter(waiting).collect();
        if classes.is_empty() || !self.take() {
            return false;
        }
        let total: i32 = classes.iter().map(|i| WEIGHTS[*i]).sum();
        for i in &classes {
            self.credit[*i] += WEIGHTS[*i];
        }
        let Some(chosen) = classes.into_iter().rev().max_by_key(|i| self.credit[*i]) else {
            return false;
        };
        self.credit[chosen] -= total;
        while let Some(next) = self.queues[chosen].pop_front() {
            if next.send(()).is_ok() {
                inner
                    .observer
                    .queued(CLASSES[chosen], self.queues[chosen].len());
                return true;
            }
        }
        // Everybody in that class had gone: the token goes to the next.
        self.tokens += 1.0;
        true
    }

    fn until_next(&self, now: Instant) -> Duration {
        let shut = self
            .shut_until
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        let missing = (1.0 - self.tokens).max(0.0) / self.rate;
        shut + Duration::from_secs_f64(missing).max(Duration::from_millis(1))
    }
}

impl Class {
    fn index(self) -> usize {
        match self {
            Self::Read => 0,
            Self::Bring => 1,
            Self::Take => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::observer::Silent;
    use super::*;

    fn bucket(rate: f64, burst: u32) -> Bucket {
        let config = FleetConfig {
            rate,
            burst,
            ..FleetConfig::default()
        };
        Bucket::new(&config, Arc::new(Silent))
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_at_once_and_the_rest_at_the_rate() {
        let (bucket, start) = (bucket(10.0, 5), Instant::now());
        for _ in 0..5 {
            bucket.pass(Class::Bring, None).await.unwrap();
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..20 {
            bucket.pass(Class::Bring, None).await.unwrap();
        }
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(1990), "{took:?}");
        assert!(took <= Duration::from_millis(2100), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_class_starves_another() {
        let bucket = bucket(10.0, 1);
        bucket.pass(Class::Read, None).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for class in [Class::Take, Class::Bring, Class::Read] {
            for _ in 0..40 {
                let (bucket, order) = (bucket.clone(), Arc::clone(&order));
                tasks.spawn(async move {
                    bucket.pass(class, None).await.unwrap();
                    order.lock().unwrap().push(class);
                });
            }
        }
        tasks.join_all().await;
        let order = order.lock().unwrap();
        let first = &order[..36];
        let count = |class| first.iter().filter(|c| **c == class).count();
        assert_eq!(
            (count(Class::Read), count(Class::Bring), count(Class::Take)),
            (16, 12, 8)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn throttling_halves_the_rate_once_per_event_and_never_below_the_floor() {
        let bucket = bucket(16.0, 10);
        bucket.throttled(None);
        bucket.throttled(None);
        assert!((bucket.rate() - 8.0).abs() < 1e-9);
        for _ in 0..20 {
            tokio::time::advance(ONE_EVENT).await;
            bucket.throttled(None);
        }
        assert!((bucket.rate() - 1.0).abs() < 1e-9, "{}", bucket.rate());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!((bucket.rate() - 16.0).abs() < 1e-9, "{}", bucket.rate());
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_shuts_everything() {
        let (bucket, start) = (bucket(100.0, 10), Instant::now());
        bucket.throttled(Some(Duration::from_secs(7)));
        bucket.pass(Class::Read, None).await.unwrap();
        assert!(start.elapsed() >= Duration::from_secs(7));
        assert!(start.elapsed() < Duration::from_millis(7100));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_ends_the_wait_and_a_caller_that_left_costs_no_token() {
        let (bucket, start) = (bucket(1.0, 1), Instant::now());
        bucket.pass(Class::Bring, None).await.unwrap();
        let late = bucket
            .pass(Class::Bring, Some(start + Duration::from_millis(300)))
            .await;
        assert_eq!(late, Err(Late));
        assert_eq!(start.elapsed(), Duration::from_millis(300));
        bucket.pass(Class::Bring, None).await.unwrap();
        assert!(start.elapsed() < Duration::from_millis(1010));
    }
}
