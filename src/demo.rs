//! `demo`: a claim's whole life on the embedded cloud.

pub mod vm;
