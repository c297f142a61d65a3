//! csi-sanity against the plugin in the VM and the controller outside, over real sockets.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use additional_storage_csi::demo::vm::open_socket;
use anyhow::{Context as _, Result, ensure};
use tokio::io::copy_bidirectional;
use tokio::net::UnixListener;
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::lab::Lab;
use crate::machine::{KUBELET, SOCKET};

/// A socket here that leads to the plugin's socket in the VM.
fn forward(socket: &Path, port: u16) -> Result<JoinHandle<()>> {
    let listener = UnixListener::bind(socket)?;
    Ok(tokio::spawn(async move {
        while let Ok((mut here, _)) = listener.accept().await {
            tokio::spawn(async move {
                if let Ok(mut there) = open_socket(port, SOCKET).await {
                    let _ = copy_bidirectional(&mut here, &mut there).await;
                }
            });
        }
    }))
}

/// See the module's documentation.
#[allow(clippy::disallowed_methods, reason = "a test's own tool")]
pub(crate) async fn sanity(lab: Arc<Lab>) -> Result<()> {
    let runner = std::env::var_os("CSI_SANITY_RUNNER")
        .context("CSI_SANITY_RUNNER is not set: install Go and run `make scsi`")?;
    let vm = lab.vm();
    let socket = vm.dir.join("plugin.sock");
    let forwarding = forward(&socket, vm.port())?;
    let remote = serde_json::json!({
        "Node": socket, "Controller": lab.controller_socket(), "Admin": lab.emulator.admin(),
        "Agent": vm.port(), "Kubelet": KUBELET,
    });
    let logs = vm.dir.join("sanity");
    let output = Command::new(runner)
        .arg("-remote")
        .arg(remote.to_string())
        .arg("-logs")
        .arg(&logs)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(850), output).await??;
    forwarding.abort();
    std::fs::remove_file(&socket)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = text.lines().last().unwrap_or_default();
    println!("         {last}");
    ensure!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
