//! From the API's XML to the domain's types.
//!
//! A row that makes no sense (a name that no disk can have, size 0, an attachment to nobody) is never guessed
//! at: it is left out of a full list, with a warning, and fails a query that asked for disks by name. An answer
//! that lacks a name it was asked for proves nothing either: only the API's error code proves absence.

use std::collections::HashSet;

use tracing::warn;

use super::error::bounded;
use super::xml::Node;
use crate::domain::device::ScsiAddress;
use crate::domain::disk::{
    Accounting, Attachment, AttachmentStatus, Disk, DiskStatus, Slot, Vm, VmState,
};
use crate::domain::id::{DiskName, VmName};
use crate::domain::size::DiskSize;
use crate::domain::topology::Zone;

/// Reads one kind of answer: its rows as they pass, then what is left of the document.
pub(crate) trait Decode: Send + 'static {
    /// What the answer becomes.
    type Answer: Send + 'static;
    /// Where the rows of the answer's long list are, below the root; empty when it has none.
    const ROWS: &'static [&'static str];

    /// Takes one row.
    fn row(&mut self, row: &Node);

    /// Ends the answer.
    ///
    /// # Errors
    /// Why the answer cannot be used.
    fn finish(self, root: &Node) -> Result<Self::Answer, String>;
}

/// Rows that could not be understood: how many, and why the first one.
#[derive(Debug, Default)]
struct Skipped {
    count: usize,
    first: String,
}

impl Skipped {
    fn note(&mut self, why: &str) {
        if self.count == 0 {
            self.first = bounded(why, 200);
        }
        self.count += 1;
    }

    fn warn(&self, what: &str) {
        if self.count > 0 {
            warn!(
                skipped = self.count,
                first = self.first,
                "{what} in an answer of the API could not be understood and are left out"
            );
        }
    }

    /// Fails unless every name asked for is in the answer.
    fn complete<'a>(
        &self,
        asked: &'a [String],
        found: impl Iterator<Item = &'a str>,
    ) -> Result<(), String> {
        if asked.is_empty() {
            return Ok(());
        }
        let found: HashSet<&str> = found.collect();
        let missing: Vec<&str> = asked
            .iter()
            .map(String::as_str)
            .filter(|name| !found.contains(name))
            .collect();
        match missing.first() {
            None => Ok(()),
            Some(first) if self.count > 0 => Err(format!(
                "the answer lacks {first} (and {} more); {} rows could not be understood: {}",
                missing.len() - 1,
                self.count,
                self.first
            )),
            Some(first) => Err(format!(
                "the answer lacks {first} (and {} more) without saying that it does not exist",
                missing.len() - 1
            )),
        }
    }
}

/// `DescribeVolumes`.
#[derive(Debug, Default)]
pub(crate) struct Disks {
    asked: Vec<String>,
    disks: Vec<Disk>,
    skipped: Skipped,
}

/// `DescribeInstances`.
#[derive(Debug, Default)]
pub(crate) struct Vms {
    asked: Vec<String>,
    vms: Vec<Vm>,
    skipped: Skipped,
}

/// `DescribeInstanceAttribute` with `blockDeviceMapping`.
#[derive(Debug)]
pub(crate) struct Slots {
    vm: String,
}

/// `DescribeAvailabilityZones`.
#[derive(Debug)]
pub(crate) struct Zones;

/// Any mutating call: nothing is taken from the answer, but it must not contradict the call.
#[derive(Debug)]
pub(crate) struct Done {
    disk: Option<String>,
}

impl Disks {
    pub(crate) fn of(names: &[DiskName]) -> Self {
        Self {
            asked: names.iter().map(ToString::to_string).collect(),
            ..Self::default()
        }
    }
}

impl Vms {
    pub(crate) fn of(names: &[VmName]) -> Self {
        Self {
            asked: names.iter().map(ToString::to_string).collect(),
            ..Self::default()
        }
    }
}

impl Slots {
    pub(crate) fn of(vm: &VmName) -> Self {
        Self { vm: vm.to_string() }
    }
}

impl Done {
    pub(crate) fn of_disk(disk: Option<&DiskName>) -> Self {
        Self {
            disk: disk.map(ToString::to_string),
        }
    }
}

impl Decode for Disks {
    type Answer = Vec<Disk>;
    const ROWS: &'static [&'static str] = &["volumeSet", "item"];

    fn row(&mut self, row: &Node) {
        match disk(row) {
            Ok(disk) => self.disks.push(disk),
            Err(why) => self.skipped.note(&why),
        }
    }

    fn finish(self, _root: &Node) -> Result<Self::Answer, String> {
        self.skipped.warn("disks");
        self.skipped.complete(
            &self.asked,
            self.disks.iter().map(|disk| disk.name.as_str()),
        )?;
        Ok(self.disks)
    }
}

impl Decode for Vms {
    type Answer = Vec<Vm>;
    const ROWS: &'static [&'static str] = &["reservationSet", "item"];

    fn row(&mut self, row: &Node) {
        for item in row.items("instancesSet") {
            match vm(item) {
                Ok(vm) => self.vms.push(vm),
                Err(why) => self.skipped.note(&why),
            }
        }
    }

    fn finish(self, _root: &Node) -> Result<Self::Answer, String> {
        self.skipped.warn("VMs");
        self.skipped
            .complete(&self.asked, self.vms.iter().map(|vm| vm.name.as_str()))?;
        Ok(self.vms)
    }
}

