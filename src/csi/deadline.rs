//! How long a caller listens.

use std::time::Duration;

use tonic::metadata::MetadataMap;

/// How long a call may take, so that its caller gets the answer while it still listens: nine tenths of what the
/// caller grants (header `grpc-timeout`). `None`: the caller waits as long as it takes.
pub(super) fn caller_limit(metadata: &MetadataMap) -> Option<Duration> {
    let value = metadata.get("grpc-timeout")?.to_str().ok()?;
    let limit = grpc_timeout(value)?;
    Some(limit.saturating_sub(limit / 10))
}

/// The value of a `grpc-timeout` header: up to 8 digits and a unit.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_timeout_is_read_in_every_unit_and_nonsense_is_ignored() {
        assert_eq!(grpc_timeout("110S"), Some(Duration::from_secs(110)));
        assert_eq!(grpc_timeout("2M"), Some(Duration::from_secs(120)));
        assert_eq!(grpc_timeout("1500m"), Some(Duration::from_millis(1500)));
        for bad in ["", "S", "1", "1X", "-1S", "999999999S", "1é"] {
            assert_eq!(grpc_timeout(bad), None, "{bad}");
        }
    }
}
