//! The startup taint: a new node takes pods with volumes only when the driver is ready for them.
//!
//! Without it the scheduler may choose a node whose CSINode does not show the driver yet. It then knows no limit and no
//! topology of that node, and the pod hangs in ContainerCreating.

use super::{Cluster, KubeError, STARTUP_TAINT, pause};

/// What became of the taint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taint {
    /// It was there and is removed.
    Removed,
    /// There was none.
    Absent,
}

/// Waits until the CSINode of `name` shows the driver, then removes the startup taint from the Node.
///
/// Conflicts and an unreachable server are waited out; the caller stops it by dropping it.
///
/// # Errors
/// [`KubeError::Forbidden`], [`KubeError::Unexpected`].
pub async fn remove_when_registered(cluster: &dyn Cluster, name: &str) -> Result<Taint, KubeError> {
    let mut tries = 0;
    loop {
        match step(cluster, name).await {
            Ok(Some(taint)) => return Ok(taint),
            Ok(None) => tracing::debug!(node = name, "the CSINode does not show the driver yet"),
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, "the startup taint is looked at again later");
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(pause(tries)).await;
        tries += 1;
    }
}

/// One look. The Node comes first: most nodes have no taint, and nothing is waited for then.
async fn step(cluster: &dyn Cluster, name: &str) -> Result<Option<Taint>, KubeError> {
    let Some(node) = cluster.node(name).await? else {
        return Ok(None);
    };
    if !node.taints.iter().any(|key| key == STARTUP_TAINT) {
        return Ok(Some(Taint::Absent));
    }
    if !cluster.shows_driver(name).await? {
        return Ok(None);
    }
    cluster.remove_taint(&node, STARTUP_TAINT).await?;
    Ok(Some(Taint::Removed))
}
