//! Claims, bursts, listing and growing on an emulated cloud with realistic latencies: the release binary with its
//! default settings, compared with what the cloud alone takes. How each bound is computed is printed.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use additional_storage_csi::cloud::Cloud;
use additional_storage_csi::cloud::nifcloud::{Client, ClientConfig, Credentials};
use additional_storage_csi::domain::topology::{NODE_KEY, ZONE_KEY};
use additional_storage_csi::emulator::{
    AttachmentRecord, Config, DiskRecord, Emulator, Latency, RateLimit,
};
use additional_storage_csi::proto::csi::v1::controller_client::ControllerClient;
use additional_storage_csi::proto::csi::v1::*;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::process::Driver;
use super::rows::Row;

const GIB: i64 = 1 << 30;
const ZONES: [&str; 3] = ["east-11", "east-12", "east-13"];
const CLOUD: Latency = Latency::REALISTIC;

/// A controller of its own over a cloud of its own.
struct Rig {
    emulator: Emulator,
    driver: Driver,
    client: ControllerClient<Channel>,
    _dir: tempfile::TempDir,
}

fn zone_of(vm: usize, zones: usize) -> &'static str {
    ZONES[vm % zones]
}

fn vm_name(vm: usize) -> String {
    format!("node{vm:03}")
}

impl Rig {
    async fn new(binary: &Path, vms: usize, zones: usize, limit: Option<RateLimit>) -> Self {
        let mut config = Config {
            latency: CLOUD,
            rate_limit: limit,
            zones: ZONES.map(ToOwned::to_owned).to_vec(),
            ..Config::default()
        };
        for vm in 0..vms {
            config = config.vm(&vm_name(vm), zone_of(vm, zones));
        }
        let emulator = Emulator::start(config).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let arguments = ["controller", "--cloud-endpoint", &emulator.endpoint()];
        let (driver, _) = Driver::start(binary, dir.path(), &arguments.map(str::to_owned));
        let client = ControllerClient::new(driver.channel().await);
        Self {
            emulator,
            driver,
            client,
            _dir: dir,
        }
    }

    fn calls(&self, actions: &[&str]) -> f64 {
        let calls = self.emulator.control().calls();
        let of = |action: &&str| calls.get(*action).copied().unwrap_or(0);
        let sum: u64 = actions.iter().map(of).sum();
        f64::from(u32::try_from(sum).unwrap())
    }

    fn reads(&self) -> f64 {
        self.calls(&READS)
    }
}

const READS: [&str; 3] = [
    "DescribeVolumes",
    "DescribeInstances",
    "DescribeInstanceAttribute",
];
const SLOW: [&str; 4] = [
    "CreateVolume",
    "AttachVolume",
    "DetachVolume",
    "ExtendVolumeSize",
];

fn seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

fn count(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap())
}

fn claim_name(i: usize) -> String {
    format!("pvc-00000000-0000-4000-8000-{i:012x}")
}

fn volume_id(i: usize) -> String {
    claim_name(i).trim_start_matches("pvc-").replace('-', "")
}

fn capability() -> VolumeCapability {
    VolumeCapability {
        access_type: Some(volume_capability::AccessType::Mount(
            volume_capability::MountVolume {
                fs_type: "ext4".to_owned(),
                ..Default::default()
            },
        )),
        access_mode: Some(volume_capability::AccessMode {
            mode: volume_capability::access_mode::Mode::SingleNodeWriter.into(),
        }),
    }
}

async fn create(mut client: ControllerClient<Channel>, i: usize, vm: &str, zone: &str) -> String {
    let segments = [(ZONE_KEY, zone), (NODE_KEY, vm)];
    let term = Topology {
        segments: segments
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into_iter()
            .collect(),
    };
    let request = CreateVolumeRequest {
        name: claim_name(i),
        capacity_range: Some(CapacityRange {
            required_bytes: 100 * GIB,
            limit_bytes: 0,
        }),
        volume_capabilities: vec![capability()],
        accessibility_requirements: Some(TopologyRequirement {
            requisite: vec![term.clone()],
            preferred: vec![term],
        }),
        ..Default::default()
    };
    let answer = client.create_volume(request).await.unwrap().into_inner();
    answer.volume.unwrap().volume_id
}

async fn publish(mut client: ControllerClient<Channel>, volume_id: &str, vm: &str) {
    let request = ControllerPublishVolumeRequest {
        volume_id: volume_id.to_owned(),
        node_id: vm.to_owned(),
        volume_capability: Some(capability()),
        ..Default::default()
    };
    client.controller_publish_volume(request).await.unwrap();
}

async fn expand(mut client: ControllerClient<Channel>, volume_id: String, gib: i64) {
    let request = ControllerExpandVolumeRequest {
        volume_id,
        capacity_range: Some(CapacityRange {
            required_bytes: gib * GIB,
            limit_bytes: 0,
        }),
        volume_capability: Some(capability()),
        ..Default::default()
    };
    let answer = client.controller_expand_volume(request).await.unwrap();
    assert_eq!(answer.into_inner().capacity_bytes, gib * GIB);
}

