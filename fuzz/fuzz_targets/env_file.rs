//! `cargo +nightly fuzz run env_file`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entries::env_file(bytes));
