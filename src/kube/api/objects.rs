//! The fields that the driver reads of Kubernetes objects; everything else in them is skipped.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::kube::{Attachment, ClusterNode, PersistentVolume, ZONE_LABEL};

/// What the kubelet says of itself in the condition `Ready` while it shuts the machine down
/// (`pkg/kubelet/nodestatus`, `ReadyCondition`).
const SHUTTING_DOWN: &str = "node is shutting down";

#[derive(Debug, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Metadata {
    name: String,
    labels: BTreeMap<String, String>,
    deletion_timestamp: Option<String>,
    /// `continue` of a list.
    #[serde(rename = "continue")]
    pub(super) next: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct List<T> {
    #[serde(default)]
    pub(super) metadata: Metadata,
    pub(super) items: Vec<T>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Node {
    metadata: Metadata,
    #[serde(default)]
    spec: NodeSpec,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct NodeSpec {
    unschedulable: bool,
    taints: Vec<Taint>,
}

#[derive(Debug, Deserialize)]
struct Taint {
    key: String,
}

#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct NodeStatus {
    conditions: Vec<Condition>,
}

#[derive(Debug, Deserialize)]
struct Condition {
    r#type: String,
    #[serde(default)]
    message: String,
}

impl From<Node> for ClusterNode {
    fn from(mut node: Node) -> Self {
        let mut conditions = node.status.conditions.iter();
        Self {
            zone: node.metadata.labels.remove(ZONE_LABEL),
            name: node.metadata.name,
            taints: node
                .spec
                .taints
                .into_iter()
                .map(|taint| taint.key)
                .collect(),
            cordoned: node.spec.unschedulable,
            deleting: node.metadata.deletion_timestamp.is_some(),
            shutting_down: conditions
                .any(|one| one.r#type == "Ready" && one.message.contains(SHUTTING_DOWN)),
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct CsiNode {
    #[serde(default)]
    spec: CsiNodeSpec,
}

#[derive(Debug, Deserialize, Default)]
struct CsiNodeSpec {
    // Null in a CSINode without drivers.
    drivers: Option<Vec<CsiNodeDriver>>,
}

#[derive(Debug, Deserialize)]
struct CsiNodeDriver {
    name: String,
}

impl CsiNode {
    pub(super) fn has(&self, driver: &str) -> bool {
        self.spec
            .drivers
            .iter()
            .flatten()
            .any(|one| one.name == driver)
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct VolumeAttachment {
    pub(super) spec: AttachmentSpec,
    #[serde(default)]
    status: AttachmentStatus,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AttachmentSpec {
    pub(super) attacher: String,
    node_name: String,
    #[serde(default)]
    source: AttachmentSource,
}

#[derive(Debug, Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct AttachmentSource {
    persistent_volume_name: Option<String>,
}

#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct AttachmentStatus {
    attached: bool,
}

impl From<VolumeAttachment> for Attachment {
    fn from(one: VolumeAttachment) -> Self {
        Self {
            node: one.spec.node_name,
            volume: one.spec.source.persistent_volume_name.unwrap_or_default(),
            attached: one.status.attached,
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Volume {
    metadata: Metadata,
    spec: VolumeSpec,
    #[serde(default)]
    status: VolumeStatus,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct VolumeSpec {
    csi: Option<CsiSource>,
    claim_ref: Option<ClaimRef>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CsiSource {
    driver: String,
    volume_handle: String,
}

#[derive(Debug, Deserialize)]
struct ClaimRef {
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
}

#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct VolumeStatus {
    phase: String,
}

impl Volume {
    /// The volume, if it is `driver`'s.
    pub(super) fn of(self, driver: &str) -> Option<PersistentVolume> {
        let source = self.spec.csi.filter(|csi| csi.driver == driver)?;
        let claim = self.spec.claim_ref;
        Some(PersistentVolume {
            name: self.metadata.name,
            handle: source.volume_handle,
            claim: claim.map(|claim| format!("{}/{}", claim.namespace, claim.name)),
            phase: self.status.phase,
            deleting: self.metadata.deletion_timestamp.is_some(),
        })
    }
}

/// The message of a `Status` object, or the beginning of whatever came.
pub(super) fn words(body: &[u8], max: usize) -> String {
    #[derive(Deserialize)]
    struct Status {
        message: String,
    }
    let text = match serde_json::from_slice::<Status>(body) {
        Ok(status) => status.message,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    text.chars().take(max).collect()
}
