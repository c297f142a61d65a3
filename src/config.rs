//! What the flags mean: checked once, before any socket opens. A wrong one ends the program with status 64 and words
//! that say what was given, what was expected and what to do.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::cli::{Backend, Cloud, EmulatorArgs, LatencyProfile, NodeArgs};
use crate::domain::DRIVER_NAME;
use crate::domain::id::VmName;
use crate::domain::topology::Zone;
use crate::emulator::{self, BackendKind, Latency};

/// Exit status for a wrong command line or configuration (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Nothing was given where something is needed.
    #[error("{what} is missing: set {flag} or the environment variable {variable}")]
    Missing {
        /// What.
        what: &'static str,
        /// The flag.
        flag: &'static str,
        /// The variable.
        variable: &'static str,
    },
    /// A value that cannot be right.
    #[error("{flag} is {value:?}: expected {expected}")]
    Value {
        /// The flag.
        flag: &'static str,
        /// The value as it came.
        value: String,
        /// What is possible.
        expected: String,
    },
    /// The emulator's file and flags do not make a cloud.
    #[error("{0}")]
    Emulator(String),
}

/// The node role's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSettings {
    /// The VM.
    pub name: VmName,
    /// Its zone; `None` when no flag and no label of the pod tells it, so that the Node object must.
    pub zone: Option<Zone>,
    /// By-path directory, if any.
    pub device_dir: Option<PathBuf>,
    /// The kubelet's root.
    pub kubelet_dir: PathBuf,
    /// Records.
    pub state_dir: PathBuf,
    /// Fixed number of volumes.
    pub max_volumes: Option<u16>,
    /// Slots to leave free.
    pub reserve_slots: u16,
    /// Directory of the registration socket, if the driver registers itself.
    pub plugins_registry: Option<PathBuf>,
}

fn absolute(flag: &'static str, path: &Path) -> Result<PathBuf, ConfigError> {
    let plain = path.components().all(|part| part.as_os_str() != "..");
    if path.is_absolute() && plain {
        return Ok(path.to_owned());
    }
    Err(ConfigError::Value {
        flag,
        value: path.display().to_string(),
        expected: "an absolute path without \"..\"".to_owned(),
    })
}

/// Checks the name of a zone.
///
/// # Errors
/// [`ConfigError`].
pub fn zone(name: &str) -> Result<Zone, ConfigError> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '-';
    match Zone::parse(name.trim()) {
        Some(zone) if zone.as_str().chars().all(word) => Ok(zone),
        Some(_) => Err(ConfigError::Value {
            flag: "--zone",
            value: name.to_owned(),
            expected: "the name of a zone, such as east-11".to_owned(),
        }),
        None => Err(ConfigError::Missing {
            what: "the zone",
            flag: "--zone",
            variable: "NIFCLOUD_ZONE (from Kubernetes 1.35 on, the pod's label topology.kubernetes.io/zone gives it; with a \
                       service account that may read its Node, the Node's label does)",
        }),
    }
}

/// Checks the node's flags.
///
/// # Errors
/// [`ConfigError`].
pub fn node(args: &NodeArgs) -> Result<NodeSettings, ConfigError> {
    if args.node_name.is_empty() {
        return Err(ConfigError::Missing {
            what: "the name of this VM",
            flag: "--node-name",
            variable: "NODE_NAME",
        });
    }
    let name = VmName::parse(&args.node_name).map_err(|error| ConfigError::Value {
        flag: "--node-name",
        value: args.node_name.clone(),
        expected: error.to_string(),
    })?;
    let told = !args.zone.trim().is_empty();
    let zone = told.then(|| zone(&args.zone)).transpose()?;
    if args.max_volumes == Some(0) {
        return Err(ConfigError::Value {
            flag: "--max-volumes",
            value: "0".to_owned(),
            expected: "at least 1, or leave it out to have it computed".to_owned(),
        });
    }
    let kubelet_dir = absolute("--kubelet-dir", &args.kubelet_dir)?;
    let state_dir = match &args.state_dir {
        Some(dir) => absolute("--state-dir", dir)?,
        None => kubelet_dir.join("plugins").join(DRIVER_NAME).join("state"),
    };
    let registry = match &args.plugins_registry_dir {
        Some(dir) => absolute("--plugins-registry-dir", dir)?,
        None => kubelet_dir.join("plugins_registry"),
    };
    let device_dir = args
        .device_dir
        .as_deref()
        .map(|dir| absolute("--device-dir", dir))
        .transpose()?;
    Ok(NodeSettings {
        name,
        zone,
        device_dir,
        kubelet_dir,
        state_dir,
        max_volumes: args.max_volumes,
        reserve_slots: args.reserve_slots,
        plugins_registry: args.registration.then_some(registry),
    })
}

