//! What is read beside everything else: lists and health. Held against what is known for sure.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::caller::{Answer, Patience, Rpc, may_be_running};
use crate::judge::lock;
use crate::model::{Maker, Told, maker};
use crate::worker::{Facts, Outcome, VOLUMES, World};

/// What has been so for this long is known to both controllers.
const KNOWN: Duration = Duration::from_secs(1);

/// A volume that no caller is at work on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Idle {
    since: Instant,
    /// VM, and which one of that name.
    at: Option<(String, String)>,
}

impl Idle {
    pub(crate) fn now(told: Option<&Told>) -> Self {
        Self {
            since: Instant::now(),
            at: told.map(|told| (told.vm.clone(), told.incarnation.clone())),
        }
    }
}

impl World {
    /// One volume.
    pub(crate) async fn look(&self, random: &mut fastrand::Rng, rpc: Rpc) {
        let index = random.usize(..VOLUMES);
        let before = lock(&self.facts[index]).clone();
        let to = random.usize(..2);
        let answer = self.send(to, &before.disk, &rpc, Patience::Endless).await;
        let after = lock(&self.facts[index]).clone();
        if !(before.created && after.created && before.disk == after.disk) {
            return;
        }
        match answer {
            // Not final: the API could not be read in time.
            Some(Err(status)) if may_be_running(status.code()) => {}
            Some(Err(status)) => self.judge.violation(format!(
                "{}: {rpc:?} answered {status:?}, but it is there",
                before.disk
            )),
            Some(Ok(answer)) => self.sound(&before.disk, &answer),
            None => {}
        }
    }

    /// A disk that is there is not reported as gone, and none stays in motion here. What a caller has left half done may
    /// well be reported.
    fn sound(&self, disk: &str, answer: &Answer) {
        let Some(reasons) = answer.context.get(disk) else {
            return;
        };
        let wrong = |reason: &&str| {
            reason.starts_with("Stuck") || matches!(*reason, "DiskMissing" | "UnexpectedState")
        };
        if let Some(reason) = reasons.split(',').find(wrong) {
            self.judge.violation(format!(
                "{disk}: reported as {reason}, but it is sound; {}",
                self.judge.story(disk)
            ));
        }
    }

    fn all_facts(&self) -> Vec<Facts> {
        self.facts.iter().map(|facts| lock(facts).clone()).collect()
    }

    /// The health of all volumes.
    pub(crate) async fn look_for_trouble(&self, random: &mut fastrand::Rng) {
        let before = self.all_facts();
        let to = random.usize(..2);
        let answer = self.send(to, "", &Rpc::ListHealth, Patience::Endless).await;
        let Some(answer) = self.answered(answer) else {
            return;
        };
        for (before, after) in before.iter().zip(self.all_facts()) {
            if before.created && after.created && before.disk == after.disk {
                self.sound(&before.disk, &answer);
            }
        }
    }

    fn answered(&self, answer: Outcome) -> Option<Answer> {
        match answer? {
            Ok(answer) => Some(answer),
            // The API cannot be read at times.
            Err(status) if may_be_running(status.code()) => None,
            Err(status) => {
                self.judge.violation(format!("a list answered {status:?}"));
                None
            }
        }
    }

    /// The list holds every volume that is known to exist, where it is known to be.
    pub(crate) async fn look_at_all(&self, random: &mut fastrand::Rng) {
        // While it grows a volume may be attached for a moment to a VM that nothing explains.
        let busy = |resizer: &tokio::sync::Mutex<()>| resizer.try_lock().is_err();
        let growing: Vec<bool> = self.resizers.iter().map(busy).collect();
        let (before, asked) = (self.all_facts(), Instant::now());
        let vms = self.vms();
        let to = random.usize(..2);
        let answer = self.send(to, "", &Rpc::List, Patience::Endless).await;
        let Some(answer) = self.answered(answer) else {
            return;
        };
        let (after, vms_after) = (self.all_facts(), self.vms());
        for (index, (before, after)) in before.iter().zip(&after).enumerate() {
            let Some(idle) = &before.idle else {
                continue;
            };
            if before.disk != after.disk
                || before.idle != after.idle
                || !(before.created && after.created)
                || asked.duration_since(idle.since) < KNOWN
                || maker(index) == Maker::Person
            {
                continue;
            }
            let Some(nodes) = answer.context.get(&before.disk) else {
                self.judge
                    .violation(format!("{}: exists, but is not listed", before.disk));
                continue;
            };
            let expected = match &idle.at {
                None if growing[index] || busy(&self.resizers[index]) => continue,
                None => "",
                Some((vm, id)) if vms.get(vm) == Some(id) && vms_after.get(vm) == Some(id) => vm,
                Some(_) => continue,
            };
            if nodes != expected {
                self.judge.violation(format!(
                    "{}: listed as published on {nodes:?}, but is on {expected:?}; {}",
                    before.disk,
                    self.judge.story(&before.disk)
                ));
            }
        }
    }

    /// VMs by name, with what tells them from others of that name.
    fn vms(&self) -> BTreeMap<String, String> {
        let vms = self.judge.control().state().vms.into_values();
        vms.map(|vm| (vm.name, vm.unique_id)).collect()
    }
}
