//! The API's actions on the books: check, change, answer.

mod describe;

use super::code::Code;
use super::config::Switches;
use super::sign::Params;
use super::state::{Change, DiskRecord, Refusal, State, VmRecord, duplicate};
use super::xml::Xml;
use describe::{
    describe_instance_attribute, describe_instances, describe_regions, describe_resources,
    describe_volumes, describe_zones,
};

/// Known disk types: request code and the name in answers.
const TYPES: [(&str, &str); 8] = [
    ("2", "Standard Storage"),
    ("3", "High-Speed Storage A"),
    ("4", "High-Speed Storage B"),
    ("5", "Flash Storage"),
    ("6", "Standard Flash Storage A"),
    ("7", "Standard Flash Storage B"),
    ("8", "High-Speed Flash Storage A"),
    ("9", "High-Speed Flash Storage B"),
];
const MAX_SIZE: u32 = 8000;

/// Actions that change something.
pub(super) const MUTATING: [&str; 6] = [
    "CreateVolume",
    "DeleteVolume",
    "AttachVolume",
    "DetachVolume",
    "ExtendVolumeSize",
    "ModifyVolumeAttribute",
];

/// What an action sees of the world.
pub(super) struct Call<'a> {
    pub(super) params: &'a Params,
    pub(super) switches: &'a Switches,
    pub(super) region: &'a str,
    /// Zones that need no VM to exist.
    pub(super) zones: &'a [String],
    /// Now, as answers write it.
    pub(super) now: &'a str,
}

/// What an action answers and begins.
pub(super) struct Done {
    pub(super) xml: Xml,
    /// A change in flight on this disk.
    pub(super) begun: Option<(String, Change)>,
}

impl Done {
    fn answer(xml: Xml) -> Self {
        Self { xml, begun: None }
    }

    fn begun(xml: Xml, disk: &str, change: Change) -> Self {
        Self {
            xml,
            begun: Some((disk.to_owned(), change)),
        }
    }
}

/// Carries out one action.
pub(super) fn perform(state: &mut State, action: &str, call: &Call<'_>) -> Result<Done, Refusal> {
    match action {
        "CreateVolume" => create(state, call),
        "DeleteVolume" => delete(state, call),
        "AttachVolume" => attach(state, call),
        "DetachVolume" => detach(state, call),
        "ExtendVolumeSize" => extend(state, call),
        "ModifyVolumeAttribute" => modify(state, call),
        "DescribeVolumes" => describe_volumes(state, call),
        "DescribeInstances" => describe_instances(state, call),
        "DescribeInstanceAttribute" => describe_instance_attribute(state, call),
        "DescribeAvailabilityZones" => describe_zones(state, call),
        "DescribeRegions" => describe_regions(call),
        "DescribeResources" => Ok(describe_resources(state)),
        _ => Err(Refusal::new(
            Code::ActionNotFound,
            format!("The action '{action}' does not exist."),
        )),
    }
}

impl Call<'_> {
    /// A parameter; empty counts as absent.
    fn get(&self, name: &str) -> Option<&str> {
        self.params
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    fn require(&self, name: &str) -> Result<&str, Refusal> {
        self.get(name).ok_or_else(|| {
            Refusal::new(
                Code::MissingParameter,
                format!("The parameter '{name}' is required."),
            )
        })
    }

    /// `Name.1`, `Name.2`, ...
    fn list(&self, name: &str) -> Vec<&str> {
        (1..)
            .map_while(|number| self.get(&format!("{name}.{number}")))
            .collect()
    }
}

/// Whether a disk may be called so.
pub(super) fn is_name(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

fn size_of(text: &str, short: bool) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    match number {
        1..=40 if short => Some(number * 100),
        100..=MAX_SIZE if number.is_multiple_of(100) => Some(number),
        _ => None,
    }
}

/// The VM that a call names, by its name or its unique id.
fn vm_of(state: &State, call: &Call<'_>) -> Result<String, Refusal> {
    match (call.get("InstanceId"), call.get("InstanceUniqueId")) {
        (Some(name), _) => Ok(name.to_owned()),
        (None, Some(id)) => match state.vms.values().find(|vm| vm.unique_id == id) {
            Some(vm) => Ok(vm.name.clone()),
            None => state.vm(id).map(|vm| vm.name.clone()),
        },
        (None, None) => Ok(call.require("InstanceId")?.to_owned()),
    }
}

