//! One door to the cloud: every call takes a token, is counted, and tells the bucket when it was throttled.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::FleetError;
use super::bucket::{Bucket, Class};
use super::config::FleetConfig;
use super::observer::Observer;
use super::write::Until;
use crate::cloud::{CallError, Cloud, Rejection};
use crate::domain::id::DiskName;

/// First pause before a call is repeated; doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Api {
    pub(super) cloud: Arc<dyn Cloud>,
    pub(super) bucket: Bucket,
    pub(super) config: FleetConfig,
    pub(super) observer: Arc<dyn Observer>,
    /// Tokens that were taken ahead, by disk.
    paid: Mutex<HashMap<DiskName, u32>>,
    /// The last failure, while no call has been answered since.
    trouble: Mutex<Option<CallError>>,
}

/// A token taken ahead for the next write on one disk, so that the write can follow a read at once. Given back when
/// this is dropped unused.
#[derive(Debug)]
pub struct Paid {
    api: Arc<Api>,
    disk: DiskName,
    spent: bool,
}

impl Paid {
    fn spend(mut self) {
        self.api.spend(&self.disk);
        self.spent = true;
    }
}

impl Drop for Paid {
    fn drop(&mut self) {
        if !self.spent && self.api.spend(&self.disk) {
            self.api.bucket.refund();
        }
    }
}

impl Api {
    pub(super) fn new(
        cloud: Arc<dyn Cloud>,
        config: FleetConfig,
        observer: Arc<dyn Observer>,
    ) -> Self {
        Self {
            cloud,
            bucket: Bucket::new(&config, Arc::clone(&observer)),
            config,
            observer,
            paid: Mutex::default(),
            trouble: Mutex::default(),
        }
    }

    /// Why the API cannot be used at present, as far as the last call showed.
    pub(super) fn trouble(&self) -> Option<CallError> {
        let trouble = self.trouble.lock();
        trouble.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the token of the next write on `disk`.
    pub(super) async fn pay(self: &Arc<Self>, disk: &DiskName, deadline: Instant) -> Option<Paid> {
        let passed = self.bucket.pass(Class::Bring, Some(deadline)).await;
        passed.ok()?;
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        *paid.entry(disk.clone()).or_insert(0) += 1;
        Some(Paid {
            api: Arc::clone(self),
            disk: disk.clone(),
            spent: false,
        })
    }

    fn spend(&self, disk: &DiskName) -> bool {
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = paid.get_mut(disk) else {
            return false;
        };
        *count -= 1;
        if *count == 0 {
            paid.remove(disk);
        }
        true
    }

    /// One read, sent once.
    pub(super) async fn read<T, R>(
        &self,
        action: &'static str,
        call: impl FnOnce() -> R,
    ) -> Result<T, CallError>
    where
        R: Future<Output = Result<T, CallError>>,
    {
        // Without a deadline the bucket always lets a call pass in the end.
        let _ = self.bucket.pass(Class::Read, None).await;
        self.observer.call(action);
        let answer = call().await;
        self.heed(answer.as_ref().err());
        answer
    }

    /// One read, repeated while the API cannot be read, for `read_patience`.
    pub(super) async fn read_patiently<T, R>(
        &self,
        action: &'static str,
        mut call: impl FnMut() -> R,
    ) -> Result<T, CallError>
    where
        R: Future<Output = Result<T, CallError>>,
    {
        let give_up = Instant::now() + self.config.read_patience;
        let mut tries = 0;
        loop {
            let error = match self.read(action, &mut call).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let pause = pause(tries);
            if !error.is_transient() || Instant::now() + pause > give_up {
                return Err(error);
            }
            tries += 1;
            self.observer.retried(action);
            tokio::time::sleep(pause).await;
        }
    }

    /// One write. Repeats only what certainly changed nothing and may pass: busy, throttled, and for `read_patience` what
    /// could not be sent, so that a caller soon hears why.
    pub(super) async fn write<R>(
        &self,
        action: &'static str,
        class: Class,
        disk: &DiskName,
        until: &Until,
        mut call: impl FnMut() -> R,
    ) -> Result<(), FleetError>
    where
        R: Future<Output = Result<(), CallError>>,
    {
        let late = |last: Option<&CallError>| FleetError::Deadline {
            what: action.to_owned(),
            last: last.map_or_else(String::new, |error| format!("; last answer: {error}")),
        };
        let (mut last, mut tries, mut unreached) = (None, 0, None);
        loop {
            let deadline = until.deadline();
            let passed = self.spend(disk) || self.bucket.pass(class, Some(deadline)).await.is_ok();
            if !passed || until.is_over() {
                return Err(late(last.as_ref()));
            }
            self.observer.call(action);
            let begun = Instant::now();
            let answer = call().await;
            self.heed(answer.as_ref().err());
            let Err(error) = answer else {
                return Ok(());
            };
            let pause = pause(tries);
            let again = match (&error, error.rejection()) {
                (CallError::NotSent { .. }, _) => {
                    let since = *unreached.get_or_insert(begun);
                    Instant::now() + pause <= since + self.config.read_patience
                }
                (_, Some(Rejection::Processing | Rejection::Throttled)) => {
                    unreached = None;
                    true
                }
                _ => false,
            };
            if !again {
                return Err(error.into());
            }
            if Instant::now() + pause >= deadline {
                return Err(late(Some(&error)));
            }
            last = Some(error);
            tries += 1;
            self.observer.retried(action);
            tokio::time::sleep(pause).await;
        }
    }

    /// One write that was paid ahead; never repeated.
    pub(super) async fn write_once<R>(
        &self,
        action: &'static str,
        paid: Paid,
        call: impl FnOnce() -> R,
    ) -> Result<(), CallError>
    where
        R: Future<Output = Result<(), CallError>>,
    {
        paid.spend();
        self.observer.call(action);
        let answer = call().await;
        self.heed(answer.as_ref().err());
        answer
    }

    /// Learns from an answer: how fast calls may come, and whether the API can be used at all.
    fn heed(&self, error: Option<&CallError>) {
        match error {
            Some(CallError::Rejected {
                kind: Rejection::Throttled,
                retry_after,
                ..
            }) => self.bucket.throttled(*retry_after),
            Some(CallError::Unknown {
                throttled: true, ..
            }) => self.bucket.throttled(None),
            _ => {}
        }
        let troubled = error.filter(|error| error.is_outage());
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        *trouble = troubled.cloned();
    }
}

/// Doubling pauses with jitter: callers that failed together do not come back together.
pub(super) fn pause(tries: u32) -> Duration {
    let whole = (PAUSE * 2_u32.saturating_pow(tries.min(10))).min(PAUSE_MAX);
    whole.mul_f64(0.5 + fastrand::f64() / 2.0)
}
