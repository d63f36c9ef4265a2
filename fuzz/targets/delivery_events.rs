#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| simtide_platform::fuzz::delivery_events(data));
