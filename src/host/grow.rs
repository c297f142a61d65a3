//! Growing and checking file systems.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Instant;

use super::command::{self, Output, Tool, Tools};
use super::device::{self, Open};
use super::stats::Asked;
use super::{BlockDevice, CheckOutcome, HostError, probe};
use crate::domain::capability::FsType;

/// Runs `e2fsck -p` (repairs that lose nothing) on an unmounted ext file system.
pub(super) fn check(
    tools: &Tools,
    target: &BlockDevice,
    fs: FsType,
    deadline: Instant,
) -> Result<CheckOutcome, HostError> {
    if !is_ext(fs) {
        return Ok(CheckOutcome::NotApplicable);
    }
    let output = e2fsck(tools, target, &["-p"], deadline)?;
    Ok(match output.status.code() {
        Some(0) => CheckOutcome::Clean,
        _ => CheckOutcome::Repaired(output.text()),
    })
}

/// Runs e2fsck; corrected errors are success (exit status bits 1 and 2, e2fsck(8)).
fn e2fsck(
    tools: &Tools,
    target: &BlockDevice,
    flags: &[&str],
    deadline: Instant,
) -> Result<Output, HostError> {
    // e2fsck on a mounted file system destroys it; it asks before, but nobody is there to answer.
    drop(device::open(target, Open::Exclusive)?);
    let flags = flags.iter().map(OsStr::new);
    let args: Vec<_> = flags.chain([target.path.as_os_str()]).collect();
    let output = tools.run(command::E2FSCK, &args, deadline)?;
    match output.status.code() {
        Some(0..=3) => Ok(output),
        Some(code) if code & 4 != 0 => Err(HostError::Tool {
            tool: command::E2FSCK.name,
            status: format!("exit status {code}"),
            output: format!(
                "the file system has errors that need a decision: back up the disk, then run \"e2fsck -f {}\" by \
                 hand on this node; {}",
                target.path.display(),
                output.text()
            ),
        }),
        _ => Err(output.error(command::E2FSCK)),
    }
}

fn is_ext(fs: FsType) -> bool {
    matches!(fs, FsType::Ext3 | FsType::Ext4)
}

/// Whether a check would do anything: spares a process for every clean disk that is staged.
pub(super) fn needs_check(target: &BlockDevice, fs: FsType) -> Result<bool, HostError> {
    if !is_ext(fs) {
        return Ok(true);
    }
    // Without a readable superblock e2fsck shall say what is wrong.
    let (superblock, _) = probe::superblock(target)?;
    Ok(superblock.is_none_or(|superblock| !superblock.clean))
}

/// Whether the file system is smaller than its device by more than its format leaves unused.
pub(super) fn room(target: &BlockDevice) -> Result<Option<u64>, HostError> {
    let (superblock, size) = probe::superblock(target)?;
    Ok(superblock.and_then(|superblock| superblock.room(size)))
}

/// Grows a mounted file system to its device.
pub(super) fn mounted(
    tools: &Tools,
    asked: &Asked,
    target: &BlockDevice,
    fs: FsType,
    mounted_at: &Path,
    deadline: Instant,
) -> Result<(), HostError> {
    let before = asked.usage(mounted_at, deadline)?;
    let (tool, output) = run(tools, target, fs, mounted_at, deadline)?;
    if !output.status.success() {
        return Err(explain(tool, &output));
    }
    let after = asked.usage(mounted_at, deadline)?;
    // For ext the superblock is current in the page cache, so that room was certain before: it must be gone now.
    if is_ext(fs) && after.bytes.total <= before.bytes.total && room(target)?.is_some() {
        return Err(HostError::Tool {
            tool: tool.name,
            status: "reported success".to_owned(),
            output: format!("but the file system did not grow: {}", output.text()),
        });
    }
    Ok(())
}

fn run(
    tools: &Tools,
    target: &BlockDevice,
    fs: FsType,
    mounted_at: &Path,
    deadline: Instant,
) -> Result<(Tool, Output), HostError> {
    let at = mounted_at.as_os_str();
    let (tool, args) = match fs {
        FsType::Ext3 | FsType::Ext4 => (command::RESIZE2FS, vec![target.path.as_os_str()]),
        FsType::Xfs => (command::XFS_GROWFS, vec![OsStr::new("-d"), at]),
        FsType::Btrfs => (
            command::BTRFS,
            ["filesystem", "resize", "max"]
                .iter()
                .map(OsStr::new)
                .chain([at])
                .collect(),
        ),
    };
    Ok((tool, tools.run(tool, &args, deadline)?))
}

fn explain(tool: Tool, output: &Output) -> HostError {
    let text = output.text();
    if tool == command::RESIZE2FS && text.contains("Permission denied to resize") {
        return HostError::Tool {
            tool: tool.name,
            status: "not permitted".to_owned(),
            output: format!(
                "the kernel lets only a process with CAP_SYS_RESOURCE grow a mounted ext file system; give the \
                 container that capability (privileged has it), or remount the volume: it grows at the next stage \
                 ({text})"
            ),
        };
    }
    output.error(tool)
}

/// Grows an unmounted ext file system to its device; the others grow only mounted.
pub(super) fn unmounted(
    tools: &Tools,
    target: &BlockDevice,
    fs: FsType,
    deadline: Instant,
) -> Result<(), HostError> {
    if !is_ext(fs) {
        return Ok(());
    }
    // resize2fs insists on a full check since the last mount.
    e2fsck(tools, target, &["-f", "-p"], deadline)?;
    tools.succeed(command::RESIZE2FS, &[target.path.as_os_str()], deadline)?;
    match room(target)? {
        None => Ok(()),
        Some(left) => Err(HostError::Tool {
            tool: command::RESIZE2FS.name,
            status: "reported success".to_owned(),
            output: format!("but {left} bytes of the disk are still unused"),
        }),
    }
}
