//! The HTTP/1.1 server behind every listener (control socket, metrics, launcher). Owns the protection against clients:
//! limits, deadlines, connection permits, and the checks of a request's form. Knows no routes.

mod permits;

mod body;
mod fragment;
mod limits;
mod service;
mod stream;

pub use body::Pieces;
pub use limits::ListenerLimits;
pub use permits::network;
pub use service::{BoxedAnswer, Gate, HeldPermit, Streaming, StreamingRequest};

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Request, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use body::Answering;
use fragment::Fragments;
use permits::{Permit, Permits};
use service::Open;
use stream::ClientStream;

/// How many clients may wait to be accepted.
const BACKLOG: u32 = 4096;
/// How many bytes of an unread response the kernel buffers. The default would be megabytes.
const SEND_BUFFER: u32 = 16 << 10;
/// The pause after a failed accept, for example when no file descriptor is left.
const RETRY: Duration = Duration::from_millis(100);

/// The client's address or user. An extension of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A process on a unix socket.
    Unix {
        /// The user it ran as when it connected.
        uid: u32,
    },
    /// A client at this address.
    Tcp(SocketAddr),
}

/// Signals to long responses that the server is closing. An extension of every request.
#[derive(Clone)]
pub struct Closing(watch::Receiver<()>);

impl Closing {
    /// One that begins when the sender is dropped, for a response without a server.
    #[cfg(test)]
    pub fn by_hand() -> (watch::Sender<()>, Closing) {
        let (open, closing) = watch::channel(());
        (open, Closing(closing))
    }

    /// Returns when the server is closing.
    pub async fn begun(&mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

/// A listener for connections of any kind.
pub trait Listen: Send + Sync + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next client, and returns its connection and who it is.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;
}

impl Listen for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _) = UnixListener::accept(self).await?;
        let uid = stream.peer_cred()?.uid();
        Ok((stream, Peer::Unix { uid }))
    }
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Peer)> {
        let (stream, address) = TcpListener::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok((stream, Peer::Tcp(address)))
    }
}

/// The service behind a listener.
#[derive(Clone)]
enum Served {
    Routes(Arc<dyn Gate>, Router),
    Streams(Arc<dyn Streaming>),
}

/// A listener with a long backlog. A client that does not fit into the backlog retries only after a second.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?; // accepted connections inherit it
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A Unix socket that only our user can open, in place of a dead one. The caller knows that no live process serves it.
///
/// # Errors
/// The path is too long for a socket, or cannot be written to.
pub fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    // Bound under another name and then renamed: the socket never exists with open permissions, and is never
    // missing.
    let aside = path.with_extension("new");
    match std::fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&aside).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => {
            let why = format!("{} is too long for a socket's path: use a shorter state folder", path.display());
            io::Error::new(error.kind(), why)
        }
        _ => error,
    })?;
    std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&aside, path)?;
    Ok(listener)
}

/// A running server. Dropping it stops listening; responses in progress are finished.
#[must_use = "dropping it ends the listening"]
pub struct Server {
    _open: watch::Sender<()>,
    permits: Permits,
}

impl Server {
    /// Stops listening, and waits up to `within` for responses in progress.
    pub async fn close(self, within: Duration) {
        let Server { _open, permits } = self;
        drop(_open);
        let _ = timeout(within, permits.all_free()).await; // later responses are cut off
    }
}

/// Serves `router` on `listener`, in the background.
pub fn serve(listener: impl Listen, router: Router, limits: ListenerLimits) -> Server {
    serve_gated(listener, Arc::new(Open), router, limits)
}

/// Like [`serve`], for the requests that `gate` lets pass. The body of a refused request is not read.
pub fn serve_gated(listener: impl Listen, gate: Arc<dyn Gate>, router: Router, limits: ListenerLimits) -> Server {
    start(listener, Served::Routes(gate, router), limits)
}

/// Serves a [`Streaming`] service on `listener`, in the background. The limits of bodies do not apply.
pub fn serve_streams(listener: impl Listen, service: Arc<dyn Streaming>, limits: ListenerLimits) -> Server {
    start(listener, Served::Streams(service), limits)
}

fn start(listener: impl Listen, served: Served, limits: ListenerLimits) -> Server {
    let permits = Permits::new(limits.connections, limits.reserved, limits.per_address);
    let (open, closing) = watch::channel(());
    let shared = Shared { served, limits, closing: Closing(closing) };
    tokio::spawn(listen(listener, shared, permits.clone()));
    Server { _open: open, permits }
}

/// The state that all connections of one listener share.
#[derive(Clone)]
struct Shared {
    served: Served,
    limits: ListenerLimits,
    closing: Closing,
}

impl Shared {
    fn knows(&self, peer: &Peer) -> bool {
        match &self.served {
            Served::Routes(gate, _) => gate.knows(peer),
            Served::Streams(_) => false,
        }
    }
}

async fn listen(listener: impl Listen, shared: Shared, permits: Permits) {
    let mut closing = shared.closing.clone();
    let admitted = async |listener: &_| {
        let (stream, peer) = Listen::accept(listener).await?;
        Ok((stream, peer, permits.take(peer, shared.knows(&peer)).await))
    };
    loop {
        let accepted: io::Result<_> = tokio::select! {
            accepted = admitted(&listener) => accepted,
            () = closing.begun() => return,
        };
        match accepted {
            Ok((stream, peer, Some(permit))) => {
                tokio::spawn(run_connection(stream, peer, permit, shared.clone()));
                yield_now().await; // so that this client is read before the next one can take its permit
            }
            Ok((_, _, None)) => yield_now().await,
            Err(error) => {
                tracing::debug!(event = "http.accept_failed", error = %error, "cannot accept a connection: {error}");
                if error.kind() != io::ErrorKind::ConnectionAborted {
                    sleep(RETRY).await;
                }
            }
        }
    }
}

