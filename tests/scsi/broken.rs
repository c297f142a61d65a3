//! Devices that do not what the cloud's API says, made by the emulator's admin endpoint.

use std::sync::Arc;
use std::time::Duration;

use additional_storage_csi::cloud::nifcloud::install_crypto_provider;
use additional_storage_csi::demo::claim::{Claim, Form};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::machine::Machine;
use crate::volume::{read, write};
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case!("a device that is not announced is found", silent),
    case!("a device that is late is waited for", late),
    case!("a device that is absent is used once it is there", absent),
    case!("sectors fail where they are told to, and heal", sectors),
    case!("a device is read-only or has no identity", other_device),
    case!("a device is pulled and put back with its data", pulled),
    case!("two devices are in each other's place", swapped),
    case!("a stale device hides another disk", replaced),
];

/// Asks the admin endpoint for something.
async fn admin(lab: &Lab, method: &str, path: &str, body: Value) -> Result<()> {
    install_crypto_provider();
    let client = reqwest::Client::new();
    let url = format!("{}{path}", lab.emulator.admin());
    let request = client
        .request(method.parse()?, url)
        .header("content-type", "application/json")
        .body(body.to_string());
    let answer = request.send().await?;
    let status = answer.status();
    let text = answer.text().await?;
    ensure!(status.is_success(), "{method} {path}: {status} {text}");
    Ok(())
}

/// A claim on the lab's first machine, attached while the devices of new disks are like this.
async fn attached(lab: &Lab, form: Form, faults: Value) -> Result<Claim> {
    let vm = lab.vm();
    admin(lab, "PUT", "/disks/*/device", faults).await?;
    let mut claim = Claim::new(form);
    let at = (vm.name, vm.zone);
    claim.create(&lab.controller, at, 100).await?;
    claim.attach(&lab.controller, vm.name).await?;
    admin(lab, "DELETE", "/disks/*/device", json!(null)).await?;
    Ok(claim)
}

async fn delete(lab: &Lab, claim: &Claim) -> Result<()> {
    claim.detach(&lab.controller, lab.vm().name).await?;
    claim.delete(&lab.controller).await?;
    Ok(())
}

/// Up, written, down, deleted.
async fn use_and_delete(lab: &Lab, claim: &Claim) -> Result<()> {
    let (vm, node) = (lab.vm(), lab.vm().node());
    claim.stage(&node).await.context("stage")?;
    claim.publish(&node).await.context("publish")?;
    let target = claim.target(&node);
    let sum = write(vm, &target, 1).await?;
    ensure!(read(vm, &target, 1).await? == sum, "other data");
    claim.unpublish(&node).await?;
    claim.unstage(&node).await?;
    delete(lab, claim).await
}

fn target(lab: &Lab, claim: &Claim) -> Result<u8> {
    let disk = lab.emulator.control().disk(&claim.id);
    let at = disk.and_then(|disk| disk.attachment);
    Ok(at.context("not attached")?.target)
}

/// The serial number that the kernel shows at an address.
async fn serial(vm: &Machine, target: u8) -> Result<String> {
    vm.sh(&format!(
        "tail -c +5 /sys/bus/scsi/devices/0:0:{target}:0/vpd_pg80"
    ))
    .await
}

async fn silent(lab: Arc<Lab>) -> Result<()> {
    let claim = attached(&lab, Form::Mounted("ext4"), json!({"silent": true})).await?;
    lab.vm().sh("sleep 1").await?;
    let disks = lab.vm().disks().await?;
    ensure!(disks.is_empty(), "announced: {disks:?}");
    use_and_delete(&lab, &claim).await
}

async fn late(lab: Arc<Lab>) -> Result<()> {
    let claim = attached(&lab, Form::Mounted("ext4"), json!({"late_ms": 3000})).await?;
    let disks = lab.vm().disks().await?;
    ensure!(disks.is_empty(), "not late: {disks:?}");
    use_and_delete(&lab, &claim).await?;
    // One that is detached meanwhile does not come at all.
    let claim = attached(&lab, Form::Raw, json!({"late_ms": 1500})).await?;
    delete(&lab, &claim).await?;
    lab.vm().sh("sleep 2").await?;
    let disks = lab.vm().disks().await?;
    ensure!(disks.is_empty(), "came after all: {disks:?}");
    Ok(())
}

async fn absent(lab: Arc<Lab>) -> Result<()> {
    let claim = attached(&lab, Form::Mounted("ext4"), json!({"absent": true})).await?;
    let node = lab.vm().node();
    let staged = tokio::time::timeout(Duration::from_secs(3), claim.stage(&node)).await;
    ensure!(
        !matches!(staged, Ok(Ok(()))),
        "staged a disk that is not there"
    );
    let path = format!("/disks/{}/device/put", claim.id);
    admin(&lab, "POST", &path, json!({})).await?;
    use_and_delete(&lab, &claim).await
}

/// Whether 4 KiB can be read past the cache, in units of 4 KiB from the start.
async fn reads(vm: &Machine, disk: &str, block: u64) -> Result<bool> {
    let script =
        format!("dd if=/dev/{disk} of=/dev/null bs=4k count=1 skip={block} iflag=direct 2>&1");
    Ok(vm.try_sh(&script).await?.0 == 0)
}

