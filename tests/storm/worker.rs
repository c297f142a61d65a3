//! Chooses operations, sends them as sidecars do, and tells the judge.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use additional_storage_csi::cloud::nifcloud::install_crypto_provider;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::caller::{Answer, Callers, LEASE, Patience, Rpc, may_be_running};
use crate::judge::{Judge, lock};
use crate::looks::Idle;
use crate::model::{Maker, Sizes, Volume, imported_as, maker, names};
use crate::weather::{self, Down, ZONES};

pub(crate) const VOLUMES: usize = 200;
/// The weather changes once in so many operations.
const CHANGE: u64 = 25;
/// Largest disk that is asked for, in GiB.
const LARGEST: u32 = 800;

pub(crate) type Outcome = Option<Result<Answer, Status>>;

/// What those need to know of a volume who do not wait for its provisioner and attacher.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub(crate) disk: String,
    /// It exists, and nobody is deleting it.
    pub(crate) created: bool,
    sizes: Sizes,
    /// Since when nothing but the resizer may be at work on it, and where it is.
    pub(crate) idle: Option<Idle>,
}

pub(crate) struct World {
    seed: u64,
    operations: u64,
    next: AtomicU64,
    pub(crate) done: AtomicU64,
    pub(crate) judge: Judge,
    callers: Callers,
    volumes: Vec<tokio::sync::Mutex<Volume>>,
    pub(crate) resizers: Vec<tokio::sync::Mutex<()>>,
    pub(crate) facts: Vec<Mutex<Facts>>,
    down: Mutex<Down>,
    tally: Mutex<BTreeMap<(&'static str, String), u64>>,
}

fn one_of<'a>(random: &mut fastrand::Rng, list: &'a [String]) -> &'a str {
    &list[random.usize(..list.len())]
}

fn kind(rpc: &Rpc) -> &'static str {
    match rpc {
        Rpc::Create { .. } => "create",
        Rpc::Publish { .. } => "publish",
        Rpc::Unpublish { .. } => "unpublish",
        Rpc::Delete => "delete",
        Rpc::Expand { .. } => "expand",
        Rpc::Modify { .. } => "modify",
        Rpc::Get => "get",
        Rpc::List => "list",
        Rpc::Health => "health",
        Rpc::ListHealth => "list health",
    }
}

/// The sidecars of the other controller take over, not before the lease of the first ones has run out.
async fn change_leader(volume: &mut Volume) {
    if let Some(left) = volume.left.take() {
        tokio::time::sleep_until(left + LEASE).await;
    }
    volume.leader = 1 - volume.leader;
}

/// A VM of the zone; some are more popular than others, so that they are full at times.
fn some_vm(random: &mut fastrand::Rng, zone: usize) -> String {
    let vms = weather::vms_of(zone);
    let crowd = if random.u8(..10) < 3 { 3 } else { vms.len() };
    one_of(random, &vms[..crowd]).to_owned()
}

fn patience(random: &mut fastrand::Rng) -> Patience {
    match random.u8(..10) {
        0..7 => Patience::Endless,
        7..9 => Patience::Deadline(Duration::from_millis(random.u64(5..400))),
        _ => Patience::Leaves(Duration::from_millis(random.u64(1..250))),
    }
}

impl World {
    pub(crate) async fn new(seed: u64, operations: u64) -> Self {
        install_crypto_provider();
        let judge = Judge::new(weather::cloud().await);
        weather::faults(judge.control(), seed);
        let callers = Callers::new(&judge.endpoint());
        let facts = |index| {
            Mutex::new(Facts {
                disk: names(seed, index, 0).1,
                ..Facts::default()
            })
        };
        Self {
            seed,
            operations,
            next: AtomicU64::new(0),
            done: AtomicU64::new(0),
            judge,
            callers,
            volumes: (0..VOLUMES)
                .map(|_| tokio::sync::Mutex::default())
                .collect(),
            resizers: (0..VOLUMES)
                .map(|_| tokio::sync::Mutex::default())
                .collect(),
            facts: (0..VOLUMES).map(facts).collect(),
            down: Mutex::default(),
            tally: Mutex::default(),
        }
    }

