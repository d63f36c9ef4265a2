#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| simtide_card::fuzz::card_personalization(data));
