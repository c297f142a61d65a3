//! What is shown: each step while it runs (on a terminal), its line when it ends, a table at the end.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use tokio_util::sync::CancellationToken;

use super::Stopped;
use super::world::{Abilities, Left, VMS, World};
use crate::emulator::Event;

/// Calls that take the cloud long.
const SLOW: [&str; 5] = [
    "CreateVolume",
    "AttachVolume",
    "DetachVolume",
    "ExtendVolumeSize",
    "DeleteVolume",
];
const FRAMES: [char; 4] = ['|', '/', '-', '\\'];
const TICK: Duration = Duration::from_millis(100);

struct Row {
    text: String,
    took: Duration,
    cloud: Duration,
    calls: String,
}

/// The cloud's counters at one moment.
#[derive(Debug, Default)]
struct Mark {
    event: u64,
    calls: BTreeMap<String, u64>,
}

/// See the module's documentation.
pub(super) struct Show {
    terminal: bool,
    stop: CancellationToken,
    rows: Vec<Row>,
    left_out: Vec<String>,
    started: Instant,
}

fn mark(world: &World) -> Mark {
    let control = world.emulator.control();
    let event = control.history().last().map_or(0, |event| event.id);
    Mark {
        event,
        calls: control.calls(),
    }
}

/// How long the cloud itself was at work: the time covered by its operations.
fn share(events: &[Event]) -> Duration {
    let mut spans: Vec<(u64, u64)> = events
        .iter()
        .filter_map(|event| Some((event.at_ms, event.done_ms?)))
        .collect();
    spans.sort_unstable();
    let (mut total, mut until) = (0, 0);
    for (from, to) in spans {
        total += to.saturating_sub(from.max(until));
        until = until.max(to);
    }
    Duration::from_millis(total)
}

