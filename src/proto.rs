//! Generated protocol code: CSI 1.13 and the kubelet's plugin registration.
//!
//! `proto/*.proto` is compiled by `build.rs` without protoc. Messages with secret fields have a `Debug` that never
//! prints them.

/// The Container Storage Interface.
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::use_self,
    clippy::clone_on_ref_ptr,
    rust_2018_idioms,
    reason = "generated code"
)]
pub mod csi {
    /// Version 1 of the protocol.
    pub mod v1 {
        tonic::include_proto!("csi.v1");
        include!(concat!(env!("OUT_DIR"), "/csi_debug.rs"));
    }
}

/// The kubelet's plugin registration.
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::use_self,
    clippy::clone_on_ref_ptr,
    rust_2018_idioms,
    reason = "generated code"
)]
pub mod pluginregistration {
    tonic::include_proto!("pluginregistration");
}

/// The encoded `FileDescriptorSet` of all protocols with their options, for comparison with the official module.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

#[cfg(test)]
mod tests {
    use super::csi::v1::{CreateVolumeRequest, NodeStageVolumeRequest};

    #[test]
    fn debug_never_prints_a_secret() {
        let secrets = std::collections::HashMap::from([("key".to_owned(), "hunter2".to_owned())]);
        let create = CreateVolumeRequest {
            name: "claim".into(),
            secrets: secrets.clone(),
            ..CreateVolumeRequest::default()
        };
        let stage = NodeStageVolumeRequest {
            secrets,
            ..NodeStageVolumeRequest::default()
        };
        for text in [format!("{create:?}"), format!("{stage:#?}")] {
            assert!(!text.contains("hunter2"), "{text}");
            assert!(text.contains("1 redacted"), "{text}");
        }
        assert!(format!("{create:?}").contains("claim"));
    }
}
