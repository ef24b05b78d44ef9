//! The URL launcher: opens pages on the shared screen for callers with the token. `model::url` decides which URLs are
//! allowed, and `model::visit` controls each visit. The launcher does not know the supervisor.

pub(crate) mod audit;
pub mod http;
pub mod navigate;
pub mod token;
pub mod verdict;
pub mod wire;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::host::socket;
use crate::http::{bind, bind_unix};
use crate::model::url::Policy;
use http::Service;
use navigate::Navigator;
use token::Token;

/// Time limit for the last replies at shutdown.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// The launcher's settings.
pub struct LauncherOptions {
    /// Where to serve.
    pub listen: SocketAddr,
    /// The port of the browser's DevTools, on 127.0.0.1.
    pub cdp_port: u16,
    /// The policy: which URLs may be opened.
    pub policy: Policy,
    /// A Unix socket for `kasm-void open`, on which our own user needs no token.
    pub socket: Option<PathBuf>,
}

/// Serves until SIGINT or SIGTERM.
pub async fn run(options: LauncherOptions) -> anyhow::Result<()> {
    let LauncherOptions { listen, cdp_port, policy, socket } = options;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let listener = bind(listen).with_context(|| {
        format!("cannot listen on {listen} for URLs to open: choose another port with --port or NAV_SHIM_PORT")
    })?;
    let navigator = Navigator::new(cdp_port, policy);
    let service = Service::new(navigator.clone(), Token::new(|name| std::env::var_os(name)));
    let server = service.serve(listener);
    let local = socket.and_then(|path| match bind_own(&path) {
        Ok(listener) => Some(service.serve(listener)),
        Err(error) => {
            let help = "`kasm-void open` needs the token meanwhile";
            tracing::warn!(event = "launcher.no_socket", help, "cannot listen on {}: {error}", path.display());
            None
        }
    });
    tracing::info!(event = "launcher.listening", address = %listen, cdp_port, "ready to open pages on {listen}");
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    navigator.close().await;
    tokio::join!(server.close(LAST_ANSWERS), async {
        if let Some(local) = local {
            local.close(LAST_ANSWERS).await;
        }
    });
    tracing::info!(event = "launcher.ended", "the launcher has stopped");
    Ok(())
}

/// Binds the socket for our own user, unless another launcher of the session serves it.
fn bind_own(path: &Path) -> io::Result<UnixListener> {
    if socket::answers(&socket::connect(path)) {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another launcher of this session does"));
    }
    bind_unix(path)
}
