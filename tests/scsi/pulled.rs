//! Disks that vanish while they are in use: the hypervisor asks nobody.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};

use crate::lab::Lab;
use crate::volume::Volume;
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case!(
        "a pulled ext4 comes back under a new name with its data",
        ext4
    ),
    case!(
        "a pulled ext3 comes back under a new name with its data",
        ext3
    ),
    case!(
        "a pulled xfs comes back under a new name with its data",
        xfs
    ),
    case!(
        "a pulled btrfs comes back under a new name with its data",
        btrfs
    ),
    case!(
        "a pulled raw disk comes back under a new name with its data",
        raw
    ),
    case!(
        "a pulled disk is put away without its device",
        gone_for_good
    ),
    case!(
        "putting a pulled raw disk away does not touch the disk that has its name now",
        renamed
    ),
    case!(
        "a disk that was pulled and plugged again is released at unstage",
        plugged_again
    ),
];

async fn ext4(lab: Arc<Lab>) -> Result<()> {
    pulled(&lab, "ext4").await
}
async fn ext3(lab: Arc<Lab>) -> Result<()> {
    pulled(&lab, "ext3").await
}
async fn xfs(lab: Arc<Lab>) -> Result<()> {
    pulled(&lab, "xfs").await
}
async fn btrfs(lab: Arc<Lab>) -> Result<()> {
    pulled(&lab, "btrfs").await
}
async fn raw(lab: Arc<Lab>) -> Result<()> {
    pulled(&lab, "block").await
}

/// Pulled under a running pod. The volume's health says so; staging it again clears what is dead.
async fn pulled(lab: &Lab, form: &str) -> Result<()> {
    let vm = lab.vm();
    let volume = Volume::new(lab, form, 512, 3)?;
    volume.up(vm).await?;
    let sum = volume.write(vm, 1).await?;
    vm.unplug(&volume.plug.id).await?;
    vm.wait_for_disks(0).await?;
    // A pod that goes on writing hits the dead disk.
    vm.try_sh(&format!("echo x >{}/more; sync", volume.target()))
        .await?;
    let health = volume.health(vm).await.context("health of a pulled disk")?;
    ensure!(
        health.iter().any(|told| told.contains("DeviceGone")),
        "health of a pulled disk: {health:?}"
    );
    // Another disk takes the old name, so that the volume's gets a new one.
    let other = Volume::new(lab, "block", 64, 9)?;
    vm.plug(&other.plug).await?;
    vm.wait_for_disks(1).await?;
    vm.plug(&volume.plug).await?;
    vm.wait_for_disks(2).await?;
    // The kubelet's order after the pod was deleted; without it the dead file system is still mounted in the pod.
    volume
        .unpublish(vm)
        .await
        .context("unpublish a dead disk")?;
    volume.stage(vm).await.context("stage again")?;
    volume.publish(vm).await.context("publish again")?;
    ensure!(volume.read(vm, 1).await? == sum, "other data than before");
    volume.down(vm).await?;
    vm.unplug(&other.plug.id).await
}

/// The disk does not come back: unpublish and unstage succeed, bounded, and nothing stays.
async fn gone_for_good(lab: Arc<Lab>) -> Result<()> {
    let vm = lab.vm();
    for form in ["ext4", "xfs", "btrfs", "block"] {
        let volume = Volume::new(&lab, form, 512, 3)?;
        volume.up(vm).await?;
        vm.unplug(&volume.plug.id).await?;
        vm.wait_for_disks(0).await?;
        volume.unpublish(vm).await.context("unpublish")?;
        volume.unstage(vm).await.context("unstage")?;
    }
    Ok(())
}

/// Nobody has the node open, so the kernel gives the number to the next disk.
async fn renamed(lab: Arc<Lab>) -> Result<()> {
    let vm = lab.vm();
    let volume = Volume::new(&lab, "block", 64, 3)?;
    volume.up(vm).await?;
    vm.unplug(&volume.plug.id).await?;
    vm.wait_for_disks(0).await?;
    let other = Volume::new(&lab, "block", 64, 4)?;
    other.up(vm).await?;
    let sum = other.write(vm, 1).await?;
    let health = volume.health(vm).await?;
    ensure!(health[0].contains("DeviceGone"), "health: {health:?}");
    volume.unpublish(vm).await.context("unpublish")?;
    volume.unstage(vm).await.context("unstage")?;
    ensure!(vm.disks().await?.len() == 1, "the other disk was deleted");
    ensure!(other.read(vm, 1).await? == sum);
    other.down(vm).await
}

async fn plugged_again(lab: Arc<Lab>) -> Result<()> {
    let vm = lab.vm();
    for form in ["ext4", "xfs", "btrfs", "block"] {
        let volume = Volume::new(&lab, form, 512, 3)?;
        volume.up(vm).await?;
        vm.unplug(&volume.plug.id).await?;
        vm.wait_for_disks(0).await?;
        vm.plug(&volume.plug).await?;
        vm.wait_for_disks(1).await?;
        volume.unpublish(vm).await.context("unpublish")?;
        volume.unstage(vm).await.context("unstage")?;
        let left = vm.disks().await?;
        ensure!(
            left.is_empty(),
            "{form}: {left:?} would be pulled under the kernel"
        );
        vm.unplug(&volume.plug.id).await?;
    }
    Ok(())
}
