//! What of an app outlives its supervisor. Owns the form; `daemon::state` writes it down, and `resume` goes on from
//! there.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::parts::{Pid, RunEnd, StopReason, Then};
use crate::model::exit::Exit;
use crate::model::manifest::restart::History;

/// One app as its supervisor last knew it. Times are those of the clock that all supervisors since boot share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedApp {
    pub run: u64,
    pub restarts: u64,
    pub last_exit: Option<Exit>,
    /// What its manifest said. An app that was started by hand although it was disabled goes on.
    pub enabled: bool,
    pub history: History,
    /// Identifies the program that a running app was started with.
    pub program: u64,
    pub state: SavedState,
}

/// Where the app was. What was only being tried is tried again; what lived is looked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum SavedState {
    Stopped(StopReason),
    GaveUp(Exit),
    Backoff {
        attempt: u32,
        since: Duration,
        until: Duration,
    },
    /// Not spawned yet, as far as is known.
    Starting {
        action: Option<String>,
    },
    /// Its leader lived; `since` when it has been ready.
    Up {
        pid: Pid,
        since: Option<Duration>,
    },
    /// Its leader was gone, and the rest of its tree was being cleared.
    Ended(RunEnd),
    Stopping {
        pid: Option<Pid>,
        then: Then,
    },
}

impl SavedState {
    /// The leader to look for.
    pub fn pid(&self) -> Option<Pid> {
        match self {
            SavedState::Up { pid, .. } => Some(*pid),
            SavedState::Stopping { pid, .. } => *pid,
            _ => None,
        }
    }
}
