//! Jobs: work that owns its lock and outlives the RPC that asked for it.
//!
//! tonic drops a handler when its caller's deadline passes, so a lock held by the handler would be released while
//! the work goes on. Here a spawned task owns both. A retry with the same request joins the running job and gets
//! its answer; another operation on the same key is refused with [`JobError::Busy`].
//!
//! ```text
//! RPC ---- run(key, request, work) ----> no job: spawn, wait      -> answer
//! retry -- run(key, same request) -----> job runs: wait with it   -> the same answer
//! other -- run(key, other request) ----> Busy
//! ```

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

mod interest;

pub use interest::Interest;

use interest::Caller;

/// Why a job gave no answer of its own.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JobError {
    /// Another operation holds this volume.
    #[error("{running} is in progress for volume {key}; this request will be served after it")]
    Busy {
        /// The volume.
        key: String,
        /// The operation that runs.
        running: String,
    },
    /// The work panicked: a defect of the driver.
    #[error("internal error in {operation} for volume {key}; see the driver's log")]
    Panicked {
        /// The volume.
        key: String,
        /// The operation.
        operation: String,
    },
    /// The driver is stopping.
    #[error("the driver is shutting down; retry")]
    ShuttingDown,
}

type Answer = Option<Arc<dyn Any + Send + Sync>>;

struct Running {
    operation: &'static str,
    request: String,
    answer: watch::Receiver<Answer>,
    interest: Interest,
}

/// The table of running jobs, one per volume.
#[derive(Clone, Default)]
pub struct Jobs {
    table: Arc<Mutex<HashMap<String, Running>>>,
    tasks: TaskTracker,
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs")
            .field("running", &self.len())
            .finish()
    }
}

/// Removes the entry when the job ends, however it ends.
struct Entry {
    table: Arc<Mutex<HashMap<String, Running>>>,
    key: String,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.table
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
    }
}

impl Jobs {
    /// Jobs running now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Whether no job runs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Runs `work` as the only job of `key`, or joins the running one if `operation` and `request` (any text that
    /// is equal exactly for equal requests) are the same. The work goes on if the caller goes away.
    ///
    /// # Errors
    /// The work's own error, or a [`JobError`].
    pub async fn run<T, E, F>(
        &self,
        key: &str,
        operation: &'static str,
        request: String,
        work: F,
    ) -> Result<T, E>
    where
        T: Clone + Send + Sync + 'static,
        E: From<JobError> + Clone + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let answer = self
            .run_for(key, operation, request, None, |_| work)
            .await?;
        // Without a limit there is always an answer.
        answer.ok_or_else(|| E::from(JobError::ShuttingDown))
    }

    /// As [`Jobs::run`], but waits for `limit` at most; `None`: the work goes on. The work can ask whether anybody is
    /// still interested in it.
    ///
    /// # Errors
    /// The work's own error, or a [`JobError`].
    pub async fn run_for<T, E, F, W>(
        &self,
        key: &str,
        operation: &'static str,
        request: String,
        limit: Option<Duration>,
        work: W,
    ) -> Result<Option<T>, E>
    where
        T: Clone + Send + Sync + 'static,
        E: From<JobError> + Clone + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
        W: FnOnce(Interest) -> F,
    {
        let (answer, caller) = self.start(key, operation, request, work)?;
        let answer = Self::answer(key, operation, answer);
        let Some(limit) = limit else {
            return answer.await.map(Some);
        };
        match tokio::time::timeout(limit, answer).await {
            Ok(answer) => answer.map(Some),
            Err(_) => {
                caller.tell();
                Ok(None)
            }
        }
    }

    async fn answer<T, E>(
        key: &str,
        operation: &'static str,
        mut answer: watch::Receiver<Answer>,
    ) -> Result<T, E>
    where
        T: Clone + Send + Sync + 'static,
        E: From<JobError> + Clone + Send + Sync + 'static,
    {
        let panicked = || {
            E::from(JobError::Panicked {
                key: key.to_owned(),
                operation: operation.to_owned(),
            })
        };
        let done = answer
            .wait_for(Option::is_some)
            .await
            .map_err(|_| panicked())?;
        done.as_ref()
            .and_then(|any| any.downcast_ref::<Result<T, E>>())
            .cloned()
            .unwrap_or_else(|| Err(panicked()))
    }

    fn start<T, E, F, W>(
        &self,
        key: &str,
        operation: &'static str,
        request: String,
        work: W,
    ) -> Result<(watch::Receiver<Answer>, Caller), JobError>
    where
        T: Clone + Send + Sync + 'static,
        E: From<JobError> + Clone + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
        W: FnOnce(Interest) -> F,
    {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = table.get(key) {
            if running.operation == operation && running.request == request {
                return Ok((running.answer.clone(), running.interest.join()));
            }
            let running = running.operation.to_owned();
            return Err(JobError::Busy {
                key: key.to_owned(),
                running,
            });
        }
        if self.tasks.is_closed() {
            return Err(JobError::ShuttingDown);
        }
        let (tell, answer) = watch::channel::<Answer>(None);
        let interest = Interest::default();
        let caller = interest.join();
        let work = work(interest.clone());
        table.insert(
            key.to_owned(),
            Running {
                operation,
                request,
                answer: answer.clone(),
                interest,
            },
        );
        drop(table);
        let entry = Entry {
            table: Arc::clone(&self.table),
            key: key.to_owned(),
        };
        self.tasks.spawn(async move {
            // A panic drops `tell` without an answer: waiters see a closed channel.
            let result = CatchUnwind(Box::pin(work)).await;
            // The entry goes first: whoever has the answer may start the next operation at once.
            drop(entry);
            if let Some(result) = result {
                tell.send_replace(Some(Arc::new(result)));
            } else {
                tracing::error!(operation, "a job panicked; this is a defect of the driver");
            }
        });
        Ok((answer, caller))
    }

    /// Refuses new jobs and waits for the running ones.
    pub async fn drain(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Refuses new jobs from now on; running ones go on.
    pub fn close(&self) {
        self.tasks.close();
    }
}