fn record(i: usize, vm: Option<usize>) -> DiskRecord {
    DiskRecord {
        name: volume_id(i),
        unique_id: String::new(),
        size: 100,
        disk_type: "Standard Flash Storage A".to_owned(),
        zone: zone_of(vm.unwrap_or(0), 1).to_owned(),
        accounting: "2".to_owned(),
        next_accounting: "2".to_owned(),
        description: claim_name(i),
        created: "2026-01-01T00:00:00.000+09:00".to_owned(),
        attachment: vm.map(|vm| AttachmentRecord {
            vm: vm_name(vm),
            target: 0,
            since: "2026-01-01T00:00:00.000+09:00".to_owned(),
        }),
        change: None,
    }
}

/// All rows. Those that mostly wait run side by side.
pub(crate) async fn rows(binary: &Path) -> Vec<Row> {
    let mut rows = list_50000(binary).await;
    let binary: Arc<Path> = Arc::from(binary);
    let mut running = JoinSet::new();
    running.spawn(claim(Arc::clone(&binary)));
    running.spawn(reads_500(Arc::clone(&binary)));
    running.spawn(burst_1000(Arc::clone(&binary)));
    running.spawn(expand_100(binary));
    rows.extend(running.join_all().await.into_iter().flatten());
    rows
}

/// From CreateVolume to the end of ControllerPublishVolume on the selected node, one claim after the other.
async fn claim(binary: Arc<Path>) -> Vec<Row> {
    const LEARN: usize = 10;
    const MEASURED: usize = 10;
    // One VM has 14 slots.
    const VMS: usize = 2;
    let rig = Rig::new(&binary, VMS, 1, None).await;
    let mut took = Duration::ZERO;
    for i in 0..LEARN + MEASURED {
        let vm = vm_name(i % VMS);
        if i == LEARN {
            rig.emulator.control().clear_history();
        }
        let start = Instant::now();
        let id = create(rig.client.clone(), i, &vm, zone_of(0, 1)).await;
        publish(rig.client.clone(), &id, &vm).await;
        if i >= LEARN {
            took += start.elapsed();
        }
    }
    let mean = took.as_secs_f64() / count(MEASURED);
    let bound = seconds(CLOUD.create + CLOUD.reply);
    // A publish on the selected node: the disk's journal, its slot.
    let answers = seconds(2 * CLOUD.reply + CLOUD.modify);
    let reads = rig.reads() / count(MEASURED);
    let slow = rig.calls(&SLOW) / count(MEASURED);
    eprintln!(
        "claim_to_staged: mean of {MEASURED} claims after {LEARN} is {mean:.3} s; the cloud takes {bound:.3} s to answer \
         CreateVolume and to attach, and {answers:.3} s to answer the two calls of the publish; {reads:.1} reads per claim"
    );
    vec![
        Row::new("claim_to_staged", mean / bound, "x", 1.05),
        Row::plain("claim_to_staged_own", mean - bound - answers, "s"),
        Row::new("mutating_calls_per_claim", slow, "", 1.0),
    ]
}

/// 500 volumes claimed at once on 50 VMs, then published at once.
async fn reads_500(binary: Arc<Path>) -> Vec<Row> {
    const VOLUMES: usize = 500;
    const VMS: usize = 50;
    let rig = Rig::new(&binary, VMS, 1, None).await;
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for i in 0..VOLUMES {
        let client = rig.client.clone();
        tasks.spawn(async move {
            let vm = vm_name(i % VMS);
            (create(client, i, &vm, zone_of(0, 1)).await, vm)
        });
    }
    let made = tasks.join_all().await;
    let (created, reads_created) = (start.elapsed().as_secs_f64(), rig.reads());
    let mut tasks = JoinSet::new();
    for (id, vm) in made {
        let client = rig.client.clone();
        tasks.spawn(async move { publish(client, &id, &vm).await });
    }
    tasks.join_all().await;
    let reads = rig.reads();
    let slots = rig.calls(&["DescribeInstanceAttribute"]);
    eprintln!(
        "reads_per_volume_500: {reads_created} reads while created in {created:.0} s, {} while published in {:.0} s, \
         {slots} of them of slots",
        reads - reads_created,
        start.elapsed().as_secs_f64() - created,
    );
    let each = reads / count(VOLUMES);
    vec![Row::new("reads_per_volume_500", each, "", 0.2)]
}

