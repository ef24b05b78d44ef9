//! `health`: for Docker and Kubernetes probes.

use axum::http::StatusCode;
use serde_json::Value;

use super::VerbEnd;
use super::client::Client;
use super::print::{plain, say, say_json};
use crate::model::protocol::Route;

pub async fn health(client: &Client, ready: bool, json: bool) -> anyhow::Result<VerbEnd> {
    let (status, answer) = client.probe(&if ready { Route::Ready } else { Route::Live }.path(&[])).await?;
    let fine = status == StatusCode::OK;
    if json {
        say_json(&answer)?;
    } else {
        say(&health_in_words(fine, ready, &answer))?;
    }
    Ok(if fine { VerbEnd::Done } else { VerbEnd::Refused })
}

fn health_in_words(fine: bool, ready: bool, answer: &Value) -> String {
    let whole = [("draining", "stopping everything"), ("staging", "staging the session")];
    let whole = whole.into_iter().filter(|(key, _)| answer[key].as_bool().unwrap_or_default());
    let waiting = answer["waiting"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let reasons: Vec<String> = whole.map(|(_, words)| words.to_owned()).chain(waiting.map(plain)).collect();
    match (fine, ready) {
        (true, true) => "ready".into(),
        (true, false) => "live".into(),
        (false, _) => format!("not ready: {}", reasons.join(", ")),
    }
}
