//! Verbs that read on: `logs`, `events`.

use std::io::{IsTerminal, stdout};

use serde_json::{Map, Value, json};

use super::Ended;
use super::client::{Client, encoded};
use super::print::{DIM, pass_on, plain, plain_output, say, say_json};

/// A line that grows beyond this is shown in parts.
const LONGEST_LINE: usize = 64 << 10;

pub async fn logs(client: &Client, app: &str, (follow, lines): (bool, usize), json: bool) -> anyhow::Result<Ended> {
    let path = format!("/v1/apps/{}/logs?follow={follow}&lines={lines}", encoded(app));
    if !json && !stdout().is_terminal() {
        client.follow(&path, pass_on).await?;
        return Ok(Ended::Done);
    }
    let show = |line: &[u8]| match json {
        true => say_json(&json!({ "app": app, "line": String::from_utf8_lossy(line) })),
        false => say(&plain_output(line)),
    };
    by_line(client, &path, show).await
}

pub async fn events(client: &Client, json: bool) -> anyhow::Result<Ended> {
    let show = |line: &[u8]| match serde_json::from_slice::<Map<String, Value>>(line) {
        Ok(event) if !json => say(&in_words(&event)),
        _ => pass_on(&[line, b"\n"].concat()),
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
