//! Size of the binary and time to serve.

use std::path::Path;
use std::time::Duration;

use super::process::{Driver, controller_arguments, node_arguments};
use super::rows::{Row, millis, percentile};

const STARTS: usize = 41;

pub(crate) fn size(binary: &Path) -> Row {
    let bytes = std::fs::metadata(binary).unwrap().len();
    let mb = f64::from(u32::try_from(bytes / 1000).unwrap()) / 1000.0;
    Row::new("binary_size_mb", mb, "MB", 10.0)
}

/// The row is the slower role's.
pub(crate) async fn rows(binary: &Path) -> Vec<Row> {
    let dir = tempfile::tempdir().unwrap();
    let roles = [
        controller_arguments("http://127.0.0.1:9"),
        node_arguments(dir.path(), "web01", "east-11"),
    ];
    let mut slowest = Duration::ZERO;
    for arguments in roles {
        let mut times = Vec::new();
        for _ in 0..STARTS {
            let (driver, took) = Driver::start(binary, dir.path(), &arguments);
            times.push(took);
            driver.end().await;
        }
        let median = percentile(&times, 0.5);
        eprintln!("  {}: {:.2} ms", arguments[0], millis(median));
        slowest = slowest.max(median);
    }
    vec![Row::new("start_to_serving_ms", millis(slowest), "ms", 5.0)]
}
