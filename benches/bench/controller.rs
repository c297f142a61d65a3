//! The controller's RPCs, less the cloud's own time: what its answers to the RPC's calls take a client that does nothing
//! else, as many at once. Its operations are over as soon as they are accepted.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use additional_storage_csi::cloud::Cloud;
use additional_storage_csi::cloud::nifcloud::{Client, ClientConfig, Credentials};
use additional_storage_csi::demo::claim::{Claim, Form};
use additional_storage_csi::domain::id::VmName;
use additional_storage_csi::emulator::{Config, Control, Emulator, Latency};
use additional_storage_csi::proto::csi::v1::controller_client::ControllerClient;
use additional_storage_csi::proto::csi::v1::identity_client::IdentityClient;
use additional_storage_csi::proto::csi::v1::*;
use tonic::Status;
use tonic::transport::Channel;

use super::process::{Driver, controller_arguments};
use super::rows::{Row, each, percentile, rpc};

const CALLERS: [usize; 2] = [1, 16];
const ZONE: &str = "east-11";
/// A cloud that is done at once leaves only the driver's own time. What waiting for a slow one costs is in
/// `claim_to_staged` and `burst_1000`.
const LATENCY: Latency = Latency {
    create: 0,
    attach: 0,
    detach: 0,
    extend: 0,
    delete: 0,
    modify: 0,
    describe: 0,
    reply: 0,
};
/// Lives of a volume per caller that are measured, and before them for learning.
const LIVES: usize = 12;
const READS: usize = 400;

pub(crate) async fn rows(binary: &Path) -> Vec<Row> {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config {
        latency: LATENCY,
        ..Config::default()
    };
    for vm in 0..16 {
        config = config.vm(&format!("vm{vm}"), ZONE);
    }
    let emulator = Emulator::start(config).await.unwrap();
    let (driver, _) = Driver::start(
        binary,
        dir.path(),
        &controller_arguments(&emulator.endpoint()),
    );
    let channel = driver.channel().await;
    let mut rows = Vec::new();
    for callers in CALLERS {
        rows.extend(reads(&channel, callers).await);
    }
    let mut bench = Bench {
        client: ControllerClient::new(channel),
        control: Arc::clone(emulator.control()),
        samples: Arc::default(),
        calls: Arc::default(),
        answer: Duration::ZERO,
    };
    // Until the driver has learned when to look.
    bench.lives(16, 6).await;
    // How many calls an RPC costs can be told while there is one caller.
    bench.calls.lock().unwrap().clear();
    bench.lives(1, LIVES).await;
    for callers in CALLERS {
        bench.answer = answer(&emulator, callers).await;
        eprintln!(
            "  {callers} at once: the cloud answers a call in {:?}",
            bench.answer
        );
        bench.samples.lock().unwrap().clear();
        // One caller alone gives few samples in the same time.
        bench
            .lives(callers, if callers == 1 { 3 * LIVES } else { LIVES })
            .await;
        for (name, samples) in bench.samples.lock().unwrap().iter() {
            rows.extend(rpc(name, callers, samples));
        }
    }
    emulator.shutdown().await;
    rows
}

/// The median time of one call to the cloud.
async fn answer(emulator: &Emulator, callers: usize) -> Duration {
    let client = Client::new(ClientConfig {
        endpoint: Some(emulator.endpoint()),
        ..ClientConfig::new(
            "",
            Credentials::from_values("EMULATORKEY", "emulator-secret"),
        )
    });
    let client = Arc::new(client.unwrap());
    let answers = each(callers, READS / 4, |caller, _| {
        let client = Arc::clone(&client);
        async move {
            let begin = Instant::now();
            let vm = VmName::parse(&format!("vm{caller}")).unwrap();
            client.describe_vms(&[vm]).await.unwrap();
            begin.elapsed()
        }
    })
    .await;
    percentile(&answers, 0.5)
}

