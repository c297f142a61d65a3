//! Every error of every layer on its way to the caller: code, log level, words.

use Code::{
    Aborted, AlreadyExists, DeadlineExceeded, FailedPrecondition, Internal, InvalidArgument,
    NotFound, OutOfRange, ResourceExhausted, Unavailable,
};

use super::*;
use crate::cloud::{CallError, Rejection};
use crate::domain::device::SlotSyntax;
use crate::domain::params::ParamError;
use crate::domain::size::{DiskSize, SizeError};
use crate::fleet::FleetError;

/// A failure, its code and level, and words that its message must hold.
type Row = (Failure, Code, Level, &'static [&'static str]);

fn rejected(kind: Rejection) -> CallError {
    CallError::Rejected {
        action: "AttachVolume",
        kind,
        code: "Client.Some.Code".to_owned(),
        message: "said the API".to_owned(),
        retry_after: None,
    }
}

fn fleet(error: CallError) -> Failure {
    Failure::Controller(FleetError::Call(error).into())
}

fn inputs() -> Vec<Row> {
    let field = || "x".to_owned();
    let rows: Vec<(InputError, Code, &'static [&'static str])> = vec![
        (
            InputError::Missing { field: "name" },
            InvalidArgument,
            &["name is missing"],
        ),
        (
            InputError::Field {
                field: "f",
                value: field(),
                expected: "good".to_owned(),
            },
            InvalidArgument,
            &["expected good"],
        ),
        (
            NameError::Empty { what: "disk" }.into(),
            InvalidArgument,
            &["disk is empty"],
        ),
        (
            NameError::Impossible {
                what: "disk",
                name: field(),
                expected: "letters",
            }
            .into(),
            NotFound,
            &["expected letters"],
        ),
        (
            CapabilityError::Missing.into(),
            InvalidArgument,
            &["missing"],
        ),
        (
            CapabilityError::NoAccessType.into(),
            InvalidArgument,
            &["block or mount"],
        ),
        (
            CapabilityError::NoMode.into(),
            InvalidArgument,
            &["access mode"],
        ),
        (
            CapabilityError::MultiNode { mode: "M" }.into(),
            InvalidArgument,
            &["ReadWriteOnce"],
        ),
        (
            CapabilityError::FsType { name: field() }.into(),
            InvalidArgument,
            &["ext4"],
        ),
        (
            ParamError::UnknownKey {
                key: field(),
                known: "type".to_owned(),
            }
            .into(),
            InvalidArgument,
            &["known are type"],
        ),
        (
            ParamError::Twice { key: field() }.into(),
            InvalidArgument,
            &["twice"],
        ),
        (
            ParamError::Value {
                key: "type",
                value: field(),
                expected: "flash".to_owned(),
            }
            .into(),
            InvalidArgument,
            &["expected flash"],
        ),
        (
            SizeError::Negative {
                field: "f",
                value: -1,
            }
            .into(),
            OutOfRange,
            &["negative"],
        ),
        (
            SizeError::Contradiction {
                required: 2,
                limit: 1,
            }
            .into(),
            OutOfRange,
            &["above limit_bytes 1"],
        ),
        (
            SizeError::NoStep {
                required: 1,
                rounded: DiskSize::SMALLEST,
                limit: 2,
            }
            .into(),
            OutOfRange,
            &["steps of 100 GiB"],
        ),
        (
            SizeError::TooLarge {
                required: 1,
                max: DiskSize::SMALLEST,
            }
            .into(),
            OutOfRange,
            &["largest disk"],
        ),
        (
            InputError::Slot {
                key: "devicePath",
                source: SlotSyntax { text: field() },
            },
            InvalidArgument,
            &["devicePath", "SCSI (B:N)"],
        ),
    ];
    rows.into_iter()
        .map(|(error, code, words)| (error.into(), code, Level::INFO, words))
        .collect()
}

fn jobs() -> Vec<Row> {
    let key = || "disk1".to_owned();
    vec![
        (
            JobError::Busy {
                key: key(),
                running: "CreateVolume".to_owned(),
            }
            .into(),
            Aborted,
            Level::INFO,
            &["CreateVolume is in progress", "served after it"],
        ),
        (
            JobError::Panicked {
                key: key(),
                operation: "CreateVolume".to_owned(),
            }
            .into(),
            Internal,
            Level::ERROR,
            &["internal error", "log"],
        ),
        (
            JobError::ShuttingDown.into(),
            Unavailable,
            Level::INFO,
            &["retry"],
        ),
    ]
}

fn calls() -> Vec<Row> {
    use Rejection as R;
    let by = |kind, code, level| -> Row {
        (
            fleet(rejected(kind)),
            code,
            level,
            &["Client.Some.Code", "said the API"],
        )
    };
    vec![
        (
            fleet(CallError::NotSent {
                action: "AttachVolume",
                reason: "no route".to_owned(),
            }),
            Unavailable,
            Level::WARN,
            &["not sent", "no route"],
        ),
        (
            fleet(CallError::Unknown {
                action: "AttachVolume",
                reason: "timed out".to_owned(),
                throttled: false,
            }),
            Unavailable,
            Level::WARN,
            &["unknown", "timed out"],
        ),
        (
            Failure::Controller(
                FleetError::Deadline {
                    what: "Attach".to_owned(),
                    last: String::new(),
                }
                .into(),
            ),
            DeadlineExceeded,
            Level::WARN,
            &["may still be running", "retry"],
        ),
        by(R::VolumeNotFound, NotFound, Level::INFO),
        by(R::InstanceNotFound, NotFound, Level::INFO),
        by(R::AlreadyAttached, Aborted, Level::INFO),
        by(R::AlreadyDetached, Aborted, Level::INFO),
        by(R::DuplicateName, Aborted, Level::INFO),
        by(R::Processing, Unavailable, Level::WARN),
        by(R::Throttled, Unavailable, Level::WARN),
        by(R::Server, Unavailable, Level::WARN),
        by(R::Auth, Unavailable, Level::ERROR),
        by(R::Client, FailedPrecondition, Level::WARN),
    ]
}

