//! What callers asked for and were told: the reference that the cloud is held against.

use additional_storage_csi::emulator::State;
use tokio::time::Instant;

use crate::caller::Rpc;

/// GiB.
const STEP: u32 = 100;

/// A caller was told that the disk is on this VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) vm: String,
    /// The VM's `instanceUniqueId`: another one is another VM of the same name.
    pub(crate) incarnation: String,
    /// `DetachVolume` calls that the cloud had carried out for the disk by then.
    pub(crate) detaches: u64,
}

/// One claim's life as its sidecars know it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Volume {
    /// How often this volume's place has been taken by a new claim.
    pub(crate) generation: u32,
    /// CreateVolume answered OK, and DeleteVolume has not been sent since.
    pub(crate) created: bool,
    /// The request that made it.
    pub(crate) create: Option<Rpc>,
    /// A publish that is to be undone before anything else is done: the VM it was for.
    pub(crate) published_to: Option<String>,
    /// ControllerPublish answered OK, and ControllerUnpublish has not been sent since.
    pub(crate) told: Option<Told>,
    /// The last answer was that it may be running: what a retry repeats.
    pub(crate) pending: Option<Rpc>,
    /// What existed when the first of the calls was sent that may be running.
    pub(crate) since: Option<State>,
    /// The controller that was asked last, and since when nobody has waited there for an answer.
    pub(crate) leader: usize,
    pub(crate) left: Option<Instant>,
}

/// What was asked of sizes; apart, as the resizer does not wait for the others.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sizes {
    /// The largest size that any request could lead to, in GiB.
    pub(crate) asked: u32,
}

impl Sizes {
    pub(crate) fn ask(&mut self, gib: u32) {
        self.asked = self.asked.max(gib.div_ceil(STEP) * STEP);
    }
}

/// Who makes the disks of a volume's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Maker {
    /// CreateVolume.
    Driver,
    /// The Go driver: a name that the cloud chose, the claim in the description.
    GoDriver,
    /// A person: any name and description.
    Person,
}

/// Two places in ten are imported.
pub(crate) fn maker(index: usize) -> Maker {
    match index % 10 {
        3 => Maker::GoDriver,
        7 => Maker::Person,
        _ => Maker::Driver,
    }
}

/// The description of an imported disk.
pub(crate) fn imported_as(seed: u64, index: usize, generation: u32) -> String {
    const BY_HAND: [&str; 6] = ["", "made by hand", "データ", "new", "grw_1", "PVC-0"];
    match maker(index) {
        Maker::Person => {
            BY_HAND[(index / 10 + usize::try_from(generation).unwrap()) % 6].to_owned()
        }
        Maker::GoDriver | Maker::Driver => claim(seed, index, generation).0,
    }
}

/// The claim's name, if there is one, and its disk's.
pub(crate) fn names(seed: u64, index: usize, generation: u32) -> (String, String) {
    let (claim, disk) = claim(seed, index, generation);
    match maker(index) {
        Maker::Driver => (claim, disk),
        Maker::GoDriver => (claim, format!("g{index:03}X{generation:03}")),
        Maker::Person => (claim, format!("byHand{index}x{generation}")),
    }
}

fn claim(seed: u64, index: usize, generation: u32) -> (String, String) {
    let high = seed.rotate_left(17) ^ 0x9E37_79B9_7F4A_7C15;
    let id =
        (u128::from(high) << 64) | (u128::try_from(index).unwrap() << 32) | u128::from(generation);
    let disk = format!("{id:032x}");
    let parts = [
        &disk[..8],
        &disk[8..12],
        &disk[12..16],
        &disk[16..20],
        &disk[20..],
    ];
    (format!("pvc-{}", parts.join("-")), disk)
}
