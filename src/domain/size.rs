//! Sizes: NIFCLOUD sells disks in steps of 100 GB, and the guest sees GiB.

use std::fmt;

use thiserror::Error;

/// One GiB in bytes. The API writes "GB" and every official client treats it as GiB.
pub const GIB: u64 = 1 << 30;
/// Smallest disk and step of growth, in GiB (`CreateVolume`, `ExtendVolumeSize`).
pub const STEP_GIB: u32 = 100;
/// Largest disk of most types, in GiB.
pub const MAX_GIB: u32 = 8000;

/// The size of a disk: a positive number of GiB. Disks made here are multiples of [`STEP_GIB`]; imported ones
/// are what the cloud says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskSize(u32);

/// A capacity that no disk can have.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SizeError {
    /// `required_bytes` or `limit_bytes` is negative.
    #[error("{field} is {value}: a capacity cannot be negative")]
    Negative {
        /// The field of `CapacityRange`.
        field: &'static str,
        /// Its value in bytes.
        value: i64,
    },
    /// `required_bytes` is above `limit_bytes`.
    #[error("required_bytes {required} is above limit_bytes {limit}")]
    Contradiction {
        /// Bytes asked for.
        required: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// No step of 100 GiB lies within the range.
    #[error(
        "no disk size fits: {required} bytes rounds up to {rounded}, above limit_bytes {limit}; \
         disks come in steps of 100 GiB (107374182400 bytes)"
    )]
    NoStep {
        /// Bytes asked for.
        required: u64,
        /// The next step above.
        rounded: DiskSize,
        /// Bytes allowed.
        limit: u64,
    },
    /// Larger than the largest disk.
    #[error("{required} bytes is above the largest disk of this type, {max}")]
    TooLarge {
        /// Bytes asked for.
        required: u64,
        /// The type's maximum.
        max: DiskSize,
    },
}

impl DiskSize {
    /// The smallest disk.
    pub const SMALLEST: Self = Self(STEP_GIB);

    /// A size in GiB as the API reports it; zero is not a size.
    #[must_use]
    pub fn from_gib(gib: u32) -> Option<Self> {
        (gib > 0).then_some(Self(gib))
    }

    /// GiB, the API's "GB".
    #[must_use]
    pub fn gib(self) -> u32 {
        self.0
    }

    /// Bytes, as CSI counts.
    #[must_use]
    pub fn bytes(self) -> u64 {
        u64::from(self.0) * GIB
    }

    /// Bytes in CSI's signed field; sizes of this cloud always fit.
    #[must_use]
    pub fn csi_bytes(self) -> i64 {
        i64::try_from(self.bytes()).unwrap_or(i64::MAX)
    }

    /// The size after one `ExtendVolumeSize`.
    #[must_use]
    pub fn next_step(self) -> Self {
        Self(self.0.saturating_add(STEP_GIB))
    }

    /// Whether this size satisfies a range (used when a disk already exists).
    #[must_use]
    pub fn fits(self, range: CapacityRange) -> bool {
        self.bytes() >= range.required && range.limit.is_none_or(|limit| self.bytes() <= limit)
    }
}

impl fmt::Display for DiskSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} GiB", self.0)
    }
}

/// A checked `csi.v1.CapacityRange`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CapacityRange {
    required: u64,
    limit: Option<u64>,
}

impl CapacityRange {
    /// Reads the two fields of the CSI message; zero means "not given" for both.
    ///
    /// # Errors
    /// [`SizeError::Negative`], [`SizeError::Contradiction`].
    pub fn new(required_bytes: i64, limit_bytes: i64) -> Result<Self, SizeError> {
        let read = |field, value: i64| {
            u64::try_from(value).map_err(|_| SizeError::Negative { field, value })
        };
        let required = read("required_bytes", required_bytes)?;
        let limit = match read("limit_bytes", limit_bytes)? {
            0 => None,
            limit => Some(limit),
        };
        if let Some(limit) = limit.filter(|limit| required > *limit) {
            return Err(SizeError::Contradiction { required, limit });
        }
        Ok(Self { required, limit })
    }

    /// Bytes asked for; zero when nothing was asked.
    #[must_use]
    pub fn required(self) -> u64 {
        self.required
    }

    /// Bytes allowed at most, where a limit was given.
    #[must_use]
    pub fn limit(self) -> Option<u64> {
        self.limit
    }

    /// The smallest disk that satisfies the range: rounded up to a step, at least one step.
    ///
    /// # Errors
    /// [`SizeError::TooLarge`] above `max`, [`SizeError::NoStep`] when rounding passes the limit.
    pub fn smallest_disk(self, max: DiskSize) -> Result<DiskSize, SizeError> {
        let steps = self.required.div_ceil(u64::from(STEP_GIB) * GIB).max(1);
        let size = u32::try_from(steps)
            .ok()
            .and_then(|steps| steps.checked_mul(STEP_GIB))
            .map(DiskSize)
            .filter(|size| *size <= max)
            .ok_or(SizeError::TooLarge {
                required: self.required,
                max,
            })?;
        match self.limit {
            Some(limit) if size.bytes() > limit => Err(SizeError::NoStep {
                required: self.required,
                rounded: size,
                limit,
            }),
            _ => Ok(size),
        }
    }
}

impl fmt::Display for CapacityRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.required, self.limit) {
            (required, None) => write!(f, "at least {required} bytes"),
            (0, Some(limit)) => write!(f, "at most {limit} bytes"),
            (required, Some(limit)) => write!(f, "{required} to {limit} bytes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: DiskSize = DiskSize(MAX_GIB);

    fn pick(required: i64, limit: i64) -> Result<u32, SizeError> {
        CapacityRange::new(required, limit)?
            .smallest_disk(MAX)
            .map(DiskSize::gib)
    }

    #[test]
    fn a_request_is_rounded_up_to_a_step_of_100_gib() {
        let gib = i64::try_from(GIB).unwrap();
        assert_eq!(pick(0, 0), Ok(100));
        assert_eq!(pick(1, 0), Ok(100));
        assert_eq!(pick(10 * gib, 0), Ok(100));
        assert_eq!(pick(100 * gib, 100 * gib), Ok(100));
        assert_eq!(pick(100 * gib + 1, 0), Ok(200));
        assert_eq!(pick(8000 * gib, 0), Ok(8000));
    }

    #[test]
    fn a_range_without_a_step_is_refused() {
        let gib = i64::try_from(GIB).unwrap();
        assert!(matches!(
            pick(10 * gib, 20 * gib),
            Err(SizeError::NoStep { .. })
        ));
        assert!(matches!(pick(0, 99 * gib), Err(SizeError::NoStep { .. })));
        assert!(matches!(
            pick(8000 * gib + 1, 0),
            Err(SizeError::TooLarge { .. })
        ));
        assert!(matches!(pick(i64::MAX, 0), Err(SizeError::TooLarge { .. })));
        assert!(matches!(pick(2, 1), Err(SizeError::Contradiction { .. })));
        assert!(matches!(pick(-1, 0), Err(SizeError::Negative { .. })));
        assert!(matches!(pick(0, i64::MIN), Err(SizeError::Negative { .. })));
    }
}
