//! The one table from failures to gRPC codes and log levels.

use thiserror::Error;
use tonic::{Code, Status};
use tracing::Level;

use super::controller::error::ControllerError;
use super::node::error::NodeError;
use super::validate::InputError;
use crate::domain::capability::CapabilityError;
use crate::domain::id::NameError;
use crate::jobs::JobError;

/// Everything that can end an RPC.
#[derive(Debug, Clone, Error)]
pub enum Failure {
    /// The request itself is wrong.
    #[error(transparent)]
    Invalid(#[from] InputError),
    /// The job table refused, or the work panicked.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The node could not do it.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The controller could not do it.
    #[error(transparent)]
    Controller(#[from] ControllerError),
}

/// What a failure means to the caller and to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The code of the answer.
    pub code: Code,
    /// How loudly to log it.
    pub level: Level,
}

/// The verdict on a failure.
#[must_use]
pub fn verdict(failure: &Failure) -> Verdict {
    let of = |code, level| Verdict { code, level };
    match failure {
        Failure::Invalid(input) => of(input_code(input), Level::INFO),
        Failure::Job(JobError::Busy { .. }) => of(Code::Aborted, Level::INFO),
        Failure::Job(JobError::Panicked { .. }) => of(Code::Internal, Level::ERROR),
        Failure::Job(JobError::ShuttingDown) => of(Code::Unavailable, Level::INFO),
        Failure::Node(error) => {
            let (code, level) = error.verdict();
            of(code, level)
        }
        Failure::Controller(error) => {
            let (code, level) = error.verdict();
            of(code, level)
        }
    }
}

fn input_code(input: &InputError) -> Code {
    match input {
        // Nothing of this name can exist; a CO may ask for any id.
        InputError::Name(NameError::Impossible { .. }) => Code::NotFound,
        InputError::Size(_) => Code::OutOfRange,
        InputError::Capability(
            CapabilityError::Missing
            | CapabilityError::NoAccessType
            | CapabilityError::NoMode
            | CapabilityError::MultiNode { .. }
            | CapabilityError::FsType { .. },
        )
        | InputError::Missing { .. }
        | InputError::Field { .. }
        | InputError::Name(NameError::Empty { .. })
        | InputError::Param(_)
        | InputError::Slot { .. } => Code::InvalidArgument,
    }
}

/// An error and its sources in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let Verdict { code, level } = verdict(&failure);
        let message = chain(&failure);
        match level {
            Level::ERROR => tracing::error!(?code, message, "rpc failed"),
            Level::WARN => tracing::warn!(?code, message, "rpc failed"),
            _ => tracing::info!(?code, message, "rpc refused"),
        }
        Self::new(code, message)
    }
}

#[cfg(test)]
mod tests;
