//! See `difygate::fuzzing::http2`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| difygate::fuzzing::http2(data));
