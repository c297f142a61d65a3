//! Device mapper and software RAID on a volume's disk: who holds a disk is named, and waited for.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use tonic::{Code, Status};

use crate::identity::checksum;
use crate::lab::Lab;
use crate::machine::Machine;
use crate::volume::Volume;
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case!(
        "a disk that device mapper holds is refused by the holder's name",
        mapped
    ),
    case!(
        "a disk that a RAID holds is refused by the array's name, and without it as a member",
        array
    ),
    case!(
        "an unstage waits for the holder, bounded, names it, and is finished later",
        left_behind
    ),
];

/// Takes device-mapper devices for what they are, without udev.
const DMSETUP: &str = "DM_DISABLE_UDEV=1 dmsetup";

/// Where this machine has a program of the package that `prepare.sh` installs.
fn program(name: &str) -> Result<PathBuf> {
    let places = ["/usr/sbin", "/sbin", "/usr/bin"].map(|dir| Path::new(dir).join(name));
    let found = places.into_iter().find(|path| path.exists());
    found.with_context(|| format!("{name} is not installed: run scripts/prepare.sh scsi"))
}

/// Brings a program with its libraries, and kernel modules, into the VM.
#[allow(clippy::disallowed_methods, reason = "a test's own tool")]
async fn bring(lab: &Lab, name: &str, modules: &[&str]) -> Result<()> {
    let vm = lab.vm();
    let path = program(name)?;
    let listed = Command::new("ldd").arg(&path).output()?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let libraries = listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    for library in libraries {
        let (code, _) = vm.try_sh(&format!("[ -e {library} ]")).await?;
        if code != 0 {
            let dir = Path::new(library).parent().context("a library")?;
            vm.sh(&format!("mkdir -p {}", dir.display())).await?;
            vm.put(Path::new(library), library).await?;
        }
    }
    vm.put(&path, &format!("/usr/sbin/{name}")).await?;
    for module in modules {
        let file = format!("kernel/drivers/md/{module}.ko");
        let inside = format!("/tmp/{module}.ko");
        vm.put(&lab.parts.join("modules").join(file), &inside)
            .await?;
        let known = module.replace('-', "_");
        vm.sh(&format!("[ -d /sys/module/{known} ] || insmod {inside}"))
            .await?;
    }
    Ok(())
}

/// Lets the kernel see a disk before anybody stages it; its name.
async fn plugged(vm: &Machine, volume: &Volume) -> Result<String> {
    vm.plug(&volume.plug).await?;
    Ok(vm.wait_for_disks(1).await?.remove(0))
}

fn refused(answer: Result<(), Status>, words: &[&str]) -> Result<()> {
    let status = answer.err().context("it was not refused")?;
    println!("         {:?}: {}", status.code(), status.message());
    ensure!(status.code() == Code::FailedPrecondition, "{status:?}");
    for word in words {
        ensure!(status.message().contains(word), "no {word:?} in {status:?}");
    }
    Ok(())
}

async fn mapped(lab: Arc<Lab>) -> Result<()> {
    let vm = lab.vm();
    bring(&lab, "dmsetup", &["dm-mod"]).await?;
    for form in ["ext4", "block"] {
        let volume = Volume::new(&lab, form, 256, 3)?;
        let before = checksum(&volume.plug.file)?;
        let disk = plugged(vm, &volume).await?;
        vm.sh(&format!(
            "echo 0 $(cat /sys/block/{disk}/size) linear /dev/{disk} 0 | {DMSETUP} create held"
        ))
        .await?;
        refused(volume.stage(vm).await, &["dm-0", "in use"])?;
        vm.sh(&format!("{DMSETUP} remove held")).await?;
        ensure!(checksum(&volume.plug.file)? == before, "bytes changed");
        volume.stage(vm).await.context("nobody holds it now")?;
        volume.publish(vm).await?;
        volume.down(vm).await?;
    }
    Ok(())
}

async fn array(lab: Arc<Lab>) -> Result<()> {
    let vm = lab.vm();
    bring(&lab, "mdadm", &["md-mod", "raid1"]).await?;
    for version in ["0.90", "1.0", "1.2"] {
        let volume = Volume::new(&lab, "ext4", 256, 3)?;
        let disk = plugged(vm, &volume).await?;
        vm.sh(&format!(
            "mkdir -p /run/mdadm; yes | mdadm --create /dev/md0 --run --force --metadata={version} --level=1 \
             --raid-devices=2 /dev/{disk} missing"
        ))
        .await?;
        refused(volume.stage(vm).await, &["md0", "in use"])?;
        vm.sh("mdadm --stop /dev/md0").await?;
        let before = checksum(&volume.plug.file)?;
        refused(volume.stage(vm).await, &["a member of a Linux RAID"])?;
        ensure!(checksum(&volume.plug.file)? == before, "bytes changed");
        vm.sh("for d in /sys/block/sd*; do echo 1 >$d/device/delete; done")
            .await?;
        vm.unplug(&volume.plug.id).await?;
    }
    Ok(())
}

/// A pod with a raw disk made a mapping on it and was killed.
async fn left_behind(lab: Arc<Lab>) -> Result<()> {
    let vm = lab.vm();
    bring(&lab, "dmsetup", &["dm-mod"]).await?;
    let volume = Volume::new(&lab, "block", 256, 3)?;
    volume.up(vm).await?;
    let sum = volume.write(vm, 1).await?;
    let hold =
        format!("echo 0 $(cat /sys/block/sda/size) linear /dev/sda 0 | {DMSETUP} create left");
    vm.sh(&hold).await?;
    volume.unpublish(vm).await.context("unpublish")?;
    refused(volume.unstage(vm).await, &["dm-0", "in use"])?;
    ensure!(vm.disks().await?.len() == 1, "deleted under its holder");
    // The next call meets the holder as well, and outlives it.
    let (waited, removed) = tokio::join!(volume.unstage(vm), async {
        vm.sh(&format!("sleep 3; {DMSETUP} remove left")).await
    });
    removed?;
    waited.context("the holder is gone")?;
    ensure!(vm.disks().await?.is_empty(), "the device stays");
    vm.unplug(&volume.plug.id).await?;
    volume.up(vm).await.context("once more")?;
    ensure!(volume.read(vm, 1).await? == sum, "other data");
    volume.down(vm).await
}
