//! The journal that the cloud keeps for us: the first characters of a disk's `Description`.
//!
//! `Description` holds 40 characters. Four say in which phase of its life the disk is, the other 36 which claim it
//! belongs to. The phase decides who may detach the disk; everything else about a disk is read from the cloud.

use std::fmt;

/// Longest `Description` of a disk, in characters (`CreateVolume`, `ModifyVolumeAttribute`).
pub const DESCRIPTION_MAX: usize = 40;

/// Where a disk is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// `new-`: born, never published. Any attachment is the birth attachment; the driver may detach it.
    New,
    /// `pvc-`: published at least once, or a disk of the Go driver. Only ControllerUnpublish may detach it.
    Published,
    /// `grw-`: a detached disk lent to an anchor VM to be grown; the driver may detach it.
    Growing,
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
            [b'p', b'v', b'c', b'-', ..] => Self::Published,
            [b'g', b'r', b'w', b'-', ..] => Self::Growing,
            _ => Self::Foreign,
        }
    }

    /// Whether an attachment in this phase belongs to the driver alone, so that it may be detached freely.
    #[must_use]
    pub fn driver_may_detach(self) -> bool {
        match self {
            Self::New | Self::Growing => true,
            Self::Published | Self::Foreign => false,
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::New => "new-",
            Self::Published => "pvc-",
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
    let tail: String = clean[clean.len().saturating_sub(room)..].iter().collect();
    format!("{}{}", phase.prefix(), tail)
}

/// The same description moved to another phase; `None` for a foreign disk, which is never re-described.
#[must_use]
pub fn redescribe(description: &str, phase: Phase) -> Option<String> {
    if Phase::of(description) == Phase::Foreign || phase == Phase::Foreign {
        return None;
    }
    Some(format!(
        "{}{}",
        phase.prefix(),
        description.get(4..).unwrap_or_default()
    ))
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New => "new",
            Self::Published => "published",
            Self::Growing => "growing",
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
        let published = redescribe(&born, Phase::Published).unwrap();
        assert_eq!(
            published,
            format!("pvc-{uuid}"),
            "the same as the Go driver writes"
        );
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
        assert_eq!(redescribe("made by hand", Phase::Published), None);
        assert_eq!(redescribe("ニフクラ", Phase::Growing), None);
    }
}
