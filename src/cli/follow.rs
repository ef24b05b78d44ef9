//! Verbs that keep reading: `logs`, `events`.

use std::io::{IsTerminal, stdout};

use serde_json::{Map, Value, json};

use super::Ended;
use super::client::{Client, NoSupervisor, encoded};
use super::print::{DIM, complain, pass_on, plain, plain_output, say, say_json, say_json_text, say_part};

use crate::daemon::logs;

/// A line that grows beyond this is shown in parts.
const LONGEST_LINE: usize = 64 << 10;

pub async fn logs(client: &Client, app: &str, (follow, lines): (bool, usize), json: bool) -> anyhow::Result<Ended> {
    match from_supervisor(client, app, (follow, lines), json).await {
        Err(error) if error.is::<NoSupervisor>() => {
            let head = logs::read_files(client.state(), app, lines).map_err(|_| error)?;
            Screen::default().show_all(app, &head, json)?;
            complain("no supervisor is running; these lines are from the log files");
            Ok(if follow { Ended::Refused } else { Ended::Done })
        }
        other => other,
    }
}

async fn from_supervisor(
    client: &Client,
    app: &str,
    (follow, lines): (bool, usize),
    json: bool,
) -> anyhow::Result<Ended> {
    let path = format!("/v1/apps/{}/logs?follow={follow}&lines={lines}", encoded(app));
    if !json && !stdout().is_terminal() {
        client.follow(&path, pass_on).await?;
        return Ok(Ended::Done);
    }
    if json {
        return by_line(client, &path, |line| say_json_line(app, line)).await;
    }
    let mut screen = Screen::default();
    client.follow(&path, |piece| screen.take(piece)).await?;
    screen.end()?;
    Ok(Ended::Done)
}

fn say_json_line(app: &str, line: &[u8]) -> anyhow::Result<()> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    say_json(&json!({ "app": app, "line": String::from_utf8_lossy(line) }))
}

/// Output on a terminal. A line without an end, such as a prompt, is shown as far as it has come.
#[derive(Default)]
struct Screen {
    /// The line that has no end yet.
    rest: Vec<u8>,
    /// What of it is on the screen.
    shown: String,
}

impl Screen {
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

    /// Shows output of which there is no more to come.
    fn show_all(mut self, app: &str, output: &[u8], json: bool) -> anyhow::Result<()> {
        if json {
            return output.split_inclusive(|byte| *byte == b'\n').try_for_each(|line| say_json_line(app, line));
        }
        if !stdout().is_terminal() {
            return pass_on(output);
        }
        self.take(output)?;
        self.end()
    }

    /// Shows a whole line, or what is missing of it.
    fn show(&mut self, line: &[u8]) -> anyhow::Result<()> {
        let text = plain_output(line);
        let shown = std::mem::take(&mut self.shown);
        match text.strip_prefix(&*shown) {
            Some(more) => say(more),
            None => say(&format!("\n{text}")),
        }
    }
}

/// What of the beginning of a line will not look different when more of it comes: without half a character, and
/// without a colour that has only begun.
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

pub async fn events(client: &Client, json: bool) -> anyhow::Result<Ended> {
    let show = |line: &[u8]| match serde_json::from_slice::<Map<String, Value>>(line) {
        Ok(event) if !json => say(&in_words(&event)),
        Ok(_) => say_json_text(&String::from_utf8_lossy(line)),
        Err(_) => say(&plain_output(line)),
    };
    by_line(client, "/v1/events", show).await
}

async fn by_line(
    client: &Client,
    path: &str,
    mut show: impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<Ended> {
    let mut rest = Vec::new();
    let take = |piece: &[u8]| {
        rest.extend_from_slice(piece);
        let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        for line in rest[..whole].split_inclusive(|byte| *byte == b'\n') {
            show(&line[..line.len() - 1])?;
        }
        rest.drain(..whole);
        if rest.len() > LONGEST_LINE {
            show(&std::mem::take(&mut rest))?;
        }
        Ok(())
    };
    client.follow(path, take).await?;
    if !rest.is_empty() {
        show(&rest)?;
    }
    Ok(Ended::Done)
}

/// `TS EVENT APP key=value …`: the first three by position, the rest as they come.
fn in_words(event: &Map<String, Value>) -> String {
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
