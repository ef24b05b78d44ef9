//! The guard proxy: what a request asks for, what a refusal looks like, in which order addresses are tried, and what is
//! counted. Whether a host may be reached is decided by [`crate::model::url`]. Knows no sockets.

pub mod denial;
pub mod headers;
pub mod race;
pub mod request;
pub mod tally;
pub mod upstream;