fn controller() -> Vec<Row> {
    use ControllerError as E;
    let (disk, vm, zone) = (
        || "disk1".to_owned(),
        || "vm1".to_owned(),
        || "east-11".to_owned(),
    );
    let rows: Vec<(E, Code, Level, &'static [&'static str])> = vec![
        (
            E::MayExist {
                disk: disk(),
                reason: "no route".to_owned(),
            },
            Unavailable,
            Level::WARN,
            &["may exist", "no route", "retry"],
        ),
        (
            E::NoDisk { disk: disk() },
            NotFound,
            Level::INFO,
            &["disk1", "NIFCLOUD_REGION"],
        ),
        (
            E::NoVm { vm: vm() },
            NotFound,
            Level::INFO,
            &["vm1", "node is named"],
        ),
        (
            E::NotOurs {
                disk: disk(),
                description: "mine".to_owned(),
            },
            AlreadyExists,
            Level::WARN,
            &["mine", "left alone", "rename or delete"],
        ),
        (
            E::Different {
                disk: disk(),
                what: "size",
                found: "1".to_owned(),
                asked: "2".to_owned(),
            },
            AlreadyExists,
            Level::INFO,
            &["size 1", "asked for 2", "another name"],
        ),
        (
            E::Full { vm: vm(), held: 14 },
            ResourceExhausted,
            Level::WARN,
            &["vm1", "14", "detached"],
        ),
        (
            E::Unfit {
                vm: vm(),
                found: "it is gone".to_owned(),
            },
            ResourceExhausted,
            Level::WARN,
            &["vm1", "it is gone", "another node"],
        ),
        (
            E::NoAnchor {
                zones: "zone east-11".to_owned(),
            },
            ResourceExhausted,
            Level::WARN,
            &["zone east-11", "start a VM"],
        ),
        (
            E::NoZone,
            ResourceExhausted,
            Level::WARN,
            &["/zone", "allowedTopologies"],
        ),
        (
            E::Refused {
                disk: disk(),
                source: rejected(Rejection::Client),
            },
            FailedPrecondition,
            Level::WARN,
            &["Client.Some.Code", "correct the cause"],
        ),
        (
            E::Failing {
                disk: disk(),
                source: rejected(Rejection::Server),
            },
            Unavailable,
            Level::WARN,
            &["Client.Some.Code", "retry later"],
        ),
        (
            E::AttachedElsewhere {
                disk: disk(),
                holder: "vm2".to_owned(),
                wanted: vm(),
            },
            FailedPrecondition,
            Level::INFO,
            &["vm2", "vm1", "unpublished"],
        ),
        (
            E::InUse {
                disk: disk(),
                holder: vm(),
            },
            FailedPrecondition,
            Level::INFO,
            &["vm1", "unpublished before"],
        ),
        (
            E::OtherZone {
                disk: disk(),
                zone: zone(),
                vm: vm(),
                vm_zone: "east-12".to_owned(),
            },
            FailedPrecondition,
            Level::INFO,
            &["east-11", "east-12", "schedule the pod"],
        ),
        (
            E::ForeignOffline {
                disk: disk(),
                description: String::new(),
            },
            FailedPrecondition,
            Level::INFO,
            &["made by hand", "start the pod"],
        ),
        (
            E::Size(SizeError::TooLarge {
                required: 1,
                max: DiskSize::SMALLEST,
            }),
            OutOfRange,
            Level::INFO,
            &["largest disk"],
        ),
        (
            E::AboveLimit {
                disk: disk(),
                size: DiskSize::SMALLEST,
                limit: 1,
            },
            OutOfRange,
            Level::INFO,
            &["100 GiB", "cannot shrink"],
        ),
        (
            E::NoSlot {
                disk: disk(),
                vm: vm(),
            },
            Unavailable,
            Level::WARN,
            &["blockDeviceMapping", "retry"],
        ),
        (
            E::Moved {
                disk: disk(),
                what: "gone".to_owned(),
            },
            Aborted,
            Level::INFO,
            &["somebody else", "gone", "retry"],
        ),
        (
            E::StillRunning {
                operation: "CreateVolume",
                disk: disk(),
            },
            DeadlineExceeded,
            Level::INFO,
            &["CreateVolume", "still running", "retry"],
        ),
        (
            E::BadToken {
                token: "t".to_owned(),
            },
            Aborted,
            Level::INFO,
            &["\"t\"", "from the start"],
        ),
    ];
    rows.into_iter()
        .map(|(error, code, level, words)| (error.into(), code, level, words))
        .collect()
}

fn rows() -> Vec<Row> {
    [inputs(), jobs(), calls(), controller()].concat()
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
        });
    }
    assert_eq!(seen.len(), 22, "{seen:?}");
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
        if code == NotFound {
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
