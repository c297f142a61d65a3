//! Any parameters through the canonical query of signature version 2, against a naive implementation.
#![no_main]

use additional_storage_csi::cloud::nifcloud::fuzzing;

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzzing::canonical(input));
