//! mkfs: only on a disk that is proven blank, resumable after a cut (see [`super::probe::marker`]).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::command::{self, Tool, Tools};
use super::device::{self, Open};
use super::probe::marker::{self, Marker};
use super::probe::{self, HEAD, TAIL};
use super::{BlockDevice, Content, FormatPlan, HostError, fault};
use crate::domain::capability::FsType;

pub(super) mod options;

/// How long mkfs waits for the disk after it was proven blank.
const HANDOVER: Duration = Duration::from_secs(2);

/// Makes the file system of `plan`.
pub(super) fn format(
    tools: &Tools,
    target: &BlockDevice,
    plan: &FormatPlan,
    deadline: Instant,
) -> Result<(), HostError> {
    let tool = tool(plan.fs);
    tools.locate(tool)?;
    let args = options::arguments(plan, || xfs_version(tools, deadline))?;
    let size = prepare(tools, target, plan, deadline)?;
    // Held to the end, so that the kernel cannot give this number to another disk meanwhile. Not exclusively: mkfs
    // itself insists on that.
    let held = device::open(target, Open::Write)?;
    // The proof of blankness has just closed its descriptor, and a tool that is being started for another disk may have
    // a copy of it: mkfs would be refused.
    let patience = HANDOVER.min(deadline.saturating_duration_since(Instant::now()));
    drop(device::open_within(target, Open::Exclusive, patience)?);
    let args: Vec<&OsStr> = args
        .iter()
        .map(OsString::as_os_str)
        .chain([target.path.as_os_str()])
        .collect();
    tools.succeed(tool, &args, deadline)?;
    device::flush(&held, target)?;
    verify(target, plan)?;
    clear(&held, target, size)?;
    device::flush(&held, target)?;
    match probe::probe(tools, target, deadline)? {
        Content::Known {
            fs,
            uuid: Some(uuid),
        } if fs == plan.fs && uuid == plan.uuid => Ok(()),
        other => Err(unexpected(tool, &other)),
    }
}

fn tool(fs: FsType) -> Tool {
    match fs {
        FsType::Ext3 => command::MKFS_EXT3,
        FsType::Ext4 => command::MKFS_EXT4,
        FsType::Xfs => command::MKFS_XFS,
        FsType::Btrfs => command::MKFS_BTRFS,
    }
}

fn unexpected(tool: Tool, found: &impl std::fmt::Debug) -> HostError {
    HostError::Tool {
        tool: tool.name,
        status: "reported success".to_owned(),
        output: format!("but the disk holds {found:?}"),
    }
}

/// Proves blankness on the exclusively opened device and writes the marks; returns the size.
fn prepare(
    tools: &Tools,
    target: &BlockDevice,
    plan: &FormatPlan,
    deadline: Instant,
) -> Result<u64, HostError> {
    let mut file = device::open(target, Open::Exclusive)?;
    let content = probe::probe(tools, target, deadline)?;
    let wipe = match &content {
        Content::Blank => false,
        Content::NonZero { .. } if plan.allow_non_zero => true,
        Content::HalfMade { uuid } if *uuid == plan.uuid => true,
        other => {
            return Err(HostError::NotBlank {
                device: target.path.clone(),
                found: describe(other, plan),
            });
        }
    };
    let size = device::size_of(&mut file, target)?;
    if size < marker::SMALLEST_DISK {
        return Err(HostError::WrongKind {
            path: target.path.clone(),
            expected: "a disk of at least 64 MiB",
            found: format!("{size} bytes"),
        });
    }
    let record = Marker {
        fs: plan.fs,
        uuid: plan.uuid.clone(),
    };
    for place in places(size) {
        write(&file, target, &record.encode(place), place)?;
    }
    device::flush(&file, target)?;
    if wipe {
        // What a cut mkfs left at the ends would make the result ambiguous. The marks are on the disk by now.
        let zeros = vec![0; 1 << 20];
        let ends = (0..HEAD).step_by(zeros.len()).chain([size - TAIL]);
        for offset in ends {
            write(&file, target, &zeros, offset)?;
        }
        device::flush(&file, target)?;
    }
    Ok(size)
}

fn describe(content: &Content, plan: &FormatPlan) -> String {
    match content {
        Content::Blank => "nothing".to_owned(),
        Content::NonZero { offset } => format!(
            "no signature, but bytes that are not zero, the first at offset {offset}; if the disk is new and may be \
             formatted, set nonZeroBlankDisk to \"format\" on the PV"
        ),
        Content::Known { fs, uuid } => match uuid {
            Some(uuid) => format!(
                "{fs} with UUID {uuid}; expected a blank disk or UUID {}",
                plan.uuid
            ),
            None => format!("{fs} without a UUID"),
        },
        Content::HalfMade { uuid } => {
            format!(
                "a half-made file system with UUID {uuid}; expected UUID {}: this is another volume's disk",
                plan.uuid
            )
        }
        Content::Foreign { what } => what.clone(),
        Content::Unknown { why } => format!("unclear ({why})"),
    }
}

fn places(size: u64) -> impl Iterator<Item = u64> {
    marker::PLACES
        .into_iter()
        .filter(move |place| place + TAIL <= size)
}

fn write(file: &File, target: &BlockDevice, bytes: &[u8], offset: u64) -> Result<(), HostError> {
    file.write_all_at(bytes, offset)
        .map_err(|error| fault::io("write to", &target.path, &error))
}

/// The own reader must see the new file system, and the marks as proof that nobody mounted it meanwhile.
fn verify(target: &BlockDevice, plan: &FormatPlan) -> Result<(), HostError> {
    let sighting = probe::examine(target)?;
    match &sighting.verdict {
        probe::Verdict::Known(sb) if sb.fs == plan.fs && sb.uuid.as_ref() == Some(&plan.uuid) => {
            Ok(())
        }
        other => Err(unexpected(tool(plan.fs), other)),
    }
}

/// Takes the marks away. A place that mkfs has used holds no mark any more and stays as it is.
fn clear(file: &File, target: &BlockDevice, size: u64) -> Result<(), HostError> {
    for place in places(size) {
        let mut sector = [0; marker::LENGTH];
        file.read_exact_at(&mut sector, place)
            .map_err(|error| fault::io("read", &target.path, &error))?;
        if Marker::decode(&sector, place).is_some() {
            write(file, target, &[0; marker::LENGTH], place)?;
        }
    }
    Ok(())
}

/// Major and minor version of mkfs.xfs: which features exist to be turned off.
fn xfs_version(tools: &Tools, deadline: Instant) -> Result<(u32, u32), HostError> {
    let output = tools.succeed(command::MKFS_XFS, &[OsStr::new("-V")], deadline)?;
    // "mkfs.xfs version 6.1.0"
    let version = output.stdout.rsplit(' ').next().unwrap_or_default();
    let mut parts = version.split('.').map(|part| part.trim().parse().ok());
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(major), Some(minor)) => Ok((major, minor)),
        _ => Err(output.error(command::MKFS_XFS)),
    }
}
