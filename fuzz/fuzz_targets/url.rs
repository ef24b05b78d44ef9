//! `cargo +nightly fuzz run url`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entries::url(bytes));
