//! Tells people: log lines, the event stream, and the last crashes that `why` shows. What a turn of the
//! loop has to tell waits until its work is done, so that no line stands between a crash and its respawn.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::sync::broadcast;

use crate::model::loading::problem::Problem;
use crate::model::machine::Report;
use crate::model::manifest::restart::Verdict;
use crate::model::protocol::{Crash, PlanReport, StateName};

/// Crashes kept for `why`, of each app.
const CRASHES_KEPT: usize = 10;
/// Events a slow client may be behind before it loses some.
const EVENTS_KEPT: usize = 512;
/// Bytes of the tail in a log line.
const TAIL_IN_LOG: usize = 4 << 10;

pub struct Reports {
    events: broadcast::Sender<Arc<str>>,
    crashes: BTreeMap<String, VecDeque<Crash>>,
    pending: Vec<Pending>,
    /// Problems of the manifests that have been told.
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
    /// The manifest wants the app's output in the supervisor's log.
    pub forward: bool,
}

impl Reports {
    /// `crashes`: what an earlier supervisor has left, oldest first.
    pub fn with_crashes(crashes: Vec<(String, Crash)>) -> Self {
        let (events, _) = broadcast::channel(EVENTS_KEPT);
        let mut reports = Reports { events, crashes: BTreeMap::new(), pending: Vec::new(), problems: BTreeSet::new() };
        crashes.into_iter().for_each(|(app, crash)| reports.keep(&app, crash));
        reports
    }

    /// Each event is one JSON object.
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

    /// To be told at the end of the turn. `tail`: for a crash.
    pub fn take(&mut self, app: &str, report: Report, tail: Tail) {
        self.pending.push(Pending { at: SystemTime::now(), app: app.into(), report, tail });
    }

    /// The turn's work is done: tell. Returns the crashes that are new.
    pub fn tell(&mut self) -> Vec<(String, Crash)> {
        let mut crashes = Vec::new();
        for Pending { at, app, report, tail } in std::mem::take(&mut self.pending) {
            self.send(at, &app, &report);
            match report {
                Report::Launched { run, pid } => {
                    tracing::info!(event = "app.launching", app, run, pid, "launching {app}");
                }
                Report::Adopted { run, pid } => {
                    tracing::info!(event = "app.adopted", app, run, pid, "{app} is already running: adopted pid {pid}");
                }
                Report::Entered { run, to, pid, .. } => tell_state(&app, run, to, pid),
                Report::Crashed { .. } => {
                    let crash = self.tell_crash(at, &app, &report, tail);
                    crashes.extend(crash.map(|crash| (app, crash)));
                }
            }
        }
        crashes
    }

    /// Manifests were applied: what that changes, and what is wrong with them. The same problem is told
    /// once, not at every reload.
    pub fn take_plan(&mut self, plan: &PlanReport, problems: &[Problem]) {
        // What is broken is told with its place below.
        for step in plan.steps.iter().filter(|step| step.sign != '!') {
            tracing::info!(event = "manifest.applied", app = step.app, "{} {} {}", step.sign, step.app, step.text);
        }
        let told = std::mem::take(&mut self.problems);
        for problem in problems {
            let text = problem.to_string();
            if !told.contains(&text) {
                match problem.is_error() {
                    true => {
                        tracing::error!(event = "manifest.broken", file = problem.file, line = problem.line, "{text}")
                    }
                    false => {
                        tracing::warn!(event = "manifest.doubtful", file = problem.file, line = problem.line, "{text}")
                    }
                }
            }
            self.problems.insert(text);
        }
    }

