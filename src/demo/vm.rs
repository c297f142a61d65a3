//! A virtual machine with VMware's paravirtual SCSI controller, for the `--vm` demo and the SCSI tests.
//!
//! ```text
//! this process --- 127.0.0.1:port ---> agent in the VM: runs scripts, moves files, joins TCP to Unix sockets
//! emulator  ------ qmp socket -------> QEMU: hot-plugs disks
//! ```
//!
//! `scripts/vm/setup.sh` prepares the directory that [`VmConfig::lab`] names. No KVM is needed: a stock kernel
//! boots in a few seconds under emulation.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// Port of the agent inside the VM.
const AGENT_PORT: u16 = 8080;
/// A boot takes 2 to 4 s on an idle machine; these machines are not always idle.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// How long one attempt to reach the agent may take.
const PROBE: Duration = Duration::from_secs(1);
/// PCI device number of the first SCSI controller; the next ones follow.
const FIRST_CONTROLLER: u8 = 0x10;

/// What a VM is made of.
#[derive(Debug, Clone)]
pub struct VmConfig {
    /// Directory made by `scripts/vm/setup.sh`.
    pub lab: PathBuf,
    /// Directory for this VM's sockets and console; made if missing, not removed.
    pub dir: PathBuf,
    /// MiB of memory.
    pub memory_mib: u32,
    /// pvscsi controllers, `scsi0` and on, in PCI order.
    pub controllers: u8,
    /// More words of the kernel command line: `use_msg=0`, `btrfs=0`.
    pub kernel_words: Vec<String>,
}

/// A running VM. Dropping it kills its QEMU process.
#[derive(Debug)]
pub struct Vm {
    config: VmConfig,
    qemu: Child,
    port: u16,
}

/// Answer of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptOutput {
    /// Exit code; 124 when it was killed for lasting too long.
    pub code: i32,
    /// Both output streams.
    pub text: String,
}

/// Why a VM did not do what it should.
#[derive(Debug, Error)]
pub enum VmError {
    /// QEMU could not be started or the connection to the agent failed.
    #[error("cannot {action} VM {vm:?}: {reason}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The VM's directory.
        vm: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// The agent never answered.
    #[error("VM {vm:?} did not boot within {seconds} s; the end of its console:\n{console}")]
    Boot {
        /// The VM's directory.
        vm: PathBuf,
        /// How long was waited.
        seconds: u64,
        /// The console's last lines.
        console: String,
    },
}

impl VmConfig {
    /// A VM with one controller and enough memory for the driver and all file-system tools.
    #[must_use]
    pub fn new(lab: &Path, dir: &Path) -> Self {
        Self {
            lab: lab.to_owned(),
            dir: dir.to_owned(),
            memory_mib: 512,
            controllers: 1,
            kernel_words: Vec::new(),
        }
    }
}

