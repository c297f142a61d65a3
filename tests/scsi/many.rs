//! A full VM, and disks that move.

use std::sync::Arc;
use std::time::Duration;

use additional_storage_csi::demo::claim::{Claim, Form};
use anyhow::{Context as _, Result, ensure};
use tokio::task::JoinSet;
use tonic::Code;

use crate::lab::Lab;
use crate::life::staged;
use crate::sanity::sanity;
use crate::volume::{Volume, read, write};
use crate::{Case, case};

pub(crate) const FULL: &[Case] = &[case!(
    "14 disks at once, in random order, and a 15th is refused",
    fourteen,
    900
)];

pub(crate) const TWO: &[Case] = &[
    case!("a disk moves to another VM with its data", moves),
    case!("a disk in use is not given to a second VM", shared),
    case!(
        "csi-sanity passes with the plugin on real SCSI",
        sanity,
        900
    ),
];

async fn fourteen(lab: Arc<Lab>) -> Result<()> {
    let (vm, at) = (lab.vm(), (lab.vm().name, lab.vm().zone));
    let forms = [
        Form::Mounted("ext4"),
        Form::Mounted("xfs"),
        Form::Mounted("btrfs"),
        Form::Raw,
    ];
    let mut starting = JoinSet::new();
    for number in 0..14 {
        let (lab, form) = (Arc::clone(&lab), forms[number % forms.len()]);
        starting.spawn(async move { start(&lab, form).await });
    }
    let mut running = Vec::new();
    while let Some(claim) = starting.join_next().await {
        running.push(claim??);
    }
    vm.wait_for_disks(14).await?;
    let refused = Claim::new(Form::Raw).create(&lab.controller, at, 100).await;
    let code = refused.err().map(|status| status.code());
    ensure!(code == Some(Code::ResourceExhausted), "the 15th: {code:?}");
    fastrand::shuffle(&mut running);
    let mut ending = JoinSet::new();
    for (claim, sum) in running {
        let lab = Arc::clone(&lab);
        ending.spawn(async move { end(&lab, &claim, &sum).await });
    }
    while let Some(done) = ending.join_next().await {
        done??;
    }
    Ok(())
}

async fn start(lab: &Lab, form: Form) -> Result<(Claim, String)> {
    let (vm, node) = (lab.vm(), lab.vm().node());
    let mut claim = Claim::new(form);
    let at = (vm.name, vm.zone);
    claim
        .create(&lab.controller, at, 100)
        .await
        .context("create")?;
    claim
        .attach(&lab.controller, vm.name)
        .await
        .context("attach")?;
    staged(&claim, &node).await.context("stage")?;
    claim.publish(&node).await.context("publish")?;
    let sum = write(vm, &claim.target(&node), 1).await?;
    Ok((claim, sum))
}

async fn end(lab: &Lab, claim: &Claim, sum: &str) -> Result<()> {
    let (vm, node) = (lab.vm(), lab.vm().node());
    let found = read(vm, &claim.target(&node), 1).await?;
    ensure!(found == sum, "wrote {sum}, read {found}");
    claim.unpublish(&node).await.context("unpublish")?;
    claim.unstage(&node).await.context("unstage")?;
    claim
        .detach(&lab.controller, vm.name)
        .await
        .context("detach")?;
    claim.delete(&lab.controller).await.context("delete")
}

async fn moves(lab: Arc<Lab>) -> Result<()> {
    let (claim, sum) = start(&lab, Form::Mounted("ext4")).await?;
    let (from, node) = (lab.vm(), lab.vm().node());
    let mut claim = claim;
    let early = claim
        .clone()
        .attach(&lab.controller, lab.machines[1].name)
        .await;
    let code = early.err().map(|status| status.code());
    ensure!(
        code == Some(Code::FailedPrecondition),
        "attached to two VMs: {code:?}"
    );
    claim.unpublish(&node).await?;
    claim.unstage(&node).await?;
    claim.detach(&lab.controller, from.name).await?;
    let (to, node) = (&lab.machines[1], lab.machines[1].node());
    claim
        .attach(&lab.controller, to.name)
        .await
        .context("attach there")?;
    claim.stage(&node).await.context("stage there")?;
    claim.publish(&node).await.context("publish there")?;
    let found = read(to, &claim.target(&node), 1).await?;
    ensure!(found == sum, "wrote {sum}, read {found}");
    claim.unpublish(&node).await?;
    claim.unstage(&node).await?;
    claim.detach(&lab.controller, to.name).await?;
    claim.delete(&lab.controller).await.context("delete")
}

/// The hypervisor's lock is the last guard; the cloud's books are one before it.
async fn shared(lab: Arc<Lab>) -> Result<()> {
    let volume = Volume::new(&lab, "ext4", 512, 3)?;
    volume.up(lab.vm()).await?;
    let sum = volume.write(lab.vm(), 1).await?;
    let other = &lab.machines[1];
    let refused = other.plug(&volume.plug).await;
    ensure!(refused.is_err(), "one disk in two VMs");
    let status = volume
        .stage_within(other, Duration::from_secs(8))
        .await
        .err();
    let status = status.context("staged where no disk is")?;
    ensure!(status.message().contains("SCSI (0:3)"), "{status:?}");
    ensure!(volume.read(lab.vm(), 1).await? == sum);
    volume.down(lab.vm()).await?;
    // Let go by one, it is the other's.
    volume.up(other).await?;
    ensure!(volume.read(other, 1).await? == sum);
    volume.down(other).await
}
