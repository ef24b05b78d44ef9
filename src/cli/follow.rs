//! The verbs that stream: `logs` and `events`.

use std::collections::VecDeque;
use std::io::{IsTerminal, stdout};

use serde_json::{Map, Value, json};

use super::VerbEnd;
use super::client::{Client, NoSupervisor, Stream};
use super::print::{DIM, complain, pass_on, plain, plain_output, say, say_json, say_json_text, say_part};
use crate::daemon::logs;
use crate::model::protocol::{Identity, Route};

/// A longer line is shown in parts, in bytes.
const LONGEST_LINE: usize = 64 << 10;
/// How many of the last lines to remember, to find the position again after the connection was lost.
const REMEMBERED: usize = 20;
/// How many lines to request from the next supervisor to find that position.
const LOOKED_THROUGH: usize = 10_000;

pub async fn logs(client: &Client, app: &str, (follow, lines): (bool, usize), json: bool) -> anyhow::Result<VerbEnd> {
    let show = |line: &[u8]| say_json(&json!({ "app": app, "line": String::from_utf8_lossy(line) }));
    let mut output: Box<dyn Output> = match (json, stdout().is_terminal()) {
        (true, _) => Box::new(Lines::new(show)),
        (false, true) => Box::new(Screen::default()),
        (false, false) => Box::new(Raw),
    };
    match read_log(client, app, (follow, lines), &mut *output).await {
        Err(error) if error.is::<NoSupervisor>() => {
            let head = logs::read_files(client.state(), app, lines).map_err(|_| error)?;
            output.take(&head)?;
            output.end()?;
            complain("no supervisor is running; these lines are from the log files");
            Ok(if follow { VerbEnd::Refused } else { VerbEnd::Done })
        }
        other => other,
    }
}

/// Prints a log. If a new supervisor takes over, continues at the same position in its log.
async fn read_log(
    client: &Client,
    app: &str,
    (follow, lines): (bool, usize),
    output: &mut dyn Output,
) -> anyhow::Result<VerbEnd> {
    let path = |lines: usize| format!("{}?follow={follow}&lines={lines}", Route::Logs.path(&[app]));
    let mut before: Identity = client.get(&Route::Supervisor.path(&[])).await?;
    let mut stream = client.open(&path(lines)).await?;
    let mut seen = Seen::default();
    loop {
        while let Some(piece) = stream.next().await {
            seen.note(&piece);
            output.take(&piece)?;
        }
        let next = if follow { client.successor(&before).await? } else { None };
        let Some(now) = next else { return output.end().map(|()| VerbEnd::Done) };
        notice(&before, &now);
        stream = client.open(&path(if seen.is_empty() { 0 } else { LOOKED_THROUGH })).await?;
        let head = stream.head().await;
        let unseen = seen.unseen(&head).unwrap_or_else(|| {
            complain("some output may be missing here");
            &head
        });
        let unseen = unseen.to_vec();
        seen.note(&unseen);
        output.take(&unseen)?;
        before = now;
    }
}

