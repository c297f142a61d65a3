//! CreateVolume.
//!
//! ```text
//! selected node:  CreateVolume there ------------------------> attached, phase new-, stays
//! no node:        choose a VM, CreateVolume there -> detach --> available, phase new-
//! refused, lost:  read by name: exists -> adopt it; absent -> another try, or the refusal is final
//! ```
//!
//! The name makes the call idempotent on the server, so nothing is read first; a disk that exists is found by the
//! refusal. A final error is given only after a read has proved that no disk is left behind.

use super::anchor;
use super::command::Create;
use super::error::ControllerError;
use super::kernel::{Detached, Kernel, Outcome, Sent, TRIES, unfit};
use crate::cloud::{CallError, Rejection};
use crate::domain::disk::{Disk, NewDisk};
use crate::domain::id::VmName;
use crate::domain::journal::{Phase, describe};
use crate::fleet::{FleetError, Operation, Turn};

/// VMs that are tried when one after the other refuses.
const ANCHORS: usize = 8;

enum Attempt {
    /// The disk was made and is at rest; the turn of its VM is still held.
    Made(Disk, Turn),
    /// The disk may or may not exist.
    Unclear(Option<CallError>),
    /// This VM will not do, or no VM at all.
    Refused(Option<VmName>, ControllerError),
}

/// Makes the disk, or finds the one that an earlier try made.
pub(super) async fn create(kernel: &Kernel, command: &Create) -> Outcome<Disk> {
    let mut shunned = Vec::new();
    let mut doubts = 0;
    loop {
        let attempt = attempt(kernel, command, &shunned).await;
        let refusal = match attempt.map_err(|error| not_final(command, error))? {
            Attempt::Made(disk, turn) => return adopt(kernel, command, disk, Some(turn)).await,
            Attempt::Unclear(last) => {
                doubts += u32::from(last.is_some());
                Err(last)
            }
            Attempt::Refused(vm, why) => Ok((vm, why)),
        };
        let found = kernel.settled(&command.disk).await;
        if let Some(disk) = found.map_err(|error| not_final(command, error))? {
            return adopt(kernel, command, disk, None).await;
        }
        match refusal {
            Ok((Some(vm), _)) if command.selected().is_none() && shunned.len() + 1 < ANCHORS => {
                shunned.push(vm);
            }
            // A lost try may still arrive at the cloud: nothing is certain before the next call of this RPC.
            Ok((_, why)) if doubts > 0 => return Err(may_exist(command, why.to_string())),
            Ok((_, why)) => return Err(why),
            Err(Some(last)) if doubts >= TRIES => {
                return Err(may_exist(command, last.to_string()));
            }
            Err(_) => {}
        }
    }
}

/// One CreateVolume call on one VM.
async fn attempt(kernel: &Kernel, command: &Create, shunned: &[VmName]) -> Outcome<Attempt> {
    let (anchor, _slot) = match command.selected() {
        Some(vm) => (vm.clone(), None),
        None => match anchor::choose(kernel, &command.places, &command.disk, shunned).await {
            Ok((vm, slot)) => (vm, Some(slot)),
            Err(why) if why.is_final() => return Ok(Attempt::Refused(None, why)),
            Err(why) => return Err(why),
        },
    };
    let turn = kernel.turn(&anchor).await?;
    let new = NewDisk {
        name: command.disk.clone(),
        size: command.size,
        type_code: command.class.disk_type.choose(pick(command)).to_owned(),
        accounting: command.accounting,
        anchor: anchor.clone(),
        description: describe(Phase::New, &command.csi_name),
    };
    let answer = kernel.fleet.create(&turn, &new, kernel.deadline).await;
    if let Err(error @ FleetError::Deadline { .. }) = answer {
        return Err(error.into());
    }
    match kernel.sort(answer).await {
        Sent::Accepted => {
            let made = kernel
                .wait(&command.disk, Operation::Create, |disk| {
                    disk.is_some_and(Disk::is_settled)
                })
                .await?;
            Ok(made.map_or(Attempt::Unclear(None), |disk| Attempt::Made(disk, turn)))
        }
        Sent::Again(error) => {
            Ok(Attempt::Unclear(error.filter(|e| {
                e.rejection() != Some(Rejection::DuplicateName)
            })))
        }
        Sent::Refused(error) if error.rejection() == Some(Rejection::Auth) => {
            Err(FleetError::Call(error).into())
        }
        Sent::Refused(error) => {
            drop(turn);
            let vm = kernel.vm(&anchor).await?;
            let why = unfit(&anchor, vm.as_ref(), &command.disk);
            let by_vm = why.is_some().then(|| anchor.clone());
            Ok(Attempt::Refused(
                by_vm,
                why.unwrap_or_else(|| super::kernel::refused(&command.disk, error)),
            ))
        }
    }
}

