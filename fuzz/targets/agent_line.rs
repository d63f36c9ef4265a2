#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| simtide_agent::fuzz::agent_line(data));
