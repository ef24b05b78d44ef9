//! `status`: a table of the apps, problems first, and below it notes that do not fit into the table.

mod table;
pub mod watch;

use anyhow::bail;

use super::VerbEnd;
use super::client::Client;
use super::print::{BAD, BUSY, duration, plain, say, say_json};
use crate::host::terminal;
use crate::model::protocol::{AppStatus, Route, Snapshot, StateName};
use crate::model::spelling::closest;

pub async fn status(client: &Client, names: &[String], json: bool) -> anyhow::Result<VerbEnd> {
    let mut snapshot: Snapshot = client.get(&Route::Apps.path(&[])).await?;
    narrow(&mut snapshot, names)?;
    if json {
        say_json(&snapshot)?;
    } else {
        say(&report(&snapshot, terminal::width()))?;
    }
    Ok(VerbEnd::Done)
}

/// Keeps only the apps with these names; without names, keeps all.
pub fn narrow(snapshot: &mut Snapshot, names: &[String]) -> anyhow::Result<()> {
    for name in names {
        let known = || snapshot.apps.iter().map(|app| app.name.as_str());
        if !known().any(|app| app == name) {
            match closest(name, known()) {
                Some(near) => bail!("no app is called `{name}`: did you mean `{near}`?"),
                None => bail!("no app is called `{name}`: `kasm-void status` shows all"),
            }
        }
    }
    if !names.is_empty() {
        snapshot.apps.retain(|app| names.contains(&app.name));
    }
    Ok(())
}

/// The table and the notes for lines of `width` columns, or `None` for no limit.
fn report(snapshot: &Snapshot, width: Option<usize>) -> String {
    if snapshot.apps.is_empty() && snapshot.problems.is_empty() && !snapshot.draining {
        return "no apps yet: `kasm-void new NAME -- COMMAND` writes a first manifest".into();
    }
    let mut apps: Vec<&AppStatus> = snapshot.apps.iter().collect();
    apps.sort_by_key(|app| (urgency(app), app.name.as_str()));
    let table = table::lines(&apps, width);
    let notes: Vec<String> = apps.iter().flat_map(|app| notes(app)).chain(notes_of_all(snapshot)).collect();
    let gap = if notes.is_empty() { Vec::new() } else { vec![String::new()] };
    [table, gap, notes].concat().join("\n")
}

/// The urgency of an app that runs, but not as its manifest says.
pub const DOUBTFUL: u8 = 3;

/// The sort key of the table: apps that need attention come first.
pub fn urgency(app: &AppStatus) -> u8 {
    match app.state {
        StateName::GaveUp => 0,
        StateName::Crashed => 1,
        StateName::Backoff => 2,
        _ if app.log_trouble.is_some() || app.stale.is_some() || !app.warnings.is_empty() => DOUBTFUL,
        _ if app.is_failed_job() => 4,
        StateName::Stopping => 5,
        StateName::Starting => 6,
        StateName::Running => 7,
        StateName::Stopped => 8,
    }
}

/// Sentences about one app.
pub fn notes(app: &AppStatus) -> Vec<String> {
    let name = plain(&app.name);
    let exit = app.last_exit.as_ref().map(|exit| plain(&exit.to_string()));
    let ended = exit.map_or(String::new(), |exit| format!(": {exit}"));
    let detail = plain(&app.detail);
    let mut notes = Vec::new();
    match app.state {
        StateName::GaveUp => notes.push(format!(
            "{BAD}{name} gave up{BAD:#}{ended}\n  `kasm-void start {name}` starts it again, `kasm-void why {name}` shows its last output"
        )),
        StateName::Crashed => notes.push(format!("{BAD}{name} crashed{BAD:#}{ended}")),
        StateName::Backoff => {
            let wait = app.next_retry_ms.map_or(String::new(), |wait| format!(" in {}", duration(wait)));
            notes.push(format!("{BUSY}{name} starts again{wait}{BUSY:#} ({detail}){ended}"));
        }
        StateName::Starting | StateName::Stopping if !detail.is_empty() => {
            let doing = if app.state == StateName::Starting { "is starting" } else { "is stopping" };
            notes.push(format!("{BUSY}{name} {doing}{BUSY:#}: {detail}"));
        }
        _ => {}
    }
    if let Some(problem) = &app.stale {
        notes.push(format!("{BUSY}{name} runs with its last good manifest{BUSY:#}: {}", plain(problem)));
    }
    if let Some(trouble) = &app.log_trouble {
        notes.push(format!("{BAD}the output of {name} is not saved{BAD:#}: {}", plain(trouble)));
    }
    notes.extend(app.warnings.iter().map(|text| format!("{BAD}warning{BAD:#}: {}", plain(text))));
    notes
}

/// Sentences about the session.
fn notes_of_all(snapshot: &Snapshot) -> Vec<String> {
    let told: Vec<&String> = snapshot.apps.iter().filter_map(|app| app.stale.as_ref()).collect();
    let untold = snapshot.problems.iter().filter(|problem| !told.contains(problem));
    let mut notes: Vec<String> = untold.map(|problem| format!("{BAD}problem{BAD:#}: {}", plain(problem))).collect();
    if snapshot.staging {
        notes.push(format!("{BUSY}the steps of `workspace.ron` are still running: apps start after them{BUSY:#}"));
    }
    if snapshot.draining {
        notes.push(format!("{BUSY}the supervisor is stopping all apps and will exit{BUSY:#}"));
    }
    notes
}

