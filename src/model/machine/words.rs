//! The machine's words: what it is told ([`Event`]), what it says ([`Effect`], [`Report`]) and what its states
//! hold. No behaviour but the words people read.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::kept::{Kept, Posture};
use crate::model::app::App;
use crate::model::exit::Exit;
use crate::model::manifest::restart::Verdict;
use crate::model::plan::Change;
use crate::model::protocol::StateName;

/// Process id of a tree's leader.
pub type Pid = i32;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Somebody wants it up.
    StartAsked,
    /// Somebody wants it down.
    StopAsked(Why),
    /// Somebody wants it down and up again.
    RestartAsked,
    /// Somebody wants this action of the manifest done: down, its steps, up again.
    ActionAsked(String),
    /// The manifest changed.
    Changed(Arc<App>, Change),
    /// An earlier supervisor knew this of it.
    Resumed(Box<Kept>),
    /// The apps named in `after` are up, or not on their way any more.
    Unblocked,
    HooksDone {
        run: u64,
    },
    HookFailed {
        run: u64,
        why: String,
    },
    /// The look-up found the app alive; it is watched from now on.
    Found {
        run: u64,
        pid: Pid,
    },
    /// Nothing of it is alive.
    NotFound {
        run: u64,
    },
    /// No leader, but something of its tree is alive.
    Remains {
        run: u64,
    },
    Spawned {
        run: u64,
        pid: Pid,
    },
    SpawnFailed {
        run: u64,
        why: String,
    },
    ProbePassed {
        run: u64,
    },
    ProbeFailed {
        run: u64,
        why: String,
    },
    /// The leader is gone. `peak` is its peak resident memory in bytes, where known.
    Exited {
        run: u64,
        exit: Exit,
        peak: Option<u64>,
    },
    /// Nothing of the app's tree is left.
    TreeEmpty {
        run: u64,
    },
    /// The tree's resident memory in bytes.
    Measured {
        run: u64,
        bytes: u64,
    },
    Fired {
        run: u64,
        timer: Timer,
    },
}

/// One per app and kind; arming again replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Timer {
    /// The wait of `Backoff` is over.
    Retry,
    /// Ask the ready probe again.
    ReadyPoll,
    /// `ready.within` is over.
    ReadyWithin,
    /// Ask the health probe.
    Health,
    /// Measure the tree's memory.
    Memory,
    /// `stop.grace` is over.
    Grace,
    /// Look once more for the successor of a launcher.
    LookAgain,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
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
    Measure {
        run: u64,
    },
    /// Signal the leader.
    Signal {
        pid: Pid,
        signal: i32,
    },
    /// The leader is gone: ask the rest of its tree to terminate, and say when it is empty. Not with the
    /// app's own signal: what a shell runs in the background ignores INT.
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeKind {
    Ready,
    Health,
}

/// What people, logs and dashboards are told.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// A real spawn.
    Launched {
        run: u64,
        pid: Pid,
    },
    Adopted {
        run: u64,
        pid: Pid,
    },
    /// Another state; `pid` of the leader, where there is one.
    Entered {
        run: u64,
        from: StateName,
        to: StateName,
        pid: Option<Pid>,
    },
    /// The tree of a run nobody asked to end is gone.
    Crashed {
        run: u64,
        pid: Option<Pid>,
        exit: Exit,
        lived: Option<Duration>,
        peak: Option<u64>,
        verdict: Verdict,
    },
}

/// Why a stopped app is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Why {
    /// Nobody asked for it yet (`autostart` is off, or the session is still being staged).
    NotStarted,
    /// Its manifest says so.
    Disabled,
    /// An operator stopped it.
    Held,
    /// The person at the desktop closed it, and `on_close` is `Hold`.
    Closed,
    /// It ended, and `restart` says that was all.
    Done,
    /// Its manifest is gone.
    Removed,
    /// The session ends.
    Draining,
}

impl Why {
    pub fn words(self) -> &'static str {
        match self {
            Why::NotStarted => "not started",
            Why::Disabled => "disabled",
            Why::Held => "stopped by hand",
            Why::Closed => "closed",
            Why::Done => "done",
            Why::Removed => "manifest removed",
            Why::Draining => "session ends",
        }
    }
}

/// How far a start has come.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// Just entered.
    New,
    /// Looking for what an earlier supervisor has left, to go on as it would have.
    Resuming(Box<Posture>),
    /// For the apps in `after`.
    Waiting,
    /// Looking for a live copy, before any hook.
    Looking,
    /// Killing what an earlier supervisor's run has left.
    Clearing,
    Hooks,
    /// Looking again: somebody may have started it by hand while the hooks ran.
    LookingAgain,
    Spawning,
    /// Alive; the ready probe is asked until it passes. `said` is its last complaint.
    Probing {
        adopted: bool,
        said: String,
    },
}

/// What comes when the tree is empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Then {
    Stopped(Why),
    /// Start again, with this action's steps before the hooks.
    Start {
        action: Option<String>,
    },
    /// It was stopped because it failed.
    Crashed {
        exit: Exit,
        lived: Option<Duration>,
    },
}
