//! Random operations on a cloud in trouble, against a small model of what callers were told.
//!
//! ```text
//!  workers (sidecars: create, publish, unpublish, delete, grow, modify, list) --- told ---> model
//!     |            |                                                                         |
//!  controller A  controller B                                                              judge
//!     |            |                                                                         |
//!  real client over HTTP ---> emulated cloud: 30 % of calls hit, VMs stop and go ---- what really exists
//! ```
//!
//! The seed decides which operations there are and how often calls are hit; how they interleave is up to the machine.
//! `STORM_SEED` repeats a run, `STORM_OPERATIONS` makes it longer or shorter.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

#[path = "storm/caller.rs"]
mod caller;
#[path = "storm/judge.rs"]
mod judge;
#[path = "storm/looks.rs"]
mod looks;
#[path = "storm/model.rs"]
mod model;
#[path = "storm/weather.rs"]
mod weather;
#[path = "storm/worker.rs"]
mod worker;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;

use worker::World;

/// Callers at once.
const WORKERS: u64 = 96;
/// Longest time for the end: whatever happened, everything can be taken down.
const AFTERMATH: Duration = Duration::from_secs(120);

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is not a number: {text:?}")),
    )
}

async fn storm(seed: u64, operations: u64) -> bool {
    let world = Arc::new(World::new(seed, operations).await);
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let world = Arc::clone(&world);
        workers.spawn(async move { world.work().await });
    }
    workers.join_all().await;
    let (faults, calls) = world.weather_over();
    if tokio::time::timeout(AFTERMATH, world.take_down())
        .await
        .is_err()
    {
        world.judge.violation(format!(
            "not everything can be taken down within {AFTERMATH:?}"
        ));
    }
    world.judge.nothing_left();
    world.report(calls);
    let violations = world.judge.violations();
    let done = world.done.load(Ordering::Relaxed);
    println!("storm: {done} operations, {faults} faults, {violations} violations");
    // Fair weather proves nothing.
    let share = faults * 100 / calls.max(1);
    if share < 25 {
        println!("only {share} % of {calls} calls were hit");
    }
    violations == 0 && done >= operations && share >= 25
}

fn main() -> ExitCode {
    // `cargo test -- --list` asks every test binary what it holds.
    if std::env::args().any(|arg| arg == "--list") {
        return ExitCode::SUCCESS;
    }
    let seed = number("STORM_SEED").unwrap_or_else(|| fastrand::u64(..));
    let operations = number("STORM_OPERATIONS").unwrap_or(10_000);
    println!("storm: seed {seed} (STORM_SEED={seed} STORM_OPERATIONS={operations} make storm)");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if runtime.block_on(storm(seed, operations)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
