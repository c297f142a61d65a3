//! Slots of a VM: one `DescribeInstanceAttribute` per VM at a time, shared by all who asked before it started.
//!
//! Nothing is kept: another replica or a person may move a disk at any time, and a wrong slot is another disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::api::Api;
use crate::cloud::CallError;
use crate::domain::disk::Slot;
use crate::domain::id::VmName;

type Answer = Result<Arc<Vec<Slot>>, CallError>;
/// The VMs that have a worker, each with those who wait for its next read.
type Queues = HashMap<VmName, Vec<oneshot::Sender<Answer>>>;

#[derive(Debug, Default)]
pub(super) struct Slots(Arc<Mutex<Queues>>);

fn lock(queues: &Mutex<Queues>) -> MutexGuard<'_, Queues> {
    queues.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slots {
    pub(super) async fn read(&self, api: &Arc<Api>, vm: &VmName) -> Answer {
        let (tell, answer) = oneshot::channel();
        {
            let mut queues = lock(&self.0);
            if let Some(queue) = queues.get_mut(vm) {
                queue.push(tell);
            } else {
                queues.insert(vm.clone(), vec![tell]);
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
async fn work(queues: Arc<Mutex<Queues>>, api: Arc<Api>, vm: VmName) {
    let mut retire = Retire {
        queues: Arc::clone(&queues),
        vm: Some(vm.clone()),
    };
    loop {
        tokio::time::sleep(api.config.window).await;
        let mut served = Vec::new();
        // The waiters are taken when the call is sent, after the bucket let it pass.
        let answer = api
            .read_patiently("DescribeInstanceAttribute", || {
                if let Some(queue) = lock(&queues).get_mut(&vm) {
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
        let mut queues = lock(&queues);
        if let Some(queue) = queues.get_mut(&vm) {
            queue.retain(|waiter| !waiter.is_closed());
            if queue.is_empty() {
                queues.remove(&vm);
                retire.vm = None;
                return;
            }
        }
    }
}

/// Ends the worker's entry if it panics or its runtime ends: waiters get an error instead of waiting for ever.
struct Retire {
    queues: Arc<Mutex<Queues>>,
    vm: Option<VmName>,
}

impl Drop for Retire {
    fn drop(&mut self) {
        if let Some(vm) = &self.vm {
            lock(&self.queues).remove(vm);
        }
    }
}
