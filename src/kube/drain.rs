//! Leaving a node in order: the node plugin stays until its node's volumes are unmounted and detached.
//!
//! If the plugin of a drained node ended first, nobody could unmount, the VolumeAttachments would stay, and the pods'
//! next nodes would wait for the 6 minutes after which Kubernetes detaches by force. Rolling the DaemonSet is no drain:
//! volumes stay mounted while the plugin is away, and the next one goes on with them.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::{Cluster, ClusterNode, KubeError};

/// How often a draining node is looked at.
const PERIOD: Duration = Duration::from_secs(2);
/// How long a server that never answered is waited for: it must not hold up a roll of the DaemonSet.
const SILENT: Duration = Duration::from_secs(10);
/// Taints by which others than `kubectl drain` announce that a node goes: cordon (set by the node controller), the
/// cluster autoscaler, Karpenter, and the cloud controller manager's "shut down".
const LEAVING: [&str; 4] = [
    "node.kubernetes.io/unschedulable",
    "ToBeDeletedByClusterAutoscaler",
    "karpenter.sh/disrupted",
    "node.cloudprovider.kubernetes.io/shutdown",
];

/// How the wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drained {
    /// The node is not leaving: a roll or a restart of the plugin.
    NotLeaving,
    /// All VolumeAttachments of the node are gone (how many there were at first).
    Gone(usize),
    /// The limit passed first; these volumes are still attached.
    Late(Vec<String>),
}

/// Whether somebody takes this node out of service.
#[must_use]
pub fn is_leaving(node: &ClusterNode) -> bool {
    let tainted = node
        .taints
        .iter()
        .any(|key| LEAVING.contains(&key.as_str()));
    node.cordoned || node.deleting || node.shutting_down || tainted
}

/// Waits until the leaving node `name` has no VolumeAttachment of this driver, at most until `limit` has passed. A Node
/// object that is gone already leaves, too.
///
/// # Errors
/// [`KubeError`] that waiting does not mend, or the last one when nothing was ever learned within the limit.
pub async fn wait(
    cluster: &dyn Cluster,
    name: &str,
    limit: Duration,
) -> Result<Drained, KubeError> {
    let begin = Instant::now();
    let (mut end, mut known) = (begin + limit.min(SILENT), false);
    let mut first = None;
    let mut left = Vec::new();
    loop {
        let error = match timeout_at(end, look(cluster, name)).await {
            Ok(Ok(None)) => return Ok(Drained::NotLeaving),
            Ok(Ok(Some(volumes))) if volumes.is_empty() => {
                return Ok(Drained::Gone(first.unwrap_or(0)));
            }
            Ok(Ok(Some(volumes))) => {
                if volumes != left {
                    tracing::info!(node = name, ?volumes, "waiting for volumes to be detached");
                }
                first.get_or_insert(volumes.len());
                (left, known, end) = (volumes, true, begin + limit);
                None
            }
            Ok(Err(error)) if error.is_transient() => {
                tracing::warn!(%error, "looking again");
                Some(error)
            }
            Ok(Err(error)) => return Err(error),
            Err(_elapsed) => Some(KubeError::Unreachable {
                request: format!("Node {name}"),
                reason: "no answer in time".to_owned(),
            }),
        };
        if Instant::now() + PERIOD > end {
            return match error.filter(|_| !known) {
                Some(error) => Err(error),
                None => Ok(Drained::Late(left)),
            };
        }
        sleep(PERIOD).await;
    }
}

/// Volumes that are attached to the node; `None` when it is not leaving. Asked anew each time: an uncordoned node ends
/// the wait.
async fn look(cluster: &dyn Cluster, name: &str) -> Result<Option<Vec<String>>, KubeError> {
    let leaving = cluster
        .node(name)
        .await?
        .is_none_or(|node| is_leaving(&node));
    if !leaving {
        return Ok(None);
    }
    let attachments = cluster.attachments().await?;
    let here = attachments.into_iter().filter(|one| one.node == name);
    Ok(Some(here.map(|one| one.volume).collect()))
}
