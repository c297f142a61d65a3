//! The admin endpoint as an operator uses it: over HTTP, with curl's headers.

use additional_storage_csi::cloud::nifcloud::install_crypto_provider;
use additional_storage_csi::emulator::{Config, Emulator};
use serde_json::{Value, json};

struct Admin {
    client: reqwest::Client,
    url: String,
}

impl Admin {
    fn new(emulator: &Emulator) -> Self {
        install_crypto_provider();
        Self {
            client: reqwest::Client::new(),
            url: emulator.admin(),
        }
    }

    /// Status and answer; `curl -X METHOD -d BODY`.
    async fn ask(&self, line: &str, body: &str) -> (u16, Value) {
        let (method, path) = line.split_once(' ').unwrap();
        let request = self
            .client
            .request(method.parse().unwrap(), format!("{}{path}", self.url))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.to_owned());
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(json!(text)))
    }

    async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.ask(&format!("GET {path}"), "").await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    async fn done(&self, line: &str, body: &str) {
        let (status, answer) = self.ask(line, body).await;
        assert_eq!(status, 204, "{line} {body}: {answer}");
    }
}

#[tokio::test]
async fn everything_can_be_set_and_read_back_over_http() {
    let config = Config::default().vm("one", "east-11");
    let emulator = Emulator::start(config).await.unwrap();
    let admin = Admin::new(&emulator);
    admin.done("PUT /latency", "\"realistic\"").await;
    assert_eq!(admin.get("/latency").await["create"], 10_000);
    admin.done("PUT /latency", "{\"create\": 7}").await;
    assert_eq!(admin.get("/latency").await["create"], 7);
    admin
        .done("PUT /rate-limit", "{\"per_second\": 5, \"burst\": 9}")
        .await;
    assert_eq!(admin.get("/rate-limit").await["burst"], 9.0);
    admin.done("PUT /rate-limit", "null").await;
    assert_eq!(admin.get("/rate-limit").await, Value::Null);
    admin.done("PUT /switches", "{\"error_status\": 400}").await;
    assert_eq!(admin.get("/switches").await["error_status"], 400);
    assert_eq!(admin.get("/switches").await["auth_status"], 401);
    let fault = r#"{"action": "AttachVolume", "effect": {"gateway_after": {"status": 502}}}"#;
    let (status, made) = admin.ask("POST /faults", fault).await;
    assert_eq!(status, 200, "{made}");
    let rules = admin.get("/faults").await;
    assert_eq!(rules[0]["id"], made["id"], "{rules}");
    admin.done("PUT /faults/seed", "7").await;
    admin
        .done(&format!("DELETE /faults/{}", made["id"]), "")
        .await;
    let (status, _) = admin
        .ask(&format!("DELETE /faults/{}", made["id"]), "")
        .await;
    assert_eq!(status, 404);
    admin.done("DELETE /faults", "").await;
    assert_eq!(admin.get("/faults").await, json!([]));
    assert_eq!(admin.get("/history").await, json!([]));
    admin.done("DELETE /history", "").await;
    assert_eq!(admin.get("/calls").await, json!({}));
    assert_eq!(admin.get("/held").await, json!([]));
    let help = admin.get("/").await;
    for route in [
        "/latency",
        "/switches",
        "/faults",
        "/vms/NAME",
        "/disks/NAME/device",
    ] {
        assert!(help.as_str().unwrap().contains(route), "{route}: {help}");
    }
    emulator.shutdown().await;
}

#[tokio::test]
async fn vms_are_stopped_started_renamed_deleted_and_added_and_disks_put_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        data_dir: Some(dir.path().to_owned()),
        ..Config::default().vm("one", "east-11").vm("two", "east-11")
    };
    let emulator = Emulator::start(config.clone()).await.unwrap();
    let admin = Admin::new(&emulator);
    let disk = r#"{"name": "byhand", "attachment": {"vm": "one"}}"#;
    admin.done("POST /disks", disk).await;
    admin.done("POST /vms/one/stop", "").await;
    assert_eq!(admin.get("/state").await["vms"]["one"]["state"], "stopped");
    admin.done("POST /vms/one/start", "").await;
    assert_eq!(admin.get("/state").await["vms"]["one"]["state"], "running");
    admin
        .done("POST /vms/one/rename", "{\"to\": \"first\"}")
        .await;
    let state = admin.get("/state").await;
    assert_eq!(state["disks"]["byhand"]["attachment"]["vm"], "first");
    admin.done("POST /vms/first/delete", "").await;
    admin
        .done("POST /vms/three/add", "{\"zone\": \"east-12\"}")
        .await;
    emulator.control().settle().await;
    for (line, body, code) in [
        ("POST /vms/first/stop", "", "NotFound"),
        ("POST /vms/three/add", "{\"zone\": \"z\"}", "Duplicate"),
        ("POST /vms/two/rename", "{\"to\": \"three\"}", "Duplicate"),
        ("POST /disks", disk, "Duplicate"),
    ] {
        let (status, answer) = admin.ask(line, body).await;
        let told = answer["code"].as_str().unwrap_or_default();
        assert!(
            status == 409 && told.contains(code),
            "{line}: {status} {answer}"
        );
    }
    let before = admin.get("/state").await;
    assert_eq!(before["disks"]["byhand"]["attachment"], Value::Null);
    emulator.shutdown().await;
    // The configuration still lists `one`; it stays deleted.
    let emulator = Emulator::start(config).await.unwrap();
    assert_eq!(Admin::new(&emulator).get("/state").await, before);
    emulator.shutdown().await;
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_in_words_and_changes_nothing() {
    let emulator = Emulator::start(Config::default().vm("one", "z"))
        .await
        .unwrap();
    let admin = Admin::new(&emulator);
    let before = (admin.get("/state").await, admin.get("/faults").await);
    for (line, body, words) in [
        ("PUT /latency", "\"slow\"", "realistic"),
        ("PUT /latency", "{\"craete\": 1}", "`create`"),
        ("PUT /latency", "", "null"),
        (
            "PUT /rate-limit",
            "{\"per_second\": 0, \"burst\": 1}",
            "above 0",
        ),
        ("PUT /switches", "{\"error_status\": 200}", "400 to 599"),
        ("POST /faults", "{\"effect\": \"explode\"}", "`throttle`"),
        (
            "POST /faults",
            "{\"effect\": \"throttle\", \"probability\": 2}",
            "0 to 1",
        ),
        ("POST /disks", "{\"size\": 100}", "`name`"),
        ("PUT /disks/d/device", "{\"readonly\": true}", "`read_only`"),
        (
            "PUT /disks/d/device",
            "{\"io_errors\": [{\"first\": 0, \"count\": 5000}]}",
            "at most 4096",
        ),
    ] {
        let (status, answer) = admin.ask(line, body).await;
        let told = answer["message"].as_str().unwrap_or_default();
        assert!(
            status == 400 && told.contains(words),
            "{line} {body}: {status} {answer}"
        );
    }
    // This backend has no devices that could break.
    let (status, answer) = admin.ask("PUT /disks/d/device", "{\"silent\": true}").await;
    let told = answer["message"].as_str().unwrap_or_default();
    assert!(status == 409 && told.contains("qmp"), "{status} {answer}");
    for line in [
        "POST /vms/one/explode",
        "POST /vms/one/rename",
        "POST /held/1/keep",
    ] {
        assert_eq!(admin.ask(line, "").await.0, 400, "{line}");
    }
    assert_eq!(
        (admin.get("/state").await, admin.get("/faults").await),
        before
    );
    emulator.shutdown().await;
}
