//! What the emulated cloud is made of: one region, its zones and VMs, how long things take, which quirks it has.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::faults::Rule;

mod file;
mod switches;

pub use switches::{Switches, ThrottleAnswer};

/// Everything an emulator is started with. Read from TOML by [`Config::from_toml`]; unknown keys are errors.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address of the API; port 0 chooses one.
    pub listen: SocketAddr,
    /// Address of the admin endpoint.
    pub admin_listen: SocketAddr,
    /// Serve on an address that is not loopback (an emulator inside a cluster).
    pub allow_non_loopback: bool,
    /// Accepted access keys and their secrets.
    pub keys: BTreeMap<String, String>,
    /// Region name as the API writes it.
    pub region: String,
    /// Zones without a VM; the VMs' own zones need not be listed.
    pub zones: Vec<String>,
    /// VMs.
    pub vms: Vec<VmConfig>,
    /// Directory of state and disk images; none keeps all in memory.
    pub data_dir: Option<PathBuf>,
    /// Directory of the by-path directories, one per VM (`loop` backend).
    pub device_dir: Option<PathBuf>,
    /// What stands behind a disk.
    pub backend: BackendKind,
    /// How long operations take.
    pub latency: Latency,
    /// Calls per second and burst; none means unlimited.
    pub rate_limit: Option<RateLimit>,
    /// Behaviour where the real cloud's is unknown.
    pub switches: Switches,
    /// Faults in force from the start.
    pub faults: Vec<Rule>,
}

/// A VM. In a file: a table, or `"NAME:ZONE"` for a running one.
#[derive(Debug, Clone, Serialize)]
pub struct VmConfig {
    /// `InstanceId`.
    pub name: String,
    /// Zone.
    pub zone: String,
    /// `running` or `stopped`.
    pub state: String,
    /// QEMU's control socket (`qmp` backend).
    pub qmp: Option<PathBuf>,
}

/// What stands behind a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// Nothing: the API alone, for tests of scale.
    None,
    /// A sparse file and a loop device per disk, a by-path directory per VM.
    Loop,
    /// Disks hot-plugged into QEMU VMs.
    Qmp,
}

/// Milliseconds from an accepted call to its completion. In a file: a table, or `"fast"` or `"realistic"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// CreateVolume until attached.
    pub create: u64,
    /// AttachVolume.
    pub attach: u64,
    /// DetachVolume.
    pub detach: u64,
    /// ExtendVolumeSize.
    pub extend: u64,
    /// DeleteVolume until not found.
    pub delete: u64,
    /// The answer of ModifyVolumeAttribute, which is complete with it.
    pub modify: u64,
    /// The answer of a call that changes nothing, on top of `reply`.
    pub describe: u64,
    /// The answer itself of any call.
    pub reply: u64,
}

impl Latency {
    /// For tests: tens of milliseconds.
    pub const FAST: Self = Self {
        create: 40,
        attach: 30,
        detach: 30,
        extend: 30,
        delete: 20,
        modify: 0,
        describe: 0,
        reply: 0,
    };
    /// As the real cloud is believed to be (the vendor's driver waits up to a minute for each).
    pub const REALISTIC: Self = Self {
        create: 10_000,
        attach: 5_000,
        detach: 5_000,
        extend: 8_000,
        delete: 3_000,
        modify: 200,
        describe: 0,
        reply: 100,
    };
}

impl Default for Latency {
    fn default() -> Self {
        Self::FAST
    }
}

/// A limit on calls.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Calls per second.
    pub per_second: f64,
    /// Calls at once after a pause.
    pub burst: f64,
}

impl RateLimit {
    /// Checks that calls can pass at all.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let fits = |value: f64, least: f64| value.is_finite() && value >= least;
        if fits(self.per_second, f64::MIN_POSITIVE) && fits(self.burst, 1.0) {
            return Ok(());
        }
        Err(ConfigError::Value(
            "rate_limit: per_second must be above 0 and burst at least 1".to_owned(),
        ))
    }
}

/// A configuration that cannot be used.
#[derive(Debug, Clone, Error)]
pub enum ConfigError {
    /// Not TOML, or a key that does not exist.
    #[error("the emulator's configuration cannot be read: {0}")]
    Syntax(String),
    /// A value out of range.
    #[error("the emulator's configuration: {0}")]
    Value(String),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            allow_non_loopback: false,
            keys: BTreeMap::from([("EMULATORKEY".to_owned(), "emulator-secret".to_owned())]),
            region: "east-1".to_owned(),
            zones: Vec::new(),
            vms: Vec::new(),
            data_dir: None,
            device_dir: None,
            backend: BackendKind::None,
            latency: Latency::FAST,
            rate_limit: None,
            switches: Switches::default(),
            faults: Vec::new(),
        }
    }
}

