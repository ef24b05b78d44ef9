//! `logs`: the output of apps. One app's is passed on as it is. Of several apps, or with a filter, each line is shown by
//! itself, with the app's name before it.

pub mod output;
pub mod reader;
pub mod select;

use std::io::{IsTerminal, stdout};
use std::time::SystemTime;

use anstyle::{AnsiColor, Style};
use anyhow::bail;
use regex_lite::Regex;
use serde_json::json;
use tokio::task::LocalSet;
use unicode_width::UnicodeWidthStr;

use super::VerbEnd;
use super::client::{Client, NoSupervisor};
use super::print::{DIM, complain, plain, plain_output, say, say_json};
use crate::daemon::logs as files;
use crate::model::protocol::{Route, Snapshot};
use output::{Lines, LogScreen, Output, Raw};
use reader::LogReader;
use select::{LineTimes, LogLine, Selection, Since, merged};

/// How many lines are shown if none is said.
const USUAL: usize = 100;
/// The most that the supervisor sends of one log.
const ALL: usize = 100_000;

/// The lines to show.
pub struct LogOptions {
    pub follow: bool,
    /// How many of the last lines. `None`: all that a filter takes, else [`USUAL`].
    pub lines: Option<usize>,
    pub since: Option<Since>,
    pub pattern: Option<Regex>,
    /// Show the time of each line.
    pub times: bool,
}

impl LogOptions {
    fn filters(&self) -> bool {
        self.since.is_some() || self.pattern.is_some()
    }

    /// How many lines to ask for, before any is left out.
    fn wanted(&self) -> usize {
        match self.lines {
            _ if self.filters() => ALL,
            Some(lines) => lines,
            None => USUAL,
        }
    }
}

/// Prints the logs of these apps, or of all if none is named.
pub async fn logs(client: &Client, names: Vec<String>, options: LogOptions, json: bool) -> anyhow::Result<VerbEnd> {
    match (&names[..], &options) {
        ([app], LogOptions { since: None, pattern: None, times: false, .. }) => {
            whole(client, app, &options, json).await
        }
        _ => LocalSet::new().run_until(lines_of(client, names, options, json)).await,
    }
}

/// Passes on the log of one app.
async fn whole(client: &Client, app: &str, options: &LogOptions, json: bool) -> anyhow::Result<VerbEnd> {
    let show = |line: &[u8]| say_json(&json!({ "app": app, "line": String::from_utf8_lossy(line) }));
    let mut output: Box<dyn Output> = match (json, stdout().is_terminal()) {
        (true, _) => Box::new(Lines::new(show)),
        (false, true) => Box::new(LogScreen::default()),
        (false, false) => Box::new(Raw),
    };
    let wanted = options.wanted();
    let mut log = match LogReader::open(client, app, (options.follow, wanted), true).await {
        Err(error) if error.is::<NoSupervisor>() => {
            let head = files::read_files(client.state(), app, wanted).map_err(|_| error)?;
            output.take(&head)?;
            output.end()?;
            return Ok(without_supervisor(options));
        }
        opened => opened?,
    };
    while let Some(piece) = log.next().await? {
        output.take(&piece)?;
    }
    output.end()?;
    Ok(VerbEnd::Done)
}

fn without_supervisor(options: &LogOptions) -> VerbEnd {
    complain("no supervisor is running; these lines are from the log files");
    if options.follow { VerbEnd::Refused } else { VerbEnd::Done }
}

/// Shows the lines of several apps, or those that a filter takes.
async fn lines_of(client: &Client, names: Vec<String>, options: LogOptions, json: bool) -> anyhow::Result<VerbEnd> {
    let selection = Selection { since: options.since, pattern: options.pattern.clone() };
    let (names, mut logs, heads) = match opened(client, &names, &options).await {
        Err(error) if error.is::<NoSupervisor>() => {
            let (names, heads) = saved(client, &names, &options).ok_or(error)?;
            (names, Vec::new(), heads)
        }
        opened => opened?,
    };
    let printer = Printer::new(&names, options.times, json);
    let mut times: Vec<LineTimes> = names.iter().map(|_| LineTimes::default()).collect();
    let mut past = Vec::new();
    for ((head, times), name) in heads.iter().zip(&mut times).zip(&names) {
        let lines: Vec<LogLine> = whole_lines(head).map(|line| times.past(line)).collect();
        if options.since.is_some() && !lines.is_empty() && !times.known() {
            complain(&format!(
                "the lines of {} carry no time, so --since shows none of them: the program has to write times",
                plain(name)
            ));
        }
        let mut taken: Vec<LogLine> = lines.into_iter().filter(|line| selection.takes(line)).collect();
        let surplus = taken.len().saturating_sub(options.lines.unwrap_or(ALL));
        past.push(taken.split_off(surplus));
    }
    for (app, line) in merged(past) {
        printer.print(app, &line)?;
    }
    if logs.is_empty() {
        return Ok(without_supervisor(&options));
    }
    if !options.follow {
        return Ok(VerbEnd::Done);
    }
    let selection = std::rc::Rc::new(Selection { since: None, ..selection });
    let printer = std::rc::Rc::new(printer);
    let followed: Vec<_> = logs
        .drain(..)
        .zip(times)
        .enumerate()
        .map(|(app, (log, times))| {
            tokio::task::spawn_local(follow(app, log, times, selection.clone(), printer.clone()))
        })
        .collect();
    for task in followed {
        task.await??;
    }
    Ok(VerbEnd::Done)
}

