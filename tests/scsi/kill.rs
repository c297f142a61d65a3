//! SIGKILL to the plugin at every step of every node RPC; a fresh plugin must finish the work.
//!
//! ```text
//! for each RPC, for each system call in it that changes something, starts a tool or waits for one:
//!   plugin A, traced: the RPC until it enters that call, then SIGKILL
//!   plugin B: the same RPC until it succeeds; the data is read; all is put away; nothing may be left
//! ```
//!
//! The plugin is the static binary and has no hooks for this: strace attaches to it and delivers the signal. It counts
//! per thread, tools included, so that some points kill the tool and leave the plugin to cope.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::time::{Instant, sleep};
use tonic::Status;

use crate::lab::Lab;
use crate::machine::{KNOWN, KUBELET, Machine, RECORDS};
use crate::volume::Volume;
use crate::{Case, case};

pub(crate) const STAGE: &[Case] = &[case!(
    "the plugin is killed at every step of NodeStageVolume and a fresh one finishes",
    stages,
    1800
)];
pub(crate) const OTHERS: &[Case] = &[case!(
    "the plugin is killed at every step of every other RPC and a fresh one finishes",
    others,
    1800
)];

/// Calls that change something, start a tool, or wait for one.
const CALLS: &str =
    "mount,umount2,mkdir,rmdir,rename,unlink,write,pwrite64,fsync,fdatasync,ioctl,clone,vfork";
/// Far fewer than there are mean that the matrix did not run.
const AT_LEAST: usize = 30;
/// The nth call of one kind in one RPC: more are repetitions of a tool.
const NTH: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rpc {
    Stage,
    Publish,
    Expand,
    Unpublish,
    Unstage,
}

/// One RPC on one kind of volume.
#[derive(Debug, Clone, Copy)]
struct Scenario {
    name: &'static str,
    form: &'static str,
    rpc: Rpc,
    /// The disk is blank each time.
    blank: bool,
    read_only: bool,
}

const fn scenario(name: &'static str, form: &'static str, rpc: Rpc) -> Scenario {
    Scenario {
        name,
        form,
        rpc,
        blank: false,
        read_only: false,
    }
}

const SCENARIOS: [Scenario; 11] = [
    scenario("stage", "ext4", Rpc::Stage),
    Scenario {
        blank: true,
        ..scenario("stage of a blank disk", "ext4", Rpc::Stage)
    },
    Scenario {
        blank: true,
        ..scenario("stage of a blank disk, xfs", "xfs", Rpc::Stage)
    },
    scenario("publish", "ext4", Rpc::Publish),
    Scenario {
        read_only: true,
        ..scenario("publish read-only", "ext4", Rpc::Publish)
    },
    scenario("expand", "ext4", Rpc::Expand),
    scenario("unpublish", "ext4", Rpc::Unpublish),
    scenario("unstage", "ext4", Rpc::Unstage),
    scenario("stage, raw", "block", Rpc::Stage),
    scenario("publish, raw", "block", Rpc::Publish),
    scenario("unstage, raw", "block", Rpc::Unstage),
];

/// A volume on its way through the points of a scenario.
struct Subject<'a> {
    vm: &'a Machine,
    scenario: Scenario,
    volume: Volume,
    sum: String,
    mib: u64,
}

impl<'a> Subject<'a> {
    async fn new(lab: &'a Lab, scenario: Scenario) -> Result<Self> {
        let (vm, mib) = (lab.vm(), 320);
        let mut volume = Volume::new(lab, scenario.form, mib, 3)?;
        // Half of the stages ask blkid as well, as for a volume of the Go driver; the promise makes the rest short.
        if scenario.rpc != Rpc::Stage || scenario.form == "xfs" {
            volume = volume.promised();
        }
        let mut subject = Self {
            vm,
            scenario,
            volume,
            sum: String::new(),
            mib,
        };
        vm.plug(&subject.volume.plug).await?;
        subject.volume.stage(vm).await?;
        subject.volume.publish(vm).await?;
        subject.sum = subject.volume.write(vm, 1).await?;
        subject.away().await?;
        subject.volume.read_only = scenario.read_only;
        Ok(subject)
    }

