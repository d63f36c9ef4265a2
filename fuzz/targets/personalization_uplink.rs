#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| simtide_protocol::fuzz::personalization_uplink(data));
