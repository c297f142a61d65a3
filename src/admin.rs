//! /livez, /readyz, /metrics, /log-level.
