//! From claim to nothing, through the whole driver: emulated cloud, controller, hot-plug, kernel, plugin.

use std::sync::Arc;

use additional_storage_csi::demo::claim::{Claim, Form, Node};
use anyhow::{Context as _, Result, ensure};
use tonic::Code;

use crate::lab::Lab;
use crate::volume::{read, write};
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case!("a disk with ext4 lives its whole life", ext4),
    case!("a disk with xfs lives its whole life", xfs),
    case!("a disk with btrfs lives its whole life", btrfs),
    case!("a disk with ext3 lives its whole life", ext3),
    case!("a raw disk lives its whole life", raw),
];

async fn ext4(lab: Arc<Lab>) -> Result<()> {
    life(&lab, Form::Mounted("ext4")).await
}

async fn xfs(lab: Arc<Lab>) -> Result<()> {
    life(&lab, Form::Mounted("xfs")).await
}

async fn btrfs(lab: Arc<Lab>) -> Result<()> {
    life(&lab, Form::Mounted("btrfs")).await
}

async fn ext3(lab: Arc<Lab>) -> Result<()> {
    life(&lab, Form::Mounted("ext3")).await
}

async fn raw(lab: Arc<Lab>) -> Result<()> {
    life(&lab, Form::Raw).await
}

/// Created, used, grown while in use, put away, used again with its data, deleted.
async fn life(lab: &Lab, form: Form) -> Result<()> {
    let (vm, node) = (lab.vm(), lab.vm().node());
    let mut claim = Claim::new(form);
    let at = (vm.name, vm.zone);
    claim
        .create(&lab.controller, at, 100)
        .await
        .context("create")?;
    let target = claim.target(&node);
    let mut sum = String::new();
    for round in 0..2 {
        claim
            .attach(&lab.controller, vm.name)
            .await
            .context("attach")?;
        staged(&claim, &node).await.context("stage")?;
        claim.stage(&node).await.context("stage again")?;
        claim.publish(&node).await.context("publish")?;
        claim.publish(&node).await.context("publish again")?;
        if round == 0 {
            sum = write(vm, &target, 4).await?;
            claim
                .grow_disk(&lab.controller, 200)
                .await
                .context("grow the disk")?;
            claim
                .grow_fs(&node, 200)
                .await
                .context("grow the file system")?;
        }
        let gib = claim.fs_gib(&node).await.context("stats")?;
        ensure!((190..=200).contains(&gib), "{gib} GiB after growth");
        let found = read(vm, &target, 4).await?;
        ensure!(found == sum, "wrote {sum}, read {found}");
        claim.unpublish(&node).await.context("unpublish")?;
        claim.unstage(&node).await.context("unstage")?;
        claim.unstage(&node).await.context("unstage again")?;
        let disks = vm.disks().await?;
        ensure!(
            disks.is_empty(),
            "the kernel still has {disks:?} after unstage"
        );
        claim
            .detach(&lab.controller, vm.name)
            .await
            .context("detach")?;
    }
    claim.delete(&lab.controller).await.context("delete")
}

/// As the kubelet: a call whose time is over is made again, and joins the work that goes on.
pub(crate) async fn staged(claim: &Claim, node: &Node) -> Result<()> {
    loop {
        match claim.stage(node).await {
            Err(status)
                if matches!(
                    status.code(),
                    Code::Cancelled | Code::DeadlineExceeded | Code::Aborted
                ) => {}
            done => return Ok(done?),
        }
    }
}
