//! What the driver asks of Kubernetes itself: little, seldom, and never on the way from a claim to its pod.
//!
//! ```text
//! start:  zone  <- Node's label, when no flag and no pod label told it
//!         taint -> removed from the Node once the CSINode shows the driver
//! drain:  wait  <- this node's VolumeAttachments
//! shell:  audit <- PersistentVolumes and VolumeAttachments;  doctor <- Node and CSINode
//! ```
//!
//! [`Cluster`] is the port; [`api`] is the adapter. Everything works without an API server, except what needs one.

use std::fmt;

use async_trait::async_trait;
use thiserror::Error;

pub mod api;
pub mod drain;
pub mod taint;
pub mod zone;

/// The label that a cloud controller manager puts on a Node (Kubernetes "Well-Known Labels").
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// The taint that keeps pods off a new node until the driver can serve their volumes. Whoever registers the node puts
/// it there (`--register-with-taints` of the kubelet, a node pool's settings); the driver only removes it.
pub const STARTUP_TAINT: &str = "additional-storage.csi.nifcloud.com/agent-not-ready";

/// An answer that did not come, or not as asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KubeError {
    /// No connection, no whole answer, or a server that is too busy: the same may work later.
    #[error("cannot reach the Kubernetes API server for {request}: {reason}")]
    Unreachable {
        /// Method and path.
        request: String,
        /// Why.
        reason: String,
    },
    /// 401 or 403.
    #[error(
        "the Kubernetes API server refuses {request}: {reason}; give the service account this right (see the \
         project's RBAC manifests)"
    )]
    Forbidden {
        /// Method and path.
        request: String,
        /// The server's words.
        reason: String,
    },
    /// The object is not as the patch expects it: somebody else changed it meanwhile.
    #[error("the object changed meanwhile: {request}: {reason}")]
    Conflict {
        /// Method and path.
        request: String,
        /// The server's words.
        reason: String,
    },
    /// Any other answer.
    #[error("unexpected answer of the Kubernetes API server to {request}: {reason}")]
    Unexpected {
        /// Method and path.
        request: String,
        /// What came.
        reason: String,
    },
}

impl KubeError {
    /// Whether the same call may succeed later by itself.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Conflict { .. })
    }
}

/// What the driver reads of a Node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterNode {
    /// Name.
    pub name: String,
    /// The zone's label, when it is set.
    pub zone: Option<String>,
    /// Keys of the taints, in the Node's order.
    pub taints: Vec<String>,
    /// `spec.unschedulable`: cordoned, as `kubectl drain` does first.
    pub cordoned: bool,
    /// Being deleted.
    pub deleting: bool,
    /// The kubelet is shutting the machine down gracefully.
    pub shutting_down: bool,
}

/// What the driver reads of a VolumeAttachment of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The Kubernetes node.
    pub node: String,
    /// The PersistentVolume.
    pub volume: String,
    /// Whether the external attacher has reported it attached.
    pub attached: bool,
}

/// What the driver reads of a PersistentVolume of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersistentVolume {
    /// Name.
    pub name: String,
    /// The volume handle: the disk's name.
    pub handle: String,
    /// `namespace/name` of the claim.
    pub claim: Option<String>,
    /// `Bound`, `Released`, `Available`, `Failed`.
    pub phase: String,
    /// Being deleted.
    pub deleting: bool,
}

/// The cluster, as far as the driver looks at it.
#[async_trait]
pub trait Cluster: Send + Sync + fmt::Debug {
    /// A Node; `None` when there is none.
    ///
    /// # Errors
    /// [`KubeError`].
    async fn node(&self, name: &str) -> Result<Option<ClusterNode>, KubeError>;

    /// Whether the node's CSINode lists this driver: the kubelet has registered it and the scheduler can count.
    ///
    /// # Errors
    /// [`KubeError`].
    async fn shows_driver(&self, node: &str) -> Result<bool, KubeError>;

    /// Removes all taints with `key` from `node`, provided that they are still where `node` says.
    ///
    /// # Errors
    /// [`KubeError::Conflict`] when the Node's taints changed since it was read; read it again.
    async fn remove_taint(&self, node: &ClusterNode, key: &str) -> Result<(), KubeError>;

    /// All VolumeAttachments of this driver.
    ///
    /// # Errors
    /// [`KubeError`].
    async fn attachments(&self) -> Result<Vec<Attachment>, KubeError>;

    /// All PersistentVolumes of this driver.
    ///
    /// # Errors
    /// [`KubeError`].
    async fn volumes(&self) -> Result<Vec<PersistentVolume>, KubeError>;
}

/// Doubling pauses between two looks, from 1 s to 30 s.
pub(crate) fn pause(tries: u32) -> std::time::Duration {
    std::time::Duration::from_secs(2_u64.saturating_pow(tries.min(5)).min(30))
}
