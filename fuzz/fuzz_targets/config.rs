//! See `difygate::fuzzing::config`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| difygate::fuzzing::config(data));
