//! Endless answers: sends what a broadcast channel carries for as long as the client reads. A slow client costs no
//! more than the channel's fixed capacity and one piece, and is told what it missed.

use std::sync::Arc;

use axum::body::Bytes;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use crate::http::{Closing, Pieces};
use crate::model::protocol::SessionEvent;

/// An item of a stream: how to write it, and how to report a gap.
pub trait Streamed: Clone + Send + 'static {
    fn write(&self, piece: &mut Vec<u8>);

    fn write_dropped(count: u64, piece: &mut Vec<u8>);
}

/// An event: one JSON object.
impl Streamed for Arc<str> {
    fn write(&self, piece: &mut Vec<u8>) {
        piece.extend_from_slice(self.as_bytes());
        piece.push(b'\n');
    }

    fn write_dropped(count: u64, piece: &mut Vec<u8>) {
        let dropped = serde_json::to_string(&SessionEvent::Dropped { n: count });
        piece.extend_from_slice(dropped.unwrap_or_default().as_bytes()); // a number alone cannot fail
        piece.push(b'\n');
    }
}

/// Output of one app.
impl Streamed for Bytes {
    fn write(&self, piece: &mut Vec<u8>) {
        piece.extend_from_slice(self);
    }

    fn write_dropped(_: u64, piece: &mut Vec<u8>) {
        piece.extend_from_slice(b"\n[kasm-void: some output is left out here: this client was too slow for it]\n");
    }
}

/// A write to the client stops gathering items once it holds this many bytes.
const PIECE_BYTES: usize = 64 << 10;

/// Streams everything sent from now on. What a slow client misses is overwritten in the channel, and the client is
/// told how much it missed.
pub fn follow_on<T: Streamed>(mut receiver: broadcast::Receiver<T>, mut closing: Closing) -> Pieces {
    Pieces::new(async move {
        let first = tokio::select! {
            biased;
            first = receiver.recv() => first,
            () = closing.begun() => return None,
        };
        let mut piece = Vec::new();
        match first {
            Ok(first) => first.write(&mut piece),
            Err(RecvError::Lagged(count)) => T::write_dropped(count, &mut piece),
            Err(RecvError::Closed) => return None,
        }
        while piece.len() < PIECE_BYTES {
            match receiver.try_recv() {
                Ok(more) => more.write(&mut piece),
                Err(TryRecvError::Lagged(count)) => T::write_dropped(count, &mut piece),
                Err(_) => break,
            }
        }
        Some((piece.into(), follow_on(receiver, closing)))
    })
}
