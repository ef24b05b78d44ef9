//! `cargo +nightly fuzz run cdp`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entries::cdp(bytes));
