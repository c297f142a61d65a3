//! The walk itself: four claims, each shows something else.

use anyhow::ensure;

use super::claim::{Claim, Form, Node};
use super::data::{MIB, Written};
use super::show::Show;
use super::world::{Abilities, World};

/// Where the raw device is written: past anything that a probe looks at.
const RAW_OFFSET: u64 = 1 << 30;

/// All of it.
pub(super) async fn walk(
    show: &mut Show,
    world: &World,
    abilities: &Abilities,
) -> anyhow::Result<()> {
    let [web01, web02, db01] = world.nodes.as_slice() else {
        anyhow::bail!("the demo needs three VMs");
    };
    let mut walk = Walk {
        show,
        world,
        real: abilities.no_mounts.is_none(),
    };
    let first = if abilities.xfs { "xfs" } else { "ext4" };
    if walk.real && !abilities.xfs {
        walk.show
            .leave_out("xfs: mkfs.xfs is missing (install xfsprogs); ext4 is used instead");
    }
    walk.moved(first, [web01, web02, db01], abilities).await?;
    if abilities.xfs || !walk.real {
        walk.grown_ext4(web01, abilities).await?;
    }
    walk.raw(web02).await
}

struct Walk<'a> {
    show: &'a mut Show,
    world: &'a World,
    real: bool,
}

