//! The node plugin on a real SCSI stack: VMs with VMware's paravirtual controller. `make scsi` runs these.
//!
//! ```text
//! this process: cases, emulated cloud, controller      VM: the real static binary as node plugin
//!      |    |------------- gRPC through the agent --------------> /csi/csi.sock
//!      |    '------------- scripts: what does the kernel say? ---> sh
//!      '------------------ QMP: plugs, pulls, grows, breaks -----> pvscsi
//! ```
//!
//! Cases of a group share its VMs; after each case the VM must be as before: no disk, no mount, no record. Without
//! `VM_LAB` and `CSI_BINARY`, which `make scsi` sets, nothing is run. Arguments are filters: parts of names.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests fail by panicking"
)]

mod bench;
mod broken;
mod faults;
mod holders;
mod identity;
mod kill;
mod lab;
mod life;
mod machine;
mod many;
mod power;
mod pulled;
mod sanity;
mod volume;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lab::{Lab, Setting, Spec};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// VMs that run side by side.
const VMS: u32 = 2;

type Run = fn(Arc<Lab>) -> Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// One promise.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    name: &'static str,
    limit: u64,
    run: Run,
}

/// A promise and the function that holds the driver to it; a limit in seconds if the usual one is not
/// enough even on a busy machine.
macro_rules! case {
    ($name:literal, $run:path) => {
        case!($name, $run, 900)
    };
    ($name:literal, $run:path, $limit:literal) => {
        $crate::Case {
            name: $name,
            limit: $limit,
            run: |lab| Box::pin($run(lab)),
        }
    };
}
pub(crate) use case;

/// VMs of groups that have ended well, for others of the same kind: a boot costs ten seconds.
type Idle = Mutex<Vec<(Spec, Arc<Lab>)>>;

/// Cases that share VMs.
struct Group {
    name: &'static str,
    spec: Spec,
    cases: &'static [Case],
}

/// The longest first: they fill the two places best.
fn groups() -> Vec<Group> {
    let group = |name, spec, cases| Group { name, spec, cases };
    let one = Spec::default;
    let two = Spec {
        more_vms: 1,
        ..one()
    };
    let controllers = Spec {
        more_controllers: 1,
        ..one()
    };
    let deaf = Spec {
        words: &["use_msg=0", "btrfs=0"],
        ..one()
    };
    // Two places: nothing else runs beside it.
    let alone = Spec {
        alone: true,
        ..one()
    };
    vec![
        group("kill", one(), kill::STAGE),
        group("power", one(), power::CASES),
        group("kill", one(), kill::OTHERS),
        group("faults", controllers, faults::CASES),
        group("life", one(), life::CASES),
        group("broken", one(), broken::CASES),
        group("holders", one(), holders::CASES),
        group("full", one(), many::FULL),
        group("pulled", one(), pulled::CASES),
        group("deaf", deaf, identity::CASES),
        group("two", two, many::TWO),
        group("bench", alone, bench::CASES),
    ]
}

#[derive(Default)]
struct Tally {
    passed: u32,
    failed: Vec<String>,
}

/// VMs of this kind, if some are idle. For a group that is to be alone all others end.
async fn reuse(idle: &Idle, spec: &Spec) -> Option<Arc<Lab>> {
    let (found, rest) = {
        let mut idle = idle.lock().unwrap();
        let place = idle.iter().position(|(kind, _)| kind == spec);
        let found = place.map(|place| idle.swap_remove(place).1);
        let rest = if spec.alone {
            idle.split_off(0)
        } else {
            Vec::new()
        };
        (found, rest)
    };
    for (_, lab) in rest {
        lab.stop().await;
    }
    found
}

