//! Serves: the one HTTP/1.1 connection loop behind every listener (control socket, metrics, launcher). Owns what
//! protects a server from its clients: limits, deadlines, permits to be connected, the shape of a request. Knows no
//! route.

mod permits;

mod body;
mod stream;

pub use body::Pieces;
pub use permits::network;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
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
use permits::{Permit, Permits};
use stream::WriteTimeout;

/// What one listener grants its clients.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Clients served at a time.
    pub connections: u32,
    /// How many of them may be at one address. `None`: any number, and one client too many waits. Otherwise an
    /// idle client is disconnected for the next one.
    pub per_address: Option<u32>,
    /// How many of them are kept for clients that the [`Gate`] knows.
    pub reserved: u32,
    /// For the head of a request, and for a kept-alive connection to send its next one.
    pub head: Duration,
    /// For the body of a request.
    pub body: Duration,
    pub body_bytes: usize,
    /// For a client to take the next bytes of its answer.
    pub stalled: Duration,
}

impl Limits {
    /// For clients of our own user: a reader may pause (`logs -f | less`), not forever.
    pub const LOCAL: Limits = Limits {
        connections: 256,
        per_address: None,
        reserved: 0,
        head: Duration::from_secs(10),
        body: Duration::from_secs(5),
        body_bytes: 64 << 10,
        stalled: Duration::from_secs(600),
    };
    /// For clients from anywhere.
    pub const NETWORK: Limits = Limits {
        connections: 64,
        per_address: Some(16),
        reserved: 8,
        head: Duration::from_secs(5),
        body: Duration::from_secs(5),
        body_bytes: 64 << 10,
        stalled: Duration::from_secs(10),
    };
}

const HEADERS: usize = 32;
const HEAD_BYTES: usize = 8 << 10;
const BUFFER_BYTES: usize = 16 << 10;
/// Clients that wait to be accepted.
const BACKLOG: u32 = 4096;
/// What the kernel keeps of an answer that a client does not read. By default it would keep megabytes.
const SEND_BUFFER: u32 = 16 << 10;
/// Between two attempts to accept when the machine has no descriptor left.
const RETRY: Duration = Duration::from_millis(100);

/// The client; an extension of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Unix { uid: u32 },
    Tcp(SocketAddr),
}

/// Tells a long answer that the server is closing; an extension of every request.
#[derive(Clone)]
pub struct Closing(watch::Receiver<()>);

impl Closing {
    /// Returns when it is.
    pub async fn begun(&mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

/// What clients connect to.
pub trait Listen: Send + Sync + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

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

/// Looks at requests before the routes do.
pub trait Gate: Send + Sync + 'static {
    /// Whether this client has been welcome before. Strangers never push it out.
    fn knows(&self, _: &Peer) -> bool {
        false
    }

    /// Answers a request of which only the head has been read, or lets it pass with none.
    fn admit(&self, _: &mut Parts) -> Option<Response> {
        None
    }

    /// Answers a request that no route will see: it is not of one meaning, or its body did not come.
    fn reject(&self, _: &Parts, error: Error) -> Response {
        ([(header::CACHE_CONTROL, "no-store")], error).into_response()
    }
}

/// Lets every request pass.
struct Open;

impl Gate for Open {}

/// A listener with room for a crowd to wait in: a client that finds none tries again only after a second.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?; // accepted connections inherit it
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A server at work. Dropping it ends the listening; answers under way are finished.
#[must_use = "dropping it ends the listening"]
pub struct Server {
    _open: watch::Sender<()>,
    permits: Permits,
}

impl Server {
    /// Stops listening and lets answers under way be finished, for no longer than `within`.
    pub async fn close(self, within: Duration) {
        let Server { _open, permits } = self;
        drop(_open);
        let _ = timeout(within, permits.all_free()).await; // late ones are cut off
    }
}

/// Serves `router` to everybody who connects to `listener`, in the background.
pub fn serve(listener: impl Listen, router: Router, limits: Limits) -> Server {
    serve_gated(listener, Arc::new(Open), router, limits)
}

/// As [`serve`], for the requests that `gate` lets pass. A refused request costs no body.
pub fn serve_gated(listener: impl Listen, gate: Arc<dyn Gate>, router: Router, limits: Limits) -> Server {
    let permits = Permits::new(limits.connections, limits.reserved, limits.per_address);
    let (open, closing) = watch::channel(());
    let shared = Shared { gate, router, limits, closing: Closing(closing) };
    tokio::spawn(listen(listener, shared, permits.clone()));
    Server { _open: open, permits }
}

/// What all connections of one listener share.
#[derive(Clone)]
struct Shared {
    gate: Arc<dyn Gate>,
    router: Router,
    limits: Limits,
    closing: Closing,
}

async fn listen(listener: impl Listen, shared: Shared, permits: Permits) {
    let mut closing = shared.closing.clone();
    let admitted = async |listener: &_| {
        let (stream, peer) = Listen::accept(listener).await?;
        Ok((stream, peer, permits.take(peer, shared.gate.knows(&peer)).await))
    };
    loop {
        let accepted: io::Result<_> = tokio::select! {
            accepted = admitted(&listener) => accepted,
            () = closing.begun() => return,
        };
        match accepted {
            Ok((stream, peer, Some(permit))) => {
                tokio::spawn(run_connection(stream, peer, permit, shared.clone()));
                yield_now().await; // so that a client in a crowd is read before the next one takes its permit
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
    let stream = TokioIo::new(WriteTimeout::new(stream, limits.stalled));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_headers(HEADERS)
        .max_header_size(HEAD_BYTES)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(stream, service);
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
) -> Result<Response, Infallible> {
    let Shared { gate, router, limits, closing } = shared;
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(peer);
    parts.extensions.insert(closing);
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
    let busy = permit.busy();
    let response = TowerToHyperService::new(router).call(Request::from_parts(parts, Body::from(body))).await?;
    Ok(response.map(|body| Body::new(Answering { body, _busy: busy })))
}

async fn received(parts: &Parts, body: Incoming, limits: Limits) -> Result<Bytes, Error> {
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

/// Refuses a request that two servers could read differently. hyper has already dropped the `Content-Length` beside a
/// `Transfer-Encoding` and would answer; no client of ours sends chunks, so those are refused as a whole, behind the
/// gate.
fn has_one_meaning(parts: &Parts) -> Result<(), Error> {
    let hosts = parts.headers.get_all(header::HOST).iter().count();
    let why = match (hosts, parts.version) {
        (0, Version::HTTP_11) => "the request has no Host header",
        (0 | 1, _) => return Ok(()),
        _ => "the request has more than one Host header",
    };
    Err(Error::new(StatusCode::BAD_REQUEST, why))
}

/// An answer that ends the connection, because it is unknown where the next request would begin.
fn closed_after(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// An error, the same in every route: `{"error": "…"}`.
#[derive(Debug)]
pub struct Error(pub StatusCode, pub String);

impl Error {
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
