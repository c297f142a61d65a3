//! What the tracker can read in batches: disks and VMs.

use std::fmt;
use std::hash::Hash;

use async_trait::async_trait;

use crate::cloud::{CallError, Cloud, Rejection};
use crate::domain::disk::{Disk, Vm};
use crate::domain::id::{DiskName, VmName};

/// A thing of the cloud that is described by name.
#[async_trait]
pub(super) trait Kind: Send + Sync + 'static {
    type Name: Clone + Eq + Hash + Ord + fmt::Display + fmt::Debug + Send + Sync + 'static;
    type Item: Clone + Send + Sync + 'static;

    const ACTION: &'static str;
    /// The refusal that proves absence.
    const ABSENT: Rejection;

    fn name(item: &Self::Item) -> &Self::Name;
    /// One phrase for error messages.
    fn state(item: Option<&Self::Item>) -> String;
    async fn describe(
        cloud: &dyn Cloud,
        names: &[Self::Name],
    ) -> Result<Vec<Self::Item>, CallError>;
}

#[derive(Debug)]
pub(super) struct Disks;

#[async_trait]
impl Kind for Disks {
    type Name = DiskName;
    type Item = Disk;

    const ACTION: &'static str = "DescribeVolumes";
    const ABSENT: Rejection = Rejection::VolumeNotFound;

    fn name(item: &Disk) -> &DiskName {
        &item.name
    }

    fn state(item: Option<&Disk>) -> String {
        let Some(disk) = item else {
            return "the disk does not exist".to_owned();
        };
        let attachment = disk.attachment.as_ref().map_or_else(
            || "not attached".to_owned(),
            |a| format!("attachment to {} {:?}", a.vm, a.status),
        );
        format!("status {:?}, {attachment}, size {}", disk.status, disk.size)
    }

    async fn describe(cloud: &dyn Cloud, names: &[DiskName]) -> Result<Vec<Disk>, CallError> {
        cloud.describe_disks(names).await
    }
}

#[derive(Debug)]
pub(super) struct Vms;

#[async_trait]
impl Kind for Vms {
    type Name = VmName;
    type Item = Vm;

    const ACTION: &'static str = "DescribeInstances";
    const ABSENT: Rejection = Rejection::InstanceNotFound;

    fn name(item: &Vm) -> &VmName {
        &item.name
    }

    fn state(item: Option<&Vm>) -> String {
        item.map_or_else(
            || "the VM does not exist".to_owned(),
            |vm| format!("state {}", vm.state),
        )
    }

    async fn describe(cloud: &dyn Cloud, names: &[VmName]) -> Result<Vec<Vm>, CallError> {
        cloud.describe_vms(names).await
    }
}
