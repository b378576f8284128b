#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // Another one each time, with which all ends that was begun.
    actix_rt::System::new().block_on(flowright::fuzzing::peer_says(data));
});
