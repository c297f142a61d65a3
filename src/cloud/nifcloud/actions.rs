//! The requests: one constructor per action of the API that the driver needs (manual, one page per action).

use std::borrow::Cow;

use super::sign::Param;
use crate::domain::disk::{Accounting, NewDisk};
use crate::domain::id::{DiskName, VmName};

/// An action and its parameters, without authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// `Action`.
    pub(crate) action: &'static str,
    /// The other parameters.
    pub(crate) params: Vec<Param>,
}

impl Request {
    fn new(action: &'static str) -> Self {
        Self {
            action,
            params: Vec::new(),
        }
    }

    fn with(mut self, name: &'static str, value: &(impl ToString + ?Sized)) -> Self {
        self.params.push((Cow::Borrowed(name), value.to_string()));
        self
    }

    /// Flat lists count from 1: `VolumeId.1`, `VolumeId.2`.
    fn with_list<T: ToString>(mut self, name: &str, values: &[T]) -> Self {
        let numbered = values
            .iter()
            .enumerate()
            .map(|(i, value)| (Cow::Owned(format!("{name}.{}", i + 1)), value.to_string()));
        self.params.extend(numbered);
        self
    }
}

/// `DescribeVolumes`: no names, all disks; there is no paging.
pub(crate) fn describe_volumes(names: &[DiskName]) -> Request {
    Request::new("DescribeVolumes").with_list("VolumeId", names)
}

/// `DescribeInstances`: no names, all VMs; there is no paging.
pub(crate) fn describe_instances(names: &[VmName]) -> Request {
    Request::new("DescribeInstances").with_list("InstanceId", names)
}

/// `DescribeInstanceAttribute`: the only source of slots.
pub(crate) fn describe_slots(vm: &VmName) -> Request {
    Request::new("DescribeInstanceAttribute")
        .with("InstanceId", vm)
        .with("Attribute", "blockDeviceMapping")
}

/// `DescribeAvailabilityZones`.
pub(crate) fn describe_zones() -> Request {
    Request::new("DescribeAvailabilityZones")
}

/// `CreateVolume`. `Size` is in GB.
pub(crate) fn create_volume(disk: &NewDisk) -> Request {
    Request::new("CreateVolume")
        .with("VolumeId", &disk.name)
        .with("Size", &disk.size.gib())
        .with("DiskType", &disk.type_code)
        .with("AccountingType", disk.accounting.code())
        .with("InstanceId", &disk.anchor)
        .with("Description", &disk.description)
}

/// `DeleteVolume`.
pub(crate) fn delete_volume(disk: &DiskName) -> Request {
    Request::new("DeleteVolume").with("VolumeId", disk)
}

/// `AttachVolume`. `Device` exists, but must not be given.
pub(crate) fn attach_volume(disk: &DiskName, vm: &VmName) -> Request {
    Request::new("AttachVolume")
        .with("VolumeId", disk)
        .with("InstanceId", vm)
}

/// `DetachVolume`. `Agreement` consents to a running VM; `InstanceId` keeps the call from detaching the disk from a
/// VM that it moved to meanwhile.
pub(crate) fn detach_volume(disk: &DiskName, vm: &VmName) -> Request {
    Request::new("DetachVolume")
        .with("VolumeId", disk)
        .with("InstanceId", vm)
        .with("Agreement", "true")
}

/// `ExtendVolumeSize`: 100 GB more. `NiftyReboot` defaults to a restart of the VM, so it is always refused.
pub(crate) fn extend_volume(disk: &DiskName) -> Request {
    Request::new("ExtendVolumeSize")
        .with("VolumeId", disk)
        .with("NiftyReboot", "false")
}

/// `ModifyVolumeAttribute` with `description`.
pub(crate) fn set_description(disk: &DiskName, description: &str) -> Request {
    modify(disk, "description", description)
}

/// `ModifyVolumeAttribute` with `accountingType`.
pub(crate) fn set_accounting(disk: &DiskName, accounting: Accounting) -> Request {
    modify(disk, "accountingType", accounting.code())
}

fn modify(disk: &DiskName, attribute: &'static str, value: &str) -> Request {
    Request::new("ModifyVolumeAttribute")
        .with("VolumeId", disk)
        .with("Attribute", attribute)
        .with("Value", value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::size::DiskSize;

    fn shown(request: &Request) -> String {
        let params: Vec<String> = request
            .params
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        format!("{} {}", request.action, params.join(" "))
    }

    #[test]
    fn every_request_is_what_the_manual_asks_for() {
        let disk = DiskName::parse("d1").unwrap();
        let vm = VmName::parse("node01").unwrap();
        let new = NewDisk {
            name: disk.clone(),
            size: DiskSize::from_gib(300).unwrap(),
            type_code: "6".to_owned(),
            accounting: Accounting::Hourly,
            anchor: vm.clone(),
            description: "new-1".to_owned(),
        };
        for (request, expected) in [
            (describe_volumes(&[]), "DescribeVolumes "),
            (
                describe_volumes(&[disk.clone(), disk.clone()]),
                "DescribeVolumes VolumeId.1=d1 VolumeId.2=d1",
            ),
            (
                describe_instances(std::slice::from_ref(&vm)),
                "DescribeInstances InstanceId.1=node01",
            ),
            (
                describe_slots(&vm),
                "DescribeInstanceAttribute InstanceId=node01 Attribute=blockDeviceMapping",
            ),
            (describe_zones(), "DescribeAvailabilityZones "),
            (
                create_volume(&new),
                "CreateVolume VolumeId=d1 Size=300 DiskType=6 AccountingType=2 InstanceId=node01 \
                 Description=new-1",
            ),
            (delete_volume(&disk), "DeleteVolume VolumeId=d1"),
            (
                attach_volume(&disk, &vm),
                "AttachVolume VolumeId=d1 InstanceId=node01",
            ),
            (
                detach_volume(&disk, &vm),
                "DetachVolume VolumeId=d1 InstanceId=node01 Agreement=true",
            ),
            (
                extend_volume(&disk),
                "ExtendVolumeSize VolumeId=d1 NiftyReboot=false",
            ),
            (
                set_description(&disk, "pvc-1"),
                "ModifyVolumeAttribute VolumeId=d1 Attribute=description Value=pvc-1",
            ),
            (
                set_accounting(&disk, Accounting::Monthly),
                "ModifyVolumeAttribute VolumeId=d1 Attribute=accountingType Value=1",
            ),
        ] {
            assert_eq!(shown(&request), expected);
        }
    }
}
