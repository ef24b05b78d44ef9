//! What the machine is told.

use std::sync::Arc;

use super::parts::{Pid, StopReason, Timer};
use super::saved::SavedApp;
use crate::model::app::App;
use crate::model::exit::Exit;
use crate::model::plan::Change;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Somebody wants it up.
    StartAsked,
    /// Somebody wants it down.
    StopAsked(StopReason),
    /// Somebody wants it down and up again.
    RestartAsked,
    /// Somebody wants this action of the manifest done: down, its steps, up again.
    ActionAsked(String),
    /// Somebody sends its leader this signal.
    SignalAsked(i32),
    /// The manifest changed.
    Changed(Arc<App>, Change),
    /// An earlier supervisor knew this of it.
    Resumed(Box<SavedApp>),
    /// The apps named in `after` are up, or not on their way any more.
    Unblocked,
    /// An app named in `after` has ended.
    DependencyEnded,
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
    /// Whether the app's display accepts clients, or the app has none.
    DisplayAnswered {
        run: u64,
        there: bool,
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

impl Event {
    /// The run that it belongs to; `None`: it concerns the app, whatever its run.
    pub fn run(&self) -> Option<u64> {
        match self {
            Event::StartAsked
            | Event::StopAsked(_)
            | Event::RestartAsked
            | Event::ActionAsked(_)
            | Event::SignalAsked(_)
            | Event::Changed(..)
            | Event::Resumed(_)
            | Event::Unblocked
            | Event::DependencyEnded => None,
            Event::HooksDone { run }
            | Event::HookFailed { run, .. }
            | Event::Found { run, .. }
            | Event::NotFound { run }
            | Event::Remains { run }
            | Event::Spawned { run, .. }
            | Event::SpawnFailed { run, .. }
            | Event::ProbePassed { run }
            | Event::ProbeFailed { run, .. }
            | Event::DisplayAnswered { run, .. }
            | Event::Exited { run, .. }
            | Event::TreeEmpty { run }
            | Event::Measured { run, .. }
            | Event::Fired { run, .. } => Some(*run),
        }
    }
}
