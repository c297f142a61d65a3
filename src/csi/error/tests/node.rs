//! What a machine answers, and what the node makes of it.

use std::path::PathBuf;

use Code::{
    AlreadyExists, DeadlineExceeded, FailedPrecondition, Internal, InvalidArgument, NotFound,
    OutOfRange, Unavailable,
};

use super::*;
use crate::csi::node::error::Advice;
use crate::domain::capability::FsType;
use crate::domain::device::ScsiAddress;
use crate::host::HostError;

fn at() -> PathBuf {
    PathBuf::from("/dev/sdb")
}

fn text() -> String {
    "seen".to_owned()
}

fn volume() -> String {
    "disk1".to_owned()
}

type Case<E> = (E, Code, Level, &'static [&'static str]);

pub(super) fn host() -> Vec<Row> {
    use HostError as E;
    let rows: Vec<Case<E>> = vec![
        (
            E::NotFound {
                address: ScsiAddress { bus: 0, target: 3 },
                waited_ms: 7,
                seen: text(),
            },
            Unavailable,
            Level::WARN,
            &["SCSI (0:3)", "7 ms", "seen", "check that"],
        ),
        (
            E::WrongKind {
                path: at(),
                expected: "a block device",
                found: text(),
            },
            FailedPrecondition,
            Level::WARN,
            &["/dev/sdb", "not a block device", "seen"],
        ),
        (
            E::NotBlank {
                device: at(),
                found: text(),
            },
            FailedPrecondition,
            Level::ERROR,
            &["not blank", "seen", "nothing was written"],
        ),
        (
            E::BadOption {
                fs: FsType::Xfs,
                key: "blockSize".to_owned(),
                reason: text(),
            },
            InvalidArgument,
            Level::INFO,
            &["blockSize", "seen"],
        ),
        (
            E::Busy {
                path: at(),
                users: text(),
            },
            FailedPrecondition,
            Level::WARN,
            &["in use by seen"],
        ),
        (
            E::Io {
                action: "read",
                path: at(),
                reason: text(),
                errno: Some(5),
            },
            Internal,
            Level::ERROR,
            &["cannot read", "/dev/sdb", "seen"],
        ),
        (
            E::ToolMissing {
                tool: "mkfs.xfs",
                package: "xfsprogs",
            },
            FailedPrecondition,
            Level::ERROR,
            &["mkfs.xfs", "install package xfsprogs"],
        ),
        (
            E::Tool {
                tool: "mkfs.xfs",
                status: "exit status 1".to_owned(),
                output: text(),
            },
            Internal,
            Level::ERROR,
            &["mkfs.xfs", "exit status 1", "seen"],
        ),
        (
            E::TimedOut {
                what: text(),
                limit_ms: 9,
            },
            DeadlineExceeded,
            Level::WARN,
            &["seen", "9 ms"],
        ),
        (
            E::StillSmall {
                device: at(),
                actual: 1,
                expected: 2,
            },
            Unavailable,
            Level::WARN,
            &["/dev/sdb", "1", "2"],
        ),
    ];
    rows.into_iter()
        .map(|(error, code, level, words)| {
            (Failure::Node(NodeError::Host(error)), code, level, words)
        })
        .collect()
}

/// What is wrong with the disk or the path: somebody must look.
fn found_wrong() -> Vec<Case<NodeError>> {
    use NodeError as E;
    vec![
        (
            E::WrongDisk {
                device: at(),
                volume: volume(),
                expected: "u1".to_owned(),
                found: "u2".to_owned(),
                advice: Advice::OverrideIdentity,
            },
            FailedPrecondition,
            Level::ERROR,
            &[
                "expected u1",
                "found u2",
                "nothing was changed",
                "identityCheck",
            ],
        ),
        (
            E::WrongContent {
                device: at(),
                volume: volume(),
                found: "xfs".to_owned(),
                expected: "ext4".to_owned(),
                advice: Advice::EmptyIt,
            },
            FailedPrecondition,
            Level::ERROR,
            &["holds xfs", "expected ext4", "nothing was changed"],
        ),
        (
            E::InUse {
                device: at(),
                volume: volume(),
                users: text(),
            },
            FailedPrecondition,
            Level::WARN,
            &["in use by seen", "retry"],
        ),
        (
            E::PathTaken {
                path: at(),
                volume: volume(),
                found: text(),
                expected: "8:16".to_owned(),
            },
            FailedPrecondition,
            Level::ERROR,
            &["taken by seen", "expected 8:16", "unmount it"],
        ),
        (
            E::WriteProtected {
                device: at(),
                volume: volume(),
            },
            FailedPrecondition,
            Level::WARN,
            &["write-protected", "read-only"],
        ),
        (
            E::Record {
                action: "write",
                path: at(),
                reason: text(),
            },
            Internal,
            Level::ERROR,
            &["cannot write", "seen"],
        ),
        (
            E::Hangs {
                what: text(),
                limit_ms: 9,
            },
            DeadlineExceeded,
            Level::WARN,
            &["9 ms", "kernel's log"],
        ),
    ]
}