/// `catch_unwind` for a future, so that a panic ends one job and not its lock.
struct CatchUnwind<F>(std::pin::Pin<Box<F>>);

impl<F: Future> Future for CatchUnwind<F> {
    type Output = Option<F::Output>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        let inner = self.0.as_mut();
        match std::panic::catch_unwind(AssertUnwindSafe(|| inner.poll(cx))) {
            Ok(std::task::Poll::Pending) => std::task::Poll::Pending,
            Ok(std::task::Poll::Ready(output)) => std::task::Poll::Ready(Some(output)),
            Err(_) => std::task::Poll::Ready(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    type Outcome = Result<u32, JobError>;

    fn slow(count: &Arc<AtomicUsize>) -> impl Future<Output = Outcome> + Send + 'static + use<> {
        let count = Arc::clone(count);
        async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            count.fetch_add(1, Ordering::SeqCst);
            Ok(7)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_joins_the_running_job_and_gets_its_answer() {
        let (jobs, count) = (Jobs::default(), Arc::new(AtomicUsize::new(0)));
        let first = jobs.run("v", "Create", "a".into(), slow(&count));
        let second = jobs.run("v", "Create", "a".into(), slow(&count));
        let both: (Outcome, Outcome) = tokio::join!(first, second);
        assert_eq!(both, (Ok(7), Ok(7)));
        assert_eq!(count.load(Ordering::SeqCst), 1);
        assert!(jobs.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_job_goes_on_when_its_caller_goes_away() {
        let (jobs, count) = (Jobs::default(), Arc::new(AtomicUsize::new(0)));
        let call = jobs.run::<u32, JobError, _>("v", "Create", "a".into(), slow(&count));
        assert!(
            tokio::time::timeout(Duration::from_secs(1), call)
                .await
                .is_err()
        );
        let other = jobs
            .run::<u32, JobError, _>("v", "Delete", "a".into(), slow(&count))
            .await;
        assert!(matches!(other, Err(JobError::Busy { .. })));
        jobs.drain().await;
        assert_eq!(count.load(Ordering::SeqCst), 1);
        let late = jobs
            .run::<u32, JobError, _>("v", "Create", "a".into(), slow(&count))
            .await;
        assert_eq!(late, Err(JobError::ShuttingDown));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_vanishes_ends_the_interest_and_one_that_was_told_keeps_it_for_a_while() {
        const LINGER: Duration = Duration::from_secs(3);
        let jobs = Jobs::default();
        let (tell, mut told) = watch::channel(None);
        let ask = |limit| {
            let tell = tell.clone();
            jobs.run_for::<u32, JobError, _, _>("v", "Create", "a".into(), limit, move |interest| {
                tell.send_replace(Some(interest));
                async {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                    Ok(7)
                }
            })
        };
        let second = Duration::from_secs(1);
        assert_eq!(ask(Some(second)).await, Ok(None));
        let interest = told.borrow_and_update().clone().unwrap();
        assert!(interest.lasts(LINGER));
        tokio::time::sleep(LINGER).await;
        assert!(!interest.lasts(LINGER));
        let gone = tokio::time::timeout(second, async {
            let back = ask(None);
            tokio::select! {
                answer = back => answer,
                () = async {
                    tokio::time::sleep(second / 2).await;
                    assert!(interest.lasts(LINGER), "a retry is interest again");
                    std::future::pending::<()>().await;
                } => unreachable!(),
            }
        });
        assert!(gone.await.is_err());
        assert!(!interest.lasts(LINGER));
        assert_eq!(ask(None).await, Ok(Some(7)));
        assert!(!told.has_changed().unwrap(), "one job, whoever joined");
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_frees_the_volume() {
        let jobs = Jobs::default();
        let boom = async { panic!("boom") };
        let answer = jobs
            .run::<u32, JobError, _>("v", "Create", "a".into(), boom)
            .await;
        assert!(matches!(answer, Err(JobError::Panicked { .. })));
        assert!(jobs.is_empty());
    }
}
