//! Two controllers at once, at the moments that hurt.

use std::sync::Arc;
use std::time::Duration;

use additional_storage_csi::csi::controller::ControllerConfig;
use additional_storage_csi::domain::id::{DiskName, VmName};
use additional_storage_csi::emulator::{Config, DiskRecord, Effect, Latency};
use tonic::Code;

use crate::controller_harness::{
    DISK, NEW, PUBLISHED, Rig, code, disk_record, immediate, selected, settings,
};

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

/// Aborted when it sees in time that it came too late.
async fn late_growth(rig: &Rig) {
    if rig.expand(DISK, 200, 0).await.is_err() {
        rig.expand(DISK, 200, 0).await.unwrap();
    }
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
        tokio::join!(late_growth(&rig), publish);
        published(&rig, node);
        assert_eq!(rig.disk(DISK).unwrap().size, 200);
    }
}

#[tokio::test]
async fn a_growth_whose_journal_comes_even_after_the_end_of_that_attachment_does_not_take_the_disk()
{
    let (rig, _) = detached().await;
    let patient = ControllerConfig {
        flight: Duration::from_secs(5),
        ..settings()
    };
    let twin = Rig::over(Arc::clone(&rig.emulator), patient).await;
    rig.fault("ModifyVolumeAttribute", 0, Effect::HoldBefore);
    let publish = async {
        let journal = rig.control().wait_held().await;
        let late = async {
            let attached = |disk: DiskRecord| disk.attachment.is_some() && disk.change.is_none();
            while !rig.disk(DISK).is_some_and(attached) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // Time enough for an answer that does not wait for such an entry.
            tokio::time::sleep(Duration::from_secs(1)).await;
            rig.control().release(journal.id);
        };
        let (context, ()) = tokio::join!(twin.publish(DISK, "node2"), late);
        context.unwrap();
        published(&rig, "node2");
    };
    tokio::join!(late_growth(&rig), publish);
    published(&rig, "node2");
    assert_eq!(rig.disk(DISK).unwrap().size, 200);
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

/// At rest: nothing holds the disk, and it can be published anywhere.
async fn free(rig: &Rig) {
    assert_eq!(rig.holder(DISK), None, "{:?}", rig.changes());
    for node in ["node3", "node1"] {
        rig.publish(DISK, node).await.unwrap();
        assert_eq!(rig.holder(DISK).as_deref(), Some(node));
        assert_eq!(rig.disk(DISK).unwrap().description, PUBLISHED);
        rig.unpublish(DISK, node).await.unwrap();
    }
    rig.delete(DISK).await.unwrap();
}

/// As the resizer: again when the disk was changed by somebody else, or the machine is slow.
async fn grow(rig: &Rig, gib: i64) -> i64 {
    const AGAIN: [Code; 3] = [Code::Aborted, Code::DeadlineExceeded, Code::Unavailable];
    let mut tries = 0;
    loop {
        match rig.expand(DISK, gib, 0).await {
            Err(status) if tries < 10 && AGAIN.contains(&status.code()) => tries += 1,
            answer => return answer.unwrap(),
        }
    }
}

/// The next call that is parked, besides those that are known.
async fn parked(rig: &Rig, known: &[u64]) -> u64 {
    loop {
        let all = rig.control().held();
        if let Some(call) = all.iter().find(|call| !known.contains(&call.id)) {
            return call.id;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_late_end_of_one_growth_does_not_make_another_one_look_like_a_publication() {
    let (rig, twin) = detached().await;
    let journals = || {
        let changes = rig.changes().into_iter();
        changes
            .filter(|change| change.starts_with("ModifyVolumeAttribute"))
            .count()
    };
    // The second entry in the journal: the end of the lending.
    rig.fault("ModifyVolumeAttribute", 1, Effect::HoldBefore);
    let second = async {
        let end = parked(&rig, &[]).await;
        rig.fault("AttachVolume", 0, Effect::HoldBefore);
        let (size, ()) = tokio::join!(grow(&twin, 300), async {
            let lending = parked(&rig, &[end]).await;
            // One entry more than the second growth has made, which makes none if its anchor is the first one's.
            let before = journals();
            rig.control().release(end);
            while journals() == before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            rig.control().release(lending);
        });
        assert_eq!(size, 300);
    };
    let (first, ()) = tokio::join!(grow(&rig, 200), second);
    assert!(first >= 200);
    free(&rig).await;
}

#[tokio::test]
async fn a_lending_that_comes_about_by_an_attempt_that_was_given_up_ends_too() {
    let config = Config::default().vm("node1", "east-11");
    let rig = Rig::with(config).await;
    rig.create(immediate()).await.unwrap();
    rig.fault("AttachVolume", 0, Effect::HoldBefore);
    let (size, ()) = tokio::join!(grow(&rig, 200), async {
        let first = parked(&rig, &[]).await;
        rig.fault("AttachVolume", 0, Effect::HoldBefore);
        rig.control().drop_held(first);
        let second = parked(&rig, &[first]).await;
        // The first request, on a longer way.
        let (disk, vm) = (
            DiskName::parse(DISK).unwrap(),
            VmName::parse("node1").unwrap(),
        );
        rig.cloud.attach_disk(&disk, &vm).await.unwrap();
        rig.control().release(second);
    });
    assert_eq!(size, 200);
    assert_eq!(rig.holder(DISK), None, "{:?}", rig.changes());
    rig.delete(DISK).await.unwrap();
}

#[tokio::test]
async fn two_growths_that_write_the_journal_over_each_other_leave_the_disk_detached() {
    for earlier_first in [true, false] {
        let (rig, twin) = detached().await;
        for action in ["AttachVolume", "AttachVolume", "ModifyVolumeAttribute"] {
            rig.fault(action, 0, Effect::HoldBefore);
        }
        let order = async {
            // Both have read a detached disk before either has written.
            let late = parked(&rig, &[]).await;
            let (size, ()) = tokio::join!(grow(&twin, 200), async {
                let earlier = parked(&rig, &[late]).await;
                rig.control().release(late);
                let later = parked(&rig, &[late, earlier]).await;
                let mut order = [earlier, later];
                if !earlier_first {
                    order.reverse();
                }
                for id in order {
                    rig.control().release(id);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
            size
        };
        let (one, other) = tokio::join!(grow(&rig, 300), order);
        assert!(one == 300 && other >= 200, "{one} {other}");
        assert_eq!(rig.disk(DISK).unwrap().size, 300);
        free(&rig).await;
    }
}

#[tokio::test]
async fn a_publish_that_comes_too_late_does_not_make_a_growth_look_like_a_publication() {
    let rig = Rig::new().await;
    let twin = rig.twin().await;
    rig.create(immediate()).await.unwrap();
    rig.fault("ModifyVolumeAttribute", 0, Effect::HoldBefore);
    let growth = async {
        let journal = parked(&rig, &[]).await;
        rig.fault("AttachVolume", 0, Effect::HoldBefore);
        let (size, ()) = tokio::join!(grow(&twin, 200), async {
            let lending = parked(&rig, &[journal]).await;
            rig.control().release(journal);
            tokio::time::sleep(Duration::from_millis(20)).await;
            rig.control().release(lending);
        });
        assert_eq!(size, 200);
    };
    let (context, ()) = tokio::join!(rig.publish(DISK, "node2"), growth);
    if context.is_err() {
        assert_eq!(code(context), Code::Aborted);
        rig.publish(DISK, "node2").await.unwrap();
    }
    assert_eq!(rig.holder(DISK).as_deref(), Some("node2"));
    rig.unpublish(DISK, "node2").await.unwrap();
    free(&rig).await;
}

#[tokio::test]
async fn an_attachment_that_nobody_explains_ends_when_the_disk_is_wanted_elsewhere_or_not_at_all() {
    let lent_elsewhere = NEW.replace("new-", "grw-").replace('-', "");
    let lent_elsewhere = format!("grw-{}0000", &lent_elsewhere[3..]);
    let unlent = format!("pvc-{DISK}free");
    for text in [lent_elsewhere, unlent] {
        assert_eq!(text.len(), 40);
        let rig = Rig::new().await;
        let put = || {
            let record = disk_record(DISK, &text, Some("node1"));
            rig.control().put_disk(record).unwrap();
        };
        put();
        // Where it is wanted it stays.
        rig.publish(DISK, "node1").await.unwrap();
        published(&rig, "node1");
        rig.unpublish(DISK, "node1").await.unwrap();
        rig.delete(DISK).await.unwrap();
        put();
        rig.publish(DISK, "node2").await.unwrap();
        assert_eq!(rig.holder(DISK).as_deref(), Some("node2"));
        assert_eq!(rig.disk(DISK).unwrap().description, PUBLISHED);
        rig.unpublish(DISK, "node2").await.unwrap();
        rig.delete(DISK).await.unwrap();
        put();
        // Who grows it cannot know whose it is.
        assert_eq!(rig.expand(DISK, 200, 0).await.unwrap(), 200);
        assert_eq!(rig.holder(DISK).as_deref(), Some("node1"));
        rig.delete(DISK).await.unwrap();
        assert!(rig.disk(DISK).is_none());
    }
}