impl Vm {
    /// Boots a VM and waits until its agent answers.
    ///
    /// # Errors
    /// [`VmError`], with the console's last lines when the guest did not come up.
    pub async fn start(config: VmConfig) -> Result<Self, VmError> {
        let failed = |action, reason: &dyn std::fmt::Display| VmError::Io {
            action,
            vm: config.dir.clone(),
            reason: reason.to_string(),
        };
        std::fs::create_dir_all(&config.dir).map_err(|e| failed("make the directory of", &e))?;
        let port = free_port().map_err(|e| failed("find a port for", &e))?;
        for name in ["qmp", "monitor"] {
            match std::fs::remove_file(config.dir.join(name)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("clear the sockets of", &e));
                }
                Ok(()) | Err(_) => {}
            }
        }
        let qemu = command(&config, port)
            .spawn()
            .map_err(|e| failed("start QEMU for", &e))?;
        let mut vm = Self { config, qemu, port };
        vm.wait_for_agent().await?;
        Ok(vm)
    }

    /// QEMU's control socket, for the emulator's `qmp` backend (one client at a time).
    #[must_use]
    pub fn qmp(&self) -> PathBuf {
        self.config.dir.join("qmp")
    }

    /// A second control socket, for tests.
    #[must_use]
    pub fn monitor(&self) -> PathBuf {
        self.config.dir.join("monitor")
    }

    /// Process id of QEMU while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.qemu.id()
    }

    /// Runs a shell script in the VM; it is killed with its children after `limit`.
    ///
    /// # Errors
    /// [`VmError::Io`] when the agent cannot be reached. A script that fails is no error here.
    pub async fn run(&self, script: &str, limit: Duration) -> Result<ScriptOutput, VmError> {
        let work = async {
            let mut stream = BufReader::new(self.connect().await?);
            let head = format!("RUN {} {}\n", limit.as_secs().max(1), script.len());
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(script.as_bytes()).await?;
            stream.flush().await?;
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            let mut text = Vec::new();
            stream.read_to_end(&mut text).await?;
            let code = line
                .split_whitespace()
                .next()
                .and_then(|word| word.parse().ok());
            let code = code.ok_or_else(|| io::Error::other(format!("the agent said {line:?}")))?;
            Ok(ScriptOutput {
                code,
                text: String::from_utf8_lossy(&text).into_owned(),
            })
        };
        self.bounded("run a script in", limit + Duration::from_secs(30), work)
            .await
    }

    /// Copies a file into the VM.
    ///
    /// # Errors
    /// [`VmError::Io`].
    pub async fn put(&self, from: &Path, to: &str, mode: u32) -> Result<(), VmError> {
        let work = async {
            let data = tokio::fs::read(from).await?;
            let mut stream = BufReader::new(self.connect().await?);
            let head = format!("PUT {to} {mode:o} {}\n", data.len());
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&data).await?;
            stream.flush().await?;
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            match line.trim() {
                "OK" => Ok(()),
                other => Err(io::Error::other(format!("the agent said {other:?}"))),
            }
        };
        self.bounded("copy a file to", Duration::from_secs(60), work)
            .await
    }

    /// How long bare system calls take in the VM: `MOUNT source target type` or `LEAVE target file` (unmounts, then
    /// writes "1" to the file).
    ///
    /// # Errors
    /// [`VmError::Io`], also when the calls failed.
    pub async fn time(&self, request: &str) -> Result<Duration, VmError> {
        let work = async {
            let mut stream = BufReader::new(self.connect().await?);
            stream.write_all(format!("{request}\n").as_bytes()).await?;
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            let micros = line.trim().parse();
            micros
                .map(Duration::from_micros)
                .map_err(|_| io::Error::other(format!("the agent said {line:?}")))
        };
        self.bounded("time system calls in", Duration::from_secs(60), work)
            .await
    }

    /// A byte stream to a Unix socket inside the VM.
    ///
    /// # Errors
    /// An I/O error when the agent cannot be reached; a missing socket shows as an immediate end of the stream.
    pub async fn open_socket(&self, path: &str) -> io::Result<TcpStream> {
        open_socket(self.port, path).await
    }

    /// Port on the loopback interface that leads to the agent; see [`open_socket`].
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether QEMU runs; it ends when the guest reboots.
    pub fn is_running(&mut self) -> bool {
        matches!(self.qemu.try_wait(), Ok(None))
    }

    /// Cuts the power: what was not synced is lost.
    ///
    /// # Errors
    /// [`VmError::Io`] when QEMU cannot be killed.
    pub async fn power_cut(&mut self) -> Result<(), VmError> {
        if !self.is_running() {
            return Ok(());
        }
        self.qemu.kill().await.map_err(|e| VmError::Io {
            action: "cut the power of",
            vm: self.config.dir.clone(),
            reason: e.to_string(),
        })
    }

    /// Boots the VM again after [`Vm::power_cut`]. Disks must be plugged anew.
    ///
    /// # Errors
    /// As [`Vm::start`].
    pub async fn boot_again(&mut self) -> Result<(), VmError> {
        *self = Self::start(self.config.clone()).await?;
        Ok(())
    }

    /// The console's last lines.
    #[must_use]
    pub fn console(&self) -> String {
        let text = std::fs::read(self.config.dir.join("console")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    async fn wait_for_agent(&mut self) -> Result<(), VmError> {
        let end = Instant::now() + BOOT_LIMIT;
        loop {
            // QEMU accepts on the forwarded port before the guest listens, and such a connection is never
            // answered: only an answer counts, and waiting for one too long wastes the boot's time.
            let answer = timeout(PROBE, self.run(":", PROBE));
            if let Ok(Ok(_)) = answer.await {
                return Ok(());
            }
            let ended = self.qemu.try_wait().ok().flatten().is_some();
            if ended || Instant::now() > end {
                return Err(VmError::Boot {
                    vm: self.config.dir.clone(),
                    seconds: BOOT_LIMIT.as_secs(),
                    console: self.console(),
                });
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn bounded<T>(
        &self,
        action: &'static str,
        limit: Duration,
        work: impl Future<Output = io::Result<T>>,
    ) -> Result<T, VmError> {
        let failed = |reason: String| VmError::Io {
            action,
            vm: self.config.dir.clone(),
            reason,
        };
        match timeout(limit, work).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("no answer within {limit:?}"))),
        }
    }
}

/// A byte stream to a Unix socket inside the VM whose agent listens on this loopback port.
///
/// # Errors
/// As [`Vm::open_socket`].
pub async fn open_socket(port: u16, path: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    stream
        .write_all(format!("SOCKET {path}\n").as_bytes())
        .await?;
    Ok(stream)
}

fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?
        .local_addr()?
        .port())
}