/// Runs a group's cases one after the other; after a failure the rest get new VMs.
async fn run(setting: Arc<Setting>, idle: &Idle, group: Group, filters: Vec<String>) -> Tally {
    let mut tally = Tally::default();
    let mut lab = reuse(idle, &group.spec).await;
    for case in group.cases {
        let name = format!("{}: {}", group.name, case.name);
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter)) {
            continue;
        }
        let started = Instant::now();
        let outcome = attempt(&setting, &group, case, &mut lab).await;
        let seconds = started.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                println!("ok     {seconds:6.1} s  {name}");
                tally.passed += 1;
            }
            Err(error) => {
                let told = match lab.take() {
                    Some(lab) => lab.tell().await,
                    None => String::new(),
                };
                println!("FAILED {seconds:6.1} s  {name}\n{error:#}\n{told}");
                tally.failed.push(name);
            }
        }
    }
    if let Some(lab) = lab {
        idle.lock().unwrap().push((group.spec, lab));
    }
    tally
}

async fn attempt(
    setting: &Setting,
    group: &Group,
    case: &Case,
    kept: &mut Option<Arc<Lab>>,
) -> anyhow::Result<()> {
    let lab = match kept {
        Some(lab) => Arc::clone(lab),
        None => {
            let started = Instant::now();
            let lab = Arc::new(Lab::start(setting, group.name, &group.spec).await?);
            println!(
                "       {:6.1} s  {}: {} VM up, plugin ready",
                started.elapsed().as_secs_f64(),
                group.name,
                group.spec.vms()
            );
            Arc::clone(kept.insert(lab))
        }
    };
    let work = tokio::spawn((case.run)(Arc::clone(&lab)));
    let stop = work.abort_handle();
    match tokio::time::timeout(Duration::from_secs(case.limit), work).await {
        Ok(Ok(done)) => done?,
        Ok(Err(panic)) => anyhow::bail!("{panic}"),
        Err(_) => {
            stop.abort();
            anyhow::bail!("not done after {} s", case.limit);
        }
    }
    lab.is_clean().await
}

async fn all(setting: Setting, filters: Vec<String>) -> Tally {
    let (setting, places) = (
        Arc::new(setting),
        Arc::new(Semaphore::new(usize::try_from(VMS).unwrap())),
    );
    let idle = Arc::new(Idle::default());
    let mut running = JoinSet::new();
    for group in groups() {
        // Taken here, in order: the groups start as they are listed.
        let permit = Arc::clone(&places).acquire_many_owned(group.spec.places());
        let permit = permit.await.unwrap();
        let (setting, filters) = (Arc::clone(&setting), filters.clone());
        let idle = Arc::clone(&idle);
        running.spawn(async move {
            let tally = run(setting, &idle, group, filters).await;
            drop(permit);
            tally
        });
    }
    let mut all = Tally::default();
    while let Some(tally) = running.join_next().await {
        let tally = tally.unwrap();
        all.passed += tally.passed;
        all.failed.extend(tally.failed);
    }
    let rest = idle.lock().unwrap().split_off(0);
    for (_, lab) in rest {
        lab.stop().await;
    }
    all
}

async fn whole(setting: Setting, filters: Vec<String>) -> ExitCode {
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    let dir = setting.dir.clone();
    let tally = tokio::select! {
        tally = all(setting, filters) => tally,
        _ = tokio::signal::ctrl_c() => Tally { passed: 0, failed: vec!["stopped by SIGINT".to_owned()] },
        _ = terminate.recv() => Tally { passed: 0, failed: vec!["stopped by SIGTERM".to_owned()] },
    };
    remove(&dir);
    for name in &tally.failed {
        println!("FAILED {name}");
    }
    println!("{} passed, {} failed", tally.passed, tally.failed.len());
    ExitCode::from(u8::from(!tally.failed.is_empty() || tally.passed == 0))
}

fn remove(dir: &Path) {
    if let Err(error) = std::fs::remove_dir_all(dir) {
        println!("{} stays: {error}", dir.display());
    }
}

fn main() -> ExitCode {
    let filters: Vec<String> = std::env::args().skip(1).collect();
    if filters.iter().any(|word| word == "--list") {
        return ExitCode::SUCCESS;
    }
    let Some(setting) = Setting::from_environment() else {
        println!("LEFT OUT: real SCSI in VMs; run `make scsi`");
        return ExitCode::SUCCESS;
    };
    let filters = filters.into_iter().filter(|word| !word.starts_with("--"));
    let filters: Vec<String> = filters.collect();
    additional_storage_csi::cloud::nifcloud::install_crypto_provider();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(whole(setting, filters))
}
