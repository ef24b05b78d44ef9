//! The guard proxy: the only way out of the shared browser. Judges the host of each request with `model::url`, looks its
//! name up once, and connects to the address that was judged. `model::proxy` decides what a request is and what a refusal
//! looks like. Does not know the supervisor.

pub mod audit;
pub mod dial;
pub mod forward;
pub mod next;
pub mod serve;
pub mod tunnel;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};

use crate::host::sys;
use crate::model::proxy::upstream::Upstream;
use crate::model::url::Policy;
use dial::Dialer;

/// Time limit for the last answers at shutdown. Tunnels are closed at once.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// The proxy's settings.
pub struct ProxyOptions {
    pub listen: SocketAddr,
    /// Must already refuse the proxy's own port.
    pub policy: Policy,
    /// Another proxy that opens every connection.
    pub upstream: Option<Upstream>,
}

/// Serves until SIGINT or SIGTERM.
///
/// # Errors
/// If the address cannot be listened on.
pub async fn run(options: ProxyOptions) -> anyhow::Result<()> {
    let ProxyOptions { listen, policy, upstream } = options;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    sys::raise_open_files(); // two for each tunnel
    let listener = bound(listen).with_context(|| {
        format!("cannot listen on {listen} for the browser: choose another port with --port or PROXY_PORT")
    })?;
    let next = upstream.as_ref().map(ToString::to_string);
    let server = serve::serve(listener, Dialer::new(policy, upstream));
    tracing::info!(event = "proxy.listening", address = %listen, upstream = next, "ready to connect the browser on {listen}");
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    server.close(LAST_ANSWERS).await;
    tracing::info!(event = "proxy.ended", "the proxy has stopped");
    Ok(())
}

/// How many clients may wait to be accepted.
const BACKLOG: u32 = 1024;

/// A listener whose connections have the kernel's own buffers, which grow with the speed of a download. Clients are of this
/// machine, so the small buffers of [`crate::http::bind`] would only slow them down.
fn bound(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
