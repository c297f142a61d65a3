//! The vendor's own command line as a client that nobody here wrote: it signs, sends and reads in its own way.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use additional_storage_csi::emulator::{
    AttachmentRecord, Code, Config, DiskRecord, Effect, Emulator, Latency, Rule,
};
use serde_json::Value;
use tokio::task::JoinSet;

/// Processes side by side; each is most of a second of Python.
const AT_ONCE: usize = 3;
/// What the script says when there is no Python to run the program.
const NO_PYTHON: i32 = 69;

/// Path of the program; `None` says why this test is left out.
#[allow(clippy::disallowed_methods, reason = "a test's own tool")]
fn program() -> Option<PathBuf> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/vendor-cli.sh");
    let output = Command::new("sh").arg(script).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(NO_PYTHON) {
        eprintln!("left out, the vendor's command line needs Python: {said}");
        return None;
    }
    assert!(output.status.success(), "{script}: {said}");
    let path = String::from_utf8(output.stdout).unwrap();
    Some(PathBuf::from(path.trim()))
}

/// The command line as a user of this emulator has it.
#[derive(Clone)]
struct Cli {
    program: PathBuf,
    endpoint: String,
    key: (&'static str, &'static str),
}

impl Cli {
    fn new(program: PathBuf, emulator: &Emulator) -> Self {
        Self {
            program,
            endpoint: emulator.endpoint(),
            key: ("EMULATORKEY", "emulator-secret"),
        }
    }

    #[allow(clippy::disallowed_methods, reason = "a test's own tool")]
    async fn run(&self, line: &str) -> Output {
        let mut command = Command::new(&self.program);
        command
            .args(["--endpoint-url", &self.endpoint, "computing"])
            .args(line.split(' '))
            .env("NIFCLOUD_ACCESS_KEY_ID", self.key.0)
            .env("NIFCLOUD_SECRET_ACCESS_KEY", self.key.1)
            .env("NIFCLOUD_DEFAULT_REGION", "jp-east-1")
            .env("AWS_PAGER", "")
            // A user's own configuration must not matter.
            .env("HOME", "/nonexistent")
            .env_remove("HTTP_PROXY")
            .env_remove("http_proxy")
            .stdin(Stdio::null());
        tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap()
    }

    /// What the program prints.
    async fn ok(&self, line: &str) -> Value {
        let output = self.run(line).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {said}");
        let text = String::from_utf8(output.stdout).unwrap();
        if text.trim().is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&text).unwrap()
    }

    /// The code that it was refused with.
    async fn refused(&self, line: &str) -> String {
        let output = self.run(line).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{line} was not refused");
        let code = said
            .split_once("An error occurred (")
            .and_then(|(_, rest)| rest.split_once(')'));
        let (code, _) = code.unwrap_or_else(|| panic!("{line}: no code in: {said}"));
        code.to_owned()
    }
}

