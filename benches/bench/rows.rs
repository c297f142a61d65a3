//! Results: rows, percentiles, the table and the file.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

/// One result. `ratio` is value over bound: above 1 the goal is missed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) bound: Option<f64>,
    pub(crate) ratio: Option<f64>,
}

impl Row {
    /// A result with a goal that it should not exceed.
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str, bound: f64) -> Self {
        let ratio = Some(value / bound);
        Self {
            name: name.into(),
            value,
            unit,
            bound: Some(bound),
            ratio,
        }
    }

    /// A result to compare others with; nobody's goal.
    pub(crate) fn plain(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            name: name.into(),
            value,
            unit,
            bound: None,
            ratio: None,
        }
    }
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The value below which `part` (0 to 1) of the samples lie, by nearest rank.
pub(crate) fn percentile(samples: &[Duration], part: f64) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let wanted = part * f64::from(u32::try_from(sorted.len()).unwrap());
    let rank = (1u32..).find(|rank| f64::from(*rank) >= wanted).unwrap();
    sorted[usize::try_from(rank).unwrap().min(sorted.len()) - 1]
}

/// Median and 99th percentile of an RPC for a number of callers.
pub(crate) fn rpc(name: &str, callers: usize, samples: &[Duration]) -> [Row; 2] {
    let row = |kind: &str, part, bound| {
        let value = millis(percentile(samples, part));
        Row::new(
            format!("rpc_{kind}_ms/{name}/{callers}"),
            value,
            "ms",
            bound,
        )
    };
    [row("p50", 0.5, 2.0), row("p99", 0.99, 10.0)]
}

/// Calls `work(caller, round)` from several callers at once.
pub(crate) async fn each<T, F>(
    callers: usize,
    rounds: usize,
    work: impl Fn(usize, usize) -> F,
) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let mut running = Vec::new();
    for caller in 0..callers {
        let rounds: Vec<F> = (0..rounds).map(|round| work(caller, round)).collect();
        running.push(tokio::spawn(async move {
            let mut results = Vec::new();
            for round in rounds {
                results.push(round.await);
            }
            results
        }));
    }
    let mut results = Vec::new();
    for caller in running {
        results.extend(caller.await.unwrap());
    }
    results
}

/// Rows in the file that stay: those of `make scsi`, which writes to the same file; after a run of some groups also those
/// of the others.
fn kept(file: &Path, rows: &[Row], all: bool) -> Vec<serde_json::Value> {
    let text = std::fs::read(file).unwrap_or_default();
    let before: Vec<serde_json::Value> = serde_json::from_slice(&text).unwrap_or_default();
    let stays = |name: &str| {
        let measured = rows.iter().any(|row| row.name == name);
        name.starts_with("scsi_") || !all && !measured
    };
    let stays = |row: &serde_json::Value| row["name"].as_str().is_some_and(stays);
    before.into_iter().filter(stays).collect()
}

/// Prints the table and writes the file. `all`: every group was run, so that what the file had before is out of date.
pub(crate) fn report(rows: &[Row], all: bool) {
    println!(
        "{:<50} {:>10} {:<4} {:>8} {:>7}",
        "name", "value", "unit", "goal", "ratio"
    );
    for row in rows {
        let bound = row
            .bound
            .map_or_else(String::new, |bound| format!("{bound}"));
        let ratio = row
            .ratio
            .map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let missed = if row.ratio.is_some_and(|ratio| ratio > 1.0) {
            "  above the goal"
        } else {
            ""
        };
        println!(
            "{:<50} {:>10.3} {:<4} {bound:>8} {ratio:>7}{missed}",
            row.name, row.value, row.unit
        );
    }
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let file = target.join("bench.json");
    std::fs::create_dir_all(&target).unwrap();
    let kept = kept(&file, rows, all);
    let rows: Vec<_> = rows.iter().map(|row| serde_json::json!(row)).collect();
    let all = [rows, kept].concat();
    std::fs::write(&file, serde_json::to_vec_pretty(&all).unwrap()).unwrap();
    println!("written: {}", file.display());
}
