//! Logs and metrics.

pub mod metrics;

use std::io::IsTerminal as _;

use thiserror::Error;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, fmt, reload};

use crate::cli::LogFormat;

/// What the driver's own events are found under.
const OWN: &str = env!("CARGO_CRATE_NAME");

/// Changes the log's level while the program runs.
#[derive(Debug, Clone)]
pub struct LogLevel(reload::Handle<Targets, Registry>);

/// A filter that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "log level {filter:?}: {reason}; expected error, warn, info, debug, trace, or a filter such as info,hyper=warn"
)]
pub struct LevelError {
    filter: String,
    reason: String,
}

/// A level, or levels by target, separated by commas. A level that stands alone and tells more than `info` is meant for
/// the driver itself: libraries print every HTTP/2 frame then, and are asked for by name.
fn filter(text: &str) -> Result<Targets, LevelError> {
    let wrong = |reason: String| LevelError {
        filter: text.chars().take(200).collect(),
        reason,
    };
    let level = |text: &str| {
        let level = text.trim().parse::<LevelFilter>();
        level.map_err(|_| wrong(format!("{:?} is not a level", text.trim())))
    };
    let mut targets = Targets::new();
    let mut parts = text
        .split(',')
        .filter(|part| !part.trim().is_empty())
        .peekable();
    if parts.peek().is_none() {
        return Err(wrong("it is empty".to_owned()));
    }
    // By name comes last, so that it prevails over what a level alone says of the driver.
    let (alone, named): (Vec<_>, Vec<_>) = parts.partition(|part| !part.contains('='));
    for part in alone {
        let level = level(part)?;
        targets = targets
            .with_default(level.min(LevelFilter::INFO))
            .with_target(OWN, level);
    }
    for part in named {
        let (target, rest) = part.split_once('=').unwrap_or_default();
        targets = targets.with_target(target.trim(), level(rest)?);
    }
    Ok(targets)
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

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_level_alone_is_the_drivers_and_libraries_stay_at_info() {
        for (text, own, library) in [
            ("error", Level::ERROR, Level::ERROR),
            ("info", Level::INFO, Level::INFO),
            ("DEBUG", Level::DEBUG, Level::INFO),
            (" trace ,", Level::TRACE, Level::INFO),
            ("debug,hyper=debug", Level::DEBUG, Level::DEBUG),
            ("hyper=warn,info", Level::INFO, Level::WARN),
            (
                "info,additional_storage_csi=debug",
                Level::DEBUG,
                Level::INFO,
            ),
        ] {
            let filter = filter(text).unwrap();
            let most = |target: &str| {
                let levels = [Level::TRACE, Level::DEBUG, Level::INFO, Level::WARN];
                let enabled = levels.into_iter().find(|l| filter.would_enable(target, l));
                enabled.unwrap_or(Level::ERROR)
            };
            assert_eq!(most("additional_storage_csi::fleet"), own, "{text}");
            assert_eq!(most("hyper::proto"), library, "{text}");
        }
        let off = filter("off").unwrap();
        assert!(!off.would_enable("additional_storage_csi", &Level::ERROR));
    }

    #[test]
    fn what_is_not_a_filter_is_refused_with_the_word_that_is_wrong() {
        for (text, word) in [
            ("", "empty"),
            (" , ", "empty"),
            ("inof", "\"inof\" is not a level"),
            ("info,hyper=loud", "\"loud\" is not a level"),
            ("no/such=level=x", "\"level=x\" is not a level"),
        ] {
            let error = filter(text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
            assert!(error.contains("info,hyper=warn"), "{error}");
        }
    }
}
