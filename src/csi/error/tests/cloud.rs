//! What the cloud answers, and what the controller makes of it.

use Code::{
    Aborted, AlreadyExists, DeadlineExceeded, FailedPrecondition, NotFound, OutOfRange,
    ResourceExhausted, Unavailable,
};

use super::*;

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

pub(super) fn calls() -> Vec<Row> {
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

pub(super) fn controller() -> Vec<Row> {
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
                trouble: None,
            },
            DeadlineExceeded,
            Level::INFO,
            &["CreateVolume", "still running", "retry"],
        ),
        (
            E::StillRunning {
                operation: "CreateVolume",
                disk: disk(),
                trouble: Some(Box::new(CallError::NotSent {
                    action: "DescribeVolumes",
                    reason: "no route".to_owned(),
                })),
            },
            DeadlineExceeded,
            Level::WARN,
            &[
                "CreateVolume",
                "still running",
                "DescribeVolumes",
                "no route",
            ],
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
