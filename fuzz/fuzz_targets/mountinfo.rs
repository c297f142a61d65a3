//! Any bytes as a mount table.
#![no_main]

use additional_storage_csi::host::mountinfo::fuzzing;

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzzing::mountinfo(input));