/// 1000 claims at once, each published as soon as it is created, by an API that takes 20 calls a second.
async fn burst_1000(binary: Arc<Path>) -> Vec<Row> {
    const VOLUMES: usize = 1000;
    const VMS: usize = 100;
    let limit = RateLimit {
        per_second: 20.0,
        burst: 40.0,
    };
    let rig = Rig::new(&binary, VMS, 3, Some(limit)).await;
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for i in 0..VOLUMES {
        let client = rig.client.clone();
        tasks.spawn(async move {
            let vm = vm_name(i % VMS);
            let id = create(client.clone(), i, &vm, zone_of(i % VMS, 3)).await;
            publish(client, &id, &vm).await;
        });
    }
    tasks.join_all().await;
    let took = start.elapsed().as_secs_f64();
    let books = rig.emulator.control().state();
    assert_eq!(books.disks.len(), VOLUMES, "a disk was lost or leaked");
    // Each volume needs three calls: CreateVolume, its journal, its slot. Until the first create is over, only one
    // CreateVolume per VM can be sent; the limit on calls saves up its burst meanwhile and no more.
    let calls = 3.0 * count(VOLUMES);
    let create = seconds(CLOUD.create + CLOUD.reply);
    let by_rate = create + (calls - count(VMS) - limit.burst) / limit.per_second;
    let by_vm = count(VOLUMES / VMS) * create;
    let bound = by_rate.max(by_vm);
    let all = rig.emulator.control().calls();
    eprintln!(
        "burst_1000: {took:.1} s; bound: the longer of one create {create} s + (3 calls x {VOLUMES} - {VMS} creates - \
         burst {}) / {} per s = {by_rate:.1} s and {} creates in a row per VM = {by_vm:.1} s; 0 failures, 0 leaks; \
         calls {all:?}",
        limit.burst,
        limit.per_second,
        VOLUMES / VMS
    );
    vec![
        Row::new("burst_1000", took / bound, "x", 1.1),
        Row::plain("burst_1000_controller_rss_mib", rig.driver.rss_mib(), "MiB"),
    ]
}

/// ListVolumes over 50 000 disks in pages of 1000, beyond what the cloud's own answer takes to arrive.
async fn list_50000(binary: &Path) -> Vec<Row> {
    const DISKS: usize = 50_000;
    let mut rig = Rig::new(binary, 1, 1, None).await;
    for i in 0..DISKS {
        rig.emulator.control().put_disk(record(i, None)).unwrap();
    }
    let keys = Credentials::from_values("EMULATORKEY", "emulator-secret");
    let mut config = ClientConfig::new("jp-east-1", keys);
    config.endpoint = Some(rig.emulator.endpoint());
    let cloud = Client::new(config).unwrap();
    let start = Instant::now();
    assert_eq!(cloud.describe_disks(&[]).await.unwrap().len(), DISKS);
    let call = start.elapsed().as_secs_f64();
    let before = rig.driver.rss_mib();
    let start = Instant::now();
    let (mut token, mut seen, mut pages) = (String::new(), 0, 0);
    loop {
        let request = ListVolumesRequest {
            max_entries: 1000,
            starting_token: token,
        };
        let page = rig.client.list_volumes(request).await.unwrap().into_inner();
        seen += page.entries.len();
        pages += 1;
        token = page.next_token;
        if token.is_empty() {
            break;
        }
    }
    let took = start.elapsed().as_secs_f64();
    assert_eq!(seen, DISKS);
    eprintln!(
        "list_50000: {pages} pages in {took:.2} s with {} call; the cloud's answer alone, read by the same client, \
         {call:.2} s; the controller took {before:.0} MiB before",
        rig.calls(&["DescribeVolumes"]) - 1.0,
    );
    vec![
        Row::new("list_50000_s", (took - call).max(0.0), "s", 1.0),
        Row::plain("list_50000_controller_rss_mib", rig.driver.rss_mib(), "MiB"),
    ]
}

/// 100 published volumes on 50 VMs grown by 300 GiB at once.
async fn expand_100(binary: Arc<Path>) -> Vec<Row> {
    const VOLUMES: usize = 100;
    const VMS: usize = 50;
    const STEPS: usize = 3;
    let rig = Rig::new(&binary, VMS, 1, None).await;
    for i in 0..VOLUMES {
        let disk = record(i, Some(i % VMS));
        rig.emulator.control().put_disk(disk).unwrap();
    }
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for i in 0..VOLUMES {
        tasks.spawn(expand(rig.client.clone(), volume_id(i), 400));
    }
    tasks.join_all().await;
    let took = start.elapsed().as_secs_f64();
    let in_a_row = count(STEPS * VOLUMES / VMS);
    let bound = in_a_row * seconds(CLOUD.extend + CLOUD.reply);
    let reads = rig.reads() / count(VOLUMES);
    eprintln!(
        "expand_100x300: {took:.1} s; bound: {in_a_row} steps in a row per VM, {} ms each = {bound:.1} s",
        CLOUD.extend + CLOUD.reply
    );
    vec![
        Row::plain("expand_100x300", took / bound, "x"),
        Row::plain("expand_100x300_reads_per_volume", reads, ""),
    ]
}
