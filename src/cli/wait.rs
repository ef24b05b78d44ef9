//! `wait`: waits until apps have reached a state. Looks again after each event, so it costs nothing meanwhile.

use std::time::Duration;

use clap::ValueEnum;
use tokio::time::{Instant, sleep, timeout};

use super::VerbEnd;
use super::client::{Client, NoSupervisor};
use super::print::{BAD, GOOD, plain, say, say_json};
use super::status::{self, narrow};
use crate::model::exit::Exit;
use crate::model::manifest::quantity::Span;
use crate::model::protocol::{Answer, AppStatus, Refusal, Route, Snapshot, StateName};

/// Before the next attempt to reach a supervisor.
const LOOK: Duration = Duration::from_millis(100);
/// A supervisor has read a manifest that was just written within this time.
const READ: Duration = Duration::from_secs(2);

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Awaited {
    /// It runs and is ready
    #[value(alias = "ready")]
    Running,
    /// No process of it is left, and nothing but a request starts it
    #[value(alias = "down")]
    Stopped,
    /// It has exited with code 0 and is not started again, like a job that is done
    #[value(aliases = ["done", "completed"])]
    Succeeded,
}

impl Awaited {
    fn word(self) -> &'static str {
        match self {
            Awaited::Running => "running",
            Awaited::Stopped => "stopped",
            Awaited::Succeeded => "done",
        }
    }
}

/// Whether a wait is over.
#[derive(Debug, PartialEq)]
enum Progress {
    Reached,
    Waiting,
    /// It will not happen unless somebody intervenes, for this reason.
    Hopeless(String),
}

/// Waits for all these apps, or for every app if none is named.
///
/// # Errors
/// An app does not exist, or no supervisor is running at the end.
pub async fn wait(
    client: &Client,
    names: &[String],
    awaited: Awaited,
    limit: Span,
    json: bool,
) -> anyhow::Result<VerbEnd> {
    match timeout(limit.0, reached(client, names, awaited)).await {
        Ok(apps) => tell(&apps?, awaited, None, json),
        Err(_) => tell(&look(client, names, Instant::now()).await?, awaited, Some(limit), json),
    }
}

/// The apps as they are now. Waits until `patience` is over for one that is not known.
async fn look(client: &Client, names: &[String], patience: Instant) -> anyhow::Result<Vec<AppStatus>> {
    loop {
        let mut snapshot: Snapshot = client.get(&Route::Apps.path(&[])).await?;
        let known = |name: &String| snapshot.apps.iter().any(|app| app.name == *name);
        if names.iter().all(known) || Instant::now() >= patience {
            narrow(&mut snapshot, names)?;
            return Ok(snapshot.apps);
        }
        sleep(LOOK).await;
    }
}

/// Returns the apps when no wait goes on any more.
async fn reached(client: &Client, names: &[String], awaited: Awaited) -> anyhow::Result<Vec<AppStatus>> {
    let patience = Instant::now() + READ;
    loop {
        // The stream is opened first, so that no change falls between the look and the stream.
        let mut stream = match client.open(&Route::Events.path(&[])).await {
            Ok(stream) => Some(stream),
            Err(error) if error.is::<NoSupervisor>() => None,
            Err(error) => return Err(error),
        };
        while let Some(open) = &mut stream {
            let apps = match look(client, names, patience).await {
                Err(error) if error.is::<NoSupervisor>() => break,
                seen => seen?,
            };
            if apps.iter().all(|app| progress(app, awaited) != Progress::Waiting) {
                return Ok(apps);
            }
            if open.next().await.is_none() {
                break;
            }
        }
        sleep(LOOK).await;
    }
}

fn progress(app: &AppStatus, awaited: Awaited) -> Progress {
    let exit = || app.last_exit.as_ref().map_or(String::new(), |exit| format!(": {exit}"));
    match (awaited, app.state) {
        (Awaited::Running, StateName::Running) => Progress::Reached,
        (Awaited::Stopped, StateName::Stopped | StateName::GaveUp) => Progress::Reached,
        (_, StateName::GaveUp) => Progress::Hopeless(format!("it gave up{}", exit())),
        (Awaited::Succeeded, StateName::Stopped) => match &app.last_exit {
            Some(Exit::Clean) => Progress::Reached,
            Some(Exit::StoppedByUs) | None => Progress::Waiting,
            Some(_) => Progress::Hopeless(format!("it ended{}", exit())),
        },
        _ => Progress::Waiting,
    }
}

/// Prints what has become of each app. `late` is the time limit, if it is over.
fn tell(apps: &[AppStatus], awaited: Awaited, late: Option<Span>, json: bool) -> anyhow::Result<VerbEnd> {
    let mut ended = VerbEnd::Done;
    for app in apps {
        let (name, word) = (&app.name, awaited.word());
        let (message, refusal, end) = match (progress(app, awaited), late) {
            (Progress::Reached, _) => (format!("`{name}` is {word}"), None, VerbEnd::Done),
            (Progress::Waiting, Some(limit)) => {
                let now = status::state(app);
                (
                    format!("`{name}` is not {word} within {limit}: it is {now}"),
                    Some(Refusal::TimedOut),
                    VerbEnd::TimedOut,
                )
            }
            (Progress::Hopeless(why), _) => {
                (format!("`{name}` will not be {word}: {why}"), Some(Refusal::WrongState), VerbEnd::Refused)
            }
            (Progress::Waiting, None) => continue, // it changed back meanwhile; the others tell the end
        };
        ended = ended.and(end);
        if json {
            say_json(&Answer { app: name.clone(), done: refusal.is_none(), message, refusal })?;
        } else {
            let (style, sign) = if refusal.is_none() { (GOOD, "ok") } else { (BAD, "failed") };
            say(&format!("{style}{sign}{style:#} {}", plain(&message)))?;
        }
    }
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::app;

    #[test]
    fn each_state_is_awaited_or_hopeless() {
        use Awaited::{Running, Stopped, Succeeded};
        let of = |state, exit: Option<Exit>, awaited| {
            let shown = match progress(&AppStatus { last_exit: exit, ..app("a", state) }, awaited) {
                Progress::Reached => "reached",
                Progress::Waiting => "waiting",
                Progress::Hopeless(_) => "hopeless",
            };
            shown.to_string()
        };
        for (state, exit, running, stopped, succeeded) in [
            (StateName::Running, None, "reached", "waiting", "waiting"),
            (StateName::Starting, None, "waiting", "waiting", "waiting"),
            (StateName::Backoff, Some(Exit::Code(3)), "waiting", "waiting", "waiting"),
            (StateName::GaveUp, Some(Exit::Code(3)), "hopeless", "reached", "hopeless"),
            (StateName::Stopped, None, "waiting", "reached", "waiting"),
            (StateName::Stopped, Some(Exit::Clean), "waiting", "reached", "reached"),
            (StateName::Stopped, Some(Exit::Code(3)), "waiting", "reached", "hopeless"),
            (StateName::Stopped, Some(Exit::StoppedByUs), "waiting", "reached", "waiting"),
        ] {
            let found = [Running, Stopped, Succeeded].map(|awaited| of(state, exit.clone(), awaited));
            assert_eq!(found, [running, stopped, succeeded], "{state} {exit:?}");
        }
    }
}
