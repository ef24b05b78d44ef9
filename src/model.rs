//! Decides. Pure: no tokio, no IO, no clock, no environment. A file uses only what stands above it.

pub mod quantity;

pub mod backoff;
pub mod probe;

pub mod hook;
pub mod restart;

pub mod app;
pub mod manifest;
pub mod problem;

pub mod protocol;
