//! kasm-void: a declarative process supervisor for container desktops, driven by RON manifests.
//!
//! The map; a module uses only what stands above it. What always holds is in `docs/architecture.md`.

pub mod model;

#[cfg(feature = "daemon")]
pub mod host;

#[cfg(feature = "daemon")]
pub mod http;

#[cfg(feature = "daemon")]
pub mod daemon;

#[cfg(feature = "daemon")]
pub mod guard;

#[cfg(feature = "daemon")]
pub mod launcher;

#[cfg(feature = "daemon")]
pub mod init;

#[cfg(feature = "daemon")]
pub mod cli;
