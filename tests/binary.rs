//! The program as an operator meets it: exit codes, messages, sockets, signals. The real binary, real processes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests start the program itself"
)]

#[path = "shared/address.rs"]
mod address;
#[path = "binary/bad_cloud.rs"]
mod bad_cloud;
#[path = "binary/bad_input.rs"]
mod bad_input;
#[path = "binary/bad_tools.rs"]
mod bad_tools;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use additional_storage_csi::demo::claim::{Claim, Form, connect};
use additional_storage_csi::emulator::{Config, Emulator, Latency};
use additional_storage_csi::proto::csi::v1::ProbeRequest;
use additional_storage_csi::proto::csi::v1::controller_client::ControllerClient;
use additional_storage_csi::proto::csi::v1::identity_client::IdentityClient;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use address::reserved;

/// Far above what anything here takes; a test that reaches it has failed.
const LIMIT: Duration = Duration::from_secs(30);
const KEYS: [(&str, &str); 2] = [
    ("NIFCLOUD_ACCESS_KEY_ID", "EMULATORKEY"),
    ("NIFCLOUD_SECRET_ACCESS_KEY", "emulator-secret"),
];

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nifcloud-additional-storage-csi"));
    command
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A started program; killed when the test ends, however it ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self(
            command(arguments)
                .envs(environment.iter().copied())
                .spawn()
                .unwrap(),
        )
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }

    fn ended(&mut self) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(begin.elapsed() < LIMIT, "the program does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn errors(&mut self) -> String {
        let mut text = String::new();
        self.0
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    }
}

fn refused(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut program = Running::start(arguments, environment);
    let status = program.ended();
    (status.code(), program.errors())
}

async fn serving(socket: &Path) -> tonic::transport::Channel {
    let begin = Instant::now();
    loop {
        if let Ok(channel) = connect(socket).await {
            return channel;
        }
        assert!(
            begin.elapsed() < LIMIT,
            "nobody serves {}",
            socket.display()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("csi.sock")
    }

    fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }
}

/// Arguments, environment, and what the message says.
type Case<'a> = (Vec<&'a str>, &'a [(&'a str, &'a str)], &'a str);

