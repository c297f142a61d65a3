//! One VM with the node plugin in it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use additional_storage_csi::demo::claim::Node;
use additional_storage_csi::demo::vm::{Vm, VmConfig, open_socket};
use additional_storage_csi::emulator::qmp::{Plug, Qmp};
use additional_storage_csi::proto::csi::v1::ProbeRequest;
use additional_storage_csi::proto::csi::v1::identity_client::IdentityClient;
use additional_storage_csi::proto::csi::v1::node_client::NodeClient;
use anyhow::{Context as _, Result, bail, ensure};
use hyper_util::rt::TokioIo;
use tokio::sync::{RwLock, Semaphore};
use tokio::time::{Instant, sleep};
use tonic::transport::{Channel, Endpoint};

/// The plugin's socket in the VM.
pub(crate) const SOCKET: &str = "/csi/csi.sock";
/// The kubelet's root in the VM.
pub(crate) const KUBELET: &str = "/var/lib/kubelet";
/// The plugin's records in the VM.
pub(crate) const RECORDS: &str =
    "/var/lib/kubelet/plugins/additional-storage.csi.nifcloud.com/state/staged";
/// What the plugin remembers of volumes that promise no UUID.
pub(crate) const KNOWN: &str =
    "/var/lib/kubelet/plugins/additional-storage.csi.nifcloud.com/state/known";
/// Longest script.
const SCRIPT: Duration = Duration::from_secs(240);

/// A VM, its plugin, and what was plugged into it by hand.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) name: &'static str,
    pub(crate) zone: &'static str,
    pub(crate) dir: PathBuf,
    binary: PathBuf,
    vm: RwLock<Vm>,
    /// Changes with each boot.
    port: Arc<AtomicU16>,
    plugged: Mutex<Vec<String>>,
    /// The emulated network loses connections when many are made at once.
    scripts: Semaphore,
}

impl Machine {
    /// Boots and starts the plugin.
    pub(crate) async fn start(
        name: &'static str,
        zone: &'static str,
        config: VmConfig,
        binary: &Path,
    ) -> Result<Self> {
        let dir = config.dir.clone();
        let vm = Vm::start(config).await?;
        let port = Arc::new(AtomicU16::new(vm.port()));
        let machine = Self {
            name,
            zone,
            dir,
            binary: binary.to_owned(),
            vm: RwLock::new(vm),
            port,
            plugged: Mutex::default(),
            scripts: Semaphore::new(4),
        };
        machine.install().await?;
        Ok(machine)
    }

    async fn install(&self) -> Result<()> {
        self.sh("mkdir -p /csi").await?;
        let vm = self.vm.read().await;
        vm.put(&self.binary, "/csi/driver", 0o755).await?;
        drop(vm);
        self.start_plugin().await
    }

    /// Runs a script that must succeed; its output, trimmed.
    pub(crate) async fn sh(&self, script: &str) -> Result<String> {
        let (code, text) = self.try_sh(script).await?;
        ensure!(
            code == 0,
            "{}: exit code {code} of\n{script}\n{text}",
            self.name
        );
        Ok(text.trim().to_owned())
    }

    /// Runs a script; exit code and output.
    pub(crate) async fn try_sh(&self, script: &str) -> Result<(i32, String)> {
        let _place = self.scripts.acquire().await?;
        let out = self.vm.read().await.run(script, SCRIPT).await?;
        Ok((out.code, out.text))
    }

    /// Copies a program or another file into the VM.
    pub(crate) async fn put(&self, from: &Path, to: &str) -> Result<()> {
        Ok(self.vm.read().await.put(from, to, 0o755).await?)
    }

    /// How long bare system calls take; see [`Vm::time`].
    pub(crate) async fn time(&self, request: &str) -> Result<Duration> {
        Ok(self.vm.read().await.time(request).await?)
    }

    /// How long the plugin itself took for the last call of an RPC, by its own log.
    pub(crate) async fn took(&self, rpc: &str) -> Result<Duration> {
        let line = self
            .sh(&format!(
                "grep 'Node/{rpc}\".*rpc ended' /csi/log | tail -n 1"
            ))
            .await?;
        let micros = line.rsplit("elapsed_us=").next().unwrap_or_default();
        let micros = micros.trim().parse();
        Ok(Duration::from_micros(
            micros.with_context(|| format!("no duration in {line:?}"))?,
        ))
    }

