//! `cargo +nightly fuzz run requests`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entries::requests(bytes));
