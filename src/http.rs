//! Serves: the one HTTP/1.1 connection loop behind every listener (control socket, metrics, launcher,
//! gateway). Owns what protects a server from its clients: limits, deadlines, who has a seat, the shape of a
//! request. Knows no route.

mod seats;

pub use seats::network;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Request, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use seats::{Seat, Seats};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Sleep, sleep, timeout};

/// What one listener grants its clients.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Clients served at a time.
    pub connections: u32,
    /// How many of them may be at one address; none: it does not matter, and who is one too many waits for a seat.
    /// Else whoever waits longest for his own next request loses his seat to the next client.
    pub per_address: Option<u32>,
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
        head: Duration::from_secs(10),
        body: Duration::from_secs(5),
        body_bytes: 64 << 10,
        stalled: Duration::from_secs(600),
    };
    /// For clients from anywhere.
    pub const NETWORK: Limits = Limits {
        connections: 64,
        per_address: Some(16),
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
/// Between two tries to accept when the machine has no descriptor left.
const BREATH: Duration = Duration::from_millis(100);

/// Who is at the other end; an extension of every request.
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

/// Who looks at requests before the routes do.
pub trait Gate: Send + Sync + 'static {
    /// Answers a request of which only the head has been read, or lets it pass with none.
    fn admit(&self, _: &mut Parts) -> Option<Response> {
        None
    }

    /// Answers a request that no route will see: it is not of one meaning, or its body did not come.
    fn turn_away(&self, _: &Parts, error: Error) -> Response {
        ([(header::CACHE_CONTROL, "no-store")], error).into_response()
    }
}

/// No look is needed.
struct Open;

impl Gate for Open {}

/// A listener with room for a crowd to wait in: a client that finds none tries again only after a second.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A server at work. Dropping it ends the listening; answers under way are finished.
#[must_use = "dropping it ends the listening"]
pub struct Server {
    _open: watch::Sender<()>,
    seats: Seats,
}

impl Server {
    /// Stops listening and lets answers under way be finished, for no longer than `within`.
    pub async fn close(self, within: Duration) {
        let Server { _open, seats } = self;
        drop(_open);
        let _ = timeout(within, seats.all_free()).await; // whoever is late is cut off
    }
}

/// Serves `router` to all who connect to `listener`, in the background.
pub fn serve(listener: impl Listen, router: Router, limits: Limits) -> Server {
    serve_gated(listener, Arc::new(Open), router, limits)
}

/// As [`serve`], of those requests that `gate` lets pass: what it refuses costs no body.
pub fn serve_gated(listener: impl Listen, gate: Arc<dyn Gate>, router: Router, limits: Limits) -> Server {
    let seats = Seats::new(limits.connections, limits.per_address);
    let (open, closing) = watch::channel(());
    let house = House { gate, router, limits, closing: Closing(closing) };
    tokio::spawn(listen(listener, house, seats.clone()));
    Server { _open: open, seats }
}

/// What all connections of one listener share.
#[derive(Clone)]
struct House {
    gate: Arc<dyn Gate>,
    router: Router,
    limits: Limits,
    closing: Closing,
}

async fn listen(listener: impl Listen, house: House, seats: Seats) {
    let mut closing = house.closing.clone();
    let seated = async |listener: &_| {
        let (stream, peer) = Listen::accept(listener).await?;
        Ok((stream, peer, seats.take(peer).await))
    };
    loop {
        let accepted: io::Result<_> = tokio::select! {
            accepted = seated(&listener) => accepted,
            () = closing.begun() => return,
        };
        match accepted {
            Ok((stream, peer, Some(seat))) => {
                tokio::spawn(converse(stream, peer, seat, house.clone()));
                yield_now().await; // so that a client in a crowd is read before the next one takes his seat
            }
            Ok((_, _, None)) => yield_now().await,
            Err(error) => {
                tracing::debug!(event = "http.accept_failed", error = %error, "cannot accept a connection: {error}");
                if error.kind() != io::ErrorKind::ConnectionAborted {
                    sleep(BREATH).await;
                }
            }
        }
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    seat: Seat,
    mut house: House,
) {
    let limits = house.limits;
    let (seat, guests) = (Arc::new(seat), house.clone());
    let service = hyper::service::service_fn(|request| answer(request, peer, seat.clone(), guests.clone()));
    let stream = TokioIo::new(Patient { stream, limit: limits.stalled, waiting: None });
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
        () = seat.lost() => return,
        () = house.closing.begun() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(event = "http.connection_failed", ?peer, error = %error, "a connection ended early: {error}");
    }
}

async fn answer(request: Request<Incoming>, peer: Peer, seat: Arc<Seat>, house: House) -> Result<Response, Infallible> {
    let House { gate, router, limits, closing } = house;
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(peer);
    parts.extensions.insert(closing);
    if let Err(error) = has_one_meaning(&parts) {
        return Ok(closed_after(gate.turn_away(&parts, error)));
    }
    if let Some(refusal) = gate.admit(&mut parts) {
        return Ok(if body.is_end_stream() { refusal } else { closed_after(refusal) });
    }
    let body = match received(&parts, body, limits).await {
        Ok(body) => body,
        Err(error) => return Ok(closed_after(gate.turn_away(&parts, error))),
    };
    let working = seat.working();
    let response = TowerToHyperService::new(router).call(Request::from_parts(parts, Body::from(body))).await?;
    Ok(response.map(|body| Body::new(Working { body, _seat: working })))
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

/// Whether two servers could read it as different ones. hyper has already dropped the `Content-Length` beside a
/// `Transfer-Encoding` and would answer; no client of ours sends chunks, so these are refused whole, behind the
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

/// An answer after which the connection cannot be used any more: nobody knows where the next request begins.
fn closed_after(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// An answer's body; as long as it is not sent, its client keeps the seat.
struct Working {
    body: Body,
    _seat: seats::Working,
}

impl hyper::body::Body for Working {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An error as every route tells it: `{"error": "…"}`.
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

/// A body made piece by piece, each when the client has taken the one before.
pub struct Pieces {
    next: Pin<Box<dyn Future<Output = Next> + Send>>,
}

/// A piece and those behind it; `None` is the end.
type Next = Option<(Bytes, Pieces)>;

impl Pieces {
    pub fn new(next: impl Future<Output = Next> + Send + 'static) -> Self {
        Pieces { next: Box::pin(next) }
    }
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(ready!(self.next.as_mut().poll(context)).map(|(piece, rest)| {
            *self = rest;
            Ok(Frame::data(piece))
        }))
    }
}

/// A stream whose writes fail when the other end takes nothing for too long.
struct Patient<S> {
    stream: S,
    limit: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    fn watched<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let limit = self.limit;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(limit)));
        waiting.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.watched(context, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.watched(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(context);
        this.watched(context, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
