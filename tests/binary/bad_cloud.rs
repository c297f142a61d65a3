//! A cloud that cannot be used, on the real program: keys that are refused, a clock far off, an endpoint where nobody or
//! somebody else answers. Each call says so, soon and as temporary, and works once the cause is mended.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use additional_storage_csi::domain::topology::{NODE_KEY, ZONE_KEY};
use additional_storage_csi::emulator::{Config, DiskRecord, Emulator, Latency, Switches};
use additional_storage_csi::proto::csi::v1::controller_client::ControllerClient;
use additional_storage_csi::proto::csi::v1::volume_capability::access_mode::Mode;
use additional_storage_csi::proto::csi::v1::*;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::bad_input::{NOBODY as DISK, capability, create};
use super::{KEYS, Place, Running, reserved, serving};

const FAR_OFF: i32 = 3600;

/// One trouble with the cloud, and what an operator must read.
struct Trouble {
    what: &'static str,
    /// Where the driver looks for the cloud; the emulator's own address when empty.
    endpoint: String,
    keys: [&'static str; 2],
    /// The keys' files are taken away once the driver serves.
    vanish: bool,
    switches: Switches,
    words: &'static [&'static str],
}

impl Trouble {
    fn new(what: &'static str, words: &'static [&'static str]) -> Self {
        Self {
            what,
            endpoint: String::new(),
            keys: [KEYS[0].1, KEYS[1].1],
            vanish: false,
            switches: Switches::default(),
            words,
        }
    }

    fn clock(what: &'static str, ahead: i32, words: &'static [&'static str]) -> Self {
        let switches = Switches {
            clock_skew_seconds: 300,
            clock_ahead_seconds: ahead,
            ..Switches::default()
        };
        Self {
            switches,
            ..Self::new(what, words)
        }
    }
}

/// A cloud in trouble, and a controller that has the keys in files.
struct World {
    place: Place,
    emulator: Emulator,
    _program: Running,
    client: ControllerClient<Channel>,
}

impl World {
    async fn new(trouble: &Trouble) -> Self {
        let place = Place::new();
        let config = Config {
            latency: Latency::FAST,
            switches: trouble.switches,
            ..Config::default()
        };
        let emulator = Emulator::start(config.vm("web01", "east-11"))
            .await
            .unwrap();
        let disk: DiskRecord = serde_json::from_value(
            serde_json::json!({"name": DISK, "zone": "east-11", "description": "pvc-0a1b2c3d"}),
        )
        .unwrap();
        emulator.control().put_disk(disk).unwrap();
        let files = [0, 1].map(|at| {
            let file = place.dir.path().join(format!("key{at}"));
            std::fs::write(&file, trouble.keys[at]).unwrap();
            file.display().to_string()
        });
        let endpoint = if trouble.endpoint.is_empty() {
            emulator.endpoint()
        } else {
            trouble.endpoint.replace("ADMIN", &emulator.admin())
        };
        let program = Running::start(
            &[
                "controller",
                "--endpoint",
                &place.endpoint(),
                "--cloud-endpoint",
                &endpoint,
            ],
            &[
                ("NIFCLOUD_ACCESS_KEY_ID_FILE", &files[0]),
                ("NIFCLOUD_SECRET_ACCESS_KEY_FILE", &files[1]),
            ],
        );
        let client = ControllerClient::new(serving(&place.socket()).await);
        if trouble.vanish {
            files
                .iter()
                .for_each(|file| std::fs::remove_file(file).unwrap());
        }
        Self {
            place,
            emulator,
            _program: program,
            client,
        }
    }

    /// Every RPC that needs the cloud, side by side.
    async fn ask(&self) -> Vec<(&'static str, Result<(), Status>)> {
        let (mut one, mut two, mut three, mut four, mut five) = (
            self.client.clone(),
            self.client.clone(),
            self.client.clone(),
            self.client.clone(),
            self.client.clone(),
        );
        let anywhere = one.create_volume(sidecar(create(|request| {
            request.name = "pvc-11111111-4e5f-6071-8293-a4b5c6d7e8f9".to_owned();
        })));
        let here = two.create_volume(sidecar(create(|request| {
            request.name = "pvc-22222222-4e5f-6071-8293-a4b5c6d7e8f9".to_owned();
            request.accessibility_requirements = Some(on("web01"));
        })));
        let publish = three.controller_publish_volume(sidecar(ControllerPublishVolumeRequest {
            volume_id: DISK.to_owned(),
            node_id: "web01".to_owned(),
            volume_capability: Some(capability(Mode::SingleNodeWriter)),
            ..ControllerPublishVolumeRequest::default()
        }));
        let delete = four.delete_volume(sidecar(DeleteVolumeRequest {
            volume_id: "33333333333333333333333333333333".to_owned(),
            ..DeleteVolumeRequest::default()
        }));
        let list = five.list_volumes(sidecar(ListVolumesRequest::default()));
        let (anywhere, here, publish, delete, list) =
            tokio::join!(anywhere, here, publish, delete, list);
        vec![
            ("create", anywhere.map(drop)),
            ("create on a node", here.map(drop)),
            ("publish", publish.map(drop)),
            ("delete", delete.map(drop)),
            ("list", list.map(drop)),
        ]
    }

    fn key_file(&self, at: usize) -> PathBuf {
        self.place.dir.path().join(format!("key{at}"))
    }
}

/// A request of a sidecar that waits long.
fn sidecar<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_secs(60));
    request
}

