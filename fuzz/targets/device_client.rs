#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| simtide_device::fuzz::device_client(data));
