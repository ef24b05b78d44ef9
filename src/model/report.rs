//! Reports about an app for people: the event on the wire, the entry of a crash, the next step, and how urgent it
//! is. Writes nothing itself.

use std::time::Duration;

use crate::model::exit::Exit;
use crate::model::machine::{Report, RunEnd};
use crate::model::manifest::restart::{Decision, Stay};
use crate::model::output::pass::Level;
use crate::model::protocol::{Crash, SessionEvent};

/// The hint for a program that leaves the foreground.
const DAEMONISED: &str = "it exited with 0 at once and left a process behind, which was ended: give it the flag that \
    keeps it in the foreground, or let `matches` name the process that stays";

/// The report as an event for clients.
pub fn event(app: &str, report: &Report) -> SessionEvent {
    let app = app.to_string();
    match report {
        Report::Launched { run, pid } => SessionEvent::Launching { app, run: *run, pid: *pid },
        Report::Adopted { run, pid } => SessionEvent::Adopted { app, run: *run, pid: *pid },
        Report::Entered { run, from, to, pid } => {
            SessionEvent::State { app, run: *run, pid: *pid, from: *from, to: *to }
        }
        Report::CrashLooping { run, attempt } => SessionEvent::CrashLooping { app, run: *run, failures: *attempt },
        Report::Crashed { run, end, next } => SessionEvent::Crashed {
            next: next_text(&app, *next),
            app,
            run: *run,
            pid: end.pid,
            exit: end.exit.clone(),
            reason: end.exit.to_string(),
            uptime_ms: end.lived.map(milliseconds),
        },
    }
}

/// The entry that `why` shows. `at` is the time of the end, RFC 3339, and `tail` are the last lines of output.
pub fn crash(at: String, run: u64, end: RunEnd, tail: Vec<String>) -> Crash {
    Crash {
        at,
        run,
        pid: end.pid,
        reason: end.exit.to_string(),
        exit: end.exit,
        uptime_ms: end.lived.map(milliseconds),
        peak_memory_bytes: end.peak,
        tail,
        hint: end.daemonised.then(|| DAEMONISED.into()),
    }
}

/// The end of a run in one sentence, for the log.
pub fn sentence(app: &str, crash: &Crash, next: Option<Decision>) -> String {
    let after = match crash.uptime_ms.map(Duration::from_millis) {
        Some(lived) => format!(" after {}", short(lived)),
        None if crash.exit.is_of_a_start() => String::new(),
        None => " before it was ready".into(),
    };
    let hint = crash.hint.as_ref().map_or_else(String::new, |hint| format!(" ({hint})"));
    format!("{app} ended{after}: {}; {}{hint}", crash.reason, next_text(app, next))
}

/// How urgent the end of a run is: an error if the app stays down though it should run, a warning if the exit was not
/// expected.
pub fn level(exit: &Exit, next: Option<Decision>) -> Level {
    match (exit.unexpected(), next) {
        (_, Some(Decision::GiveUp)) => Level::Error,
        (true, _) => Level::Warn,
        (false, _) => Level::Info,
    }
}

/// The next step after a crash, as text. `None` if a request decides it.
fn next_text(app: &str, next: Option<Decision>) -> String {
    match next {
        Some(Decision::AtOnce) => "starting again".into(),
        Some(Decision::Retry { attempt, wait }) => format!("retry {attempt} in {}", short(wait)),
        Some(Decision::GiveUp) => {
            format!("giving up; `kasm-void start {app}` tries again, and so does an edit of its manifest")
        }
        Some(Decision::Stay(Stay::Closed)) => "its window was closed, and `on_close: Hold` keeps it down".into(),
        Some(Decision::Stay(Stay::Done)) => "staying down, as `restart` says".into(),
        None => "a request came first".into(),
    }
}

fn milliseconds(span: Duration) -> u64 {
    span.as_millis() as u64
}

/// Formats milliseconds below ten seconds, and whole seconds from there.
fn short(span: Duration) -> String {
    let rounded = match span.as_secs() {
        0..10 => Duration::from_millis(milliseconds(span)),
        seconds => Duration::from_secs(seconds),
    };
    humantime::format_duration(rounded).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(exit: Exit, lived: Option<u64>, next: Option<Decision>) -> (String, Level) {
        let end = RunEnd { lived: lived.map(Duration::from_millis), ..RunEnd::unready(Some(7), exit, Duration::ZERO) };
        let crash = crash("now".into(), 3, end, Vec::new());
        (sentence("web", &crash, next), level(&crash.exit, next))
    }

    #[test]
    fn the_end_of_a_run_is_one_sentence() {
        let retry = Some(Decision::Retry { attempt: 2, wait: Duration::from_micros(2_100_700) });
        for (exit, lived, next, text, urgency) in [
            (
                Exit::Code(1),
                Some(61_900),
                retry,
                "web ended after 1m 1s: exit code 1; retry 2 in 2s 100ms",
                Level::Warn,
            ),
            (
                Exit::Clean,
                Some(40),
                Some(Decision::AtOnce),
                "web ended after 40ms: exit code 0; starting again",
                Level::Info,
            ),
            (
                Exit::Signal(9),
                None,
                Some(Decision::GiveUp),
                "web ended before it was ready: killed by SIGKILL; giving up; `kasm-void start web` tries again, and so does \
                 an edit of its manifest",
                Level::Error,
            ),
            (
                Exit::SpawnFailed("`/x` does not exist".into()),
                None,
                None,
                "web ended: cannot start: `/x` does not exist; a request came first",
                Level::Warn,
            ),
            (Exit::Clean, Some(0), None, "web ended after 0s: exit code 0; a request came first", Level::Info),
        ] {
            assert_eq!(told(exit, lived, next), (text.to_string(), urgency));
        }
    }

    #[test]
    fn a_program_that_leaves_the_foreground_gets_a_hint() {
        let end = RunEnd { daemonised: true, ..RunEnd::unready(Some(7), Exit::Clean, Duration::ZERO) };
        let crash = crash("now".into(), 1, end, Vec::new());
        assert!(sentence("web", &crash, None).ends_with(&format!("({DAEMONISED})")));
    }
}
