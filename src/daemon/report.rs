//! Reports to people: log lines, the event stream, and the last crashes that `why` shows. Reports of a turn wait until
//! the turn's work is done, so that writing a line never delays a respawn.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::broadcast;

use crate::model::loading::problem::Problem;
use crate::model::machine::Report;
use crate::model::manifest::restart::Decision;
use crate::model::output::pass::Level;
use crate::model::protocol::{Crash, EventLine, PlanReport, SessionEvent, StateName};
use crate::model::report;
use crate::model::supervisor::DrainCause;

/// Crashes kept per app for `why`.
const CRASHES_KEPT: usize = 10;
/// How many events a slow client may lag behind before it loses some.
const EVENTS_KEPT: usize = 512;
/// Bytes of the tail in a log line.
const TAIL_IN_LOG: usize = 4 << 10;

/// Collects what happens, and tells it.
pub struct Reports {
    events: broadcast::Sender<Arc<str>>,
    crashes: BTreeMap<String, VecDeque<Crash>>,
    pending: Vec<Pending>,
    /// Manifest problems that have already been reported.
    problems: BTreeSet<String>,
}

struct Pending {
    at: SystemTime,
    app: String,
    report: Report,
    tail: Tail,
}

/// The last lines of an app that ended.
#[derive(Debug, Default)]
pub struct Tail {
    pub lines: Vec<String>,
    /// The manifest forwards the app's output to the supervisor's log.
    pub forward: bool,
}

impl Reports {
    /// `crashes`: those recorded by an earlier supervisor, oldest first.
    pub fn with_crashes(crashes: Vec<(String, Crash)>) -> Self {
        let (events, _) = broadcast::channel(EVENTS_KEPT);
        let mut reports = Reports { events, crashes: BTreeMap::new(), pending: Vec::new(), problems: BTreeSet::new() };
        crashes.into_iter().for_each(|(app, crash)| reports.keep(&app, crash));
        reports
    }

    /// The event stream. Each event is an [`EventLine`] as JSON.
    pub fn events(&self) -> broadcast::Sender<Arc<str>> {
        self.events.clone()
    }

    /// The last crashes, oldest first.
    pub fn crashes(&self, app: &str) -> Vec<Crash> {
        self.crashes.get(app).map(|kept| kept.iter().cloned().collect()).unwrap_or_default()
    }

    pub fn forget(&mut self, app: &str) {
        self.crashes.remove(app);
    }

    /// Queues a report until the end of the turn. `tail` is for a crash.
    pub fn take(&mut self, app: &str, report: Report, tail: Tail) {
        self.pending.push(Pending { at: SystemTime::now(), app: app.into(), report, tail });
    }

    /// Writes the reports of the turn, once its work is done. Returns the new crashes.
    pub fn tell(&mut self) -> Vec<(String, Crash)> {
        let mut crashes = Vec::new();
        for Pending { at, app, report: told, tail } in std::mem::take(&mut self.pending) {
            if self.events.receiver_count() > 0 {
                self.send(at, report::event(&app, &told));
            }
            match told {
                Report::Launched { run, pid } => {
                    tracing::info!(event = "app.launching", app, run, pid, "launching {app}");
                }
                Report::Adopted { run, pid } => {
                    tracing::info!(event = "app.adopted", app, run, pid, "{app} is already running: adopted pid {pid}");
                }
                Report::Entered { run, to, pid, .. } => log_state(&app, run, to, pid),
                Report::CrashLooping { run, attempt } => tracing::error!(
                    event = "app.crash_looping",
                    app,
                    run,
                    failures = attempt,
                    "{app} has failed {attempt} times in a row: `kasm-void why {app}` shows its last output"
                ),
                Report::Crashed { run, end, next } => {
                    let crash = report::crash(time(at), run, end, tail.lines);
                    log_crash(&app, &crash, next, tail.forward);
                    self.keep(&app, crash.clone());
                    crashes.push((app, crash));
                }
            }
        }
        crashes
    }

