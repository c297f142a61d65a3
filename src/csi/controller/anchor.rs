//! Which VM lends a slot to a disk that no node has been selected for.

use std::collections::HashSet;

use super::error::ControllerError;
use super::kernel::{Kernel, Outcome};
use crate::domain::device::SLOTS_PER_VM;
use crate::domain::disk::{Vm, VmState};
use crate::domain::id::VmName;
use crate::domain::topology::{Requirement, Zone};

/// Chooses a running VM with a free slot: the first acceptable zone that has one, and there the one with the fewest
/// disks. Where the terms name nodes, only those nodes: other VMs of the account are none of Kubernetes' business.
pub(super) async fn choose(
    kernel: &Kernel,
    places: &Requirement,
    shunned: &[VmName],
) -> Outcome<VmName> {
    let named: HashSet<&VmName> = places
        .terms
        .iter()
        .filter_map(|term| term.node.as_ref())
        .collect();
    let mut zones: Vec<&Zone> = places.zones();
    if places.given && zones.is_empty() {
        return Err(ControllerError::NoZone);
    }
    if zones.is_empty() {
        zones.extend(kernel.config.zone.as_ref());
    }
    let vms = kernel.fleet.vms().await?;
    let fit = |vm: &&Vm| {
        vm.state == VmState::Running
            && vm.disks.len() < SLOTS_PER_VM
            && !shunned.contains(&vm.name)
            && (named.is_empty() || named.contains(&vm.name))
    };
    let best = |zone: Option<&Zone>| {
        vms.iter()
            .filter(|vm| zone.is_none_or(|zone| vm.zone == *zone))
            .filter(fit)
            .min_by_key(|vm| (!kernel.knows(&vm.name), vm.disks.len(), fastrand::u32(..)))
            .map(|vm| vm.name.clone())
    };
    let found = if zones.is_empty() {
        best(None)
    } else {
        zones.iter().find_map(|zone| best(Some(zone)))
    };
    found.ok_or_else(|| no_anchor(&zones))
}

/// Chooses a VM that holds a detached disk of `zone` while it grows.
pub(super) async fn in_zone(kernel: &Kernel, zone: &Zone, shunned: &[VmName]) -> Outcome<VmName> {
    let places = Requirement {
        terms: vec![crate::domain::topology::Term {
            zone: zone.clone(),
            node: None,
        }],
        given: true,
    };
    choose(kernel, &places, shunned).await
}

fn no_anchor(zones: &[&Zone]) -> ControllerError {
    let names: Vec<&str> = zones.iter().take(8).map(|zone| zone.as_str()).collect();
    ControllerError::NoAnchor {
        zones: match names.as_slice() {
            [] => "this region".to_owned(),
            [one] => format!("zone {one}"),
            many => format!("zones {}", many.join(", ")),
        },
    }
}
