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

/// Without news, a comment is sent this often, so that both ends notice when the other has gone. With or without news, the
/// client's token is checked again this often.
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
    let (cursor, admitted) = (Cursor::Start, Instant::now());
    let client = Client { callers, authorization, admitted, closing, changes, cursor, last: None, looking };
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
    /// When its token was last checked.
    admitted: Instant,
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
            self.still_admitted()?;
            self.changes.mark_unchanged(); // what comes after this look wakes us
            if let Some((cursor, json)) = self.looking.board().with(|list| list.next(&self.cursor)) {
                (self.cursor, self.last) = (cursor, Some(Instant::now()));
                return Some(format!("event: workspaces\ndata: {json}\n\n"));
            }
            tokio::select! {
                changed = self.changes.changed() => changed.ok()?,
                () = self.closing.begun() => return None,
                () = sleep_until(comment) => {
                    self.still_admitted()?;
                    return Some(": nothing new\n\n".into());
                }
            }
        }
    }

    /// `None` if the client's token is not accepted any more.
    fn still_admitted(&mut self) -> Option<()> {
        if self.admitted.elapsed() >= COMMENT {
            self.callers.admit(self.authorization.as_deref()).ok()?;
            self.admitted = Instant::now();
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use http_body_util::BodyExt;

    use super::*;
    use crate::model::gateway::list::{ListInput, ProbeAnswer, WorkspaceList};
    use crate::model::gateway::settings::{Endpoint, FixedWorkspace, TokenSource};

    #[tokio::test(start_paused = true)]
    async fn a_stream_with_constant_news_ends_too_once_its_token_is_withdrawn() {
        let tokens = tempfile::NamedTempFile::new().unwrap();
        fs::set_permissions(tokens.path(), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(tokens.path(), "ada 0123456789abcdef\n").unwrap();
        let callers = Arc::new(Callers::new(Some(tokens.path().into()), None));
        let launcher = Endpoint::Tcp { host: "127.0.0.1".into(), port: 1 };
        let desk = FixedWorkspace { launcher, metrics: None, token: TokenSource::None };
        let list = WorkspaceList::new(BTreeMap::from([("desk".into(), desk)]), None);
        let board = Arc::new(Board::new(list));
        let (_server, closing) = Closing::by_hand();
        let authorization = Some(b"Bearer 0123456789abcdef".to_vec());
        let mut body = response(&board, &callers, authorization, closing).into_body();
        let mut news = async |number: u32| {
            let answer =
                if number.is_multiple_of(2) { ProbeAnswer::Healthy } else { ProbeAnswer::Silent("refused".into()) };
            board.learn(ListInput::Probed { workspace: "desk".into(), answer });
            tokio::time::sleep(Duration::from_secs(1)).await;
            body.frame().await.is_some()
        };
        for number in 0..100 {
            assert!(news(number).await, "a good token is not refused: {number}");
        }
        fs::write(tokens.path(), "ada fedcba9876543210\n").unwrap();
        let mut number = 100;
        while news(number).await {
            number += 1;
            assert!(number < 200, "it goes on with a token that is not accepted");
        }
    }
}
