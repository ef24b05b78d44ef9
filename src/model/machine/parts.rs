//! Small types shared by states, events, effects and saved data. No behaviour.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::exit::Exit;
pub use crate::model::tree::Pid;

/// An app has at most one timer of each kind. Arming it again replaces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Timer {
    /// The wait of `Backoff` is over.
    Retry,
    /// Run the ready probe again.
    ReadyPoll,
    /// `ready.within` is over.
    ReadyWithin,
    /// Run the health probe.
    Health,
    /// Measure the tree's memory.
    Memory,
    /// The leader has not obeyed `stop.signal`: send TERM.
    Insist,
    /// `stop.grace` is over.
    Grace,
    /// The processes that outlived the leader are still there: kill them.
    Helpers,
    /// Look once more for the leader's successor.
    LookAgain,
    /// The app has been up long enough for clients that wait for its start. Concerns no state of the app.
    Settled,
}

/// Which of the two probes of a manifest is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeKind {
    /// `ready`: decides when a start is done.
    Ready,
    /// `health`: repeated while the app runs.
    Health,
}

/// Why a stopped app is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StopReason {
    /// It was never started: `autostart` is off, or the session is still being staged.
    NotStarted,
    /// Its manifest disables it.
    Disabled,
    /// An operator stopped it.
    Held,
    /// The person at the desktop closed it, and `on_close` is `Hold`.
    Closed,
    /// It ended, and `restart` does not start it again.
    Done,
    /// Its manifest is gone.
    Removed,
    /// The session is ending.
    Draining,
}

impl StopReason {
    /// As `status` shows it.
    pub fn text(self) -> &'static str {
        match self {
            StopReason::NotStarted => "not started",
            StopReason::Disabled => "disabled",
            StopReason::Held => "by hand",
            StopReason::Closed => "window closed",
            StopReason::Done => "done",
            StopReason::Removed => "manifest removed",
            StopReason::Draining => "session ends",
        }
    }
}

/// How a run ended, kept until the policy decides what follows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RunEnd {
    /// The leader, if there was one.
    pub pid: Option<Pid>,
    /// How it ended.
    pub exit: Exit,
    /// When the leader ended.
    pub at: Duration,
    /// How long the app had been ready; `None` if it never was.
    pub lived: Option<Duration>,
    /// Peak resident memory of the leader in bytes.
    pub peak: Option<u64>,
    /// The leader exited with 0 and left processes behind, but none of them was recognised as the app.
    pub daemonised: bool,
}

impl RunEnd {
    /// A run that failed before the app was ready.
    pub fn unready(pid: Option<Pid>, exit: Exit, at: Duration) -> Self {
        RunEnd { pid, exit, at, lived: None, peak: None, daemonised: false }
    }
}

/// The next step once the tree is empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Then {
    /// Stay down, for this reason.
    Stopped(StopReason),
    /// Start again. Run the steps of this action before the hooks.
    Start {
        /// A name from the manifest's `actions`.
        action: Option<String>,
    },
    /// It was stopped because it failed.
    Crashed(RunEnd),
}
