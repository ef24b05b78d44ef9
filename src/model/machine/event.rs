//! The events that the machine handles.

use std::sync::Arc;

use super::parts::{Pid, StopReason, Timer};
use super::saved::SavedApp;
use super::traces::Traces;
use crate::model::app::App;
use crate::model::exit::Exit;
use crate::model::plan::Change;

/// What happened.
#[derive(Debug, Clone, PartialEq, Hash)]
#[expect(missing_docs, reason = "the text of each variant names its fields")]
pub enum AppEvent {
    /// A start was requested.
    StartAsked,
    /// A stop was requested.
    StopAsked(StopReason),
    /// A restart was requested.
    RestartAsked,
    /// This action of the manifest was requested: stop, run its steps, start again.
    ActionAsked(String),
    /// A signal to the leader was requested.
    SignalAsked(i32),
    /// The manifest changed.
    Changed(Arc<App>, Change),
    /// An earlier supervisor saved this state.
    Resumed(Box<SavedApp>),
    /// The apps named in `after` are as it demands.
    Unblocked,
    /// An app named in `after` has ended.
    DependencyEnded,
    /// An app that this one follows is no longer as `after` demands.
    DependencyLost,
    /// The apps that follow this one are down.
    FollowersEnded,
    /// All steps before the start have succeeded, or may fail; or the steps around a stop are done.
    HooksDone { run: u64 },
    /// A step before the start has failed.
    HookFailed { run: u64, why: String },
    /// The leader that an earlier supervisor has recorded ended like this, and the app was started again since. `Found`
    /// follows.
    EndedBefore { run: u64, exit: Exit, peak: Option<u64> },
    /// The look-up found the app alive. Its exit will be reported from now on.
    Found { run: u64, pid: Pid },
    /// The look-up found no live process of the app.
    NotFound { run: u64 },
    /// The look-up found no leader, but other processes of the tree are alive.
    Remains { run: u64 },
    /// The program was started.
    Spawned { run: u64, pid: Pid },
    /// The program could not be started.
    SpawnFailed { run: u64, why: String },
    /// The probe in progress has succeeded.
    ProbePassed { run: u64 },
    /// The probe in progress has failed.
    ProbeFailed { run: u64, why: String },
    /// The traces of an end that may be a closed window.
    TracesFound { run: u64, traces: Traces },
    /// The leader is gone. `peak` is its peak resident memory in bytes, if known.
    Exited { run: u64, exit: Exit, peak: Option<u64> },
    /// Nothing of the app's tree is left.
    TreeEmpty { run: u64 },
    /// The tree's resident memory in bytes.
    Measured { run: u64, bytes: u64 },
    /// The time of this timer is over.
    Fired { run: u64, timer: Timer },
}

impl AppEvent {
    /// The run that the event belongs to; `None` if it concerns the app in any run.
    pub fn run(&self) -> Option<u64> {
        match self {
            AppEvent::StartAsked
            | AppEvent::StopAsked(_)
            | AppEvent::RestartAsked
            | AppEvent::ActionAsked(_)
            | AppEvent::SignalAsked(_)
            | AppEvent::Changed(..)
            | AppEvent::Resumed(_)
            | AppEvent::Unblocked
            | AppEvent::DependencyEnded
            | AppEvent::DependencyLost
            | AppEvent::FollowersEnded => None,
            AppEvent::HooksDone { run }
            | AppEvent::HookFailed { run, .. }
            | AppEvent::Found { run, .. }
            | AppEvent::NotFound { run }
            | AppEvent::Remains { run }
            | AppEvent::EndedBefore { run, .. }
            | AppEvent::Spawned { run, .. }
            | AppEvent::SpawnFailed { run, .. }
            | AppEvent::ProbePassed { run }
            | AppEvent::ProbeFailed { run, .. }
            | AppEvent::TracesFound { run, .. }
            | AppEvent::Exited { run, .. }
            | AppEvent::TreeEmpty { run }
            | AppEvent::Measured { run, .. }
            | AppEvent::Fired { run, .. } => Some(*run),
        }
    }
}