#[allow(
    clippy::disallowed_methods,
    reason = "QEMU is no tool of the node plugin"
)]
fn command(config: &VmConfig, port: u16) -> Command {
    let prefix = config.lab.join("qemu");
    let share = prefix.join("usr/share");
    let dir = |name: &str| config.dir.join(name).display().to_string();
    let socket = |name: &str| format!("unix:{},server=on,wait=off", dir(name));
    // The kernel kills QEMU when this process dies, however it dies.
    let mut command = Command::new("setpriv");
    let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
        .map(|path| prefix.join(path).display().to_string())
        .join(":");
    command
        .args(["--pdeathsig", "KILL", "--", "env"])
        .arg(format!("LD_LIBRARY_PATH={libraries}"))
        .arg(prefix.join("usr/bin/qemu-system-x86_64"));
    for path in ["qemu", "seabios"] {
        command.arg("-L").arg(share.join(path));
    }
    command.arg("-L").arg(prefix.join("usr/lib/ipxe/qemu"));
    machine(&mut command, config);
    command
        .args(["-serial", &format!("file:{}", dir("console"))])
        .args(["-qmp", &socket("qmp"), "-qmp", &socket("monitor")])
        .args([
            "-netdev",
            &format!("user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:{AGENT_PORT}"),
        ])
        .args(["-device", "virtio-net-pci,netdev=net0,romfile="])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Processor, memory, kernel and SCSI controllers.
fn machine(command: &mut Command, config: &VmConfig) {
    // KVM is named out on purpose: nested KVM may be there and broken. `-cpu max` and the random-number device
    // give the guest entropy; without them mkfs waits seconds for it.
    command
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-M",
            "q35",
        ])
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1"])
        .args(["-m", &config.memory_mib.to_string()])
        .arg("-kernel")
        .arg(config.lab.join("vmlinux"))
        .arg("-initrd")
        .arg(config.lab.join("base.cpio"))
        .args([
            "-append",
            // On a busy machine the emulated timer may miss the ticks that the kernel counts at boot, and it panics.
            &format!(
                "console=ttyS0 panic=-1 quiet no_timer_check {}",
                config.kernel_words.join(" ")
            ),
        ])
        .args(["-device", "virtio-rng-pci"]);
    for number in 0..config.controllers {
        let address = FIRST_CONTROLLER + number;
        command.args([
            "-device",
            &format!("pvscsi,id=scsi{number},addr={address:#04x}"),
        ]);
    }
}
