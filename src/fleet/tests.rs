//! Promises of the fleet, on a cloud in memory and virtual time.

mod outages;
mod reads;
mod writes;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::fake::{Fake, disk_name, vm_name};
use super::{Fleet, FleetConfig, Paid, Silent};
use crate::domain::disk::{Accounting, NewDisk};
use crate::domain::id::{DiskName, VmName};
use crate::domain::size::DiskSize;

const SECOND: Duration = Duration::from_secs(1);

fn setting(vms: usize, operation: Duration) -> (Arc<Fake>, Arc<Fleet>) {
    with(Fake::new(vms, operation), FleetConfig::default())
}

fn with(fake: Fake, config: FleetConfig) -> (Arc<Fake>, Arc<Fleet>) {
    let fake = Arc::new(fake);
    let cloud = Arc::<Fake>::clone(&fake);
    let fleet = Fleet::with(cloud, config, Arc::new(Silent)).unwrap();
    (fake, Arc::new(fleet))
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(600)
}

async fn paid(fleet: &Fleet, disk: usize) -> Paid {
    fleet.pay(&disk_name(disk), soon()).await.unwrap()
}

fn new_disk(name: &DiskName, anchor: &VmName) -> NewDisk {
    NewDisk {
        name: name.clone(),
        size: DiskSize::SMALLEST,
        type_code: "2".to_owned(),
        accounting: Accounting::Hourly,
        anchor: anchor.clone(),
        description: "new-".to_owned(),
    }
}

/// Creates a disk on a VM as the verbs do; returns the time after the cloud had finished it.
async fn claim(fleet: &Fleet, disk: usize, vm: usize) -> Duration {
    let (name, vm) = (disk_name(disk), vm_name(vm));
    let turn = fleet.turn(&vm, soon()).await.unwrap();
    fleet
        .create(&turn, &new_disk(&name, &vm), soon())
        .await
        .unwrap();
    let accepted = Instant::now();
    let on = vm.clone();
    fleet
        .wait(&name, super::Operation::Create, soon(), move |disk| {
            disk.is_some_and(|disk| disk.is_attached_to(&on))
        })
        .await
        .unwrap();
    accepted.elapsed()
}
