//! The CSI services: the only place with tonic.
//!
//! ```text
//! socket -> server -> layer (span, latency, code, panics) -> identity | controller | node | registration
//!                                                              |
//!                                        validate -> typed command -> job -> verb -> port
//! ```
//!
//! Handlers are thin: they check the request, hand a typed command to a job that owns the volume's lock, and wait.

pub mod controller;
mod deadline;
pub mod error;
#[doc(hidden)]
pub mod fuzzing;
pub mod identity;
pub mod layer;
pub mod node;
pub mod registration;
pub mod server;
pub mod validate;
