//! CSI driver for NIFCLOUD (FJcloud-V) additional disks.
//!
//! The crate is layered; an arrow means "may use":
//!
//! ```text
//! main -> cli, app            the only place that knows concrete types
//! app  -> everything
//! csi  -> domain, fleet, host (port), jobs, proto
//! fleet -> domain, cloud (port)         shared reads, queued writes
//! cloud/nifcloud -> domain, cloud       adapter: HTTP, XML, signature version 2
//! host/linux     -> domain, host        adapter: sysfs, mount(2), mkfs
//! kube/api       -> domain, kube        adapter: the Kubernetes API, asked at start and at drain only
//! emulator       -> domain              a NIFCLOUD computing API on loopback
//! domain         -> std                 no I/O
//! ```
//!
//! `tests/architecture.rs` holds these directions.

pub mod admin;
pub mod app;
pub mod audit;
pub mod cli;
pub mod cloud;
pub mod config;
pub mod csi;
pub mod demo;
pub mod doctor;
pub mod domain;
pub mod emulator;
pub mod fleet;
pub mod host;
pub mod jobs;
pub mod kube;
#[cfg(test)]
mod mutants;
pub mod proto;
pub mod shutdown;
pub mod telemetry;
