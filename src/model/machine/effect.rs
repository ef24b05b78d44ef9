//! What the machine wants done, and what people are to be told; and the context that collects both.

use std::sync::Arc;
use std::time::Duration;

use super::parts::{Pid, ProbeKind, RunEnd, Timer};
use crate::model::app::App;
use crate::model::manifest::restart::Decision;
use crate::model::protocol::StateName;

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum AppEffect {
    /// Is it alive already? By its match pattern and, with `by_cookie`, by what an earlier supervisor left.
    LookUp {
        run: u64,
        app: Arc<App>,
        by_cookie: bool,
    },
    /// Run the action's steps, if one is named, then `prelaunch`.
    RunHooks {
        run: u64,
        app: Arc<App>,
        action: Option<String>,
    },
    /// Run `postlaunch`; nobody waits for it.
    RunPostlaunch {
        run: u64,
        app: Arc<App>,
    },
    CancelHooks,
    Spawn {
        run: u64,
        app: Arc<App>,
    },
    Probe {
        run: u64,
        app: Arc<App>,
        kind: ProbeKind,
    },
    CancelProbe,
    /// Does the app's display accept clients?
    AskDisplay {
        run: u64,
        app: Arc<App>,
    },
    Measure {
        run: u64,
    },
    /// Signal the leader.
    Signal {
        pid: Pid,
        signal: i32,
    },
    /// Ask the leader, a browser, to close over its DevTools port, and signal it if that fails.
    CloseBrowser {
        run: u64,
        pid: Pid,
        app: Arc<App>,
    },
    /// The leader is gone: ask the rest of its tree to terminate, and say when it is empty. Not with the app's own
    /// signal, because what a shell runs in the background ignores INT.
    StopRest {
        run: u64,
    },
    /// Kill what is left of the tree, and say when it is empty.
    Sweep {
        run: u64,
    },
    Arm {
        run: u64,
        timer: Timer,
        after: Duration,
    },
    Disarm(Timer),
    /// Drain and exit with this code.
    EndSession {
        code: u8,
    },
    Report(Report),
}

/// What people, logs and dashboards are told.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// A real spawn.
    Launched { run: u64, pid: Pid },
    /// A live process was taken for the app.
    Adopted { run: u64, pid: Pid },
    /// Another state; `pid` of the leader, where there is one.
    Entered { run: u64, from: StateName, to: StateName, pid: Option<Pid> },
    /// The tree of a run nobody asked to end is gone. `next` is `None` when a request came first and decides.
    Crashed { run: u64, end: RunEnd, next: Option<Decision> },
    /// The app has failed so many times in a row that somebody should look.
    CrashLooping { run: u64, attempt: u32 },
}

/// Where effects go, and what the machine may know of the world at this moment.
pub struct Context<'a> {
    /// Since the machine was booted.
    pub now: Duration,
    /// A random number in 0..1, for jitter.
    pub chance: f64,
    /// An app named in `after` is still on its way up.
    pub blocked: bool,
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
