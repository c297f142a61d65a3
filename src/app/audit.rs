//! The role `audit`: reads both sides, prints what does not fit.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;

use super::cluster;
use super::driver::client;
use crate::audit;
use crate::cli::{Cloud, KubeArgs};
use crate::cloud::Cloud as _;
use crate::telemetry::metrics::Metrics;

/// Exit status when something was found.
const FOUND: u8 = 3;

pub(super) async fn run(cloud: &Cloud, kube: &KubeArgs) -> anyhow::Result<ExitCode> {
    let client = client(cloud, None, Arc::new(Metrics::new()))?;
    let cluster = cluster::need(kube)?;
    // The disks first: a volume that is made meanwhile has its PersistentVolume when the cluster is read.
    let disks = client.describe_disks(&[]).await;
    let disks = disks.context("cannot read the disks of the region")?;
    let volumes = cluster.volumes().await?;
    let attachments = cluster.attachments().await?;
    let findings = audit::compare(&disks, &volumes, &attachments);
    for finding in &findings {
        println!("{finding}");
    }
    println!(
        "{} disks, {} PersistentVolumes, {} VolumeAttachments: {} findings",
        disks.len(),
        volumes.len(),
        attachments.len(),
        findings.len()
    );
    Ok(ExitCode::from(if findings.is_empty() { 0 } else { FOUND }))
}
