//! The URL launcher: opens pages on the shared screen for callers with the token. `model::url` decides which URLs are
//! allowed, and `model::visit` controls each visit. The launcher does not know the supervisor.

pub mod audit;
pub mod http;
pub mod navigate;
pub mod rate;
pub mod resolve;
pub mod token;
pub mod verdict;
pub mod wire;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::http::bind;
use crate::model::url::Policy;
use navigate::Navigator;
use token::Token;

/// Time limit for the last replies at shutdown.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// The launcher's settings.
pub struct LauncherOptions {
    pub listen: SocketAddr,
    /// The port of the browser's DevTools, on 127.0.0.1.
    pub cdp_port: u16,
    pub policy: Policy,
}

/// Serves until SIGINT or SIGTERM.
pub async fn run(options: LauncherOptions) -> anyhow::Result<()> {
    let LauncherOptions { listen, cdp_port, policy } = options;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let listener = bind(listen).with_context(|| {
        format!("cannot listen on {listen} for URLs to open: choose another port with --port or NAV_SHIM_PORT")
    })?;
    let navigator = Navigator::new(cdp_port, policy);
    let server = http::serve(listener, navigator.clone(), Token::new(|name| std::env::var_os(name)));
    tracing::info!(event = "launcher.listening", address = %listen, cdp_port, "ready to open pages on {listen}");
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    navigator.close().await;
    server.close(LAST_ANSWERS).await;
    tracing::info!(event = "launcher.ended", "the launcher has stopped");
    Ok(())
}
