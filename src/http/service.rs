//! The service behind a listener: routes behind a gate, or a service that reads its requests itself. Knows no connections.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::http::request::Parts;
use axum::http::{Request, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;

use super::permits::{Busy, Permit};
use super::{Error, Peer};

/// Checks requests before they reach the routes.
pub trait Gate: Send + Sync + 'static {
    /// Whether this client has been admitted before. A known client is never disconnected for a stranger.
    fn knows(&self, _: &Peer) -> bool {
        false
    }

    /// Refuses a request after its head with a response, or returns `None` to let it pass.
    fn admit(&self, _: &mut Parts) -> Option<Response> {
        None
    }

    /// Makes the response to a request that is ambiguous or whose body could not be read.
    fn reject(&self, _: &Parts, error: Error) -> Response {
        ([(header::CACHE_CONTROL, "no-store")], error).into_response()
    }
}

/// Answers requests whose bodies it reads itself, and which may become tunnels. The server holds the connection's limits
/// and deadlines; what happens to a body is up to the service.
pub trait Streaming: Send + Sync + 'static {
    /// Answers one request, or closes its connection without an answer (`None`). [`Peer`], [`super::Closing`] and [`HeldPermit`] are
    /// among its extensions.
    fn answer(self: Arc<Self>, request: StreamingRequest) -> BoxedAnswer;
}

/// A request whose body has not been read.
pub type StreamingRequest = Request<Incoming>;

/// The answer of a [`Streaming`] service.
pub type BoxedAnswer = Pin<Box<dyn Future<Output = Option<Response>> + Send>>;

/// The client's permit, marked as busy. A tunnel keeps it for as long as it lives, so that the limits count it. An
/// extension of every request to a [`Streaming`] service.
#[derive(Clone)]
pub struct HeldPermit {
    _permit: Arc<Permit>,
    _busy: Arc<Busy>,
}

impl HeldPermit {
    pub(super) fn new(permit: Arc<Permit>, busy: Arc<Busy>) -> Self {
        HeldPermit { _permit: permit, _busy: busy }
    }
}

/// Lets every request pass.
pub(super) struct Open;

impl Gate for Open {}
