#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| simtide_server::fuzz::delivery_content(data));
