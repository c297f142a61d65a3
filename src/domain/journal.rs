//! The journal that the cloud keeps for us: the first characters of a disk's `Description`.
//!
//! `Description` holds 40 characters. Four say in which phase of its life the disk is, the other 36 which claim it
//! belongs to. The phase decides who may detach the disk; everything else about a disk is read from the cloud.

use std::fmt;

use super::id::VmName;

/// Longest `Description` of a disk, in characters (`CreateVolume`, `ModifyVolumeAttribute`).
pub const DESCRIPTION_MAX: usize = 40;
/// Digits that tell the VM that a disk is lent to from others.
const MARK: usize = 4;
/// In place of these digits: lent to nobody. No hexadecimal number, so no VM's mark.
const FREE: &str = "free";

/// Where a disk is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// `new-`: born, never published. Any attachment is the birth attachment; the driver may detach it.
    New,
    /// `pvc-`: published at least once, or a disk of the Go driver. Only ControllerUnpublish may detach it.
    Published,
    /// `grw-`: a detached disk that is lent to an anchor VM to be grown. The description names the anchor
    /// ([`lent_to`]): the driver may detach the disk from there, and from nowhere else.
    Growing,
    /// `pvc-` with the mark `free`: lent to nobody, and not found attached by a publish since. What is written while
    /// the disk is detached, where nothing keeps others from lending it at the same time: were it `pvc-` alone, a late
    /// write could make a lending look like a publication.
    Free,
    /// Anything else: a disk that a person made and imported. Only ControllerUnpublish may detach it; it is
    /// never re-described and never grown while detached.
    Foreign,
}

impl Phase {
    /// The phase that a description tells.
    #[must_use]
    pub fn of(description: &str) -> Self {
        match description.as_bytes() {
            [b'n', b'e', b'w', b'-', ..] => Self::New,
            [b'p', b'v', b'c', b'-', rest @ ..] if is_free(rest) => Self::Free,
            [b'p', b'v', b'c', b'-', ..] => Self::Published,
            [b'g', b'r', b'w', b'-', ..] => Self::Growing,
            _ => Self::Foreign,
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::New => "new-",
            Self::Published | Self::Free => "pvc-",
            Self::Growing => "grw-",
            Self::Foreign => "",
        }
    }
}

/// The description of a disk of ours in `phase`, for the CSI name `csi_name`: the UUID of the claim, or the last
/// 36 characters of another name. Characters outside `A-Z a-z 0-9 . _ -` become `-`, because the alphabet that the
/// API accepts is not documented.
#[must_use]
pub fn describe(phase: Phase, csi_name: &str) -> String {
    let clean: Vec<char> = csi_name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') {
                c
            } else {
                '-'
            }
        })
        .collect();
    let room = DESCRIPTION_MAX - phase.prefix().len();
    let mut tail: String = clean[clean.len().saturating_sub(room)..].iter().collect();
    if is_free(tail.as_bytes()) {
        // Not the mark: the end of a name that happens to read like it.
        tail.truncate(tail.len() - 1);
        tail.push('-');
    }
    format!("{}{}", phase.prefix(), tail)
}

/// The same description in phase [`Phase::Published`]; `None` for a foreign disk, which is never re-described.
#[must_use]
pub fn publish(description: &str) -> Option<String> {
    let (claim, _) = split(description)?;
    Some(format!("{}{claim}", Phase::Published.prefix()))
}

/// The same description in phase [`Phase::Growing`], lent to `vm`; `None` for a foreign disk.
///
/// There is room for the claim's UUID without hyphens and four digits that tell the VM from others. Of other names as
/// much is kept as there is room for.
#[must_use]
pub fn lend(description: &str, vm: &VmName) -> Option<String> {
    let (claim, _) = split(description)?;
    Some(marked(Phase::Growing, &claim, &mark(vm)))
}

/// The same description in phase [`Phase::Free`]; `None` for a foreign disk.
#[must_use]
pub fn free(description: &str) -> Option<String> {
    let (claim, _) = split(description)?;
    Some(marked(Phase::Free, &claim, FREE))
}

fn marked(phase: Phase, claim: &str, mark: &str) -> String {
    let digits: String = claim.chars().filter(|c| *c != '-').collect();
    let prefix = phase.prefix();
    if digits.len() == 32 && is_hex(&digits) && hyphenate(&digits) == claim {
        return format!("{prefix}{digits}{mark}");
    }
    let room = DESCRIPTION_MAX - prefix.len() - 1 - MARK;
    let kept: String = claim.chars().take(room).collect();
    format!("{prefix}{kept}_{mark}")
}

/// Whether the description says that an attachment to `vm` is a lending. Without a mark it says so of any VM.
#[must_use]
pub fn lent_to(description: &str, vm: &VmName) -> bool {
    Phase::of(description) == Phase::Growing
        && split(description)
            .and_then(|(_, marked)| marked)
            .is_none_or(|marked| marked == mark(vm))
}

