//! What the plugin adds to the kernel's own work, on the same disk in the same VM. With `BENCH_ROWS`
//! set, which `make bench` does for the release binary, the rows go to `target/bench.json`, beside the others.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::machine::Machine;
use crate::volume::Volume;
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[case!(
    "stage, unstage and hot-plug are measured over the kernel's own time",
    measure,
    600
)];

const ROUNDS: usize = 11;

fn median(mut samples: Vec<Duration>) -> f64 {
    samples.sort_unstable();
    samples[samples.len() / 2].as_secs_f64() * 1e3
}

async fn measure(lab: Arc<Lab>) -> Result<()> {
    let vm = lab.vm();
    let mut rows = Vec::new();
    for form in ["ext4", "xfs"] {
        let volume = Volume::new(&lab, form, 1024, 3)?.promised();
        volume.up(vm).await?;
        volume.write(vm, 1).await?;
        volume.unpublish(vm).await?;
        volume.unstage(vm).await?;
        let (mut stages, mut mounts, mut unstages, mut leaves) = (vec![], vec![], vec![], vec![]);
        for _ in 0..ROUNDS {
            appear(vm).await?;
            volume.stage(vm).await?;
            stages.push(vm.took("NodeStageVolume").await?);
            volume.unstage(vm).await?;
            unstages.push(vm.took("NodeUnstageVolume").await?);
            let disk = appear(vm).await?;
            vm.sh("mkdir -p /mnt/raw").await?;
            mounts.push(
                vm.time(&format!("MOUNT /dev/{disk} /mnt/raw {form}"))
                    .await?,
            );
            let delete = format!("/sys/block/{disk}/device/delete");
            leaves.push(vm.time(&format!("LEAVE /mnt/raw {delete}")).await?);
        }
        vm.unplug(&volume.plug.id).await?;
        let pairs = [
            ("stage_over_mount", stages, mounts, 3.0),
            ("unstage_over_umount_delete", unstages, leaves, 2.0),
        ];
        for (name, ours, kernels, goal) in pairs {
            let (ours, kernels) = (median(ours), median(kernels));
            println!("         {form}: {name}: {ours:.1} ms over {kernels:.1} ms");
            rows.push(row(&format!("scsi_{name}/{form}"), ours / kernels, goal));
        }
    }
    rows.push(hot_plug(&lab).await?);
    for row in &rows {
        println!(
            "         {} {:.2} x (goal {})",
            row["name"],
            row["value"].as_f64().unwrap_or(f64::NAN),
            row["bound"]
        );
    }
    // Figures of an unoptimised binary are nobody's.
    if std::env::var_os("BENCH_ROWS").is_some() {
        store(rows)?;
    }
    Ok(())
}

/// Lets the kernel find the disk in its slot again.
async fn appear(vm: &Machine) -> Result<String> {
    vm.sh("echo 0 3 0 >/sys/class/scsi_host/host0/scan").await?;
    let disks = vm.wait_for_disks(1).await?;
    Ok(disks[0].clone())
}

/// From the moment at which QEMU has the disk to a staged raw volume, over the same to the node in /dev, both seen
/// from outside.
async fn hot_plug(lab: &Lab) -> Result<Value> {
    let vm = lab.vm();
    let (mut stages, mut events) = (vec![], vec![]);
    for round in 0..2 * ROUNDS {
        let volume = Volume::new(lab, "block", 64, 5)?;
        let waiting = vm.sh("until [ -b /dev/sda ]; do usleep 1000; done");
        vm.monitor().await?.plug(&volume.plug).await?;
        let plugged = Instant::now();
        // One or the other: together they would slow each other down.
        if round % 2 == 0 {
            volume.stage(vm).await?;
            stages.push(plugged.elapsed());
            volume.unstage(vm).await?;
        } else {
            waiting.await?;
            events.push(plugged.elapsed());
        }
        vm.unplug(&volume.plug.id).await?;
        vm.wait_for_disks(0).await?;
    }
    let (ours, kernels) = (median(stages), median(events));
    println!("         hot-plug to ready: {ours:.1} ms over {kernels:.1} ms");
    Ok(row("scsi_ready_over_kernel_event", ours / kernels, 2.0))
}

fn row(name: &str, value: f64, goal: f64) -> Value {
    json!({ "name": name, "value": value, "unit": "x", "bound": goal, "ratio": value / goal })
}

/// Replaces the rows of an earlier run, keeps all others.
fn store(rows: Vec<Value>) -> Result<()> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let file = target.join("bench.json");
    let mut all: Vec<Value> = match std::fs::read(&file) {
        Ok(text) => serde_json::from_slice(&text).context("bench.json of an earlier run")?,
        Err(_) => Vec::new(),
    };
    all.retain(|row| {
        !row["name"]
            .as_str()
            .unwrap_or_default()
            .starts_with("scsi_")
    });
    all.extend(rows);
    ensure!(all.len() >= 5, "no rows");
    std::fs::create_dir_all(&target)?;
    std::fs::write(&file, serde_json::to_vec_pretty(&all)?)?;
    Ok(())
}
