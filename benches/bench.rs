//! `make bench`: the release binary, measured from outside. Prints a table, writes `target/bench.json`.
//!
//! ```text
//! group (size, start, memory, controller, cloud, node) -> rows -> table, JSON
//! ```
//!
//! A new measurement is a group: an async function that answers rows, one line in `all`. `BENCH=node make bench` runs
//! only some groups (several with commas between them); the other groups' rows stay in the file as they are.

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
    let choice = match Choice::read(std::env::var("BENCH").unwrap_or_default()) {
        Ok(choice) => choice,
        Err(unknown) => {
            eprintln!(
                "BENCH names {unknown:?}; the groups are {}",
                GROUPS.join(", ")
            );
            return ExitCode::from(64);
        }
    };
    let rows = runtime.block_on(all(&binary, &choice));
    report(&rows, choice.0.is_none());
    ExitCode::SUCCESS
}

const GROUPS: [&str; 6] = ["size", "start", "memory", "controller", "cloud", "node"];

/// The groups that were asked for; `None` is all of them.
struct Choice(Option<String>);

impl Choice {
    fn read(text: String) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self(None));
        }
        let unknown = text
            .split(',')
            .map(str::trim)
            .find(|word| !GROUPS.contains(word));
        match unknown.map(str::to_owned) {
            Some(unknown) => Err(unknown),
            None => Ok(Self(Some(text))),
        }
    }

    fn has(&self, group: &str) -> bool {
        let named = |text: &String| text.split(',').any(|word| word.trim() == group);
        let chosen = self.0.as_ref().is_none_or(named);
        if chosen {
            eprintln!("measuring: {group}");
        }
        chosen
    }
}

async fn all(binary: &Path, choice: &Choice) -> Vec<Row> {
    let mut rows = Vec::new();
    if choice.has("size") {
        rows.push(start::size(binary));
    }
    if choice.has("start") {
        rows.extend(start::rows(binary).await);
    }
    if choice.has("memory") {
        rows.extend(memory::rows(binary).await);
    }
    if choice.has("controller") {
        rows.extend(controller::rows(binary).await);
    }
    if choice.has("cloud") {
        rows.extend(cloud::rows(binary).await);
    }
    if choice.has("node") {
        rows.extend(node::rows(binary).await);
    }
    rows
}
