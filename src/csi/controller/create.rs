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
use crate::csi::error::chain;
use crate::domain::disk::{Disk, NewDisk};
use crate::domain::id::VmName;
use crate::domain::journal::{Phase, describe};
use crate::fleet::{FleetError, Operation, Turn};

/// VMs that are tried when one after the other refuses.
const ANCHORS: usize = 8;

enum Attempt {
    /// The disk was made and is at rest; the turn of its VM is still held.
    Made(Disk, Turn),
    /// A disk of the name exists.
    Taken,
    /// The disk may or may not have been made on this VM.
    Unclear(VmName, CallError),
    /// This VM will not do (another may), or no VM will.
    Refused(Option<VmName>, ControllerError),
}

/// Makes the disk, or finds the one that an earlier try made.
pub(super) async fn create(kernel: &Kernel, command: &Create) -> Outcome<Disk> {
    let mut shunned = Vec::new();
    let (mut doubts, mut ghosts) = (0, 0);
    loop {
        let tried = attempt(kernel, command, &shunned).await;
        let tried = tried.map_err(|error| not_final(command, error))?;
        if let Attempt::Made(disk, turn) = tried {
            return adopt(kernel, command, disk, Some(turn)).await;
        }
        let found = kernel.settled(&command.disk).await;
        if let Some(disk) = found.map_err(|error| not_final(command, error))? {
            return adopt(kernel, command, disk, None).await;
        }
        // From here on it is proven that the disk does not exist.
        let (vm, why) = match tried {
            Attempt::Made(..) | Attempt::Taken => {
                ghosts += 1;
                if ghosts < TRIES {
                    continue;
                }
                let reason = "its name is taken, but no disk of that name can be read";
                return Err(may_exist(command, reason.to_owned()));
            }
            Attempt::Refused(vm, why) => (vm, why),
            Attempt::Unclear(vm, error) => {
                doubts += 1;
                match hindered(kernel, command, &vm, &error).await? {
                    Some(why) => (Some(vm), why),
                    None if doubts < TRIES => continue,
                    None => return Err(may_exist(command, error.to_string())),
                }
            }
        };
        match vm {
            Some(vm) if command.selected().is_none() && shunned.len() + 1 < ANCHORS => {
                shunned.push(vm);
            }
            Some(_) if command.selected().is_some() => return Err(why),
            // A lost call may still arrive, unless its VM cannot take the disk.
            _ if doubts > 0 => {
                return Err(may_exist(command, chain(&why)));
            }
            _ => return Err(why),
        }
    }
}

/// Why the VM of a failed call cannot hold the disk, so that the call has not made it. The code for a full VM is not
/// known; it may be a `Server.*` one, which alone would mean that the outcome is unknown.
async fn hindered(
    kernel: &Kernel,
    command: &Create,
    vm: &VmName,
    error: &CallError,
) -> Outcome<Option<ControllerError>> {
    if error.rejection() != Some(Rejection::Server) {
        return Ok(None);
    }
    let found = kernel.vm(vm).await;
    let found = found.map_err(|error| not_final(command, error))?;
    Ok(unfit(vm, found.as_ref(), &command.disk))
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
    let answer = kernel.fleet.create(&turn, &new, kernel.until()).await;
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
            Ok(made.map_or(Attempt::Taken, |disk| Attempt::Made(disk, turn)))
        }
        Sent::Again(Some(error)) if error.rejection() != Some(Rejection::DuplicateName) => {
            Ok(Attempt::Unclear(anchor, error))
        }
        Sent::Again(_) => Ok(Attempt::Taken),
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
        return different("size", disk.size.to_string(), command.range.to_string());
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
        let found = disk
            .accounting
            .map_or_else(|| "unknown".to_owned(), |accounting| accounting.to_string());
        return different("accountingType", found, command.accounting.to_string());
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
        may_exist(command, chain(&error))
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
