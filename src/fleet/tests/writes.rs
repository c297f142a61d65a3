//! Writes are queued, paced, and repeated only when that is certainly safe.

use tokio::task::JoinSet;

use super::super::FleetError;
use super::super::fake::{lost, refused};
use super::*;
use crate::cloud::{CallError, Rejection};

fn not_sent(action: &'static str) -> CallError {
    CallError::NotSent {
        action,
        reason: "no route".to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_not_carried_out_is_repeated() {
    let (fake, fleet) = setting(1, SECOND);
    fake.put(&disk_name(1), None);
    let action = "DeleteVolume";
    fake.fail(
        action,
        vec![
            not_sent(action),
            refused(action, Rejection::Processing, "busy"),
            refused(action, Rejection::Throttled, "slow down"),
        ],
    );
    fleet.delete(&disk_name(1), soon()).await.unwrap();
    assert_eq!(fake.count(action), 4);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_cannot_be_sent_is_told_while_its_caller_still_listens() {
    let (fake, fleet) = setting(1, SECOND);
    let (action, start) = ("CreateVolume", Instant::now());
    fake.fail(action, vec![not_sent(action); 1000]);
    let hour = start + 3600 * SECOND;
    let turn = fleet.turn(&vm_name(0), hour).await.unwrap();
    let disk = new_disk(&disk_name(1), &vm_name(0));
    let error = fleet.create(&turn, &disk, hour).await.unwrap_err();
    assert!(error.to_string().contains("no route"), "{error}");
    // Timers end on whole milliseconds, rounded up.
    let end = FleetConfig::default().read_patience + fake.call + Duration::from_millis(1);
    assert!(start.elapsed() <= end, "{:?}", start.elapsed());
    assert!(fake.count(action) > 3);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_and_a_refusal_are_sent_once() {
    let (fake, fleet) = setting(1, SECOND);
    let action = "DeleteVolume";
    let refusals = [Rejection::Client, Rejection::Server, Rejection::Auth];
    let mut errors = vec![lost(action)];
    errors.extend(refusals.map(|kind| refused(action, kind, "no")));
    fake.fail(action, errors);
    for sent in 1..=4 {
        let error = fleet.delete(&disk_name(1), soon()).await.unwrap_err();
        assert!(matches!(error, FleetError::Call(_)));
        assert_eq!(fake.count(action), sent);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_a_read_justified_is_sent_once_whatever_comes_back() {
    let (fake, fleet) = setting(1, SECOND);
    let (disk, vm) = (disk_name(1), vm_name(0));
    let turn = fleet.turn(&vm, soon()).await.unwrap();
    let actions = [
        "AttachVolume",
        "DetachVolume",
        "ExtendVolumeSize",
        "ModifyVolumeAttribute",
    ];
    for kind in [Rejection::Processing, Rejection::Throttled] {
        for action in actions {
            fake.fail(action, vec![refused(action, kind, "later")]);
        }
        let pay = || paid(&fleet, 1);
        let attached = fleet.attach(&turn, pay().await, &disk, &vm).await;
        let detached = fleet.detach(&turn, pay().await, &disk, &vm).await;
        let extended = fleet.extend(&turn, pay().await, &disk).await;
        let described = fleet.describe(pay().await, &disk, "pvc-x").await;
        assert!(
            [attached, detached, extended, described]
                .iter()
                .all(Result::is_err)
        );
    }
    assert_eq!(actions.map(|action| fake.count(action)), [2; 4]);
}

#[tokio::test(start_paused = true)]
async fn a_busy_vm_is_waited_for_until_the_deadline_and_no_longer() {
    let (fake, fleet) = setting(1, SECOND);
    let action = "CreateVolume";
    fake.fail(
        action,
        vec![refused(action, Rejection::Processing, "busy"); 1000],
    );
    let deadline = Instant::now() + 20 * SECOND;
    let turn = fleet.turn(&vm_name(0), deadline).await.unwrap();
    let error = fleet
        .create(&turn, &new_disk(&disk_name(1), &vm_name(0)), deadline)
        .await
        .unwrap_err();
    // A call that was sent in time is not cut off; and timers end on whole milliseconds, rounded up.
    let tick = Duration::from_millis(1);
    assert!(Instant::now() <= deadline + fake.call + tick);
    assert!(error.to_string().contains("busy"), "{error}");
    let calls = fake.count(action);
    assert!((5..=30).contains(&calls), "{calls}");
}

#[tokio::test(start_paused = true)]
async fn no_call_is_sent_after_the_deadline() {
    let (fake, fleet) = setting(1, SECOND);
    let past = Instant::now();
    tokio::time::sleep(SECOND).await;
    let error = fleet.delete(&disk_name(1), past).await.unwrap_err();
    assert!(matches!(error, FleetError::Deadline { .. }));
    assert_eq!(fake.count("DeleteVolume"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_vm_serves_one_operation_at_a_time_in_order_and_vms_do_not_wait_for_each_other() {
    let (fake, fleet) = setting(3, 5 * SECOND);
    let start = Instant::now();
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    for i in 0..9 {
        let (fleet, order) = (Arc::clone(&fleet), Arc::clone(&order));
        tasks.spawn(async move {
            claim(&fleet, i, i % 3).await;
            order.lock().unwrap().push(i);
        });
        tokio::task::yield_now().await;
    }
    tasks.join_all().await;
    // `Processing` would have been answered to a second operation on the same VM.
    assert_eq!(fake.count("CreateVolume"), 9);
    let order = order.lock().unwrap();
    for vm in 0..3 {
        let on_vm: Vec<_> = order.iter().filter(|i| **i % 3 == vm).collect();
        assert!(on_vm.is_sorted(), "{order:?}");
    }
    assert!(start.elapsed() < 20 * SECOND, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_turn_ends_when_it_is_dropped_and_a_waiter_that_leaves_frees_its_place() {
    let (_, fleet) = setting(1, SECOND);
    let vm = vm_name(0);
    let held = fleet.turn(&vm, soon()).await.unwrap();
    assert_eq!(held.vm(), &vm);
    let deadline = Instant::now() + 3 * SECOND;
    let late = fleet.turn(&vm, deadline).await;
    assert!(matches!(late, Err(FleetError::Deadline { .. })));
    assert_eq!(Instant::now(), deadline);
    let left = tokio::time::timeout(SECOND, fleet.turn(&vm, soon())).await;
    assert!(left.is_err());
    drop(held);
    let next = fleet.turn(&vm, soon()).await.unwrap();
    assert_eq!(Instant::now(), deadline + SECOND);
    drop(next);
    assert_eq!(fleet.queues.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn deletes_do_not_starve_creates() {
    let config = FleetConfig {
        rate: 10.0,
        burst: 1,
        ..FleetConfig::default()
    };
    let (fake, fleet) = with(Fake::new(10, SECOND), config);
    let mut tasks = JoinSet::new();
    for i in 0..300 {
        fake.put(&disk_name(100 + i), None);
        let fleet = Arc::clone(&fleet);
        tasks.spawn(async move {
            fleet.delete(&disk_name(100 + i), soon()).await.unwrap();
        });
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let start = Instant::now();
    for i in 0..10 {
        let fleet = Arc::clone(&fleet);
        tasks.spawn(async move {
            let vm = vm_name(i);
            let turn = fleet.turn(&vm, soon()).await.unwrap();
            let disk = new_disk(&disk_name(i), &vm);
            fleet.create(&turn, &disk, soon()).await.unwrap();
        });
    }
    while fake.count("CreateVolume") < 10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Alone they would take 1 s; behind 300 deletes 30 s.
    assert!(start.elapsed() < 3 * SECOND, "{:?}", start.elapsed());
    tasks.join_all().await;
}

#[tokio::test(start_paused = true)]
async fn own_writes_are_in_the_list_of_vms_without_another_read() {
    let (fake, fleet) = setting(2, SECOND);
    assert!(fleet.vms().await.unwrap()[0].disks.is_empty());
    claim(&fleet, 1, 0).await;
    assert_eq!(fleet.vms().await.unwrap()[0].disks, [disk_name(1)]);
    let turn = fleet.turn(&vm_name(0), soon()).await.unwrap();
    let (disk, vm) = (disk_name(1), vm_name(0));
    let paid = paid(&fleet, 1).await;
    fleet.detach(&turn, paid, &disk, &vm).await.unwrap();
    let done = |disk: Option<&crate::domain::disk::Disk>| {
        disk.is_some_and(crate::domain::disk::Disk::is_detached)
    };
    let operation = super::super::Operation::Detach;
    fleet.wait(&disk, operation, soon(), done).await.unwrap();
    assert!(fleet.vms().await.unwrap()[0].disks.is_empty());
    assert_eq!(fake.count("DescribeInstances"), 1);
    fake.fail("AttachVolume", vec![lost("AttachVolume")]);
    let paid = self::paid(&fleet, 1).await;
    assert!(fleet.attach(&turn, paid, &disk, &vm).await.is_err());
    fleet.vms().await.unwrap();
    assert_eq!(fake.count("DescribeInstances"), 2);
}

#[tokio::test(start_paused = true)]
async fn vms_asked_for_together_are_read_together_and_an_unknown_one_is_proven_absent() {
    let (fake, fleet) = setting(5, SECOND);
    let mut asks = JoinSet::new();
    for i in 0..6 {
        let fleet = Arc::clone(&fleet);
        asks.spawn(async move { fleet.vm(&vm_name(i)).await.unwrap().is_some() });
    }
    let found = asks.join_all().await.into_iter().filter(|found| *found);
    assert_eq!(found.count(), 5);
    let calls = fake.count("DescribeInstances");
    assert!(calls <= 5, "{calls}");
}

#[tokio::test(start_paused = true)]
async fn a_promised_slot_is_not_free_and_counts_once_with_its_disk() {
    let (fake, fleet) = setting(1, SECOND);
    for i in 0..12 {
        fake.put(&disk_name(i), Some(&vm_name(0)));
    }
    let vm = fleet.vm(&vm_name(0)).await.unwrap().unwrap();
    assert_eq!(fleet.free_slots(&vm), 2);
    let first = fleet.reserve(&vm, &disk_name(20)).unwrap();
    let again = fleet.reserve(&vm, &disk_name(20)).unwrap();
    assert_eq!(first.vm(), &vm.name);
    assert_eq!(fleet.free_slots(&vm), 1);
    let second = fleet.reserve(&vm, &disk_name(21)).unwrap();
    assert!(fleet.reserve(&vm, &disk_name(22)).is_none());
    assert!(fleet.reserve(&vm, &disk_name(3)).is_some());
    drop(first);
    assert_eq!(fleet.free_slots(&vm), 0);
    fake.put(&disk_name(20), Some(&vm.name));
    let vm = fleet.vm(&vm.name).await.unwrap().unwrap();
    assert_eq!(fleet.free_slots(&vm), 0);
    drop((again, second));
    assert_eq!(fleet.free_slots(&vm), 1);
}

#[tokio::test(start_paused = true)]
async fn a_write_paid_ahead_follows_its_read_at_once() {
    let config = FleetConfig {
        rate: 1.0,
        burst: 1,
        ..FleetConfig::default()
    };
    let (fake, fleet) = with(Fake::new(1, SECOND), config);
    fake.put(&disk_name(1), None);
    let unused = fleet.pay(&disk_name(2), soon()).await.unwrap();
    let paid = fleet.pay(&disk_name(1), soon()).await.unwrap();
    let start = Instant::now();
    let disk = disk_name(1);
    fleet.describe(paid, &disk, "x").await.unwrap();
    assert_eq!(start.elapsed(), fake.call);
    // Spent: nothing comes back; unused: it does.
    let broke = fleet.pay(&disk, start + SECOND / 2).await;
    assert!(matches!(broke, Err(FleetError::Deadline { .. })));
    drop(unused);
    self::paid(&fleet, 1).await;
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_read_that_saw_a_disk_made_serves_once_and_for_two_seconds_and_until_the_next_write() {
    let (_, fleet) = setting(1, SECOND);
    let just_made = |disk| fleet.just_made(&disk_name(disk));
    claim(&fleet, 0, 0).await;
    tokio::time::sleep(2 * SECOND - SECOND / 100).await;
    assert!(just_made(0).unwrap().is_attached_to(&vm_name(0)));
    assert_eq!(just_made(0), None, "once");
    claim(&fleet, 1, 0).await;
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(just_made(1), None, "too old");
    claim(&fleet, 2, 0).await;
    let pass = paid(&fleet, 2).await;
    fleet.describe(pass, &disk_name(2), "pvc-").await.unwrap();
    assert_eq!(just_made(2), None, "changed by this process");
    claim(&fleet, 3, 0).await;
    assert!(just_made(3).is_some());
}
