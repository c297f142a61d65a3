//! ControllerExpandVolume.
//!
//! ```text
//! attached:  read -> smaller? -> ExtendVolumeSize (+100) -> wait -> read ...
//! detached:  journal grw- -> attach to an anchor -> as above -> detach -> journal pvc-
//! ```
//!
//! ExtendVolumeSize takes no target, so each step is decided by a read that comes right before it. Whatever reply is
//! lost, the disk never grows past the wanted size.

use super::anchor;
use super::command::Expand;
use super::error::ControllerError;
use super::kernel::{Detached, Kernel, Outcome, Sent, Tries, no_disk, refused};
use crate::domain::disk::Disk;
use crate::domain::id::VmName;
use crate::domain::journal::Phase;
use crate::domain::size::{CapacityRange, DiskSize, MAX_GIB, SizeError};
use crate::fleet::Operation;

/// Grows the disk until it satisfies the range; answers its true size.
pub(super) async fn expand(kernel: &Kernel, command: &Expand) -> Outcome<DiskSize> {
    let name = &command.disk;
    let mut tries = Tries::new(name);
    loop {
        let disk = kernel.settled(name).await?.ok_or_else(|| no_disk(name))?;
        let goal = goal(&disk, command.range)?;
        if disk.size >= goal {
            give_back(kernel, &disk).await?;
            return Ok(disk.size);
        }
        match disk.holder().cloned() {
            Some(vm) => step(kernel, &disk, &vm, goal, &mut tries).await?,
            None => lend(kernel, disk, &mut tries).await?,
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

/// One step of 100 GiB, if the read right before it still asks for one.
async fn step(
    kernel: &Kernel,
    disk: &Disk,
    vm: &VmName,
    goal: DiskSize,
    tries: &mut Tries<'_>,
) -> Outcome<()> {
    let name = &disk.name;
    let turn = kernel.turn(vm).await?;
    let paid = kernel.pay(name).await?;
    let now = kernel.find(name).await?.ok_or_else(|| no_disk(name))?;
    if !now.is_settled() || now.holder() != Some(vm) || now.size >= goal || now.size != disk.size {
        return Ok(());
    }
    let sent = kernel.fleet.extend(&turn, paid, name).await;
    match kernel.sort(sent).await {
        Sent::Accepted => {
            let before = now.size;
            kernel
                .wait(name, Operation::Extend, move |disk| {
                    disk.is_none_or(|disk| disk.is_settled() && disk.size > before)
                })
                .await?;
            Ok(())
        }
        Sent::Again(why) => tries.count(why),
        Sent::Refused(error) => Err(refused(name, error)),
    }
}

/// Attaches a detached disk to an anchor, for the time of its growth.
async fn lend(kernel: &Kernel, disk: Disk, tries: &mut Tries<'_>) -> Outcome<()> {
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
    kernel.journal(&disk, Phase::Growing).await?;
    let sent = kernel.fleet.attach(&turn, name, &vm, kernel.deadline).await;
    match kernel.sort(sent).await {
        Sent::Accepted => {
            kernel
                .wait(name, Operation::Attach, move |disk| {
                    disk.is_none_or(|disk| disk.is_attached_to(&vm))
                })
                .await?;
            Ok(())
        }
        Sent::Again(why) => tries.count(why),
        Sent::Refused(error) => Err(refused(name, error)),
    }
}

/// Ends a lending: detached, journal `pvc-`.
async fn give_back(kernel: &Kernel, disk: &Disk) -> Outcome<()> {
    if disk.phase() != Phase::Growing {
        return Ok(());
    }
    if let Some(vm) = disk.holder() {
        let lent = |disk: &Disk| disk.phase() == Phase::Growing;
        match kernel.detach(&disk.name, vm, None, lent).await? {
            Detached::Free => {}
            // Somebody published it meanwhile: it is theirs now.
            Detached::Kept(_) => return Ok(()),
            Detached::NoDisk => return Err(no_disk(&disk.name)),
        }
    }
    match kernel.find(&disk.name).await? {
        Some(now) if now.phase() == Phase::Growing => kernel.journal(&now, Phase::Published).await,
        Some(_) => Ok(()),
        None => Err(no_disk(&disk.name)),
    }
}
