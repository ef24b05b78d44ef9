//! `inspect`: everything about one app: where its manifest is, what it runs with every setting resolved, its processes,
//! its last crashes.

use super::VerbEnd;
use super::client::Client;
use super::print::{BAD, DIM, bytes, duration, plain, say, say_json, state_style, utc};
use super::status;
use crate::model::protocol::{Inspection, ProcessView, Route};
use crate::model::spelling::counted;

/// How many crashes are listed; `why` shows them with their last output.
const CRASHES: usize = 3;

pub async fn inspect(client: &Client, app: &str, json: bool) -> anyhow::Result<VerbEnd> {
    let inspection: Inspection = client.get(&Route::Inspect.path(&[app])).await?;
    if json {
        say_json(&inspection)?;
    } else {
        say(&text(&inspection))?;
    }
    Ok(VerbEnd::Done)
}

fn text(inspection: &Inspection) -> String {
    let Inspection { status: app, manifest, program, after, log, max_rss, processes, crashes } = inspection;
    let style = state_style(app.state, app.failures);
    let uptime = app.uptime_ms.map_or(String::new(), |uptime| format!(" for {}", duration(uptime)));
    let head = format!(
        "{} {style}{}{style:#}{uptime}, run {}, {}",
        plain(&app.name),
        status::state(app),
        app.run,
        counted(app.restarts, "restart")
    );
    let names = |names: &[String]| names.iter().map(|name| plain(name)).collect::<Vec<_>>().join(", ");
    let user = match (&program.user, &program.group) {
        (Some(user), Some(group)) => format!("{}, group {}", plain(user), plain(group)),
        (user, _) => user.as_ref().map_or(String::new(), |user| plain(user)),
    };
    let rlimits = program.rlimits.iter().map(|(name, limit)| Some(format!("{} {}", plain(name), plain(limit))));
    let limits = [
        program.nice.map(|nice| format!("nice {nice}")),
        program.oom_score_adj.map(|score| format!("oom_score_adj {score}")),
        max_rss.map(|most| format!("at most {}", bytes(most))),
        program.umask.as_ref().map(|umask| format!("umask {}", plain(umask))),
    ];
    let limits: Vec<String> = limits.into_iter().chain(rlimits).flatten().collect();
    let command: Vec<String> = program.argv.iter().map(|word| quoted(word)).collect();
    let rows = [
        ("about", plain(&app.about)),
        ("manifest", manifest.as_ref().map_or("deleted".into(), |file| plain(file))),
        ("problem", app.stale.as_ref().map_or(String::new(), |problem| plain(problem))),
        ("command", command.join(" ")),
        ("folder", program.cwd.as_ref().map_or("the home folder".into(), |folder| plain(folder))),
        ("user", user),
        ("terminal", if program.pty { "its own".into() } else { String::new() }),
        ("variables", names(&program.env)),
        ("hidden", names(&program.env_hidden)),
        ("after", names(after)),
        ("limits", limits.join(", ")),
        ("log", plain(log)),
        ("actions", names(&app.actions)),
    ];
    let mut lines = vec![head];
    let rows = rows.into_iter().filter(|(_, text)| !text.is_empty());
    lines.extend(rows.map(|(name, text)| format!("  {DIM}{name:9}{DIM:#}  {text}")));
    if !processes.is_empty() {
        lines.push(format!("\n{DIM}{:>7}  {:>9}  {:>8}  {:>7}  COMMAND{DIM:#}", "PID", "MEMORY", "CPU TIME", "AGE"));
        lines.extend(tree(processes));
    }
    if !crashes.is_empty() {
        lines.push(format!("\nlast crashes ({DIM}`kasm-void why {}` shows their output{DIM:#})", plain(&app.name)));
        lines.extend(crashes.iter().rev().take(CRASHES).map(|crash| {
            format!("  {DIM}{}{DIM:#}  run {}: {BAD}{}{BAD:#}", utc(&crash.at), crash.run, plain(&crash.reason))
        }));
    }
    lines.join("\n")
}

/// A word as a shell would need it.
fn quoted(word: &str) -> String {
    let word = plain(word);
    shlex::try_quote(&word).map(|quoted| quoted.into_owned()).unwrap_or(word.clone())
}

/// Each process below its parent.
fn tree(processes: &[ProcessView]) -> Vec<String> {
    let known = |pid: i32| processes.iter().any(|process| process.pid == pid);
    let mut lines = Vec::new();
    let mut open: Vec<(&ProcessView, usize)> =
        processes.iter().rev().filter(|process| !known(process.parent)).map(|process| (process, 0)).collect();
    while let Some((process, depth)) = open.pop() {
        let command = if process.command.is_empty() { "(dead)".into() } else { plain(&process.command) };
        lines.push(format!(
            "{:>7}  {:>9}  {:>8}  {:>7}  {}{command}",
            process.pid,
            bytes(process.memory_bytes),
            duration(process.cpu_ms),
            duration(process.age_ms),
            "  ".repeat(depth),
        ));
        let is_child = |child: &&ProcessView| child.parent == process.pid && child.pid != process.pid;
        open.extend(processes.iter().rev().filter(is_child).map(|child| (child, depth + 1)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::{app, crash};
    use crate::model::protocol::{AppStatus, ProgramView, StateName};

    fn process(pid: i32, parent: i32, command: &str) -> ProcessView {
        ProcessView { pid, parent, command: command.into(), memory_bytes: 5 << 20, cpu_ms: 1500, age_ms: 61_000 }
    }

    #[test]
    fn everything_about_an_app_is_on_one_page() {
        let status = AppStatus { run: 2, restarts: 1, uptime_ms: Some(61_000), ..app("web", StateName::Running) };
        let inspection = Inspection {
            status,
            manifest: Some("/m/web.ron".into()),
            program: ProgramView {
                argv: vec!["/bin/web".into(), "two words".into()],
                cwd: None,
                env: vec!["LANG".into()],
                env_hidden: vec!["VNC_PW".into()],
                nice: Some(5),
                oom_score_adj: None,
                user: Some("web".into()),
                group: Some("video".into()),
                umask: Some("0027".into()),
                pty: true,
                rlimits: [("nofile".to_owned(), "1024:4096".to_owned())].into(),
            },
            after: vec!["display".into()],
            log: "/s/web.log".into(),
            max_rss: Some(1 << 30),
            processes: vec![
                process(7, 1, "/bin/web"),
                process(9, 7, "helper"),
                process(10, 9, "\x1b[2J"),
                process(11, 1, ""),
            ],
            crashes: vec![crash()],
        };
        let expected = "\
web Running for 1m 1s, run 2, 1 restart
  manifest   /m/web.ron
  command    /bin/web 'two words'
  folder     the home folder
  user       web, group video
  terminal   its own
  variables  LANG
  hidden     VNC_PW
  after      display
  limits     nice 5, at most 1.0 GiB, umask 0027, nofile 1024:4096
  log        /s/web.log

    PID     MEMORY  CPU TIME      AGE  COMMAND
      7    5.0 MiB        1s    1m 1s  /bin/web
      9    5.0 MiB        1s    1m 1s    helper
     10    5.0 MiB        1s    1m 1s      \\u{1b}[2J
     11    5.0 MiB        1s    1m 1s  (dead)

last crashes (`kasm-void why web` shows their output)
  2026-01-02 03:04:05 UTC  run 3: killed by SIGSEGV";
        assert_eq!(anstream::adapter::strip_str(&text(&inspection)).to_string(), expected);
    }
}
