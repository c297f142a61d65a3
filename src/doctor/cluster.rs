//! Kubernetes, where it can be reached: the Node, its zone, its taints, and whether the kubelet has registered the driver.

use super::Check;
use crate::domain::DRIVER_NAME;
use crate::kube::{Cluster, ClusterNode, KubeError, STARTUP_TAINT, ZONE_LABEL};

/// Reads the Node, and the CSINode; the checks, and the Node when there is one.
pub async fn node(cluster: &dyn Cluster, name: &str) -> (Vec<Check>, Option<ClusterNode>) {
    let node = match cluster.node(name).await {
        Ok(Some(node)) => node,
        Ok(None) => {
            let check = Check::fail("node-object", format!("the cluster has no Node {name}"))
                .expected(
                    "a Node named like its VM",
                    "correct --node-name (NODE_NAME), or rename the node or the VM",
                );
            return (vec![check], None);
        }
        Err(error) => return (vec![unread("node-object", &error)], None),
    };
    let mut checks = vec![object(&node)];
    let shows = cluster.shows_driver(name).await;
    checks.push(registered(&shows, name));
    if shows == Ok(true) {
        checks.extend(taint(&node));
    }
    (checks, Some(node))
}

fn object(node: &ClusterNode) -> Check {
    let zone = node.zone.as_deref().unwrap_or("missing");
    let mut found = format!("Node {}: {ZONE_LABEL} {zone}", node.name);
    if node.cordoned {
        found.push_str(", cordoned");
    }
    if node.zone.is_none() {
        return Check::warn("node-object", found).expected(
            "the label, unless every node is told its zone",
            format!("let the cloud controller manager set it, or: kubectl label node {} {ZONE_LABEL}=ZONE", node.name),
        );
    }
    Check::ok("node-object", found)
}

fn registered(shows: &Result<bool, KubeError>, name: &str) -> Check {
    match shows {
        Ok(true) => Check::ok("csinode", format!("CSINode {name} shows {DRIVER_NAME}")),
        Ok(false) => Check::warn(
            "csinode",
            format!("CSINode {name} does not show {DRIVER_NAME}"),
        )
        .expected(
            "the driver, once its node plugin runs",
            "start the node plugin; if it runs, its --kubelet-dir is not the kubelet's --root-dir",
        ),
        Err(error) => unread("csinode", error),
    }
}

/// The taint that keeps pods away until the driver serves.
fn taint(node: &ClusterNode) -> Option<Check> {
    let tainted = node.taints.iter().any(|taint| taint == STARTUP_TAINT);
    tainted.then(|| {
        Check::warn(
            "taint",
            format!("Node {} still has {STARTUP_TAINT}", node.name),
        )
        .expected(
            "no such taint once CSINode shows the driver",
            "look at the node plugin's log for a missing right, or remove it by kubectl taint",
        )
    })
}

fn unread(name: &'static str, error: &KubeError) -> Check {
    let check = Check::warn(name, error.to_string());
    match error {
        KubeError::Forbidden { .. } => check.expected(
            "the right to read it",
            "ask with another account, for example through kubectl proxy and --kube-api",
        ),
        _ => check.expected("an answer of the API server", "check --kube-api"),
    }
}