/// The name of a DiskType code, which must allow the size.
fn type_of(code: &str, size: u32) -> Result<&'static str, Refusal> {
    let known = TYPES.iter().find(|(known, _)| *known == code);
    let Some((_, name)) = known else {
        let message = format!("The disk type '{code}' is invalid.");
        return Err(Refusal::new(Code::InvalidDiskType, message));
    };
    if code == "5" && size > 1000 {
        return Err(Refusal::new(
            Code::InvalidSize,
            "Flash Storage is limited to 1000.",
        ));
    }
    Ok(name)
}

fn create(state: &mut State, call: &Call<'_>) -> Result<Done, Refusal> {
    let vm = vm_of(state, call)?;
    let size = call.require("Size")?;
    let size = size_of(size, call.switches.short_sizes)
        .ok_or_else(|| Refusal::new(Code::InvalidSize, format!("The size '{size}' is invalid.")))?;
    let disk_type = type_of(call.get("DiskType").unwrap_or("6"), size)?;
    let accounting = accounting(call.get("AccountingType").unwrap_or("2"))?;
    let description = description(call.get("Description").unwrap_or(""))?;
    let name = call.get("VolumeId");
    if let Some(name) = name {
        if !is_name(name, 32) {
            let message = format!("The name '{name}' is invalid.");
            return Err(Refusal::new(Code::InvalidVolumeId, message));
        }
        if state.disks.contains_key(name) {
            return Err(duplicate(name));
        }
    }
    let zone = state
        .vm_ready(&vm, call.switches.processing_while_busy)?
        .zone
        .clone();
    state.free_target(&vm)?;
    // Nothing is refused from here on. Eight letters and digits, as the manual says.
    let name = name.map_or_else(|| state.unique_id("").replace('-', ""), str::to_owned);
    let record = DiskRecord {
        name: name.clone(),
        unique_id: state.unique_id("vol"),
        size,
        disk_type: disk_type.to_owned(),
        zone,
        accounting: accounting.to_owned(),
        next_accounting: accounting.to_owned(),
        description,
        created: call.now.to_owned(),
        attachment: None,
        change: None,
    };
    state.insert_disk(record);
    state.begin_attach(&name, &vm, call.now, Change::Create)?;
    Ok(Done::begun(
        created(state.disk(&name)?),
        &name,
        Change::Create,
    ))
}

fn created(disk: &DiskRecord) -> Xml {
    let mut xml = Xml::default();
    xml.leaf("volumeId", &disk.name)
        .leaf("volumeUniqueId", &disk.unique_id)
        .leaf("size", &disk.size.to_string())
        .leaf("diskType", &disk.disk_type)
        .leaf("snapshotId", "")
        .leaf("availabilityZone", &disk.zone)
        .leaf("status", disk.status())
        .leaf("createTime", &disk.created)
        .leaf("accountingType", &disk.accounting)
        .leaf("description", &disk.description);
    xml
}

fn accounting(value: &str) -> Result<&str, Refusal> {
    match value {
        "1" | "2" => Ok(value),
        _ => Err(Refusal::new(
            Code::InvalidAccountingType,
            format!("The accounting type '{value}' is invalid."),
        )),
    }
}

fn description(value: &str) -> Result<String, Refusal> {
    if value.chars().count() > 40 {
        return Err(Refusal::new(
            Code::InvalidDescription,
            "The description is longer than 40 characters.",
        ));
    }
    Ok(value.to_owned())
}

fn delete(state: &mut State, call: &Call<'_>) -> Result<Done, Refusal> {
    let name = call.require("VolumeId")?;
    if state.disk_ready(name)?.attachment.is_some() {
        return Err(Refusal::new(
            Code::InUse,
            format!("The volume '{name}' is attached to an instance."),
        ));
    }
    state.begin(name, Change::Delete);
    let mut xml = Xml::default();
    xml.leaf("return", "true");
    Ok(Done::begun(xml, name, Change::Delete))
}

fn attachment_answer(disk: &DiskRecord, vm: &VmRecord, status: &str) -> Xml {
    let mut xml = Xml::default();
    xml.leaf("volumeId", &disk.name)
        .leaf("volumeUniqueId", &disk.unique_id)
        .leaf("instanceId", &vm.name)
        .leaf("instanceUniqueId", &vm.unique_id)
        .leaf("device", "")
        .leaf("status", status)
        .leaf(
            "attachTime",
            disk.attachment.as_ref().map_or("", |at| at.since.as_str()),
        );
    xml
}

