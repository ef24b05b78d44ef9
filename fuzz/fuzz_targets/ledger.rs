//! `cargo +nightly fuzz run ledger`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entries::ledger(bytes));