pub async fn events(client: &Client, json: bool) -> anyhow::Result<VerbEnd> {
    let show = |line: &[u8]| match serde_json::from_slice::<Map<String, Value>>(line) {
        Ok(event) if !json => say(&in_words(&event)),
        Ok(_) => say_json_text(&String::from_utf8_lossy(line)),
        Err(_) => say(&plain_output(line)),
    };
    let path = Route::Events.path(&[]);
    let mut before: Identity = client.get(&Route::Supervisor.path(&[])).await?;
    let mut stream: Stream = client.open(&path).await?;
    loop {
        let mut output = Lines::new(show);
        while let Some(piece) = stream.next().await {
            output.take(&piece)?;
        }
        output.end()?;
        let Some(now) = client.successor(&before).await? else { return Ok(VerbEnd::Done) };
        notice(&before, &now);
        stream = client.open(&path).await?;
        before = now;
    }
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

/// The destination of the log, which arrives in pieces.
trait Output {
    fn take(&mut self, piece: &[u8]) -> anyhow::Result<()>;

    /// Called after the last piece.
    fn end(&mut self) -> anyhow::Result<()>;
}

/// Output to a pipe or a file, unchanged.
struct Raw;

impl Output for Raw {
    fn take(&mut self, piece: &[u8]) -> anyhow::Result<()> {
        pass_on(piece)
    }

    fn end(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Output line by line.
struct Lines<F> {
    show: F,
    rest: Vec<u8>,
}

impl<F: FnMut(&[u8]) -> anyhow::Result<()>> Lines<F> {
    fn new(show: F) -> Self {
        Lines { show, rest: Vec::new() }
    }
}

impl<F: FnMut(&[u8]) -> anyhow::Result<()>> Output for Lines<F> {
    fn take(&mut self, piece: &[u8]) -> anyhow::Result<()> {
        self.rest.extend_from_slice(piece);
        let whole = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let lines: Vec<u8> = self.rest.drain(..whole).collect();
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            (self.show)(&line[..line.len() - 1])?;
        }
        match self.rest.len() > LONGEST_LINE {
            true => self.end(),
            false => Ok(()),
        }
    }

    fn end(&mut self) -> anyhow::Result<()> {
        match std::mem::take(&mut self.rest) {
            rest if rest.is_empty() => Ok(()),
            rest => (self.show)(&rest),
        }
    }
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

/// Output on a terminal. An unfinished line, such as a prompt, is shown as far as it has arrived.
#[derive(Default)]
struct Screen {
    /// The unfinished last line.
    rest: Vec<u8>,
    /// The part of it that is on the screen.
    shown: String,
}

impl Output for Screen {
    fn take(&mut self, piece: &[u8]) -> anyhow::Result<()> {
        self.rest.extend_from_slice(piece);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            self.show(&line[..end])?;
        }
        if self.rest.len() > LONGEST_LINE {
            return self.end();
        }
        let text = plain_output(settled(&self.rest));
        if let Some(more) = text.strip_prefix(&*self.shown).filter(|more| !more.is_empty()) {
            say_part(more)?;
            self.shown = text;
        }
        Ok(())
    }

    fn end(&mut self) -> anyhow::Result<()> {
        match std::mem::take(&mut self.rest) {
            rest if rest.is_empty() => Ok(()),
            rest => self.show(&rest),
        }
    }
}

impl Screen {
    /// Shows a whole line, or the rest of it if its beginning is on the screen already.
    fn show(&mut self, line: &[u8]) -> anyhow::Result<()> {
        let text = plain_output(line);
        let shown = std::mem::take(&mut self.shown);
        match text.strip_prefix(&*shown) {
            Some(more) => say(more),
            None => say(&format!("\n{text}")),
        }
    }
}

/// The part of an unfinished line that will not change when more arrives: without an incomplete character or colour
/// sequence at its end.
fn settled(bytes: &[u8]) -> &[u8] {
    let begun = bytes.iter().rposition(|byte| *byte == b'\x1b');
    let begun = begun.filter(|at| !bytes[at + 1..].iter().any(u8::is_ascii_alphabetic));
    let bytes = &bytes[..begun.unwrap_or(bytes.len())];
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => &bytes[..error.valid_up_to()],
        _ => bytes,
    }
}

/// An event as text: `TS EVENT APP key=value …`.
pub fn in_words(event: &Map<String, Value>) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
    let first = ["ts", "event", "app"];
    let mut words: Vec<String> =
        first.iter().filter_map(|key| event.get(*key)).map(|value| plain(&text(value))).collect();
    if let Some(ts) = words.first_mut().filter(|_| event.contains_key("ts")) {
        *ts = format!("{DIM}{ts}{DIM:#}");
    }
    let others = event.iter().filter(|(key, value)| !first.contains(&key.as_str()) && !value.is_null());
    words.extend(others.map(|(key, value)| format!("{DIM}{}={DIM:#}{}", plain(key), plain(&text(value)))));
    words.join(" ")
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

    #[test]
    fn the_beginning_of_a_line_is_shown_without_what_may_change() {
        for (bytes, shown) in [
            (&b"Password: "[..], &b"Password: "[..]),
            (b"red \x1b[3", b"red "),
            (b"red \x1b[31m", b"red \x1b[31m"),
            ("caf\u{e9}".as_bytes(), "caf\u{e9}".as_bytes()),
            (&"caf\u{e9}".as_bytes()[..4], b"caf"),
            (b"10%\r", b"10%"),
            (b"\xff?", b"\xff?"),
        ] {
            assert_eq!(settled(bytes), shown, "{bytes:?}");
        }
    }

    #[test]
    fn whatever_was_shown_is_a_beginning_of_the_whole_line() {
        let line = "a\x1b[1mb\x1b[0m\tcaf\u{e9} \u{202e}\u{9b}c".as_bytes();
        for end in 0..=line.len() {
            let shown = plain_output(settled(&line[..end]));
            assert!(plain_output(line).starts_with(&shown), "{end}: {shown:?}");
        }
    }
}
