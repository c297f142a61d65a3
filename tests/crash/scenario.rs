//! The RPCs, what precedes each, and what must be true when it has succeeded.

use additional_storage_csi::emulator::{Control, DiskRecord};

use crate::Wrong;
use crate::driver::{DISK, Step};

/// One RPC under test.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) before: &'static [Step],
    pub(crate) tested: Step,
    pub(crate) after: &'static [Step],
    /// Where the disk must be, and the phase of its journal; `None`: it must be gone.
    pub(crate) found: Option<(Option<&'static str>, &'static str)>,
    /// GiB.
    pub(crate) size: u32,
}

use Step::{CreateAnywhere, CreateOn, Delete, Expand, Modify, Publish, Unpublish};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "create on the selected node",
        before: &[],
        tested: CreateOn("node1"),
        after: &[Delete],
        found: Some((Some("node1"), "new-")),
        size: 100,
    },
    Scenario {
        name: "create elsewhere",
        before: &[],
        tested: CreateAnywhere,
        after: &[Publish("node2"), Unpublish("node2"), Delete],
        found: Some((None, "new-")),
        size: 100,
    },
    Scenario {
        name: "publish where it was born",
        before: &[CreateOn("node1")],
        tested: Publish("node1"),
        after: &[Unpublish("node1"), Delete],
        found: Some((Some("node1"), "pvc-")),
        size: 100,
    },
    Scenario {
        name: "publish on another node",
        before: &[CreateOn("node1")],
        tested: Publish("node2"),
        after: &[Unpublish("node2"), Delete],
        found: Some((Some("node2"), "pvc-")),
        size: 100,
    },
    Scenario {
        name: "publish a detached disk",
        before: &[CreateAnywhere],
        tested: Publish("node2"),
        after: &[Unpublish("node2"), Delete],
        found: Some((Some("node2"), "pvc-")),
        size: 100,
    },
    Scenario {
        name: "unpublish",
        before: &[CreateOn("node1"), Publish("node1")],
        tested: Unpublish("node1"),
        after: &[Delete],
        found: Some((None, "pvc-")),
        size: 100,
    },
    Scenario {
        name: "delete",
        before: &[CreateOn("node1"), Publish("node1"), Unpublish("node1")],
        tested: Delete,
        after: &[Delete],
        found: None,
        size: 100,
    },
    Scenario {
        name: "delete where it was born",
        before: &[CreateOn("node1")],
        tested: Delete,
        after: &[Delete],
        found: None,
        size: 100,
    },
    Scenario {
        name: "expand online",
        before: &[CreateOn("node1"), Publish("node1")],
        tested: Expand(300),
        after: &[Unpublish("node1"), Delete],
        found: Some((Some("node1"), "pvc-")),
        size: 300,
    },
    Scenario {
        name: "expand offline",
        before: &[CreateOn("node1"), Publish("node1"), Unpublish("node1")],
        tested: Expand(300),
        after: &[Delete],
        found: Some((None, "pvc-")),
        size: 300,
    },
    Scenario {
        name: "modify",
        before: &[CreateOn("node1"), Publish("node1")],
        tested: Modify,
        after: &[Unpublish("node1"), Delete],
        found: Some((Some("node1"), "pvc-")),
        size: 100,
    },
];

impl Scenario {
    /// The state of the cloud after the RPC answered OK.
    pub(crate) fn check(&self, control: &Control) -> Result<(), Wrong> {
        let state = control.state();
        let stuck = |what: String| Err(Wrong::Stuck(what));
        let births = control.history().into_iter();
        let births = births.filter(|event| event.action == "CreateVolume" && event.committed);
        if state.disks.len() > 1 || births.count() > 1 {
            return Err(Wrong::Doubled(format!("{:?}", state.disks.keys())));
        }
        let disk = state.disks.get(DISK);
        let (Some(disk), Some((holder, phase))) = (disk, self.found) else {
            return match (disk, self.found) {
                (None, None) => Ok(()),
                _ => stuck(format!("success, but the disk is {disk:?}")),
            };
        };
        if disk.size > self.size {
            return Err(Wrong::Overgrown(format!("{} GiB", disk.size)));
        }
        if disk.size < self.size || !self.is_placed(disk, holder, phase) {
            return stuck(format!("success, but the disk is {disk:?}"));
        }
        Ok(())
    }

    fn is_placed(&self, disk: &DiskRecord, holder: Option<&str>, phase: &str) -> bool {
        disk.attachment.as_ref().map(|at| at.vm.as_str()) == holder
            && disk.change.is_none()
            && disk.description.starts_with(phase)
            && (self.tested != Modify || disk.next_accounting == "1")
    }
}
