//! Signals, cancellation, drain.
