//! How a state looks from outside: its name, its leader, and the rest in words.

use super::parts::{Pid, Then};
use super::{State, StopReason};
use crate::model::protocol::StateName;

impl State {
    /// The name that people see; the phases of a start share one.
    pub fn name(&self) -> StateName {
        match self {
            State::Stopped { .. } => StateName::Stopped,
            State::Resuming { .. }
            | State::Waiting { .. }
            | State::Looking { .. }
            | State::Clearing { .. }
            | State::Hooks { .. }
            | State::LookingAgain { .. }
            | State::Spawning { .. }
            | State::Probing { .. } => StateName::Starting,
            State::Running { .. } => StateName::Running,
            State::Succeeding { .. } | State::Sweeping { .. } | State::Judging { .. } => StateName::Crashed,
            State::Backoff { .. } => StateName::Backoff,
            State::Stopping { .. } => StateName::Stopping,
            State::GaveUp { .. } => StateName::GaveUp,
        }
    }

    /// The tree's leader, while it is alive.
    pub fn pid(&self) -> Option<Pid> {
        match self {
            State::Probing { pid, .. } | State::Running { pid, .. } => Some(*pid),
            State::Stopping { pid, .. } => *pid,
            _ => None,
        }
    }

    /// It is being started, or running.
    pub fn is_up(&self) -> bool {
        matches!(self.name(), StateName::Starting | StateName::Running)
    }

    /// It is coming up: apps that are started `after` it wait.
    pub fn on_its_way(&self) -> bool {
        match self {
            State::Stopping { then, .. } => !matches!(then, Then::Stopped(_)),
            _ => matches!(self.name(), StateName::Starting | StateName::Crashed | StateName::Backoff),
        }
    }

    /// An operator, the manifest or the drain wants it down, and it is not yet.
    pub fn stop_asked(&self) -> bool {
        matches!(self, State::Stopping { then: Then::Stopped(_), .. })
    }

    /// Nothing of it is alive, and nothing will be without a request.
    pub fn at_rest(&self) -> bool {
        matches!(self, State::Stopped { .. } | State::GaveUp { .. })
    }

    /// Why it is down, or will be.
    pub fn stop_reason(&self) -> Option<StopReason> {
        match self {
            State::Stopped { why, .. } | State::Stopping { then: Then::Stopped(why), .. } => Some(*why),
            _ => None,
        }
    }

    /// What the name of the state leaves open, in words.
    pub fn detail(&self) -> String {
        match self {
            State::Stopped { why, .. } => why.text().into(),
            State::Waiting { .. } => "waiting for others".into(),
            State::Hooks { .. } => "hooks".into(),
            State::Clearing { .. } => "ending an earlier run".into(),
            State::Probing { said, .. } if said.is_empty() => "not ready yet".into(),
            State::Probing { said, .. } => format!("not ready yet: {said}"),
            State::Backoff { attempt, .. } => format!("retry {attempt}"),
            State::Succeeding { end, .. } | State::Sweeping { end } | State::Judging { end } => end.exit.to_string(),
            State::GaveUp { exit } => exit.to_string(),
            State::Stopping { then: Then::Start { .. }, .. } => "to start again".into(),
            State::Stopping { then: Then::Crashed(end), .. } => end.exit.to_string(),
            State::Resuming { .. }
            | State::Looking { .. }
            | State::LookingAgain { .. }
            | State::Spawning { .. }
            | State::Running { .. }
            | State::Stopping { .. } => String::new(),
        }
    }
}
