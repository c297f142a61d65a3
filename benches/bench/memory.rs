//! Resident memory: idle, and with many volumes seen.

use std::path::Path;
use std::time::Duration;

use additional_storage_csi::emulator::{AttachmentRecord, Config, DiskRecord, Emulator};
use additional_storage_csi::proto::csi::v1::controller_client::ControllerClient;
use additional_storage_csi::proto::csi::v1::identity_client::IdentityClient;
use additional_storage_csi::proto::csi::v1::{
    ControllerGetVolumeRequest, ListVolumesRequest, ProbeRequest,
};

use super::process::{Driver, controller_arguments, node_arguments};
use super::rows::{Row, each};

const VOLUMES: u32 = 1000;
const VMS: u32 = 100;
const SETTLE: Duration = Duration::from_millis(500);

pub(crate) async fn rows(binary: &Path) -> Vec<Row> {
    let dir = tempfile::tempdir().unwrap();
    let (node, _) = Driver::start(
        binary,
        dir.path(),
        &node_arguments(dir.path(), "vm0", "east-11"),
    );
    let node_idle = idle(&node).await;
    let mut config = Config::default();
    for vm in 0..VMS {
        config = config.vm(&format!("vm{vm}"), "east-11");
    }
    let emulator = Emulator::start(config).await.unwrap();
    let (controller, _) = Driver::start(
        binary,
        dir.path(),
        &controller_arguments(&emulator.endpoint()),
    );
    let controller_idle = idle(&controller).await;
    for number in 0..VOLUMES {
        emulator.control().put_disk(disk(number)).unwrap();
    }
    let client = ControllerClient::new(controller.channel().await);
    each(16, 20, |caller, round| {
        let mut client = client.clone();
        async move {
            let mut token = String::new();
            // Callers take turns in listing everything and in reading one volume each.
            if round % 4 == 0 {
                loop {
                    let request = ListVolumesRequest {
                        max_entries: 100,
                        starting_token: token,
                    };
                    token = client
                        .list_volumes(request)
                        .await
                        .unwrap()
                        .into_inner()
                        .next_token;
                    if token.is_empty() {
                        break;
                    }
                }
            }
            let number = u32::try_from(caller * 20 + round).unwrap();
            let request = ControllerGetVolumeRequest {
                volume_id: disk(number).name,
            };
            client.controller_get_volume(request).await.unwrap();
        }
    })
    .await;
    tokio::time::sleep(SETTLE).await;
    let loaded = controller.rss_mib();
    emulator.shutdown().await;
    vec![
        Row::new("node_rss_idle_mib", node_idle, "MiB", 8.0),
        Row::new("controller_rss_idle_mib", controller_idle, "MiB", 20.0),
        Row::new("controller_rss_1000_volumes_mib", loaded, "MiB", 20.0),
    ]
}

async fn idle(driver: &Driver) -> f64 {
    let mut client = IdentityClient::new(driver.channel().await);
    client.probe(ProbeRequest {}).await.unwrap();
    tokio::time::sleep(SETTLE).await;
    driver.rss_mib()
}

fn disk(number: u32) -> DiskRecord {
    let name = format!("{number:032x}");
    DiskRecord {
        description: format!("pvc-{number:08x}-0000-4000-8000-{number:012x}"),
        name,
        unique_id: String::new(),
        size: 100,
        disk_type: "Standard Flash Storage A".to_owned(),
        zone: "east-11".to_owned(),
        accounting: "2".to_owned(),
        next_accounting: "2".to_owned(),
        created: "2026-11-01T09:00:00.000+09:00".to_owned(),
        attachment: Some(AttachmentRecord {
            vm: format!("vm{}", number % VMS),
            target: 1,
            since: String::new(),
        }),
        change: None,
    }
}
