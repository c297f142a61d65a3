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
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::{FileDescriptorProto, FileDescriptorSet};

    use super::DESCRIPTOR_SET;
    use super::csi::v1::*;

    /// `csi_secret` of the specification's FieldOptions.
    const SECRET_OPTION: u32 = 1059;
    /// Field numbers on the way to a field's options: FileDescriptorSet.file, FileDescriptorProto.message_type,
    /// DescriptorProto.field, FieldDescriptorProto.options.
    const PATH: [u32; 4] = [1, 4, 2, 8];

    type Fields<'a> = Vec<(u32, &'a [u8])>;

    fn varint(bytes: &mut &[u8]) -> u64 {
        prost::encoding::decode_varint(bytes).unwrap()
    }

    /// The fields of one encoded message. `prost-types` drops extensions, so the options are read from the bytes.
    fn fields(mut bytes: &[u8]) -> Fields<'_> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let number = u32::try_from(key >> 3).unwrap();
            let start = bytes;
            let value = match key & 7 {
                0 => {
                    varint(&mut bytes);
                    &start[..start.len() - bytes.len()]
                }
                2 => {
                    let length = usize::try_from(varint(&mut bytes)).unwrap();
                    let (value, rest) = bytes.split_at(length);
                    bytes = rest;
                    value
                }
                other => panic!("wire type {other} is not in a descriptor"),
            };
            found.push((number, value));
        }
        found
    }

    fn all(message: &[u8], number: u32) -> impl Iterator<Item = &[u8]> {
        let picked = move |(n, value)| (n == number).then_some(value);
        fields(message).into_iter().filter_map(picked)
    }

    /// Name and field number of every top-level message's secret fields.
    fn secrets_in_the_descriptor_set() -> BTreeSet<(String, u32)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let mut found = BTreeSet::new();
        for file in all(DESCRIPTOR_SET, PATH[0]) {
            for message in all(file, PATH[1]) {
                let name = text(all(message, 1).next().unwrap());
                for field in all(message, PATH[2]) {
                    let number = varint(&mut all(field, 3).next().unwrap());
                    let secret = all(field, PATH[3])
                        .flat_map(|options| all(options, SECRET_OPTION))
                        .any(|value| value == [1]);
                    if secret {
                        found.insert((name.clone(), u32::try_from(number).unwrap()));
                    }
                }
            }
        }
        found
    }

    /// A message whose map field `number` holds one secret, decoded from the wire.
    fn with_secret<M: Message + Default>(number: u32) -> M {
        let entry = [&[0x0a, 3][..], b"key", &[0x12, 7][..], b"hunter2"].concat();
        let mut wire = Vec::new();
        prost::encoding::encode_key(
            number,
            prost::encoding::WireType::LengthDelimited,
            &mut wire,
        );
        prost::encoding::encode_varint(u64::try_from(entry.len()).unwrap(), &mut wire);
        wire.extend(entry);
        M::decode(&wire[..]).unwrap()
    }

    /// Formats a message of the named type with a secret in the field.
    fn debug(name: &str, number: u32) -> String {
        macro_rules! by_name {
            ($($message:ident)*) => {
                match name {
                    $(stringify!($message) => {
                        let message: $message = with_secret(number);
                        assert_ne!(message, $message::default(), "{name} lost its secret");
                        format!("{message:?}{message:#?}")
                    })*
                    _ => panic!("{name} has a secret field: add it here"),
                }
            };
        }
        by_name! {
            CreateVolumeRequest DeleteVolumeRequest ControllerPublishVolumeRequest
            ControllerUnpublishVolumeRequest ValidateVolumeCapabilitiesRequest
            ControllerExpandVolumeRequest ControllerModifyVolumeRequest
            ControllerGetVolumeHealthRequest ControllerListVolumeHealthRequest
            CreateSnapshotRequest DeleteSnapshotRequest ListSnapshotsRequest GetSnapshotRequest
            NodeStageVolumeRequest NodePublishVolumeRequest NodeExpandVolumeRequest
            NodeGetStorageHealthRequest
            CreateVolumeGroupSnapshotRequest DeleteVolumeGroupSnapshotRequest
            GetVolumeGroupSnapshotRequest
            GetMetadataAllocatedRequest GetMetadataDeltaRequest
        }
    }

    #[test]
    fn debug_never_prints_a_secret_of_any_message_that_has_one() {
        let secrets = secrets_in_the_descriptor_set();
        assert!(secrets.len() >= 22, "{secrets:?}");
        for (name, number) in secrets {
            let text = debug(&name, number);
            assert!(!text.contains("hunter2"), "{name}: {text}");
            assert!(text.contains("1 redacted"), "{name}: {text}");
        }
    }

    #[test]
    fn debug_still_prints_what_is_no_secret() {
        let create = CreateVolumeRequest {
            name: "claim".into(),
            ..CreateVolumeRequest::default()
        };
        assert!(format!("{create:?}").contains("claim"));
    }

    #[test]
    fn the_descriptor_set_holds_both_protocols() {
        let set = FileDescriptorSet::decode(DESCRIPTOR_SET).unwrap();
        let packages: Vec<&str> = set.file.iter().map(FileDescriptorProto::package).collect();
        assert!(packages.contains(&"csi.v1"), "{packages:?}");
        assert!(packages.contains(&"pluginregistration"), "{packages:?}");
    }
}
