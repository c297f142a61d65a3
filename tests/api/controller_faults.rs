//! Growth, lost answers, and several callers at once: the driver on the emulator.

use additional_storage_csi::emulator::{Effect, Rule};
use tonic::Code;

use crate::controller_harness::*;
use crate::node_harness::refused;

#[tokio::test]
async fn a_published_disk_grows_in_place_and_never_past_what_is_wanted() {
    let rig = Rig::new().await;
    rig.create(selected("node1")).await.unwrap();
    rig.publish(DISK, "node1").await.unwrap();
    assert_eq!(rig.expand(DISK, 301, 0).await.unwrap(), 400);
    assert_eq!(rig.expand(DISK, 301, 0).await.unwrap(), 400);
    assert_eq!(rig.expand(DISK, 100, 0).await.unwrap(), 400);
    assert_eq!(rig.disk(DISK).unwrap().size, 400);
    let steps = rig
        .changes()
        .iter()
        .filter(|c| c.starts_with("Extend"))
        .count();
    assert_eq!(steps, 3);
    refused(
        rig.expand(DISK, 410, 450).await,
        Code::OutOfRange,
        &["500 GiB", "steps of 100"],
    );
    refused(
        rig.expand(DISK, 100, 300).await,
        Code::OutOfRange,
        &["cannot shrink"],
    );
    refused(
        rig.expand(DISK, 8001, 0).await,
        Code::OutOfRange,
        &["8000 GiB"],
    );
    refused(
        rig.expand("nosuchdisk", 200, 0).await,
        Code::NotFound,
        &["nosuchdisk"],
    );
    assert_eq!(rig.holder(DISK).as_deref(), Some("node1"));
}

#[tokio::test]
async fn a_detached_disk_grows_on_an_anchor_and_comes_back_detached() {
    let rig = Rig::new().await;
    rig.create(selected("node1")).await.unwrap();
    rig.publish(DISK, "node1").await.unwrap();
    rig.unpublish(DISK, "node1").await.unwrap();
    assert_eq!(rig.expand(DISK, 200, 200).await.unwrap(), 200);
    let disk = rig.disk(DISK).unwrap();
    assert_eq!((disk.size, disk.attachment), (200, None));
    assert_eq!(disk.description, format!("pvc-{DISK}free"));
    rig.publish(DISK, "node1").await.unwrap();
    assert_eq!(rig.disk(DISK).unwrap().description, PUBLISHED);
}

#[tokio::test]
async fn a_growth_that_was_cut_is_finished_or_taken_over_by_whoever_comes_next() {
    let grw = NEW.replace("new-", "grw-");
    for attached in [None, Some("node3")] {
        let rig = Rig::new().await;
        let put = || {
            rig.control()
                .put_disk(disk_record(DISK, &grw, attached))
                .unwrap();
        };
        put();
        assert_eq!(rig.expand(DISK, 200, 0).await.unwrap(), 200);
        assert_eq!(
            rig.disk(DISK).unwrap().description,
            format!("pvc-{DISK}free")
        );
        assert_eq!(rig.holder(DISK), None);
        rig.delete(DISK).await.unwrap();
        put();
        rig.unpublish(DISK, "node3").await.unwrap();
        rig.publish(DISK, "node3").await.unwrap();
        assert_eq!(rig.disk(DISK).unwrap().description, PUBLISHED);
        rig.unpublish(DISK, "node3").await.unwrap();
        rig.delete(DISK).await.unwrap();
        put();
        rig.delete(DISK).await.unwrap();
        assert!(rig.disk(DISK).is_none());
    }
}

#[tokio::test]
async fn whatever_reply_is_lost_the_call_finishes_and_does_nothing_twice() {
    let effects = [
        Effect::DropBefore,
        Effect::DropAfter,
        Effect::InternalErrorBefore,
        Effect::InternalErrorAfter,
        Effect::GatewayBefore { status: 502 },
        Effect::GatewayAfter { status: 502 },
        Effect::Throttle,
        Effect::Refuse {
            code: "Server.ResourceIncorrectState.Instance.Processing".to_owned(),
        },
    ];
    let lives = effects.into_iter().map(one_life_with);
    lives.collect::<tokio::task::JoinSet<()>>().join_all().await;
}

/// Each call of one disk's life suffers once.
async fn one_life_with(effect: Effect) {
    let rig = Rig::new().await;
    let fault = |action: &str| rig.fault(action, 0, effect.clone());
    fault("CreateVolume");
    fault("DetachVolume");
    rig.create(immediate()).await.unwrap();
    assert_eq!(rig.control().state().disks.len(), 1, "{effect:?}");
    assert_eq!(rig.holder(DISK), None, "{effect:?}");
    fault("ModifyVolumeAttribute");
    fault("AttachVolume");
    fault("DescribeInstanceAttribute");
    // The slot is read without a second try: the sidecar repeats the call.
    let first = rig.publish(DISK, "node1").await;
    if first.is_err() {
        assert_eq!(code(first), Code::Unavailable);
    }
    rig.publish(DISK, "node1").await.unwrap();
    assert_eq!(rig.disk(DISK).unwrap().description, PUBLISHED, "{effect:?}");
    fault("ExtendVolumeSize");
    assert_eq!(rig.expand(DISK, 300, 300).await.unwrap(), 300, "{effect:?}");
    fault("ModifyVolumeAttribute");
    rig.modify(DISK, "monthly").await.unwrap();
    fault("DetachVolume");
    rig.unpublish(DISK, "node1").await.unwrap();
    assert_eq!(rig.holder(DISK), None, "{effect:?}");
    fault("DeleteVolume");
    rig.delete(DISK).await.unwrap();
    assert!(rig.control().state().disks.is_empty(), "{effect:?}");
}