fn attach(state: &mut State, call: &Call<'_>) -> Result<Done, Refusal> {
    let (name, vm) = (call.require("VolumeId")?, call.require("InstanceId")?);
    let disk = state.disk_ready(name)?;
    let zone = disk.zone.clone();
    if let Some(at) = &disk.attachment {
        if call.switches.own_code_attached_elsewhere && at.vm != vm {
            return Err(Refusal::new(
                Code::InUse,
                format!("The volume '{name}' is attached to another instance."),
            ));
        }
        // The same code for this and for another VM: the harder reading.
        return Err(Refusal::new(
            Code::AlreadyAttached,
            format!("The volume '{name}' is already attached."),
        ));
    }
    let record = state.vm_ready(vm, call.switches.processing_while_busy)?;
    if record.zone != zone {
        return Err(Refusal::new(
            Code::DifferentZone,
            format!(
                "The volume '{name}' is in zone {zone}, the instance '{vm}' in {}.",
                record.zone
            ),
        ));
    }
    state.begin_attach(name, vm, call.now, Change::Attach)?;
    let xml = attachment_answer(state.disk(name)?, state.vm(vm)?, "attaching");
    Ok(Done::begun(xml, name, Change::Attach))
}

fn detach(state: &mut State, call: &Call<'_>) -> Result<Done, Refusal> {
    let name = call.require("VolumeId")?;
    let detached = || {
        Refusal::new(
            Code::Detached,
            format!("The volume '{name}' is detached from the instance."),
        )
    };
    if let Some(vm) = call.get("InstanceId") {
        state.vm(vm)?;
    }
    let disk = state.disk_ready(name)?;
    let holder = disk.attachment.as_ref().ok_or_else(detached)?.vm.clone();
    if call.get("InstanceId").is_some_and(|vm| vm != holder) {
        return Err(detached());
    }
    let vm = state.vm_ready(&holder, call.switches.processing_while_busy)?;
    if call.switches.agreement_required
        && vm.state == "running"
        && call.get("Agreement") != Some("true")
    {
        return Err(Refusal::new(
            Code::InstanceRunning,
            "The instance is running: Agreement is required.",
        ));
    }
    state.begin(name, Change::Detach);
    let xml = attachment_answer(state.disk(name)?, state.vm(&holder)?, "detaching");
    Ok(Done::begun(xml, name, Change::Detach))
}

fn extend(state: &mut State, call: &Call<'_>) -> Result<Done, Refusal> {
    let name = call.require("VolumeId")?;
    let reboot = call.get("NiftyReboot").unwrap_or("true");
    if !matches!(reboot, "force" | "true" | "false") {
        return Err(Refusal::new(
            Code::InvalidReboot,
            format!("'{reboot}' is invalid."),
        ));
    }
    let disk = state.disk_ready(name)?;
    let limit = if disk.disk_type == "Flash Storage" {
        1000
    } else {
        MAX_SIZE
    };
    let Some(holder) = disk.attachment.as_ref().map(|at| at.vm.clone()) else {
        return Err(Refusal::new(
            Code::Detached,
            format!("The volume '{name}' is detached from the instance."),
        ));
    };
    if disk.size + 100 > limit {
        return Err(Refusal::new(
            Code::InvalidSize,
            format!("The volume '{name}' has the largest size."),
        ));
    }
    state.vm_ready(&holder, call.switches.processing_while_busy)?;
    state.begin(name, Change::Extend);
    let mut xml = Xml::default();
    xml.leaf("return", "true");
    Ok(Done::begun(xml, name, Change::Extend))
}

fn modify(state: &mut State, call: &Call<'_>) -> Result<Done, Refusal> {
    let (name, attribute) = (call.require("VolumeId")?, call.require("Attribute")?);
    let value = call.get("Value").unwrap_or("");
    state.disk(name)?;
    match attribute {
        "accountingType" => {
            let value = accounting(value)?.to_owned();
            if let Some(disk) = state.disk_mut(name) {
                disk.next_accounting = value;
            }
        }
        "description" => {
            let value = description(value)?;
            if let Some(disk) = state.disk_mut(name) {
                disk.description = value;
            }
        }
        "volumeName" if is_name(value, 32) => state.rename_disk(name, value)?,
        "volumeName" => {
            return Err(Refusal::new(
                Code::InvalidValue,
                format!("The name '{value}' is invalid."),
            ));
        }
        other => {
            return Err(Refusal::new(
                Code::InvalidAttribute,
                format!("The attribute '{other}' is invalid."),
            ));
        }
    }
    let mut xml = Xml::default();
    xml.leaf("return", "true");
    Ok(Done::answer(xml))
}
