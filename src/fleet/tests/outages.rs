//! An API that cannot be used is waited out, and can be told of.

use super::super::Operation;
use super::super::fake::{lost, refused};
use super::*;
use crate::cloud::{CallError, Rejection};

const READ: &str = "DescribeVolumes";

#[tokio::test(start_paused = true)]
async fn a_wait_goes_on_through_an_outage_that_others_hear_of() {
    let (fake, fleet) = setting(1, 10 * SECOND);
    let busy = refused(READ, Rejection::Throttled, "slow down");
    fake.fail(READ, [vec![busy], vec![lost(READ); 8]].concat());
    let waiting = tokio::spawn({
        let fleet = Arc::clone(&fleet);
        async move { claim(&fleet, 0, 0).await }
    });
    assert!(fleet.trouble().is_none());
    while fake.count(READ) < 2 {
        tokio::time::sleep(SECOND / 10).await;
    }
    tokio::time::sleep(SECOND / 5).await;
    assert!(matches!(fleet.trouble(), Some(CallError::Unknown { .. })));
    waiting.await.unwrap();
    assert!(fleet.trouble().is_none());
}

#[tokio::test(start_paused = true)]
async fn an_answer_about_the_request_itself_is_no_outage() {
    let (fake, fleet) = setting(1, SECOND);
    fake.fail(READ, vec![lost(READ); 1000]);
    fleet.disk(&disk_name(0)).await.unwrap_err();
    assert!(matches!(fleet.trouble(), Some(CallError::Unknown { .. })));
    fake.fail(READ, Vec::new());
    let unknown = fleet
        .wait(&disk_name(0), Operation::Delete, soon(), |disk| {
            disk.is_none()
        })
        .await;
    assert_eq!(unknown.unwrap(), None);
    assert!(fleet.trouble().is_none());
}
