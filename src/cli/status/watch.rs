//! `status --watch`: the status again whenever something changes. On a terminal it stays in place and is also brought up
//! to date every second; elsewhere each change is printed.

use std::io::{IsTerminal, stdout};
use std::time::Duration;

use tokio::time::timeout;

use super::{narrow, report};
use crate::cli::VerbEnd;
use crate::cli::client::Client;
use crate::cli::logs::reader::notice;
use crate::cli::print::{complain, pass_on, say, say_json};
use crate::host::terminal;
use crate::model::protocol::{Identity, Route, Snapshot};

/// How often memory and uptime are brought up to date on a terminal.
const EVERY: Duration = Duration::from_secs(1);
/// Commands for a terminal: go to the top left corner, clear the rest of the line, clear the rest of the screen.
const HOME: &[u8] = b"\x1b[H";
const CLEAR_LINE: &[u8] = b"\x1b[K";
const CLEAR_REST: &[u8] = b"\x1b[J";

/// Shows the apps until the session ends.
pub async fn watch(client: &Client, names: &[String], json: bool) -> anyhow::Result<VerbEnd> {
    let in_place = stdout().is_terminal() && !json;
    let mut before: Identity = client.get(&Route::Supervisor.path(&[])).await?;
    let mut last = None;
    if in_place {
        pass_on(HOME)?;
        pass_on(CLEAR_REST)?;
    }
    loop {
        let mut stream = client.open(&Route::Events.path(&[])).await?;
        loop {
            let Ok(mut snapshot) = client.get::<Snapshot>(&Route::Apps.path(&[])).await else { break };
            narrow(&mut snapshot, names)?;
            if in_place {
                redraw(&snapshot)?;
            } else {
                let seen = without_measures(&snapshot);
                if last.as_ref() != Some(&seen) {
                    print(&snapshot, json)?;
                    last = Some(seen);
                }
            }
            let event = match in_place {
                true => timeout(EVERY, stream.next()).await.unwrap_or(Some(Default::default())),
                false => stream.next().await,
            };
            if event.is_none() {
                break;
            }
        }
        let Some(now) = client.successor(&before).await? else {
            complain("the session has ended");
            return Ok(VerbEnd::Done);
        };
        if !in_place {
            notice(&before, &now);
        }
        before = now;
    }
}

/// Numbers that change only with time do not count as a change.
fn without_measures(snapshot: &Snapshot) -> Snapshot {
    let mut seen = snapshot.clone();
    for app in &mut seen.apps {
        (app.uptime_ms, app.memory_bytes, app.cpu_ms, app.next_retry_ms) = (None, None, None, None);
    }
    seen
}

fn print(snapshot: &Snapshot, json: bool) -> anyhow::Result<()> {
    match json {
        true => say_json(snapshot),
        false => say(&format!("{}\n", report(snapshot, terminal::width()))),
    }
}

/// Overwrites what is on the screen, as far as it has room.
fn redraw(snapshot: &Snapshot) -> anyhow::Result<()> {
    let rows = terminal::rows().unwrap_or(usize::MAX).saturating_sub(1);
    let text = report(snapshot, terminal::width());
    let lines: Vec<&str> = text.lines().take(rows).collect();
    pass_on(HOME)?;
    for line in lines {
        pass_on(CLEAR_LINE)?;
        say(line)?;
    }
    pass_on(CLEAR_REST)
}
