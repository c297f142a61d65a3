//! Logs and metrics.

pub mod metrics;

use std::io::IsTerminal as _;

use thiserror::Error;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::cli::LogFormat;

/// Changes the log's level while the program runs.
#[derive(Debug, Clone)]
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

/// A filter that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "log level {filter:?}: {reason}; expected error, warn, info, debug, trace, or a filter such as info,hyper=warn"
)]
pub struct LevelError {
    filter: String,
    reason: String,
}

fn filter(text: &str) -> Result<EnvFilter, LevelError> {
    EnvFilter::try_new(text).map_err(|e| LevelError {
        filter: text.chars().take(200).collect(),
        reason: e.to_string(),
    })
}

/// Starts logging to standard error.
///
/// # Errors
/// [`LevelError`].
pub fn start(format: LogFormat, level: &str) -> Result<LogLevel, LevelError> {
    let (filter, handle) = reload::Layer::new(filter(level)?);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = fmt::layer().with_writer(std::io::stderr).with_target(false);
    // A second start (two drivers in one test process) keeps the first subscriber.
    let _ = match format {
        LogFormat::Text => registry
            .with(layer.with_ansi(std::io::stderr().is_terminal()))
            .try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
    Ok(LogLevel(handle))
}

impl LogLevel {
    /// Sets another filter.
    ///
    /// # Errors
    /// [`LevelError`].
    pub fn set(&self, level: &str) -> Result<(), LevelError> {
        let filter = filter(level)?;
        self.0.reload(filter).map_err(|e| LevelError {
            filter: level.to_owned(),
            reason: e.to_string(),
        })
    }

    /// The filter in force.
    #[must_use]
    pub fn get(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }
}
