//! NodeUnpublishVolume: takes a volume away from a pod.

use super::command::Clear;
use super::error::NodeError;
use super::kernel::Kernel;

/// Unmounts whatever is at the target, which belongs to the CO, and removes it. Nothing there is success.
pub(super) fn unpublish(kernel: &Kernel, command: &Clear) -> Result<(), NodeError> {
    if kernel.host.mount_at(&command.path)?.is_some() {
        kernel.unmount_verified(&command.disk, &command.path)?;
    }
    Ok(kernel.host.remove_target(&command.path)?)
}
