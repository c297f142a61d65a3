//! DeleteVolume.

use super::error::ControllerError;
use super::kernel::{Detached, Kernel, Outcome, Sent, Tries, refused};
use crate::domain::disk::Disk;
use crate::domain::id::DiskName;
use crate::fleet::Operation;

/// Deletes the disk and waits until the cloud does not know it any more. Gone already is success.
pub(super) async fn delete(kernel: &Kernel, name: &DiskName) -> Outcome<()> {
    let mut tries = Tries::new(name);
    let mut doubted = false;
    // Nobody deletes what is published; what is left without an explanation goes with the disk.
    let unused = |disk: &Disk| disk.is_ours() || disk.is_stray();
    loop {
        let Some(disk) = kernel.settled(name).await? else {
            return Ok(());
        };
        if disk.is_stray() && !doubted {
            doubted = true;
            kernel.doubt().await;
            continue;
        }
        if let Some(vm) = disk.holder().cloned() {
            match kernel.detach(name, &vm, None, unused).await? {
                Detached::NoDisk => return Ok(()),
                Detached::Free => {}
                Detached::Kept(disk) => return Err(in_use(&disk)),
            }
        }
        let sent = kernel.fleet.delete(name, kernel.until()).await;
        match kernel.sort(sent).await {
            Sent::Accepted => {
                kernel
                    .wait(name, Operation::Delete, |disk| disk.is_none())
                    .await?;
                return Ok(());
            }
            Sent::Again(why) => tries.count(why)?,
            Sent::Refused(error) => match kernel.settled(name).await? {
                // Lent in between by somebody who is growing it.
                Some(disk) if unused(&disk) => tries.count(Some(error))?,
                Some(disk) if disk.holder().is_some() => return Err(in_use(&disk)),
                Some(_) => return Err(refused(name, error)),
                None => return Ok(()),
            },
        }
    }
}

fn in_use(disk: &Disk) -> ControllerError {
    ControllerError::InUse {
        disk: disk.name.to_string(),
        holder: disk.holder().map(ToString::to_string).unwrap_or_default(),
    }
}
