//! `why`: prints why an app last exited, with its last output.

use std::path::Path;

use super::VerbEnd;
use super::client::{Client, NoSupervisor};
use super::print::{self, BAD, DIM, complain, duration, plain, say, say_json, utc};
use super::status;
use crate::daemon::state;
use crate::model::protocol::{AppStatus, Crash, Route, StateName};

pub async fn why(client: &Client, app: &str, last: usize, json: bool) -> anyhow::Result<VerbEnd> {
    let asked = client.get(&Route::Crashes.path(&[app])).await;
    let (mut crashes, alone): (Vec<Crash>, bool) = match asked {
        Err(error) if error.is::<NoSupervisor>() => (written_down(client.state(), app).ok_or(error)?, true),
        other => (other?, false),
    };
    crashes.drain(..crashes.len().saturating_sub(last));
    if json {
        say_json(&crashes)?;
        return Ok(VerbEnd::Done);
    }
    for crash in &crashes {
        say(&story(crash))?;
    }
    if alone {
        complain("no supervisor is running; these are the crashes that the last one saved");
        return Ok(VerbEnd::Done);
    }
    let status: AppStatus = client.get(&Route::App.path(&[app])).await?;
    say(&now(&status, crashes.is_empty()))?;
    Ok(VerbEnd::Done)
}

/// The crashes that the last supervisor saved, or `None` if there are none.
fn written_down(state: &Path, app: &str) -> Option<Vec<Crash>> {
    state::crashes(state, app).ok().filter(|crashes| !crashes.is_empty())
}

fn story(crash: &Crash) -> String {
    let lived = match crash.uptime_ms {
        Some(ms) => format!(" after {}", duration(ms)),
        None if crash.exit.is_of_a_start() => String::new(),
        None => " before it was ready".into(),
    };
    let pid = crash.pid.map_or(String::new(), |pid| format!(", pid {pid}"));
    let peak = crash.peak_memory_bytes.map_or(String::new(), |peak| format!(", peak memory {}", print::bytes(peak)));
    let (at, reason) = (utc(&crash.at), plain(&crash.reason));
    let mut lines = vec![format!("{DIM}{at}{DIM:#} run {}{pid}: {BAD}{reason}{BAD:#}{lived}{peak}", crash.run)];
    lines.extend(crash.hint.iter().map(|hint| format!("    {}", plain(hint))));
    lines.extend(crash.tail.iter().map(|line| format!("    {DIM}|{DIM:#} {}", print::plain_output(line.as_bytes()))));
    lines.join("\n")
}

fn now(app: &AppStatus, blameless: bool) -> String {
    let name = plain(&app.name);
    if app.state == StateName::GaveUp {
        return format!("{name} gave up and stays down: `kasm-void start {name}` starts it again");
    }
    let past = if blameless { "has not crashed; it is" } else { "is" };
    let within = if app.state == StateName::Backoff { " in" } else { "" };
    let mut text = format!("{name} {past}{within} {}", status::state(app));
    if let Some(uptime) = app.uptime_ms {
        text.push_str(&format!(" for {}", duration(uptime)));
    }
    if let Some(wait) = app.next_retry_ms {
        text.push_str(&format!("; the next start is in {}", duration(wait)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::app;
    use super::*;
    use crate::model::exit::Exit;

    #[test]
    fn a_crash_is_told_with_its_last_output() {
        let crash = Crash {
            at: "2026-01-02T03:04:05.678Z".into(),
            run: 3,
            pid: Some(12),
            exit: Exit::Signal(11),
            reason: "killed by SIGSEGV".into(),
            uptime_ms: Some(61_000),
            peak_memory_bytes: Some(5 << 20),
            tail: vec!["loading".into(), "\x1b[31moh no".into()],
            hint: None,
        };
        let expected = "\
2026-01-02 03:04:05 UTC run 3, pid 12: killed by SIGSEGV after 1m 1s, peak memory 5.0 MiB
    | loading
    | oh no";
        assert_eq!(anstream::adapter::strip_str(&story(&crash)).to_string(), expected);
    }

    #[test]
    fn it_ends_with_what_happens_next() {
        let backoff = AppStatus { next_retry_ms: Some(12_000), ..app("discord", StateName::Backoff) };
        assert_eq!(now(&backoff, false), "discord is in Backoff; the next start is in 12s");
        let gave_up = app("discord", StateName::GaveUp);
        assert!(now(&gave_up, false).ends_with("`kasm-void start discord` starts it again"));
    }
}
