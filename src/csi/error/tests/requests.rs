//! What callers get wrong, and what the job table answers.

use Code::{Aborted, Internal, InvalidArgument, NotFound, OutOfRange, Unavailable};

use super::*;
use crate::domain::device::SlotSyntax;
use crate::domain::params::ParamError;

pub(super) fn inputs() -> Vec<Row> {
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

pub(super) fn jobs() -> Vec<Row> {
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
