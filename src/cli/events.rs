//! `events`: prints what happens in the session.

use serde_json::{Map, Value};

use super::VerbEnd;
use super::client::{Client, Stream};
use super::logs::output::{Lines, Output};
use super::logs::reader::notice;
use super::print::{DIM, plain, plain_output, say, say_json_text};
use crate::model::protocol::{Identity, Route};

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
