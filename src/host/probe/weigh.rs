//! What follows from the two witnesses. Every pair has one answer, and only one pair gives `Blank`.

use super::blkid::Blkid;
use super::{Sighting, Verdict};
use crate::host::Content;

/// Weighs the two witnesses.
pub(super) fn conclude(own: Sighting, second: &Blkid) -> Content {
    if let Some(half) = half_made(&own) {
        return half;
    }
    match (own.verdict, second) {
        (Verdict::Unreadable { why } | Verdict::Broken { why }, _) => Content::Unknown { why },
        (Verdict::Foreign { what } | Verdict::Remnant { what }, _) => Content::Foreign { what },
        (_, Blkid::Unclear { why }) => Content::Unknown { why: why.clone() },
        (Verdict::Zero, Blkid::Nothing) => Content::Blank,
        (Verdict::NonZero { offset }, Blkid::Nothing) => Content::NonZero { offset },
        (Verdict::NonZero { .. }, Blkid::Found { what, .. }) => {
            Content::Foreign { what: what.clone() }
        }
        (Verdict::Zero, Blkid::Found { what, .. }) => Content::Unknown {
            why: format!("blkid finds {what} where the disk reads as zeros"),
        },
        (Verdict::Known(sb), Blkid::Found { what, uuid })
            if what == sb.fs.name() && *uuid == sb.uuid =>
        {
            Content::Known {
                fs: sb.fs,
                uuid: sb.uuid,
            }
        }
        (Verdict::Known(sb), other) => Content::Unknown {
            why: format!(
                "the superblock is {}'s, but blkid says {}",
                sb.fs,
                said(other)
            ),
        },
    }
}

/// Whether the mark counts: see [`super::marker`].
fn half_made(own: &Sighting) -> Option<Content> {
    let marker = own.marker.as_ref()?;
    let half = || {
        Some(Content::HalfMade {
            uuid: marker.uuid.clone(),
        })
    };
    match &own.verdict {
        Verdict::Zero
        | Verdict::NonZero { .. }
        | Verdict::Remnant { .. }
        | Verdict::Broken { .. } => half(),
        Verdict::Known(sb) if sb.fs == marker.fs && sb.uuid.as_ref() == Some(&marker.uuid) => {
            match sb.never_mounted {
                Some(true) => half(),
                Some(false) => None,
                None => Some(Content::Unknown {
                    why: format!(
                        "{} with UUID {} carries the mark of an unfinished mkfs, and it cannot be told whether it \
                         was ever mounted",
                        sb.fs, marker.uuid
                    ),
                }),
            }
        }
        Verdict::Known(_) | Verdict::Foreign { .. } | Verdict::Unreadable { .. } => None,
    }
}

fn said(blkid: &Blkid) -> String {
    match blkid {
        Blkid::Nothing => "that there is nothing".to_owned(),
        Blkid::Found {
            what,
            uuid: Some(uuid),
        } => format!("{what} with UUID {uuid}"),
        Blkid::Found { what, uuid: None } => what.clone(),
        Blkid::Unclear { why } => why.clone(),
    }
}
