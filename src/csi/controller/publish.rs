//! ControllerPublishVolume.
//!
//! ```text
//! attached there, pvc-       -> its slot
//! attached there, new-       -> journal pvc- -> its slot                      (born on the selected node: no attach)
//! attached elsewhere, new-   -> detach -> as available
//! available                  -> (new-: journal pvc-, lent to nobody) -> attach -> journal pvc- -> its slot
//! lent to an anchor, grw-    -> wait for the end of the growth, else detach -> as available
//! attached, not explained    -> give others time to explain it; then journal pvc- if it is here, else detach
//! attached elsewhere, pvc-   -> refused
//! ```
//!
//! The journal says `pvc-` before the answer, so that no stale CreateVolume takes the disk away from its pod; and it is
//! written only while the disk is attached where it is wanted, so that a late write never makes a lending look like a
//! publication. A growth that begins at the same time may write `grw-` over it, but names its own anchor with it: on any
//! other VM the disk still counts as published, and the read after the attachment puts the journal right. That read comes
//! when such an entry, which rests on a read of the detached disk, is no longer under way ([`ControllerConfig::flight`]).
//! The attachments of a real cloud take longer than that, so that it costs nothing.
//!
//! [`ControllerConfig::flight`]: super::ControllerConfig::flight

use std::collections::HashMap;

use tokio::time::Instant;

use super::command::Publish;
use super::error::ControllerError;
use super::kernel::{Detached, Kernel, Outcome, Sent, Tries, no_disk, refused, unfit};
use crate::cloud::{CallError, Rejection};
use crate::csi::node::{DEVICE_PATH, SIZE_GIB};
use crate::domain::disk::{Disk, Vm};
use crate::domain::id::{DiskName, VmName};
use crate::domain::journal::{self, Phase};
use crate::fleet::{FleetError, Operation};

/// Reads of the slot before giving up: the mapping may lag behind the attachment.
const SLOT_READS: u32 = 4;

/// Attaches the disk to the VM; answers the publish context.
pub(super) async fn publish(
    kernel: &Kernel,
    command: &Publish,
) -> Outcome<HashMap<String, String>> {
    let (name, vm) = (&command.disk, &command.vm);
    let mut tries = Tries::new(name);
    // Whether it was this call that attached the disk, so that it is not lent there whatever the journal says.
    let mut attached = false;
    let mut patience = Patience {
        growth: Some(Instant::now() + kernel.config.lend_patience),
        doubted: false,
    };
    // Enough to write its journal; whether the disk is still there shows the read of its slot afterwards.
    let mut made = kernel.fleet.just_made(name);
    loop {
        // From the start, so that all who publish on this VM at once share one read of its slots; but not during
        // anything slow, which the others would wait for.
        let mut expected = Some(kernel.fleet.expect_slot(vm));
        let mut disk = look(kernel, name, vm, made.take()).await?;
        if !disk.is_attached_to(vm) || disk.is_lent() || disk.is_stray() {
            expected = None;
        }
        if !disk.is_settled() {
            disk = kernel.settle(&disk).await?.ok_or_else(|| no_disk(name))?;
        }
        let phase = disk.phase();
        attached &= disk.holder() == Some(vm);
        let lent = disk.is_lent() && !attached;
        if !attached && patience.waits(kernel, &disk).await? {
            continue;
        }
        match disk.holder() {
            Some(holder) if holder == vm && !lent => {
                expected.get_or_insert_with(|| kernel.fleet.expect_slot(vm));
                if phase != Phase::Published {
                    kernel.journal(&disk, publish_text(&disk)).await?;
                }
                if phase == Phase::Growing || phase == Phase::Free && !attached {
                    // Somebody wrote that while this disk was on its way here: is it still here?
                    continue;
                }
                return context(kernel, &disk, vm).await;
            }
            Some(holder) if unused(&disk) => {
                // Before the disk leaves a place where it can stay.
                fits(&disk, vm, kernel.vm(vm).await?.as_ref())?;
                let detached = kernel.detach(name, holder, None, unused).await?;
                if let Detached::Kept(disk) = detached {
                    return Err(elsewhere(&disk, vm));
                }
            }
            Some(_) => return Err(elsewhere(&disk, vm)),
            None => {
                if disk.would_be_ours_on(vm) {
                    let unlent = journal::free(&disk.description);
                    kernel.journal(&disk, unlent).await?;
                }
                attached = attach(kernel, &disk, vm, &mut tries).await?;
            }
        }
    }
}

/// The disk as it is now; where it was made a moment ago, on this very VM, as it was then.
async fn look(kernel: &Kernel, name: &DiskName, vm: &VmName, made: Option<Disk>) -> Outcome<Disk> {
    match made {
        Some(disk) if disk.is_attached_to(vm) && disk.phase() == Phase::New => Ok(disk),
        _ => kernel.find(name).await?.ok_or_else(|| no_disk(name)),
    }
}

/// How long others get to finish what they do with the disk.
struct Patience {
    growth: Option<Instant>,
    doubted: bool,
}

