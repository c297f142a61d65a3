//! Flags and environment: what the user wrote, as clap reads it. [`crate::config`] checks what it means.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// CSI driver for NIFCLOUD (FJcloud-V) additional disks.
#[derive(Debug, Clone, Parser)]
#[command(version, about, long_about = None, max_term_width = 100)]
pub struct Cli {
    /// Options of every role.
    #[command(flatten)]
    pub common: Common,
    /// The role.
    #[command(subcommand)]
    pub role: Role,
}

/// What the program is to be.
#[derive(Debug, Clone, Subcommand)]
pub enum Role {
    /// Serve CSI Identity and Controller: needs the cloud's keys.
    Controller {
        /// Where CSI is served.
        #[command(flatten)]
        serve: Serve,
        /// The cloud.
        #[command(flatten)]
        cloud: Cloud,
        /// Zone of disks whose claim names none, such as east-11; any zone with a running VM when left out.
        #[arg(long, env = "NIFCLOUD_ZONE")]
        zone: Option<String>,
    },
    /// Serve CSI Identity and Node: needs root, no keys.
    Node {
        /// Where CSI is served.
        #[command(flatten)]
        serve: Serve,
        /// The machine.
        #[command(flatten)]
        node: NodeArgs,
        /// The cluster.
        #[command(flatten)]
        kube: KubeArgs,
    },
    /// Serve Identity, Controller and Node in one process: a single machine, tests.
    All {
        /// Where CSI is served.
        #[command(flatten)]
        serve: Serve,
        /// The cloud.
        #[command(flatten)]
        cloud: Cloud,
        /// The machine.
        #[command(flatten)]
        node: NodeArgs,
        /// The cluster.
        #[command(flatten)]
        kube: KubeArgs,
    },
    /// Wait until a draining node's volumes are detached; end at once on any other node. A node pod's preStop hook.
    PreStop {
        /// This VM's name in NIFCLOUD, which is also the Kubernetes node's.
        #[arg(long, env = "NODE_NAME", default_value = "")]
        node_name: String,
        /// Longest wait; shorter than the pod's terminationGracePeriodSeconds by the grace period.
        #[arg(
            long,
            env = "PRE_STOP_LIMIT",
            default_value_t = 240,
            value_name = "SECONDS"
        )]
        limit: u64,
        /// The cluster.
        #[command(flatten)]
        kube: KubeArgs,
    },
    /// Compare the cloud's disks with the cluster's PersistentVolumes and VolumeAttachments; changes nothing.
    Audit {
        /// The cloud.
        #[command(flatten)]
        cloud: Cloud,
        /// The cluster.
        #[command(flatten)]
        kube: KubeArgs,
    },
    /// Check keys, cloud, machine and cluster before (or beside) a controller or a node; changes nothing.
    Doctor(DoctorArgs),
    /// Serve a NIFCLOUD computing API on loopback, with real disks behind it.
    Emulator(EmulatorArgs),
    /// Walk a claim's whole life on the embedded cloud, and show each step.
    Demo(DemoArgs),
}

/// Options of every role.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Form of the log on standard error.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, global = true)]
    pub log_format: LogFormat,
    /// Level of the log: error, warn, info, debug, trace, or a filter such as `info,additional_storage_csi=debug`;
    /// default: info (demo: error).
    #[arg(long, env = "LOG_LEVEL", global = true)]
    pub log_level: Option<String>,
    /// Address of /livez, /readyz, /metrics and /log-level (emulator: of its control endpoint); none when left out.
    #[arg(long, env = "ADMIN_LISTEN", global = true)]
    pub admin_listen: Option<SocketAddr>,
    /// Seconds that running operations may take after SIGTERM.
    #[arg(
        long,
        env = "GRACE_PERIOD",
        default_value_t = 30,
        value_name = "SECONDS",
        global = true
    )]
    pub grace_period: u64,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where CSI is served.
#[derive(Debug, Clone, Args)]
pub struct Serve {
    /// Socket of the CSI services.
    #[arg(
        long,
        env = "CSI_ENDPOINT",
        default_value = "unix:///csi/csi.sock",
        value_name = "unix:///PATH"
    )]
    pub endpoint: String,
}

/// The cloud.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Cloud")]
pub struct Cloud {
    /// Region, such as jp-east-1.
    #[arg(long, env = "NIFCLOUD_REGION", default_value = "")]
    pub region: String,
    /// Another endpoint than the region's own, such as the emulator's.
    #[arg(long, env = "NIFCLOUD_ENDPOINT", value_name = "URL")]
    pub cloud_endpoint: Option<String>,
    /// Accept an http endpoint on another machine (an emulator in a cluster; keys travel unencrypted).
    #[arg(long, env = "NIFCLOUD_ALLOW_INSECURE_ENDPOINT")]
    pub allow_insecure_endpoint: bool,
    /// API calls per second in all, reads included.
    #[arg(long, env = "API_RATE", default_value_t = 20.0, value_name = "CALLS")]
    pub api_rate: f64,
}

