//! The data of an app that outlives its supervisor. Owns the format; `daemon::state` writes it to disk, and `resume`
//! restores an app from it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::parts::{Pid, RunEnd, StopReason, Then};
use crate::model::exit::Exit;
use crate::model::manifest::restart::History;

/// The last known state of one app. Times are from a clock that all supervisors since boot share.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SavedApp {
    /// Number of the latest start.
    pub run: u64,
    /// Starts that followed an exit without a request.
    pub restarts: u64,
    /// The program of this run was started, and `poststop` has not been run for it.
    #[serde(default)]
    pub launched: bool,
    /// How the last run ended.
    pub last_exit: Option<Exit>,
    /// `enabled` of the manifest at that time. A disabled app that was started by hand keeps running.
    pub enabled: bool,
    /// The memory of the restart policy.
    pub history: History,
    /// Identifies the program that a running app was started with.
    pub program: u64,
    /// Where to continue.
    pub state: SavedState,
}

/// The saved form of a state. An unfinished start is repeated; for a live process there is a look-up.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SavedState {
    /// Down, for this reason.
    Stopped(StopReason),
    /// Down after this exit: the policy had given up.
    GaveUp(Exit),
    /// Waiting for the next start.
    Backoff { attempt: u32, since: Duration, until: Duration },
    /// Not spawned yet, as far as the supervisor knew.
    Starting { action: Option<String> },
    /// The leader was alive. `since` is when the app became ready, if it had.
    Up { pid: Pid, since: Option<Duration> },
    /// The leader was gone, and the rest of the tree was being ended.
    Ended(RunEnd),
    /// The tree was being ended on request.
    Stopping { pid: Option<Pid>, then: Then },
}

impl SavedState {
    /// The session goes on, and there is a manifest. If the app was stopped only because the session ended or the
    /// manifest forbade it, that counts no more.
    pub fn undo_stop(&mut self, enabled: bool) {
        use StopReason::{Disabled, Draining, Removed};
        match self {
            SavedState::Stopped(why @ Draining) => *why = StopReason::NotStarted,
            SavedState::Stopping { then: then @ Then::Stopped(Draining | Removed | Disabled), .. } if enabled => {
                *then = Then::Start { action: None };
            }
            _ => {}
        }
    }

    /// Whether the next supervisor looks for a live process and goes on with whatever it finds.
    pub fn is_sought(&self) -> bool {
        match self {
            SavedState::Starting { .. } | SavedState::Up { .. } | SavedState::Ended(_) => true,
            SavedState::Stopped(_)
            | SavedState::GaveUp(_)
            | SavedState::Backoff { .. }
            | SavedState::Stopping { .. } => false,
        }
    }

    /// The leader to look for.
    pub fn pid(&self) -> Option<Pid> {
        match self {
            SavedState::Up { pid, .. } => Some(*pid),
            SavedState::Stopping { pid, .. } => *pid,
            _ => None,
        }
    }
}
