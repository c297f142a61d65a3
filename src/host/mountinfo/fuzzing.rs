//! Body of the fuzz target for mountinfo, and the small corpus that ordinary tests run it on.
//!
//! Not part of the API.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{parse, parse_at, parse_line, parse_of, topmost};
use crate::domain::device::DevNo;
use crate::host::MountEntry;

/// Any bytes as a mount table. It never panics; no line becomes two rows; the search for one target finds the rows of the whole
/// table and no others; and a row that is written as the kernel writes rows reads back the same.
pub fn mountinfo(table: &[u8]) {
    let rows = parse(table);
    let lines = table.split(|byte| *byte == b'\n').filter(|l| !l.is_empty());
    assert!(rows.len() <= lines.clone().count());
    for row in rows.iter().take(8) {
        assert_eq!(parse_line(&write(row)).as_ref(), Some(row));
        find(table, &rows, &row.target);
        device(&rows, row.devno);
        let top = topmost(&rows, &row.target).map(|top| top.target.as_path());
        assert_eq!(top, Some(row.target.as_path()));
    }
    // The same words as they stand in the table.
    for line in lines.take(8) {
        if let Some(word) = line.split(|byte| *byte == b' ').nth(4) {
            find(table, &rows, Path::new(OsStr::from_bytes(word)));
        }
    }
}

/// The search for one device finds all its rows, and those of Btrfs.
fn device(rows: &[MountEntry], devno: DevNo) {
    let table = rows.iter().map(write).collect::<Vec<_>>().join(&b'\n');
    let found = parse_of(&table, devno);
    let theirs = |row: &&MountEntry| row.devno == devno || row.fs_type == "btrfs";
    let expected: Vec<_> = rows.iter().filter(theirs).collect();
    assert_eq!(found.iter().filter(theirs).collect::<Vec<_>>(), expected);
}

fn find(table: &[u8], rows: &[MountEntry], target: &Path) {
    let here = |row: &&MountEntry| row.target.as_os_str() == target.as_os_str();
    let expected: Vec<_> = rows.iter().filter(here).cloned().collect();
    assert_eq!(parse_at(table, target), expected, "{target:?}");
}

fn write(row: &MountEntry) -> Vec<u8> {
    let lists = [&row.options, &row.super_options];
    let [options, more] = lists.map(|list| {
        let words: Vec<_> = list
            .iter()
            .map(|one| escape(one.as_bytes(), b","))
            .collect();
        words.join(&b',')
    });
    let bytes = |path: &Path| escape(path.as_os_str().as_bytes(), b"");
    let head = format!("{} {} {} ", row.id, row.parent, row.devno).into_bytes();
    let rest = [
        bytes(&row.root),
        bytes(&row.target),
        options,
        b"shared:1 -".to_vec(),
        escape(row.fs_type.as_bytes(), b""),
        escape(row.source.as_bytes(), b""),
        more,
    ];
    [head, rest.join(&b' ')].concat()
}

/// What the kernel's seq_file escapes, and `more`.
fn escape(bytes: &[u8], more: &[u8]) -> Vec<u8> {
    let one = |byte: &u8| match byte {
        b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
        _ if more.contains(byte) => format!("\\{byte:03o}").into_bytes(),
        _ => vec![*byte],
    };
    bytes.iter().flat_map(one).collect()
}

#[cfg(test)]
mod tests {
    use crate::mutants::{corpus, mutants};

    #[test]
    fn the_committed_corpus_of_mount_tables_and_its_mutants_break_no_promise() {
        let corpus = corpus("mountinfo");
        let rows = corpus.iter().map(|(_, table)| super::parse(table).len());
        assert!(rows.sum::<usize>() > 20, "the corpus has lost its rows");
        mutants(&corpus, 400, super::mountinfo);
    }
}
