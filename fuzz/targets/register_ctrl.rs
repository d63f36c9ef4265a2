#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| simtide_server::registers::fuzz::register_ctrl(data));
