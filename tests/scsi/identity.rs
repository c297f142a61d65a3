//! A VM that is deaf to hot-plug messages (`use_msg=0`): what sysfs shows may be what was there before.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use tonic::Code;

use crate::lab::Lab;
use crate::machine::Machine;
use crate::volume::Volume;
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case!(
        "a disk whose hot-plug message was lost is found",
        lost_message
    ),
    case!(
        "a dead device at the address does not hide the disk behind it",
        stale
    ),
    case!(
        "what is behind a stale device is never formatted for another",
        stale_with_data
    ),
    case!("swapped slots are refused and no byte changes", swapped),
    case!("a disk exchanged under a live mount is told", exchanged),
    case!(
        "a volume that promises no UUID gets no other disk than before on this node",
        unpromised
    ),
];

/// Writes its serial, so that the kernel's view can be told from the truth.
async fn serial(vm: &Machine, disk: &str) -> Result<String> {
    vm.sh(&format!("tail -c +5 /sys/block/{disk}/device/vpd_pg80"))
        .await
}

/// Checksum of an image's allocated parts.
#[allow(clippy::disallowed_methods, reason = "a test's own tool")]
pub(crate) fn checksum(image: &Path) -> Result<String> {
    let output = Command::new("md5sum").arg(image).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Makes a file system on a volume's disk through the driver, and puts the disk away.
async fn filled(vm: &Machine, volume: &Volume) -> Result<String> {
    volume.up(vm).await?;
    let sum = volume.write(vm, 1).await?;
    volume.down(vm).await?;
    Ok(sum)
}

async fn lost_message(lab: Arc<Lab>) -> Result<()> {
    let vm = lab.vm();
    for form in ["ext4", "block"] {
        let volume = Volume::new(&lab, form, 256, 5)?;
        vm.plug(&volume.plug).await?;
        vm.sh("sleep 0.5").await?;
        ensure!(vm.disks().await?.is_empty(), "this VM is not deaf");
        volume.stage(vm).await.context("stage")?;
        volume.publish(vm).await.context("publish")?;
        let sum = volume.write(vm, 1).await?;
        ensure!(volume.read(vm, 1).await? == sum);
        volume.down(vm).await?;
    }
    Ok(())
}

/// Leaves a dead device of `old` at its address, with `new` behind it.
async fn disguise(vm: &Machine, old: &Volume, new: &Volume) -> Result<()> {
    vm.plug(&old.plug).await?;
    vm.sh(&format!(
        "echo 0 {} 0 >/sys/class/scsi_host/host0/scan",
        old.plug.target
    ))
    .await?;
    let shown = vm.wait_for_disks(1).await?;
    vm.unplug(&old.plug.id).await?;
    vm.plug(&new.plug).await?;
    let serial = serial(vm, &shown[0]).await?;
    ensure!(
        Some(&serial) == old.plug.serial.as_ref(),
        "sysfs does not show the old disk but {serial}"
    );
    Ok(())
}

async fn stale(lab: Arc<Lab>) -> Result<()> {
    let vm = lab.vm();
    let old = Volume::new(&lab, "ext4", 256, 6)?;
    let mut new = Volume::new(&lab, "ext4", 512, 6)?;
    new.publish_context
        .insert("sizeGib".to_owned(), "0".to_owned());
    let sum = filled(vm, &new).await?;
    disguise(vm, &old, &new).await?;
    new.stage(vm).await.context("stage")?;
    new.publish(vm).await.context("publish")?;
    ensure!(new.read(vm, 1).await? == sum, "other data");
    let disks = vm.disks().await?;
    let shown = serial(vm, &disks[0]).await?;
    ensure!(Some(&shown) == new.plug.serial.as_ref(), "serial {shown}");
    new.down(vm).await
}

/// sysfs shows a blank disk; behind it is another volume's data.
async fn stale_with_data(lab: Arc<Lab>) -> Result<()> {
    let vm = lab.vm();
    let blank = Volume::new(&lab, "ext4", 512, 6)?.promised();
    for form in ["ext4", "xfs"] {
        let victim = Volume::new(&lab, form, 512, 6)?;
        filled(vm, &victim).await?;
        let before = checksum(&victim.plug.file)?;
        disguise(vm, &blank, &victim).await?;
        let status = blank
            .stage(vm)
            .await
            .err()
            .context("staged another's disk")?;
        println!("         {form}: {:?}: {}", status.code(), status.message());
        ensure!(status.code() == Code::FailedPrecondition, "{status:?}");
        vm.unplug(&victim.plug.id).await?;
        vm.sh("for d in /sys/block/sd*; do echo 1 >$d/device/delete; done")
            .await?;
        ensure!(checksum(&victim.plug.file)? == before, "bytes changed");
    }
    Ok(())
}

async fn swapped(lab: Arc<Lab>) -> Result<()> {
    let vm = lab.vm();
    let mut pair = Vec::new();
    for target in [2, 3] {
        let volume = Volume::new(&lab, "ext4", 256, target)?.promised();
        filled(vm, &volume).await?;
        pair.push(volume);
    }
    let before = [checksum(&pair[0].plug.file)?, checksum(&pair[1].plug.file)?];
    let (a, b) = (pair[0].plug.target, pair[1].plug.target);
    // The cloud said one slot, the hypervisor used the other.
    (pair[0].plug.target, pair[1].plug.target) = (b, a);
    for volume in &pair {
        vm.plug(&volume.plug).await?;
    }
    for volume in &pair {
        let status = volume
            .stage(vm)
            .await
            .err()
            .context("staged the other's disk")?;
        println!("         {:?}: {}", status.code(), status.message());
        ensure!(status.code() == Code::FailedPrecondition, "{status:?}");
    }
    vm.sh("for d in /sys/block/sd*; do echo 1 >$d/device/delete; done")
        .await?;
    for volume in &pair {
        vm.unplug(&volume.plug.id).await?;
    }
    let after = [checksum(&pair[0].plug.file)?, checksum(&pair[1].plug.file)?];
    ensure!(before == after, "bytes changed");
    Ok(())
}

/// The worst of all: the file system in the kernel's memory is one disk's, the bytes below it another's.
async fn exchanged(lab: Arc<Lab>) -> Result<()> {
    let vm = lab.vm();
    let volume = Volume::new(&lab, "ext4", 256, 6)?;
    let other = Volume::new(&lab, "ext4", 256, 6)?;
    volume.up(vm).await?;
    vm.sh("sync").await?;
    vm.unplug(&volume.plug.id).await?;
    vm.plug(&other.plug).await?;
    let status = volume
        .stage(vm)
        .await
        .err()
        .context("staged over an exchanged disk")?;
    println!("         stage: {:?}: {}", status.code(), status.message());
    let health = volume.health(vm).await?;
    ensure!(health[0].contains("WrongDevice"), "health: {health:?}");
    let status = volume
        .publish(vm)
        .await
        .err()
        .context("published an exchanged disk")?;
    println!(
        "         publish: {:?}: {}",
        status.code(),
        status.message()
    );
    volume.unpublish(vm).await?;
    volume.unstage(vm).await?;
    vm.unplug(&other.plug.id).await
}

/// As those of the Go driver. Between two stages the slot gets another disk, with or without a file system.
async fn unpromised(lab: Arc<Lab>) -> Result<()> {
    let vm = lab.vm();
    for form in ["ext4", "xfs"] {
        let volume = Volume::new(&lab, form, 512, 6)?;
        let sum = filled(vm, &volume).await?;
        let stranger = Volume::new(&lab, form, 512, 6)?;
        filled(vm, &stranger).await?;
        let blank = Volume::new(&lab, form, 512, 6)?;
        for other in [&stranger, &blank] {
            let before = checksum(&other.plug.file)?;
            vm.plug(&other.plug).await?;
            let status = volume
                .stage(vm)
                .await
                .err()
                .context("staged another's disk")?;
            println!("         {form}: {:?}: {}", status.code(), status.message());
            ensure!(
                status.code() == Code::FailedPrecondition
                    && status.message().contains("on this node before"),
                "{status:?}"
            );
            vm.sh("for d in /sys/block/sd*; do echo 1 >$d/device/delete; done")
                .await?;
            vm.unplug(&other.plug.id).await?;
            ensure!(checksum(&other.plug.file)? == before, "bytes changed");
        }
        volume.up(vm).await.context("its own disk")?;
        ensure!(volume.read(vm, 1).await? == sum, "other data");
        volume.down(vm).await?;
    }
    Ok(())
}
