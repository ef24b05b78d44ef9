//! Integration tests (stories): the real binary with real processes and files, observed through the command line.
//! One file per subject. Only `harness` waits.

mod harness;

mod adoption;
mod after;
mod bad_input;
mod check_url;
mod containers;
mod control;
mod crashes;
mod crowd;
mod desktop;
mod docs;
mod ending;
mod env_files;
mod fuzz;
#[cfg(feature = "gateway")]
mod gateway;
mod hooks;
mod icons;
mod launcher;
mod launcher_http;
mod logs;
mod lsp;
mod privacy;
mod proxy;
mod pty;
mod reload;
mod session;
mod shared_home;
mod state_folder;
mod stop_hooks;
mod takeover;
mod terminal;
mod tidy;
mod top;
mod trees;
mod users;
