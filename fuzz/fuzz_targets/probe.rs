//! Any disk through the own reader of disks.
#![no_main]

use additional_storage_csi::host::probe::fuzzing;

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzzing::probe(input));
