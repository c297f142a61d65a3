//! The driver's vocabulary: pure types, no I/O, no protocol.

pub mod capability;
pub mod device;
pub mod disk;
pub mod id;
pub mod journal;
pub mod params;
#[cfg(test)]
mod properties;
pub mod size;
pub mod topology;

/// The driver's name as registered with Kubernetes; part of the contract with every existing PV.
pub const DRIVER_NAME: &str = "additional-storage.csi.nifcloud.com";
