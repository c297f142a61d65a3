//! The mount table of one moment: several questions, one read of the kernel's table.
//!
//! On a node with hundreds of pods the kernel writes hundreds of rows at each read, so a verb reads the table once
//! before it changes something and once after. Only the rows that a question is about are taken apart.

use std::path::Path;

use super::{MountEntry, device, mountinfo, paths};
use crate::domain::device::DevNo;

/// The mount table of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounts(Form);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    /// As the kernel writes it.
    Text(Vec<u8>),
    /// Taken apart, with settled paths and device numbers.
    Rows(Vec<MountEntry>),
}

impl Mounts {
    /// A table of these rows, for a `Host` that is not Linux.
    #[must_use]
    pub fn of_rows(rows: Vec<MountEntry>) -> Self {
        Self(Form::Rows(rows))
    }

    /// What `/proc/self/mountinfo` says.
    pub(super) fn text(bytes: Vec<u8>) -> Self {
        Self(Form::Text(bytes))
    }

    /// The topmost mount at exactly this path.
    #[must_use]
    pub fn at(&self, target: &Path) -> Option<MountEntry> {
        match &self.0 {
            Form::Text(bytes) => {
                // A path that the kernel shows has no symlinks: only others need be settled first.
                let at = |path: &Path| {
                    let here = numbered(mountinfo::parse_at(bytes, path));
                    mountinfo::topmost(&here, path).cloned()
                };
                at(target).or_else(|| {
                    let settled = paths::settled(target);
                    (settled != target).then(|| at(&settled)).flatten()
                })
            }
            Form::Rows(rows) => mountinfo::topmost(rows, target).cloned(),
        }
    }

    /// All mounts of a file system on this device.
    #[must_use]
    pub fn of(&self, device: DevNo) -> Vec<MountEntry> {
        let mut rows = match &self.0 {
            Form::Text(bytes) => numbered(mountinfo::parse_of(bytes, device)),
            Form::Rows(rows) => rows.clone(),
        };
        rows.retain(|row| row.devno == device);
        rows
    }

    /// All mounts.
    #[must_use]
    pub fn all(&self) -> Vec<MountEntry> {
        match &self.0 {
            Form::Text(bytes) => numbered(mountinfo::parse(bytes)),
            Form::Rows(rows) => rows.clone(),
        }
    }
}

/// Btrfs shows an anonymous device number; it is replaced by its source's, which is safe: while a device is mounted the
/// kernel does not give its name or number to another one.
fn numbered(mut table: Vec<MountEntry>) -> Vec<MountEntry> {
    for entry in &mut table {
        if entry.fs_type == "btrfs"
            && let Some(devno) = device::block_number(Path::new(&entry.source))
        {
            entry.devno = devno;
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_and_its_rows_give_the_same_answers() {
        let text = Mounts::text(std::fs::read("/proc/self/mountinfo").unwrap());
        let rows = Mounts::of_rows(text.all());
        assert!(!rows.all().is_empty());
        for row in rows.all() {
            assert_eq!(text.at(&row.target), rows.at(&row.target), "{row:?}");
            assert!(text.of(row.devno).contains(&row), "{row:?}");
            assert_eq!(text.of(row.devno), rows.of(row.devno));
        }
    }
}
