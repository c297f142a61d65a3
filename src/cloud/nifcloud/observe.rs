//! What a call looks like from outside: for metrics, without knowing which.

use std::fmt;
use std::time::Duration;

use crate::cloud::{CallError, Rejection};

/// Is told about every call that ended. Calls whose future was dropped are not reported.
pub trait CallObserver: Send + Sync + fmt::Debug {
    /// `action` ended with `outcome` after `elapsed`. Called on the runtime: must not block.
    fn on_call(&self, action: &'static str, outcome: CallOutcome, elapsed: Duration);
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CallOutcome {
    /// The API did it, or answered the question.
    Ok,
    /// [`CallError::NotSent`].
    NotSent,
    /// [`CallError::Rejected`].
    Rejected(Rejection),
    /// [`CallError::Unknown`].
    Unknown {
        /// Whether the service asked to slow down.
        throttled: bool,
    },
}

impl CallOutcome {
    pub(crate) fn of<T>(result: &Result<T, CallError>) -> Self {
        match result {
            Ok(_) => Self::Ok,
            Err(CallError::NotSent { .. }) => Self::NotSent,
            Err(CallError::Rejected { kind, .. }) => Self::Rejected(*kind),
            Err(CallError::Unknown { throttled, .. }) => Self::Unknown {
                throttled: *throttled,
            },
        }
    }

    /// A label for metrics: few values, lower case.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotSent => "not_sent",
            Self::Unknown { throttled: false } => "unknown",
            Self::Unknown { throttled: true } | Self::Rejected(Rejection::Throttled) => "throttled",
            Self::Rejected(Rejection::VolumeNotFound | Rejection::InstanceNotFound) => "not_found",
            Self::Rejected(Rejection::AlreadyAttached) => "already_attached",
            Self::Rejected(Rejection::AlreadyDetached) => "already_detached",
            Self::Rejected(Rejection::DuplicateName) => "duplicate_name",
            Self::Rejected(Rejection::Processing) => "processing",
            Self::Rejected(Rejection::Auth) => "auth",
            Self::Rejected(Rejection::Client) => "client_error",
            Self::Rejected(Rejection::Server) => "server_error",
        }
    }
}
