//! NodeGetVolumeStats: bytes and inodes of a file system, size of a raw disk.

use std::time::Instant;

use super::command::Look;
use super::error::NodeError;
use super::kernel::Kernel;
use crate::host::Usage;
use crate::proto::csi::v1::volume_usage::Unit;
use crate::proto::csi::v1::{NodeGetVolumeStatsResponse, VolumeUsage};

pub(super) fn stats(
    kernel: &Kernel,
    command: &Look,
) -> Result<NodeGetVolumeStatsResponse, NodeError> {
    let place = kernel.place(&command.disk, &command.path)?;
    let usage = if place.entry.is_some() {
        let until = Instant::now() + kernel.config.timeouts.read;
        let stats = kernel.host.fs_stats(&command.path, until)?;
        let mut usage = vec![row(Unit::Bytes, stats.bytes)];
        // Btrfs has no fixed number of inodes; zeros would read as "full".
        if stats.inodes.total != 0 {
            usage.push(row(Unit::Inodes, stats.inodes));
        }
        usage
    } else {
        let size = kernel.host.identify(&place.device)?.size;
        vec![VolumeUsage {
            total: number(size),
            unit: Unit::Bytes.into(),
            ..VolumeUsage::default()
        }]
    };
    Ok(NodeGetVolumeStatsResponse { usage })
}

fn row(unit: Unit, usage: Usage) -> VolumeUsage {
    VolumeUsage {
        available: number(usage.available),
        total: number(usage.total),
        used: number(usage.used),
        unit: unit.into(),
    }
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
