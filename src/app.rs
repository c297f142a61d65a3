//! Composition root: the only place that knows concrete types. Builds a role from its settings, serves it, drains it.

mod audit;
mod cluster;
mod doctor;
mod driver;

use std::process::ExitCode;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::cli::{Cli, Common, EmulatorArgs, KubeArgs, Role, Serve};
use crate::config::{self, EXIT_USAGE};
use crate::emulator::Emulator;
use crate::telemetry::LogLevel;
use crate::{demo, shutdown, telemetry};

pub use driver::{Driver, DriverParts, Ended};

/// A wrong command line or configuration: status 64. Everything else that ends a role: status 1.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

pub(crate) fn usage(error: &dyn std::error::Error) -> anyhow::Error {
    anyhow::Error::new(Usage(crate::csi::error::chain(error)))
}

/// Runs the role until it ends or a signal stops it.
pub async fn run(cli: Cli) -> ExitCode {
    match start(cli).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("nifcloud-additional-storage-csi: {error:#}");
            ExitCode::from(if error.is::<Usage>() { EXIT_USAGE } else { 1 })
        }
    }
}

async fn start(cli: Cli) -> anyhow::Result<ExitCode> {
    let quiet = matches!(
        cli.role,
        Role::Demo(_) | Role::Audit { .. } | Role::Doctor(_)
    );
    let level = cli.common.log_level.as_deref().map(str::trim);
    let level = level.filter(|level| !level.is_empty());
    let level = level.unwrap_or(if quiet { "error" } else { "info" });
    let level = telemetry::start(cli.common.log_format, level).map_err(|e| usage(&e))?;
    let stop = shutdown::on_signal().context("cannot listen for signals")?;
    match &cli.role {
        Role::Controller { serve, cloud, zone } => {
            let mut parts = parts(&cli.common, serve, level);
            config::cloud(cloud).map_err(|e| usage(&e))?;
            parts.cloud = Some(cloud.clone());
            let zone = zone.as_deref().filter(|zone| !zone.is_empty());
            parts.zone = zone.map(config::zone).transpose().map_err(|e| usage(&e))?;
            serve_driver(parts, stop).await
        }
        Role::Node { serve, node, kube } => {
            let mut parts = parts(&cli.common, serve, level);
            parts.node = Some(config::node(node).map_err(|e| usage(&e))?);
            serve_node(parts, kube, stop).await
        }
        Role::All {
            serve,
            cloud,
            node,
            kube,
        } => {
            let mut parts = parts(&cli.common, serve, level);
            config::cloud(cloud).map_err(|e| usage(&e))?;
            parts.node = Some(config::node(node).map_err(|e| usage(&e))?);
            parts.cloud = Some(cloud.clone());
            serve_node(parts, kube, stop).await
        }
        Role::PreStop {
            node_name,
            limit,
            kube,
        } => cluster::pre_stop(node_name, config::grace(*limit), kube, stop).await,
        Role::Audit { cloud, kube } => {
            config::cloud(cloud).map_err(|e| usage(&e))?;
            audit::run(cloud, kube).await
        }
        Role::Doctor(args) => doctor::run(args).await,
        Role::Emulator(args) => serve_emulator(&cli.common, args, stop).await,
        Role::Demo(args) => demo::run(args, level, stop).await,
    }
}

fn parts(common: &Common, serve: &Serve, level: LogLevel) -> DriverParts {
    let mut parts = DriverParts::new(&serve.endpoint, level, config::grace(common.grace_period));
    parts.admin = common.admin_listen;
    parts
}

/// A node knows its zone before it serves: what it registered without, nobody asks for again.
async fn serve_node(
    mut parts: DriverParts,
    kube: &KubeArgs,
    stop: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let cluster = cluster::find(kube)?;
    let Some(zone) = cluster::zone(&parts, cluster.as_ref(), &stop).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    if let Some(node) = &mut parts.node {
        node.zone = Some(zone.clone());
        if let Some(cluster) = cluster {
            cluster::free(cluster, node.name.to_string(), stop.clone());
        }
    }
    if parts.cloud.is_some() {
        parts.zone = Some(zone);
    }
    serve_driver(parts, stop).await
}

async fn serve_driver(parts: DriverParts, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    let (endpoint, controller) = (parts.endpoint.clone(), parts.cloud.is_some());
    let node = parts.node.as_ref().map(|node| node.name.to_string());
    let driver = Driver::build(parts).await?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        revision = env!("GIT_SHA"),
        endpoint,
        controller,
        node,
        "serving"
    );
    match driver.serve(stop).await? {
        Ended::Drained => {
            tracing::info!("drained");
            Ok(ExitCode::SUCCESS)
        }
        Ended::Interrupted => {
            tracing::warn!("the grace period passed; the journal finishes what is left");
            Ok(ExitCode::from(2))
        }
    }
}

async fn serve_emulator(
    common: &Common,
    args: &EmulatorArgs,
    stop: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let config = config::emulator(args, common.admin_listen).map_err(|e| usage(&e))?;
    let emulator = Emulator::start(config).await?;
    let ready = serde_json::json!({ "endpoint": emulator.endpoint(), "admin": emulator.admin() });
    println!("{ready}");
    stop.cancelled().await;
    emulator.shutdown().await;
    Ok(ExitCode::SUCCESS)
}