impl Walk<'_> {
    /// Claim to pod.
    async fn born(&mut self, form: Form, node: &Node) -> anyhow::Result<Claim> {
        let (world, mut claim) = (self.world, Claim::new(form));
        world.remember(&claim);
        let text = format!("create: 100 GiB, born on {} in {}", node.vm, node.zone);
        self.show
            .step(
                world,
                &text,
                claim.create(&world.controller, (node.vm, node.zone), 100),
            )
            .await?;
        world.remember(&claim);
        self.enter(&mut claim, node).await?;
        Ok(claim)
    }

    /// The pod starts on a node.
    async fn enter(&mut self, claim: &mut Claim, node: &Node) -> anyhow::Result<()> {
        let (world, vm) = (self.world, node.vm);
        self.show
            .step(
                world,
                &format!("attach to {vm}"),
                claim.attach(&world.controller, vm),
            )
            .await?;
        world.remember(claim);
        if self.real {
            let what = match claim.form {
                Form::Mounted(fs) => format!("stage on {vm}: find, prove, {fs}, mount"),
                Form::Raw => format!("stage on {vm}: find, prove"),
            };
            self.show.step(world, &what, claim.stage(node)).await?;
            self.show
                .step(
                    world,
                    &format!("publish to the pod on {vm}"),
                    claim.publish(node),
                )
                .await?;
        }
        Ok(())
    }

    /// The pod ends.
    async fn leave(&mut self, claim: &Claim, node: &Node) -> anyhow::Result<()> {
        let (world, vm) = (self.world, node.vm);
        if self.real {
            let out = async {
                claim.unpublish(node).await?;
                claim.unstage(node).await
            };
            self.show
                .step(world, &format!("unpublish and unstage on {vm}"), out)
                .await?;
        }
        self.show
            .step(
                world,
                &format!("detach from {vm}"),
                claim.detach(&world.controller, vm),
            )
            .await
    }

    async fn gone(&mut self, claim: &Claim) -> anyhow::Result<()> {
        let world = self.world;
        self.show
            .step(world, "delete", claim.delete(&world.controller))
            .await
    }

    async fn write(&mut self, claim: &Claim, node: &Node) -> anyhow::Result<Option<Written>> {
        if !self.real {
            return Ok(None);
        }
        let (path, offset) = match claim.form {
            Form::Mounted(_) => (claim.target(node).join("data"), 0),
            Form::Raw => (claim.target(node), RAW_OFFSET),
        };
        let world = self.world;
        let text = format!("write {MIB} MiB of random data and sync");
        let written = self
            .show
            .step(world, &text, world.write(node, path, offset))
            .await?;
        Ok(Some(written))
    }

    async fn verify(
        &mut self,
        written: Option<&Written>,
        claim: &Claim,
        node: &Node,
    ) -> anyhow::Result<()> {
        let Some(written) = written else {
            return Ok(());
        };
        let path = match claim.form {
            Form::Mounted(_) => claim.target(node).join("data"),
            Form::Raw => claim.target(node),
        };
        let world = self.world;
        let text = format!("verify on {}: SHA-256 {}...", node.vm, written.short());
        self.show
            .step(world, &text, world.verify(node, written.at(&path)))
            .await
    }

    async fn fills(&mut self, claim: &Claim, node: &Node, gib: i64) -> anyhow::Result<()> {
        let work = async {
            let now = claim.fs_gib(node).await?;
            // A file system keeps some of its disk for itself.
            ensure!(
                now * 100 >= gib * 95 && now <= gib,
                "the file system has {now} GiB"
            );
            Ok::<_, anyhow::Error>(())
        };
        self.show
            .step(self.world, &format!("the file system has {gib} GiB"), work)
            .await
    }

    /// Written on one VM, read on another, grown under the running pod, refused in another zone.
    async fn moved(
        &mut self,
        fs: &'static str,
        nodes: [&Node; 3],
        abilities: &Abilities,
    ) -> anyhow::Result<()> {
        let world = self.world;
        let [web01, web02, db01] = nodes;
        self.show.chapter(&format!(
            "A database on {fs}: written on web01, moved to web02, grown while mounted"
        ));
        let mut claim = self.born(Form::Mounted(fs), web01).await?;
        let written = self.write(&claim, web01).await?;
        self.leave(&claim, web01).await?;
        self.enter(&mut claim, web02).await?;
        self.verify(written.as_ref(), &claim, web02).await?;
        self.grow(&mut claim, web02, fs == "xfs" || abilities.ext_online)
            .await?;
        self.verify(written.as_ref(), &claim, web02).await?;
        self.leave(&claim, web02).await?;
        let mut elsewhere = claim.clone();
        let text = format!("ask for it on {} in {}: refused", db01.vm, db01.zone);
        let asked = elsewhere.attach(&world.controller, db01.vm);
        self.show.refused(world, &text, asked).await?;
        self.gone(&claim).await
    }

    /// To 200 GiB, while the pod runs if the machine lets it.
    async fn grow(&mut self, claim: &mut Claim, node: &Node, online: bool) -> anyhow::Result<()> {
        let world = self.world;
        let disk = claim.grow_disk(&world.controller, 200);
        self.show
            .step(world, "grow the disk to 200 GiB while it is attached", disk)
            .await?;
        if !self.real {
            return Ok(());
        }
        if online {
            self.show
                .step(
                    world,
                    "grow the mounted file system",
                    claim.grow_fs(node, 200),
                )
                .await?;
        } else {
            self.show.leave_out(
                "growing a mounted ext4: the kernel wants CAP_SYS_RESOURCE for it, which this process lacks; \
                 it grows at the next stage instead",
            );
            self.leave(claim, node).await?;
            self.enter(claim, node).await?;
        }
        self.fills(claim, node, 200).await
    }

    async fn grown_ext4(&mut self, node: &Node, abilities: &Abilities) -> anyhow::Result<()> {
        self.show.chapter("Another one on ext4");
        let mut claim = self.born(Form::Mounted("ext4"), node).await?;
        let written = self.write(&claim, node).await?;
        self.grow(&mut claim, node, abilities.ext_online).await?;
        self.verify(written.as_ref(), &claim, node).await?;
        self.leave(&claim, node).await?;
        self.gone(&claim).await
    }

    async fn raw(&mut self, node: &Node) -> anyhow::Result<()> {
        self.show
            .chapter("A raw block device, without a file system");
        let mut claim = self.born(Form::Raw, node).await?;
        let written = self.write(&claim, node).await?;
        self.leave(&claim, node).await?;
        self.enter(&mut claim, node).await?;
        self.verify(written.as_ref(), &claim, node).await?;
        self.leave(&claim, node).await?;
        self.gone(&claim).await
    }
}
