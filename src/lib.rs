//! kasm-void: a declarative process supervisor for container desktops.

pub mod model;

#[cfg(feature = "daemon")]
pub mod daemon;

#[cfg(feature = "daemon")]
pub mod cli;
