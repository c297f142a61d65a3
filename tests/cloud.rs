//! The client against the emulator: every refusal has its meaning, every fault its outcome, and what the client says
//! about an outcome agrees with what the emulator's books show.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use additional_storage_csi::cloud::nifcloud::{
    Client, ClientConfig, Credentials, install_crypto_provider,
};
use additional_storage_csi::cloud::{CallError, Cloud, Rejection};
use additional_storage_csi::domain::disk::{Accounting, NewDisk, VmState};
use additional_storage_csi::domain::id::{DiskName, VmName};
use additional_storage_csi::domain::size::DiskSize;
use additional_storage_csi::emulator::{Config, Effect, Emulator, RateLimit, Rule, Switches};

fn client_with(emulator: &Emulator, key: &str, secret: &str) -> Client {
    install_crypto_provider();
    Client::new(ClientConfig {
        endpoint: Some(emulator.endpoint()),
        ..ClientConfig::new("", Credentials::from_values(key, secret))
    })
    .unwrap()
}

fn client(emulator: &Emulator) -> Client {
    client_with(emulator, "EMULATORKEY", "emulator-secret")
}

fn vm(name: &str) -> VmName {
    VmName::parse(name).unwrap()
}

fn disk(name: &str) -> DiskName {
    DiskName::parse(name).unwrap()
}

fn new_disk(name: &str, anchor: &str, description: &str) -> NewDisk {
    NewDisk {
        name: disk(name),
        size: DiskSize::SMALLEST,
        type_code: "6".into(),
        accounting: Accounting::Hourly,
        anchor: vm(anchor),
        description: description.into(),
    }
}

/// An emulator with two running VMs in one zone, a stopped one in another, and a disk `d1` at rest on `node1`.
async fn start() -> (Emulator, Client) {
    let mut config = Config::default()
        .vm("node1", "east-11")
        .vm("node2", "east-11")
        .vm("far", "east-12");
    config.vms[2].state = "stopped".to_owned();
    let emulator = Emulator::start(config).await.unwrap();
    let cloud = client(&emulator);
    cloud
        .create_disk(&new_disk("d1", "node1", "new-d1"))
        .await
        .unwrap();
    emulator.control().settle().await;
    (emulator, cloud)
}

/// One refused call per code that the driver acts on.
async fn refusals(cloud: &Client) -> Vec<(Rejection, CallError)> {
    let (d1, none) = (disk("d1"), disk("none"));
    let create = |name, anchor| async move {
        cloud
            .create_disk(&new_disk(name, anchor, "x"))
            .await
            .unwrap_err()
    };
    vec![
        (
            Rejection::VolumeNotFound,
            cloud
                .describe_disks(&[d1.clone(), none.clone()])
                .await
                .unwrap_err(),
        ),
        (
            Rejection::VolumeNotFound,
            cloud.delete_disk(&none).await.unwrap_err(),
        ),
        (
            Rejection::VolumeNotFound,
            cloud.attach_disk(&none, &vm("node1")).await.unwrap_err(),
        ),
        (
            Rejection::VolumeNotFound,
            cloud.detach_disk(&none, &vm("node1")).await.unwrap_err(),
        ),
        (
            Rejection::VolumeNotFound,
            cloud.extend_disk(&none).await.unwrap_err(),
        ),
        (
            Rejection::VolumeNotFound,
            cloud.set_description(&none, "x").await.unwrap_err(),
        ),
        (
            Rejection::InstanceNotFound,
            cloud.describe_vms(&[vm("ghost")]).await.unwrap_err(),
        ),
        (
            Rejection::InstanceNotFound,
            cloud.describe_slots(&vm("ghost")).await.unwrap_err(),
        ),
        (Rejection::InstanceNotFound, create("d2", "ghost").await),
        (Rejection::DuplicateName, create("d1", "node2").await),
        (
            Rejection::AlreadyAttached,
            cloud.attach_disk(&d1, &vm("node1")).await.unwrap_err(),
        ),
        (Rejection::Client, cloud.delete_disk(&d1).await.unwrap_err()),
    ]
}

#[tokio::test]
async fn every_refusal_keeps_its_meaning_under_any_status_and_changes_nothing() {
    let (emulator, cloud) = start().await;
    for error_status in [500, 400, 200] {
        emulator.control().set_switches(Switches {
            error_status,
            ..Switches::default()
        });
        let before = emulator.control().state();
        for (expected, error) in refusals(&cloud).await {
            assert_eq!(error.rejection(), Some(expected), "{error_status}: {error}");
            assert!(!error.outcome_unknown(), "{error}");
        }
        let after = emulator.control().state();
        assert_eq!(format!("{:?}", after.disks), format!("{:?}", before.disks));
    }
    emulator.shutdown().await;
}

#[tokio::test]
async fn a_wrong_key_or_secret_is_an_auth_error() {
    let (emulator, _) = start().await;
    for (key, secret) in [
        ("NOBODY", "emulator-secret"),
        ("EMULATORKEY", "wrong-secret"),
    ] {
        let error = client_with(&emulator, key, secret)
            .describe_zones()
            .await
            .unwrap_err();
        assert_eq!(error.rejection(), Some(Rejection::Auth), "{error}");
        assert!(!error.to_string().contains(secret), "{error}");
    }
    emulator.shutdown().await;
}