fn on(vm: &str) -> TopologyRequirement {
    let term = Topology {
        segments: HashMap::from([
            (ZONE_KEY.to_owned(), "east-11".to_owned()),
            (NODE_KEY.to_owned(), vm.to_owned()),
        ]),
    };
    TopologyRequirement {
        requisite: vec![term.clone()],
        preferred: vec![term],
    }
}

async fn is_told(trouble: &Trouble, mendable: bool) {
    let world = World::new(trouble).await;
    let control = world.emulator.control();
    let before = control.state();
    for (rpc, answer) in world.ask().await {
        let status = answer.expect_err(rpc);
        let (what, message) = (trouble.what, status.message());
        // Not "nothing is left behind": nothing at all was found out.
        assert_eq!(status.code(), Code::Unavailable, "{what}, {rpc}: {message}");
        for word in trouble.words {
            assert!(
                message.contains(word),
                "{what}, {rpc}: expected {word:?} in: {message}"
            );
        }
        assert!(
            !message.contains(trouble.keys[1]),
            "a key was told: {message}"
        );
    }
    let after = control.state();
    assert_eq!(before.disks, after.disks, "{}", trouble.what);
    assert!(control.history().iter().all(|event| !event.committed));
    if mendable {
        control.set_switches(Switches::default());
        for (at, (_, key)) in KEYS.iter().enumerate() {
            std::fs::write(world.key_file(at), key).unwrap();
        }
        for (rpc, answer) in world.ask().await {
            answer.unwrap_or_else(|status| panic!("{}, {rpc}, mended: {status:?}", trouble.what));
        }
    }
    world.emulator.shutdown().await;
}

const KEY_WORDS: &[&str] = &[
    "does not accept the driver's keys",
    "expected both keys of one pair",
    "correct the Secret",
    "Client.AuthFailure",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_keys_are_told_and_new_ones_are_used_without_a_restart() {
    let wrong_id = Trouble {
        keys: ["WRONGKEY", KEYS[1].1],
        ..Trouble::new("wrong access key", KEY_WORDS)
    };
    let wrong_secret = Trouble {
        keys: [KEYS[0].1, "of-another-pair"],
        ..Trouble::new("wrong secret key", KEY_WORDS)
    };
    let vanished = Trouble {
        vanish: true,
        ..Trouble::new(
            "no keys any more",
            &["was not sent", "cannot read the key file"],
        )
    };
    tokio::join!(
        is_told(&wrong_id, true),
        is_told(&wrong_secret, true),
        is_told(&vanished, true),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_far_off_is_told_as_such_and_not_only_as_refused_keys() {
    let slow: &[&str] = &[
        "the clock of this machine is",
        "minutes slow",
        "set the clock",
    ];
    let fast: &[&str] = &[
        "the clock of this machine is",
        "minutes fast",
        "set the clock",
    ];
    let slow = Trouble::clock("slow clock", FAR_OFF, slow);
    let fast = Trouble::clock("fast clock", -FAR_OFF, fast);
    tokio::join!(is_told(&slow, true), is_told(&fast, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_where_no_api_answers_is_told_before_the_sidecar_gives_up() {
    let (_held, closed) = reserved();
    let nobody = Trouble {
        endpoint: format!("http://{closed}"),
        ..Trouble::new(
            "nobody listens",
            &[
                "was not sent",
                "cannot connect to 127.0.0.1:",
                "check the region or the endpoint",
            ],
        )
    };
    let other = Trouble {
        endpoint: "ADMIN".to_owned(),
        ..Trouble::new(
            "not the API",
            &["not an answer of the computing API", "check the endpoint"],
        )
    };
    tokio::join!(is_told(&nobody, false), is_told(&other, false));
}
