//! What may be done to a disk's content: the policy that keeps data alive.
//!
//! | found | done |
//! |---|---|
//! | blank, proven | format |
//! | our own half-made file system | format again |
//! | the file system asked for, with the UUID expected | use |
//! | another one, or nothing, where no UUID is promised but this node knows one | refuse |
//! | not zero, no signature | refuse, unless `nonZeroBlankDisk: format` |
//! | anything else, or unknown | refuse |

use std::time::Instant;

use super::command::Stage;
use super::error::{Advice, NodeError};
use super::kernel::Kernel;
use super::stage::Proof;
use crate::domain::capability::FsType;
use crate::domain::id::FsUuid;
use crate::host::{BlockDevice, Content, FormatPlan, Identity, Intact};

/// How a disk came to carry the file system asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carried {
    /// It was made just now.
    Made,
    /// It was there; its superblock was found intact.
    Intact(Intact),
    /// It was there, by two witnesses.
    Known,
}

impl Carried {
    /// Nothing is to be checked before a mount.
    pub(super) fn clean(self) -> bool {
        matches!(self, Self::Made | Self::Intact(Intact { clean: true, .. }))
    }

    /// Nothing is to be grown.
    pub(super) fn full(self) -> bool {
        matches!(self, Self::Intact(Intact { full: true, .. }))
    }
}

/// Makes sure that `device` carries the file system asked for.
pub(super) fn content(
    kernel: &Kernel,
    command: &Stage,
    device: &BlockDevice,
    proof: &Proof,
    fs: FsType,
) -> Result<Carried, NodeError> {
    let wrong = |found: String, expected: String, advice| NodeError::WrongContent {
        device: device.path.clone(),
        volume: command.disk.to_string(),
        found,
        expected,
        advice,
    };
    // The usual case, after the first stage: spares reading the ends of the disk and asking blkid.
    if let Some(expected) = &command.fs_uuid
        && let Some(intact) = kernel.host.carries(device, fs, expected)?
    {
        return Ok(Carried::Intact(intact));
    }
    let ours = command.stamp();
    match kernel.host.probe(device)? {
        Content::Known { fs: found, uuid } if found == fs => {
            identity(kernel, command, device, uuid)?;
            Ok(Carried::Known)
        }
        Content::Known { fs: found, .. } => Err(wrong(
            format!("a file system of type {found}"),
            fs.to_string(),
            Advice::EmptyIt,
        )),
        Content::Blank => format(kernel, command, device, proof, fs),
        Content::HalfMade { uuid } if uuid == ours => {
            tracing::warn!(device = ?device.path, "a file system was left half-made; making it again");
            format(kernel, command, device, proof, fs)
        }
        Content::HalfMade { uuid } => Err(wrong(
            format!("a half-made file system with UUID {uuid}"),
            format!("UUID {ours}"),
            Advice::Look,
        )),
        Content::NonZero { .. } if command.allow_non_zero => {
            format(kernel, command, device, proof, fs)
        }
        Content::NonZero { offset } => Err(wrong(
            format!("data without a known signature (first byte that is not zero at {offset})"),
            format!("a blank disk or {fs}"),
            Advice::SetNonZero,
        )),
        Content::Foreign { what } => Err(wrong(
            what,
            format!("a blank disk or {fs}"),
            Advice::EmptyIt,
        )),
        Content::Unknown { why } => Err(wrong(
            format!("content that cannot be told ({why})"),
            format!("a blank disk or {fs}"),
            Advice::Look,
        )),
    }
}

/// The file system is the volume's: its UUID is the one that CreateVolume promised. A volume of the Go driver or
/// an imported one has no promise: any file system of the right type is taken the first time, and the same one ever after.
fn identity(
    kernel: &Kernel,
    command: &Stage,
    device: &BlockDevice,
    found: Option<FsUuid>,
) -> Result<(), NodeError> {
    let Some(expected) = &command.fs_uuid else {
        let words = found.as_ref().map_or_else(
            || "a file system without UUID".to_owned(),
            |uuid| format!("UUID {uuid}"),
        );
        if same_as_before(kernel, command, device, found.as_ref(), words)? {
            return Ok(());
        }
        return found.map_or(Ok(()), |uuid| kernel.known.keep(&command.disk, &uuid));
    };
    if found.as_ref() == Some(expected) {
        return Ok(());
    }
    let found = found.map_or_else(|| "none".to_owned(), |uuid| uuid.to_string());
    if !command.identity_check {
        tracing::warn!(
            device = ?device.path, %expected, found,
            "the file system is not the volume's; used because identityCheck is off"
        );
        return Ok(());
    }
    Err(NodeError::WrongDisk {
        device: device.path.clone(),
        volume: command.disk.to_string(),
        expected: format!("a file system with UUID {expected}"),
        found: format!("UUID {found}"),
        advice: Advice::OverrideIdentity,
    })
}