/// The machine.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Node")]
pub struct NodeArgs {
    /// This VM's name in NIFCLOUD, which is also the Kubernetes node's.
    #[arg(long, env = "NODE_NAME", default_value = "")]
    pub node_name: String,
    /// This VM's zone, such as east-11.
    #[arg(long, env = "NIFCLOUD_ZONE", default_value = "")]
    pub zone: String,
    /// Directory of by-path links to find disks in (the emulator's); the SCSI bus when left out.
    #[arg(long, env = "DEVICE_DIR")]
    pub device_dir: Option<PathBuf>,
    /// The kubelet's root directory.
    #[arg(long, env = "KUBELET_DIR", default_value = "/var/lib/kubelet")]
    pub kubelet_dir: PathBuf,
    /// The driver's records of staged volumes; default: under the kubelet's plugins directory.
    #[arg(long, env = "STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Volumes that this node offers; default: 14 less the disks that are not the driver's.
    #[arg(long, env = "MAX_VOLUMES")]
    pub max_volumes: Option<u16>,
    /// Slots to leave free for disks attached by hand.
    #[arg(long, env = "RESERVE_SLOTS", default_value_t = 0)]
    pub reserve_slots: u16,
    /// Register with the kubelet (switch it off to use the registrar sidecar).
    #[arg(long, env = "REGISTRATION", default_value_t = true, action = clap::ArgAction::Set)]
    pub registration: bool,
    /// Where the kubelet looks for plugins; default: plugins_registry in its root directory.
    #[arg(long, env = "PLUGINS_REGISTRY_DIR")]
    pub plugins_registry_dir: Option<PathBuf>,
}

/// The cluster.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Kubernetes")]
pub struct KubeArgs {
    /// The Kubernetes API server, such as that of `kubectl proxy`, http://127.0.0.1:8001; a pod finds its own.
    #[arg(long, env = "KUBE_API", value_name = "URL")]
    pub kube_api: Option<String>,
    /// Directory of the service account's token and the API server's authority.
    #[arg(
        long,
        env = "SERVICE_ACCOUNT_DIR",
        default_value = "/var/run/secrets/kubernetes.io/serviceaccount",
        value_name = "DIR"
    )]
    pub service_account_dir: PathBuf,
}

/// The preflight.
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// What is to run here: a node needs no keys, a controller no tools.
    #[arg(long, value_enum, default_value_t = DoctorOn::All)]
    pub on: DoctorOn,
    /// One JSON object instead of lines.
    #[arg(long)]
    pub json: bool,
    /// The cloud.
    #[command(flatten)]
    pub cloud: Cloud,
    /// The machine.
    #[command(flatten)]
    pub node: NodeArgs,
    /// The cluster.
    #[command(flatten)]
    pub kube: KubeArgs,
}

/// What a preflight looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DoctorOn {
    /// Keys, endpoint, clock, zone.
    Controller,
    /// Tools, SCSI controller, kubelet, Node object.
    Node,
    /// Both.
    All,
}

/// The emulator.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Emulator")]
pub struct EmulatorArgs {
    /// Configuration file (TOML); flags come on top of it.
    #[arg(long, env = "EMULATOR_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address of the API; port 0 chooses one.
    #[arg(long)]
    pub listen: Option<SocketAddr>,
    /// Serve on addresses that are not loopback.
    #[arg(long)]
    pub allow_non_loopback: bool,
    /// What stands behind a disk.
    #[arg(long, value_enum)]
    pub backend: Option<Backend>,
    /// State and disk images; in memory when left out.
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// By-path links, one directory per VM (loop backend).
    #[arg(long)]
    pub device_dir: Option<PathBuf>,
    /// A VM; may be repeated.
    #[arg(long = "vm", value_name = "NAME:ZONE")]
    pub vms: Vec<String>,
    /// How long operations take.
    #[arg(long, value_enum)]
    pub latency: Option<LatencyProfile>,
}

/// What stands behind an emulated disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// Nothing: the API alone.
    None,
    /// Sparse files and loop devices (root).
    Loop,
}

/// Durations of the emulated cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LatencyProfile {
    /// Tens of milliseconds.
    Fast,
    /// Seconds, as the real cloud.
    Realistic,
}

/// The demo.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Where the disks' sparse files are kept for the time being; default: the system's temporary directory.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Real SCSI disks in two VMs instead of loop devices (QEMU; no KVM needed).
    #[arg(long)]
    pub vm: bool,
    /// What the VMs boot from: the directory that scripts/vm/setup.sh prints.
    #[arg(long, env = "VM_LAB", value_name = "DIR")]
    pub lab: Option<PathBuf>,
}

/// Reads the command line. `Err` holds the exit code after help, version or a wrong flag: 0 or 64.
///
/// # Errors
/// The exit code; clap has printed why.
pub fn parse() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|error| {
        let _ = error.print();
        ExitCode::from(if error.use_stderr() {
            crate::config::EXIT_USAGE
        } else {
            0
        })
    })
}

#[cfg(test)]
mod tests;
