//! The controller's RPCs, less the cloud's own time.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use additional_storage_csi::demo::claim::{Claim, Form};
use additional_storage_csi::emulator::{Config, Control, Emulator, Latency};
use additional_storage_csi::proto::csi::v1::controller_client::ControllerClient;
use additional_storage_csi::proto::csi::v1::identity_client::IdentityClient;
use additional_storage_csi::proto::csi::v1::*;
use tonic::Status;
use tonic::transport::Channel;

use super::process::{Driver, controller_arguments};
use super::rows::{Row, each, rpc};

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
    let bench = Bench {
        client: ControllerClient::new(channel),
        control: Arc::clone(emulator.control()),
        samples: Arc::default(),
    };
    // Until the driver has learned when to look.
    bench.lives(16, 6).await;
    for callers in CALLERS {
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
        self.call(
            "CreateVolume",
            &id,
            claim.create(&self.client, (vm, ZONE), 100),
        )
        .await;
        self.call(
            "ControllerPublishVolume",
            &id,
            claim.attach(&self.client, vm),
        )
        .await;
        let mut client = self.client.clone();
        let request = ControllerGetVolumeRequest {
            volume_id: id.clone(),
        };
        self.call("ControllerGetVolume", &id, async {
            client.controller_get_volume(request).await.map(|_| ())
        })
        .await;
        self.call(
            "ControllerExpandVolume",
            &id,
            claim.grow_disk(&self.client, 200),
        )
        .await;
        self.call(
            "ControllerUnpublishVolume",
            &id,
            claim.detach(&self.client, vm),
        )
        .await;
        self.call("DeleteVolume", &id, claim.delete(&self.client))
            .await;
    }

    /// Measures a call, less what the cloud was at work for this disk meanwhile.
    async fn call(
        &self,
        name: &'static str,
        disk: &str,
        call: impl Future<Output = Result<(), Status>>,
    ) {
        let before = self.cloud(disk);
        let took = timed(call).await;
        let own = took.saturating_sub(self.cloud(disk).saturating_sub(before));
        let mut samples = self.samples.lock().unwrap();
        match samples.iter_mut().find(|(known, _)| *known == name) {
            Some((_, times)) => times.push(own),
            None => samples.push((name, vec![own])),
        }
    }

    fn cloud(&self, disk: &str) -> Duration {
        let history = self.control.history();
        let of = history
            .iter()
            .filter(|event| event.disk.as_deref() == Some(disk));
        Duration::from_millis(
            of.filter_map(|event| Some(event.done_ms? - event.at_ms))
                .sum(),
        )
    }
}
