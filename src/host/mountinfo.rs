//! `/proc/self/mountinfo` (proc(5)), parsed from bytes.
//!
//! ```text
//! 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
//! id parent dev root target options  optional*  -  type source super-options
//! ```
//!
//! Space, tab, newline and backslash in fields are written as three octal digits. Paths are bytes, not UTF-8.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::MountEntry;
use crate::domain::device::DevNo;

pub mod fuzzing;

/// Reads the whole table. A line that is not a mountinfo row is left out: one odd mount must not hide the others.
#[must_use]
pub fn parse(table: &[u8]) -> Vec<MountEntry> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

/// Reads the rows of mounts at exactly `target`: on a node with a thousand mounts the others are only skimmed.
#[must_use]
pub fn parse_at(table: &[u8], target: &Path) -> Vec<MountEntry> {
    let wanted = target.as_os_str().as_bytes();
    let here = |line: &&[u8]| {
        let mut fields = line
            .split(|byte| *byte == b' ')
            .filter(|field| !field.is_empty());
        fields.nth(4).is_some_and(|field| {
            if field.contains(&b'\\') {
                unescape(field) == wanted
            } else {
                field == wanted
            }
        })
    };
    table
        .split(|byte| *byte == b'\n')
        .filter(here)
        .filter_map(parse_line)
        .collect()
}

/// Reads the rows of mounts of this device, and those of Btrfs, whose device numbers tell nothing.
#[must_use]
pub fn parse_of(table: &[u8], device: DevNo) -> Vec<MountEntry> {
    let wanted = device.to_string().into_bytes();
    let maybe = |line: &&[u8]| {
        let mut fields = line
            .split(|byte| *byte == b' ')
            .filter(|field| !field.is_empty());
        fields.nth(2) == Some(wanted.as_slice()) || line.windows(7).any(|part| part == b" btrfs ")
    };
    table
        .split(|byte| *byte == b'\n')
        .filter(maybe)
        .filter_map(parse_line)
        .collect()
}

/// Reads one row.
#[must_use]
pub fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line
        .split(|byte| *byte == b' ')
        .filter(|field| !field.is_empty());
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let devno = device_number(fields.next()?)?;
    let root = path(fields.next()?);
    let target = path(fields.next()?);
    let options = list(fields.next()?);
    // Optional fields (propagation), as many as the kernel likes, end with a lone dash.
    fields.by_ref().find(|field| *field == b"-")?;
    let fs_type = text(fields.next()?);
    // An empty source is an empty field, which the filter above dropped: two fields are left or one.
    let (source, super_options) = match (fields.next(), fields.next()) {
        (Some(source), Some(options)) => (text(source), list(options)),
        (Some(options), None) => (String::new(), list(options)),
        (None, _) => return None,
    };
    Some(MountEntry {
        id,
        parent,
        devno,
        root,
        target,
        options,
        fs_type,
        source,
        super_options,
    })
}

/// The topmost mount at exactly `target`: the one that no other mount at this path lies on.
#[must_use]
pub fn topmost<'a>(table: &'a [MountEntry], target: &Path) -> Option<&'a MountEntry> {
    let here = || table.iter().filter(|entry| entry.target == target);
    here()
        .rfind(|entry| !here().any(|other| other.parent == entry.id && other.id != entry.id))
        .or_else(|| here().next_back())
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn device_number(field: &[u8]) -> Option<DevNo> {
    let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
    Some(DevNo {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    })
}

fn path(field: &[u8]) -> PathBuf {
    OsString::from_vec(unescape(field)).into()
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

fn list(field: &[u8]) -> Vec<String> {
    field.split(|byte| *byte == b',').map(text).collect()
}

/// Undoes `\ooo`. A backslash without three octal digits (up to `\377`) stands for itself.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        match (first, after) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                out.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                rest = tail;
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_field_is_read() {
        let line = b"36 35 98:0 /sub\\040dir /mnt\\134x rw,noatime master:1 propagate_from:2 - ext4 /dev/sdb rw,errors=continue";
        let entry = parse_line(line).unwrap();
        assert_eq!((entry.id, entry.parent), (36, 35));
        assert_eq!(entry.devno.to_string(), "98:0");
        assert_eq!(entry.root, Path::new("/sub dir"));
        assert_eq!(entry.target, Path::new("/mnt\\x"));
        assert_eq!(entry.options, ["rw", "noatime"]);
        assert_eq!(
            (entry.fs_type.as_str(), entry.source.as_str()),
            ("ext4", "/dev/sdb")
        );
        assert_eq!(entry.super_options, ["rw", "errors=continue"]);
        assert!(!entry.read_only());
    }

    #[test]
    fn an_empty_source_and_no_optional_fields_are_read() {
        let entry = parse_line(b"1 0 0:5 / /x ro - tmpfs  rw").unwrap();
        assert_eq!(entry.source, "");
        assert!(entry.read_only());
    }

    #[test]
    fn of_stacked_mounts_the_topmost_is_told_whatever_the_order() {
        let lower = b"40 30 7:1 / /m rw - ext4 /dev/loop1 rw".as_slice();
        let upper = b"41 40 7:2 / /m rw - ext4 /dev/loop2 rw".as_slice();
        for lines in [[lower, upper], [upper, lower]] {
            let table = parse(&lines.join(&b'\n'));
            assert_eq!(topmost(&table, Path::new("/m")).unwrap().id, 41);
        }
        assert!(topmost(&parse(lower), Path::new("/m/x")).is_none());
    }

    #[test]
    fn this_machines_own_table_is_read_whole() {
        let table = std::fs::read("/proc/self/mountinfo").unwrap();
        let rows = table
            .split(|b| *b == b'\n')
            .filter(|l| !l.is_empty())
            .count();
        assert_eq!(parse(&table).len(), rows);
    }

    fn escape(bytes: &[u8]) -> Vec<u8> {
        let one = |byte: &u8| match byte {
            b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
            _ => vec![*byte],
        };
        bytes.iter().flat_map(one).collect()
    }

    proptest! {
        #[test]
        fn no_input_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(parse(&bytes).len() <= bytes.len());
        }

        #[test]
        fn any_path_survives_the_kernels_escaping(name in proptest::collection::vec(1_u8.., 1..60)) {
            let mut line = b"36 35 98:0 / /".to_vec();
            line.extend(escape(&name));
            line.extend(b" rw shared:1 - ext4 /dev/sdb rw");
            let mut want = b"/".to_vec();
            want.extend(&name);
            let entry = parse_line(&line).unwrap();
            prop_assert_eq!(&entry.target, &path(&escape(&want)));
            // Longer than any path that is made here.
            let other = format!("1 0 0:5 / /{} ro - tmpfs  rw", "x".repeat(60));
            let table = [other.as_bytes(), &line].join(&b'\n');
            prop_assert_eq!(parse_at(&table, &entry.target), vec![entry]);
            prop_assert_eq!(unescape(&escape(&name)), name);
        }
    }
}