    /// Unpublished and unstaged; the disk stays in its slot.
    async fn away(&self) -> Result<()> {
        self.volume.unpublish(self.vm).await.context("unpublish")?;
        self.volume.unstage(self.vm).await.context("unstage")
    }

    /// What precedes the RPC.
    async fn prepare(&mut self) -> Result<()> {
        if self.scenario.blank {
            let image = OpenOptions::new()
                .write(true)
                .open(&self.volume.plug.file)?;
            image.set_len(0)?;
            image.set_len(self.mib << 20)?;
            let id = &self.volume.id;
            self.vm.sh(&format!("rm -f {KNOWN}/{id}")).await?;
        }
        if self.scenario.rpc == Rpc::Stage {
            return Ok(());
        }
        self.volume.stage(self.vm).await.context("prepare: stage")?;
        if self.scenario.rpc == Rpc::Publish {
            return Ok(());
        }
        self.volume
            .publish(self.vm)
            .await
            .context("prepare: publish")?;
        match self.scenario.rpc {
            Rpc::Expand => {
                self.mib += 64;
                let mut monitor = self.vm.monitor().await?;
                monitor.resize(&self.volume.plug.id, self.mib << 20).await?;
            }
            Rpc::Unstage => self.volume.unpublish(self.vm).await.context("prepare")?,
            _ => {}
        }
        Ok(())
    }

    async fn call(&self) -> Result<(), Status> {
        let (vm, volume) = (self.vm, &self.volume);
        match self.scenario.rpc {
            Rpc::Stage => volume.stage(vm).await,
            Rpc::Publish => volume.publish(vm).await,
            Rpc::Expand => volume.expand(vm, i64::try_from(self.mib).unwrap()).await,
            Rpc::Unpublish => volume.unpublish(vm).await,
            Rpc::Unstage => volume.unstage(vm).await,
        }
    }

