//! The role `doctor`: real client, real machine, real cluster; one report.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::cluster;
use super::driver::client;
use crate::cli::{DoctorArgs, DoctorOn};
use crate::config;
use crate::doctor::{Check, Report, cloud, cluster as objects, machine};
use crate::domain::id::VmName;
use crate::domain::topology::Zone;
use crate::host::linux::{HostConfig, LinuxHost};
use crate::telemetry::metrics::Metrics;

/// Longest time that one tool may take to say its version.
const TOOL: Duration = Duration::from_secs(10);

/// Makes all checks that `args` asks for and prints them. Status 0: nothing failed; 1: something did.
pub(super) async fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    let node = matches!(args.on, DoctorOn::Node | DoctorOn::All);
    let (name, mut zone) = (named(args, node, &mut report), told(args, &mut report));
    if let Some(labelled) = in_cluster(args, name.as_ref(), &mut report).await {
        zone = zone.or(Some(labelled));
    }
    if node {
        if name.is_some() && zone.is_none() {
            report.add([unzoned()]);
        }
        on_node(args, &mut report).await?;
    }
    if matches!(args.on, DoctorOn::Controller | DoctorOn::All) {
        in_cloud(args, name.as_ref(), zone.as_ref(), &mut report).await;
    }
    if args.json {
        println!("{}", report.json());
    } else {
        println!("{report}");
    }
    Ok(ExitCode::from(u8::from(!report.passed())))
}

fn named(args: &DoctorArgs, needed: bool, report: &mut Report) -> Option<VmName> {
    let name = &args.node.node_name;
    if name.is_empty() {
        let missing = "no name given (--node-name, NODE_NAME)";
        report.add([if needed {
            Check::fail("node-name", missing).expected(
                "the name of the VM, which is also the Kubernetes node's",
                "set --node-name, or --on controller to leave the node out",
            )
        } else {
            Check::skip("node-name", missing)
        }]);
        return None;
    }
    match VmName::parse(name) {
        Ok(parsed) => {
            report.add([Check::ok("node-name", name.as_str())]);
            Some(parsed)
        }
        Err(error) => {
            report.add([Check::fail("node-name", error.to_string())]);
            None
        }
    }
}

fn told(args: &DoctorArgs, report: &mut Report) -> Option<Zone> {
    let text = &args.node.zone;
    if text.trim().is_empty() {
        return None;
    }
    let parsed = config::zone(text);
    if let Err(error) = &parsed {
        report.add([Check::fail("zone", error.to_string())]);
    }
    parsed.ok()
}

fn unzoned() -> Check {
    Check::fail(
        "zone",
        "neither a flag nor the Node object tells the zone of this node",
    )
    .expected(
        "a zone, such as east-11",
        "set --zone (NIFCLOUD_ZONE), or label the Node topology.kubernetes.io/zone",
    )
}

/// The Node object's checks; the zone of its label.
async fn in_cluster(args: &DoctorArgs, name: Option<&VmName>, report: &mut Report) -> Option<Zone> {
    let cluster = match cluster::find(&args.kube) {
        Ok(cluster) => cluster,
        Err(error) => {
            report.add([Check::fail("node-object", format!("{error:#}"))]);
            return None;
        }
    };
    let Some(cluster) = cluster else {
        let why =
            "no Kubernetes API server is known: set --kube-api (kubectl proxy), or run in a pod";
        report.add([Check::skip("node-object", why)]);
        return None;
    };
    let Some(name) = name else {
        report.add([Check::skip("node-object", "no node name to look for")]);
        return None;
    };
    let (checks, node) = objects::node(&*cluster, name.as_str()).await;
    report.add(checks);
    node?.zone.as_deref().and_then(Zone::parse)
}

async fn on_node(args: &DoctorArgs, report: &mut Report) -> anyhow::Result<()> {
    let node = args.node.clone();
    let checks = tokio::task::spawn_blocking(move || {
        let host = LinuxHost::new(HostConfig {
            device_dir: node.device_dir.clone(),
            ..HostConfig::default()
        });
        let equipment = host.equipment(Instant::now() + TOOL);
        let kubelet = node.kubelet_dir.as_path();
        let registry = node
            .plugins_registry_dir
            .unwrap_or_else(|| kubelet.join("plugins_registry"));
        let registry: Option<&Path> = node.registration.then_some(&registry);
        let mut checks = machine::programs(&equipment);
        checks.push(machine::disks(&equipment, node.device_dir.as_deref()));
        checks.extend(machine::kubelet(
            kubelet,
            host.propagation(kubelet),
            registry,
        ));
        checks
    });
    report.add(checks.await.context("the look at the machine failed")?);
    Ok(())
}

async fn in_cloud(
    args: &DoctorArgs,
    name: Option<&VmName>,
    zone: Option<&Zone>,
    report: &mut Report,
) {
    let made = config::cloud(&args.cloud)
        .map_err(anyhow::Error::from)
        .and_then(|()| client(&args.cloud, None, Arc::new(Metrics::new())));
    let client = match made {
        Ok(client) => client,
        Err(error) => {
            report.add([Check::fail("cloud-api", format!("{error:#}"))]);
            return;
        }
    };
    let (check, zones) = cloud::api(&client, client.endpoint()).await;
    report.add([check, cloud::clock(client.clock_ahead())]);
    let Some(zones) = zones else { return };
    report.add([cloud::zone(zone, &zones)]);
    if let Some(name) = name {
        report.add([cloud::vm(&client, name, zone).await]);
    }
}
