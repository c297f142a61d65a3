//! Which VM lends a slot to a disk that no node has been selected for.

use std::cmp::Reverse;
use std::collections::HashSet;

use super::error::ControllerError;
use super::kernel::{Kernel, Outcome};
use crate::domain::disk::{Vm, VmState};
use crate::domain::id::{DiskName, VmName};
use crate::domain::topology::{Requirement, Zone};
use crate::fleet::Reservation;

/// Chooses a running VM with a free slot: the first acceptable zone that has one, and there the one with the fewest
/// disks. Where the terms name nodes, only those nodes: other VMs of the account are none of Kubernetes' business. Where
/// they do not, VMs that are known as nodes come first.
pub(super) async fn choose(
    kernel: &Kernel,
    places: &Requirement,
    disk: &DiskName,
    shunned: &[VmName],
) -> Outcome<(VmName, Reservation)> {
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
            && kernel.fleet.free_slots(vm) > 0
            && !shunned.contains(&vm.name)
            && (named.is_empty() || named.contains(&vm.name))
    };
    let best = |zone: Option<&Zone>| {
        let in_zone = vms
            .iter()
            .filter(|vm| zone.is_none_or(|zone| vm.zone == *zone))
            .filter(fit);
        let stranger = |vm: &Vm| named.is_empty() && !kernel.knows(&vm.name);
        let free = |vm: &Vm| Reverse(kernel.fleet.free_slots(vm));
        let mut candidates: Vec<_> = in_zone
            .map(|vm| ((stranger(vm), free(vm), fastrand::u32(..)), vm))
            .collect();
        candidates.sort_unstable_by_key(|(key, _)| *key);
        // Another claim may have taken the last slot since it was counted.
        candidates
            .into_iter()
            .find_map(|(_, vm)| Some((vm.name.clone(), kernel.fleet.reserve(vm, disk)?)))
    };
    let found = if zones.is_empty() {
        best(None)
    } else {
        zones.iter().find_map(|zone| best(Some(zone)))
    };
    found.ok_or_else(|| no_anchor(&zones))
}

/// Chooses a VM that holds a detached disk of `zone` while it grows.
pub(super) async fn in_zone(
    kernel: &Kernel,
    zone: &Zone,
    disk: &DiskName,
    shunned: &[VmName],
) -> Outcome<(VmName, Reservation)> {
    let places = Requirement {
        terms: vec![crate::domain::topology::Term {
            zone: zone.clone(),
            node: None,
        }],
        given: true,
    };
    choose(kernel, &places, disk, shunned).await
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
