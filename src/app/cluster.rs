//! What a node role does with Kubernetes: learn its zone, free its Node, leave in order.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::{DriverParts, usage};
use crate::admin::{self, Admin};
use crate::cli::KubeArgs;
use crate::config::{self, ConfigError};
use crate::domain::topology::Zone;
use crate::kube::api::{Api, Settings};
use crate::kube::drain::{self, Drained};
use crate::kube::taint::{self, Taint};
use crate::kube::{Cluster, STARTUP_TAINT, zone as by_node};
use crate::telemetry::metrics::Metrics;

/// The cluster, if the flags or the pod's environment tell of one.
pub(super) fn find(args: &KubeArgs) -> anyhow::Result<Option<Arc<dyn Cluster>>> {
    let variable = |name: &str| std::env::var(name).ok();
    let settings = Settings::find(
        args.kube_api.as_deref(),
        &args.service_account_dir,
        variable,
    );
    let Some(settings) = settings else {
        return Ok(None);
    };
    let api = Api::new(&settings).map_err(|e| usage(&e))?;
    Ok(Some(Arc::new(api)))
}

/// The cluster, or what to do to have one.
pub(super) fn need(args: &KubeArgs) -> anyhow::Result<Arc<dyn Cluster>> {
    find(args)?.ok_or_else(|| {
        usage(&ConfigError::Missing {
            what: "the Kubernetes API server",
            flag: "--kube-api",
            variable: "KUBE_API (for example http://127.0.0.1:8001, where kubectl proxy listens)",
        })
    })
}

/// The node's zone; `None` when `stop` came first. While the Node object has none, the admin endpoint answers, so that
/// the kubelet does not restart the pod for waiting.
pub(super) async fn zone(
    parts: &DriverParts,
    cluster: Option<&Arc<dyn Cluster>>,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Zone>> {
    let node = parts.node.as_ref().context("not a node")?;
    if let Some(zone) = &node.zone {
        return Ok(Some(zone.clone()));
    }
    let Some(cluster) = cluster else {
        return Err(config::zone("").map_or_else(|e| usage(&e), |_| anyhow::anyhow!("no zone")));
    };
    let found = stop.child_token();
    let mut answering = None;
    if let Some(address) = parts.admin {
        let admin = Admin {
            alive: Arc::new(|| Ok(())),
            ready: Arc::new(|| Err("waiting for the zone of this node".to_owned())),
            metrics: Arc::new(Metrics::new()),
            log_level: parts.log_level.clone(),
        };
        let (_, task) = admin::serve(address, admin, found.clone())
            .await
            .with_context(|| format!("cannot listen on {address} (--admin-listen)"))?;
        answering = Some(task);
    }
    let zone = tokio::select! {
        () = stop.cancelled() => None,
        zone = by_node::wait_for_zone(&**cluster, node.name.as_str()) => Some(zone),
    };
    found.cancel();
    if let Some(task) = answering {
        // The driver listens on the same address next.
        let _ = tokio::time::timeout(Duration::from_secs(5), task).await;
    }
    let zone = zone
        .transpose()
        .context("cannot learn the zone of this node")?;
    // Also a label is only words.
    zone.map(|zone| config::zone(zone.as_str()).map_err(|e| usage(&e)))
        .transpose()
}

/// Removes the startup taint in the background, once the kubelet has registered the driver.
pub(super) fn free(cluster: Arc<dyn Cluster>, node: String, stop: CancellationToken) {
    tokio::spawn(async move {
        let freed = tokio::select! {
            () = stop.cancelled() => return,
            freed = taint::remove_when_registered(&*cluster, &node) => freed,
        };
        match freed {
            Ok(Taint::Removed) => tracing::info!(node, taint = STARTUP_TAINT, "removed"),
            Ok(Taint::Absent) => tracing::debug!(node, taint = STARTUP_TAINT, "there is none"),
            Err(error) => tracing::warn!(
                node,
                taint = STARTUP_TAINT,
                %error,
                "a startup taint, if the node has one, must be removed by hand"
            ),
        }
    });
}

/// The role `pre-stop`. A failure becomes an event of the pod (`FailedPreStopHook`) with these words.
pub(super) async fn pre_stop(
    node: &str,
    limit: Duration,
    args: &KubeArgs,
    stop: CancellationToken,
) -> anyhow::Result<ExitCode> {
    if node.is_empty() {
        return Err(usage(&ConfigError::Missing {
            what: "the name of this node",
            flag: "--node-name",
            variable: "NODE_NAME",
        }));
    }
    let Some(cluster) = find(args)? else {
        tracing::info!("there is no Kubernetes API server to ask: not waiting");
        return Ok(ExitCode::SUCCESS);
    };
    let drained = tokio::select! {
        () = stop.cancelled() => return Ok(ExitCode::SUCCESS),
        drained = drain::wait(&*cluster, node, limit) => drained.context("cannot wait for the drain")?,
    };
    match drained {
        Drained::NotLeaving => tracing::info!(node, "the node stays: not waiting"),
        Drained::Gone(volumes) => tracing::info!(node, volumes, "all volumes are detached"),
        Drained::Late(volumes) => anyhow::bail!(
            "{} volumes are still attached to {node} after {} s: {}; see their pods and VolumeAttachments",
            volumes.len(),
            limit.as_secs(),
            volumes.join(", ")
        ),
    }
    Ok(ExitCode::SUCCESS)
}