    fn send(&self, at: SystemTime, app: &str, report: &Report) {
        if self.events.receiver_count() == 0 {
            return;
        }
        let ts = time(at);
        let event = match report {
            Report::Launched { run, pid } => {
                json!({"ts": ts, "event": "app.launching", "app": app, "run": run, "pid": pid})
            }
            Report::Adopted { run, pid } => {
                json!({"ts": ts, "event": "app.adopted", "app": app, "run": run, "pid": pid})
            }
            Report::Entered { run, from, to, pid } => {
                json!({"ts": ts, "event": "app.state", "app": app, "run": run, "pid": pid, "from": from, "to": to})
            }
            Report::Crashed { run, pid, exit, lived, verdict, .. } => json!({
                "ts": ts, "event": "app.crashed", "app": app, "run": run, "pid": pid, "exit": exit, "reason": exit.to_string(),
                "uptime_ms": lived.map(milliseconds), "next": next(verdict),
            }),
        };
        let _ = self.events.send(event.to_string().into()); // the last receiver may have left meanwhile
    }

    fn tell_crash(&mut self, at: SystemTime, app: &str, report: &Report, tail: Tail) -> Option<Crash> {
        let Report::Crashed { run, pid, exit, lived, peak, verdict } = report else { return None };
        let reason = exit.to_string();
        let after = lived.map_or_else(|| "before it was ready".into(), |lived| format!("after {}", short(lived)));
        let next = next(verdict);
        let (run, class, uptime_ms, peak_bytes) = (*run, exit.class(), lived.map(milliseconds), *peak);
        let text = Some(end_of(tail.lines.join("\n"))).filter(|text| !text.is_empty());
        // An app's output may hold what must not leave the machine with the log; `why` shows all of it.
        let (tail_in_log, terminal_tail) = if tail.forward { (text, None) } else { (None, text) };
        // A level has to be written down for the compiler; everything else is the same.
        macro_rules! tell {
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
                    tail = tail_in_log.as_deref(),
                    terminal_tail = terminal_tail.as_deref(),
                    "{app} ended {after}: {reason}; {next}"
                )
            };
        }
        match (exit.unexpected(), verdict) {
            (_, Verdict::GiveUp) => tell!(error, "app.crashed"),
            (true, _) => tell!(warn, "app.crashed"),
            (false, _) => tell!(info, "app.ended"),
        }
        let crash = Crash {
            at: time(at),
            run,
            pid: *pid,
            exit: exit.clone(),
            reason,
            uptime_ms,
            peak_memory_bytes: peak_bytes,
            tail: tail.lines,
        };
        self.keep(app, crash.clone());
        Some(crash)
    }

    fn keep(&mut self, app: &str, crash: Crash) {
        let kept = self.crashes.entry(app.into()).or_default();
        if kept.len() == CRASHES_KEPT {
            kept.pop_front();
        }
        kept.push_back(crash);
    }
}

/// As much of the end of the text as a log line holds.
fn end_of(mut text: String) -> String {
    let mut from = text.len().saturating_sub(TAIL_IN_LOG);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text.split_off(from)
}

fn tell_state(app: &str, run: u64, to: StateName, pid: Option<i32>) {
    match to {
        StateName::Running => tracing::debug!(event = "app.running", app, run, pid, "{app} is running"),
        StateName::Stopping => tracing::info!(event = "app.stopping", app, run, pid, "stopping {app}"),
        StateName::Stopped => tracing::info!(event = "app.stopped", app, run, "{app} is stopped"),
        StateName::Starting | StateName::Crashed | StateName::Backoff | StateName::GaveUp => {}
    }
}

fn next(verdict: &Verdict) -> String {
    match verdict {
        Verdict::AtOnce => "starting again".into(),
        Verdict::After { attempt, wait } => format!("retry {attempt} in {}", short(*wait)),
        Verdict::GiveUp => "giving up: start it by hand or mend its manifest".into(),
        Verdict::Stay => "staying down, as its manifest says".into(),
    }
}

fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

fn milliseconds(span: Duration) -> u64 {
    span.as_millis() as u64
}

/// Milliseconds below ten seconds, whole seconds from there.
fn short(span: Duration) -> String {
    let rounded = match span.as_secs() {
        0..10 => Duration::from_millis(milliseconds(span)),
        seconds => Duration::from_secs(seconds),
    };
    humantime::format_duration(rounded).to_string()
}
