//! Serves: the one HTTP/1.1 connection loop behind every listener (control socket, metrics, launcher,
//! gateway). Owns what protects a server from its clients: limits, deadlines, the shape of a request.
//! Knows no route.

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
use axum::http::{Request, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Sleep, sleep, timeout};

/// What one listener grants its clients.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Clients served at a time; the next ones wait in the listener's backlog.
    pub connections: u32,
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
        head: Duration::from_secs(10),
        body: Duration::from_secs(5),
        body_bytes: 64 << 10,
        stalled: Duration::from_secs(600),
    };
    /// For clients from anywhere.
    pub const NETWORK: Limits = Limits {
        connections: 64,
        head: Duration::from_secs(5),
        body: Duration::from_secs(5),
        body_bytes: 64 << 10,
        stalled: Duration::from_secs(10),
    };
}

const HEADERS: usize = 32;
const HEAD_BYTES: usize = 8 << 10;
const BUFFER_BYTES: usize = 16 << 10;
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

/// A server at work. Dropping it ends the listening; answers under way are finished.
#[must_use = "dropping it ends the listening"]
pub struct Server {
    _open: watch::Sender<()>,
    seats: Arc<Semaphore>,
    all: u32,
}

impl Server {
    /// Stops listening and lets answers under way be finished, for no longer than `within`.
    pub async fn close(self, within: Duration) {
        let Server { _open, seats, all } = self;
        drop(_open);
        let _ = timeout(within, seats.acquire_many(all)).await; // whoever is late is cut off
    }
}

/// Serves `router` to all who connect to `listener`, in the background.
pub fn serve(listener: impl Listen, router: Router, limits: Limits) -> Server {
    let seats = Arc::new(Semaphore::new(limits.connections as usize));
    let (open, closing) = watch::channel(());
    tokio::spawn(listen(listener, router, limits, seats.clone(), Closing(closing)));
    Server { _open: open, seats, all: limits.connections }
}

async fn listen(listener: impl Listen, router: Router, limits: Limits, seats: Arc<Semaphore>, mut closing: Closing) {
    loop {
        let next = async {
            let seat = seats.clone().acquire_owned().await;
            (seat, listener.accept().await)
        };
        let accepted = tokio::select! {
            accepted = next => accepted,
            () = closing.begun() => return,
        };
        match accepted {
            (Ok(seat), Ok((stream, peer))) => {
                tokio::spawn(converse(stream, peer, router.clone(), limits, (seat, closing.clone())));
            }
            (Ok(_), Err(error)) => {
                tracing::debug!(event = "http.accept_failed", error = %error, "cannot accept a connection: {error}");
                sleep(BREATH).await;
            }
            (Err(_), _) => return,
        }
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    router: Router,
    limits: Limits,
    (_seat, mut closing): (OwnedSemaphorePermit, Closing),
) {
    let extensions = (peer, closing.clone());
    let service = hyper::service::service_fn(|request| answer(request, extensions.clone(), router.clone(), limits));
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
        () = closing.begun() => {
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
    (peer, closing): (Peer, Closing),
    router: Router,
    limits: Limits,
) -> Result<Response, Infallible> {
    if let Some((status, why)) = refuse_shape(&request) {
        return Ok(closing_error(status, why));
    }
    let (mut parts, body) = request.into_parts();
    let body = match timeout(limits.body, Limited::new(body, limits.body_bytes).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let why = format!("the body is longer than {} bytes", limits.body_bytes);
            return Ok(closing_error(StatusCode::PAYLOAD_TOO_LARGE, why));
        }
        Ok(Err(error)) => return Ok(closing_error(StatusCode::BAD_REQUEST, format!("cannot read the body: {error}"))),
        Err(_) => {
            let why = format!("the body did not arrive within {} seconds", limits.body.as_secs());
            return Ok(closing_error(StatusCode::REQUEST_TIMEOUT, why));
        }
    };
    parts.extensions.insert(peer);
    parts.extensions.insert(closing);
    TowerToHyperService::new(router).call(Request::from_parts(parts, Body::from(body))).await
}

/// Requests that two servers could read as different ones. hyper has already dropped the `Content-Length`
/// beside a `Transfer-Encoding` and would answer; no client of ours sends chunks, so these are refused whole.
fn refuse_shape<B>(request: &Request<B>) -> Option<(StatusCode, &'static str)> {
    let headers = request.headers();
    let hosts = headers.get_all(header::HOST).iter().count();
    if headers.contains_key(header::TRANSFER_ENCODING) {
        Some((StatusCode::LENGTH_REQUIRED, "send the body with a Content-Length and without Transfer-Encoding"))
    } else if hosts > 1 {
        Some((StatusCode::BAD_REQUEST, "the request has more than one Host header"))
    } else if hosts == 0 && request.version() == Version::HTTP_11 {
        Some((StatusCode::BAD_REQUEST, "the request has no Host header"))
    } else {
        None
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

/// An error after which the connection cannot be used any more.
fn closing_error(status: StatusCode, why: impl Into<String>) -> Response {
    ([(header::CONNECTION, "close")], Error::new(status, why)).into_response()
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