/// Checks the cloud's flags that the client does not check itself.
///
/// # Errors
/// [`ConfigError`].
pub fn cloud(args: &Cloud) -> Result<(), ConfigError> {
    if args.region.trim().is_empty() && args.cloud_endpoint.is_none() {
        return Err(ConfigError::Missing {
            what: "the region",
            flag: "--region",
            variable: "NIFCLOUD_REGION (for example jp-east-1)",
        });
    }
    if !(args.api_rate.is_finite() && args.api_rate >= 0.1) {
        return Err(ConfigError::Value {
            flag: "--api-rate",
            value: args.api_rate.to_string(),
            expected: "calls per second, at least 0.1".to_owned(),
        });
    }
    Ok(())
}

/// The grace period.
#[must_use]
pub fn grace(seconds: u64) -> Duration {
    Duration::from_secs(seconds.min(3600))
}

/// Puts the emulator's file and flags together.
///
/// # Errors
/// [`ConfigError::Value`] for a file that cannot be read or a flag that does not fit.
pub fn emulator(
    args: &EmulatorArgs,
    admin: Option<SocketAddr>,
) -> Result<emulator::Config, ConfigError> {
    let wrong =
        |flag: &'static str, value: String, expected: &dyn std::fmt::Display| ConfigError::Value {
            flag,
            value,
            expected: expected.to_string(),
        };
    let mut config = match &args.config {
        None => emulator::Config::default(),
        Some(path) => {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(path)
                .map_err(|e| wrong("--config", name.clone(), &format!("a readable file: {e}")))?;
            emulator::Config::incomplete(&text).map_err(|e| wrong("--config", name, &e))?
        }
    };
    config.listen = args.listen.unwrap_or(config.listen);
    config.admin_listen = admin.unwrap_or(config.admin_listen);
    config.allow_non_loopback |= args.allow_non_loopback;
    config.data_dir = args.data_dir.clone().or(config.data_dir);
    config.device_dir = args.device_dir.clone().or(config.device_dir);
    match args.backend {
        Some(Backend::None) => config.backend = BackendKind::None,
        Some(Backend::Loop) => config.backend = BackendKind::Loop,
        None => {}
    }
    match args.latency {
        Some(LatencyProfile::Fast) => config.latency = Latency::FAST,
        Some(LatencyProfile::Realistic) => config.latency = Latency::REALISTIC,
        None => {}
    }
    for vm in &args.vms {
        config = config
            .vm_from_flag(vm)
            .map_err(|e| wrong("--vm", vm.clone(), &e))?;
    }
    // File and flags together: a file may lack what a flag gives.
    config
        .check()
        .map_err(|e| ConfigError::Emulator(e.to_string()))?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Role};
    use clap::Parser as _;

    fn node_args(words: &[&str]) -> NodeArgs {
        let all = ["x", "node"].iter().chain(words);
        match Cli::try_parse_from(all).unwrap().role {
            Role::Node { node, .. } => node,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_wrong_flag_says_what_was_expected_and_what_to_do() {
        let zone = ["--zone", "east-11"];
        let cases: [(&[&str], &str); 5] = [
            (&["--node-name", ""], "NODE_NAME"),
            (&["--node-name", "a b"], "letters and digits"),
            (
                &["--node-name", "n", "--kubelet-dir", "kubelet"],
                "absolute path",
            ),
            (
                &["--node-name", "n", "--state-dir", "/a/../b"],
                "absolute path",
            ),
            (&["--node-name", "n", "--max-volumes", "0"], "at least 1"),
        ];
        for (words, expected) in cases {
            let error = node(&node_args(&[words, &zone].concat()))
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error}");
        }
        let untold = node(&node_args(&["--node-name", "n", "--zone", ""])).unwrap();
        assert_eq!(untold.zone, None, "the Node object is asked");
        let error = super::zone("").unwrap_err();
        assert!(error.to_string().contains("NIFCLOUD_ZONE"), "{error}");
    }
}
