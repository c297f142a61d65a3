//! ControllerExpandVolume.
//!
//! ```text
//! attached:  read -> smaller? -> ExtendVolumeSize (+100) -> wait -> read ...
//! detached:  journal grw-, naming an anchor -> attach to it -> as above -> detach -> journal pvc-, naming nobody
//! ```
//!
//! The journal cannot be written on condition, but an attachment can: the API refuses a second one. So the lending is what
//! both say together: `grw-` with the mark of the VM that holds the disk. Whoever publishes the disk elsewhere at the same
//! time either comes first, and then this is no lending, or is refused, and then waits. A mark that another controller
//! has written over meanwhile is written again as soon as the disk is attached: from there on nobody writes another one,
//! and a publish that finds the disk there, without having attached it, waits before it takes the disk for its own.
//!
//! ExtendVolumeSize takes no target, so each step is decided by a read that comes right before it. Whatever reply is
//! lost, the disk never grows past the wanted size.

use super::anchor;
use super::command::Expand;
use super::error::ControllerError;
use super::kernel::{Detached, Kernel, Outcome, Sent, Tries, no_disk, refused};
use crate::cloud::CallError;
use crate::domain::disk::Disk;
use crate::domain::id::VmName;
use crate::domain::journal::{self, Phase};
use crate::domain::size::{CapacityRange, DiskSize, MAX_GIB, SizeError};
use crate::fleet::Operation;

/// What this job knows of the lending.
#[derive(Debug, Default)]
struct Lending {
    /// Which VM this job has named in the journal.
    named: Option<VmName>,
    /// Where this job has attached the disk.
    anchor: Option<VmName>,
    /// Where it has tried to, with an outcome that is unknown: the call may still arrive.
    attempted: Vec<VmName>,
    /// Whether it has given others, who may be lending or publishing the disk, time to show it.
    doubted: bool,
}

/// Grows the disk until it satisfies the range; answers its true size.
pub(super) async fn expand(kernel: &Kernel, command: &Expand) -> Outcome<DiskSize> {
    let name = &command.disk;
    let mut tries = Tries::new(name);
    let mut lending = Lending::default();
    let mut seen = None;
    loop {
        // The read that saw a step end is as good as another one.
        let disk = match seen.take() {
            Some(disk) => disk,
            None => kernel.settled(name).await?.ok_or_else(|| no_disk(name))?,
        };
        let goal = goal(&disk, command.range)?;
        if disk.size >= goal {
            if give_back(kernel, &disk, &mut lending).await? {
                return Ok(disk.size);
            }
            continue;
        }
        match disk.holder().cloned() {
            Some(vm) => seen = step(kernel, &disk, &vm, goal, &mut tries).await?,
            None => lend(kernel, disk, &mut lending, &mut tries).await?,
        }
    }
}

/// The size at which the work ends, found before the first step.
fn goal(disk: &Disk, range: CapacityRange) -> Outcome<DiskSize> {
    let mut goal = disk.size;
    while goal.bytes() < range.required() {
        goal = goal.next_step();
        if goal.gib() > MAX_GIB {
            return Err(SizeError::TooLarge {
                required: range.required(),
                max: DiskSize::from_gib(MAX_GIB).unwrap_or(disk.size),
            }
            .into());
        }
    }
    match range.limit() {
        Some(limit) if goal.bytes() > limit && goal == disk.size => {
            Err(ControllerError::AboveLimit {
                disk: disk.name.to_string(),
                size: disk.size,
                limit,
            })
        }
        Some(limit) if goal.bytes() > limit => Err(SizeError::NoStep {
            required: range.required(),
            rounded: goal,
            limit,
        }
        .into()),
        _ => Ok(goal),
    }
}

/// One step of 100 GiB, if the read right before it still asks for one. Answers the disk after it, where that was seen.
async fn step(
    kernel: &Kernel,
    disk: &Disk,
    vm: &VmName,
    goal: DiskSize,
    tries: &mut Tries<'_>,
) -> Outcome<Option<Disk>> {
    let name = &disk.name;
    let turn = kernel.turn(vm).await?;
    let paid = kernel.pay(name).await?;
    let now = kernel.find(name).await?.ok_or_else(|| no_disk(name))?;
    if !now.is_settled() || now.holder() != Some(vm) || now.size >= goal || now.size != disk.size {
        return Ok(None);
    }
    kernel.wanted(name)?;
    let sent = kernel.fleet.extend(&turn, paid, name).await;
    match kernel.sort(sent).await {
        Sent::Accepted => {
            let before = now.size;
            kernel
                .wait(name, Operation::Extend, move |disk| {
                    disk.is_none_or(|disk| disk.is_settled() && disk.size > before)
                })
                .await
        }
        Sent::Again(why) => tries.count(why).map(|()| None),
        Sent::Refused(error) => Err(refused(name, error)),
    }
}

