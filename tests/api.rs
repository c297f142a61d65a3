//! The CSI services in process, over a real Unix socket, with a cloud and a machine that behave but are not there.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    reason = "helpers shared by the modules of this test binary"
)]

#[path = "api/controller.rs"]
mod controller;
#[path = "api/controller_faults.rs"]
mod controller_faults;
#[path = "api/controller_harness.rs"]
mod controller_harness;
#[path = "api/controller_health.rs"]
mod controller_health;
#[path = "api/controller_reads.rs"]
mod controller_reads;
#[path = "api/controller_split.rs"]
mod controller_split;
#[path = "api/fake_host.rs"]
mod fake_host;
#[path = "api/node.rs"]
mod node;
#[path = "api/node_harness.rs"]
mod node_harness;
#[path = "api/node_input.rs"]
mod node_input;
#[path = "api/node_refusals.rs"]
mod node_refusals;
#[path = "api/node_sequences.rs"]
mod node_sequences;
#[path = "api/node_watch.rs"]
mod node_watch;
#[path = "api/registration.rs"]
mod registration;
