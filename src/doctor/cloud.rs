//! The computing API: does it answer, does it accept the keys, is the clock right, does it know the zone and the VM.

use std::time::Duration;

use super::Check;
use crate::cloud::{CallError, Cloud, Rejection};
use crate::domain::device::SLOTS_PER_VM;
use crate::domain::disk::Vm;
use crate::domain::id::VmName;
use crate::domain::topology::Zone;

/// A clock this far off, in seconds, is refused by signed APIs as a rule (NIFCLOUD does not say its own limit).
const CLOCK_LIMIT: u64 = 5 * 60;
/// A clock that is kept by NTP is never this far off, in seconds.
const CLOCK_ODD: u64 = 30;

/// Calls `DescribeAvailabilityZones`, the cheapest read: it needs a connection, TLS, both keys and the right time.
/// Answers the zones when the API gave them.
pub async fn api(cloud: &dyn Cloud, endpoint: &str) -> (Check, Option<Vec<String>>) {
    let started = std::time::Instant::now();
    match cloud.describe_zones().await {
        Ok(zones) => {
            let took = started.elapsed().max(Duration::from_millis(1));
            let found = format!(
                "{endpoint} accepts the keys ({} ms); zones: {}",
                took.as_millis(),
                zones.join(", ")
            );
            (Check::ok("cloud-api", found), Some(zones))
        }
        Err(error) => (failed(&error, endpoint), None),
    }
}

/// An API error by its meaning.
fn failed(error: &CallError, endpoint: &str) -> Check {
    let fail = Check::fail("cloud-api", format!("{endpoint}: {error}"));
    match error {
        CallError::NotSent { .. } => fail.expected(
            "a connection to the computing API (HTTPS, port 443)",
            "check the region, --cloud-endpoint, DNS, the firewall and network policies of this machine",
        ),
        CallError::Unknown { throttled: true, .. } => slow(error, endpoint),
        CallError::Unknown { .. } => fail.expected(
            "an answer of the computing API",
            "check that --cloud-endpoint is the API's and that no proxy answers in its place; look at NIFCLOUD's status page",
        ),
        CallError::Rejected { kind, .. } => match kind {
            Rejection::Auth => fail.expected(
                "keys that the API accepts",
                "check that both keys are of one pair and of the account of this region, that the pair is not \
                 disabled, and that this machine's clock is right",
            ),
            Rejection::Throttled | Rejection::Processing => slow(error, endpoint),
            _ => fail.expected(
                "the zones of the region",
                "look the code up in NIFCLOUD's API reference and its status page",
            ),
        },
    }
}

fn slow(error: &CallError, endpoint: &str) -> Check {
    Check::warn("cloud-api", format!("{endpoint}: {error}")).expected(
        "an answer",
        "the account makes too many calls: wait, and look for other clients with the same keys (--api-rate limits this one)",
    )
}

/// The clock, by the API's own `Date`: `ahead` seconds, negative when this machine is behind.
#[must_use]
pub fn clock(ahead: Option<i64>) -> Check {
    let Some(ahead) = ahead else {
        return Check::skip("clock", "no answer told the time");
    };
    let way = if ahead < 0 { "behind" } else { "ahead of" };
    let found = format!("this machine is {} s {way} the API", ahead.unsigned_abs());
    let (expected, advice) = (
        format!("less than {CLOCK_LIMIT} s: signatures carry the time"),
        "set the clock and keep it right by NTP (chrony, systemd-timesyncd)",
    );
    match ahead.unsigned_abs() {
        away if away > CLOCK_LIMIT => Check::fail("clock", found).expected(expected, advice),
        away if away > CLOCK_ODD => Check::warn("clock", found).expected(expected, advice),
        _ => Check::ok("clock", found),
    }
}

/// Whether the region has the zone that the driver is told.
#[must_use]
pub fn zone(told: Option<&Zone>, zones: &[String]) -> Check {
    let Some(told) = told else {
        return Check::ok(
            "zone",
            "none given: the controller chooses any zone with a running VM",
        );
    };
    if zones.iter().any(|zone| zone == told.as_str()) {
        return Check::ok("zone", format!("the region has {told}"));
    }
    Check::fail("zone", format!("the region has no zone {told}")).expected(
        format!("one of {}", zones.join(", ")),
        "correct --zone (NIFCLOUD_ZONE), the node's label topology.kubernetes.io/zone, or --region",
    )
}

/// The VM behind the node's name, and its free slots.
pub async fn vm(cloud: &dyn Cloud, name: &VmName, zone: Option<&Zone>) -> Check {
    let vms = match cloud.describe_vms(std::slice::from_ref(name)).await {
        Ok(vms) => vms,
        Err(error) if error.rejection() == Some(Rejection::InstanceNotFound) => Vec::new(),
        Err(error) => return Check::fail("vm", error.to_string()),
    };
    let Some(vm) = vms.iter().find(|vm| vm.name == *name) else {
        return Check::fail("vm", format!("the region has no VM named {name}")).expected(
            "a node named like its VM (InstanceId)",
            "rename the node or the VM, or correct --node-name (NODE_NAME) or --region",
        );
    };
    judge(vm, zone)
}

fn judge(vm: &Vm, zone: Option<&Zone>) -> Check {
    let free = SLOTS_PER_VM.saturating_sub(vm.disks.len());
    let found = format!(
        "{}, {}, {}: {} additional disks, {free} of {SLOTS_PER_VM} slots free",
        vm.name,
        vm.zone,
        vm.state,
        vm.disks.len()
    );
    if let Some(zone) = zone.filter(|zone| **zone != vm.zone) {
        return Check::fail("vm", found).expected(
            format!("zone {zone}, as this node was told"),
            "correct --zone (NIFCLOUD_ZONE) or the node's label: volumes would be made where this VM cannot use them",
        );
    }
    if !vm.can_hold_disks() {
        return Check::warn("vm", found)
            .expected("a running VM", "wait, or start it in the control panel");
    }
    if free == 0 {
        return Check::warn("vm", found).expected(
            "a free slot",
            "detach disks, or let the scheduler choose other nodes",
        );
    }
    Check::ok("vm", found)
}