impl Decode for Slots {
    type Answer = Vec<Slot>;
    const ROWS: &'static [&'static str] = &[];

    fn row(&mut self, _row: &Node) {}

    fn finish(self, root: &Node) -> Result<Self::Answer, String> {
        same_name("VM", &self.vm, root.text("instanceId"))?;
        let mut skipped = Skipped::default();
        let slots = root
            .items("blockDeviceMapping")
            .filter_map(|item| slot(item).map_err(|why| skipped.note(&why)).ok())
            .collect();
        skipped.warn("slots");
        Ok(slots)
    }
}

impl Decode for Zones {
    type Answer = Vec<String>;
    const ROWS: &'static [&'static str] = &[];

    fn row(&mut self, _row: &Node) {}

    fn finish(self, root: &Node) -> Result<Self::Answer, String> {
        Ok(root
            .items("availabilityZoneInfo")
            .map(|item| item.text("zoneName").to_owned())
            .filter(|name| !name.is_empty())
            .collect())
    }
}

impl Decode for Done {
    type Answer = ();
    const ROWS: &'static [&'static str] = &[];

    fn row(&mut self, _row: &Node) {}

    fn finish(self, root: &Node) -> Result<Self::Answer, String> {
        if root.text("return").eq_ignore_ascii_case("false") {
            return Err("the answer says return=false without an error".to_owned());
        }
        match &self.disk {
            Some(disk) => same_name("disk", disk, root.text("volumeId")),
            None => Ok(()),
        }
    }
}

/// An answer that names something must name what was asked for; letter case may differ.
fn same_name(what: &str, asked: &str, answered: &str) -> Result<(), String> {
    if answered.is_empty() || answered.eq_ignore_ascii_case(asked) {
        return Ok(());
    }
    Err(format!(
        "asked about the {what} {asked}, the answer is about {}",
        bounded(answered, 64)
    ))
}

fn disk(item: &Node) -> Result<Disk, String> {
    let name = DiskName::parse(item.text("volumeId")).map_err(|error| error.to_string())?;
    let size = item
        .text("size")
        .parse()
        .ok()
        .and_then(DiskSize::from_gib)
        .ok_or_else(|| {
            format!(
                "disk {name} has size {:?}, expected a positive number of GB",
                bounded(item.text("size"), 32)
            )
        })?;
    let zone = Zone::parse(item.text("availabilityZone"))
        .ok_or_else(|| format!("disk {name} has no availabilityZone"))?;
    let attachment = attachment(item).map_err(|why| format!("disk {name} {why}"))?;
    Ok(Disk {
        unique_id: item.text("volumeUniqueId").to_owned(),
        size,
        disk_type: item.text("diskType").to_owned(),
        zone,
        status: match item.text("status").to_ascii_lowercase().as_str() {
            "creating" => DiskStatus::Creating,
            "in-use" => DiskStatus::InUse,
            "available" => DiskStatus::Available,
            _ => DiskStatus::Other(bounded(item.text("status"), 64)),
        },
        attachment,
        description: item.text("description").to_owned(),
        accounting: accounting(item.text("accountingType")),
        next_accounting: accounting(item.text("nextMonthAccountingType")),
        name,
    })
}

/// The attachment of a disk. One to nobody, or more than one, is not understood: read as "detached", it could
/// cost the data of a disk in use.
fn attachment(item: &Node) -> Result<Option<Attachment>, String> {
    let mut rows = item.items("attachmentSet").filter(|row| !row.is_blank());
    let Some(row) = rows.next() else {
        return Ok(None);
    };
    if rows.next().is_some() {
        return Err("has more than one attachment".to_owned());
    }
    let vm = VmName::parse(row.text("instanceId"))
        .map_err(|error| format!("has an attachment without a VM: {error}"))?;
    Ok(Some(Attachment {
        vm,
        vm_unique_id: row.text("instanceUniqueId").to_owned(),
        status: match row.text("status").to_ascii_lowercase().as_str() {
            "attaching" => AttachmentStatus::Attaching,
            "attached" => AttachmentStatus::Attached,
            "detaching" => AttachmentStatus::Detaching,
            _ => AttachmentStatus::Other(bounded(row.text("status"), 64)),
        },
    }))
}

fn accounting(code: &str) -> Option<Accounting> {
    match code {
        "1" => Some(Accounting::Monthly),
        "2" => Some(Accounting::Hourly),
        _ => None,
    }
}

fn vm(item: &Node) -> Result<Vm, String> {
    let name = VmName::parse(item.text("instanceId")).map_err(|error| error.to_string())?;
    let zone = Zone::parse(item.text_at(&["placement", "availabilityZone"]))
        .ok_or_else(|| format!("VM {name} has no availabilityZone"))?;
    let state_name = item.text_at(&["instanceState", "name"]);
    let state_code = item.text_at(&["instanceState", "code"]);
    let state = match (state_name.to_ascii_lowercase().as_str(), state_code) {
        ("running", _) | ("", "16") => VmState::Running,
        ("stopped", _) | ("", "80") => VmState::Stopped,
        _ => VmState::Other(bounded(state_name, 64)),
    };
    // The boot disk has no volumeId; a name that no disk can have cannot be asked about either.
    let disks = item
        .items("blockDeviceMapping")
        .filter_map(|row| DiskName::parse(row.text_at(&["ebs", "volumeId"])).ok())
        .collect();
    Ok(Vm {
        unique_id: item.text("instanceUniqueId").to_owned(),
        state,
        zone,
        disks,
        name,
    })
}

fn slot(item: &Node) -> Result<Slot, String> {
    let address = ScsiAddress::parse(item.text("deviceName")).map_err(|error| error.to_string())?;
    Ok(Slot {
        address,
        disk: DiskName::parse(item.text_at(&["ebs", "volumeId"])).ok(),
        disk_unique_id: item.text_at(&["ebs", "volumeUniqueId"]).to_owned(),
    })
}

#[cfg(test)]
mod tests;