impl Patience {
    /// Waits if somebody else may be at work, and it has not been waited for; the disk must then be read again.
    async fn waits(&mut self, kernel: &Kernel, disk: &Disk) -> Outcome<bool> {
        let growing = disk.phase() == Phase::Growing && (disk.is_lent() || disk.holder().is_none());
        if growing && let Some(until) = self.growth.take() {
            grown(kernel, disk, until).await?;
            return Ok(true);
        }
        if disk.is_stray() && !self.doubted {
            // A growth that has yet to repeat its mark, or another publish: what lasts belongs to nobody.
            self.doubted = true;
            kernel.doubt().await;
            return Ok(true);
        }
        Ok(false)
    }
}

/// Whether the attachment that there is may end for one on another VM.
fn unused(disk: &Disk) -> bool {
    disk.is_ours() || disk.is_stray()
}

fn publish_text(disk: &Disk) -> Option<String> {
    journal::publish(&disk.description)
}

/// One AttachVolume; the caller reads again whatever came of it. Answers whether it was accepted.
async fn attach(kernel: &Kernel, disk: &Disk, vm: &VmName, tries: &mut Tries<'_>) -> Outcome<bool> {
    let name = &disk.name;
    let turn = kernel.turn(vm).await?;
    let paid = kernel.pay(name).await?;
    let now = kernel.find(name).await?.ok_or_else(|| no_disk(name))?;
    if !now.is_detached() || now.would_be_ours_on(vm) {
        return Ok(false);
    }
    kernel.wanted(name)?;
    let sent = kernel.fleet.attach(&turn, paid, name, vm).await;
    match kernel.sort(sent).await {
        Sent::Accepted => {
            let (to, late) = (vm.clone(), Instant::now() + kernel.config.flight);
            kernel
                .wait(name, Operation::Attach, move |disk| {
                    disk.is_none_or(|disk| disk.is_attached_to(&to))
                })
                .await?;
            drop(turn);
            tokio::time::sleep_until(late).await;
            Ok(true)
        }
        Sent::Again(why) => {
            drop(turn);
            if why.as_ref().and_then(CallError::rejection) == Some(Rejection::Server) {
                // The API says so of a VM that is full, too, as far as is known; but also of what it has carried out.
                let found = kernel.vm(vm).await?;
                if kernel
                    .find(name)
                    .await?
                    .is_some_and(|disk| disk.is_detached())
                {
                    fits(disk, vm, found.as_ref())?;
                }
            }
            tries.count(why)?;
            Ok(false)
        }
        Sent::Refused(error) => {
            drop(turn);
            let found = kernel.vm(vm).await?;
            if kernel
                .find(name)
                .await?
                .is_some_and(|disk| disk.holder() == Some(vm))
            {
                // An earlier call, whose outcome was unknown.
                return Ok(false);
            }
            fits(disk, vm, found.as_ref())?;
            Err(refused(name, error))
        }
    }
}

/// Whether the VM can take the disk.
fn fits(disk: &Disk, name: &VmName, vm: Option<&Vm>) -> Outcome<()> {
    let Some(found) = vm else {
        return Err(ControllerError::NoVm {
            vm: name.to_string(),
        });
    };
    if found.zone != disk.zone {
        return Err(ControllerError::OtherZone {
            disk: disk.name.to_string(),
            zone: disk.zone.to_string(),
            vm: name.to_string(),
            vm_zone: found.zone.to_string(),
        });
    }
    unfit(name, vm, &disk.name).map_or(Ok(()), Err)
}

/// Another controller may be growing the disk: let it finish. If it does not, it is dead and the disk is taken over.
async fn grown(kernel: &Kernel, disk: &Disk, until: Instant) -> Outcome<()> {
    let over = |disk: Option<&Disk>| {
        disk.is_none_or(|disk| {
            disk.phase() != Phase::Growing || disk.holder().is_some() && !disk.is_lent()
        })
    };
    let until = until.min(kernel.deadline);
    let waited = kernel
        .fleet
        .wait(&disk.name, Operation::Extend, until, over)
        .await;
    match waited {
        Ok(_) | Err(FleetError::Deadline { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What the node needs: the slot, and the size that the disk must have at least.
async fn context(kernel: &Kernel, disk: &Disk, vm: &VmName) -> Outcome<HashMap<String, String>> {
    for _ in 0..SLOT_READS {
        if let Some(slot) = kernel.fleet.slot(vm, &disk.name).await? {
            return Ok(HashMap::from([
                (DEVICE_PATH.to_owned(), slot.to_string()),
                (SIZE_GIB.to_owned(), disk.size.gib().to_string()),
            ]));
        }
        kernel.pause().await;
    }
    Err(ControllerError::NoSlot {
        disk: disk.name.to_string(),
        vm: vm.to_string(),
    })
}

fn elsewhere(disk: &Disk, wanted: &VmName) -> ControllerError {
    ControllerError::AttachedElsewhere {
        disk: disk.name.to_string(),
        holder: disk.holder().map(ToString::to_string).unwrap_or_default(),
        wanted: wanted.to_string(),
    }
}
