//! VMs that lose their power or reboot: what was synced is there, what was begun is finished by the next call.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::lab::Lab;
use crate::machine::Machine;
use crate::volume::Volume;
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case!(
        "synced data survives a power cut under a running pod",
        in_use,
        900
    ),
    case!(
        "a file system whose making lost its power is made again",
        while_formatting,
        900
    ),
    case!(
        "growth that lost its power is finished, with the data intact",
        while_growing,
        900
    ),
    case!(
        "a reboot in good order during a stage leaves nothing that the next stage does not finish",
        reboot_while_staging,
        900
    ),
    case!(
        "a reboot in good order under running pods loses no byte, synced or not",
        reboot_in_use,
        900
    ),
    case!(
        "after a reboot a volume is put away by its record of the boot before",
        records_of_before,
        900
    ),
];

const FORMS: [&str; 4] = ["ext4", "xfs", "btrfs", "ext3"];

/// All disks are in their slots before the VM boots again, as on the real cloud.
async fn power_cycle(vm: &Machine, volumes: &[Volume], records: bool) -> Result<()> {
    vm.power_cycle(records).await?;
    for volume in volumes {
        vm.plug(&volume.plug).await?;
    }
    vm.wait_for_disks(volumes.len()).await?;
    Ok(())
}

/// One volume of each kind, each in a slot of its own.
fn one_of_each(lab: &Lab, forms: &[&str], mib: u64) -> Result<Vec<Volume>> {
    let slots = 1_u8..;
    let volumes = forms.iter().zip(slots);
    volumes
        .map(|(form, target)| Volume::new(lab, form, mib, target))
        .collect()
}

async fn in_use(lab: Arc<Lab>) -> Result<()> {
    let vm = lab.vm();
    let forms = ["ext4", "xfs", "btrfs", "ext3", "block"];
    let volumes = one_of_each(&lab, &forms, 512)?;
    let mut sums = Vec::new();
    for volume in &volumes {
        volume.up(vm).await?;
        sums.push(volume.write(vm, 2).await?);
        if volume.plug.target < 5 {
            // Never synced: the journal has it or not, and both are right.
            vm.sh(&format!(
                "cd {}; for i in 1 2 3 4 5 6 7 8; do mkdir d$i; echo $i >d$i/f; done; rm -r d3",
                volume.target()
            ))
            .await?;
        }
    }
    power_cycle(vm, &volumes, true).await?;
    for (volume, sum) in volumes.iter().zip(sums) {
        volume.stage(vm).await.context("stage after the cut")?;
        volume.publish(vm).await.context("publish after the cut")?;
        ensure!(volume.read(vm, 2).await? == sum, "other data");
        let health = volume.health(vm).await?;
        ensure!(
            health[0].contains("health_statuses: []"),
            "after recovery: {health:?}"
        );
        volume.down(vm).await?;
    }
    Ok(())
}

/// The cuts come at other moments in each round; half-made disks are told from data by their marks.
async fn while_formatting(lab: Arc<Lab>) -> Result<()> {
    let vm = lab.vm();
    for wait in [300, 900] {
        // Large, so that making takes a while; ext3 writes all its inode tables.
        let mut volumes = one_of_each(&lab, &FORMS[..3], 60 << 10)?;
        volumes.push(Volume::new(&lab, FORMS[3], 8 << 10, 4)?);
        // The cut comes at another one each time.
        fastrand::shuffle(&mut volumes);
        for volume in &volumes {
            vm.plug(&volume.plug).await?;
        }
        let staging = async {
            let calls = volumes.iter().map(|volume| volume.stage(vm));
            for call in calls {
                let _ = call.await;
            }
        };
        tokio::select! {
            () = staging => {}
            () = sleep(Duration::from_millis(wait)) => {}
        }
        power_cycle(vm, &volumes, wait == 300).await?;
        for volume in &volumes {
            volume.stage(vm).await.context("stage after the cut")?;
            volume.publish(vm).await.context("publish after the cut")?;
            let sum = volume.write(vm, 1).await?;
            ensure!(volume.read(vm, 1).await? == sum, "other data");
            volume.down(vm).await?;
        }
    }
    Ok(())
}