    /// As the kubelet: again until it works.
    async fn finish(&self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            match self.call().await {
                Ok(()) => return Ok(()),
                Err(status) if Instant::now() > end => bail!("never finished: {status:?}"),
                Err(_) => sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// The work is done, the data is there, and all can be put away.
    async fn verify(&self) -> Result<()> {
        let (vm, volume) = (self.vm, &self.volume);
        if matches!(self.scenario.rpc, Rpc::Stage | Rpc::Publish | Rpc::Expand) {
            volume.publish(vm).await.context("verify: publish")?;
            if self.scenario.blank {
                volume.write(vm, 1).await?;
            } else {
                ensure!(
                    volume.read(vm, 1).await? == self.sum,
                    "other data than before"
                );
            }
            let target = volume.target();
            let mounts = vm
                .sh(&format!(
                    "grep -c ' {target} ' /proc/mounts; df -m {target} | awk 'END {{print $2}}'"
                ))
                .await?;
            let (mounts, mib) = mounts.split_once('\n').context("two lines")?;
            ensure!(mounts == "1", "{mounts} mounts at the target");
            if self.scenario.rpc == Rpc::Expand {
                let mib: u64 = mib.parse()?;
                ensure!(
                    mib > self.mib * 9 / 10,
                    "grown to {mib} of {} MiB",
                    self.mib
                );
            }
        }
        self.away().await?;
        let left = vm
            .sh(&format!(
                "ls -d /sys/block/sd* 2>/dev/null; grep ' {KUBELET}/' /proc/mounts; ls {RECORDS} 2>/dev/null; :"
            ))
            .await?;
        ensure!(left.is_empty(), "left behind: {left}");
        Ok(())
    }

    /// The points of this scenario: which system call, and how many of its kind come before.
    async fn points(&mut self) -> Result<Vec<(String, usize)>> {
        self.prepare().await?;
        trace(self.vm, &format!("-e trace={CALLS},execve")).await?;
        self.call().await.context("the traced RPC")?;
        let log = self.vm.sh(&format!("{UNTRACE} cat /csi/trace")).await?;
        self.verify().await?;
        Ok(parse(&log))
    }

    /// Dies at a point and recovers.
    async fn attempt(&mut self, call: &str, nth: usize) -> Result<bool> {
        self.prepare().await?;
        let options = format!("-e trace={call} -e inject={call}:signal=KILL:when={nth}");
        trace(self.vm, &options).await?;
        let answer = self.call().await;
        let (alive, _) = self
            .vm
            .try_sh(&format!("{UNTRACE} kill -0 $(cat /csi/pid)"))
            .await?;
        if alive != 0 {
            self.vm.start_plugin().await?;
        }
        self.finish().await?;
        self.verify().await?;
        Ok(alive != 0 || answer.is_err())
    }
}

/// Attaches to all threads of the plugin and waits until it is.
async fn trace(vm: &Machine, options: &str) -> Result<()> {
    vm.sh(&format!(
        "rm -f /csi/trace*; setsid strace -f -o /csi/trace {options} -p $(cat /csi/pid) 2>/csi/trace.err </dev/null &\n\
         echo $! >/csi/trace.pid\n\
         n=0; until grep -q attached /csi/trace.err; do sleep 0.02; n=$((n+1)); [ $n -lt 500 ]; done"
    ))
    .await?;
    Ok(())
}

/// Detaches, if there is anything left to detach from.
const UNTRACE: &str = "p=$(cat /csi/trace.pid); kill $p 2>/dev/null; while kill -0 $p 2>/dev/null; do sleep 0.01; done;";

/// Per kind of call the most that one thread made. Lines are `PID call(...`.
fn parse(log: &str) -> Vec<(String, usize)> {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for line in log.lines() {
        let Some((pid, rest)) = line.split_once(' ') else {
            continue;
        };
        if let Some((call, _)) = rest.trim_start().split_once('(')
            && call.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        {
            *counts.entry((pid, call)).or_default() += 1;
        }
    }
    let mut points = BTreeSet::new();
    for ((_, call), count) in counts {
        if call != "execve" {
            points.extend((1..=count.min(NTH)).map(|nth| (call.to_owned(), nth)));
        }
    }
    points.into_iter().collect()
}

async fn stages(lab: Arc<Lab>) -> Result<()> {
    matrix(&lab, |scenario| scenario.rpc == Rpc::Stage).await
}

async fn others(lab: Arc<Lab>) -> Result<()> {
    matrix(&lab, |scenario| scenario.rpc != Rpc::Stage).await
}

async fn matrix(lab: &Lab, which: fn(&Scenario) -> bool) -> Result<()> {
    let (mut tried, mut died, mut failed) = (0, 0, Vec::new());
    for scenario in SCENARIOS.into_iter().filter(which) {
        let started = Instant::now();
        let mut subject = Subject::new(lab, scenario).await.context(scenario.name)?;
        let points = subject.points().await.context(scenario.name)?;
        println!("         {}: {} points", scenario.name, points.len());
        for (call, nth) in &points {
            tried += 1;
            match subject.attempt(call, *nth).await {
                Ok(dead) => died += usize::from(dead),
                Err(error) => {
                    println!(
                        "         FAILED {} at {call} #{nth}: {error:#}",
                        scenario.name
                    );
                    failed.push(format!("{} at {call} #{nth}", scenario.name));
                    break;
                }
            }
        }
        lab.vm().unplug(&subject.volume.plug.id).await?;
        println!(
            "         {}: {:.0} s",
            scenario.name,
            started.elapsed().as_secs_f64()
        );
    }
    println!(
        "         node kill: {tried} points, {} recovered ({died} of them killed something)",
        tried - failed.len()
    );
    ensure!(failed.is_empty(), "not recovered: {failed:?}");
    ensure!(
        tried >= AT_LEAST && died * 10 >= tried * 7,
        "the matrix did not run"
    );
    Ok(())
}
