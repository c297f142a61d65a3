//! Any bytes as the body of an answer of the computing API.
#![no_main]

use additional_storage_csi::cloud::nifcloud::fuzzing;

libfuzzer_sys::fuzz_target!(|body: &[u8]| fuzzing::decode(body));