    /// One caller after the other, until all operations are done.
    pub(crate) async fn work(&self) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.operations {
                return;
            }
            let mut random =
                fastrand::Rng::with_seed(self.seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            if number.is_multiple_of(CHANGE) {
                lock(&self.down).change(self.judge.control(), &mut random);
            }
            self.operation(&mut random).await;
        }
    }

    async fn operation(&self, random: &mut fastrand::Rng) {
        match random.u8(..100) {
            0..3 => self.look_at_all(random).await,
            3..4 => self.look_for_trouble(random).await,
            4..6 => self.look(random, Rpc::Get).await,
            6..8 => self.look(random, Rpc::Health).await,
            8..19 => self.resize(random).await,
            _ => self.live(random).await,
        }
    }

    /// The resizer: beside everything else that happens to the volume.
    async fn resize(&self, random: &mut fastrand::Rng) {
        for _ in 0..50 {
            let index = random.usize(..VOLUMES);
            let Ok(_resizer) = self.resizers[index].try_lock() else {
                continue;
            };
            let rpc = if random.u8(..4) == 0 {
                Rpc::Modify {
                    monthly: random.bool(),
                }
            } else {
                Rpc::Expand {
                    gib: random.u32(1..=LARGEST),
                }
            };
            let facts = {
                let mut facts = lock(&self.facts[index]);
                if !facts.created {
                    continue;
                }
                if let Rpc::Expand { gib } = rpc {
                    facts.sizes.ask(gib);
                }
                facts.clone()
            };
            let answer = self
                .send(random.usize(..2), &facts.disk, &rpc, patience(random))
                .await;
            if let (Some(Ok(answer)), Rpc::Expand { gib }) = (&answer, &rpc) {
                self.judge.grown(&facts.disk, *gib, answer);
            }
            self.judge.size(&facts.disk, facts.sizes);
            return;
        }
        self.live(random).await;
    }

    /// Provisioner and attacher.
    async fn live(&self, random: &mut fastrand::Rng) {
        let start = random.usize(..VOLUMES);
        for index in (start..VOLUMES).chain(0..start) {
            if let Ok(mut volume) = self.volumes[index].try_lock() {
                self.step(random, index, &mut volume).await;
                return;
            }
        }
    }

    async fn step(&self, random: &mut fastrand::Rng, index: usize, volume: &mut Volume) {
        let disk = names(self.seed, index, volume.generation).1;
        self.judge.told(&disk, volume);
        lock(&self.facts[index]).idle = None;
        if !volume.created && volume.pending.is_none() {
            self.import(index, volume);
        }
        if random.u8(..10) < 3 {
            change_leader(volume).await;
            // The disk may not have been looked at for a while.
            self.judge.told(&disk, volume);
        }
        let rpc = self.choose(random, index, volume);
        self.run(index, volume, rpc, patience(random)).await;
        let disk = names(self.seed, index, volume.generation).1;
        self.judge
            .imported(&disk, &imported_as(self.seed, index, volume.generation));
        let at_rest = volume.pending.is_none() && volume.left.is_none();
        let settled = volume.told.as_ref().map(|told| &told.vm) == volume.published_to.as_ref();
        if at_rest && settled && volume.created {
            lock(&self.facts[index]).idle = Some(Idle::now(volume.told.as_ref()));
        }
    }

    /// Somebody else makes the disk of a volume that is imported.
    fn import(&self, index: usize, volume: &mut Volume) {
        if maker(index) == Maker::Driver {
            return;
        }
        let disk = names(self.seed, index, volume.generation).1;
        let description = imported_as(self.seed, index, volume.generation);
        let mut sizes = Sizes::default();
        sizes.ask(100);
        self.judge
            .import(&disk, &description, ZONES[index % ZONES.len()]);
        volume.created = true;
        *lock(&self.facts[index]) = Facts {
            disk,
            created: true,
            sizes,
            idle: None,
        };
    }

    /// What a sidecar would do next, and on which controller.
    fn choose(&self, random: &mut fastrand::Rng, index: usize, volume: &Volume) -> Rpc {
        if let Some(rpc) = volume.pending.clone() {
            // A pod may be gone before its disk came.
            return match rpc {
                Rpc::Publish { vm } if random.u8(..4) == 0 => Rpc::Unpublish { vm },
                rpc => rpc,
            };
        }
        let zone = index % ZONES.len();
        if !volume.created {
            return self.new_claim(random, index, volume, zone);
        }
        let again = volume.create.clone();
        match (&volume.published_to, random.u8(..100)) {
            (_, 0..10) => again.unwrap_or(Rpc::Get),
            (Some(vm), 10..55) => Rpc::Unpublish { vm: vm.clone() },
            (Some(_), 55..65) if volume.told.is_some() => Rpc::Publish {
                vm: some_vm(random, zone),
            },
            (Some(_), 65..70) => Rpc::Delete,
            (Some(vm), _) => Rpc::Publish { vm: vm.clone() },
            (None, 10..30) => Rpc::Delete,
            (None, 30..34) => Rpc::Publish {
                vm: some_vm(random, (zone + 1) % ZONES.len()),
            },
            (None, 34..60) => Rpc::Publish {
                vm: some_vm(random, zone),
            },
            (None, _) => match &again {
                Some(Rpc::Create { nodes, .. }) => Rpc::Publish {
                    vm: nodes[0].clone(),
                },
                _ => Rpc::Publish {
                    vm: some_vm(random, zone),
                },
            },
        }
    }

    fn new_claim(
        &self,
        random: &mut fastrand::Rng,
        index: usize,
        volume: &Volume,
        zone: usize,
    ) -> Rpc {
        let gib = random.u32(1..=300);
        let (name, disk) = names(self.seed, index, volume.generation);
        let mut facts = lock(&self.facts[index]);
        if facts.disk != disk {
            *facts = Facts {
                disk,
                ..Facts::default()
            };
        }
        facts.sizes.ask(gib);
        let nodes = if random.u8(..10) < 6 {
            vec![some_vm(random, zone)]
        } else {
            weather::vms_of(zone)
        };
        Rpc::Create {
            name,
            zone: ZONES[zone].to_owned(),
            nodes,
            gib,
        }
    }

    /// One RPC of provisioner or attacher, and what follows from its answer.
    async fn run(&self, index: usize, volume: &mut Volume, rpc: Rpc, patience: Patience) {
        let disk = names(self.seed, index, volume.generation).1;
        let before = self.judge.control().state();
        // What is still running from before is joined, and may end by what it has read then.
        let since = volume.since.take();
        match &rpc {
            Rpc::Create { .. } if !volume.created => volume.create = Some(rpc.clone()),
            Rpc::Unpublish { vm } if volume.published_to.as_ref() == Some(vm) => volume.told = None,
            Rpc::Publish { vm } if volume.published_to.is_none() => {
                volume.published_to = Some(vm.clone());
            }
            Rpc::Delete => lock(&self.facts[index]).created = false,
            _ => {}
        }
        let answer = self.send(volume.leader, &disk, &rpc, patience).await;
        volume.left = match &answer {
            None => Some(Instant::now()),
            Some(Err(status)) if status.code() == Code::DeadlineExceeded => Some(Instant::now()),
            // Another call of before is still running.
            Some(Err(status)) if status.code() == Code::Aborted => volume.left,
            Some(_) => None,
        };
        let sizes = lock(&self.facts[index]).sizes;
        self.judge.size(&disk, sizes);
        let status = match answer {
            Some(Ok(answer)) => {
                volume.pending = None;
                return self.succeeded(index, volume, &rpc, &before, &answer);
            }
            Some(Err(status)) if !may_be_running(status.code()) => status,
            _ => {
                self.judge.told(&disk, volume);
                if let (Rpc::Publish { vm }, None) = (&rpc, &volume.told) {
                    volume.published_to = Some(vm.clone());
                }
                volume.pending = Some(rpc);
                volume.since = since.or(Some(before));
                return;
            }
        };
        volume.pending = None;
        let since = since.as_ref().unwrap_or(&before);
        self.failed(index, volume, &rpc, since, &status);
    }

    fn succeeded(
        &self,
        index: usize,
        volume: &mut Volume,
        rpc: &Rpc,
        before: &additional_storage_csi::emulator::State,
        answer: &Answer,
    ) {
        let disk = names(self.seed, index, volume.generation).1;
        match rpc {
            Rpc::Create { .. } => {
                self.judge.created(&disk, volume, rpc, answer);
                volume.created = true;
                lock(&self.facts[index]).created = true;
            }
            Rpc::Publish { vm } => {
                // It may have gone with its VM while this was under way.
                self.judge.told(&disk, volume);
                let told = self.judge.published(&disk, vm, before, answer);
                if volume.told.is_none() {
                    volume.published_to = Some(vm.clone());
                    volume.told = told;
                }
            }
            Rpc::Unpublish { vm } => {
                self.judge.unpublished(&disk, vm);
                volume.published_to.take_if(|to| to == vm);
            }
            Rpc::Delete => {
                self.judge.absent(&disk, "deleted");
                *volume = Volume {
                    generation: volume.generation + 1,
                    ..Volume::default()
                };
                let disk = names(self.seed, index, volume.generation).1;
                *lock(&self.facts[index]) = Facts {
                    disk,
                    ..Facts::default()
                };
            }
            _ => {}
        }
        self.judge.told(&disk, volume);
    }

    /// A final error: nothing is left behind.
    fn failed(
        &self,
        index: usize,
        volume: &mut Volume,
        rpc: &Rpc,
        since: &additional_storage_csi::emulator::State,
        status: &Status,
    ) {
        let disk = names(self.seed, index, volume.generation).1;
        match rpc {
            Rpc::Create { .. } if !volume.created => {
                self.judge
                    .absent(&disk, &format!("create failed for good ({status:?})"));
                if status.message().len().is_multiple_of(2) {
                    volume.generation += 1;
                }
                volume.create = None;
            }
            Rpc::Publish { vm } => {
                if volume.told.as_ref().is_none_or(|told| told.vm != *vm) {
                    self.judge
                        .not_published(&disk, vm, since, status.code(), status.message());
                }
                if volume.published_to.as_ref() == Some(vm) && volume.told.is_none() {
                    volume.published_to = None;
                }
            }
            Rpc::Delete => {
                lock(&self.facts[index]).created = true;
                if volume.published_to.is_none() {
                    self.judge.kept(&disk, since, status.message());
                }
            }
            _ => {}
        }
        self.judge.told(&disk, volume);
    }

    pub(crate) async fn send(
        &self,
        to: usize,
        disk: &str,
        rpc: &Rpc,
        patience: Patience,
    ) -> Outcome {
        let answer = self.callers.call(to, disk, rpc, patience).await;
        let code = match &answer {
            None => "left".to_owned(),
            Some(Ok(_)) => "Ok".to_owned(),
            Some(Err(status)) => format!("{:?}", status.code()),
        };
        if let Some(Err(status)) = &answer
            && matches!(
                status.code(),
                Code::Internal | Code::Unknown | Code::InvalidArgument
            )
        {
            self.judge
                .violation(format!("{disk}: {rpc:?} answered {status:?}"));
        }
        *lock(&self.tally).entry((kind(rpc), code)).or_default() += 1;
        self.done.fetch_add(1, Ordering::Relaxed);
        answer
    }

    /// Fair weather from now on. Answers how many calls were hit, and how many there were.
    pub(crate) fn weather_over(&self) -> (u64, u64) {
        let control = self.judge.control();
        let totals = (control.fault_hits(), control.calls().values().sum());
        control.clear_faults();
        lock(&self.down).clear(control);
        totals
    }

    /// Every volume is deleted, on the way that sidecars would go.
    pub(crate) async fn take_down(&self) {
        let mut claimed = BTreeSet::new();
        for (index, volume) in self.volumes.iter().enumerate() {
            let mut volume = volume.lock().await;
            claimed.insert(names(self.seed, index, volume.generation).1);
            self.finish(index, &mut volume).await;
        }
        self.callers.drain().await;
        self.judge.strangers(&claimed);
    }

    async fn finish(&self, index: usize, volume: &mut Volume) {
        let disk = names(self.seed, index, volume.generation).1;
        self.judge.told(&disk, volume);
        if let Some(rpc @ (Rpc::Create { .. } | Rpc::Delete)) = volume.pending.clone() {
            let generation = volume.generation;
            self.insist(index, volume, rpc).await;
            if volume.generation != generation {
                return;
            }
        }
        if let Some(Rpc::Publish { vm }) = volume.pending.clone() {
            self.insist(index, volume, Rpc::Unpublish { vm }).await;
        }
        if let Some(vm) = volume.published_to.clone() {
            self.insist(index, volume, Rpc::Unpublish { vm }).await;
        }
        if volume.created {
            self.insist(index, volume, Rpc::Delete).await;
        }
    }

    async fn insist(&self, index: usize, volume: &mut Volume, rpc: Rpc) {
        for _ in 0..100 {
            self.run(index, volume, rpc.clone(), Patience::Endless)
                .await;
            if volume.pending.is_none() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let disk = &names(self.seed, index, volume.generation).1;
        self.judge
            .violation(format!("{disk}: {rpc:?} does not end"));
    }

    pub(crate) fn report(&self, calls: u64) {
        println!("cloud calls: {calls}");
        let mut line = String::new();
        let mut last = "";
        for ((kind, code), count) in lock(&self.tally).iter() {
            if *kind != last {
                println!("{line}");
                line = format!("{kind}:");
                last = kind;
            }
            line.push_str(&format!(" {code} {count}"));
        }
        println!("{line}");
    }
}