#[tokio::test]
async fn an_api_that_keeps_failing_never_makes_a_create_final() {
    let effects = [
        Effect::InternalErrorAfter,
        Effect::DropAfter,
        Effect::Refuse {
            code: "Client.AuthFailure".to_owned(),
        },
        Effect::Refuse {
            code: "Client.Odd".to_owned(),
        },
    ];
    let tries = effects.into_iter().map(create_that_cannot_read);
    tries.collect::<tokio::task::JoinSet<()>>().join_all().await;
}

/// The first create makes the disk and its reply is lost; then nothing can be read.
async fn create_that_cannot_read(effect: Effect) {
    let rig = Rig::new().await;
    rig.fault("CreateVolume", 0, Effect::DropAfter);
    rig.control().add_fault(Rule {
        action: Some("DescribeVolumes".to_owned()),
        mutating: false,
        disk: None,
        vm: None,
        skip: 0,
        count: None,
        probability: 1.0,
        effect: effect.clone(),
    });
    let limit = std::time::Duration::from_secs(20);
    let answer = tokio::time::timeout(limit, rig.create(selected("node1"))).await;
    let found = code(answer.unwrap());
    let temporary = [Code::Unavailable, Code::DeadlineExceeded, Code::Aborted];
    assert!(temporary.contains(&found), "{effect:?}: {found:?}");
    rig.control().clear_faults();
    rig.create(selected("node1")).await.unwrap();
}

#[tokio::test]
async fn a_refusal_by_the_cloud_is_final_and_carries_its_code() {
    let rig = Rig::new().await;
    rig.fault(
        "CreateVolume",
        0,
        Effect::Refuse {
            code: "Client.ResourceLimitExceeded.Volume".to_owned(),
        },
    );
    let answer = rig.create(selected("node1")).await;
    refused(
        answer,
        Code::FailedPrecondition,
        &["Client.ResourceLimitExceeded.Volume", "nothing was changed"],
    );
    assert!(rig.disk(DISK).is_none());
}

#[tokio::test]
async fn a_retry_joins_and_another_operation_is_aborted() {
    let mut config = cloud();
    config.latency.create = 400;
    let rig = Rig::with(config).await;
    let (one, two, other) = tokio::join!(
        rig.create(selected("node1")),
        rig.create(selected("node1")),
        async {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            rig.delete(DISK).await
        }
    );
    assert_eq!(one.unwrap(), two.unwrap());
    refused(other, Code::Aborted, &["CreateVolume is in progress"]);
    assert_eq!(rig.changes(), ["CreateVolume node1"]);
}

#[tokio::test]
async fn a_caller_that_gives_up_hears_that_the_work_goes_on() {
    let mut config = cloud();
    config.latency.create = 3000;
    let rig = Rig::with(config).await;
    let mut request = tonic::Request::new(selected("node1"));
    request.set_timeout(std::time::Duration::from_secs(1));
    let answer = rig.client.clone().create_volume(request).await;
    refused(answer, Code::DeadlineExceeded, &["still running"]);
    rig.create(selected("node1")).await.unwrap();
    assert_eq!(rig.changes(), ["CreateVolume node1"]);
    assert!(rig.jobs.is_empty());
}

#[tokio::test]
async fn two_controllers_make_one_disk_grow_it_once_and_never_take_it_from_its_pod() {
    for _ in 0..3 {
        let rig = Rig::new().await;
        let twin = rig.twin().await;
        let (a, b) = tokio::join!(rig.create(immediate()), twin.create(immediate()));
        assert_eq!(a.unwrap().volume_id, b.unwrap().volume_id);
        assert_eq!(rig.control().state().disks.len(), 1);
        let (published, _stale) =
            tokio::join!(rig.publish(DISK, "node1"), twin.create(immediate()));
        published.unwrap();
        assert_eq!(rig.holder(DISK).as_deref(), Some("node1"));
        let (a, b) = tokio::join!(rig.expand(DISK, 400, 0), twin.expand(DISK, 400, 0));
        assert_eq!((a.unwrap(), b.unwrap()), (400, 400));
        assert_eq!(rig.disk(DISK).unwrap().size, 400);
        let (a, b) = tokio::join!(rig.unpublish(DISK, "node1"), twin.unpublish(DISK, "node1"));
        assert!(a.is_ok() && b.is_ok());
        let (a, b) = tokio::join!(rig.delete(DISK), twin.delete(DISK));
        assert!(a.is_ok() && b.is_ok());
    }
}

#[tokio::test]
async fn billing_changes_once_and_only_billing() {
    let rig = Rig::new().await;
    let mut request = selected("node1");
    request.mutable_parameters = [("accountingType".into(), "monthly".into())].into();
    rig.create(request).await.unwrap();
    assert_eq!(rig.disk(DISK).unwrap().accounting, "1");
    rig.modify(DISK, "Hourly").await.unwrap();
    rig.modify(DISK, "hourly").await.unwrap();
    assert_eq!(rig.disk(DISK).unwrap().next_accounting, "2");
    assert_eq!(
        rig.changes(),
        ["CreateVolume node1", "ModifyVolumeAttribute"]
    );
    refused(
        rig.modify(DISK, "daily").await,
        Code::InvalidArgument,
        &["daily", "monthly or hourly"],
    );
    refused(
        rig.modify("nosuchdisk", "hourly").await,
        Code::NotFound,
        &["nosuchdisk"],
    );
}
