//! The demo's VMs (`demo --vm`): two machines with a pvscsi controller each, and this very program as their node
//! service.
//!
//! ```text
//! controller, emulated cloud (here) --- qmp ---> QEMU: hot-plug --> sd* in the VM
//! claim --- gRPC through the VM's agent -------> /csi/csi.sock in the VM
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};

use super::claim::Node;
use super::data::{MIB, Written};
use super::vm::{Vm, VmConfig, open_socket};

/// The node service's socket in a VM.
const SOCKET: &str = "/csi/csi.sock";
/// The kubelet's root in a VM.
const KUBELET: &str = "/var/lib/kubelet";
/// Longest script.
const LIMIT: Duration = Duration::from_secs(60);

/// The running VMs.
#[derive(Debug)]
pub(super) struct Lab {
    vms: Vec<(&'static str, Vm)>,
}

async fn sh(vm: &Vm, script: &str) -> anyhow::Result<String> {
    let out = vm.run(script, LIMIT).await?;
    ensure!(
        out.code == 0,
        "a script in a VM ended with {}: {}",
        out.code,
        out.text
    );
    Ok(out.text.trim().to_owned())
}

/// Boots a VM and starts the node service in it.
async fn boot(lab: PathBuf, dir: PathBuf, vm: &'static str, zone: &str) -> anyhow::Result<Vm> {
    let machine = Vm::start(VmConfig::new(&lab, &dir)).await?;
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    sh(&machine, "mkdir -p /csi").await?;
    machine.put(&program, "/csi/driver", 0o755).await?;
    let tried = machine.run("/csi/driver --version", LIMIT).await?;
    ensure!(
        tried.code == 0,
        "this program does not run in a VM: it must be the static one; \"make demo VM=1\" builds and starts it"
    );
    let start = format!(
        "setsid /csi/driver node --endpoint unix://{SOCKET} --node-name {vm} --zone {zone} --registration false \
         >/csi/log 2>&1 </dev/null &\n\
         n=0; until [ -S {SOCKET} ]; do sleep 0.05; n=$((n+1)); [ $n -lt 400 ]; done"
    );
    sh(&machine, &start)
        .await
        .with_context(|| format!("the node service does not start in {vm}"))?;
    Ok(machine)
}

impl Lab {
    /// Boots the VMs side by side.
    pub(super) async fn start(
        lab: &Path,
        dir: &Path,
        names: &[(&'static str, &'static str)],
    ) -> anyhow::Result<Self> {
        ensure!(
            lab.join("done").exists(),
            "{} was not prepared by scripts/vm/setup.sh; \"make demo VM=1\" does that",
            lab.display()
        );
        let booting = names.iter().map(|&(vm, zone)| {
            let (lab, dir) = (lab.to_owned(), dir.join(vm));
            (vm, tokio::spawn(boot(lab, dir, vm, zone)))
        });
        // Collected, so that all of them boot at once.
        let booting: Vec<_> = booting.collect();
        let mut vms = Vec::new();
        for (name, vm) in booting {
            vms.push((name, vm.await.context("the boot was cut off")??));
        }
        Ok(Self { vms })
    }

    fn vm(&self, name: &str) -> anyhow::Result<&Vm> {
        let found = self.vms.iter().find(|(vm, _)| *vm == name);
        Ok(&found.with_context(|| format!("{name} is not running"))?.1)
    }

    /// QEMU's control socket of a VM.
    pub(super) fn qmp(&self, name: &str) -> Option<PathBuf> {
        self.vm(name).ok().map(Vm::qmp)
    }

    /// The node service of a VM. One that is not running gets the first one's: nothing is ever asked of it.
    pub(super) fn node(&self, vm: &'static str, zone: &'static str) -> anyhow::Result<Node> {
        let running = self.vm(vm).or_else(|_| self.vm(self.vms[0].0))?;
        Ok(Node::new(vm, zone, KUBELET.into(), channel(running.port())))
    }

    /// Writes random bytes through to the disk; the path is a directory's file or a device.
    pub(super) async fn write(
        &self,
        vm: &str,
        path: PathBuf,
        offset: u64,
    ) -> anyhow::Result<Written> {
        let script = format!(
            "set -o pipefail; f={path}; dd if=/dev/urandom of=/tmp/data bs=1M count={MIB} 2>/dev/null && \
             dd if=/tmp/data of=$f bs=1M seek={seek} conv=notrunc,fsync 2>/dev/null && \
             sha256sum </tmp/data && rm /tmp/data",
            path = path.display(),
            seek = offset >> 20,
        );
        let sum = sh(self.vm(vm)?, &script).await?;
        let sum = sum.split(' ').next().unwrap_or_default().to_owned();
        Ok(Written { path, offset, sum })
    }

    /// Reads them again, from the disk.
    pub(super) async fn verify(&self, vm: &str, written: &Written) -> anyhow::Result<()> {
        let script = format!(
            "echo 3 >/proc/sys/vm/drop_caches; dd if={} bs=1M skip={} count={MIB} 2>/dev/null | sha256sum",
            written.path.display(),
            written.offset >> 20,
        );
        let sum = sh(self.vm(vm)?, &script).await?;
        ensure!(
            sum.split(' ').next() == Some(&written.sum),
            "{} does not hold what was written",
            written.path.display()
        );
        Ok(())
    }

    /// SCSI disks and mounts of all VMs.
    pub(super) async fn count(&self) -> anyhow::Result<(usize, usize)> {
        let script = format!(
            "ls -d /sys/block/sd* 2>/dev/null | wc -l; grep -c ' {KUBELET}/' /proc/mounts; :"
        );
        let (mut disks, mut mounts) = (0, 0);
        for (_, vm) in &self.vms {
            let out = sh(vm, &script).await?;
            let mut numbers = out.lines().map(|line| line.trim().parse::<usize>());
            disks += numbers.next().context("no count of disks")??;
            mounts += numbers.next().context("no count of mounts")??;
        }
        Ok((disks, mounts))
    }
}

fn channel(port: u16) -> Channel {
    let connect = tower::service_fn(move |_: http::Uri| async move {
        open_socket(port, SOCKET).await.map(TokioIo::new)
    });
    Endpoint::from_static("http://node").connect_with_connector_lazy(connect)
}