async fn reads(channel: &Channel, callers: usize) -> Vec<Row> {
    let identity = IdentityClient::new(channel.clone());
    let controller = ControllerClient::new(channel.clone());
    let probes = each(callers, READS, |_, _| {
        let mut client = identity.clone();
        async move { timed(client.probe(ProbeRequest {})).await }
    })
    .await;
    let capabilities = each(callers, READS, |_, _| {
        let mut client = controller.clone();
        async move {
            timed(client.controller_get_capabilities(ControllerGetCapabilitiesRequest {})).await
        }
    })
    .await;
    let lists = each(callers, READS / 4, |_, _| {
        let mut client = controller.clone();
        async move { timed(client.list_volumes(ListVolumesRequest::default())).await }
    })
    .await;
    [
        ("Probe", probes),
        ("ControllerGetCapabilities", capabilities),
        ("ListVolumes", lists),
    ]
    .iter()
    .flat_map(|(name, samples)| rpc(name, callers, samples))
    .collect()
}

pub(crate) async fn timed<T>(call: impl Future<Output = Result<T, Status>>) -> Duration {
    let begin = Instant::now();
    if let Err(status) = call.await {
        panic_with(&status);
    }
    begin.elapsed()
}

#[allow(clippy::panic, reason = "a bench of calls that fail measures nothing")]
fn panic_with(status: &Status) -> ! {
    panic!("{:?}: {}", status.code(), status.message())
}

type Samples = Arc<Mutex<Vec<(&'static str, Vec<Duration>)>>>;

#[derive(Clone)]
struct Bench {
    client: ControllerClient<Channel>,
    control: Arc<Control>,
    samples: Samples,
    /// Calls to the cloud by RPC, and RPCs.
    calls: Arc<Mutex<HashMap<&'static str, (u64, u64)>>>,
    /// How long the cloud takes to answer one.
    answer: Duration,
}

impl Bench {
    /// Every caller has a VM of its own: operations on one VM wait for each other in the cloud.
    async fn lives(&self, callers: usize, rounds: usize) {
        each(callers, rounds, |caller, _| {
            let bench = self.clone();
            async move { bench.life(&format!("vm{caller}")).await }
        })
        .await;
    }

    async fn life(&self, vm: &str) {
        let mut claim = Claim::new(Form::Mounted("ext4"));
        let id = claim.name.trim_start_matches("pvc-").replace('-', "");
        self.call("CreateVolume", claim.create(&self.client, (vm, ZONE), 100))
            .await;
        self.call("ControllerPublishVolume", claim.attach(&self.client, vm))
            .await;
        let mut client = self.client.clone();
        let request = ControllerGetVolumeRequest {
            volume_id: id.clone(),
        };
        self.call("ControllerGetVolume", async {
            client.controller_get_volume(request).await.map(|_| ())
        })
        .await;
        self.call("ControllerExpandVolume", claim.grow_disk(&self.client, 200))
            .await;
        self.call("ControllerUnpublishVolume", claim.detach(&self.client, vm))
            .await;
        self.call("DeleteVolume", claim.delete(&self.client)).await;
    }

    /// Measures a call, less what the cloud takes to answer it.
    async fn call(&self, name: &'static str, call: impl Future<Output = Result<(), Status>>) {
        let calls = self.all_calls();
        let took = timed(call).await;
        let own = took.saturating_sub(self.answers(name, self.all_calls() - calls));
        let mut samples = self.samples.lock().unwrap();
        match samples.iter_mut().find(|(known, _)| *known == name) {
            Some((_, times)) => times.push(own),
            None => samples.push((name, vec![own])),
        }
    }

    fn all_calls(&self) -> u64 {
        self.control.calls().values().sum()
    }

    /// What the cloud takes to answer the calls of one RPC.
    fn answers(&self, name: &'static str, calls: u64) -> Duration {
        let mut all = self.calls.lock().unwrap();
        let known = all.entry(name).or_default();
        if self.answer.is_zero() {
            *known = (known.0 + calls, known.1 + 1);
        }
        let per_rpc = u32::try_from(known.0 / known.1.max(1)).unwrap();
        self.answer * per_rpc
    }
}
