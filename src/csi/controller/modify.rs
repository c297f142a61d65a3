//! ControllerModifyVolume: `accountingType`, which the cloud applies from the next month on.

use super::command::Modify;
use super::kernel::{Kernel, Outcome, Sent, Tries, no_disk, refused};

/// Sets the accounting type.
pub(super) async fn modify(kernel: &Kernel, command: &Modify) -> Outcome<()> {
    let name = &command.disk;
    let mut tries = Tries::new(name);
    loop {
        let disk = kernel.find(name).await?.ok_or_else(|| no_disk(name))?;
        let Some(wanted) = command.accounting else {
            return Ok(());
        };
        let next = disk.next_accounting.or(disk.accounting);
        if next == Some(wanted) {
            return Ok(());
        }
        let sent = kernel
            .fleet
            .set_accounting(name, wanted, kernel.until())
            .await;
        match kernel.sort(sent).await {
            Sent::Accepted => return Ok(()),
            Sent::Again(why) => tries.count(why)?,
            Sent::Refused(error) => return Err(refused(name, error)),
        }
    }
}
