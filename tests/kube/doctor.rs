//! The role `doctor`, as an operator meets it: what is right, what is wrong, and that the words say what to do.

use additional_storage_csi::emulator::{Config, Emulator, Latency};
use axum::Router;
use axum::http::header::DATE;
use serde_json::{Value, json};

use super::address::reserved;
use super::program::{output, program};
use super::server::{self, Server};

const SECRET: &str = "emulator-secret";
const ACCOUNT: [(&str, &str); 2] = [
    ("NIFCLOUD_ACCESS_KEY_ID", "EMULATORKEY"),
    ("NIFCLOUD_SECRET_ACCESS_KEY", SECRET),
];
const CSI_NODE: &str = "/apis/storage.k8s.io/v1/csinodes/web01";

/// A cloud with one VM, and a cluster with the node of that VM.
struct World {
    emulator: Emulator,
    cluster: Server,
}

impl World {
    async fn new() -> Self {
        let config = Config {
            latency: Latency::FAST,
            ..Config::default()
        };
        let emulator = Emulator::start(config.vm("web01", "east-11"))
            .await
            .unwrap();
        let cluster = Server::start().await;
        cluster.put(
            "/api/v1/nodes/web01",
            json!({"metadata": {"name": "web01", "labels": {"topology.kubernetes.io/zone": "east-11"}}}),
        );
        cluster.put(CSI_NODE, server::csi_node());
        Self { emulator, cluster }
    }

    async fn doctor(&self, more: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
        let cloud = self.emulator.endpoint();
        let default = ["--cloud-endpoint", &cloud];
        let arguments: &[&str] = if more.contains(&"--cloud-endpoint") {
            &[]
        } else {
            &default
        };
        let mut command = program(&self.cluster, &["doctor"]);
        command.args(arguments).args(more);
        command.envs(environment.iter().copied());
        let (code, out, errors) = output(command).await;
        assert!(
            !out.contains(SECRET) && !errors.contains(SECRET),
            "a key was printed"
        );
        (code, out + &errors)
    }
}

