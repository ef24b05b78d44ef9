//! `cargo +nightly fuzz run proxy`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entries::proxy(bytes));