/// Attaches a detached disk to an anchor, for the time of its growth.
async fn lend(
    kernel: &Kernel,
    disk: Disk,
    lending: &mut Lending,
    tries: &mut Tries<'_>,
) -> Outcome<()> {
    if disk.phase() == Phase::Foreign {
        return Err(ControllerError::ForeignOffline {
            disk: disk.name.to_string(),
            description: disk.description,
        });
    }
    let name = &disk.name;
    let (vm, _slot) = anchor::in_zone(kernel, &disk.zone, name, &[]).await?;
    let turn = kernel.turn(&vm).await?;
    // The turn may have been long in coming.
    let Some(disk) = kernel.settled(name).await? else {
        return Err(no_disk(name));
    };
    if disk.holder().is_some() {
        return Ok(());
    }
    kernel
        .journal(&disk, journal::lend(&disk.description, &vm))
        .await?;
    lending.named = Some(vm.clone());
    let paid = kernel.pay(name).await?;
    let now = kernel.find(name).await?.ok_or_else(|| no_disk(name))?;
    if !now.is_detached() || !journal::lent_to(&now.description, &vm) {
        return Ok(());
    }
    kernel.wanted(name)?;
    let sent = kernel.fleet.attach(&turn, paid, name, &vm).await;
    match kernel.sort(sent).await {
        Sent::Accepted => {
            lending.anchor = Some(vm.clone());
            let to = vm.clone();
            let there = kernel
                .wait(name, Operation::Attach, move |disk| {
                    disk.is_none_or(|disk| disk.is_attached_to(&to))
                })
                .await?;
            if let Some(disk) = there.filter(Disk::is_stray) {
                let again = journal::lend(&disk.description, &vm);
                kernel.journal(&disk, again).await?;
            }
            Ok(())
        }
        Sent::Again(why) => {
            if why.as_ref().is_some_and(CallError::outcome_unknown) {
                // If the disk is found there, now or after the next entry in the journal, it may be for this call.
                lending.attempted.push(vm.clone());
            }
            tries.count(why)
        }
        Sent::Refused(error) => Err(refused(name, error)),
    }
}

/// Ends a lending: detached, journal `pvc-` with the mark for nobody. `false`: the disk must be looked at again.
async fn give_back(kernel: &Kernel, disk: &Disk, lending: &mut Lending) -> Outcome<bool> {
    if disk.phase() != Phase::Growing {
        return Ok(true);
    }
    if let Some(vm) = disk.holder() {
        if !disk.is_lent() {
            // It was published meanwhile; that call puts the journal right.
            return Ok(true);
        }
        let mine = lending.anchor.as_ref() == Some(vm);
        if !mine && lending.named.as_ref() == Some(vm) && !lending.attempted.contains(vm) {
            // Named here when the disk was detached, attached by another call: it is being published there, or lent by
            // somebody who will end that.
            return Ok(true);
        }
        if !mine && !lending.doubted {
            // Another job's, which may be about to end it; or a publish that has yet to write its journal.
            kernel.doubt().await;
            lending.doubted = true;
            return Ok(false);
        }
        match kernel.detach(&disk.name, vm, None, Disk::is_lent).await? {
            Detached::Free => {}
            // Somebody published it meanwhile: it is theirs now.
            Detached::Kept(_) => return Ok(true),
            Detached::NoDisk => return Err(no_disk(&disk.name)),
        }
    }
    match kernel.find(&disk.name).await? {
        Some(now) if now.phase() == Phase::Growing && now.is_detached() => {
            kernel
                .journal(&now, journal::free(&now.description))
                .await?;
            Ok(true)
        }
        Some(_) => Ok(true),
        None => Err(no_disk(&disk.name)),
    }
}