/// The storage group of an unsuffixed type: the same one in every try.
fn pick(command: &Create) -> usize {
    command.disk.as_str().bytes().map(usize::from).sum()
}

/// Checks that a disk of the name is the one that is asked for, and brings it to where CreateVolume leaves disks.
async fn adopt(kernel: &Kernel, command: &Create, disk: Disk, turn: Option<Turn>) -> Outcome<Disk> {
    check(command, &disk)?;
    let born_here = disk.phase() == Phase::New && command.selected().is_none();
    let Some(vm) = disk.holder().filter(|_| born_here).cloned() else {
        return Ok(disk);
    };
    // Only the attachment of its birth may end here; `pvc-` belongs to Unpublish.
    let birth = |disk: &Disk| disk.phase() == Phase::New;
    let detached = kernel.detach(&disk.name, &vm, turn, birth).await;
    match detached.map_err(|error| not_final(command, error))? {
        Detached::Free | Detached::Kept(_) => Ok(disk),
        Detached::NoDisk => Err(ControllerError::Moved {
            disk: disk.name.to_string(),
            what: "it was deleted".to_owned(),
        }),
    }
}

fn check(command: &Create, disk: &Disk) -> Outcome<()> {
    let different = |what, found: String, asked: String| {
        Err(ControllerError::Different {
            disk: disk.name.to_string(),
            what,
            found,
            asked,
        })
    };
    if disk.phase() == Phase::Foreign {
        return Err(ControllerError::NotOurs {
            disk: disk.name.to_string(),
            description: disk.description.clone(),
        });
    }
    if !disk.size.fits(command.range) {
        return different(
            "size",
            disk.size.to_string(),
            format!("{:?}", command.range),
        );
    }
    if !command.class.disk_type.matches(&disk.disk_type) {
        let asked = format!("DiskType {}", command.class.disk_type.codes.join(" or "));
        return different("type", disk.disk_type.clone(), asked);
    }
    let wanted = Some(command.accounting);
    let unknown = disk.accounting.is_none() && disk.next_accounting.is_none();
    if disk.phase() == Phase::New
        && !unknown
        && disk.accounting != wanted
        && disk.next_accounting != wanted
    {
        let asked = format!("{:?}", command.accounting);
        return different("accountingType", format!("{:?}", disk.accounting), asked);
    }
    let zones = command.places.zones();
    if !zones.is_empty() && !zones.contains(&&disk.zone) {
        let asked: Vec<&str> = zones.iter().take(8).map(|zone| zone.as_str()).collect();
        return different("zone", disk.zone.to_string(), asked.join(" or "));
    }
    Ok(())
}

/// An error of a call says nothing about whether the disk exists.
fn not_final(command: &Create, error: ControllerError) -> ControllerError {
    if error.is_final() {
        may_exist(command, super::super::error::chain(&error))
    } else {
        error
    }
}

fn may_exist(command: &Create, reason: String) -> ControllerError {
    ControllerError::MayExist {
        disk: command.disk.to_string(),
        reason,
    }
}
