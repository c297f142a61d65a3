//! Two controllers at once, at the moments that hurt.

use std::time::Duration;

use additional_storage_csi::emulator::{Effect, Latency};

use crate::controller_harness::{DISK, PUBLISHED, Rig, selected};

const NODES: [&str; 3] = ["node1", "node2", "node3"];

/// A disk that was published once and is detached.
async fn detached() -> (Rig, Rig) {
    let rig = Rig::new().await;
    let twin = rig.twin().await;
    rig.create(selected("node1")).await.unwrap();
    rig.publish(DISK, "node1").await.unwrap();
    rig.unpublish(DISK, "node1").await.unwrap();
    rig.control().clear_history();
    (rig, twin)
}

/// Attached to `node`, journal `pvc-`, and never detached.
fn published(rig: &Rig, node: &str) {
    assert_eq!(rig.holder(DISK).as_deref(), Some(node));
    let changes = rig.changes();
    assert_eq!(
        rig.disk(DISK).unwrap().description,
        PUBLISHED,
        "{changes:?}"
    );
    assert!(
        !changes
            .iter()
            .any(|change| change.starts_with("DetachVolume")),
        "{changes:?}"
    );
}

#[tokio::test]
async fn a_publish_between_the_journal_and_the_attachment_of_a_growth_keeps_its_disk() {
    // One of them is the anchor that the growth has chosen.
    for node in NODES {
        let (rig, twin) = detached().await;
        rig.fault("AttachVolume", 0, Effect::HoldBefore);
        let (size, ()) = tokio::join!(rig.expand(DISK, 200, 0), async {
            let growth = rig.control().wait_held().await;
            twin.publish(DISK, node).await.unwrap();
            rig.control().release(growth.id);
        });
        assert_eq!(size.unwrap(), 200);
        published(&rig, node);
        twin.unpublish(DISK, node).await.unwrap();
        assert_eq!(rig.holder(DISK), None);
    }
}

#[tokio::test]
async fn a_growth_whose_journal_comes_after_the_attachment_of_a_publish_does_not_take_the_disk() {
    for node in NODES {
        let (rig, twin) = detached().await;
        rig.control().set_latency(Latency {
            attach: 500,
            ..Latency::FAST
        });
        rig.fault("ModifyVolumeAttribute", 0, Effect::HoldBefore);
        let growth = async {
            // Aborted when it sees in time that it came too late.
            if rig.expand(DISK, 200, 0).await.is_err() {
                rig.expand(DISK, 200, 0).await.unwrap();
            }
        };
        let publish = async {
            let journal = rig.control().wait_held().await;
            let late = async {
                while !rig.changes().contains(&format!("AttachVolume {node}")) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                rig.control().release(journal.id);
            };
            let (context, ()) = tokio::join!(twin.publish(DISK, node), late);
            context.unwrap();
            published(&rig, node);
        };
        tokio::join!(growth, publish);
        published(&rig, node);
        assert_eq!(rig.disk(DISK).unwrap().size, 200);
    }
}

#[tokio::test]
async fn a_growth_whose_journal_is_repeated_looks_first_whether_the_disk_was_published() {
    let (rig, twin) = detached().await;
    rig.fault("ModifyVolumeAttribute", 0, Effect::HoldBefore);
    let (grown, ()) = tokio::join!(rig.expand(DISK, 200, 0), async {
        let journal = rig.control().wait_held().await;
        twin.publish(DISK, "node2").await.unwrap();
        rig.control().drop_held(journal.id);
    });
    grown.unwrap_err();
    published(&rig, "node2");
    assert_eq!(rig.changes(), ["AttachVolume node2"]);
}

#[tokio::test]
async fn a_publish_that_was_carried_out_is_not_failed_for_what_becomes_of_the_vm() {
    let (rig, _twin) = detached().await;
    rig.fault("AttachVolume", 0, Effect::InternalErrorAfter);
    let (context, ()) = tokio::join!(rig.publish(DISK, "node2"), async {
        while rig.changes().is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        rig.control().set_vm_state("node2", "suspending").unwrap();
    });
    context.unwrap();
    published(&rig, "node2");
}

#[tokio::test]
async fn a_publish_whose_caller_has_gone_attaches_nothing_any_more() {
    let (rig, twin) = detached().await;
    let mut client = rig.client.clone();
    rig.fault("DescribeVolumes", 1, Effect::HoldAfter);
    let request = crate::controller_harness::publish_request(DISK, "node2");
    let abandoned = tokio::spawn(async move { client.controller_publish_volume(request).await });
    let read = rig.control().wait_held().await;
    abandoned.abort();
    assert!(abandoned.await.unwrap_err().is_cancelled());
    // The driver hears of it when the stream is reset.
    tokio::time::sleep(Duration::from_millis(100)).await;
    twin.unpublish(DISK, "node2").await.unwrap();
    rig.control().release(read.id);
    rig.jobs.drain().await;
    assert_eq!(rig.changes(), Vec::<String>::new());
}