async fn sectors(lab: Arc<Lab>) -> Result<()> {
    let vm = lab.vm();
    let claim = attached(&lab, Form::Raw, json!({"io_errors": ["last"]})).await?;
    let disk = vm.wait_for_disks(1).await?.remove(0);
    let path = format!("/disks/{}/device", claim.id);
    let (middle, end) = ((100_u64 << 30) / 4096 / 2, (100_u64 << 30) / 4096);
    let probes = [0, 15, 16, 1000, middle, end - 16, end - 1];
    let tries = [
        (json!(null), [true, true, true, true, true, false, false]),
        (
            json!(["first"]),
            [false, false, true, true, true, true, true],
        ),
        (
            json!(["middle"]),
            [true, true, true, true, false, true, true],
        ),
        (
            json!([{"first": 8000, "count": 3}]),
            [true, true, true, false, true, true, true],
        ),
        (json!(["all"]), [false; 7]),
        (json!([]), [true; 7]),
    ];
    for (regions, expected) in tries {
        if !regions.is_null() {
            admin(&lab, "PUT", &path, json!({"io_errors": regions})).await?;
        }
        let mut found = [true; 7];
        for (found, block) in found.iter_mut().zip(probes) {
            *found = reads(vm, &disk, block).await?;
        }
        ensure!(found == expected, "{regions}: {found:?}");
    }
    delete(&lab, &claim).await
}

async fn other_device(lab: Arc<Lab>) -> Result<()> {
    let vm = lab.vm();
    for (faults, script) in [
        (
            json!({"read_only": true}),
            "[ $(cat /sys/block/sd*/ro) = 1 ] && ! dd if=/dev/zero of=/dev/$(cd /sys/block; ls -d sd*) bs=4k count=1 oflag=direct",
        ),
        (
            json!({"no_identity": true}),
            "[ -d /sys/block/sd*/device ] && [ ! -e /sys/block/sd*/device/vpd_pg80 ]",
        ),
        (
            json!({}),
            "[ -e /sys/block/sd*/device/vpd_pg80 ] && [ $(cat /sys/block/sd*/ro) = 0 ]",
        ),
    ] {
        let claim = attached(&lab, Form::Raw, faults).await?;
        vm.wait_for_disks(1).await?;
        vm.sh(script).await?;
        delete(&lab, &claim).await?;
        vm.wait_for_disks(0).await?;
    }
    Ok(())
}

async fn pulled(lab: Arc<Lab>) -> Result<()> {
    let (vm, node) = (lab.vm(), lab.vm().node());
    let claim = attached(&lab, Form::Mounted("ext4"), json!({})).await?;
    claim.stage(&node).await.context("stage")?;
    claim.publish(&node).await.context("publish")?;
    let target = claim.target(&node);
    let sum = write(vm, &target, 1).await?;
    let path = |verb| format!("/disks/{}/device/{verb}", claim.id);
    admin(&lab, "POST", &path("pull"), json!({})).await?;
    vm.wait_for_disks(0).await?;
    claim.unpublish(&node).await.context("unpublish")?;
    claim.unstage(&node).await.context("unstage")?;
    admin(&lab, "POST", &path("put"), json!({})).await?;
    claim.stage(&node).await.context("stage again")?;
    claim.publish(&node).await.context("publish again")?;
    ensure!(read(vm, &target, 1).await? == sum, "other data");
    claim.unpublish(&node).await?;
    claim.unstage(&node).await?;
    delete(&lab, &claim).await
}

/// Two disks at rest in the VM, and the serial numbers at their addresses.
async fn pair(lab: &Lab) -> Result<([Claim; 2], [u8; 2], [String; 2])> {
    let one = attached(lab, Form::Raw, json!({})).await?;
    let two = attached(lab, Form::Raw, json!({})).await?;
    lab.vm().wait_for_disks(2).await?;
    let targets = [target(lab, &one)?, target(lab, &two)?];
    let serials = [
        serial(lab.vm(), targets[0]).await?,
        serial(lab.vm(), targets[1]).await?,
    ];
    ensure!(serials[0] != serials[1], "one serial number for two disks");
    Ok(([one, two], targets, serials))
}

async fn swapped(lab: Arc<Lab>) -> Result<()> {
    let (claims, targets, before) = pair(&lab).await?;
    let path = format!("/disks/{}/device/swap", claims[0].id);
    admin(&lab, "POST", &path, json!({"with": claims[1].id})).await?;
    lab.vm().sh("sleep 1").await?;
    lab.vm().wait_for_disks(2).await?;
    for (target, expected) in [(targets[0], &before[1]), (targets[1], &before[0])] {
        let found = serial(lab.vm(), target).await?;
        ensure!(&found == expected, "{target}: {found}");
    }
    for claim in &claims {
        delete(&lab, claim).await?;
    }
    Ok(())
}

async fn replaced(lab: Arc<Lab>) -> Result<()> {
    let vm = lab.vm();
    let (claims, targets, before) = pair(&lab).await?;
    let device =
        |target: u8| format!("dev=/dev/$(ls /sys/bus/scsi/devices/0:0:{target}:0/block); ");
    vm.sh(&format!(
        "{} echo mark | dd of=$dev bs=512 conv=sync oflag=direct",
        device(targets[1])
    ))
    .await?;
    let path = format!("/disks/{}/device/replace", claims[0].id);
    let how = json!({"with": claims[1].id, "silent": true});
    admin(&lab, "POST", &path, how).await?;
    let shown = serial(vm, targets[0]).await?;
    ensure!(shown == before[0], "the kernel noticed: {shown}");
    let found = vm
        .sh(&format!(
            "{} dd if=$dev bs=512 count=1 iflag=direct 2>/dev/null | head -n 1",
            device(targets[0])
        ))
        .await?;
    ensure!(
        found == "mark",
        "the other disk is not behind it: {found:?}"
    );
    for claim in &claims {
        delete(&lab, claim).await?;
    }
    vm.sh("for d in /sys/block/sd*; do [ ! -e $d ] || echo 1 >$d/device/delete; done")
        .await?;
    Ok(())
}
