//! Any bytes as a request of the CSI services.
#![no_main]

use additional_storage_csi::csi::fuzzing;

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzzing::request(input));