#[tokio::test]
async fn what_the_client_says_of_a_fault_agrees_with_the_books() {
    /// What the client must say, and whether the change is in the books.
    type Case = (Effect, fn(&CallError) -> bool, bool);
    let unknown: fn(&CallError) -> bool = |e| {
        matches!(
            e,
            CallError::Unknown {
                throttled: false,
                ..
            }
        )
    };
    let slow_down: fn(&CallError) -> bool = |e| {
        matches!(
            e,
            CallError::Unknown {
                throttled: true,
                ..
            }
        )
    };
    let maybe: fn(&CallError) -> bool =
        |e| e.rejection() == Some(Rejection::Server) && e.outcome_unknown();
    let throttled: fn(&CallError) -> bool =
        |e| e.rejection() == Some(Rejection::Throttled) && !e.outcome_unknown();
    let cases: [Case; 9] = [
        (Effect::Throttle, throttled, false),
        (Effect::InternalErrorBefore, maybe, false),
        (Effect::InternalErrorAfter, maybe, true),
        (Effect::GatewayBefore { status: 502 }, unknown, false),
        (Effect::GatewayAfter { status: 504 }, unknown, true),
        (Effect::GatewayBefore { status: 503 }, slow_down, false),
        (Effect::GatewayAfter { status: 429 }, slow_down, true),
        (Effect::DropBefore, unknown, false),
        (Effect::DropAfter, unknown, true),
    ];
    let (emulator, cloud) = start().await;
    let control = emulator.control();
    for (effect, said, done) in cases {
        let before = control.disk("d1").unwrap().size;
        let calls = control.calls().get("ExtendVolumeSize").copied();
        control.add_fault(Rule {
            action: Some("ExtendVolumeSize".into()),
            mutating: true,
            disk: None,
            vm: None,
            skip: 0,
            count: Some(1),
            probability: 1.0,
            effect: effect.clone(),
        });
        let error = cloud.extend_disk(&disk("d1")).await.unwrap_err();
        assert!(said(&error), "{effect:?}: {error:?}");
        control.settle().await;
        let grown = control.disk("d1").unwrap().size - before;
        assert_eq!(grown, if done { 100 } else { 0 }, "{effect:?}");
        let sent = control.calls()["ExtendVolumeSize"] - calls.unwrap_or(0);
        assert_eq!(sent, 1, "{effect:?}: a call is sent once, whatever happens");
    }
    emulator.shutdown().await;
}

#[tokio::test]
async fn attributes_are_written_and_read_back_as_they_are() {
    let (emulator, cloud) = start().await;
    let (d1, description) = (disk("d1"), "a b+c/é~* <&> 'x' \"y\" = 100%");
    cloud.set_description(&d1, description).await.unwrap();
    cloud
        .set_accounting(&d1, Accounting::Monthly)
        .await
        .unwrap();
    let disks = cloud
        .describe_disks(std::slice::from_ref(&d1))
        .await
        .unwrap();
    assert_eq!(disks[0].description, description);
    assert_eq!(disks[0].accounting, Some(Accounting::Hourly));
    assert_eq!(disks[0].next_accounting, Some(Accounting::Monthly));
    assert_eq!(disks[0].zone.as_str(), "east-11");
    assert_eq!(disks[0].disk_type, "Standard Flash Storage A");
    emulator.shutdown().await;
}

#[tokio::test]
async fn lists_of_disks_vms_slots_and_zones_are_what_the_books_hold() {
    let (emulator, cloud) = start().await;
    let names: Vec<String> = (2..=12).map(|i| format!("d{i}")).collect();
    for (i, name) in names.iter().enumerate() {
        let anchor = ["node1", "node2"][i % 2];
        cloud
            .create_disk(&new_disk(name, anchor, "x"))
            .await
            .unwrap();
        emulator.control().settle().await;
    }
    // Twelve names: their numbers sort as text in the signature.
    let asked: Vec<DiskName> = (1..=12).map(|i| disk(&format!("d{i}"))).collect();
    for query in [asked.as_slice(), &[]] {
        let mut found: Vec<DiskName> = cloud
            .describe_disks(query)
            .await
            .unwrap()
            .into_iter()
            .map(|d| d.name)
            .collect();
        found.sort_by_key(|name| name.as_str()[1..].parse::<u32>().unwrap());
        assert_eq!(found, asked);
    }
    let mut vms = cloud.describe_vms(&[]).await.unwrap();
    vms.sort_by(|a, b| a.name.cmp(&b.name));
    let shown: Vec<(&str, &VmState, &str, usize)> = vms
        .iter()
        .map(|vm| {
            (
                vm.name.as_str(),
                &vm.state,
                vm.zone.as_str(),
                vm.disks.len(),
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("far", &VmState::Stopped, "east-12", 0),
            ("node1", &VmState::Running, "east-11", 7),
            ("node2", &VmState::Running, "east-11", 5),
        ]
    );
    let held: Vec<DiskName> = cloud
        .describe_slots(&vm("node1"))
        .await
        .unwrap()
        .into_iter()
        .filter_map(|slot| slot.disk)
        .collect();
    assert_eq!(held.len(), 7);
    let mut zones = cloud.describe_zones().await.unwrap();
    zones.sort();
    assert!(zones.contains(&"east-11".to_owned()), "{zones:?}");
    emulator.shutdown().await;
}

#[tokio::test]
async fn a_limit_on_calls_is_seen_as_throttling() {
    let (emulator, cloud) = start().await;
    emulator.control().set_rate_limit(Some(RateLimit {
        per_second: 0.001,
        burst: 1.0,
    }));
    let mut last = Ok(Vec::new());
    for _ in 0..3 {
        last = cloud.describe_zones().await;
    }
    assert_eq!(last.unwrap_err().rejection(), Some(Rejection::Throttled));
    emulator.shutdown().await;
}
