//! Reads are shared, fresh, and never given up for one bad name.

use tokio::task::JoinSet;

use super::super::fake::{lost, refused};
use super::super::{FleetError, Operation};
use super::*;
use crate::cloud::{CallError, Rejection};

const READ: &str = "DescribeVolumes";

#[tokio::test(start_paused = true)]
async fn five_hundred_claims_on_fifty_vms_cost_a_fifth_of_a_read_each() {
    let config = FleetConfig {
        rate: 100.0,
        burst: 100,
        ..FleetConfig::default()
    };
    let (fake, fleet) = with(Fake::new(50, 10 * SECOND), config);
    let start = Instant::now();
    let mut claims = JoinSet::new();
    for i in 0..500 {
        let fleet = Arc::clone(&fleet);
        claims.spawn(async move {
            claim(&fleet, i, i % 50).await;
        });
    }
    claims.join_all().await;
    // Published together: every verb reads its disk and its slot.
    let mut publishes = JoinSet::new();
    for i in 0..500 {
        let fleet = Arc::clone(&fleet);
        publishes.spawn(async move {
            let (disk, vm) = (disk_name(i), vm_name(i % 50));
            let seen = fleet.disk(&disk).await.unwrap().unwrap();
            assert!(seen.is_attached_to(&vm));
            assert!(fleet.slot(&vm, &disk).await.unwrap().is_some());
        });
    }
    publishes.join_all().await;
    let reads = fake.count(READ) + fake.count("DescribeInstanceAttribute");
    assert_eq!(fake.count("CreateVolume"), 500);
    assert!(reads <= 100, "{reads} reads");
    let bound = 10 * (10 * SECOND + fake.call);
    assert!(
        start.elapsed() < bound.mul_f64(1.1),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_lone_claim_is_met_within_a_twentieth_of_the_clouds_time() {
    let (fake, fleet) = setting(1, 10 * SECOND);
    let mut worst = Duration::ZERO;
    for i in 0..12 {
        let took = claim(&fleet, i, 0).await;
        if i >= 4 {
            worst = worst.max(took);
        }
    }
    // One call of the fake takes 100 ms of it.
    assert!(worst <= Duration::from_millis(10_600), "{worst:?}");
    assert!(fake.count(READ) <= 90, "{}", fake.count(READ));
}

#[tokio::test(start_paused = true)]
async fn the_first_look_comes_when_the_operation_is_expected_to_be_over() {
    let (fake, fleet) = setting(1, 10 * SECOND);
    for i in 0..8 {
        claim(&fleet, i, 0).await;
    }
    let before = fake.count(READ);
    let start = Instant::now();
    claim(&fleet, 8, 0).await;
    let looks: Vec<_> = fake.calls(READ).split_off(before);
    assert!(looks.len() <= 4, "{looks:?}");
    assert!(looks[0].at - start > 8 * SECOND, "{looks:?}");
}

#[tokio::test(start_paused = true)]
async fn a_read_that_began_earlier_does_not_count() {
    let (fake, fleet) = setting(1, SECOND);
    fake.put(&disk_name(1), None);
    let early = tokio::spawn({
        let fleet = Arc::clone(&fleet);
        async move { fleet.disk(&disk_name(1)).await.unwrap().unwrap() }
    });
    // In the middle of the first read.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(fake.count(READ), 1);
    let late = fleet.disk(&disk_name(1)).await.unwrap().unwrap();
    assert_eq!(fake.count(READ), 2);
    assert_eq!(early.await.unwrap(), late);
}

async fn all_but_one(quotes: bool, expected: usize) {
    let mut fake = Fake::new(1, SECOND);
    fake.quotes = quotes;
    let (fake, fleet) = with(fake, FleetConfig::default());
    for i in 0..100 {
        fake.put(&disk_name(i), None);
    }
    let mut reads = JoinSet::new();
    for i in 0..101 {
        let fleet = Arc::clone(&fleet);
        reads.spawn(async move { (i, fleet.disk(&disk_name(i)).await.unwrap().is_some()) });
    }
    for (i, found) in reads.join_all().await {
        assert_eq!(found, i < 100, "{i}");
    }
    assert_eq!(fake.count(READ), expected);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_name_fails_nobody_else() {
    // Three refusals, each of a half of the one before; then reading everything is cheaper.
    all_but_one(false, 4).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_quotes_the_name_costs_two_more_calls() {
    all_but_one(true, 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_large_account_is_split_and_not_read_whole() {
    let (fake, fleet) = setting(1, SECOND);
    for i in 0..20_000 {
        fake.put(&disk_name(i), None);
    }
    fleet.disks().await.unwrap();
    let mut reads = JoinSet::new();
    for i in 19_990..20_001 {
        let fleet = Arc::clone(&fleet);
        reads.spawn(async move { fleet.disk(&disk_name(i)).await.unwrap().is_some() });
    }
    let found = reads.join_all().await.into_iter().filter(|found| *found);
    assert_eq!(found.count(), 10);
    let whole = fake
        .calls(READ)
        .iter()
        .filter(|call| call.names == 0)
        .count();
    assert_eq!(whole, 1);
}

#[tokio::test(start_paused = true)]
async fn a_name_known_to_be_absent_is_asked_apart() {
    let (fake, fleet) = setting(1, 5 * SECOND);
    fake.put(&disk_name(1), None);
    assert!(fleet.disk(&disk_name(2)).await.unwrap().is_none());
    let (one, two) = (disk_name(1), disk_name(2));
    let before = fake.count(READ);
    let (there, gone) = tokio::join!(fleet.disk(&one), fleet.disk(&two));
    assert!(there.unwrap().is_some() && gone.unwrap().is_none());
    assert_eq!(fake.count(READ) - before, 2);
}

#[tokio::test(start_paused = true)]
async fn deletes_do_not_disturb_the_other_waiters() {
    let (fake, fleet) = setting(20, 5 * SECOND);
    let mut tasks = JoinSet::new();
    for i in 0..20 {
        fake.put(&disk_name(100 + i), None);
        let fleet2 = Arc::clone(&fleet);
        tasks.spawn(async move {
            claim(&fleet2, i, i).await;
        });
        let fleet = Arc::clone(&fleet);
        tasks.spawn(async move {
            let name = disk_name(100 + i);
            fleet.delete(&name, soon()).await.unwrap();
            let gone = |disk: Option<&_>| disk.is_none();
            fleet
                .wait(&name, Operation::Delete, soon(), gone)
                .await
                .unwrap();
        });
    }
    tasks.join_all().await;
    assert!(fake.count(READ) <= 60, "{}", fake.count(READ));
}

#[tokio::test(start_paused = true)]
async fn read_errors_that_may_pass_are_waited_out() {
    let (fake, fleet) = setting(1, 2 * SECOND);
    let throttled = refused(READ, Rejection::Throttled, "slow down");
    fake.fail(READ, vec![lost(READ), throttled, lost(READ)]);
    claim(&fleet, 1, 0).await;
    fake.fail(READ, vec![lost(READ)]);
    assert!(fleet.disk(&disk_name(1)).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_read_that_fails_for_good_says_so() {
    let (fake, fleet) = setting(1, SECOND);
    fake.fail(READ, vec![refused(READ, Rejection::Auth, "bad key")]);
    let error = fleet.disk(&disk_name(1)).await.unwrap_err();
    assert!(matches!(
        error,
        FleetError::Call(CallError::Rejected {
            kind: Rejection::Auth,
            ..
        })
    ));
    // Forever lost: the patience ends.
    fake.fail(READ, vec![lost(READ); 1000]);
    let start = Instant::now();
    assert!(fleet.disk(&disk_name(1)).await.is_err());
    assert!(start.elapsed() < 20 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_obeyed_and_tells_the_last_state() {
    let (fake, fleet) = setting(1, 1000 * SECOND);
    fake.put(&disk_name(1), None);
    let turn = fleet.turn(&vm_name(0), soon()).await.unwrap();
    let (disk, vm) = (disk_name(1), vm_name(0));
    let pass = fleet.pay(&disk, soon()).await.unwrap();
    fleet.attach(&turn, pass, &disk, &vm).await.unwrap();
    let deadline = Instant::now() + 30 * SECOND;
    let error = fleet
        .wait(&disk, Operation::Attach, deadline, |disk| {
            disk.is_some_and(crate::domain::disk::Disk::is_attached)
        })
        .await
        .unwrap_err();
    assert_eq!(Instant::now(), deadline);
    let text = error.to_string();
    assert!(text.contains("Attach of disk disk00001"), "{text}");
    assert!(text.contains("attachment to vm000 Attaching"), "{text}");
    let last = fake.calls(READ).pop().unwrap();
    assert!(deadline - last.at <= SECOND, "{:?}", deadline - last.at);
}

#[tokio::test(start_paused = true)]
async fn the_loop_ends_with_the_fleet_and_nobody_is_polled_after_leaving() {
    let (fake, fleet) = setting(1, 1000 * SECOND);
    fake.put(&disk_name(1), None);
    let name = disk_name(1);
    let never = fleet.wait(&name, Operation::Attach, soon(), |_| false);
    assert!(tokio::time::timeout(5 * SECOND, never).await.is_err());
    let polls = fake.count(READ);
    tokio::time::sleep(100 * SECOND).await;
    assert_eq!(fake.count(READ), polls);
    drop(fleet);
    tokio::time::sleep(SECOND).await;
    assert_eq!(Arc::strong_count(&fake), 1);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_hangs_holds_up_nobody_else() {
    let mut fake = Fake::new(1, SECOND);
    fake.call = 60 * SECOND;
    let (fake, fleet) = with(fake, FleetConfig::default());
    fake.put(&disk_name(1), None);
    let mut reads = JoinSet::new();
    for i in 0..3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let fleet = Arc::clone(&fleet);
        reads.spawn(async move { fleet.disk(&disk_name(1)).await.unwrap().map(|_| i) });
    }
    let start = Instant::now();
    reads.join_all().await;
    assert!(start.elapsed() < 63 * SECOND, "{:?}", start.elapsed());
    assert_eq!(fake.count(READ), 2);
}

#[tokio::test(start_paused = true)]
async fn all_disks_are_read_once_for_everybody_and_again_after_an_own_write() {
    let (fake, fleet) = setting(1, SECOND);
    for i in 0..10 {
        fake.put(&disk_name(9 - i), None);
    }
    let mut lists = JoinSet::new();
    for _ in 0..50 {
        let fleet = Arc::clone(&fleet);
        lists.spawn(async move { fleet.disks().await.unwrap() });
    }
    let lists = lists.join_all().await;
    assert_eq!(fake.count(READ), 1);
    assert!(lists.iter().all(|list| Arc::ptr_eq(list, &lists[0])));
    assert!(lists[0].disks.is_sorted_by(|a, b| a.name < b.name));
    assert!(lists[0].find(&disk_name(3)).is_some());
    fleet
        .describe(paid(&fleet, 3).await, &disk_name(3), "pvc-x")
        .await
        .unwrap();
    let list = fleet.disks().await.unwrap();
    assert_eq!(list.find(&disk_name(3)).unwrap().description, "pvc-x");
    assert_eq!(fake.count(READ), 2);
    fleet
        .describe(paid(&fleet, 3).await, &disk_name(3), "pvc-y")
        .await
        .unwrap();
    fleet.disks_within(10 * SECOND).await.unwrap();
    assert!(
        fleet
            .hint(&disk_name(77), 9 * SECOND)
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(fake.count(READ), 2);
    tokio::time::sleep(11 * SECOND).await;
    fleet.disks().await.unwrap();
    assert_eq!(fake.count(READ), 3);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_was_being_read_during_an_own_write_is_not_served_after_it() {
    let (fake, fleet) = setting(1, SECOND);
    fake.put(&disk_name(1), None);
    let list = tokio::spawn({
        let fleet = Arc::clone(&fleet);
        async move { fleet.disks().await.unwrap() }
    });
    tokio::time::sleep(Duration::from_millis(10)).await;
    fleet
        .describe(paid(&fleet, 1).await, &disk_name(1), "after")
        .await
        .unwrap();
    list.await.unwrap();
    let list = fleet.disks().await.unwrap();
    assert_eq!(list.find(&disk_name(1)).unwrap().description, "after");
}

#[tokio::test(start_paused = true)]
async fn a_failed_list_is_not_kept() {
    let (fake, fleet) = setting(1, SECOND);
    fake.fail(READ, vec![refused(READ, Rejection::Auth, "no")]);
    assert!(fleet.disks().await.is_err());
    assert!(fleet.disks().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_slots_of_a_vm_are_read_by_one_call_at_a_time() {
    let (fake, fleet) = setting(2, SECOND);
    for i in 0..14 {
        fake.put(&disk_name(i), Some(&vm_name(0)));
    }
    let mut asks = JoinSet::new();
    for i in 0..14 {
        let fleet = Arc::clone(&fleet);
        asks.spawn(async move {
            // Half of them come while the first call is under way.
            tokio::time::sleep(Duration::from_millis(if i < 7 { 0 } else { 50 })).await;
            fleet
                .slot(&vm_name(0), &disk_name(i))
                .await
                .unwrap()
                .unwrap()
        });
    }
    let mut slots = asks.join_all().await;
    slots.sort();
    slots.dedup();
    assert_eq!(slots.len(), 14);
    assert_eq!(fake.count("DescribeInstanceAttribute"), 2);
    assert_eq!(fake.most_at_once("DescribeInstanceAttribute vm000"), 1);
    let none = fleet.slot(&vm_name(1), &disk_name(0)).await.unwrap();
    assert_eq!(none, None);
}

#[tokio::test(start_paused = true)]
async fn publishes_that_were_announced_share_one_read_of_the_slots() {
    let (fake, fleet) = setting(2, SECOND);
    let mut asks = JoinSet::new();
    for i in 0..10 {
        fake.put(&disk_name(i), Some(&vm_name(0)));
        let fleet = Arc::clone(&fleet);
        asks.spawn(async move {
            let _expected = fleet.expect_slot(&vm_name(0));
            let work = u32::try_from(i).unwrap() * Duration::from_millis(80);
            tokio::time::sleep(work).await;
            fleet
                .slot(&vm_name(0), &disk_name(i))
                .await
                .unwrap()
                .unwrap();
        });
    }
    asks.join_all().await;
    assert_eq!(fake.count("DescribeInstanceAttribute"), 1);
    // One that never comes holds the others up for a second at most.
    let _never = fleet.expect_slot(&vm_name(0));
    let start = Instant::now();
    fleet.slot(&vm_name(0), &disk_name(1)).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(1200));
    // Nobody was announced: at once.
    let start = Instant::now();
    fleet.slot(&vm_name(1), &disk_name(1)).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(120));
}
