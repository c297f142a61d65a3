//! `/metrics`: what the driver counts. No volume ids in labels. A registry is a value, not a global.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tonic::Code;

use crate::cloud::nifcloud::{CallObserver, CallOutcome};
use crate::csi::layer::RpcObserver;
use crate::fleet::Observer;

/// Seconds; from a read of a cached state to a growth of several steps.
const BUCKETS: [f64; 14] = [
    0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RpcLabels {
    method: String,
    grpc_code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    action: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ActionLabel {
    action: &'static str,
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

/// The driver's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    rpcs: Family<RpcLabels, Histogram, fn() -> Histogram>,
    in_flight: Gauge,
    calls: Family<CallLabels, Histogram, fn() -> Histogram>,
    throttles: Family<ActionLabel, Counter>,
    retries: Family<ActionLabel, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let rpcs = Family::new_with_constructor(histogram as fn() -> Histogram);
        let calls = Family::new_with_constructor(histogram as fn() -> Histogram);
        let (in_flight, throttles) = (Gauge::default(), Family::<ActionLabel, Counter>::default());
        registry.register(
            "csi_operations_seconds",
            "Duration of CSI calls",
            rpcs.clone(),
        );
        registry.register(
            "csi_operations_in_flight",
            "CSI calls being served",
            in_flight.clone(),
        );
        registry.register(
            "cloud_api_request_seconds",
            "Duration of calls to the computing API",
            calls.clone(),
        );
        registry.register(
            "cloud_api_throttles",
            "Calls that the computing API throttled",
            throttles.clone(),
        );
        let retries = Family::<ActionLabel, Counter>::default();
        registry.register(
            "cloud_api_retries",
            "Calls that were repeated",
            retries.clone(),
        );
        registry.register(
            "build",
            "Version of the driver",
            Info::new([
                ("version", env!("CARGO_PKG_VERSION")),
                ("revision", env!("GIT_SHA")),
            ]),
        );
        Self {
            registry: Mutex::new(registry),
            rpcs,
            in_flight,
            calls,
            throttles,
            retries,
        }
    }

    /// All metrics in the OpenMetrics text format.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        if encode(&mut text, &registry).is_err() {
            tracing::error!("metrics could not be written");
        }
        text
    }
}

impl RpcObserver for Metrics {
    fn started(&self, _method: &str) {
        self.in_flight.inc();
    }

    fn finished(&self, method: &str, code: Code, elapsed: Duration) {
        self.in_flight.dec();
        let labels = RpcLabels {
            method: method.to_owned(),
            grpc_code: format!("{code:?}"),
        };
        self.rpcs
            .get_or_create(&labels)
            .observe(elapsed.as_secs_f64());
    }
}

impl CallObserver for Metrics {
    fn on_call(&self, action: &'static str, outcome: CallOutcome, elapsed: Duration) {
        let result = outcome.label();
        self.calls
            .get_or_create(&CallLabels { action, result })
            .observe(elapsed.as_secs_f64());
        if result == "throttled" {
            self.throttles.get_or_create(&ActionLabel { action }).inc();
        }
    }
}

impl Observer for Metrics {
    fn retried(&self, action: &'static str) {
        self.retries.get_or_create(&ActionLabel { action }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_shown_without_volume_ids() {
        let metrics = Metrics::new();
        metrics.started("csi.v1.Node/NodeStageVolume");
        metrics.finished(
            "csi.v1.Node/NodeStageVolume",
            Code::Ok,
            Duration::from_millis(2),
        );
        metrics.on_call("CreateVolume", CallOutcome::NotSent, Duration::from_secs(1));
        let text = metrics.text();
        assert!(text.contains("csi_operations_seconds_count{method=\"csi.v1.Node/NodeStageVolume\",grpc_code=\"Ok\"} 1"), "{text}");
        assert!(
            text.contains(
                "cloud_api_request_seconds_count{action=\"CreateVolume\",result=\"not_sent\"} 1"
            ),
            "{text}"
        );
        assert!(text.contains("csi_operations_in_flight 0"), "{text}");
    }
}