/// The slow calls by name, all others as a number.
fn cost(before: &Mark, world: &World) -> String {
    let mut parts = Vec::new();
    let mut others = 0;
    for (action, count) in world.emulator.control().calls() {
        let new = count.saturating_sub(before.calls.get(&action).copied().unwrap_or(0));
        match (SLOW.contains(&action.as_str()), new) {
            (_, 0) => {}
            (true, 1) => parts.push(action),
            (true, _) => parts.push(format!("{new} {action}")),
            (false, _) => others += new,
        }
    }
    if others > 0 {
        parts.push(format!("{others} quick"));
    }
    if parts.is_empty() {
        "-".to_owned()
    } else {
        parts.join(" + ")
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

impl Show {
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self {
            terminal: std::io::stdout().is_terminal(),
            stop,
            rows: Vec::new(),
            left_out: Vec::new(),
            started: Instant::now(),
        }
    }

    /// A line of its own.
    pub(super) fn plain(&self, text: &str) {
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        println!("{clear}{text}");
    }

    pub(super) fn interrupted(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub(super) fn title(&self, abilities: &Abilities, dir: &Path) {
        self.plain(
            "A claim's whole life: emulated NIFCLOUD, real driver, real sockets, real disks.",
        );
        let vms: Vec<String> = VMS
            .iter()
            .map(|(vm, zone)| format!("{vm} ({zone})"))
            .collect();
        self.plain(&format!(
            "VMs: {}. Files: {} (removed at the end).",
            vms.join(", "),
            dir.display()
        ));
        if abilities.lab.is_some() {
            self.plain("Booting two of the VMs in QEMU: their disks hang on VMware's paravirtual SCSI controller.");
        }
        if let Some(why) = &abilities.no_mounts {
            self.plain(&format!("No real disks: {why}."));
            self.plain(
                "The cloud's side of every step runs; formatting, mounting and data are left out.",
            );
        }
        self.plain("");
    }

    /// Begins a group of steps.
    pub(super) fn chapter(&self, text: &str) {
        self.plain(&format!("== {text}"));
    }

    /// Notes that something cannot be done here.
    pub(super) fn leave_out(&mut self, what: &str) {
        self.plain(&format!("   left out: {what}"));
        self.left_out.push(what.to_owned());
    }

    /// Runs a step and shows it.
    pub(super) async fn step<T, E>(
        &mut self,
        world: &World,
        text: &str,
        work: impl Future<Output = Result<T, E>>,
    ) -> anyhow::Result<T>
    where
        anyhow::Error: From<E>,
    {
        let (before, started) = (mark(world), Instant::now());
        let result = self.watched(text, work).await?;
        let took = started.elapsed();
        let events: Vec<Event> = world
            .emulator
            .control()
            .history()
            .into_iter()
            .filter(|event| event.id > before.event)
            .collect();
        let row = Row {
            text: text.to_owned(),
            took,
            cloud: share(&events).min(took),
            calls: cost(&before, world),
        };
        let verdict = if result.is_ok() { "ok  " } else { "FAIL" };
        self.plain(&format!(
            "   {verdict} {:<58} {:>8}  cloud {:>8}  {}",
            row.text,
            seconds(row.took),
            seconds(row.cloud),
            row.calls
        ));
        self.rows.push(row);
        result.map_err(|error| anyhow::Error::from(error).context(text.to_owned()))
    }

    /// Runs a step that must be refused, and shows the words that a user reads.
    pub(super) async fn refused<T>(
        &mut self,
        world: &World,
        text: &str,
        work: impl Future<Output = Result<T, tonic::Status>>,
    ) -> anyhow::Result<()> {
        let refusal = async {
            match work.await {
                Ok(_) => Err(anyhow!("was done, but must be refused")),
                Err(status) => Ok(status),
            }
        };
        let status = self.step(world, text, refusal).await?;
        self.plain(&format!(
            "        {:?}: {}",
            status.code(),
            status.message()
        ));
        Ok(())
    }

    async fn watched<T>(&self, text: &str, work: impl Future<Output = T>) -> Result<T, Stopped> {
        tokio::pin!(work);
        let started = Instant::now();
        let mut tick = tokio::time::interval(TICK);
        let mut frames = FRAMES.iter().cycle();
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Stopped),
                result = &mut work => return Ok(result),
                _ = tick.tick() => {
                    if self.terminal && let Some(frame) = frames.next() {
                        print!("\r\x1b[K   {frame}    {text:<58} {:>8}", seconds(started.elapsed()));
                        let _ = std::io::stdout().flush();
                    }
                }
            }
        }
    }

    /// The table and the counts.
    pub(super) fn end(&self, abilities: &Abilities, left: &Left) {
        self.plain("");
        self.plain(&format!(
            "{:<58} {:>9} {:>9} {:>9}  {}",
            "step", "time", "cloud", "rest", "calls to the cloud"
        ));
        let (mut took, mut cloud) = (Duration::ZERO, Duration::ZERO);
        for row in &self.rows {
            let own = row.took.saturating_sub(row.cloud);
            self.plain(&format!(
                "{:<58} {:>9} {:>9} {:>9}  {}",
                row.text,
                seconds(row.took),
                seconds(row.cloud),
                seconds(own),
                row.calls
            ));
            took += row.took;
            cloud += row.cloud;
        }
        let own = seconds(took.saturating_sub(cloud));
        self.plain(&format!(
            "{:<58} {:>9} {:>9} {own:>9}",
            "all",
            seconds(took),
            seconds(cloud)
        ));
        self.plain("");
        if let Some(why) = &abilities.no_mounts {
            self.plain(&format!(
                "LEFT OUT everything with real disks, because {why}"
            ));
        }
        for what in &self.left_out {
            self.plain(&format!("LEFT OUT {what}"));
        }
        self.plain(&format!(
            "left behind: disks {}, {} {}, mounts {}   ({} in all)",
            left.disks,
            if abilities.lab.is_some() {
                "SCSI devices in the VMs"
            } else {
                "loop devices"
            },
            left.devices,
            left.mounts,
            seconds(self.started.elapsed())
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at_ms: u64, done_ms: Option<u64>) -> Event {
        Event {
            id: 1,
            action: "CreateVolume".to_owned(),
            disk: None,
            vm: None,
            at_ms,
            committed: true,
            done_ms,
            code: None,
        }
    }

    #[test]
    fn operations_at_the_same_time_are_the_clouds_time_once() {
        let events = [
            event(100, Some(300)),
            event(150, Some(250)),
            event(290, Some(400)),
            event(500, None),
            event(600, Some(610)),
        ];
        assert_eq!(share(&events), Duration::from_millis(310));
    }
}
