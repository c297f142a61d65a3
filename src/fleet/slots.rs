//! Slots of a VM: one `DescribeInstanceAttribute` per VM at a time, shared by all who asked before it started.
//!
//! Nothing is kept: another replica or a person may move a disk at any time, and a wrong slot is another disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::api::Api;
use crate::cloud::CallError;
use crate::domain::disk::Slot;
use crate::domain::id::VmName;

/// How long a call waits for others that were announced.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same while calls queue up: each one saved lets all others pass sooner.
const PATIENCE_IN_QUEUE: Duration = Duration::from_secs(30);

type Answer = Result<Arc<Vec<Slot>>, CallError>;

#[derive(Debug, Default)]
struct State {
    /// The VMs that have a worker, each with those who wait for its next read.
    queues: HashMap<VmName, Vec<oneshot::Sender<Answer>>>,
    /// How many are expected to ask, those who wait already included.
    expected: HashMap<VmName, usize>,
}

#[derive(Debug, Default)]
pub(super) struct Slots(Arc<Mutex<State>>);

/// An announcement; see [`super::Fleet::expect_slot`].
#[derive(Debug)]
pub struct Expected {
    state: Arc<Mutex<State>>,
    vm: VmName,
}

impl Drop for Expected {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if let Some(count) = state.expected.get_mut(&self.vm) {
            *count -= 1;
            if *count == 0 {
                state.expected.remove(&self.vm);
            }
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Whether somebody who was announced has not asked yet.
    fn more_to_come(&self, vm: &VmName) -> bool {
        let waiting = self.queues.get(vm).map_or(0, Vec::len);
        waiting < self.expected.get(vm).copied().unwrap_or(0)
    }
}

impl Slots {
    pub(super) fn expect(&self, vm: &VmName) -> Expected {
        let mut state = lock(&self.0);
        *state.expected.entry(vm.clone()).or_insert(0) += 1;
        Expected {
            state: Arc::clone(&self.0),
            vm: vm.clone(),
        }
    }

    pub(super) async fn read(&self, api: &Arc<Api>, vm: &VmName) -> Answer {
        let (tell, answer) = oneshot::channel();
        {
            let mut state = lock(&self.0);
            if let Some(queue) = state.queues.get_mut(vm) {
                queue.push(tell);
            } else {
                state.queues.insert(vm.clone(), vec![tell]);
                tokio::spawn(work(Arc::clone(&self.0), Arc::clone(api), vm.clone()));
            }
        }
        answer.await.unwrap_or_else(|_| {
            Err(CallError::NotSent {
                action: "DescribeInstanceAttribute",
                reason: "the read was abandoned; retry".to_owned(),
            })
        })
    }
}

/// Reads until nobody waits for this VM.
async fn work(state: Arc<Mutex<State>>, api: Arc<Api>, vm: VmName) {
    let mut retire = Retire {
        state: Arc::clone(&state),
        vm: Some(vm.clone()),
    };
    loop {
        let asked = Instant::now();
        let mut calm = asked;
        // Nobody was announced: nobody to wait for.
        while lock(&state).more_to_come(&vm) {
            if !api.bucket.backlog().is_zero() {
                calm = Instant::now();
            }
            if calm.elapsed() >= PATIENCE || asked.elapsed() >= PATIENCE_IN_QUEUE {
                break;
            }
            tokio::time::sleep(api.config.window).await;
        }
        let mut served = Vec::new();
        // The waiters are taken when the call is sent, after the bucket let it pass.
        let answer = api
            .read_patiently("DescribeInstanceAttribute", || {
                if let Some(queue) = lock(&state).queues.get_mut(&vm) {
                    served.append(queue);
                }
                api.cloud.describe_slots(&vm)
            })
            .await
            .map(Arc::new);
        for waiter in served {
            // A caller that has gone does not want the answer.
            let _ = waiter.send(answer.clone());
        }
        let mut state = lock(&state);
        if let Some(queue) = state.queues.get_mut(&vm) {
            queue.retain(|waiter| !waiter.is_closed());
            if queue.is_empty() {
                state.queues.remove(&vm);
                retire.vm = None;
                return;
            }
        }
    }
}

/// Ends the worker's entry if it panics or its runtime ends: waiters get an error instead of waiting for ever.
struct Retire {
    state: Arc<Mutex<State>>,
    vm: Option<VmName>,
}

impl Drop for Retire {
    fn drop(&mut self) {
        if let Some(vm) = &self.vm {
            lock(&self.state).queues.remove(vm);
        }
    }
}
