//! The fleet's settings, with the reason for every default.

use std::time::Duration;

use thiserror::Error;

use crate::domain::device::SLOTS_PER_VM;

/// How the fleet spends calls. NIFCLOUD documents no rate limit, so the defaults are what one well-behaved
/// client may ask, and throttling answers lower them at run time.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetConfig {
    /// API calls per second, reads and writes together. 20: a burst of 1000 claims is then a minute's work.
    pub rate: f64,
    /// Calls that may be sent at once after a quiet time. 40: two seconds' worth, so that one pod with many
    /// claims never waits for the bucket.
    pub burst: u32,
    /// Throttling never lowers the rate below this, in calls per second. 1: progress stays visible.
    pub rate_floor: f64,
    /// Slow operations at once per VM. 1: the API answers `Processing` to a second one.
    pub operations_per_vm: usize,
    /// Names in one `DescribeVolumes`. 200: about 10 kB of request.
    pub names_per_read: usize,
    /// How long a read waits for others to join it. 5 ms: far below one call's time.
    pub window: Duration,
    /// Shortest time between two reads of a waiter.
    pub poll_min: Duration,
    /// Time between two reads of a waiter, as a part of the operation's learned duration. 0.05: the driver adds
    /// at most a twentieth to the cloud's own time.
    pub poll_fraction: f64,
    /// How long a single read of a disk or VM is repeated while the API cannot be read, and a write that cannot be sent.
    pub read_patience: Duration,
    /// Age up to which all disks are served from memory (`ListVolumes`); own writes end it sooner.
    pub disks_max_age: Duration,
    /// Age up to which all VMs are served from memory; own writes are added to it.
    pub vms_max_age: Duration,
    /// Additional disks that a VM holds.
    pub disks_per_vm: usize,
}

impl Default for FleetConfig {
    fn default() -> Self {
        Self {
            rate: 20.0,
            burst: 40,
            rate_floor: 1.0,
            operations_per_vm: 1,
            names_per_read: 200,
            window: Duration::from_millis(5),
            poll_min: Duration::from_millis(50),
            poll_fraction: 0.05,
            read_patience: Duration::from_secs(5),
            disks_max_age: Duration::from_secs(10),
            vms_max_age: Duration::from_secs(10),
            disks_per_vm: SLOTS_PER_VM,
        }
    }
}

/// A setting out of its range.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field} is {value}: expected {expected}")]
pub struct FleetConfigError {
    /// The field of [`FleetConfig`].
    pub field: &'static str,
    /// What it was.
    pub value: String,
    /// The range.
    pub expected: &'static str,
}

impl FleetConfig {
    /// Checks every field.
    ///
    /// # Errors
    /// The first field that is out of its range.
    pub fn validate(&self) -> Result<(), FleetConfigError> {
        check(
            self.rate > 0.0 && self.rate <= 10_000.0,
            "rate",
            self.rate.to_string(),
            "more than 0 and at most 10000 calls per second",
        )?;
        check(
            self.rate_floor > 0.0 && self.rate_floor <= self.rate,
            "rate_floor",
            self.rate_floor.to_string(),
            "more than 0 and at most the rate",
        )?;
        check(
            self.burst >= 1,
            "burst",
            self.burst.to_string(),
            "at least 1",
        )?;
        check(
            (1..=SLOTS_PER_VM).contains(&self.operations_per_vm),
            "operations_per_vm",
            self.operations_per_vm.to_string(),
            "1 to 14",
        )?;
        check(
            (1..=1000).contains(&self.names_per_read),
            "names_per_read",
            self.names_per_read.to_string(),
            "1 to 1000",
        )?;
        check(
            self.poll_fraction > 0.0 && self.poll_fraction <= 1.0,
            "poll_fraction",
            self.poll_fraction.to_string(),
            "more than 0 and at most 1",
        )?;
        check(
            self.poll_min >= Duration::from_millis(1),
            "poll_min",
            format!("{:?}", self.poll_min),
            "at least 1 ms",
        )?;
        check(
            (Duration::from_millis(1)..=Duration::from_secs(1)).contains(&self.window),
            "window",
            format!("{:?}", self.window),
            "1 ms to 1 s",
        )?;
        check(
            self.disks_per_vm >= 1,
            "disks_per_vm",
            self.disks_per_vm.to_string(),
            "at least 1",
        )
    }
}

fn check(
    good: bool,
    field: &'static str,
    value: String,
    expected: &'static str,
) -> Result<(), FleetConfigError> {
    if good {
        return Ok(());
    }
    Err(FleetConfigError {
        field,
        value,
        expected,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_every_bad_field_is_named() {
        assert_eq!(FleetConfig::default().validate(), Ok(()));
        let bad = |change: fn(&mut FleetConfig)| {
            let mut config = FleetConfig::default();
            change(&mut config);
            config.validate().unwrap_err().field
        };
        assert_eq!(bad(|c| c.rate = f64::NAN), "rate");
        assert_eq!(bad(|c| c.rate_floor = 30.0), "rate_floor");
        assert_eq!(bad(|c| c.burst = 0), "burst");
        assert_eq!(bad(|c| c.operations_per_vm = 0), "operations_per_vm");
        assert_eq!(bad(|c| c.names_per_read = 0), "names_per_read");
        assert_eq!(bad(|c| c.poll_fraction = 0.0), "poll_fraction");
        assert_eq!(bad(|c| c.poll_min = Duration::ZERO), "poll_min");
        assert_eq!(bad(|c| c.window = Duration::from_secs(2)), "window");
        assert_eq!(bad(|c| c.disks_per_vm = 0), "disks_per_vm");
    }
}
