//! What the fleet tells about itself; the metrics implement it.

use std::fmt;
use std::time::Duration;

use super::Operation;
use super::bucket::Class;

/// Receives events. Called inline: implementations only count.
pub trait Observer: Send + Sync + fmt::Debug {
    /// A call is about to be sent.
    fn call(&self, _action: &'static str) {}
    /// A call is repeated after it was not sent, refused as busy, or throttled.
    fn retried(&self, _action: &'static str) {}
    /// The API asked to slow down; calls per second from now on.
    fn throttled(&self, _rate: f64) {}
    /// Calls that wait for the token bucket.
    fn queued(&self, _class: Class, _length: usize) {}
    /// Names served by one tick of the tracker.
    fn batch(&self, _names: usize) {}
    /// Time from the API's acceptance of an operation to its observed end.
    fn operation(&self, _operation: Operation, _took: Duration) {}
}

/// Counts nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {}
