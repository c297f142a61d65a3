//! Behaviour where no source tells what the real cloud does. Each default is the likelier or the harder choice; all of
//! them are invented, so a client must live with either position of each switch.

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// See the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Switches {
    /// HTTP status of error answers.
    pub error_status: u16,
    /// HTTP status of answers to a wrong key, signature or timestamp.
    pub auth_status: u16,
    /// Refuse timestamps further away than this many seconds; 0 switches the check off.
    pub clock_skew_seconds: u64,
    /// How far the cloud's clock, which checks timestamps and tells `Date`, is ahead of this machine's, in seconds;
    /// negative: behind.
    pub clock_ahead_seconds: i32,
    /// Refuse requests without a timestamp.
    pub timestamp_required: bool,
    /// Answer `Server.ResourceIncorrectState.Instance.Processing` while a VM has an operation in flight.
    pub processing_while_busy: bool,
    /// Refuse to detach from a running VM without `Agreement=true`.
    pub agreement_required: bool,
    /// One unknown id fails a whole DescribeVolumes or DescribeInstances; otherwise it is left out of the answer.
    pub unknown_fails_batch: bool,
    /// Answer an attach of a disk that is attached to another VM with a code of its own, instead of
    /// `Server.Inoperable.Volume.AlreadyAttached` for both.
    pub own_code_attached_elsewhere: bool,
    /// Accept sizes 1 to 40 as hundreds, as the manual's older form.
    pub short_sizes: bool,
    /// Deleting a VM deletes its disks; otherwise they are available afterwards.
    pub disks_die_with_vm: bool,
    /// What a call beyond the rate limit gets.
    pub throttle: ThrottleAnswer,
}

/// What a call beyond the rate limit gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ThrottleAnswer {
    /// An error answer of the API with the usual error status.
    Error,
    /// The same with status 429.
    TooManyRequests,
    /// A gateway's page with status 503.
    Gateway,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            error_status: 500,
            auth_status: 401,
            clock_skew_seconds: 0,
            clock_ahead_seconds: 0,
            timestamp_required: true,
            processing_while_busy: true,
            agreement_required: true,
            unknown_fails_batch: true,
            own_code_attached_elsewhere: false,
            short_sizes: true,
            disks_die_with_vm: false,
            throttle: ThrottleAnswer::Error,
        }
    }
}

impl Switches {
    /// What the cloud's clock shows.
    pub(in crate::emulator) fn clock(&self) -> jiff::Timestamp {
        let now = jiff::Timestamp::now();
        let ahead = jiff::SignedDuration::from_secs(self.clock_ahead_seconds.into());
        now.checked_add(ahead).unwrap_or(now)
    }

    /// Checks what types cannot.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn check(&self) -> Result<(), ConfigError> {
        for (name, status) in [
            ("error_status", self.error_status),
            ("auth_status", self.auth_status),
        ] {
            if !(400..600).contains(&status) {
                return Err(ConfigError::Value(format!(
                    "switches.{name} is {status}: expected 400 to 599"
                )));
            }
        }
        Ok(())
    }
}