    /// Starts the plugin and waits until it serves.
    pub(crate) async fn start_plugin(&self) -> Result<()> {
        let (name, zone) = (self.name, self.zone);
        self.sh(&format!(
            "LOG_LEVEL=info,additional_storage_csi=debug setsid /csi/driver node --endpoint unix://{SOCKET} \
             --node-name {name} --zone {zone} --registration false >>/csi/log 2>&1 </dev/null &\n\
             echo $! >/csi/pid"
        ))
        .await?;
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let mut identity = IdentityClient::new(self.channel());
            match identity.probe(ProbeRequest {}).await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > end => {
                    return Err(error).context("the plugin does not serve");
                }
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// The port of the VM's agent.
    pub(crate) fn port(&self) -> u16 {
        self.port.load(Ordering::Relaxed)
    }

    /// A channel to the plugin, through the VM's agent; connects at the first call.
    pub(crate) fn channel(&self) -> Channel {
        let port = Arc::clone(&self.port);
        let connect = tower::service_fn(move |_: http::Uri| {
            let port = port.load(Ordering::Relaxed);
            async move { open_socket(port, SOCKET).await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://plugin").connect_with_connector_lazy(connect)
    }

    /// The node service with what the callers of [`Claim`] need.
    ///
    /// [`Claim`]: additional_storage_csi::demo::claim::Claim
    pub(crate) fn node(&self) -> Node {
        Node {
            vm: self.name,
            zone: self.zone,
            kubelet: KUBELET.into(),
            client: NodeClient::new(self.channel()),
        }
    }

    /// QEMU's first control socket, the emulator's.
    pub(crate) fn qmp(&self) -> PathBuf {
        self.dir.join("qmp")
    }

    /// QEMU's second control socket, the tests'.
    pub(crate) async fn monitor(&self) -> Result<Qmp> {
        Ok(Qmp::connect(&self.dir.join("monitor")).await?)
    }

    /// Plugs a disk by hand.
    pub(crate) async fn plug(&self, plug: &Plug) -> Result<()> {
        self.monitor().await?.plug(plug).await?;
        self.plugged.lock().unwrap().push(plug.id.clone());
        Ok(())
    }

    /// Pulls it, whether the VM uses it or not.
    pub(crate) async fn unplug(&self, id: &str) -> Result<()> {
        self.monitor().await?.unplug(id).await?;
        self.plugged.lock().unwrap().retain(|known| known != id);
        Ok(())
    }

    /// Cuts the power and boots again; the plugin's records are kept if `records`.
    pub(crate) async fn power_cycle(&self, records: bool) -> Result<()> {
        self.boot_anew(records, false).await
    }

    /// Reboots in good order, as an init system does: the plugin gets SIGTERM and some time, then every process SIGKILL;
    /// all is unmounted, the kernel shuts its devices down.
    pub(crate) async fn reboot(&self, records: bool) -> Result<()> {
        self.boot_anew(records, true).await
    }

    async fn shut_down(&self) -> Result<()> {
        let told = self
            .sh("p=$(cat /csi/pid); kill $p; n=0; while kill -0 $p && [ $n -lt 100 ]; do sleep 0.1; n=$((n+1)); done 2>/dev/null; \
                 killall -9 driver 2>/dev/null; umount -a -t ext3,ext4,xfs,btrfs || echo busy; sync; \
                 setsid sh -c 'sleep 0.3; reboot -f' >/dev/null 2>&1 </dev/null &")
            .await?;
        ensure!(!told.contains("busy"), "not unmounted: {told}");
        let end = Instant::now() + Duration::from_secs(60);
        while self.vm.write().await.is_running() {
            ensure!(Instant::now() < end, "{} does not go down", self.name);
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn boot_anew(&self, records: bool, clean: bool) -> Result<()> {
        let kept = if records {
            self.sh(&format!(
                "cd {RECORDS} 2>/dev/null && for f in *.json; do echo \"$f $(cat $f)\"; done"
            ))
            .await
            .unwrap_or_default()
        } else {
            String::new()
        };
        if clean {
            self.shut_down().await?;
        }
        let mut vm = self.vm.write().await;
        vm.power_cut().await?;
        vm.boot_again().await?;
        self.port.store(vm.port(), Ordering::Relaxed);
        drop(vm);
        self.plugged.lock().unwrap().clear();
        for line in kept.lines() {
            if let Some((name, record)) = line.split_once(' ') {
                self.sh(&format!(
                    "mkdir -p {RECORDS}; cat >{RECORDS}/{name} <<'END'\n{record}\nEND"
                ))
                .await?;
            }
        }
        self.install().await
    }

    /// The kernel's names of the disks, in order.
    pub(crate) async fn disks(&self) -> Result<Vec<String>> {
        let names = self.sh("cd /sys/block; ls -d sd* 2>/dev/null || :").await?;
        Ok(names.split_whitespace().map(str::to_owned).collect())
    }

    /// Nothing is left of the case before.
    pub(crate) async fn is_clean(&self) -> Result<()> {
        let left: Vec<String> = self.plugged.lock().unwrap().clone();
        for id in left {
            self.unplug(&id).await?;
        }
        let left = self
            .sh(&format!(
                "cd /sys/block; ls -d sd* 2>/dev/null; grep ' {KUBELET}/' /proc/mounts; \
                 ls {RECORDS} 2>/dev/null; dmesg | grep -E 'BUG|Oops|Call Trace'; :"
            ))
            .await?;
        ensure!(left.is_empty(), "left behind in {}:\n{left}", self.name);
        Ok(())
    }

    /// What the machine has to say after a failure.
    pub(crate) async fn tell(&self) -> String {
        let script = "echo '-- plugin'; tail -n 25 /csi/log | cut -d' ' -f2-; echo '-- kernel'; dmesg | tail -n 15; \
                      echo '-- disks'; ls -d /sys/bus/scsi/devices/*:*; ls /sys/block | grep -v loop; echo '-- mounts'; grep -E 'sd|loop|kubelet' /proc/mounts";
        match self.try_sh(script).await {
            Ok((_, text)) => format!("---- {}\n{text}", self.name),
            Err(error) => format!(
                "---- {}: {error:#}\n{}",
                self.name,
                self.vm.read().await.console()
            ),
        }
    }

    /// Waits until the kernel shows `count` disks by itself.
    pub(crate) async fn wait_for_disks(&self, count: usize) -> Result<Vec<String>> {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let disks = self.disks().await?;
            if disks.len() == count {
                return Ok(disks);
            }
            if Instant::now() > end {
                bail!("{}: {disks:?} instead of {count} disks", self.name);
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}