/// The state with its details: `Running (adopted)`, `Stopped (by hand)`.
pub fn state(app: &AppStatus) -> String {
    match detail(app).as_str() {
        "" => app.state.to_string(),
        detail => format!("{} ({detail})", app.state),
    }
}

/// The details of the state, without words that repeat the state's name.
pub fn detail(app: &AppStatus) -> String {
    let adopted = if app.adopted { "adopted" } else { "" };
    let own = match app.state {
        StateName::Stopped => app.detail.strip_prefix("stopped ").unwrap_or(&app.detail),
        _ => &app.detail,
    };
    let parts: Vec<String> = [adopted, own].iter().filter(|text| !text.is_empty()).map(|text| plain(text)).collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::tests::app;
    use super::*;
    use crate::model::exit::Exit;

    fn shown(snapshot: &Snapshot, width: usize) -> String {
        anstream::adapter::strip_str(&report(snapshot, Some(width))).to_string()
    }

    fn apps() -> Vec<AppStatus> {
        let browser = AppStatus {
            about: "Chromium fork, the screen-share target".into(),
            pid: Some(1234),
            adopted: true,
            uptime_ms: Some(3 * 3_600_000 + 240_000),
            restarts: 2,
            last_exit: Some(Exit::Signal(11)),
            memory_bytes: Some(327_155_712),
            ..app("cloakbrowser", StateName::Running)
        };
        let discord = AppStatus {
            restarts: 7,
            last_exit: Some(Exit::HookFailed("WaitFor the X display: nobody is there to answer".into())),
            next_retry_ms: Some(12_000),
            detail: "retry 3".into(),
            stale: Some("discord.ron:3:1: unknown field `x`".into()),
            ..app("discord", StateName::Backoff)
        };
        let held = AppStatus {
            detail: "stopped by hand".into(),
            last_exit: Some(Exit::StoppedByUs),
            ..app("terminal", StateName::Stopped)
        };
        let gave_up = AppStatus { last_exit: Some(Exit::Code(3)), restarts: 5, ..app("zeta", StateName::GaveUp) };
        vec![browser, discord, held, gave_up]
    }

    #[test]
    fn trouble_is_on_top_and_says_the_way_back() {
        let problems = vec!["discord.ron:3:1: unknown field `x`".into(), "new.ron: it is empty".into()];
        let snapshot = Snapshot { apps: apps(), problems, draining: false, staging: false };
        let expected = "\
NAME          STATE     PID  UPTIME  RESTARTS     MEMORY  NOTE
zeta          GaveUp      -       -         5          -  see below
discord       Backoff     -       -         7          -  next start in 12s; see below
cloakbrowser  Running  1234   3h 4m         2  312.0 MiB  adopted; last exit: killed by S…
terminal      Stopped     -       -         0          -  by hand

zeta gave up: exit code 3
  `kasm-void start zeta` starts it again, `kasm-void why zeta` shows its last output
discord starts again in 12s (retry 3): hook failed: WaitFor the X display: nobody is there to answer
discord runs with its last good manifest: discord.ron:3:1: unknown field `x`
problem: new.ron: it is empty";
        assert_eq!(shown(&snapshot, 90), expected);
    }

    #[test]
    fn a_wide_terminal_shows_what_the_app_is() {
        let text = shown(&Snapshot { apps: apps(), ..Snapshot::default() }, 200);
        assert!(
            text.contains("adopted; last exit: killed by SIGSEGV; Chromium fork, the screen-share target"),
            "{text}"
        );
    }

    #[test]
    fn an_empty_table_says_how_to_fill_it() {
        assert!(report(&Snapshot::default(), None).contains("kasm-void new"));
    }

    #[test]
    fn a_job_that_failed_stands_above_the_apps_that_run() {
        let job = |name, detail: &str, exit| AppStatus {
            detail: detail.into(),
            last_exit: Some(exit),
            ..app(name, StateName::Stopped)
        };
        let apps = vec![
            job("backup", "done", Exit::Clean),
            job("migrate", "failed: exit code 3", Exit::Code(3)),
            app("web", StateName::Running),
        ];
        let expected = "\
NAME     STATE    PID  UPTIME  RESTARTS  MEMORY  NOTE
migrate  Stopped    -       -         0       -  failed: exit code 3
web      Running    -       -         0       -
backup   Stopped    -       -         0       -  done";
        assert_eq!(shown(&Snapshot { apps, ..Snapshot::default() }, 80), expected);
    }

    #[test]
    fn nothing_is_said_twice() {
        let held = AppStatus { detail: "stopped by hand".into(), ..app("a", StateName::Stopped) };
        assert_eq!(state(&held), "Stopped (by hand)");
        let adopted = AppStatus { adopted: true, ..app("a", StateName::Running) };
        assert_eq!(state(&adopted), "Running (adopted)");
    }

    #[test]
    fn status_of_some_apps_knows_their_names() {
        let mut snapshot = Snapshot { apps: apps(), ..Snapshot::default() };
        let error = narrow(&mut snapshot, &["discrod".into()]).unwrap_err().to_string();
        assert_eq!(error, "no app is called `discrod`: did you mean `discord`?");
        narrow(&mut snapshot, &["terminal".into()]).unwrap();
        assert_eq!(snapshot.apps.len(), 1);
    }
}
