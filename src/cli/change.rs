//! Verbs that change something: `start`, `stop`, `restart`, `do`, `signal`, `reload`, `drain`.

use super::VerbEnd;
use super::client::{Client, Waiting, timed_out};
use super::plan::tell_plan;
use super::print::{BAD, GOOD, plain, say, say_json};
use crate::model::protocol::{Answer, Route, Snapshot};

/// The apps to change.
pub enum Which {
    All,
    Named(Vec<String>),
}

/// Sends all requests at once, and prints the outcomes in the order of the app names.
pub async fn each(
    client: &Client,
    which: Which,
    route: Route,
    waiting: Waiting,
    json: bool,
) -> anyhow::Result<VerbEnd> {
    let names = match which {
        Which::Named(names) => names,
        Which::All => {
            let snapshot: Snapshot = client.get(&Route::Apps.path(&[])).await?;
            snapshot.apps.into_iter().map(|app| app.name).collect()
        }
    };
    let asked: Vec<_> = names
        .iter()
        .map(|name| {
            let (client, path) = (client.clone(), route.path(&[name]));
            tokio::spawn(async move { client.change(&path, waiting).await })
        })
        .collect();
    let mut ended = VerbEnd::Done;
    for answer in asked {
        ended = ended.and(tell(&answer.await??, json)?);
    }
    Ok(ended)
}

/// Sends a request with an argument, such as an action or a signal, for one app.
pub async fn one(
    client: &Client,
    app: &str,
    (route, argument): (Route, &str),
    waiting: Waiting,
    json: bool,
) -> anyhow::Result<VerbEnd> {
    let path = route.path(&[app, argument]);
    tell(&client.change(&path, waiting).await?, json)
}

pub async fn drain(client: &Client, waiting: Waiting, json: bool) -> anyhow::Result<VerbEnd> {
    tell(&client.change(&Route::Drain.path(&[]), waiting).await?, json)
}

pub async fn reload(client: &Client, waiting: Waiting, json: bool) -> anyhow::Result<VerbEnd> {
    match waiting.wait {
        true => tell_plan(&client.post(&Route::Reload.path(&[]), waiting.timeout).await?, json),
        false => tell(&client.change(&Route::Reload.path(&[]), waiting).await?, json),
    }
}

fn tell(answer: &Answer, json: bool) -> anyhow::Result<VerbEnd> {
    if json {
        say_json(answer)?;
    } else {
        let (style, sign) = if answer.done { (GOOD, "ok") } else { (BAD, "failed") };
        say(&format!("{style}{sign}{style:#} {}", plain(&answer.message)))?;
    }
    Ok(match answer.done {
        true => VerbEnd::Done,
        false if timed_out(answer) => VerbEnd::TimedOut,
        false => VerbEnd::Refused,
    })
}
