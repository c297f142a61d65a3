//! Tests of the prober.
