//! The admin endpoint: is it alive, is it ready, what does it count, how much does it log.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::telemetry::LogLevel;
use crate::telemetry::metrics::Metrics;

/// Prometheus chooses its parser by this.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers `Ok(())`, or why not.
pub type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What the endpoint shows.
#[derive(Clone)]
pub struct Admin {
    /// The process should be restarted when this fails.
    pub alive: Check,
    /// The process should get no calls while this fails.
    pub ready: Check,
    /// `/metrics`.
    pub metrics: Arc<Metrics>,
    /// `/log-level`.
    pub log_level: LogLevel,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

fn answer(check: &Check) -> (StatusCode, String) {
    match check() {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

fn router(admin: Admin) -> Router {
    Router::new()
        .route(
            "/livez",
            get(async |State(a): State<Admin>| answer(&a.alive)),
        )
        // The path of the livenessprobe sidecar, for manifests that know it.
        .route(
            "/healthz",
            get(async |State(a): State<Admin>| answer(&a.alive)),
        )
        .route(
            "/readyz",
            get(async |State(a): State<Admin>| answer(&a.ready)),
        )
        .route(
            "/metrics",
            get(async |State(a): State<Admin>| ([(CONTENT_TYPE, OPENMETRICS)], a.metrics.text())),
        )
        .route(
            "/log-level",
            get(async |State(a): State<Admin>| a.log_level.get()).put(set_level),
        )
        .with_state(admin)
}

async fn set_level(State(admin): State<Admin>, level: String) -> (StatusCode, String) {
    match admin.log_level.set(level.trim()) {
        Ok(()) => (StatusCode::OK, format!("{}\n", admin.log_level.get())),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

/// Opens the endpoint and serves it until `stop`. Answers the address, for port 0, and the task that ends with it.
///
/// # Errors
/// An I/O error when the address cannot be listened on.
pub async fn serve(
    address: SocketAddr,
    admin: Admin,
    stop: CancellationToken,
) -> std::io::Result<(SocketAddr, JoinHandle<()>)> {
    let listener = TcpListener::bind(address).await?;
    let local = listener.local_addr()?;
    let task = tokio::spawn(async move {
        let served = axum::serve(listener, router(admin))
            .with_graceful_shutdown(async move { stop.cancelled().await });
        if let Err(error) = served.await {
            tracing::error!(%error, "the admin endpoint ended");
        }
    });
    Ok((local, task))
}
