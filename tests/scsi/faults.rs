//! Disks that cannot be written, cannot be read, or hang on the second controller.

use std::sync::Arc;
use std::time::Duration;

use additional_storage_csi::proto::csi::v1::volume_capability::access_mode::Mode;
use anyhow::{Context as _, Result, ensure};
use tonic::Code;

use crate::identity::checksum;
use crate::lab::Lab;
use crate::volume::Volume;
use crate::{Case, case};

/// For disks that do not become usable.
const SHORT: Duration = Duration::from_secs(8);

pub(crate) const CASES: &[Case] = &[
    case!(
        "a write-protected disk is read but never written",
        read_only
    ),
    case!(
        "a disk that cannot be read at a region is not taken for blank",
        unreadable
    ),
    case!(
        "a bad sector in a pod's data is an I/O error and nothing worse",
        bad_data
    ),
    case!(
        "disks of two controllers at the same target are not mixed up",
        two_controllers
    ),
    case!(
        "the second controller is missing: the message says so",
        no_controller
    ),
];

async fn read_only(lab: Arc<Lab>) -> Result<()> {
    let vm = lab.vm();
    for form in ["ext4", "xfs", "btrfs", "ext3"] {
        let mut volume = Volume::new(&lab, form, 512, 3)?;
        volume.plug.read_only = true;
        vm.plug(&volume.plug).await?;
        let status = volume
            .stage(vm)
            .await
            .err()
            .context("staged a protected disk to write")?;
        ensure!(
            status.code() == Code::FailedPrecondition,
            "{form}: {status:?}"
        );
        volume.mode = Mode::SingleNodeReaderOnly;
        let status = volume
            .stage(vm)
            .await
            .err()
            .context("staged a blank disk to read")?;
        ensure!(
            status.code() == Code::FailedPrecondition,
            "{form}: {status:?}"
        );
        vm.sh("for d in /sys/block/sd*; do echo 1 >$d/device/delete; done")
            .await?;
        vm.unplug(&volume.plug.id).await?;

        (volume.mode, volume.plug.read_only) = (Mode::SingleNodeWriter, false);
        volume.up(vm).await?;
        let sum = volume.write(vm, 1).await?;
        volume.down(vm).await?;
        let before = checksum(&volume.plug.file)?;
        (volume.mode, volume.plug.read_only) = (Mode::SingleNodeReaderOnly, true);
        volume
            .up(vm)
            .await
            .with_context(|| format!("{form} read-only"))?;
        ensure!(volume.read(vm, 1).await? == sum, "other data");
        let (code, _) = vm
            .try_sh(&format!("echo x >{}/more", volume.target()))
            .await?;
        ensure!(code != 0, "{form}: written to a read-only volume");
        volume.down(vm).await?;
        ensure!(
            checksum(&volume.plug.file)? == before,
            "{form}: bytes changed"
        );
    }
    Ok(())
}

/// First, middle and last region; the disk is blank everywhere else. All of them are looked at before a format.
async fn unreadable(lab: Arc<Lab>) -> Result<()> {
    let vm = lab.vm();
    let sectors: u64 = (256 << 20) / 512;
    for bad in [0, 128, sectors / 2, sectors - 8] {
        let mut volume = Volume::new(&lab, "ext4", 256, 3)?;
        volume.plug.bad_sectors = vec![bad];
        vm.plug(&volume.plug).await?;
        // A disk whose first sector cannot be read counts as not ready yet: the driver waits as long as its caller.
        let outcome = match bad {
            0 => volume.stage_within(vm, SHORT).await,
            _ => volume.stage(vm).await,
        };
        let after = checksum(&volume.plug.file)?;
        let status = outcome
            .err()
            .with_context(|| format!("sector {bad}: taken for blank"))?;
        println!("         sector {bad}: {}", status.message());
        ensure!(
            bad == 0
                || status.code() == Code::FailedPrecondition
                    && status.message().contains("cannot be read"),
            "sector {bad}: {status:?}"
        );
        let blank = lab.image(256)?;
        ensure!(
            after.split(' ').next() == checksum(&blank)?.split(' ').next(),
            "sector {bad}: bytes changed"
        );
        vm.sh("for d in /sys/block/sd*; do echo 1 >$d/device/delete; done")
            .await?;
        vm.unplug(&volume.plug.id).await?;
    }
    Ok(())
}

async fn bad_data(lab: Arc<Lab>) -> Result<()> {
    let vm = lab.vm();
    let mut volume = Volume::new(&lab, "ext4", 512, 3)?;
    volume.up(vm).await?;
    let sum = volume.write(vm, 1).await?;
    let t = volume.target();
    vm.sh(&format!(
        "dd if=/dev/urandom of={t}/bad bs=1M count=32 conv=fsync 2>/dev/null; sync"
    ))
    .await?;
    volume.down(vm).await?;
    // Somewhere in the second file: the image's allocated area after the first.
    let image = std::fs::read(&volume.plug.file)?;
    let used = image
        .chunks(1 << 20)
        .rposition(|mib| mib.iter().filter(|byte| **byte == 0).count() < mib.len() / 100);
    let sector = u64::try_from(used.context("no data in the image")?)? * 2048 + 64;
    volume.plug.bad_sectors = vec![sector];
    volume
        .up(vm)
        .await
        .context("stage with a bad sector in the data")?;
    let (code, _) = vm.try_sh(&format!("cat {t}/bad >/dev/null")).await?;
    ensure!(code != 0, "sector {sector} was read");
    ensure!(volume.read(vm, 1).await? == sum, "the other file suffers");
    volume.down(vm).await
}

async fn two_controllers(lab: Arc<Lab>) -> Result<()> {
    let vm = lab.vm();
    let mut pair = Vec::new();
    for bus in [0, 1] {
        let mut volume = Volume::new(&lab, "ext4", 512, 3)?;
        volume.at(bus, 3);
        volume.up(vm).await.with_context(|| format!("bus {bus}"))?;
        let sum = volume.write(vm, 1).await?;
        let serial = vm
            .sh(&format!(
                "d=$(awk '$2==\"{}\" {{print $1}}' /proc/mounts); tail -c +5 /sys/block/${{d#/dev/}}/device/vpd_pg80",
                volume.target()
            ))
            .await?;
        ensure!(
            Some(serial) == volume.plug.serial,
            "bus {bus}: another disk is mounted"
        );
        pair.push((volume, sum));
    }
    for (volume, sum) in pair {
        ensure!(volume.read(vm, 1).await? == sum);
        volume.down(vm).await?;
    }
    Ok(())
}

async fn no_controller(lab: Arc<Lab>) -> Result<()> {
    let mut volume = Volume::new(&lab, "ext4", 512, 3)?;
    volume.at(2, 3);
    let status = volume
        .stage_within(lab.vm(), SHORT)
        .await
        .err()
        .context("found a disk on no controller")?;
    println!("         {:?}: {}", status.code(), status.message());
    ensure!(
        status.message().contains("2 SCSI controllers"),
        "{status:?}"
    );
    Ok(())
}
