//! Where a disk is found in the guest.

use std::fmt;

use thiserror::Error;

/// A slot of a VM: `SCSI (B:N)`, controller B, target N. Travels as `devicePath` in the publish context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScsiAddress {
    /// SCSI controller, counted in PCI order from 0.
    pub bus: u8,
    /// Target id on that controller.
    pub target: u8,
}

/// A text that is not a slot.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "device path {text:?} is not a slot: expected \"SCSI (B:N)\" as the computing API writes it"
)]
pub struct SlotSyntax {
    /// The text as it came.
    pub text: String,
}

/// Additional disks that one VM can hold.
pub const SLOTS_PER_VM: usize = 14;

impl ScsiAddress {
    /// Reads the API's `deviceName`, with or without the space: `SCSI (0:3)`, `SCSI(0:3)`.
    ///
    /// # Errors
    /// [`SlotSyntax`] for anything else.
    pub fn parse(text: &str) -> Result<Self, SlotSyntax> {
        let bad = || SlotSyntax {
            text: text.chars().take(64).collect(),
        };
        let inner = text
            .trim()
            .strip_prefix("SCSI")
            .map(str::trim_start)
            .and_then(|rest| rest.strip_prefix('('))
            .and_then(|rest| rest.strip_suffix(')'))
            .ok_or_else(bad)?;
        let (bus, target) = inner.split_once(':').ok_or_else(bad)?;
        let number = |digits: &str| {
            let digits = digits.trim();
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(bad());
            }
            digits.parse::<u8>().map_err(|_| bad())
        };
        Ok(Self {
            bus: number(bus)?,
            target: number(target)?,
        })
    }
}

impl fmt::Display for ScsiAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SCSI ({}:{})", self.bus, self.target)
    }
}

/// A device number, as in mountinfo and `stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DevNo {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl fmt::Display for DevNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_the_api_are_read_and_the_go_drivers_is_written() {
        for text in ["SCSI (0:3)", "SCSI(0:3)", " SCSI  (0:3) "] {
            assert_eq!(
                ScsiAddress::parse(text).map(|s| s.to_string()),
                Ok("SCSI (0:3)".to_owned())
            );
        }
        for text in [
            "",
            "SCSI",
            "/dev/sdb",
            "SCSI (0)",
            "SCSI (0:-1)",
            "SCSI (0:+1)",
            "SCSI (0:256)",
            "SCSI (a:b)",
        ] {
            assert!(ScsiAddress::parse(text).is_err(), "{text}");
        }
    }
}
