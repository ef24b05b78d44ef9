//! The effects and reports that the machine returns, and the context that collects them.

use std::sync::Arc;
use std::time::Duration;

use super::parts::{Pid, ProbeKind, RunEnd, Timer};
use crate::model::app::App;
use crate::model::exit::Exit;
use crate::model::manifest::restart::Decision;
use crate::model::protocol::StateName;

/// A task for the daemon.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the text of each variant names its fields")]
pub enum AppEffect {
    /// Look for a live process of the app: by its match pattern and, with `by_marks`, by the marks of an earlier
    /// supervisor.
    LookUp { run: u64, app: Arc<App>, by_marks: bool },
    /// Run the steps of the action, if any, then `prelaunch`.
    RunHooks { run: u64, app: Arc<App>, action: Option<String> },
    /// Run `postlaunch` in the background.
    RunPostlaunch { run: u64, app: Arc<App> },
    /// Run `prestop`, and answer with `HooksDone` even if a step fails.
    RunPrestop { run: u64, app: Arc<App> },
    /// Run `poststop` after this exit, and answer with `HooksDone` even if a step fails.
    RunPoststop { run: u64, app: Arc<App>, exit: Exit },
    /// Stop the steps in progress. Does nothing if there are none.
    CancelHooks,
    /// Start the program, and answer with `Spawned` or `SpawnFailed`.
    Spawn { run: u64, app: Arc<App> },
    /// Probe once, and answer with `ProbePassed` or `ProbeFailed`.
    Probe { run: u64, app: Arc<App>, kind: ProbeKind },
    /// Stop the probe in progress, without an answer. Does nothing if there is none.
    CancelProbe,
    /// Look for traces of what ended the app, and answer with `TracesFound`.
    FindTraces { run: u64, app: Arc<App> },
    /// Add up the tree's resident memory, and answer with `Measured`.
    Measure { run: u64 },
    /// Signal the leader.
    Signal { pid: Pid, signal: i32 },
    /// Ask the leader, a browser, to close over its DevTools port, and signal it if that fails.
    CloseBrowser { run: u64, pid: Pid, app: Arc<App> },
    /// The leader is gone: send TERM to the rest of its tree, and report when the tree is empty. `stop.signal` is not
    /// used here, because background jobs of a shell ignore INT.
    StopRest { run: u64 },
    /// Kill the rest of the tree, and report when it is empty.
    Sweep { run: u64 },
    /// Send `Fired` after this time. Replaces a timer of the same kind.
    Arm { run: u64, timer: Timer, after: Duration },
    /// Cancel this timer. Does nothing if it is not armed.
    Disarm(Timer),
    /// Drain and exit with this code.
    EndSession { code: u8 },
    /// Tell clients and the log.
    Report(Report),
}

/// A report for clients, logs and metrics.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// A new process was spawned.
    Launched { run: u64, pid: Pid },
    /// A process that was already alive was adopted as the app.
    Adopted { run: u64, pid: Pid },
    /// The state changed. `pid` is the leader, if there is one.
    Entered { run: u64, from: StateName, to: StateName, pid: Option<Pid> },
    /// A run ended without a request, and its tree is gone. `next` is `None` if a request decided what follows.
    Crashed { run: u64, end: RunEnd, next: Option<Decision> },
    /// The app has failed many times in a row and needs attention.
    CrashLooping { run: u64, attempt: u32 },
}

/// The inputs of one event besides the event itself, and the list that collects its effects.
pub struct Context<'a> {
    /// Since the machine was booted.
    pub now: Duration,
    /// A random number in 0..1, for jitter.
    pub chance: f64,
    /// An app named in `after` is not as it demands.
    pub blocked: bool,
    /// An app that follows this one is not down. It ends before this one does.
    pub followed: bool,
    /// The session is being killed: no steps around a stop run any more.
    pub hurried: bool,
    /// Effects are appended to this, in the order in which they must be performed.
    pub effects: &'a mut Vec<AppEffect>,
}

impl Context<'_> {
    pub(super) fn push(&mut self, effect: AppEffect) {
        self.effects.push(effect);
    }

    pub(super) fn arm(&mut self, run: u64, timer: Timer, after: Duration) {
        self.push(AppEffect::Arm { run, timer, after });
    }

    pub(super) fn disarm(&mut self, timer: Timer) {
        self.push(AppEffect::Disarm(timer));
    }

    pub(super) fn report(&mut self, report: Report) {
        self.push(AppEffect::Report(report));
    }
}