/// Whether a volume without a promise has the file system that it had on this node before; an error if it has another.
/// `false` means that nothing is remembered, or that it is not to be looked at.
fn same_as_before(
    kernel: &Kernel,
    command: &Stage,
    device: &BlockDevice,
    found: Option<&FsUuid>,
    words: String,
) -> Result<bool, NodeError> {
    let Some(before) = kernel.known.recall(&command.disk)? else {
        return Ok(false);
    };
    if found == Some(&before) {
        return Ok(true);
    }
    if !command.identity_check {
        return Ok(false);
    }
    let note = kernel.known.path(&command.disk);
    Err(NodeError::WrongDisk {
        device: device.path.clone(),
        volume: command.disk.to_string(),
        expected: format!("UUID {before}, which it had on this node before ({note:?})"),
        found: words,
        advice: Advice::Forget,
    })
}

fn format(
    kernel: &Kernel,
    command: &Stage,
    device: &BlockDevice,
    proof: &Proof,
    fs: FsType,
) -> Result<Carried, NodeError> {
    if command.capability.mode.read_only() {
        return Err(NodeError::WrongContent {
            device: device.path.clone(),
            volume: command.disk.to_string(),
            found: "no file system".to_owned(),
            expected: format!("{fs} to be read"),
            advice: Advice::WriteFirst,
        });
    }
    if proof.mounted {
        return Err(NodeError::InUse {
            device: device.path.clone(),
            volume: command.disk.to_string(),
            users: "a mount, although no file system was found on it".to_owned(),
        });
    }
    let promised = command.fs_uuid.is_some();
    if !promised {
        let words = "no file system".to_owned();
        same_as_before(kernel, command, device, None, words)?;
    }
    // sysfs may still show the identity of a disk that was in this slot before; a rescan reads it anew.
    kernel.host.rescan(device)?;
    unchanged(kernel, command, device, &proof.identity)?;
    let plan = FormatPlan {
        fs,
        uuid: command.stamp(),
        options: command.mkfs.clone(),
        allow_non_zero: command.allow_non_zero,
    };
    tracing::info!(device = ?device.path, devno = %device.devno, %fs, uuid = %plan.uuid, "formatting");
    let until = Instant::now() + kernel.config.timeouts.format;
    kernel.host.format(device, &plan, until)?;
    if !promised {
        kernel.known.keep(&command.disk, &plan.uuid)?;
    }
    Ok(Carried::Made)
}

/// The slot still holds the same disk as when it was proved.
pub(super) fn unchanged(
    kernel: &Kernel,
    command: &Stage,
    device: &BlockDevice,
    then: &Identity,
) -> Result<(), NodeError> {
    let wrong = |expected: String, found: String| NodeError::WrongDisk {
        device: device.path.clone(),
        volume: command.disk.to_string(),
        expected,
        found,
        advice: Advice::Look,
    };
    let in_slot = kernel.host.device_at(command.at)?.map(|found| found.devno);
    if in_slot != Some(device.devno) {
        return Err(wrong(
            format!("device {} in slot {}", device.devno, command.at),
            in_slot.map_or_else(|| "none".to_owned(), |devno| devno.to_string()),
        ));
    }
    let now = kernel.host.identify(device)?;
    if (&now.serial, &now.wwid) != (&then.serial, &then.wwid) || now.size < then.size {
        let words = |disk: &Identity| {
            format!(
                "serial {}, WWN {}, {} bytes",
                disk.serial.as_deref().unwrap_or("none"),
                disk.wwid.as_deref().unwrap_or("none"),
                disk.size
            )
        };
        return Err(wrong(words(then), words(&now)));
    }
    Ok(())
}