#[track_caller]
fn assert_has(answer: &Value, expected: &[(&str, &str)]) {
    for (pointer, expected) in expected {
        let found = answer.pointer(pointer).unwrap_or(&Value::Null);
        let text = found
            .as_str()
            .map_or_else(|| found.to_string(), str::to_owned);
        assert_eq!(text, *expected, "{pointer} of {answer:#}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_vendors_command_line_walks_a_disk_through_its_life() {
    let Some(program) = program() else { return };
    let config = Config {
        zones: vec!["east-12".to_owned()],
        ..Config::default()
            .vm("node1", "east-11")
            .vm("node2", "east-11")
    };
    let emulator = Emulator::start(config).await.unwrap();
    let (cli, control) = (Cli::new(program, &emulator), emulator.control());
    let (vms, zones, regions) = tokio::join!(
        cli.ok("describe-instances --instance-id node1"),
        cli.ok("describe-availability-zones"),
        cli.ok("describe-regions --region-name east-1"),
    );
    assert_has(
        &vms,
        &[
            ("/ReservationSet/0/InstancesSet/0/InstanceId", "node1"),
            (
                "/ReservationSet/0/InstancesSet/0/InstanceState/Name",
                "running",
            ),
            (
                "/ReservationSet/0/InstancesSet/0/Placement/AvailabilityZone",
                "east-11",
            ),
        ],
    );
    assert_has(&zones, &[("/AvailabilityZoneInfo/1/ZoneName", "east-12")]);
    assert_has(&regions, &[("/RegionInfo/0/IsDefault", "true")]);

    let made = cli
        .ok("create-volume --size 100 --volume-id data --disk-type 7 --accounting-type 2 --instance-id node1 --description words")
        .await;
    assert_has(
        &made,
        &[
            ("/VolumeId", "data"),
            ("/Status", "creating"),
            ("/Size", "100"),
            ("/DiskType", "Standard Flash Storage B"),
            ("/AvailabilityZone", "east-11"),
            ("/Description", "words"),
        ],
    );
    control.settle().await;
    // The vendor's own idea of what to wait for.
    tokio::join!(
        cli.ok("wait volume-in-use --volume-id data"),
        cli.ok("wait volume-attached --volume-id data"),
    );
    let slots = cli
        .ok("describe-instance-attribute --instance-id node1 --attribute blockDeviceMapping")
        .await;
    assert_has(
        &slots,
        &[
            ("/BlockDeviceMapping/0/DeviceName", "SCSI (0:1)"),
            ("/BlockDeviceMapping/0/Ebs/VolumeId", "data"),
            ("/BlockDeviceMapping/0/Ebs/Status", "attached"),
        ],
    );
    grows_and_moves(&cli, &emulator).await;
    emulator.shutdown().await;
}

/// The second half of the life.
async fn grows_and_moves(cli: &Cli, emulator: &Emulator) {
    let control = emulator.control();
    cli.ok("modify-volume-attribute --volume-id data --attribute accountingType --value 1")
        .await;
    cli.ok("modify-volume-attribute --volume-id data --attribute description --value other")
        .await;
    let grown = cli
        .ok("extend-volume-size --volume-id data --nifty-reboot false")
        .await;
    assert_has(&grown, &[("/Return", "true")]);
    control.settle().await;
    let described = cli.ok("describe-volumes --volume-id data").await;
    let unique_id = control.disk("data").unwrap().unique_id;
    assert_has(
        &described,
        &[
            ("/VolumeSet/0/Size", "200"),
            ("/VolumeSet/0/VolumeUniqueId", &unique_id),
            ("/VolumeSet/0/AccountingType", "2"),
            ("/VolumeSet/0/NextMonthAccountingType", "1"),
            ("/VolumeSet/0/Description", "other"),
            ("/VolumeSet/0/AttachmentSet/0/InstanceId", "node1"),
            ("/VolumeSet/0/AttachmentSet/0/Status", "attached"),
        ],
    );
    let left = cli
        .ok("detach-volume --volume-id data --instance-id node1 --agreement")
        .await;
    assert_has(&left, &[("/Status", "detaching"), ("/InstanceId", "node1")]);
    control.settle().await;
    cli.ok("wait volume-available --volume-id data").await;
    let moved = cli
        .ok("attach-volume --volume-id data --instance-id node2")
        .await;
    assert_has(
        &moved,
        &[("/Status", "attaching"), ("/InstanceId", "node2")],
    );
    control.settle().await;
    cli.ok("wait volume-attached --volume-id data").await;
    cli.ok("detach-volume --volume-id data --agreement").await;
    control.settle().await;
    let gone = cli.ok("delete-volume --volume-id data").await;
    assert_has(&gone, &[("/Return", "true")]);
    control.settle().await;
    cli.ok("wait volume-deleted --volume-id data").await;
    let resources = cli.ok("describe-resources").await;
    assert_has(&resources, &[("/ResourceInfo/AddDiskCount", "0")]);
}

/// Each code, and a command that gets it.
const REFUSED: &[(Code, &str)] = &[
    (
        Code::VolumeNotFound,
        "describe-volumes --volume-id free none",
    ),
    (Code::VolumeNotFound, "delete-volume --volume-id none"),
    (
        Code::InstanceNotFound,
        "describe-instances --instance-id node1 ghost",
    ),
    (
        Code::ZoneNotFound,
        "describe-availability-zones --zone-name mars",
    ),
    (Code::RegionNotFound, "describe-regions --region-name mars"),
    (Code::ActionNotFound, "describe-key-pairs"),
    (
        Code::DuplicateVolume,
        "create-volume --size 100 --volume-id free --instance-id node1",
    ),
    (
        Code::AlreadyAttached,
        "attach-volume --volume-id used --instance-id node1",
    ),
    (
        Code::AlreadyAttached,
        "attach-volume --volume-id used --instance-id node2",
    ),
    (Code::Detached, "detach-volume --volume-id free --agreement"),
    (Code::Detached, "extend-volume-size --volume-id free"),
    (Code::InUse, "delete-volume --volume-id used"),
    (
        Code::DifferentZone,
        "attach-volume --volume-id free --instance-id far",
    ),
    (Code::InstanceRunning, "detach-volume --volume-id used"),
    (
        Code::InstanceState,
        "attach-volume --volume-id free --instance-id odd",
    ),
    (
        Code::NoSlot,
        "create-volume --size 100 --volume-id more --instance-id full",
    ),
    (
        Code::InstanceProcessing,
        "attach-volume --volume-id free --instance-id busy",
    ),
    (Code::VolumeProcessing, "delete-volume --volume-id slow"),
    (
        Code::MissingParameter,
        "create-volume --size 100 --volume-id more",
    ),
    (
        Code::InvalidSize,
        "create-volume --size 150 --instance-id node1",
    ),
    (
        Code::InvalidSize,
        "create-volume --size 8100 --instance-id node1",
    ),
    (
        Code::InvalidDiskType,
        "create-volume --size 100 --disk-type 99 --instance-id node1",
    ),
    (
        Code::InvalidVolumeId,
        "create-volume --size 100 --volume-id has-hyphen --instance-id node1",
    ),
    (
        Code::InvalidAccountingType,
        "create-volume --size 100 --accounting-type 7 --instance-id node1",
    ),
    (
        Code::InvalidDescription,
        "create-volume --size 100 --instance-id node1 --description 12345678901234567890123456789012345678901",
    ),
    (
        Code::InvalidReboot,
        "extend-volume-size --volume-id used --nifty-reboot maybe",
    ),
    (
        Code::InvalidAttribute,
        "modify-volume-attribute --volume-id free --attribute colour --value red",
    ),
    (
        Code::InvalidValue,
        "modify-volume-attribute --volume-id free --attribute volumeName --value has-hyphen",
    ),
    (Code::RequestLimit, "delete-volume --volume-id throttled"),
    (Code::Internal, "delete-volume --volume-id broken"),
];

fn record(name: &str, vm: Option<&str>) -> DiskRecord {
    DiskRecord {
        name: name.to_owned(),
        unique_id: String::new(),
        size: 100,
        disk_type: "Standard Flash Storage A".to_owned(),
        zone: "east-11".to_owned(),
        accounting: "2".to_owned(),
        next_accounting: "2".to_owned(),
        description: String::new(),
        created: String::new(),
        attachment: vm.map(|vm| AttachmentRecord {
            vm: vm.to_owned(),
            target: 0,
            since: String::new(),
        }),
        change: None,
    }
}

/// A cloud where every refusal has its reason.
async fn quarrelsome(cli: impl Fn(&Emulator) -> Cli) -> (Emulator, Cli) {
    let mut config = Config::default().vm("far", "east-12");
    for vm in ["node1", "node2", "odd", "full", "busy"] {
        config = config.vm(vm, "east-11");
    }
    // What begins stays in flight.
    config.latency = Latency {
        create: 3_600_000,
        ..Latency::FAST
    };
    let emulator = Emulator::start(config).await.unwrap();
    let control = emulator.control();
    control.set_vm_state("odd", "pending").unwrap();
    control.put_disk(record("free", None)).unwrap();
    control.put_disk(record("used", Some("node1"))).unwrap();
    for number in 1..=14 {
        let name = format!("full{number}");
        control.put_disk(record(&name, Some("full"))).unwrap();
    }
    for (disk, effect) in [
        ("throttled", Effect::Throttle),
        ("broken", Effect::InternalErrorBefore),
    ] {
        control.add_fault(Rule {
            action: None,
            mutating: false,
            disk: Some(disk.to_owned()),
            vm: None,
            skip: 0,
            count: None,
            probability: 1.0,
            effect,
        });
    }
    let cli = cli(&emulator);
    cli.ok("create-volume --size 100 --volume-id slow --instance-id busy")
        .await;
    (emulator, cli)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_vendors_command_line_reads_every_code() {
    let Some(program) = program() else { return };
    let (emulator, cli) = quarrelsome(|emulator| Cli::new(program.clone(), emulator)).await;
    let before = emulator.control().state();
    let mut seen = BTreeSet::new();
    let mut cases: Vec<(Code, &str, Cli)> = Vec::new();
    for (code, line) in REFUSED {
        cases.push((*code, line, cli.clone()));
    }
    for key in [("EMULATORKEY", "wrong"), ("NOBODY", "emulator-secret")] {
        let cli = Cli { key, ..cli.clone() };
        cases.push((Code::AuthFailure, "describe-volumes", cli));
    }
    let mut running = JoinSet::new();
    for (code, line, cli) in cases {
        if running.len() == AT_ONCE {
            running.join_next().await.unwrap().unwrap();
        }
        seen.insert(code);
        running.spawn(async move { assert_eq!(cli.refused(line).await, code.as_str(), "{line}") });
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
    let all: BTreeSet<Code> = Code::ALL.iter().copied().collect();
    assert_eq!(seen, all, "codes without a command that gets them");
    assert_eq!(
        emulator.control().state(),
        before,
        "a refused call changed the books"
    );
    emulator.shutdown().await;
}
