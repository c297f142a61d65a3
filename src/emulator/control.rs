//! What a test or an operator can do to the emulated cloud from outside its API.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::backend::BackendError;
use super::config::is_vm_name;
use super::config::{Latency, RateLimit, Switches};
use super::core::{Core, Event};
use super::devices::DeviceFaults;
use super::faults::{Decision, HeldCall, Rule, RuleInForce};
use super::state::{DiskRecord, Refusal, State};

/// Handle to a running emulator's inside.
#[derive(Debug)]
pub struct Control {
    core: Arc<Core>,
}

impl Control {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// The books as they are now: what really exists.
    #[must_use]
    pub fn state(&self) -> State {
        self.core.live().state.clone()
    }

    /// One disk of the books.
    #[must_use]
    pub fn disk(&self, name: &str) -> Option<DiskRecord> {
        self.core.live().state.disks.get(name).cloned()
    }

    /// Calls that changed something or tried to, oldest first.
    #[must_use]
    pub fn history(&self) -> Vec<Event> {
        self.core.live().history.iter().cloned().collect()
    }

    /// Calls of the history that arrived after the one with this id, oldest first.
    #[must_use]
    pub fn history_after(&self, id: u64) -> Vec<Event> {
        let live = self.core.live();
        let from = live.history.partition_point(|event| event.id <= id);
        live.history.range(from..).cloned().collect()
    }

    /// Forgets the history and the counters.
    pub fn clear_history(&self) {
        let mut live = self.core.live();
        live.history.clear();
        live.calls.clear();
        live.faults.hits = 0;
    }

    /// Calls since the start, by action.
    #[must_use]
    pub fn calls(&self) -> BTreeMap<String, u64> {
        self.core.live().calls.clone()
    }

    /// Calls that a fault has hit.
    #[must_use]
    pub fn fault_hits(&self) -> u64 {
        self.core.live().faults.hits
    }

    /// How long changes take.
    #[must_use]
    pub fn latency(&self) -> Latency {
        self.core.live().latency
    }

    /// The limit on calls.
    #[must_use]
    pub fn rate_limit(&self) -> Option<RateLimit> {
        self.core.live().rate_limit
    }

    /// The behaviour where the real cloud's is unknown.
    #[must_use]
    pub fn switches(&self) -> Switches {
        self.core.live().switches
    }

    /// Sets how long changes take from now on.
    pub fn set_latency(&self, latency: Latency) {
        self.core.live().latency = latency;
    }

    /// Sets or removes the limit on calls.
    pub fn set_rate_limit(&self, limit: Option<RateLimit>) {
        let mut live = self.core.live();
        live.rate_limit = limit;
        live.refill();
    }

    /// Sets the behaviour where the real cloud's is unknown.
    pub fn set_switches(&self, switches: Switches) {
        self.core.live().switches = switches;
    }

    /// Adds a fault; rules are tried in the order in which they were added.
    pub fn add_fault(&self, rule: Rule) -> u64 {
        self.core.live().faults.add(rule)
    }

    /// The rules in force.
    #[must_use]
    pub fn faults(&self) -> Vec<RuleInForce> {
        self.core.live().faults.list()
    }

    /// Removes a fault.
    pub fn remove_fault(&self, id: u64) -> bool {
        self.core.live().faults.remove(id)
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.core.live().faults.clear();
    }

    /// Makes probabilities repeatable.
    pub fn seed_faults(&self, seed: u64) {
        self.core.live().faults.seed(seed);
    }

    /// Calls that are parked.
    #[must_use]
    pub fn held(&self) -> Vec<HeldCall> {
        self.core.holds.list()
    }

