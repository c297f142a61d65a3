//! The driver as a process.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use additional_storage_csi::demo::claim::connect;
use tokio::process::{Child, Command};
use tonic::transport::Channel;

/// What a client of HTTP/2 says first: the preface and an empty SETTINGS frame (RFC 9113, 3.4).
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const LIMIT: Duration = Duration::from_secs(10);

/// A running driver; killed when dropped.
pub(crate) struct Driver {
    child: Child,
    socket: PathBuf,
}

/// The arguments of a role beside its endpoint.
pub(crate) fn node_arguments(dir: &Path, vm: &str, zone: &str) -> Vec<String> {
    let path = |name: &str| dir.join(name).display().to_string();
    [
        "node",
        "--registration",
        "false",
        "--node-name",
        vm,
        "--zone",
        zone,
        "--device-dir",
        &path("devices"),
        "--kubelet-dir",
        &path("kubelet"),
        "--state-dir",
        &path("state"),
    ]
    .map(str::to_owned)
    .to_vec()
}

pub(crate) fn controller_arguments(endpoint: &str) -> Vec<String> {
    [
        "controller",
        "--cloud-endpoint",
        endpoint,
        "--api-rate",
        "10000",
    ]
    .map(str::to_owned)
    .to_vec()
}

impl Driver {
    /// Starts a role; answers how long it took until it served.
    pub(crate) fn start(binary: &Path, dir: &Path, arguments: &[String]) -> (Self, Duration) {
        let socket = dir.join(format!("{:06x}.sock", fastrand::u32(..0x0100_0000)));
        let begin = Instant::now();
        #[allow(
            clippy::disallowed_methods,
            reason = "the driver itself is started, not one of its tools"
        )]
        let child = Command::new(binary)
            .args(arguments)
            .args([
                "--endpoint",
                &format!("unix://{}", socket.display()),
                "--log-level",
                "error",
            ])
            .env_clear()
            .env("NIFCLOUD_ACCESS_KEY_ID", "EMULATORKEY")
            .env("NIFCLOUD_SECRET_ACCESS_KEY", "emulator-secret")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        while !answers(&socket) {
            assert!(
                begin.elapsed() < LIMIT,
                "{} does not serve",
                binary.display()
            );
            std::hint::spin_loop();
        }
        let took = begin.elapsed();
        (Self { child, socket }, took)
    }

    pub(crate) async fn channel(&self) -> Channel {
        connect(&self.socket).await.expect("the driver serves")
    }

    /// Resident memory in MiB.
    pub(crate) fn rss_mib(&self) -> f64 {
        let pid = self.child.id().expect("the driver runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kib / 1024.0
    }

    pub(crate) async fn end(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// Whether a whole HTTP/2 greeting comes back: the process serves, not only the kernel's queue.
fn answers(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else {
        return false;
    };
    let mut frame = [0; 9];
    stream.write_all(HELLO).is_ok() && stream.read_exact(&mut frame).is_ok()
}
