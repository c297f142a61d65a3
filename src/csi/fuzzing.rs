//! Body of the fuzz target for requests, and the small corpus that ordinary tests run it on.
//!
//! Not part of the API. The first byte of an input chooses the RPC, the rest is its message on the wire.

use std::path::Path;

use prost::Message;
use tonic::Code;

use super::controller::command as controller;
use super::error::{Failure, Verdict, chain, verdict};
use super::node::command as node;
use super::validate::InputError;
use crate::domain::id::DISK_NAME_MAX;
use crate::domain::journal::{DESCRIPTION_MAX, Phase, describe};
use crate::domain::size::STEP_GIB;

/// The kubelet's directory of the node that checks paths.
const ROOT: &str = "/var/lib/kubelet";

/// RPCs that the first byte chooses from.
pub const RPCS: u8 = 16;

/// Any bytes as a request of the CSI services. It never panics; a refusal has a code that a wrong request may have and
/// a bounded text without control characters; and what is accepted keeps what its type promises.
pub fn request(input: &[u8]) {
    let Some((rpc, message)) = input.split_first() else {
        return;
    };
    let root = Path::new(ROOT);
    match rpc % RPCS {
        0 | 1 => read(message, |m| controller::Create::read(m).map(|c| create(&c))),
        2 => read(message, |m| controller::Publish::read(m).map(drop)),
        3 => read(message, |m| controller::Unpublish::read(m).map(drop)),
        4 => read(message, |m| controller::delete(m).map(drop)),
        5 => read(message, |m| controller::Expand::read(m).map(drop)),
        6 => read(message, |m| controller::Modify::read(m).map(drop)),
        7 => read(message, |m| controller::Validate::read(m).map(drop)),
        8 => read(message, |m: &crate::proto::csi::v1::ListVolumesRequest| {
            controller::Page::read(m.max_entries, &m.starting_token).map(drop)
        }),
        9 => read(message, |m| {
            node::Stage::read(m, root).map(|c| below(&c.staging))
        }),
        10 => read(message, |m| {
            node::Publish::read(m, root).map(|c| below(&c.target))
        }),
        11 => read(message, |m| {
            node::Clear::staging(m, root).map(|c| below(&c.path))
        }),
        12 => read(message, |m| {
            node::Clear::target(m, root).map(|c| below(&c.path))
        }),
        13 => read(message, |m| node::Expand::read(m).map(drop)),
        14 => read(message, |m| node::Look::read(m).map(drop)),
        _ => read(message, |m| node::Health::read(m).map(drop)),
    }
}

fn read<M: Message + Default>(message: &[u8], check: impl FnOnce(&M) -> Result<(), InputError>) {
    let Ok(message) = M::decode(message) else {
        // tonic refuses it before the driver sees it.
        return;
    };
    let Err(error) = check(&message) else { return };
    let failure = Failure::from(error);
    let Verdict { code, .. } = verdict(&failure);
    assert!(
        matches!(
            code,
            Code::InvalidArgument | Code::NotFound | Code::OutOfRange
        ),
        "{code:?}: {failure}"
    );
    let text = chain(&failure);
    assert!(text.chars().count() <= 4096, "unbounded: {}", text.len());
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

/// What CreateVolume would ask the cloud for.
fn create(command: &controller::Create) {
    let name = command.disk.as_str();
    assert!(name.len() <= DISK_NAME_MAX && name.bytes().all(|b| b.is_ascii_alphanumeric()));
    assert!(command.size.gib().is_multiple_of(STEP_GIB) && command.size.fits(command.range));
    assert!(command.size <= command.class.disk_type.largest());
    let journal = describe(Phase::New, &command.csi_name);
    assert!(journal.is_ascii() && journal.len() <= DESCRIPTION_MAX);
    assert_eq!(command.identity(), command.identity());
}

fn below(path: &Path) {
    assert!(path.is_absolute() && path.starts_with(ROOT), "{path:?}");
    assert!(
        !path.components().any(|part| part.as_os_str() == ".."),
        "{path:?}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutants::{corpus, mutants};

    #[test]
    fn the_committed_corpus_of_requests_and_its_mutants_break_no_promise() {
        let corpus = corpus("request");
        let mut rpcs: Vec<u8> = corpus.iter().map(|(_, input)| input[0] % RPCS).collect();
        rpcs.sort_unstable();
        rpcs.dedup();
        assert_eq!(
            rpcs.len(),
            usize::from(RPCS) - 1,
            "an RPC without an example: {rpcs:?}"
        );
        mutants(&corpus, 400, request);
    }
}
