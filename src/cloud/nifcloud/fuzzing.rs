//! Bodies of the fuzz targets, and the small corpus that ordinary tests run them on.
//!
//! Each function takes any bytes and panics only when a promise is broken. Not part of the API.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;

use super::decode::{Decode, Disks, Done, Slots, Vms, Zones};
use super::error::interpret;
use super::sign::{Param, canonical_query};
use super::transport::Reply;
use crate::cloud::CallError;
use crate::domain::id::{DiskName, VmName};

/// The decoder on any body under several statuses: it never panics; messages stay bounded and free of control
/// characters; a disk asked for by name is in the answer or the answer is an error; and the reading of an error
/// root does not depend on the status.
pub fn decode(body: &[u8]) {
    let (Ok(name), Ok(vm)) = (DiskName::parse("pvc0001"), VmName::parse("node01")) else {
        return;
    };
    let names = std::slice::from_ref(&name);
    if let Some(disks) = one("DescribeVolumes", 200, body, Disks::of(&[])) {
        assert!(disks.iter().all(|disk| disk.size.gib() > 0));
    }
    if let Some(disks) = one("DescribeVolumes", 200, body, Disks::of(names)) {
        assert!(disks.iter().any(|disk| disk.name == name));
    }
    one("DescribeInstances", 200, body, Vms::of(&[]));
    one("DescribeInstanceAttribute", 200, body, Slots::of(&vm));
    one("DescribeAvailabilityZones", 200, body, Zones);
    one("AttachVolume", 200, body, Done::of_disk(Some(&name)));
    one("AttachVolume", 503, body, Done::of_disk(Some(&name)));
    let refused = |status| {
        let reply = reply(status, body);
        match interpret(
            "DeleteVolume",
            &reply,
            Timestamp::UNIX_EPOCH,
            Done::of_disk(None),
        ) {
            Err(CallError::Rejected { code, .. }) => Some(code),
            _ => None,
        }
    };
    assert_eq!(refused(200), refused(500));
}

fn reply(status: u16, body: &[u8]) -> Reply {
    Reply {
        status,
        date: None,
        retry_after: None,
        body: body.to_vec(),
    }
}

fn one<D: Decode>(action: &'static str, status: u16, body: &[u8], decoder: D) -> Option<D::Answer> {
    match interpret(action, &reply(status, body), Timestamp::UNIX_EPOCH, decoder) {
        Ok(answer) => {
            assert_eq!(status, 200, "success needs the status of success");
            Some(answer)
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.chars().count() <= 1024, "unbounded: {}", text.len());
            assert!(!text.chars().any(char::is_control), "{text:?}");
            None
        }
    }
}

/// The canonical query against a naive second implementation. The input is cut into names and values at NUL.
pub fn canonical(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut words = text.split('\0');
    let mut pairs = BTreeMap::new();
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        pairs.insert(name.to_owned(), value.to_owned());
    }
    let params: Vec<Param> = pairs
        .iter()
        .rev()
        .map(|(name, value)| (name.clone().into(), value.clone()))
        .collect();
    assert_eq!(canonical_query(&params), naive_query(&pairs));
}

/// The canonical query as the manual's words say it, one byte at a time.
pub(crate) fn naive_query(pairs: &BTreeMap<String, String>) -> String {
    fn escape(text: &str, out: &mut String) {
        for byte in text.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    out.push(char::from(byte));
                }
                _ => {
                    let _ = write!(out, "%{byte:02X}");
                }
            }
        }
    }
    // A BTreeMap of strings is in the order of their bytes.
    let mut out = String::new();
    for (name, value) in pairs.iter().filter(|(name, _)| *name != "Signature") {
        if !out.is_empty() {
            out.push('&');
        }
        escape(name, &mut out);
        out.push('=');
        escape(value, &mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(target);
        let files: Vec<Vec<u8>> = std::fs::read_dir(&dir)
            .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
            .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
            .collect();
        assert!(files.len() >= 5, "{} is nearly empty", dir.display());
        files
    }

    #[test]
    fn the_committed_corpus_of_answers_breaks_no_promise() {
        for body in corpus("decode") {
            super::decode(&body);
            // Every prefix is what a lost connection leaves.
            for cut in (0..body.len()).step_by(7) {
                super::decode(&body[..cut]);
            }
        }
    }

    #[test]
    fn the_committed_corpus_of_parameters_breaks_no_promise() {
        for input in corpus("canonical") {
            super::canonical(&input);
        }
    }
}