fn mark(vm: &VmName) -> String {
    vm.digest().chars().take(MARK).collect()
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether what follows `pvc-` ends with the mark for nobody.
fn is_free(rest: &[u8]) -> bool {
    rest.strip_suffix(FREE.as_bytes()).is_some_and(|claim| {
        claim.ends_with(b"_") || claim.len() == 32 && claim.iter().all(u8::is_ascii_hexdigit)
    })
}

/// The claim, as the other phases write it, and the mark of the VM that the disk is lent to.
fn split(description: &str) -> Option<(String, Option<&str>)> {
    let phase = Phase::of(description);
    let rest = description.get(4..).filter(|_| phase != Phase::Foreign)?;
    let at = rest.len().checked_sub(MARK);
    let marked = at.filter(|_| matches!(phase, Phase::Growing | Phase::Free));
    if let Some((claim, mark)) = marked.and_then(|at| rest.split_at_checked(at))
        && (is_hex(mark) || phase == Phase::Free)
    {
        if claim.len() == 32 && is_hex(claim) {
            return Some((hyphenate(claim), Some(mark)));
        }
        if let Some(claim) = claim.strip_suffix('_') {
            return Some((claim.to_owned(), Some(mark)));
        }
    }
    Some((rest.to_owned(), None))
}

/// 32 hex digits as a UUID.
fn hyphenate(digits: &str) -> String {
    let part = |range| digits.get(range).unwrap_or_default();
    format!(
        "{}-{}-{}-{}-{}",
        part(0..8),
        part(8..12),
        part(12..16),
        part(16..20),
        part(20..32)
    )
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New => "new",
            Self::Published => "published",
            Self::Growing => "growing",
            Self::Free => "free",
            Self::Foreign => "foreign",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claims_description_is_exactly_full_and_round_trips() {
        let uuid = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
        let born = describe(Phase::New, &format!("pvc-{uuid}"));
        assert_eq!(born, format!("new-{uuid}"));
        assert_eq!(Phase::of(&born), Phase::New);
        let published = publish(&born).unwrap();
        assert_eq!(
            published,
            format!("pvc-{uuid}"),
            "the same as the Go driver writes"
        );
    }

    #[test]
    fn a_lent_disk_says_to_whom_and_gets_its_description_back() {
        let [anchor, other] = ["node1", "node2"].map(|name| VmName::parse(name).unwrap());
        let uuid = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
        for name in [
            uuid,
            "sanity-expand-1",
            "",
            &uuid.replace('-', "0"),
            "a_b_c",
        ] {
            let before = describe(Phase::Published, name);
            let lent = lend(&before, &anchor).unwrap();
            assert_eq!(Phase::of(&lent), Phase::Growing);
            assert!(lent.chars().count() <= DESCRIPTION_MAX, "{lent}");
            assert!(lent_to(&lent, &anchor) && !lent_to(&lent, &other), "{lent}");
            let back = publish(&lent).unwrap();
            assert!(before.starts_with(&back), "{before} {back}");
            assert!(before == back || before.len() > 35, "{before} {back}");
            // From one anchor to the next, as after a crash.
            let moved = lend(&lent, &other).unwrap();
            assert!(lent_to(&moved, &other) && !lent_to(&moved, &anchor));
            assert_eq!(publish(&moved).unwrap(), back);
            assert!(!lent_to(&back, &anchor));
        }
        let unmarked = format!("grw-{uuid}");
        assert!(lent_to(&unmarked, &anchor) && lent_to(&unmarked, &other));
        assert_eq!(publish(&unmarked), Some(format!("pvc-{uuid}")));
    }

    #[test]
    fn a_free_disk_is_lent_to_nobody_and_gets_its_description_back() {
        let vm = VmName::parse("node1").unwrap();
        let uuid = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
        for name in [uuid, "sanity-expand-1", "", "a_free", "a_b_c"] {
            let born = describe(Phase::New, name);
            let published = describe(Phase::Published, name);
            assert_eq!(Phase::of(&published), Phase::Published, "{published}");
            for before in [&born, &published, &lend(&published, &vm).unwrap()] {
                let free = free(before).unwrap();
                assert_eq!(Phase::of(&free), Phase::Free, "{free}");
                assert!(free.len() <= DESCRIPTION_MAX && !lent_to(&free, &vm));
                assert_eq!(publish(&free).unwrap(), published);
                assert_eq!(lend(&free, &vm), lend(before, &vm));
                assert_eq!(super::free(&free).unwrap(), free);
            }
        }
        let full = free(&describe(Phase::New, uuid)).unwrap();
        assert_eq!(full, "pvc-0a1b2c3d4e5f60718293a4b5c6d7e8f9free");
        assert_eq!(free("made by hand"), None);
    }

    #[test]
    fn every_name_fits_and_a_foreign_description_is_left_alone() {
        for name in ["", "sanity", "日本語の名前", &"é".repeat(200)] {
            for phase in [Phase::New, Phase::Published, Phase::Growing] {
                let text = describe(phase, name);
                assert!(text.chars().count() <= DESCRIPTION_MAX);
                assert_eq!(Phase::of(&text), phase);
            }
        }
        let vm = VmName::parse("node1").unwrap();
        for foreign in ["made by hand", "ニフクラ", "", "gr", "grw"] {
            assert_eq!((publish(foreign), lend(foreign, &vm)), (None, None));
            assert!(!lent_to(foreign, &vm));
        }
    }
}
