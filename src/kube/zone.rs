//! The node's zone by its Node object: where the pod was told nothing, the cloud controller manager's label decides.

use crate::domain::topology::Zone;

use super::{Cluster, KubeError, ZONE_LABEL, pause};

/// Waits until the Node `name` carries a zone. A new node is registered before the cloud controller manager has looked
/// at it, so the label may come later; a driver that registered without a zone would never be asked again.
///
/// Ends only with the zone or with an error that waiting does not mend; the caller stops it by dropping it.
///
/// # Errors
/// [`KubeError::Forbidden`], [`KubeError::Unexpected`].
pub async fn wait_for_zone(cluster: &dyn Cluster, name: &str) -> Result<Zone, KubeError> {
    let mut tries = 0;
    loop {
        let missing = match cluster.node(name).await {
            Ok(Some(node)) => match node.zone.as_deref().and_then(Zone::parse) {
                Some(zone) => {
                    tracing::info!(node = name, %zone, "the Node object tells the zone");
                    return Ok(zone);
                }
                None => format!(
                    "Node {name} has no label {ZONE_LABEL} yet: the cloud controller manager sets it; without one, label \
                     the Node or set --zone"
                ),
            },
            Ok(None) => {
                format!("there is no Node {name}: NODE_NAME must be the Kubernetes node's name")
            }
            Err(error) if error.is_transient() => error.to_string(),
            Err(error) => return Err(error),
        };
        let pause = pause(tries);
        tracing::warn!(seconds = pause.as_secs(), "waiting for the zone: {missing}");
        tokio::time::sleep(pause).await;
        tries += 1;
    }
}
