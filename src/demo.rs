//! `demo`: a claim's whole life on the embedded cloud.

pub mod vm;

use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use crate::cli::DemoArgs;

/// Walks a claim's life.
///
/// # Errors
/// A step failed.
#[allow(clippy::unused_async, reason = "the walk follows")]
pub async fn run(_args: &DemoArgs, _stop: CancellationToken) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
