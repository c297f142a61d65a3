//! The controller is killed at every point of every RPC; a fresh process must finish the work.
//!
//! ```text
//! for each RPC, for each cloud call in it, for each moment:
//!   before the call is sent | after the cloud committed, before the reply | after the reply
//!     process A: the RPC until that moment, then SIGKILL
//!     process B: the same RPC until it succeeds, then the disk is deleted
//!     the emulated cloud, which knows what really exists, is asked: leaked? doubled? overgrown?
//! ```
//!
//! The driver is the real binary and has no hooks for this: the emulator parks the call, or its reply, while the process
//! is killed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

#[path = "crash/driver.rs"]
mod driver;
#[path = "crash/scenario.rs"]
mod scenario;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use additional_storage_csi::emulator::{Config, Control, Effect, Emulator, Rule};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use driver::Driver;
use scenario::{SCENARIOS, Scenario};

/// Points that are tried at once.
const AT_ONCE: usize = 8;
/// Longest time for one point.
const PATIENCE: Duration = Duration::from_secs(120);

/// When the process dies, as seen from one cloud call.
#[derive(Debug, Clone, Copy)]
enum Moment {
    BeforeSent,
    AfterCommit,
    AfterReply,
}

const MOMENTS: [Moment; 3] = [Moment::BeforeSent, Moment::AfterCommit, Moment::AfterReply];

/// One place to die: the `nth` call of `action`.
#[derive(Debug, Clone)]
struct Point {
    scenario: &'static Scenario,
    action: String,
    nth: u32,
    moment: Moment,
}

/// What came of it.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    points: u32,
    recovered: u32,
    leaked: u32,
    doubled: u32,
    overgrown: u32,
}

/// Why a point is a failure.
#[derive(Debug)]
pub(crate) enum Wrong {
    Stuck(String),
    Leaked(String),
    Doubled(String),
    Overgrown(String),
}

async fn cloud() -> Emulator {
    let config = Config::default()
        .vm("node1", "east-11")
        .vm("node2", "east-11")
        .vm("node3", "east-11");
    Emulator::start(config).await.unwrap()
}

/// The calls of an RPC that nobody disturbs.
async fn calls(scenario: &Scenario) -> BTreeMap<String, u64> {
    let emulator = cloud().await;
    let driver = Driver::start(&emulator.endpoint()).await;
    for step in scenario.before {
        driver.finish(*step).await.unwrap();
    }
    emulator.control().clear_history();
    driver.finish(scenario.tested).await.unwrap();
    let calls = emulator.control().calls();
    driver.kill().await;
    calls
}

/// Dies at the point and recovers. `None`: this run never came to the point.
async fn attempt(point: &Point) -> Option<Result<(), Wrong>> {
    let emulator = cloud().await;
    let control = emulator.control();
    let driver = Driver::start(&emulator.endpoint()).await;
    for step in point.scenario.before {
        driver.finish(*step).await.unwrap();
    }
    control.clear_history();
    let rule = control.add_fault(hold(point));
    let held = tokio::select! {
        held = control.wait_held() => Some(held),
        _ended = driver.run(point.scenario.tested) => None,
    };
    let reached = held.is_some();
    if let (Some(call), Moment::AfterReply) = (&held, point.moment) {
        control.release(call.id);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    driver.kill().await;
    control.remove_fault(rule);
    if let Some(call) = held {
        control.drop_held(call.id);
    }
    let outcome = recover(point.scenario, &emulator).await;
    emulator.shutdown().await;
    reached.then_some(outcome)
}

async fn recover(scenario: &Scenario, emulator: &Emulator) -> Result<(), Wrong> {
    let control = emulator.control();
    let driver = Driver::start(&emulator.endpoint()).await;
    let verdict = async {
        driver
            .finish(scenario.tested)
            .await
            .map_err(|status| Wrong::Stuck(format!("{status:?}")))?;
        scenario.check(control)?;
        for step in scenario.after {
            let done = driver.finish(*step).await;
            done.map_err(|status| Wrong::Stuck(format!("{step:?}: {status:?}")))?;
        }
        nothing_left(control)
    };
    let verdict = verdict.await;
    driver.kill().await;
    verdict
}

fn nothing_left(control: &Control) -> Result<(), Wrong> {
    let state = control.state();
    let slots: usize = state.vms.values().map(|vm| vm.slots.len()).sum();
    if state.disks.is_empty() && slots == 0 {
        Ok(())
    } else {
        Err(Wrong::Leaked(format!("{:?}, {slots} slots", state.disks)))
    }
}

fn hold(point: &Point) -> Rule {
    Rule {
        action: Some(point.action.clone()),
        mutating: false,
        disk: None,
        vm: None,
        skip: point.nth,
        count: Some(1),
        probability: 1.0,
        effect: match point.moment {
            Moment::BeforeSent => Effect::HoldBefore,
            Moment::AfterCommit | Moment::AfterReply => Effect::HoldAfter,
        },
    }
}

async fn all_points() -> Vec<Point> {
    let mut points = Vec::new();
    for scenario in SCENARIOS {
        let calls = calls(scenario).await;
        println!("{}: {calls:?}", scenario.name);
        for (action, count) in calls {
            for nth in 0..u32::try_from(count).unwrap() {
                points.extend(MOMENTS.map(|moment| Point {
                    scenario,
                    action: action.clone(),
                    nth,
                    moment,
                }));
            }
        }
    }
    points
}

async fn crash() -> Tally {
    let gate = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for point in all_points().await {
        let gate = Arc::clone(&gate);
        running.spawn(async move {
            let _pass = gate.acquire_owned().await;
            let outcome = tokio::time::timeout(PATIENCE, attempt(&point)).await;
            let late = || Some(Err(Wrong::Stuck(format!("after {PATIENCE:?}"))));
            (point, outcome.unwrap_or_else(|_| late()))
        });
    }
    let mut tally = Tally::default();
    while let Some(joined) = running.join_next().await {
        let (point, outcome) = joined.unwrap();
        let Some(outcome) = outcome else {
            continue;
        };
        tally.points += 1;
        let Err(wrong) = outcome else {
            tally.recovered += 1;
            continue;
        };
        let (count, what) = match wrong {
            Wrong::Stuck(what) => (None, what),
            Wrong::Leaked(what) => (Some(&mut tally.leaked), what),
            Wrong::Doubled(what) => (Some(&mut tally.doubled), what),
            Wrong::Overgrown(what) => (Some(&mut tally.overgrown), what),
        };
        if let Some(count) = count {
            *count += 1;
        }
        println!(
            "FAILED {}, {} #{} {:?}: {what}",
            point.scenario.name, point.action, point.nth, point.moment
        );
    }
    tally
}

fn main() -> ExitCode {
    // `cargo test -- --list` asks every test binary what it holds.
    if std::env::args().any(|arg| arg == "--list") {
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let tally = runtime.block_on(crash());
    println!(
        "crash: {} points, {} recovered, {} leaked, {} doubled, {} overgrown",
        tally.points, tally.recovered, tally.leaked, tally.doubled, tally.overgrown
    );
    // Far fewer points than there are means that the matrix did not run.
    if tally.points >= 150 && tally.recovered == tally.points {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
