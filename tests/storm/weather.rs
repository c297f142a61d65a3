//! Trouble: calls that fail in every way, VMs that stop and vanish.

use additional_storage_csi::emulator::{Config, Control, Effect, Emulator, Latency, Rule};

pub(crate) const ZONES: [&str; 3] = ["east-11", "east-12", "east-13"];
const VMS_PER_ZONE: usize = 10;
/// VMs that are stopped or gone at once.
const DOWN: usize = 4;

pub(crate) fn vm_name(zone: usize, index: usize) -> String {
    format!("vm{zone}{index}")
}

/// The VMs of a zone.
pub(crate) fn vms_of(zone: usize) -> Vec<String> {
    (0..VMS_PER_ZONE)
        .map(|index| vm_name(zone, index))
        .collect()
}

pub(crate) async fn cloud() -> Emulator {
    let mut config = Config {
        latency: Latency {
            create: 80,
            attach: 60,
            detach: 60,
            extend: 50,
            delete: 30,
            reply: 1,
            ..Latency::FAST
        },
        ..Config::default()
    };
    for (number, zone) in ZONES.iter().enumerate() {
        for name in vms_of(number) {
            config = config.vm(&name, zone);
        }
    }
    Emulator::start(config).await.unwrap()
}

/// About 30 % of calls are hit.
///
/// A call that changes something is delayed for less time than the controller takes it to be under way: the API has no
/// conditional calls, so a call that rests on a read cannot be safe for ever. Reads and answers may be as late as they like.
pub(crate) fn faults(control: &Control, seed: u64) {
    control.seed_faults(seed);
    const READ: Option<&str> = Some("DescribeVolumes");
    let rules = [
        (None, false, 0.04, Effect::DropBefore),
        (None, true, 0.08, Effect::DropAfter),
        (None, false, 0.03, Effect::DropAfter),
        (None, false, 0.03, Effect::Throttle),
        (None, false, 0.04, Effect::InternalErrorBefore),
        (None, true, 0.05, Effect::InternalErrorAfter),
        (None, false, 0.03, Effect::GatewayBefore { status: 502 }),
        (None, false, 0.02, Effect::GatewayAfter { status: 504 }),
        (None, false, 0.01, Effect::GatewayBefore { status: 503 }),
        (None, true, 0.06, Effect::Stuck { ms: 400 }),
        (READ, false, 0.04, Effect::Delay { ms: 250 }),
        (READ, false, 0.08, Effect::Delay { ms: 60 }),
        (None, true, 0.10, Effect::Delay { ms: 20 }),
    ];
    for (action, mutating, probability, effect) in rules {
        control.add_fault(Rule {
            action: action.map(str::to_owned),
            mutating,
            disk: None,
            vm: None,
            skip: 0,
            count: None,
            probability,
            effect,
        });
    }
}

/// VMs that are not as they should be.
#[derive(Debug, Default)]
pub(crate) struct Down {
    stopped: Vec<String>,
    gone: Vec<(String, &'static str)>,
}

impl Down {
    /// One more VM in trouble, or one less.
    pub(crate) fn change(&mut self, control: &Control, random: &mut fastrand::Rng) {
        if self.stopped.len() + self.gone.len() >= DOWN {
            self.one_less(control, random.bool());
            return;
        }
        let zone = random.usize(..ZONES.len());
        let vm = vm_name(zone, random.usize(..VMS_PER_ZONE));
        if random.bool() {
            // Neither running nor stopped: takes no disk.
            let state = if random.bool() {
                "stopped"
            } else {
                "suspending"
            };
            if control.set_vm_state(&vm, state).is_ok() {
                self.stopped.push(vm);
            }
        } else if control.delete_vm(&vm).is_ok() {
            self.stopped.retain(|name| *name != vm);
            self.gone.push((vm, ZONES[zone]));
        }
    }

    fn one_less(&mut self, control: &Control, stopped_first: bool) {
        if stopped_first && !self.stopped.is_empty() {
            let vm = self.stopped.remove(0);
            control.set_vm_state(&vm, "running").unwrap();
        } else if !self.gone.is_empty() {
            let (vm, zone) = self.gone.remove(0);
            control.add_vm(&vm, zone);
        } else if let Some(vm) = self.stopped.pop() {
            control.set_vm_state(&vm, "running").unwrap();
        }
    }

    /// All VMs are there and run.
    pub(crate) fn clear(&mut self, control: &Control) {
        while !(self.stopped.is_empty() && self.gone.is_empty()) {
            self.one_less(control, true);
        }
    }
}
