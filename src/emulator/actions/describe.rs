//! The actions that only answer.

use std::collections::BTreeSet;

use super::super::code::Code;
use super::super::state::{DiskRecord, Refusal, State, VmRecord};
use super::super::xml::Xml;
use super::{Call, Done};

/// Records by name: all, or those asked for; one unknown name fails the call unless a switch says otherwise.
fn asked<'a, R>(
    call: &Call<'_>,
    list: &str,
    all: impl Iterator<Item = &'a R>,
    find: impl Fn(&str) -> Result<&'a R, Refusal>,
) -> Result<Vec<&'a R>, Refusal> {
    let names = call.list(list);
    if names.is_empty() {
        return Ok(all.collect());
    }
    if call.switches.unknown_fails_batch || names.len() == 1 {
        return names.into_iter().map(find).collect();
    }
    Ok(names
        .into_iter()
        .filter_map(|name| find(name).ok())
        .collect())
}

pub(super) fn describe_volumes(state: &State, call: &Call<'_>) -> Result<Done, Refusal> {
    let disks = asked(call, "VolumeId", state.disks.values(), |name| {
        state.disk(name)
    })?;
    let mut xml = Xml::default();
    xml.list("volumeSet", disks, |xml, disk| {
        xml.leaf("volumeId", &disk.name)
            .leaf("volumeUniqueId", &disk.unique_id)
            .leaf("size", &disk.size.to_string())
            .leaf("diskType", &disk.disk_type)
            .leaf("snapshotId", "")
            .leaf("availabilityZone", &disk.zone)
            .leaf("accountingType", &disk.accounting)
            .leaf("nextMonthAccountingType", &disk.next_accounting)
            .leaf("status", disk.status())
            .leaf("createTime", &disk.created)
            .list("attachmentSet", &disk.attachment, |xml, at| {
                let unique_id = state.vms.get(&at.vm).map_or("", |vm| vm.unique_id.as_str());
                xml.leaf("volumeId", &disk.name)
                    .leaf("volumeUniqueId", &disk.unique_id)
                    .leaf("instanceId", &at.vm)
                    .leaf("instanceUniqueId", unique_id)
                    .leaf("device", "")
                    .leaf("status", disk.attachment_status())
                    .leaf("attachTime", &at.since)
                    .leaf("deleteOnTermination", "false");
            })
            .leaf("description", &disk.description)
            // Nobody may stumble over an element that is new to them.
            .leaf("emulatorExtra", "");
    });
    Ok(Done::answer(xml))
}

fn state_code(name: &str) -> &'static str {
    match name {
        "pending" => "0",
        "running" => "16",
        "terminated" => "48",
        "stopped" => "80",
        "waiting" => "112",
        _ => "128",
    }
}

fn mapping(xml: &mut Xml, state: &State, vm: &VmRecord, with_device: bool) {
    xml.list("blockDeviceMapping", &vm.slots, |xml, (target, name)| {
        if with_device {
            xml.leaf("deviceName", &format!("SCSI (0:{target})"));
        }
        let disk = state.disks.get(name);
        xml.node("ebs", |xml| {
            xml.leaf("volumeId", name)
                .leaf(
                    "volumeUniqueId",
                    disk.map_or("", |disk| disk.unique_id.as_str()),
                )
                .leaf(
                    "status",
                    disk.map_or("attached", DiskRecord::attachment_status),
                )
                .leaf(
                    "attachTime",
                    disk.and_then(|d| d.attachment.as_ref())
                        .map_or("", |at| at.since.as_str()),
                )
                .leaf("deleteOnTermination", "false");
        });
    });
}

pub(super) fn describe_instances(state: &State, call: &Call<'_>) -> Result<Done, Refusal> {
    let vms = asked(call, "InstanceId", state.vms.values(), |name| {
        state.vm(name)
    })?;
    let mut xml = Xml::default();
    xml.list("reservationSet", vms, |xml, vm| {
        xml.leaf("reservationId", "").leaf("ownerId", "");
        xml.list("groupSet", std::iter::empty::<()>(), |_, ()| ());
        xml.list("instancesSet", [vm], |xml, vm| instance(xml, state, vm));
    });
    Ok(Done::answer(xml))
}

