//! `cargo +nightly fuzz run state`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entries::state(bytes));