impl Config {
    /// Reads a configuration file's text.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let config = Self::incomplete(text)?;
        config.check()?;
        Ok(config)
    }

    /// Reads a configuration file's text that flags complete: whoever adds them calls [`Config::check`].
    ///
    /// # Errors
    /// [`ConfigError::Syntax`].
    pub fn incomplete(text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| ConfigError::Syntax(error.to_string()))
    }

    /// Adds a running VM.
    #[must_use]
    pub fn vm(mut self, name: &str, zone: &str) -> Self {
        self.vms.push(VmConfig {
            name: name.to_owned(),
            zone: zone.to_owned(),
            state: file::running(),
            qmp: None,
        });
        self
    }

    /// Adds a running VM from `NAME:ZONE`.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn vm_from_flag(self, flag: &str) -> Result<Self, ConfigError> {
        match flag.split_once(':') {
            Some((name, zone)) if !name.is_empty() && !zone.is_empty() => Ok(self.vm(name, zone)),
            _ => Err(ConfigError::Value(format!(
                "VM {flag:?}: expected NAME:ZONE"
            ))),
        }
    }

    /// Checks what TOML's types cannot.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let bad = |message: String| Err(ConfigError::Value(message));
        self.switches.check()?;
        for address in [self.listen, self.admin_listen] {
            if !address.ip().is_loopback() && !self.allow_non_loopback {
                return bad(format!(
                    "{address} is not a loopback address; set allow_non_loopback to serve others"
                ));
            }
        }
        let mut names = std::collections::BTreeSet::new();
        for vm in &self.vms {
            if !is_vm_name(&vm.name) {
                return bad(format!(
                    "VM {:?}: a name is 1 to 63 letters, digits, '-' or '.'",
                    vm.name
                ));
            }
            if !names.insert(&vm.name) {
                return bad(format!("VM {} is listed twice", vm.name));
            }
            if !matches!(vm.state.as_str(), "running" | "stopped") {
                return bad(format!("VM {}: state must be running or stopped", vm.name));
            }
            if self.backend == BackendKind::Qmp && vm.qmp.is_none() {
                return bad(format!(
                    "VM {}: the qmp backend needs its qmp socket",
                    vm.name
                ));
            }
        }
        if let Some(limit) = self.rate_limit {
            limit.check()?;
        }
        for rule in &self.faults {
            rule.check()?;
        }
        if self.backend != BackendKind::None && self.data_dir.is_none() {
            return bad("this backend needs data_dir, where the disks' images are kept".to_owned());
        }
        if self.backend == BackendKind::Loop && self.device_dir.is_none() {
            return bad("the loop backend needs device_dir, for the VMs' by-path links".to_owned());
        }
        if self.keys.is_empty() {
            return bad("no access key: set [keys] to ID = \"SECRET\"".to_owned());
        }
        Ok(())
    }
}

/// Whether a VM may be called so. The API allows 15 letters and digits only; names of Kubernetes nodes in a laptop's
/// cluster (`kind-worker2`) are accepted as well. The name becomes a directory, so it must not be able to leave one.
pub(super) fn is_vm_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::super::faults::Effect;
    use super::*;

    #[test]
    fn a_file_may_name_a_profile_and_list_vms_in_one_word_each() {
        let config = Config::from_toml(
            r#"
            latency = "realistic"
            vms = ["node1:east-11", { name = "node2", zone = "east-12", state = "stopped" }]
            [switches]
            throttle = "too_many_requests"
            [[faults]]
            action = "AttachVolume"
            effect = { stuck = { ms = 60000 } }
            [[faults]]
            probability = 0.1
            effect = "drop_after"
            "#,
        )
        .unwrap();
        assert_eq!(config.latency, Latency::REALISTIC);
        assert_eq!(config.vms[0].zone, "east-11");
        assert_eq!(config.vms[1].state, "stopped");
        assert_eq!(config.switches.throttle, ThrottleAnswer::TooManyRequests);
        assert_eq!(config.faults[0].effect, Effect::Stuck { ms: 60_000 });
        assert_eq!(config.faults[1].effect, Effect::DropAfter);
        let some = Config::from_toml("[latency]\ncreate = 7").unwrap().latency;
        assert_eq!((some.create, some.attach), (7, Latency::FAST.attach));
    }

    #[test]
    fn a_wrong_key_or_value_is_refused_by_naming_the_right_ones() {
        let cases = [
            ("vm = []", "expected one of"),
            ("[latency]\ncraete = 1", "`create`"),
            ("latency = \"slow\"", "`fast` or `realistic`"),
            ("vms = [\"node1\"]", "NAME:ZONE"),
            ("vms = [{ nmae = \"a\", zone = \"z\" }]", "`name`"),
            ("vms = [\"a:z\", \"a:z\"]", "listed twice"),
            ("vms = [\"../up:z\"]", "letters, digits"),
            ("backend = \"loop\"", "data_dir"),
            ("backend = \"disk\"", "`none`"),
            ("listen = \"0.0.0.0:80\"", "allow_non_loopback"),
            ("[rate_limit]\nper_second = 0.0\nburst = 1.0", "above 0"),
            ("[switches]\nerror_code = 1", "`error_status`"),
            ("[switches]\nerror_status = 200", "400 to 599"),
            ("[keys]", "no access key"),
            ("[[faults]]\neffect = \"explode\"", "`throttle`"),
            (
                "[[faults]]\neffect = \"throttle\"\nprobability = 1.5",
                "0 to 1",
            ),
            (
                "[[faults]]\neffect = { gateway_after = { status = 42 } }",
                "100 to 599",
            ),
        ];
        for (text, expected) in cases {
            let error = Config::from_toml(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
