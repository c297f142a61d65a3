//! Every error of every layer on its way to the caller: code, log level, words.

mod cloud;
mod node;
mod requests;

use super::*;
use crate::cloud::{CallError, Rejection};
use crate::domain::size::{DiskSize, SizeError};
use crate::fleet::FleetError;

/// A failure, its code and level, and words that its message must hold.
type Row = (Failure, Code, Level, &'static [&'static str]);

fn rows() -> Vec<Row> {
    [
        requests::inputs(),
        requests::jobs(),
        cloud::calls(),
        cloud::controller(),
        node::host(),
        node::node(),
    ]
    .concat()
}

#[test]
fn every_failure_has_its_code_its_level_and_says_what_to_do() {
    for (failure, code, level, words) in rows() {
        let message = chain(&failure);
        assert_eq!(verdict(&failure), Verdict { code, level }, "{failure:?}");
        for word in words {
            assert!(message.contains(word), "{word:?} is not in: {message}");
        }
        let status = Status::from(failure);
        assert_eq!((status.code(), status.message()), (code, message.as_str()));
    }
}

/// A new variant breaks this match, and must get a row above.
#[test]
fn no_variant_of_the_controllers_errors_is_forgotten() {
    use ControllerError as E;
    let mut seen = std::collections::BTreeSet::new();
    for (failure, ..) in rows() {
        let Failure::Controller(error) = failure else {
            continue;
        };
        seen.insert(match error {
            E::Fleet(_) => 0,
            E::MayExist { .. } => 1,
            E::NoDisk { .. } => 2,
            E::NoVm { .. } => 3,
            E::NotOurs { .. } => 4,
            E::Different { .. } => 5,
            E::Full { .. } => 6,
            E::Unfit { .. } => 7,
            E::NoAnchor { .. } => 8,
            E::NoZone => 9,
            E::Refused { .. } => 10,
            E::Failing { .. } => 11,
            E::AttachedElsewhere { .. } => 12,
            E::InUse { .. } => 13,
            E::OtherZone { .. } => 14,
            E::ForeignOffline { .. } => 15,
            E::Size(_) => 16,
            E::AboveLimit { .. } => 17,
            E::NoSlot { .. } => 18,
            E::Moved { .. } => 19,
            E::StillRunning { .. } => 20,
            E::BadToken { .. } => 21,
            E::Keys { .. } => 22,
        });
    }
    assert_eq!(seen.len(), 23, "{seen:?}");
}

/// Whether something may be left behind, or still be running, after the controller has answered with this.
fn may_be_left(error: &ControllerError) -> bool {
    use ControllerError as E;
    match error {
        E::Fleet(FleetError::Deadline { .. })
        | E::MayExist { .. }
        | E::Failing { .. }
        | E::NoSlot { .. }
        | E::Moved { .. }
        | E::StillRunning { .. }
        // Refused reads and writes alike: nothing was found out.
        | E::Keys { .. }
        // Not of a disk, but the same request is to be sent again.
        | E::BadToken { .. } => true,
        E::Fleet(FleetError::Call(call)) => !matches!(
            call.rejection(),
            Some(Rejection::VolumeNotFound | Rejection::InstanceNotFound | Rejection::Client)
        ),
        E::NoDisk { .. }
        | E::NoVm { .. }
        | E::NotOurs { .. }
        | E::Different { .. }
        | E::Full { .. }
        | E::Unfit { .. }
        | E::NoAnchor { .. }
        | E::NoZone
        | E::Refused { .. }
        | E::AttachedElsewhere { .. }
        | E::InUse { .. }
        | E::OtherZone { .. }
        | E::ForeignOffline { .. }
        | E::Size(_)
        | E::AboveLimit { .. } => false,
    }
}

/// external-provisioner, -attacher and -resizer take exactly these four codes as "may be running" and go on asking;
/// any other one is final to them. A node that is full is ResourceExhausted, upon which the provisioner asks the
/// scheduler for another one. A panic is the one exception: a defect, told as Internal, and found by the next try.
#[test]
fn the_sidecars_read_every_code_as_it_is_meant() {
    let running = [
        Code::Cancelled,
        Code::DeadlineExceeded,
        Code::Unavailable,
        Code::Aborted,
    ];
    for (failure, code, ..) in rows() {
        let left = match &failure {
            Failure::Invalid(_) | Failure::Job(JobError::Panicked { .. }) => false,
            Failure::Job(JobError::Busy { .. } | JobError::ShuttingDown) => true,
            Failure::Controller(error) => {
                assert_eq!(error.is_final(), !may_be_left(error), "{error}");
                may_be_left(error)
            }
            // The kubelet reads its codes in its own way: see the node's table.
            Failure::Node(_) => continue,
        };
        assert_eq!(running.contains(&code), left, "{code:?}: {failure}");
        let elsewhere = matches!(
            failure,
            Failure::Controller(
                ControllerError::Full { .. }
                    | ControllerError::Unfit { .. }
                    | ControllerError::NoAnchor { .. }
                    | ControllerError::NoZone
            )
        );
        assert_eq!(code == Code::ResourceExhausted, elsewhere, "{failure}");
    }
}

/// What may have been carried out is never told as final, and what the cloud proved absent is.
#[test]
fn an_unknown_outcome_is_never_final_and_not_found_is_proof() {
    for (failure, code, ..) in rows() {
        let Failure::Controller(error) = failure else {
            continue;
        };
        if let ControllerError::Fleet(FleetError::Call(call)) = &error {
            assert!(
                !(call.outcome_unknown() || call.is_transient()) || !error.is_final(),
                "{call}"
            );
        }
        if code == Code::NotFound {
            let proof = match &error {
                ControllerError::NoDisk { .. } | ControllerError::NoVm { .. } => true,
                ControllerError::Fleet(FleetError::Call(call)) => matches!(
                    call.rejection(),
                    Some(Rejection::VolumeNotFound | Rejection::InstanceNotFound)
                ),
                _ => false,
            };
            assert!(proof, "{error}");
        }
    }
}
