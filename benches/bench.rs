//! `make bench`: the release binary, measured from outside. Prints a table, writes `target/bench.json`.
//!
//! ```text
//! group (size, start, memory, controller, cloud, node) -> rows -> table, JSON
//! ```
//!
//! A new measurement is a group: an async function that answers rows, one line in `main`. Words on the command line
//! choose groups (`cargo bench --bench bench -- node`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench that cannot run shall say where"
)]

#[path = "bench/cloud.rs"]
mod cloud;
#[path = "bench/controller.rs"]
mod controller;
#[path = "bench/memory.rs"]
mod memory;
#[path = "bench/node.rs"]
mod node;
#[path = "bench/process.rs"]
mod process;
#[path = "bench/rows.rs"]
mod rows;
#[path = "bench/start.rs"]
mod start;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rows::{Row, report};

fn main() -> ExitCode {
    let Some(binary) = std::env::var_os("CSI_BINARY").map(PathBuf::from) else {
        eprintln!(
            "CSI_BINARY is not set: run `make bench`, which builds the release binary and names it"
        );
        return ExitCode::from(64);
    };
    additional_storage_csi::cloud::nifcloud::install_crypto_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let rows = runtime.block_on(all(&binary));
    report(&rows);
    ExitCode::SUCCESS
}

fn chosen(group: &str) -> bool {
    let mut words = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'));
    let all = std::env::args().skip(1).all(|word| word.starts_with('-'));
    let chosen = all || words.any(|word| word == group);
    if chosen {
        eprintln!("measuring: {group}");
    }
    chosen
}

async fn all(binary: &Path) -> Vec<Row> {
    let mut rows = Vec::new();
    if chosen("size") {
        rows.push(start::size(binary));
    }
    if chosen("start") {
        rows.extend(start::rows(binary).await);
    }
    if chosen("memory") {
        rows.extend(memory::rows(binary).await);
    }
    if chosen("controller") {
        rows.extend(controller::rows(binary).await);
    }
    if chosen("cloud") {
        rows.extend(cloud::rows(binary).await);
    }
    if chosen("node") {
        rows.extend(node::rows(binary).await);
    }
    rows
}
