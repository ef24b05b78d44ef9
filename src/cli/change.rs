//! Verbs that change something: `start`, `stop`, `restart`, `do`, `signal`, `reload`, `drain`.

use super::Ended;
use super::client::{Client, Waiting, encoded, timed_out};
use super::plan::tell_plan;
use super::print::{BAD, GOOD, plain, say, say_json};
use crate::model::protocol::{Outcome, Snapshot};

/// Which apps a verb is for.
pub enum Which {
    All,
    Named(Vec<String>),
}

/// Asks for all of them at once and tells each outcome, in the order they were named.
pub async fn each(client: &Client, which: Which, verb: &str, waiting: Waiting, json: bool) -> anyhow::Result<Ended> {
    let names = match which {
        Which::Named(names) => names,
        Which::All => {
            let snapshot: Snapshot = client.get("/v1/apps").await?;
            snapshot.apps.into_iter().map(|app| app.name).collect()
        }
    };
    let asked: Vec<_> = names
        .iter()
        .map(|name| {
            let (client, path) = (client.clone(), format!("/v1/apps/{}/{verb}", encoded(name)));
            tokio::spawn(async move { client.change(&path, waiting).await })
        })
        .collect();
    let mut ended = Ended::Done;
    for answer in asked {
        ended = ended.and(tell(&answer.await??, json)?);
    }
    Ok(ended)
}

/// One app, a verb with an argument.
pub async fn one(
    client: &Client,
    app: &str,
    (verb, argument): (&str, &str),
    waiting: Waiting,
    json: bool,
) -> anyhow::Result<Ended> {
    let path = format!("/v1/apps/{}/{verb}/{}", encoded(app), encoded(argument));
    tell(&client.change(&path, waiting).await?, json)
}

pub async fn drain(client: &Client, waiting: Waiting, json: bool) -> anyhow::Result<Ended> {
    tell(&client.change("/v1/drain", waiting).await?, json)
}

pub async fn reload(client: &Client, waiting: Waiting, json: bool) -> anyhow::Result<Ended> {
    match waiting.wait {
        true => tell_plan(&client.post("/v1/reload", waiting.timeout).await?, json),
        false => tell(&client.change("/v1/reload", waiting).await?, json),
    }
}

fn tell(outcome: &Outcome, json: bool) -> anyhow::Result<Ended> {
    if json {
        say_json(outcome)?;
    } else {
        let (style, sign) = if outcome.done { (GOOD, "ok") } else { (BAD, "failed") };
        say(&format!("{style}{sign}{style:#} {}", plain(&outcome.message)))?;
    }
    Ok(match outcome.done {
        true => Ended::Done,
        false if timed_out(outcome) => Ended::TimedOut,
        false => Ended::Refused,
    })
}