/// The line of a check.
fn line<'a>(report: &'a str, level: &str, name: &str) -> &'a str {
    let has = |line: &&str| {
        let mut words = line.split_whitespace();
        words.next() == Some(level) && words.next() == Some(name)
    };
    report
        .lines()
        .find(has)
        .unwrap_or_else(|| panic!("no line {level} {name} in:\n{report}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_with_all_it_needs_passes() {
    let world = World::new().await;
    let arguments = ["--on", "controller", "--node-name", "web01"];
    let (code, report) = world.doctor(&arguments, &ACCOUNT).await;
    assert_eq!(code, Some(0), "{report}");
    assert!(
        line(&report, "ok", "cloud-api").contains("east-11"),
        "{report}"
    );
    line(&report, "ok", "clock");
    line(&report, "ok", "zone");
    assert!(
        line(&report, "ok", "vm").contains("14 of 14 slots free"),
        "{report}"
    );
    line(&report, "ok", "csinode");
    assert!(
        report.contains("7 ok, 0 warnings, 0 failed, 0 skipped"),
        "{report}"
    );
    assert!(
        !report.contains("mkfs"),
        "a controller needs no tools: {report}"
    );
    world.emulator.shutdown().await;
}

/// Arguments, environment, the check that fails, and words of its line.
type Case<'a> = (Vec<&'a str>, &'a [(&'a str, &'a str)], &'a str, &'a str);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_controller_lacks_is_named_with_what_to_do() {
    let world = World::new().await;
    let refused = [ACCOUNT[0], ("NIFCLOUD_SECRET_ACCESS_KEY", "wrong")];
    // Not the computing API, and a port that nobody listens on.
    let (_held, closed) = reserved();
    let (other, closed) = (world.cluster.url.clone(), format!("http://{closed}"));
    let cases: Vec<Case<'_>> = vec![
        (
            vec![],
            &[],
            "cloud-api",
            "set NIFCLOUD_ACCESS_KEY_ID or NIFCLOUD_ACCESS_KEY_ID_FILE",
        ),
        (
            vec![],
            &refused,
            "cloud-api",
            "do: check that both keys are of one pair",
        ),
        (
            vec!["--cloud-endpoint", &closed],
            &ACCOUNT,
            "cloud-api",
            "do: check the region, --cloud-endpoint, DNS",
        ),
        (
            vec!["--cloud-endpoint", &other],
            &ACCOUNT,
            "cloud-api",
            "do: check that --cloud-endpoint is the API's",
        ),
        (
            vec!["--cloud-endpoint", "ftp://x"],
            &ACCOUNT,
            "cloud-api",
            "expected https://",
        ),
        (
            vec!["--zone", "west-99"],
            &ACCOUNT,
            "zone",
            "expected: one of",
        ),
        (
            vec!["--zone", "west 1"],
            &ACCOUNT,
            "zone",
            "such as east-11",
        ),
        (
            vec!["--node-name", "web02"],
            &ACCOUNT,
            "vm",
            "do: rename the node or the VM",
        ),
        (
            vec!["--node-name", "web02"],
            &ACCOUNT,
            "node-object",
            "do: correct --node-name",
        ),
        (
            vec!["--node-name", "web01", "--zone", "east-12"],
            &ACCOUNT,
            "vm",
            "do: correct --zone",
        ),
        (
            vec!["--node-name", "a b"],
            &ACCOUNT,
            "node-name",
            "letters and digits",
        ),
    ];
    for (more, environment, check, words) in cases {
        let arguments = [&["--on", "controller"], &more[..]].concat();
        let (code, report) = world.doctor(&arguments, environment).await;
        assert_eq!(code, Some(1), "{more:?}: {report}");
        let line = line(&report, "FAIL", check);
        assert!(
            line.contains(words),
            "{more:?}: expected {words:?} in: {line}"
        );
    }
    assert_eq!(world.emulator.control().state().disks.len(), 0);
    world.emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_far_off_is_found_by_the_apis_own() {
    let world = World::new().await;
    let long_ago = || async { ([(DATE, "Thu, 01 Jan 2015 00:00:00 GMT")], "busy") };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(long_ago)).await });
    let arguments = ["--on", "controller", "--cloud-endpoint", &url];
    let (code, report) = world.doctor(&arguments, &ACCOUNT).await;
    assert_eq!(code, Some(1), "{report}");
    let clock = line(&report, "FAIL", "clock");
    assert!(
        clock.contains("ahead of the API") && clock.contains("do: set the clock"),
        "{clock}"
    );
    world.emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_hears_of_its_tools_disks_kubelet_and_registration_without_keys() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let kubelet = dir.path().display().to_string();
    let missing = format!("{kubelet}/missing");
    let base = ["--on", "node", "--node-name", "web01", "--device-dir"];
    let there = [&base[..], &[&kubelet, "--kubelet-dir", &kubelet]].concat();
    let (_, report) = world.doctor(&there, &[]).await;
    for tool in [
        "mkfs.ext4",
        "e2fsck",
        "resize2fs",
        "mkfs.xfs",
        "xfs_growfs",
        "btrfs",
    ] {
        let found = report.lines().any(|line| {
            line.contains(&format!("/{tool}: "))
                || line.contains(&format!("{tool} is not installed"))
        });
        assert!(found, "{tool}: {report}");
    }
    assert!(
        line(&report, "ok", "disks").contains("14 of 14 slots free"),
        "{report}"
    );
    assert!(
        line(&report, "FAIL", "registration").contains("do: is a kubelet running here"),
        "{report}"
    );
    assert!(
        !report.contains("cloud-api"),
        "a node has no keys: {report}"
    );

    let registry = dir.path().join("plugins_registry");
    std::fs::create_dir(&registry).unwrap();
    let (_, report) = world.doctor(&there, &[]).await;
    assert!(
        line(&report, "warn", "registration").contains("do: start the node plugin"),
        "{report}"
    );
    let name = "additional-storage.csi.nifcloud.com";
    let _serving =
        std::os::unix::net::UnixListener::bind(registry.join(format!("{name}@reg.sock"))).unwrap();
    std::fs::write(registry.join(format!("{name}-reg.sock")), "").unwrap();
    world
        .cluster
        .put(CSI_NODE, json!({"spec": {"drivers": null}}));
    let (_, report) = world.doctor(&there, &[]).await;
    line(&report, "ok", "registration");
    assert!(
        line(&report, "warn", "registration").contains("do: remove the other one"),
        "{report}"
    );
    line(&report, "warn", "csinode");

    let (code, report) = world
        .doctor(
            &[&base[..], &[&missing, "--kubelet-dir", &missing]].concat(),
            &[],
        )
        .await;
    assert_eq!(code, Some(1), "{report}");
    assert!(
        line(&report, "FAIL", "kubelet-dir").contains("--root-dir"),
        "{report}"
    );
    assert!(
        line(&report, "FAIL", "disks").contains("--device-dir"),
        "{report}"
    );
    world.emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_cluster_it_says_so_and_the_json_form_says_the_same() {
    let world = World::new().await;
    let mut command =
        tokio::process::Command::new(env!("CARGO_BIN_EXE_nifcloud-additional-storage-csi"));
    let cloud = world.emulator.endpoint();
    command
        .args([
            "doctor",
            "--on",
            "controller",
            "--json",
            "--cloud-endpoint",
            &cloud,
        ])
        .env_clear()
        .envs(ACCOUNT)
        .kill_on_drop(true);
    let (code, out, errors) = output(command).await;
    assert_eq!((code, errors.as_str()), (Some(0), ""), "{out}");
    assert!(!out.contains(SECRET), "a key was printed");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["passed"], true);
    let checks = report["checks"].as_array().unwrap();
    let of = |name: &str| checks.iter().find(|check| check["name"] == name).unwrap();
    assert_eq!(of("cloud-api")["level"], "ok");
    assert_eq!(of("node-object")["level"], "skip");
    assert!(
        of("node-object")["found"]
            .as_str()
            .unwrap()
            .contains("--kube-api")
    );
    world.emulator.shutdown().await;
}
