//! The machine of a node: rights, tools, SCSI controllers and slots, the kubelet's directory and its sockets.

use std::path::Path;

use super::Check;
use crate::domain::DRIVER_NAME;
use crate::domain::device::{SLOTS_PER_VM, ScsiAddress};
use crate::host::equipment::{Equipment, Propagation, ToolFacts};

/// NIFCLOUD boots from SCSI (0:0); additional disks begin at (0:1).
const BOOT: ScsiAddress = ScsiAddress { bus: 0, target: 0 };

/// Rights and external tools.
#[must_use]
pub fn programs(equipment: &Equipment) -> Vec<Check> {
    let root = if equipment.root {
        Check::ok("root", "this is root")
    } else {
        Check::fail("root", "this is not root").expected(
            "root, which mounts and makes file systems",
            "run it as root, or inside the node plugin's pod by kubectl exec",
        )
    };
    let tools = equipment.tools.iter().map(tool);
    std::iter::once(root).chain(tools).collect()
}

fn tool(tool: &ToolFacts) -> Check {
    let Some(path) = &tool.path else {
        return Check::fail("tool", format!("{} is not installed", tool.name)).expected(
            "all tools of ext3, ext4, xfs and btrfs: without one its file system cannot be made, checked or grown",
            format!("install package {} (apt-get install {})", tool.package, tool.package),
        );
    };
    match &tool.version {
        Ok(version) => Check::ok("tool", format!("{}: {version}", path.display())),
        Err(why) => Check::fail("tool", format!("{}: {why}", path.display())).expected(
            "a program that runs",
            format!("install package {} anew", tool.package),
        ),
    }
}

/// Where disks appear: the SCSI bus, or the directory of links that stands for it.
#[must_use]
pub fn disks(equipment: &Equipment, device_dir: Option<&Path>) -> Check {
    let seen: Vec<_> = equipment
        .disks
        .iter()
        .filter(|(at, _)| *at != Some(BOOT))
        .map(|(at, path)| match at {
            Some(at) => format!("{at} {}", path.display()),
            None => path.display().to_string(),
        })
        .collect();
    let free = SLOTS_PER_VM.saturating_sub(seen.len());
    let slots = if seen.is_empty() {
        format!("no additional disk, {free} of {SLOTS_PER_VM} slots free")
    } else {
        format!("{}; {free} of {SLOTS_PER_VM} slots free", seen.join(", "))
    };
    if let Some(dir) = device_dir {
        if dir.is_dir() {
            return Check::ok("disks", format!("{}: {slots}", dir.display()));
        }
        return Check::fail("disks", format!("{} is not a directory", dir.display())).expected(
            "the directory of by-path links of this VM (the emulator's)",
            "correct --device-dir, or leave it out on a VM of NIFCLOUD",
        );
    }
    let controllers: Vec<_> = equipment
        .controllers
        .iter()
        .map(|one| format!("{} ({})", one.host, one.driver))
        .collect();
    if controllers.is_empty() {
        return Check::fail("disks", "no SCSI controller on the PCI bus").expected(
            "the VM's controller, vmw_pvscsi or mptspi",
            "load its module (modprobe vmw_pvscsi); is this a VM of NIFCLOUD? In a container: is /sys the host's?",
        );
    }
    let found = format!("{}: {slots}", controllers.join(", "));
    if free == 0 {
        return Check::warn("disks", found)
            .expected("a free slot", "detach disks that nobody needs");
    }
    Check::ok("disks", found)
}

/// The kubelet's directory, how mounts in it travel, and the sockets of plugins.
#[must_use]
pub fn kubelet(dir: &Path, propagation: Propagation, registry: Option<&Path>) -> Vec<Check> {
    if !dir.is_dir() {
        let check = Check::fail(
            "kubelet-dir",
            format!("{} is not a directory", dir.display()),
        );
        return vec![check.expected(
            "the kubelet's root directory",
            "look for --root-dir in the kubelet's command line and set --kubelet-dir (KUBELET_DIR); in a pod, mount it \
             at the same path",
        )];
    }
    let found = |how: &str| format!("{}: mounts in it {how}", dir.display());
    let shared = match propagation {
        Propagation::Shared => Check::ok("kubelet-dir", found("reach the pods (shared)")),
        Propagation::Unknown => Check::warn(
            "kubelet-dir",
            found("may not reach the pods: the mount table cannot be read"),
        ),
        Propagation::Private => Check::fail(
            "kubelet-dir",
            found("stay in this mount namespace (private)"),
        )
        .expected(
            "a shared mount",
            "in a pod: mountPropagation: Bidirectional; on the node: mount --make-rshared /",
        ),
    };
    let registry = match registry {
        Some(registry) => sockets(registry),
        None => vec![Check::skip(
            "registration",
            "switched off: the registrar sidecar does it",
        )],
    };
    std::iter::once(shared).chain(registry).collect()
}

/// The plugins' registration sockets: this driver's own, and one of another installation.
fn sockets(registry: &Path) -> Vec<Check> {
    let Ok(entries) = std::fs::read_dir(registry) else {
        let found = format!("{} is not a readable directory", registry.display());
        return vec![Check::fail("registration", found).expected(
            "the directory where the kubelet looks for plugins",
            "is a kubelet running here with this root directory? Correct --kubelet-dir or --plugins-registry-dir",
        )];
    };
    let names =
        entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
    let mut ours: Vec<_> = names.filter(|name| name.starts_with(DRIVER_NAME)).collect();
    ours.sort_unstable();
    let own = format!("{DRIVER_NAME}@reg.sock");
    let mut checks = vec![if ours.contains(&own) {
        answers(&registry.join(&own))
    } else {
        let found = format!("{} holds no socket of this driver", registry.display());
        Check::warn("registration", found).expected(
            format!("{own}, once the node plugin runs"),
            "start the node plugin on this node",
        )
    }];
    let others = ours.iter().filter(|name| **name != own);
    checks.extend(others.map(|other| {
        let found = format!("{} is there", registry.join(other).display());
        Check::warn("registration", found).expected(
            "one installation of the driver on a node",
            "remove the other one (the Go driver with its registrar?), see the migration guide",
        )
    }));
    checks
}

fn answers(socket: &Path) -> Check {
    match std::os::unix::net::UnixStream::connect(socket) {
        Ok(_) => Check::ok("registration", format!("{} answers", socket.display())),
        Err(error) => Check::warn("registration", format!("{}: {error}", socket.display()))
            .expected(
                "a node plugin that answers there",
                "start the node plugin: it replaces a socket that a killed one left",
            ),
    }
}
