//! Disks as CSI shows them: volumes, published nodes, pages.

use std::collections::HashMap;

use super::command::{Create, Page};
use super::error::ControllerError;
use super::kernel::Outcome;
use crate::domain::disk::{AttachmentStatus, Disk};
use crate::domain::id::DiskName;
use crate::domain::journal::Phase;
use crate::domain::params::CONTEXT_FS_UUID;
use crate::domain::topology::ZONE_KEY;
use crate::proto::csi::v1::{Topology, Volume, VolumeHealth};

/// The volume that a disk is. The topology is the zone and nothing else.
pub(super) fn volume(disk: &Disk) -> Volume {
    Volume {
        capacity_bytes: disk.size.csi_bytes(),
        volume_id: disk.name.to_string(),
        volume_context: HashMap::new(),
        content_source: None,
        accessible_topology: vec![Topology {
            segments: HashMap::from([(ZONE_KEY.to_owned(), disk.zone.to_string())]),
        }],
    }
}

/// The volume with what the node needs of the StorageClass.
pub(super) fn created(disk: &Disk, command: &Create) -> Volume {
    let mut context: HashMap<String, String> = command.class.node.clone().into_iter().collect();
    context.insert(
        CONTEXT_FS_UUID.to_owned(),
        command.disk.fs_uuid().to_string(),
    );
    Volume {
        volume_context: context,
        ..volume(disk)
    }
}

/// Nodes that the disk is published on. An attachment of birth or growth is the driver's own affair.
pub(super) fn published_on(disk: &Disk) -> Vec<String> {
    disk.attachment
        .iter()
        .filter(|at| !disk.is_ours() && at.status != AttachmentStatus::Detaching)
        .map(|at| at.vm.to_string())
        .collect()
}

/// One page of volumes, and the token of the next one: the name that it begins with. Disks that people made and that
/// no PV is known for are not listed.
pub(super) fn page<'a>(disks: &'a [Disk], page: &Page) -> Outcome<(Vec<&'a Disk>, String)> {
    let rest = from(disks, page)?
        .iter()
        .filter(|disk| disk.phase() != Phase::Foreign);
    Ok(cut(rest, page, |disk| &disk.name))
}

/// One page of volumes with findings, which are sorted by name.
pub(super) fn abnormal(
    sick: Vec<(DiskName, VolumeHealth)>,
    page: &Page,
) -> Outcome<(Vec<VolumeHealth>, String)> {
    let first = first(page)?;
    let rest = sick
        .into_iter()
        .filter(|(name, _)| first.as_ref().is_none_or(|first| name >= first));
    let (chosen, next) = cut(rest, page, |(name, _)| name);
    Ok((chosen.into_iter().map(|(_, health)| health).collect(), next))
}

/// The name that the page begins with.
fn first(page: &Page) -> Outcome<Option<DiskName>> {
    let Some(token) = &page.from else {
        return Ok(None);
    };
    let name = DiskName::parse(token).map_err(|_| ControllerError::BadToken {
        token: token.chars().take(64).collect(),
    })?;
    Ok(Some(name))
}

/// The disks from the page's token on; `disks` are sorted by name.
fn from<'a>(disks: &'a [Disk], page: &Page) -> Outcome<&'a [Disk]> {
    let Some(first) = first(page)? else {
        return Ok(disks);
    };
    let start = disks.partition_point(|disk| disk.name < first);
    Ok(disks.get(start..).unwrap_or_default())
}

fn cut<T>(
    mut items: impl Iterator<Item = T>,
    page: &Page,
    name: impl Fn(&T) -> &DiskName,
) -> (Vec<T>, String) {
    let chosen: Vec<T> = items
        .by_ref()
        .take(page.max.unwrap_or(usize::MAX))
        .collect();
    let next = items
        .next()
        .map_or_else(String::new, |item| name(&item).to_string());
    (chosen, next)
}
