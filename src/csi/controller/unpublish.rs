//! ControllerUnpublishVolume.

use super::command::Unpublish;
use super::kernel::{Kernel, Outcome};
use crate::domain::disk::Disk;

/// Detaches the disk from the VM. A disk or VM that does not exist, and a disk that is not attached there, are success;
/// an API that cannot be read is not.
pub(super) async fn unpublish(kernel: &Kernel, command: &Unpublish) -> Outcome<()> {
    let Some(disk) = kernel.find(&command.disk).await? else {
        return Ok(());
    };
    let Some(holder) = disk.holder().cloned() else {
        return Ok(());
    };
    if command.vm.as_ref().is_some_and(|vm| *vm != holder) {
        return Ok(());
    }
    // A disk that is lent to an anchor to be grown is not published there.
    let published = |disk: &Disk| !disk.is_lent();
    kernel.detach(&disk.name, &holder, None, published).await?;
    Ok(())
}