/// What the caller's order of calls, or the request, makes impossible.
fn asked_wrong() -> Vec<Case<NodeError>> {
    use NodeError as E;
    vec![
        (
            E::NotHere {
                volume: volume(),
                path: at(),
                found: text(),
            },
            NotFound,
            Level::INFO,
            &["disk1", "seen"],
        ),
        (
            E::NotOnNode { volume: volume() },
            NotFound,
            Level::INFO,
            &["disk1", "not staged"],
        ),
        (
            E::NotStaged {
                volume: volume(),
                staging: at(),
                found: text(),
            },
            FailedPrecondition,
            Level::INFO,
            &["not staged", "seen", "stage it again"],
        ),
        (
            E::Incompatible {
                volume: volume(),
                path: at(),
                found: text(),
                asked: "rw".to_owned(),
            },
            AlreadyExists,
            Level::INFO,
            &["as seen", "asked for rw"],
        ),
        (
            E::SecondTarget {
                volume: volume(),
                at: text(),
            },
            FailedPrecondition,
            Level::INFO,
            &["seen already", "ReadWriteOncePod"],
        ),
        (
            E::StillPublished {
                volume: volume(),
                at: text(),
            },
            FailedPrecondition,
            Level::INFO,
            &["still mounted at seen", "unpublish"],
        ),
        (
            E::ReadOnlyBlock { volume: volume() },
            FailedPrecondition,
            Level::INFO,
            &["raw block", "writable"],
        ),
        (
            E::AboveLimit {
                volume: volume(),
                actual: 3,
                limit: 2,
            },
            OutOfRange,
            Level::INFO,
            &["3 bytes", "limit_bytes 2", "cannot shrink"],
        ),
    ]
}

pub(super) fn node() -> Vec<Row> {
    let rows = [found_wrong(), asked_wrong()].concat();
    rows.into_iter()
        .map(|(error, code, level, words)| (Failure::Node(error), code, level, words))
        .collect()
}

/// A new variant breaks these matches, and must get a row above.
#[test]
fn no_variant_of_the_nodes_errors_is_forgotten() {
    use {HostError as H, NodeError as E};
    let mut seen = std::collections::BTreeSet::new();
    for (failure, ..) in rows() {
        let Failure::Node(error) = failure else {
            continue;
        };
        seen.insert(match error {
            E::Host(H::NotFound { .. }) => 0,
            E::Host(H::WrongKind { .. }) => 1,
            E::Host(H::NotBlank { .. }) => 2,
            E::Host(H::BadOption { .. }) => 3,
            E::Host(H::Busy { .. }) => 4,
            E::Host(H::Io { .. }) => 5,
            E::Host(H::TimedOut { .. }) => 6,
            E::Host(H::StillSmall { .. }) => 7,
            E::Host(H::ToolMissing { .. }) => 8,
            E::Host(H::Tool { .. }) => 9,
            E::NotHere { .. } => 10,
            E::NotOnNode { .. } => 11,
            E::NotStaged { .. } => 12,
            E::WrongDisk { .. } => 13,
            E::WrongContent { .. } => 14,
            E::InUse { .. } => 15,
            E::PathTaken { .. } => 16,
            E::Incompatible { .. } => 17,
            E::SecondTarget { .. } => 18,
            E::StillPublished { .. } => 19,
            E::WriteProtected { .. } => 20,
            E::ReadOnlyBlock { .. } => 21,
            E::AboveLimit { .. } => 22,
            E::Record { .. } => 23,
            E::Hangs { .. } => 24,
        });
    }
    assert_eq!(seen.len(), 25, "{seen:?}");
}
