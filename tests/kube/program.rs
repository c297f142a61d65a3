//! The roles that ask Kubernetes, as processes.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use additional_storage_csi::demo::claim::connect;
use additional_storage_csi::emulator::{Config, Emulator, Latency};
use additional_storage_csi::kube::STARTUP_TAINT;
use additional_storage_csi::proto::csi::v1::NodeGetInfoRequest;
use additional_storage_csi::proto::csi::v1::node_client::NodeClient;
use serde_json::json;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::address::reserved;
use super::server::{self, Server};

const NODE: &str = "/api/v1/nodes/web01";
/// Far above what anything here takes.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn program(server: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nifcloud-additional-storage-csi"));
    command
        .args(arguments)
        .args([
            "--kube-api",
            &server.url,
            "--service-account-dir",
            "/no/such/dir",
        ])
        .env_clear()
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

pub(crate) async fn output(mut command: Command) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = timeout(LIMIT, command.output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pre_stop_ends_at_once_on_a_node_that_stays_and_names_what_holds_one_that_leaves() {
    let server = Server::start().await;
    server.put(
        server::ATTACHMENTS,
        json!({"items": [server::attachment("web01", "pv1")]}),
    );
    let arguments = ["pre-stop", "--node-name", "web01", "--limit", "10"];
    server.put(NODE, json!({"metadata": {"name": "web01"}}));
    let (code, _, words) = output(program(&server, &arguments)).await;
    assert_eq!(code, Some(0), "{words}");
    server.put(
        NODE,
        json!({"metadata": {"name": "web01"}, "spec": {"unschedulable": true}}),
    );
    let (code, _, words) = output(program(&server, &arguments)).await;
    assert!(code == Some(1) && words.contains("pv1"), "{code:?} {words}");
    server.put(server::ATTACHMENTS, json!({"items": []}));
    let (code, _, words) = output(program(&server, &arguments)).await;
    assert_eq!(code, Some(0), "{words}");
    let (code, _, words) = output(program(&server, &["pre-stop"])).await;
    assert!(
        code == Some(64) && words.contains("NODE_NAME"),
        "{code:?} {words}"
    );
}

async fn http(address: &str, path: &str) -> Option<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    Some(text)
}

/// Looks again until `look` has an answer.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = timeout(LIMIT, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            sleep(Duration::from_millis(10)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("never: {what}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_told_no_zone_waits_alive_and_serves_with_its_nodes() {
    let (server, dir) = (Server::start().await, tempfile::tempdir().unwrap());
    let taints = json!([{"key": "mine", "effect": "NoSchedule"}, {"key": STARTUP_TAINT, "effect": "NoSchedule"}]);
    let node = |labels| json!({"metadata": {"name": "web01", "labels": labels}, "spec": {"taints": taints}});
    server.put(NODE, node(json!({})));
    let socket = dir.path().join("csi.sock");
    let (_held, admin) = reserved();
    let mut command = program(
        &server,
        &["node", "--node-name", "web01", "--registration", "false"],
    );
    command.arg(format!("--endpoint=unix://{}", socket.display()));
    command.arg(format!("--kubelet-dir={}", dir.path().display()));
    command.arg(format!("--admin-listen={admin}"));
    let _running = command.stderr(Stdio::null()).spawn().unwrap();
    let waiting = until("waiting", async || {
        http(&admin, "/readyz")
            .await
            .filter(|text| text.contains("waiting for the zone"))
    });
    waiting.await;
    assert!(http(&admin, "/livez").await.unwrap().contains("200 OK"));
    assert!(
        !Path::new(&socket).exists(),
        "it must not register without its zone"
    );

    server.put(
        NODE,
        node(json!({"topology.kubernetes.io/zone": "east-11"})),
    );
    let channel = until("serving", async || connect(&socket).await.ok()).await;
    let info = NodeClient::new(channel)
        .node_get_info(NodeGetInfoRequest {})
        .await
        .unwrap();
    let segments = info.into_inner().accessible_topology.unwrap().segments;
    assert_eq!(
        segments["topology.additional-storage.csi.nifcloud.com/zone"],
        "east-11"
    );
    until("ready", async || {
        http(&admin, "/readyz")
            .await
            .filter(|text| text.contains("200 OK"))
    })
    .await;

    assert_eq!(
        server.get(NODE)["spec"]["taints"],
        taints,
        "the CSINode does not show the driver yet"
    );
    server.put("/apis/storage.k8s.io/v1/csinodes/web01", server::csi_node());
    let left = json!([{"key": "mine", "effect": "NoSchedule"}]);
    until("freed", async || {
        (server.get(NODE)["spec"]["taints"] == left).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audit_prints_what_does_not_fit_and_changes_nothing() {
    let server = Server::start().await;
    let config = Config {
        latency: Latency::FAST,
        ..Config::default()
    };
    let emulator = Emulator::start(config.vm("web01", "east-11"))
        .await
        .unwrap();
    server.put(server::ATTACHMENTS, json!({"items": []}));
    server.put(server::VOLUMES, json!({"items": []}));
    let audit = || {
        let mut command = program(
            &server,
            &["audit", "--cloud-endpoint", &emulator.endpoint()],
        );
        command.env("NIFCLOUD_ACCESS_KEY_ID", "EMULATORKEY");
        command.env("NIFCLOUD_SECRET_ACCESS_KEY", "emulator-secret");
        output(command)
    };
    let (code, words, errors) = audit().await;
    assert!(
        code == Some(0) && words.contains("0 findings"),
        "{code:?} {words} {errors}"
    );
    server.put(
        server::VOLUMES,
        json!({"items": [server::volume("pv1", "gone")]}),
    );
    let (code, words, errors) = audit().await;
    assert_eq!(code, Some(3), "{words} {errors}");
    assert!(
        words.contains("MissingDisk") && words.contains("pv1"),
        "{words}"
    );
    assert!(server.asked().iter().all(|asked| asked.starts_with("GET ")));
    emulator.shutdown().await;
}
