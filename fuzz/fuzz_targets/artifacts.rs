#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| flowright::fuzzing::artifacts(data));
