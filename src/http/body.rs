//! Response bodies: one that is made piece by piece, and one that keeps the client busy until it is sent.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use hyper::body::{Frame, SizeHint};

use super::permits::Busy;

/// A response body. The client's permit is not revoked until all of it is sent.
pub struct Answering {
    /// The rest of the response.
    pub body: Body,
    /// Dropped with the body.
    pub _busy: Arc<Busy>,
}

impl hyper::body::Body for Answering {
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

/// A body that is made piece by piece, each after the client has read the one before.
pub struct Pieces {
    next: Pin<Box<dyn Future<Output = Next> + Send>>,
}

/// A piece and the rest of the body, or `None` at the end.
type Next = Option<(Bytes, Pieces)>;

impl Pieces {
    /// A body that begins with the piece that `next` returns.
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
