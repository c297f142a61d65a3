//! What the driver asks of Kubernetes: the rules on a fake port with paused time, the adapter and the program over
//! loopback HTTP against a small API server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests start the program itself"
)]

#[path = "shared/address.rs"]
mod address;
#[path = "kube/doctor.rs"]
mod doctor;
#[path = "kube/program.rs"]
mod program;
#[path = "kube/rules.rs"]
mod rules;
#[path = "kube/server.rs"]
mod server;

use additional_storage_csi::cloud::nifcloud::install_crypto_provider;
use additional_storage_csi::kube::api::{Api, Settings};
use additional_storage_csi::kube::{Cluster as _, KubeError, STARTUP_TAINT};
use serde_json::json;

use server::Server;

fn api(server: &Server, account: &std::path::Path) -> Api {
    install_crypto_provider();
    let settings = Settings::find(Some(&server.url), account, |_| None).unwrap();
    Api::new(&settings).unwrap()
}

#[tokio::test]
async fn every_call_carries_the_token_that_the_kubelet_wrote_last() {
    let (server, account) = (Server::start().await, tempfile::tempdir().unwrap());
    let api = api(&server, account.path());
    for token in ["first", "second"] {
        std::fs::write(account.path().join("token"), format!("{token}\n")).unwrap();
        assert_eq!(api.node("web01").await.unwrap(), None);
        let asked = server.asked().pop().unwrap();
        assert_eq!(asked, format!("GET /api/v1/nodes/web01 Bearer {token}"));
    }
}

#[tokio::test]
async fn a_node_is_read_as_it_is() {
    let (server, account) = (Server::start().await, tempfile::tempdir().unwrap());
    let api = api(&server, account.path());
    server.put(
        "/api/v1/nodes/web01",
        json!({"metadata": {"name": "web01", "labels": {"topology.kubernetes.io/zone": "east-11"}, "deletionTimestamp": "x"},
               "spec": {"unschedulable": true, "taints": [{"key": "a", "effect": "NoSchedule"}]},
               "status": {"conditions": [{"type": "Ready", "status": "False", "message": "node is shutting down"}]}}),
    );
    let node = api.node("web01").await.unwrap().unwrap();
    assert_eq!(node.zone.as_deref(), Some("east-11"));
    assert_eq!(node.taints, ["a"]);
    assert!(node.cordoned && node.deleting && node.shutting_down);
    server.put(
        "/api/v1/nodes/web01",
        json!({"metadata": {"name": "web01"}}),
    );
    let node = api.node("web01").await.unwrap().unwrap();
    assert_eq!((node.zone, node.cordoned), (None, false));
    let csi = "/apis/storage.k8s.io/v1/csinodes/web01";
    assert!(!api.shows_driver("web01").await.unwrap());
    server.put(csi, json!({"spec": {"drivers": null}}));
    assert!(!api.shows_driver("web01").await.unwrap());
    server.put(csi, server::csi_node());
    assert!(api.shows_driver("web01").await.unwrap());
}

#[tokio::test]
async fn only_the_startup_taint_goes_and_a_racing_edit_is_not_lost() {
    let (server, account) = (Server::start().await, tempfile::tempdir().unwrap());
    let api = api(&server, account.path());
    let path = "/api/v1/nodes/web01";
    let node = |keys: &[&str]| {
        let taints: Vec<_> = keys
            .iter()
            .map(|key| json!({"key": key, "effect": "NoSchedule"}))
            .collect();
        json!({"metadata": {"name": "web01"}, "spec": {"taints": taints}})
    };
    server.put(path, node(&["a", STARTUP_TAINT, "b", STARTUP_TAINT]));
    let seen = api.node("web01").await.unwrap().unwrap();
    // Somebody removes the first taint after we read the Node.
    server.put(path, node(&[STARTUP_TAINT, "b", STARTUP_TAINT, "c"]));
    let error = api.remove_taint(&seen, STARTUP_TAINT).await.unwrap_err();
    assert!(matches!(error, KubeError::Conflict { .. }), "{error}");
    assert_eq!(
        server.get(path),
        node(&[STARTUP_TAINT, "b", STARTUP_TAINT, "c"])
    );
    let seen = api.node("web01").await.unwrap().unwrap();
    api.remove_taint(&seen, STARTUP_TAINT).await.unwrap();
    assert_eq!(server.get(path), node(&["b", "c"]));
}

#[tokio::test]
async fn long_lists_are_read_to_their_end_and_other_drivers_objects_are_left_out() {
    let (server, account) = (Server::start().await, tempfile::tempdir().unwrap());
    let api = api(&server, account.path());
    let mut items: Vec<_> = (0..7)
        .map(|n| server::attachment("web01", &format!("pv{n}")))
        .collect();
    items.insert(
        3,
        json!({"spec": {"attacher": "other.example", "nodeName": "web01", "source": {}}}),
    );
    server.put(server::ATTACHMENTS, json!({"items": items}));
    let found = api.attachments().await.unwrap();
    let names: Vec<_> = found.iter().map(|one| one.volume.as_str()).collect();
    assert_eq!(names, ["pv0", "pv1", "pv2", "pv3", "pv4", "pv5", "pv6"]);
    assert!(server.asked().len() > 1, "the list came in pages");
    let other = json!({"metadata": {"name": "nfs"}, "spec": {"nfs": {}}});
    server.put(
        server::VOLUMES,
        json!({"items": [server::volume("pv0", "disk0"), other]}),
    );
    let found = api.volumes().await.unwrap();
    assert_eq!((found.len(), found[0].handle.as_str()), (1, "disk0"));
}

#[tokio::test]
async fn a_missing_right_is_final_and_a_server_in_trouble_is_not() {
    let (server, account) = (Server::start().await, tempfile::tempdir().unwrap());
    let api = api(&server, account.path());
    server.put(
        "/api/v1/nodes/web01",
        json!({"code": 403, "message": "nodes \"web01\" is forbidden"}),
    );
    let error = api.node("web01").await.unwrap_err();
    assert!(
        !error.is_transient() && error.to_string().contains("is forbidden"),
        "{error}"
    );
    for code in [429, 500, 503] {
        server.put(
            "/api/v1/nodes/web01",
            json!({"code": code, "message": "busy"}),
        );
        assert!(
            api.node("web01").await.unwrap_err().is_transient(),
            "{code}"
        );
    }
}

#[test]
fn a_token_is_sent_to_this_machine_or_by_https_and_a_pod_without_one_asks_nobody() {
    install_crypto_provider();
    let account = tempfile::tempdir().unwrap();
    let in_pod = |name: &str| (name == "KUBERNETES_SERVICE_HOST").then(|| "10.0.0.1".to_owned());
    assert_eq!(Settings::find(None, account.path(), |_| None), None);
    assert_eq!(Settings::find(None, account.path(), in_pod), None);
    std::fs::write(account.path().join("token"), "t").unwrap();
    let found = Settings::find(None, account.path(), in_pod).unwrap();
    let error = Api::new(&found).unwrap_err().to_string();
    assert!(error.contains("ca.crt"), "{error}");
    for url in ["http://10.0.0.1:8001", "ftp://127.0.0.1", "nonsense"] {
        let settings = Settings::find(Some(url), account.path(), |_| None).unwrap();
        let error = Api::new(&settings).unwrap_err().to_string();
        assert!(error.contains("kubectl proxy"), "{url}: {error}");
    }
}
