//! Corpora of the fuzz targets in ordinary tests: each file as it is, and changed at random.

use std::panic::{RefUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// The files of a target's committed corpus, in order of their names.
pub(crate) fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let files = std::fs::read_dir(&dir).unwrap();
    let mut inputs: Vec<_> = files
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    inputs.sort();
    assert!(inputs.len() >= 5, "{} is nearly empty", dir.display());
    inputs
}

/// Runs `body` on each input and on `count` mutants of it; a failure tells the seed and the input.
pub(crate) fn mutants(
    corpus: &[(PathBuf, Vec<u8>)],
    count: usize,
    body: impl Fn(&[u8]) + RefUnwindSafe,
) {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for (path, input) in corpus {
        body(input);
        for _ in 0..count {
            let other = &corpus[random.usize(..corpus.len())].1;
            let mutant = mutate(&mut random, input, other);
            let outcome = catch_unwind(|| body(&mutant));
            assert!(outcome.is_ok(), "seed {seed}, {path:?}: {mutant:?}");
        }
    }
}

/// Bytes changed, cut out, doubled, or replaced by a part of another input.
fn mutate(random: &mut fastrand::Rng, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..random.usize(1..=6) {
        let at = random.usize(..=bytes.len());
        let end = (at + random.usize(..=16)).min(bytes.len());
        match random.u8(..5) {
            0 => bytes.insert(at, random.u8(..)),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            3 => {
                let from = random.usize(..=other.len());
                let to = (from + random.usize(..=32)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.u8(..8);
                }
            }
        }
    }
    bytes
}
