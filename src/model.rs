//! Decides. Pure: no tokio, no IO, no clock, no environment. A file uses only what stands above it.

pub mod quantity;
pub mod switch;
pub mod url;

pub mod backoff;
pub mod probe;
pub mod restart;

pub mod hook;

pub mod manifest;

pub mod icon;

pub mod protocol;

pub mod app;

pub mod index;
pub mod problem;
pub mod source;

pub mod interpolate;
pub mod parse;
pub mod place;

pub mod scope;

pub mod check;
pub mod resolve;

pub mod plan;

pub mod machine;
pub mod metrics;

pub mod supervisor;