    /// Waits until a call is parked, and tells which.
    pub async fn wait_held(&self) -> HeldCall {
        let mut changed = self.core.holds.subscribe();
        loop {
            changed.mark_unchanged();
            if let Some(call) = self.held().into_iter().next() {
                return call;
            }
            if changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Lets a parked call go on.
    pub fn release(&self, id: u64) -> bool {
        self.core.holds.decide(id, Decision::Release)
    }

    /// Closes a parked call's connection without an answer.
    pub fn drop_held(&self, id: u64) -> bool {
        self.core.holds.decide(id, Decision::Drop)
    }

    /// Starts or stops a VM.
    ///
    /// # Errors
    /// A [`Refusal`] when there is no such VM.
    pub fn set_vm_state(&self, name: &str, state: &str) -> Result<(), Refusal> {
        self.change(|books| {
            books.vm(name)?;
            if let Some(vm) = books.vm_mut(name) {
                state.clone_into(&mut vm.state);
            }
            Ok(())
        })
    }

    /// Deletes a VM; its disks are available afterwards, unless [`Switches::disks_die_with_vm`].
    ///
    /// # Errors
    /// A [`Refusal`] when there is no such VM.
    pub fn delete_vm(&self, name: &str) -> Result<(), Refusal> {
        self.core.delete_vm(name)
    }

    /// Renames a VM.
    ///
    /// # Errors
    /// A [`Refusal`].
    pub fn rename_vm(&self, from: &str, to: &str) -> Result<(), Refusal> {
        self.core.rename_vm(from, to)
    }

    /// Adds a running VM, or makes a new one of a deleted one's name.
    ///
    /// # Errors
    /// A [`Refusal`] for a name that is taken or cannot be one.
    pub fn try_add_vm(&self, name: &str, zone: &str) -> Result<(), Refusal> {
        self.change(|books| {
            if books.vms.contains_key(name) {
                return Err(Refusal::named(
                    "Client.InvalidParameterDuplicate.Instance",
                    format!("The instance '{name}' already exists."),
                ));
            }
            if !is_vm_name(name) {
                return Err(Refusal::named(
                    "Client.InvalidParameterValue.InstanceId",
                    format!("The name '{name}' is invalid."),
                ));
            }
            books.insert_vm(name, zone, "running");
            Ok(())
        })
    }

    /// [`Control::try_add_vm`] for names that are known to be free; a taken one stays as it is.
    pub fn add_vm(&self, name: &str, zone: &str) {
        if let Err(refusal) = self.try_add_vm(name, zone) {
            tracing::warn!(%name, code = refusal.code, "no VM was added");
        }
    }

    /// Puts a disk into the cloud as if a person or another driver had made it. Given an attachment, it is plugged
    /// into that VM's lowest free slot. What is left empty gets what the API would choose.
    ///
    /// # Errors
    /// A [`Refusal`] for a name that is taken or cannot be one, a VM that does not exist or is full.
    pub fn put_disk(&self, disk: DiskRecord) -> Result<(), Refusal> {
        self.core.put_disk(disk)
    }

    /// Plugs a VM's disks again after it was powered on anew (`qmp` backend).
    ///
    /// # Errors
    /// [`BackendError`].
    pub async fn replug(&self, vm: &str) -> Result<(), BackendError> {
        self.core.replug(vm).await
    }

    /// How the device of a disk of this name misbehaves.
    #[must_use]
    pub fn device_faults(&self, disk: &str) -> DeviceFaults {
        self.core.device_faults(disk)
    }

    /// Makes the device of a disk of this name misbehave, whether the disk exists or not; `"*"` means all disks that
    /// have no faults of their own. `None` ends it.
    ///
    /// # Errors
    /// [`BackendError`] when the backend has no such devices, or QEMU refuses.
    pub async fn set_device_faults(
        &self,
        disk: &str,
        faults: Option<DeviceFaults>,
    ) -> Result<(), BackendError> {
        if let Some(Err(reason)) = faults.as_ref().map(DeviceFaults::check) {
            return Err(BackendError::new("break a device", reason));
        }
        self.core.set_device_faults(disk, faults).await
    }

    /// Takes an attached disk's device out of its VM; the books still say `attached`. If `silent`, the guest is not
    /// told, and keeps a device that answers nothing.
    ///
    /// # Errors
    /// [`BackendError`].
    pub async fn pull_device(&self, disk: &str, silent: bool) -> Result<(), BackendError> {
        self.core.pull(disk, silent).await
    }

    /// Plugs an attached disk's device where the books say, after [`Control::pull_device`] or when it was absent.
    ///
    /// # Errors
    /// [`BackendError`].
    pub async fn put_device(&self, disk: &str, silent: bool) -> Result<(), BackendError> {
        self.core.put(disk, silent).await
    }

    /// Plugs two attached disks' devices into each other's places.
    ///
    /// # Errors
    /// [`BackendError`].
    pub async fn swap_devices(
        &self,
        one: &str,
        other: &str,
        silent: bool,
    ) -> Result<(), BackendError> {
        self.core.swap(one, other, silent).await
    }

    /// Takes `old`'s device out and plugs `new`'s into its place. If `silent`, the guest still shows what it knew of
    /// `old`, and reads and writes `new`.
    ///
    /// # Errors
    /// [`BackendError`].
    pub async fn replace_device(
        &self,
        old: &str,
        new: &str,
        silent: bool,
    ) -> Result<(), BackendError> {
        self.core.replace(old, new, silent).await
    }

    /// Waits until nothing is in flight.
    pub async fn settle(&self) {
        while !self.core.live().in_flight.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    pub(super) async fn close(&self) {
        self.core.close().await;
    }

    pub(super) fn release_all(&self) {
        self.core.release();
    }

    fn change(&self, work: impl FnOnce(&mut State) -> Result<(), Refusal>) -> Result<(), Refusal> {
        let mut live = self.core.live();
        let result = work(&mut live.state);
        self.core.save(&mut live.state);
        result
    }
}