    /// Reports what applied manifests change, and what is wrong with them. A problem is reported once, not at every
    /// reload.
    pub fn applied(&mut self, plan: &PlanReport, problems: &[Problem]) {
        // A broken manifest is reported below, with its position.
        for step in plan.steps.iter().filter(|step| step.sign != '!') {
            tracing::info!(event = "manifest.applied", app = step.app, "{} {} {}", step.sign, step.app, step.text);
        }
        let told = std::mem::take(&mut self.problems);
        for problem in problems {
            let text = problem.to_string();
            let (file, line) = (&problem.file, problem.line);
            match problem.is_error() {
                _ if told.contains(&text) => {}
                true => tracing::error!(event = "manifest.broken", file, line, "{text}"),
                false => tracing::warn!(event = "manifest.doubtful", file, line, "{text}"),
            }
            self.problems.insert(text);
        }
        if !plan.steps.is_empty() {
            let (steps, unchanged) = (plan.steps.len(), plan.unchanged);
            self.send(SystemTime::now(), SessionEvent::Applied { steps, unchanged, problems: problems.len() });
        }
    }

    pub fn drain_begun(&self, cause: &DrainCause) {
        tracing::info!(event = "drain.begun", reason = %cause, "{cause}: stopping everything");
        self.send(SystemTime::now(), SessionEvent::DrainBegun { reason: cause.to_string() });
    }

    pub fn drain_hurried(&self, why: &str) {
        tracing::warn!(event = "drain.hurried", reason = why, "{why}: killing what is left");
        self.send(SystemTime::now(), SessionEvent::DrainHurried { reason: why.into() });
    }

    fn send(&self, at: SystemTime, event: SessionEvent) {
        let line = EventLine { ts: time(at), event };
        let text = serde_json::to_string(&line).unwrap_or_default(); // strings and numbers alone cannot fail
        let _ = self.events.send(text.into()); // nobody may be listening
    }

    fn keep(&mut self, app: &str, crash: Crash) {
        let kept = self.crashes.entry(app.into()).or_default();
        if kept.len() == CRASHES_KEPT {
            kept.pop_front();
        }
        kept.push_back(crash);
    }
}

fn log_crash(app: &str, crash: &Crash, next: Option<Decision>, forward: bool) {
    let Crash { run, pid, reason, uptime_ms, peak_memory_bytes: peak_bytes, .. } = crash;
    let class = crash.exit.class();
    let tail = Some(end_of(crash.tail.join("\n"))).filter(|text| !text.is_empty());
    // An app's output may contain secrets that must not leave the machine with the log. `why` shows all of it.
    let (tail, terminal_tail) = if forward { (tail, None) } else { (None, tail) };
    let (tail, terminal_tail) = (tail.as_deref(), terminal_tail.as_deref());
    let text = report::sentence(app, crash, next);
    // The level must be a constant, so each level needs its own call. The rest is the same.
    macro_rules! log {
        ($level:ident, $event:literal) => {
            tracing::$level!(
                event = $event,
                app,
                run,
                pid,
                class,
                reason,
                uptime_ms,
                peak_bytes,
                tail,
                terminal_tail,
                "{text}"
            )
        };
    }
    match report::level(&crash.exit, next) {
        Level::Error => log!(error, "app.crashed"),
        Level::Warn => log!(warn, "app.crashed"),
        Level::Info => log!(info, "app.ended"),
    }
}

/// The end of the text, cut to what a log line holds.
fn end_of(mut text: String) -> String {
    let mut from = text.len().saturating_sub(TAIL_IN_LOG);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text.split_off(from)
}

fn log_state(app: &str, run: u64, to: StateName, pid: Option<i32>) {
    match to {
        StateName::Running => tracing::debug!(event = "app.running", app, run, pid, "{app} is running"),
        StateName::Stopping => tracing::info!(event = "app.stopping", app, run, pid, "stopping {app}"),
        StateName::Stopped => tracing::info!(event = "app.stopped", app, run, "{app} is stopped"),
        StateName::Starting | StateName::Crashed | StateName::Backoff | StateName::GaveUp => {}
    }
}

fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}
