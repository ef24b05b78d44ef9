//! `cargo +nightly fuzz run interpolation`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entries::interpolation(bytes));