/// A VM in the order of the real answer. What a disk driver has no use for is left empty.
fn instance(xml: &mut Xml, state: &State, vm: &VmRecord) {
    let empty = |xml: &mut Xml, names: &[&str]| {
        for name in names {
            xml.leaf(name, "");
        }
    };
    xml.leaf("instanceId", &vm.name)
        .leaf("instanceUniqueId", &vm.unique_id)
        .leaf("imageId", "221");
    xml.node("instanceState", |xml| {
        xml.leaf("code", state_code(&vm.state))
            .leaf("name", &vm.state);
    });
    empty(xml, &["privateDnsName", "dnsName", "reason", "keyName"]);
    empty(xml, &["amiLaunchIndex", "productCodes"]);
    xml.leaf("instanceType", "e-medium")
        .leaf("launchTime", "2024-06-13T14:02:53.000+09:00");
    xml.node("placement", |xml| {
        xml.leaf("availabilityZone", &vm.zone);
    });
    empty(xml, &["kernelId", "ramdiskId"]);
    xml.leaf("platform", "debian").leaf("imageName", "Debian");
    xml.node("monitoring", |xml| {
        xml.leaf("state", "monitoring-disable");
    });
    empty(xml, &["subnetId", "vpcId", "privateIpAddress", "ipAddress"]);
    empty(xml, &["privateIpAddressV6", "ipAddressV6"]);
    xml.node("stateReason", |xml| {
        xml.leaf("code", "").leaf("message", "");
    });
    xml.leaf("architecture", "x86_64")
        .leaf("rootDeviceType", "disk")
        .leaf("rootDeviceName", "");
    // The device names are left out here, as the real API does.
    mapping(xml, state, vm, false);
    empty(xml, &["instanceLifecycle", "spotInstanceRequestId"]);
    // Capitalised on the wire, unlike everywhere else.
    xml.leaf("AccountingType", "2")
        .leaf("NextMonthAccountingType", "2");
    xml.leaf("loadbalancing", "")
        .leaf("ipType", "static")
        .leaf("niftyPrivateIpType", "static")
        .leaf("description", "")
        .leaf("hotAdd", "");
    empty(xml, &["niftyPrivateNetworkType", "tenancy"]);
    empty(xml, &["networkInterfaceSet", "vmTools", "isoImageSet"]);
}

pub(super) fn describe_instance_attribute(state: &State, call: &Call<'_>) -> Result<Done, Refusal> {
    let (name, attribute) = (call.require("InstanceId")?, call.require("Attribute")?);
    let vm = state.vm(name)?;
    let mut xml = Xml::default();
    xml.leaf("instanceId", &vm.name)
        .leaf("instanceUniqueId", &vm.unique_id);
    match attribute {
        "blockDeviceMapping" => mapping(&mut xml, state, vm, true),
        "accountingType" | "nextMonthAccountingType" | "description" | "instanceType" => {
            xml.node(attribute, |xml| {
                xml.leaf("value", "");
            });
        }
        other => {
            return Err(Refusal::new(
                Code::InvalidAttribute,
                format!("The attribute '{other}' is invalid."),
            ));
        }
    }
    Ok(Done::answer(xml))
}

pub(super) fn describe_zones(state: &State, call: &Call<'_>) -> Result<Done, Refusal> {
    let mut zones: BTreeSet<&str> = call.zones.iter().map(String::as_str).collect();
    zones.extend(state.vms.values().map(|vm| vm.zone.as_str()));
    let default = zones.first().copied();
    let asked = call.list("ZoneName");
    if let Some(unknown) = asked.iter().find(|zone| !zones.contains(*zone)) {
        return Err(Refusal::new(
            Code::ZoneNotFound,
            format!("The zone '{unknown}' does not exist."),
        ));
    }
    zones.retain(|zone| asked.is_empty() || asked.contains(zone));
    let mut xml = Xml::default();
    xml.list("availabilityZoneInfo", zones, |xml, zone| {
        let is_default = (Some(zone) == default).to_string();
        xml.leaf("zoneName", zone)
            .leaf("zoneState", "available")
            .leaf("regionName", call.region)
            .leaf("messageSet", "")
            .leaf("securityGroupSupported", "true")
            .leaf("isDefault", &is_default);
    });
    Ok(Done::answer(xml))
}

/// Names of the public regions; their endpoints carry `jp-` in front unless the name has its country.
const REGIONS: [&str; 7] = [
    "east-1",
    "east-2",
    "east-3",
    "jp-east-4",
    "west-1",
    "jp-west-2",
    "us-east-1",
];

pub(super) fn describe_regions(call: &Call<'_>) -> Result<Done, Refusal> {
    let mut regions: BTreeSet<&str> = REGIONS.into();
    regions.insert(call.region);
    let asked = call.list("RegionName");
    if let Some(unknown) = asked.iter().find(|region| !regions.contains(*region)) {
        return Err(Refusal::new(
            Code::RegionNotFound,
            format!("The region '{unknown}' does not exist."),
        ));
    }
    regions.retain(|region| asked.is_empty() || asked.contains(region));
    let mut xml = Xml::default();
    xml.list("regionInfo", regions, |xml, region| {
        let country = if region.starts_with("jp-") || region.starts_with("us-") {
            ""
        } else {
            "jp-"
        };
        xml.leaf("regionName", region)
            .leaf(
                "regionEndpoint",
                &format!("{country}{region}.computing.api.nifcloud.com"),
            )
            .leaf("messageSet", "")
            .leaf("isDefault", &(region == call.region).to_string());
    });
    Ok(Done::answer(xml))
}

pub(super) fn describe_resources(state: &State) -> Done {
    let total: u64 = state.disks.values().map(|disk| u64::from(disk.size)).sum();
    let mut xml = Xml::default();
    xml.node("resourceInfo", |xml| {
        xml.leaf("instanceItemSet", "")
            .leaf("addDiskCount", &state.disks.len().to_string())
            .leaf("addDiskTotalSize", &total.to_string());
    });
    Done::answer(xml)
}