/// Opens the logs, and reads what is there already.
async fn opened(
    client: &Client,
    names: &[String],
    options: &LogOptions,
) -> anyhow::Result<(Vec<String>, Vec<LogReader>, Vec<Vec<u8>>)> {
    let mut names = names.to_vec();
    if names.is_empty() {
        let snapshot: Snapshot = client.get(&Route::Apps.path(&[])).await?;
        names = snapshot.apps.into_iter().map(|app| app.name).collect();
    }
    if names.is_empty() {
        bail!("there are no apps yet");
    }
    let (mut logs, mut heads) = (Vec::new(), Vec::new());
    for (at, name) in names.iter().enumerate() {
        let mut log = LogReader::open(client, name, (options.follow, options.wanted()), at == 0).await?;
        heads.push(log.head().await);
        logs.push(log);
    }
    Ok((names, logs, heads))
}

/// Reads the files that the last supervisor wrote. `None` if there are none.
fn saved(client: &Client, names: &[String], options: &LogOptions) -> Option<(Vec<String>, Vec<Vec<u8>>)> {
    let known = if names.is_empty() { files::recorded(client.state()) } else { names.to_vec() };
    let read = |name: &String| Some((name.clone(), files::read_files(client.state(), name, options.wanted()).ok()?));
    Some(known.iter().filter_map(read).unzip()).filter(|(names, _): &(Vec<_>, _)| !names.is_empty())
}

async fn follow(
    app: usize,
    mut log: LogReader,
    mut times: LineTimes,
    selection: std::rc::Rc<Selection>,
    printer: std::rc::Rc<Printer>,
) -> anyhow::Result<()> {
    let mut output = Lines::new(|line: &[u8]| {
        let line = times.now(line);
        if selection.takes(&line) { printer.print(app, &line) } else { Ok(()) }
    });
    while let Some(piece) = log.next().await? {
        output.take(&piece)?;
    }
    output.end()
}

/// The lines of a text, without their ends. A last line without an end counts.
fn whole_lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\n").unwrap_or(line))
}

/// Prints lines with the name of their app, if there is more than one.
struct Printer {
    names: Vec<String>,
    /// Columns.
    widest: usize,
    times: bool,
    json: bool,
}

/// The colours of names, one after the other. Red is for trouble.
const COLOURS: [AnsiColor; 6] =
    [AnsiColor::Cyan, AnsiColor::Yellow, AnsiColor::Green, AnsiColor::Magenta, AnsiColor::Blue, AnsiColor::BrightCyan];

impl Printer {
    fn new(names: &[String], times: bool, json: bool) -> Printer {
        let widest = names.iter().map(|name| plain(name).width()).max().unwrap_or(0);
        Printer { names: names.into(), widest, times, json }
    }

    fn print(&self, app: usize, line: &LogLine) -> anyhow::Result<()> {
        if self.json {
            let mut object = json!({ "app": self.names[app], "line": String::from_utf8_lossy(&line.bytes) });
            if let Some(time) = line.time {
                object["ts"] = rfc3339(time).into();
            }
            return say_json(&object);
        }
        say(&self.text(app, line))
    }

    fn text(&self, app: usize, line: &LogLine) -> String {
        let mut text = String::new();
        if self.names.len() > 1 {
            let (name, style) = (plain(&self.names[app]), self.style(app));
            let fill = " ".repeat(self.widest.saturating_sub(name.width()));
            text = format!("{style}{name}{fill} |{style:#} ");
        }
        match line.time {
            _ if !self.times => text.push_str(&plain_output(&line.bytes)),
            Some(time) => {
                text.push_str(&format!("{DIM}{}{DIM:#} {}", rfc3339(time), plain_output(&line.bytes[line.text..])));
            }
            // As wide as a time.
            None => text.push_str(&format!("{DIM}{:24}{DIM:#} {}", "-", plain_output(&line.bytes))),
        }
        text
    }

    fn style(&self, app: usize) -> Style {
        COLOURS[app % COLOURS.len()].on_default()
    }
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(printer: &Printer, app: usize, line: &str) -> String {
        let line = LineTimes::default().past(line.as_bytes());
        anstream::adapter::strip_str(&printer.text(app, &line)).to_string()
    }

    #[test]
    fn names_stand_before_the_lines_of_several_apps() {
        let names = ["a".to_string(), "browser".to_string()];
        let printer = Printer::new(&names, false, false);
        assert_eq!(printed(&printer, 0, "hello\x1b[2J"), "a       | hello");
        assert_eq!(printed(&printer, 1, "hello"), "browser | hello");
        assert_ne!(printer.style(0), printer.style(1));
        assert_eq!(printed(&Printer::new(&names[..1], false, false), 0, "hello"), "hello");
    }

    #[test]
    fn times_are_shown_where_they_are_known() {
        let printer = Printer::new(&["a".into()], true, false);
        assert_eq!(printed(&printer, 0, "2026-01-02T03:04:05+01:00 up"), "2026-01-02T02:04:05.000Z up");
        assert_eq!(printed(&printer, 0, "up"), "-                        up");
    }
}