/// SIGTERM comes in the middle of mkfs; the plugin drains what it can.
async fn reboot_while_staging(lab: Arc<Lab>) -> Result<()> {
    let vm = lab.vm();
    for (wait, records) in [(200, true), (800, false)] {
        let mut volumes = one_of_each(&lab, &FORMS[..3], 60 << 10)?;
        volumes.push(Volume::new(&lab, FORMS[3], 8 << 10, 4)?);
        fastrand::shuffle(&mut volumes);
        for volume in &volumes {
            vm.plug(&volume.plug).await?;
        }
        let staging = async {
            let mut calls = JoinSet::new();
            for volume in volumes.clone() {
                let lab = Arc::clone(&lab);
                calls.spawn(async move { volume.stage(lab.vm()).await.is_ok() });
            }
            calls.join_all().await
        };
        let rebooting = async {
            sleep(Duration::from_millis(wait)).await;
            vm.reboot(records).await
        };
        // Calls that the reboot cuts end with it.
        tokio::select! {
            biased;
            done = rebooting => done?,
            _ = async { staging.await; std::future::pending::<()>().await } => {}
        }
        for volume in &volumes {
            vm.plug(&volume.plug).await?;
        }
        vm.wait_for_disks(volumes.len()).await?;
        for volume in &volumes {
            volume.stage(vm).await.context("stage after the reboot")?;
            volume.publish(vm).await.context("publish after it")?;
            let sum = volume.write(vm, 1).await?;
            ensure!(volume.read(vm, 1).await? == sum, "other data");
            volume.down(vm).await?;
        }
    }
    Ok(())
}

async fn reboot_in_use(lab: Arc<Lab>) -> Result<()> {
    let vm = lab.vm();
    let volumes = one_of_each(&lab, &["ext4", "xfs", "btrfs", "ext3", "block"], 512)?;
    let mut sums = Vec::new();
    for volume in &volumes {
        volume.up(vm).await?;
        sums.push(volume.write(vm, 2).await?);
    }
    for volume in &volumes[..4] {
        // Not synced: unmounting does that.
        vm.sh(&format!("echo late >{}/late", volume.target()))
            .await?;
    }
    vm.reboot(true).await?;
    for volume in &volumes {
        vm.plug(&volume.plug).await?;
    }
    vm.wait_for_disks(volumes.len()).await?;
    for (volume, sum) in volumes.iter().zip(sums) {
        volume.stage(vm).await.context("stage after the reboot")?;
        volume.publish(vm).await.context("publish after it")?;
        ensure!(volume.read(vm, 2).await? == sum, "other data");
        if volume.plug.target < 5 {
            let late = vm.sh(&format!("cat {}/late", volume.target())).await?;
            ensure!(late == "late", "{late:?}");
        }
        volume.down(vm).await?;
    }
    Ok(())
}

async fn while_growing(lab: Arc<Lab>) -> Result<()> {
    let vm = lab.vm();
    for wait in [30, 200] {
        let volumes = one_of_each(&lab, &FORMS, 1024)?;
        let mut sums = Vec::new();
        for volume in &volumes {
            volume.up(vm).await?;
            sums.push(volume.write(vm, 2).await?);
            let mut monitor = vm.monitor().await?;
            monitor.resize(&volume.plug.id, 20 << 30).await?;
        }
        let growing = async {
            for volume in &volumes {
                let _ = volume.expand(vm, 20 << 10).await;
            }
        };
        tokio::select! {
            () = growing => {}
            () = sleep(Duration::from_millis(wait)) => {}
        }
        power_cycle(vm, &volumes, false).await?;
        for (volume, sum) in volumes.iter().zip(sums) {
            volume.stage(vm).await.context("stage after the cut")?;
            volume.publish(vm).await.context("publish after the cut")?;
            ensure!(volume.read(vm, 2).await? == sum, "other data");
            let mib = vm
                .sh(&format!(
                    "df -m {} | awk 'END {{print $2}}'",
                    volume.target()
                ))
                .await?;
            let mib: u64 = mib.parse()?;
            ensure!(mib > 19_000, "grown to {mib} MiB only");
            volume.down(vm).await?;
        }
    }
    Ok(())
}

/// The kubelet unstages what its pods of before used. Device numbers are new; serial numbers are not.
async fn records_of_before(lab: Arc<Lab>) -> Result<()> {
    let vm = lab.vm();
    let mut volumes = one_of_each(&lab, &["ext4", "block", "xfs"], 512)?;
    for volume in &volumes {
        volume.up(vm).await?;
    }
    vm.sh("sync").await?;
    // Two change places meanwhile: nobody's record may be used to delete the other's device.
    vm.power_cycle(true).await?;
    let (a, b) = (volumes[0].plug.target, volumes[1].plug.target);
    (volumes[0].plug.target, volumes[1].plug.target) = (b, a);
    for volume in &volumes {
        vm.plug(&volume.plug).await?;
    }
    vm.wait_for_disks(3).await?;
    for (volume, left) in volumes.iter().zip([3, 3, 2]) {
        volume.unstage(vm).await.context("unstage")?;
        let disks = vm.disks().await?;
        ensure!(
            disks.len() == left,
            "{disks:?} after unstage of {}",
            volume.id
        );
    }
    vm.sh("for d in /sys/block/sd*; do echo 1 >$d/device/delete; done")
        .await?;
    for volume in &volumes {
        vm.unplug(&volume.plug.id).await?;
    }
    Ok(())
}
