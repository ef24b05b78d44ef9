//! Server-sent events: the list and its changes, a piece at a time, each made when the client has read the one before. A
//! client that reads slowly or not at all costs nobody else anything.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::board::{Board, Looking};
use super::callers::Callers;
use crate::http::{Closing, Pieces};
use crate::model::gateway::list::Cursor;

/// Without news, a comment is sent this often, so that both ends notice when the other has gone.
const COMMENT: Duration = Duration::from_secs(15);
/// The shortest time between two pieces with changes. The first change of a burst is sent at once.
const PAUSE: Duration = Duration::from_millis(50);

/// The response to one client. It ends when the client's token is not accepted any more.
pub fn response(
    board: &Arc<Board>,
    callers: &Arc<Callers>,
    authorization: Option<Vec<u8>>,
    closing: Closing,
) -> Response {
    let (changes, looking, callers) = (board.changes(), board.look(), callers.clone());
    let client = Client { callers, authorization, closing, changes, cursor: Cursor::Start, last: None, looking };
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // A proxy must not collect the pieces.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::new(pieces(Box::new(client)))).into_response()
}

struct Client {
    callers: Arc<Callers>,
    authorization: Option<Vec<u8>>,
    closing: Closing,
    changes: watch::Receiver<u64>,
    cursor: Cursor,
    /// When the last piece with changes was made.
    last: Option<Instant>,
    looking: Looking,
}

fn pieces(mut client: Box<Client>) -> Pieces {
    Pieces::new(async move {
        let text = client.next().await?;
        Some((Bytes::from(text), pieces(client)))
    })
}

impl Client {
    /// The next piece; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        let comment = Instant::now() + COMMENT;
        loop {
            if let (Some(last), Cursor::At(_)) = (self.last, &self.cursor) {
                tokio::select! {
                    () = sleep_until(last + PAUSE) => {}
                    () = self.closing.begun() => return None,
                }
            }
            self.changes.mark_unchanged(); // what comes after this look wakes us
            if let Some((cursor, json)) = self.looking.board().with(|list| list.next(&self.cursor)) {
                (self.cursor, self.last) = (cursor, Some(Instant::now()));
                return Some(format!("event: workspaces\ndata: {json}\n\n"));
            }
            tokio::select! {
                changed = self.changes.changed() => changed.ok()?,
                () = self.closing.begun() => return None,
                () = sleep_until(comment) => {
                    self.callers.admit(self.authorization.as_deref()).ok()?;
                    return Some(": nothing new\n\n".into());
                }
            }
        }
    }
}
