//! Reads the log of one app from the supervisor. If a new supervisor takes over, continues at the same position in its
//! log.

use std::collections::VecDeque;

use crate::cli::client::{Client, Stream};
use crate::cli::print::{complain, plain};
use crate::model::protocol::{Identity, Route};

/// How many of the last lines to remember, to find the position again after the connection was lost.
const REMEMBERED: usize = 20;
/// How many lines to request from the next supervisor to find that position.
const LOOKED_THROUGH: usize = 10_000;

/// The log of one app.
pub struct LogReader {
    client: Client,
    app: String,
    follow: bool,
    before: Identity,
    stream: Stream,
    seen: Seen,
    /// Whether to print a notice when another supervisor has taken over.
    notices: bool,
}

impl LogReader {
    /// Opens the log at its last `lines` lines. With `follow`, it goes on with what the app writes.
    ///
    /// # Errors
    /// There is no such app, or no supervisor.
    pub async fn open(
        client: &Client,
        app: &str,
        (follow, lines): (bool, usize),
        notices: bool,
    ) -> anyhow::Result<LogReader> {
        let before = client.get(&Route::Supervisor.path(&[])).await?;
        let stream = client.open(&path(app, follow, lines)).await?;
        let seen = Seen::default();
        Ok(LogReader { client: client.clone(), app: app.into(), follow, before, stream, seen, notices })
    }

    /// The output that existed when the log was opened.
    pub async fn head(&mut self) -> Vec<u8> {
        let head = self.stream.head().await;
        self.seen.note(&head);
        head
    }

    /// The next piece. `None` at the end: of the log, or of the session if it is followed.
    pub async fn next(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        if let Some(piece) = self.stream.next().await {
            self.seen.note(&piece);
            return Ok(Some(piece.to_vec()));
        }
        let next = if self.follow { self.client.successor(&self.before).await? } else { None };
        let Some(now) = next else { return Ok(None) };
        if self.notices {
            notice(&self.before, &now);
        }
        let lines = if self.seen.is_empty() { 0 } else { LOOKED_THROUGH };
        self.stream = self.client.open(&path(&self.app, true, lines)).await?;
        let head = self.stream.head().await;
        let unseen = self.seen.unseen(&head).unwrap_or_else(|| {
            complain(&format!("some output of {} may be missing here", plain(&self.app)));
            &head
        });
        let unseen = unseen.to_vec();
        self.seen.note(&unseen);
        self.before = now;
        Ok(Some(unseen))
    }
}

fn path(app: &str, follow: bool, lines: usize) -> String {
    format!("{}?follow={follow}&lines={lines}", Route::Logs.path(&[app]))
}

/// Prints a notice that another supervisor has taken over.
pub fn notice(before: &Identity, now: &Identity) {
    complain(&match now.pid == before.pid {
        true => "the connection was lost and is back".to_string(),
        false if now.deaths == before.deaths => {
            format!(
                "the supervisor was upgraded from {} to {} (pid {}); continuing",
                before.version, now.version, now.pid
            )
        }
        false => {
            let after = now.after.as_deref().unwrap_or("it died");
            format!("the supervisor was restarted (pid {}, {}); continuing", now.pid, plain(after))
        }
    });
}

/// The last lines that were read of a log, to find the position again.
#[derive(Default)]
struct Seen {
    lines: VecDeque<Vec<u8>>,
    /// The unfinished last line.
    rest: Vec<u8>,
}

impl Seen {
    fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    fn note(&mut self, piece: &[u8]) {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.rest.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.lines.push_back(std::mem::take(&mut self.rest));
            }
        }
        self.lines.drain(..self.lines.len().saturating_sub(REMEMBERED));
    }

    /// The part of `head` that has not been read yet, or `None` if `head` does not contain the lines read last.
    fn unseen<'a>(&mut self, head: &'a [u8]) -> Option<&'a [u8]> {
        let lines: Vec<&[u8]> = head.split_inclusive(|byte| *byte == b'\n').collect();
        let seen = self.lines.make_contiguous();
        let is_behind = |end: &usize| lines[end - seen.len()..*end].iter().eq(seen.iter());
        let end = (seen.len()..=lines.len()).rev().find(is_behind)?;
        let rest = &head[lines[..end].iter().map(|line| line.len()).sum()..];
        Some(rest.strip_prefix(&*self.rest).unwrap_or(rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Wherever a log is cut off, also within a line, no byte is shown twice and none is lost.
        #[test]
        fn a_log_goes_on_where_it_was(cut in 0usize..400, more in 0usize..60, every in 1usize..7) {
            let all: String = (0..60 + more).map(|i| format!("line {}\n", i / every)).collect();
            let all = all.as_bytes();
            let mut seen = Seen::default();
            seen.note(&all[..cut]);
            // If all remembered lines are equal, their position is ambiguous.
            prop_assume!(seen.lines.len() > every);
            let unseen = seen.unseen(all).unwrap();
            prop_assert_eq!([&all[..cut], unseen].concat(), all);
        }
    }
}
