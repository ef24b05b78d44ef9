//! Verbs that look: `status`, `why`, `health`, `plan`.

use anyhow::bail;
use axum::http::StatusCode;
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde_json::Value;

use super::Ended;
use super::client::{Client, encoded};
use super::print::{self, BAD, BUSY, DIM, cut, duration, plain, say, say_json};
use crate::model::protocol::{AppStatus, Crash, PlanReport, Snapshot};
use crate::model::spelling::closest;

pub async fn status(client: &Client, names: &[String], json: bool) -> anyhow::Result<Ended> {
    let mut snapshot: Snapshot = client.get("/v1/apps").await?;
    narrow(&mut snapshot, names)?;
    if json {
        say_json(&snapshot)?;
    } else {
        say(&report(&snapshot))?;
    }
    Ok(Ended::Done)
}

/// Leaves only the apps of these names; no names leave all.
fn narrow(snapshot: &mut Snapshot, names: &[String]) -> anyhow::Result<()> {
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

/// The table, and in words below it what the table has no room for.
fn report(snapshot: &Snapshot) -> String {
    let mut lines = Vec::new();
    match snapshot.apps.is_empty() {
        true => lines.push("no apps yet: `kasm-void new NAME -- COMMAND` writes a first manifest".to_string()),
        false => lines.extend(table(&snapshot.apps)),
    }
    let mut notes = Vec::new();
    for app in &snapshot.apps {
        if let Some(problem) = &app.stale {
            let name = plain(&app.name);
            notes.push(format!("{BUSY}{name} runs as its last good manifest says{BUSY:#}: {}", plain(problem)));
        }
    }
    for app in &snapshot.apps {
        if let Some(trouble) = &app.log_trouble {
            notes.push(format!("{BAD}output of {} is not kept{BAD:#}: {}", plain(&app.name), plain(trouble)));
        }
    }
    let told: Vec<&String> = snapshot.apps.iter().filter_map(|app| app.stale.as_ref()).collect();
    for problem in snapshot.problems.iter().filter(|problem| !told.contains(problem)) {
        notes.push(format!("{BAD}problem{BAD:#}: {}", plain(problem)));
    }
    if snapshot.staging {
        notes.push(format!("{BUSY}the session's own steps are not done yet: no app starts before{BUSY:#}"));
    }
    if snapshot.draining {
        notes.push(format!("{BUSY}the supervisor is stopping everything and will end{BUSY:#}"));
    }
    if !notes.is_empty() {
        lines.push(String::new());
    }
    lines.extend(notes);
    lines.join("\n")
}

const HEADER: [&str; 8] = ["NAME", "STATE", "PID", "UPTIME", "RESTARTS", "LAST EXIT", "MEMORY", "NEXT"];
const LONGEST_EXIT: usize = 40;

fn table(apps: &[AppStatus]) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(HEADER);
    for app in apps {
        table.add_row(row(app));
    }
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if matches!(HEADER[i], "PID" | "RESTARTS" | "MEMORY") {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let text = table.to_string();
    let mut lines = text.lines().map(str::trim_end);
    let header = lines.next().map(|line| format!("{DIM}{line}{DIM:#}"));
    header.into_iter().chain(lines.zip(apps).map(|(line, app)| coloured(line, app))).collect()
}

fn row(app: &AppStatus) -> [Cell; 8] {
    let or_dash = |text: Option<String>| Cell::new(text.unwrap_or_else(|| "-".into()));
    [
        Cell::new(plain(&app.name)),
        Cell::new(state(app)),
        or_dash(app.pid.map(|pid| pid.to_string())),
        or_dash(app.uptime_ms.map(duration)),
        Cell::new(app.restarts),
        or_dash(app.last_exit.as_ref().map(|exit| cut(&plain(&exit.to_string()), LONGEST_EXIT))),
        or_dash(app.memory_bytes.map(print::bytes)),
        or_dash(app.next_retry_ms.map(|wait| format!("in {}", duration(wait)))),
    ]
}

fn state(app: &AppStatus) -> String {
    let adopted = if app.adopted { "adopted" } else { "" };
    let more: Vec<String> =
        [adopted, &app.detail].iter().filter(|text| !text.is_empty()).map(|text| plain(text)).collect();
    match more.is_empty() {
        true => app.state.to_string(),
        false => format!("{} ({})", app.state, more.join(", ")),
    }
}

/// The state's colour is put in afterwards: the table counts every byte as visible.
fn coloured(line: &str, app: &AppStatus) -> String {
    let (style, name) = (print::state_style(app.state), app.state.to_string());
    let (before, after) = line.split_at(plain(&app.name).len());
    format!("{before}{}", after.replacen(&name, &format!("{style}{name}{style:#}"), 1))
}

pub async fn why(client: &Client, app: &str, last: usize, json: bool) -> anyhow::Result<Ended> {
    let path = format!("/v1/apps/{}", encoded(app));
    let mut crashes: Vec<Crash> = client.get(&format!("{path}/crashes")).await?;
    crashes.drain(..crashes.len().saturating_sub(last));
    if json {
        say_json(&crashes)?;
        return Ok(Ended::Done);
    }
    let status: AppStatus = client.get(&path).await?;
    for crash in &crashes {
        say(&story(crash))?;
    }
    say(&now(&status, crashes.is_empty()))?;
    Ok(Ended::Done)
}

fn story(crash: &Crash) -> String {
    let lived = crash.uptime_ms.map_or("before it was ready".into(), |ms| format!("after {}", duration(ms)));
    let pid = crash.pid.map_or(String::new(), |pid| format!(", pid {pid}"));
    let peak = crash.peak_memory_bytes.map_or(String::new(), |peak| format!(", peak memory {}", print::bytes(peak)));
    let (at, reason) = (plain(&crash.at), plain(&crash.reason));
    let mut lines = vec![format!("{DIM}{at}{DIM:#} run {}{pid}: {BAD}{reason}{BAD:#} {lived}{peak}", crash.run)];
    lines.extend(crash.tail.iter().map(|line| format!("    {DIM}|{DIM:#} {}", print::plain_output(line.as_bytes()))));
    lines.join("\n")
}

fn now(app: &AppStatus, blameless: bool) -> String {
    let name = plain(&app.name);
    let past = if blameless { "has not crashed; it is" } else { "is now" };
    let mut text = format!("{name} {past} {}", state(app));
    if let Some(uptime) = app.uptime_ms {
        text.push_str(&format!(" for {}", duration(uptime)));
    }
    if let Some(wait) = app.next_retry_ms {
        text.push_str(&format!(", next start in {}", duration(wait)));
    }
    text
}

pub async fn health(client: &Client, ready: bool, json: bool) -> anyhow::Result<Ended> {
    let (status, answer) = client.probe(if ready { "/readyz" } else { "/livez" }).await?;
    let fine = status == StatusCode::OK;
    if json {
        say_json(&answer)?;
    } else {
        say(&health_in_words(fine, ready, &answer))?;
    }
    Ok(if fine { Ended::Done } else { Ended::Refused })
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

pub async fn plan(client: &Client, json: bool) -> anyhow::Result<Ended> {
    tell_plan(&client.get("/v1/plan").await?, json)
}

/// Refused when the plan leaves something out because of a problem.
pub fn tell_plan(plan: &PlanReport, json: bool) -> anyhow::Result<Ended> {
    if json {
        say_json(plan)?;
    } else {
        say(&plan_in_words(plan))?;
    }
    let kept_back = plan.steps.iter().any(|step| step.sign == '!');
    Ok(if kept_back { Ended::Refused } else { Ended::Done })
}

fn plan_in_words(plan: &PlanReport) -> String {
    let mut lines = Vec::new();
    for step in &plan.steps {
        let style = match step.sign {
            '+' => print::GOOD,
            '~' => BUSY,
            '-' | '!' => BAD,
            _ => DIM,
        };
        lines.push(format!("{style}{}{style:#} {} {}", step.sign, plain(&step.app), plain(&step.text)));
    }
    if plan.unchanged > 0 || plan.steps.is_empty() {
        lines.push(format!("{DIM}={DIM:#} {} unchanged", plan.unchanged));
    }
    let told = |problem: &str| plan.steps.iter().any(|step| step.text.ends_with(problem));
    let untold = plan.problems.iter().filter(|problem| !told(problem));
    lines.extend(untold.map(|problem| format!("{BAD}problem{BAD:#}: {}", plain(problem))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::tests::app;
    use super::*;
    use crate::model::exit::Exit;
    use crate::model::protocol::{PlanStep, StateName};

    fn shown(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    fn apps() -> Vec<AppStatus> {
        let browser = AppStatus {
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
            stale: Some("discord.ron:3:1: unknown field `x`".into()),
            log_trouble: None,
            ..app("discord", StateName::Backoff)
        };
        let terminal = AppStatus { detail: "disabled".into(), ..app("terminal", StateName::Stopped) };
        vec![browser, discord, terminal]
    }

    #[test]
    fn the_table_reads_at_a_glance() {
        let problems = vec!["discord.ron:3:1: unknown field `x`".into(), "new.ron: it is empty".into()];
        let text = shown(&report(&Snapshot { apps: apps(), problems, draining: false, staging: false }));
        let expected = "\
NAME          STATE                PID  UPTIME  RESTARTS  LAST EXIT                                    MEMORY  NEXT
cloakbrowser  Running (adopted)   1234  3h 4m          2  killed by SIGSEGV                         312.0 MiB  -
discord       Backoff                -  -              7  hook failed: WaitFor the X display: nob…          -  in 12s
terminal      Stopped (disabled)     -  -              0  -                                                 -  -

discord runs as its last good manifest says: discord.ron:3:1: unknown field `x`
problem: new.ron: it is empty";
        assert_eq!(text, expected);
    }

    #[test]
    fn colours_change_no_letter() {
        let mut odd = app("Running", StateName::GaveUp);
        odd.last_exit = Some(Exit::NotReady("GaveUp \x1b[2J".into()));
        let lines = table(&[odd]);
        assert!(lines[1].contains(&format!("Running  {BAD}GaveUp{BAD:#}")), "{lines:?}");
        assert!(!lines[1].contains("\x1b[2J"), "{lines:?}");
    }

    #[test]
    fn an_empty_table_says_how_to_fill_it() {
        assert!(report(&Snapshot::default()).contains("kasm-void new"));
    }

    #[test]
    fn status_of_some_apps_knows_their_names() {
        let mut snapshot = Snapshot { apps: apps(), ..Snapshot::default() };
        let error = narrow(&mut snapshot, &["discrod".into()]).unwrap_err().to_string();
        assert_eq!(error, "no app is called `discrod`: did you mean `discord`?");
        narrow(&mut snapshot, &["terminal".into()]).unwrap();
        assert_eq!(snapshot.apps.len(), 1);
    }

    #[test]
    fn a_crash_is_told_with_its_last_words() {
        let crash = Crash {
            at: "2026-01-02T03:04:05Z".into(),
            run: 3,
            pid: Some(12),
            exit: Exit::Signal(11),
            reason: "killed by SIGSEGV".into(),
            uptime_ms: Some(61_000),
            peak_memory_bytes: Some(5 << 20),
            tail: vec!["loading".into(), "\x1b[31moh no".into()],
        };
        let expected = "\
2026-01-02T03:04:05Z run 3, pid 12: killed by SIGSEGV after 1m 1s, peak memory 5.0 MiB
    | loading
    | oh no";
        assert_eq!(shown(&story(&crash)), expected);
        assert_eq!(now(&apps()[1], false), "discord is now Backoff, next start in 12s");
    }

    #[test]
    fn a_plan_is_read_by_its_signs() {
        let step = |sign, app: &str, text: &str| PlanStep { sign, app: app.into(), text: text.into() };
        let steps = vec![step('~', "a", "restart (args changed)"), step('!', "b", "broken: b.ron:1:1: no")];
        let plan = PlanReport { steps, unchanged: 3, problems: vec!["b.ron:1:1: no".into(), "c.ron: hm".into()] };
        let text = shown(&plan_in_words(&plan));
        assert_eq!(text, "~ a restart (args changed)\n! b broken: b.ron:1:1: no\n= 3 unchanged\nproblem: c.ron: hm");
    }
}
