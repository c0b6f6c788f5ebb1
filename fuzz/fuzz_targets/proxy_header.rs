//! See `difygate::fuzzing::proxy_header`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| difygate::fuzzing::proxy_header(data));
