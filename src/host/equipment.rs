//! What the machine is equipped with, for an operator who asks before the driver runs. Reads and asks tools for their
//! versions; scans nothing, waits for nothing.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::command::{self, Tool};
use super::device::text;
use super::linux::LinuxHost;
use super::paths::settled;
use crate::domain::device::ScsiAddress;

/// An external tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolFacts {
    /// The program.
    pub name: &'static str,
    /// Debian's package.
    pub package: &'static str,
    /// Absolute path; `None` when it is not installed.
    pub path: Option<PathBuf>,
    /// The first line that it says of itself, or why it does not.
    pub version: Result<String, String>,
}

/// A SCSI controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerFacts {
    /// The kernel's name, such as `host2`.
    pub host: String,
    /// The kernel's driver (`proc_name`), such as `vmw_pvscsi`.
    pub driver: String,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Equipment {
    /// Tools in the order of the driver's list.
    pub tools: Vec<ToolFacts>,
    /// Controllers in PCI order: number B of `SCSI (B:N)` is the B-th.
    pub controllers: Vec<ControllerFacts>,
    /// Disks in slots, with their device nodes.
    pub disks: Vec<(Option<ScsiAddress>, PathBuf)>,
    /// Whether this process is root.
    pub root: bool,
}

/// How mounts made below a directory travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// To the other mount namespaces of the same peer group.
    Shared,
    /// Nowhere.
    Private,
    /// The table could not be read.
    Unknown,
}

impl LinuxHost {
    /// Looks at the machine; each tool may take until `deadline`.
    #[must_use]
    pub fn equipment(&self, deadline: Instant) -> Equipment {
        let tools = command::ALL.iter().map(|tool| self.tool(*tool, deadline));
        let disks = self.disks().into_iter();
        Equipment {
            tools: tools.collect(),
            controllers: self.scsi.described(),
            disks: disks.map(|disk| (disk.address, disk.path)).collect(),
            root: nix::unistd::geteuid().is_root(),
        }
    }

    fn tool(&self, tool: Tool, deadline: Instant) -> ToolFacts {
        let args: &[&OsStr] = match tool {
            // It has no such flag and says its version with its usage.
            command::RESIZE2FS => &[],
            command::BTRFS => &[OsStr::new("--version")],
            _ => &[OsStr::new("-V")],
        };
        let path = self.tools.locate(tool).ok();
        let version = match self.tools.run(tool, args, deadline) {
            Ok(output) => {
                let lines = output.stdout.lines().chain(output.stderr.lines());
                let mut lines = lines.map(str::trim).filter(|line| !line.is_empty());
                lines
                    .next()
                    .map(|line| line.chars().take(80).collect())
                    .ok_or_else(|| "it says nothing of itself".to_owned())
            }
            Err(error) => Err(error.to_string()),
        };
        ToolFacts {
            name: tool.name,
            package: tool.package,
            path,
            version,
        }
    }

    /// How mounts made in `directory` travel: a node plugin in a container mounts for pods outside of it.
    #[must_use]
    pub fn propagation(&self, directory: &Path) -> Propagation {
        let Ok(table) = std::fs::read(&self.config.mountinfo) else {
            return Propagation::Unknown;
        };
        let directory = settled(directory);
        // The longest mount point above, and of those at one place the last, which lies on top.
        let rows = String::from_utf8_lossy(&table).into_owned();
        let above = rows.lines().filter_map(|row| {
            let target = super::mountinfo::parse_line(row.as_bytes())?.target;
            directory.starts_with(&target).then_some((target, row))
        });
        let above = above.max_by_key(|(target, _)| target.as_os_str().len());
        match above {
            None => Propagation::Unknown,
            Some((_, row)) => {
                let optional = row.split(' ').skip(6).take_while(|field| *field != "-");
                if optional
                    .into_iter()
                    .any(|field| field.starts_with("shared:"))
                {
                    Propagation::Shared
                } else {
                    Propagation::Private
                }
            }
        }
    }
}

/// The driver behind a SCSI host, as the kernel names it.
pub(super) fn driver_of(host: &Path) -> String {
    text(&host.join("proc_name")).unwrap_or_else(|| "unknown".to_owned())
}
