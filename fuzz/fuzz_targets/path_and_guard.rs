//! See `difygate::fuzzing::path_and_guard`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| difygate::fuzzing::path_and_guard(data));
