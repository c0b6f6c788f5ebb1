//! See `difygate::fuzzing::frames`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| difygate::fuzzing::frames(data));