#[test]
fn wrong_input_ends_with_64_and_says_what_to_do_before_any_socket_opens() {
    let place = Place::new();
    let endpoint = place.endpoint();
    let node = [
        "node",
        "--endpoint",
        &endpoint,
        "--zone",
        "east-11",
        "--node-name",
        "web01",
    ];
    let with = |more: &[&'static str]| [&node[..], more].concat();
    let controller = ["controller", "--endpoint", &endpoint];
    let region = |region| [&controller[..], &["--region", region]].concat();
    let cloud = |url| [&controller[..], &["--cloud-endpoint", url]].concat();
    let cases: Vec<Case<'_>> = vec![
        (vec![], &[], "Usage"),
        (vec!["controler"], &[], "controller"),
        (with(&["--no-such-flag"]), &[], "--no-such-flag"),
        (controller.to_vec(), &KEYS, "NIFCLOUD_REGION"),
        (region("east-1"), &KEYS, "jp-east-1"),
        (region("jp-east-1"), &[], "NIFCLOUD_ACCESS_KEY_ID_FILE"),
        (
            region("jp-east-1"),
            &KEYS[..1],
            "NIFCLOUD_SECRET_ACCESS_KEY",
        ),
        (
            region("jp-east-1"),
            &[KEYS[0], KEYS[1], ("NIFCLOUD_SECRET_ACCESS_KEY_FILE", "/x")],
            "only one",
        ),
        (
            region("jp-east-1"),
            &[
                KEYS[0],
                ("NIFCLOUD_SECRET_ACCESS_KEY_FILE", "/no/such/file"),
            ],
            "/no/such/file",
        ),
        (cloud("ftp://127.0.0.1"), &KEYS, "https"),
        (cloud("http://example.com"), &KEYS, "insecure"),
        (
            [&region("jp-east-1")[..], &["--api-rate", "0"]].concat(),
            &KEYS,
            "at least 0.1",
        ),
        (
            [&region("jp-east-1")[..], &["--zone", " "]].concat(),
            &KEYS,
            "NIFCLOUD_ZONE",
        ),
        (
            vec!["node", "--endpoint", &endpoint, "--zone", "east-11"],
            &[],
            "NODE_NAME",
        ),
        (
            vec!["node", "--endpoint", &endpoint, "--node-name", "web01"],
            &[],
            "NIFCLOUD_ZONE",
        ),
        (
            vec![
                "node",
                "--endpoint",
                &endpoint,
                "--node-name",
                "web01",
                "--zone",
                "east 11",
            ],
            &[],
            "east-11",
        ),
        (
            with(&["--node-name", "no/name"]),
            &[],
            "cannot be used multiple",
        ),
        (with(&["--kubelet-dir", "kubelet"]), &[], "absolute path"),
        (with(&["--device-dir", "../devices"]), &[], "absolute path"),
        (with(&["--state-dir", "state"]), &[], "absolute path"),
        (with(&["--max-volumes", "0"]), &[], "at least 1"),
        (with(&["--log-level", "no/such=level=x"]), &[], "log level"),
        (with(&["--admin-listen", "9808"]), &[], "admin-listen"),
        (
            vec![
                "node",
                "--endpoint",
                "csi.sock",
                "--zone",
                "east-11",
                "--node-name",
                "web01",
            ],
            &[],
            "unix:///",
        ),
        (
            vec![
                "node",
                "--endpoint",
                "tcp://127.0.0.1:1",
                "--zone",
                "east-11",
                "--node-name",
                "web01",
            ],
            &[],
            "unix:///",
        ),
        (vec!["emulator", "--vm", "web01"], &[], "NAME:ZONE"),
        (
            vec!["emulator", "--config", "/no/such/file"],
            &[],
            "/no/such/file",
        ),
        (vec!["emulator", "--listen", "0.0.0.0:0"], &[], "loopback"),
        (vec!["emulator", "--backend", "loop"], &[], "data"),
    ];
    for (arguments, environment, expected) in cases {
        let (code, words) = refused(&arguments, environment);
        assert_eq!(code, Some(64), "{arguments:?}: {words}");
        assert!(
            words.contains(expected),
            "{arguments:?}: expected {expected:?} in: {words}"
        );
        assert!(
            !words.contains("emulator-secret"),
            "a key was printed: {words}"
        );
        assert!(!place.socket().exists(), "{arguments:?} opened its socket");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_the_sockets_place_is_left_alone() {
    let place = Place::new();
    let (socket, endpoint) = (place.socket(), place.endpoint());
    let kubelet = place.dir.path().display().to_string();
    let arguments = [
        "node",
        "--endpoint",
        &endpoint,
        "--zone",
        "east-11",
        "--node-name",
        "web01",
        "--kubelet-dir",
        &kubelet,
        "--registration",
        "false",
    ];
    std::fs::write(&socket, "a file of somebody").unwrap();
    let (code, words) = refused(&arguments, &[]);
    assert_eq!(code, Some(64), "{words}");
    assert!(words.contains("a regular file"), "{words}");
    assert_eq!(std::fs::read(&socket).unwrap(), b"a file of somebody");
    std::fs::remove_file(&socket).unwrap();

    let _first = Running::start(&arguments, &[]);
    let channel = serving(&socket).await;
    let (code, words) = refused(&arguments, &[]);
    assert_eq!(code, Some(64), "{words}");
    assert!(words.contains("another process"), "{words}");
    // The first one still serves.
    IdentityClient::new(channel)
        .probe(ProbeRequest {})
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_instance_leaves_a_socket_that_the_next_one_replaces() {
    let place = Place::new();
    drop(UnixListener::bind(place.socket()).unwrap());
    let endpoint = place.endpoint();
    let kubelet = place.dir.path().display().to_string();
    let mut program = Running::start(
        &[
            "node",
            "--endpoint",
            &endpoint,
            "--zone",
            "east-11",
            "--node-name",
            "web01",
            "--kubelet-dir",
            &kubelet,
            "--registration",
            "false",
        ],
        &[],
    );
    let channel = serving(&place.socket()).await;
    IdentityClient::new(channel)
        .probe(ProbeRequest {})
        .await
        .unwrap();
    program.signal(Signal::SIGTERM);
    assert_eq!(program.ended().code(), Some(0));
    assert!(!place.socket().exists());
}

/// A controller against a cloud whose operations take `create` milliseconds.
async fn controller(
    place: &Place,
    create: u64,
    more: &[&str],
) -> (
    Emulator,
    Running,
    ControllerClient<tonic::transport::Channel>,
) {
    let latency = Latency {
        create,
        ..Latency::FAST
    };
    let emulator = Emulator::start(
        Config {
            latency,
            ..Config::default()
        }
        .vm("web01", "east-11"),
    )
    .await
    .unwrap();
    let (endpoint, cloud) = (place.endpoint(), emulator.endpoint());
    let arguments = [
        &[
            "controller",
            "--endpoint",
            &endpoint,
            "--cloud-endpoint",
            &cloud,
        ],
        more,
    ]
    .concat();
    let program = Running::start(&arguments, &KEYS);
    let client = ControllerClient::new(serving(&place.socket()).await);
    (emulator, program, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_lets_a_running_operation_end_and_answer() {
    let place = Place::new();
    let (emulator, mut program, client) = controller(&place, 1500, &[]).await;
    let mut claim = Claim::new(Form::Mounted("ext4"));
    let creating = claim.create(&client, ("web01", "east-11"), 100);
    let signal = async {
        while emulator.control().state().disks.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        program.signal(Signal::SIGTERM);
    };
    let (created, ()) = tokio::join!(creating, signal);
    created.unwrap();
    assert_eq!(program.ended().code(), Some(0));
    assert!(!place.socket().exists());
    emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_grace_period_ends_what_does_not_end_by_itself() {
    let place = Place::new();
    let (emulator, mut program, client) =
        controller(&place, 600_000, &["--grace-period", "1"]).await;
    let mut claim = Claim::new(Form::Mounted("ext4"));
    let creating = tokio::spawn(async move {
        claim
            .create(&client, ("web01", "east-11"), 100)
            .await
            .map(|()| claim)
    });
    while emulator.control().state().disks.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    program.signal(Signal::SIGTERM);
    assert_eq!(
        program.ended().code(),
        Some(2),
        "an exit status of its own: work was interrupted"
    );
    assert!(creating.await.unwrap().is_err());
    emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_it_at_once() {
    let place = Place::new();
    let (emulator, mut program, client) =
        controller(&place, 600_000, &["--grace-period", "3000"]).await;
    let mut claim = Claim::new(Form::Mounted("ext4"));
    let creating = tokio::spawn(async move {
        claim
            .create(&client, ("web01", "east-11"), 100)
            .await
            .map(|()| claim)
    });
    while emulator.control().state().disks.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    program.signal(Signal::SIGTERM);
    // The first signal was seen when the socket takes no new calls any more.
    while UnixStream::connect(place.socket()).is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    program.signal(Signal::SIGINT);
    assert_eq!(program.ended().code(), Some(130));
    creating.abort();
    emulator.shutdown().await;
}

fn http(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_endpoint_tells_how_the_driver_is_and_changes_its_log_level() {
    let place = Place::new();
    let (_held, free) = reserved();
    let (emulator, _program, mut client) = controller(&place, 10, &["--admin-listen", &free]).await;
    client
        .list_volumes(additional_storage_csi::proto::csi::v1::ListVolumesRequest::default())
        .await
        .unwrap();
    let get = |path: &str| {
        http(
            &free,
            &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        )
    };
    let put = |level: &str| {
        http(
            &free,
            &format!(
                "PUT /log-level HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{level}",
                level.len()
            ),
        )
    };
    for path in ["/livez", "/readyz"] {
        assert!(get(path).starts_with("HTTP/1.1 200"), "{path}");
    }
    let metrics = get("/metrics");
    for name in [
        "csi_operations_seconds_count{method=\"csi.v1.Controller/ListVolumes\",grpc_code=\"Ok\"} 1",
        "cloud_api_request_seconds_count{action=\"DescribeVolumes\",result=\"ok\"}",
        "build_info{",
    ] {
        assert!(metrics.contains(name), "{name} is missing in {metrics}");
    }
    assert!(put("debug").contains("debug"));
    assert!(get("/log-level").contains("debug"));
    assert!(put("no=such=level").starts_with("HTTP/1.1 400"));
    emulator.shutdown().await;
}

#[test]
fn the_emulator_tells_its_addresses_in_one_line_of_json_and_ends_on_sigterm() {
    let mut program = Running::start(
        &["emulator", "--vm", "web01:east-11", "--latency", "fast"],
        &[],
    );
    let mut line = String::new();
    BufReader::new(program.0.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    let admin = ready["admin"]
        .as_str()
        .unwrap()
        .strip_prefix("http://")
        .unwrap();
    assert!(
        ready["endpoint"]
            .as_str()
            .unwrap()
            .starts_with("http://127.0.0.1:")
    );
    let state = http(
        admin,
        "GET /state HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    );
    assert!(state.contains("web01"), "{state}");
    program.signal(Signal::SIGTERM);
    assert_eq!(program.ended().code(), Some(0));
}

#[test]
fn flags_complete_the_emulators_file_before_it_is_checked() {
    let place = Place::new();
    let file = place.dir.path().join("emulator.toml");
    std::fs::write(&file, "backend = \"loop\"\nvms = [\"web01:east-11\"]\n").unwrap();
    let file = file.display().to_string();
    let (code, words) = refused(&["emulator", "--config", &file], &[]);
    assert_eq!(code, Some(64), "{words}");
    assert!(words.contains("data_dir"), "{words}");
    // With this flag nothing is missing any more.
    let mut program = Running::start(&["emulator", "--config", &file, "--backend", "none"], &[]);
    let mut line = String::new();
    BufReader::new(program.0.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.contains("\"endpoint\""), "{line}");
}