async fn run_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    permit: Permit,
    mut shared: Shared,
) {
    let limits = shared.limits;
    let (permit, for_requests) = (Arc::new(permit), shared.clone());
    let service = hyper::service::service_fn(|request| answer(request, peer, permit.clone(), for_requests.clone()));
    // What passes through a tunnel is not ours to look at.
    let fragments = matches!(shared.served, Served::Routes(..)).then(Fragments::default);
    let stream = TokioIo::new(ClientStream::new(stream, fragments, limits.stalled));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_headers(limits.headers)
        .max_header_size(limits.head_bytes)
        .max_buf_size(2 * limits.head_bytes)
        .preserve_header_case(matches!(shared.served, Served::Streams(_)))
        .serve_connection(stream, service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = permit.revoked() => return,
        () = shared.closing.begun() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(event = "http.connection_failed", ?peer, error = %error, "a connection ended early: {error}");
    }
}

async fn answer(
    request: Request<Incoming>,
    peer: Peer,
    permit: Arc<Permit>,
    shared: Shared,
) -> Result<Response, Unanswered> {
    let Shared { served, limits, closing } = shared;
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(peer);
    parts.extensions.insert(closing);
    match served {
        Served::Routes(gate, router) => {
            Ok(answer_whole(parts, body, permit, gate, router, limits).await.unwrap_or_else(|never| match never {}))
        }
        Served::Streams(service) => answer_streaming(parts, body, permit, service).await.ok_or(Unanswered),
    }
}

/// Closes a connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the request was not answered on purpose")]
struct Unanswered;

async fn answer_streaming(
    mut parts: Parts,
    body: Incoming,
    permit: Arc<Permit>,
    service: Arc<dyn Streaming>,
) -> Option<Response> {
    if let Err(error) = has_one_meaning(&parts) {
        return Some(closed_after(error.into_response()));
    }
    let busy = Arc::new(permit.busy());
    parts.extensions.insert(HeldPermit::new(permit, busy.clone()));
    let response = service.answer(Request::from_parts(parts, body)).await?;
    Some(response.map(|body| Body::new(Answering { body, _busy: busy })))
}

async fn answer_whole(
    mut parts: Parts,
    body: Incoming,
    permit: Arc<Permit>,
    gate: Arc<dyn Gate>,
    router: Router,
    limits: ListenerLimits,
) -> Result<Response, Infallible> {
    if let Err(error) = has_one_meaning(&parts) {
        return Ok(closed_after(gate.reject(&parts, error)));
    }
    if let Some(refusal) = gate.admit(&mut parts) {
        return Ok(if body.is_end_stream() { refusal } else { closed_after(refusal) });
    }
    let body = match received(&parts, body, limits).await {
        Ok(body) => body,
        Err(error) => return Ok(closed_after(gate.reject(&parts, error))),
    };
    let busy = Arc::new(permit.busy());
    let response = TowerToHyperService::new(router).call(Request::from_parts(parts, Body::from(body))).await?;
    Ok(response.map(|body| Body::new(Answering { body, _busy: busy })))
}

async fn received(parts: &Parts, body: Incoming, limits: ListenerLimits) -> Result<Bytes, Error> {
    if parts.headers.contains_key(header::TRANSFER_ENCODING) {
        let why = "send the body with a Content-Length and without Transfer-Encoding";
        return Err(Error::new(StatusCode::LENGTH_REQUIRED, why));
    }
    match timeout(limits.body, Limited::new(body, limits.body_bytes).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let why = format!("the body is longer than {} bytes", limits.body_bytes);
            Err(Error::new(StatusCode::PAYLOAD_TOO_LARGE, why))
        }
        Ok(Err(error)) => Err(Error::new(StatusCode::BAD_REQUEST, format!("cannot read the body: {error}"))),
        Err(_) => {
            let why = format!("the body did not arrive within {} seconds", limits.body.as_secs());
            Err(Error::new(StatusCode::REQUEST_TIMEOUT, why))
        }
    }
}

/// Refuses a request that two servers could read differently. If a request has both `Content-Length` and
/// `Transfer-Encoding`, hyper drops the former and accepts the request. No client of ours sends chunks, so `received`
/// refuses every `Transfer-Encoding` after the gate.
fn has_one_meaning(parts: &Parts) -> Result<(), Error> {
    let hosts = parts.headers.get_all(header::HOST).iter().count();
    let why = match (hosts, parts.version) {
        (0, Version::HTTP_11) => "the request has no Host header",
        (0 | 1, _) => return Ok(()),
        _ => "the request has more than one Host header",
    };
    Err(Error::new(StatusCode::BAD_REQUEST, why))
}

/// Closes the connection after this response, because it is unknown where the next request would begin.
fn closed_after(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// An error response with the same body on every route: `{"error": "…"}`.
#[derive(Debug)]
pub struct Error(pub StatusCode, pub String);

impl Error {
    /// The error with this status and reason.
    pub fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Error(status, why.into())
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        (self.0, axum::Json(serde_json::json!({ "error": self.1 }))).into_response()
    }
}

#[cfg(test)]
mod tests;
