//! The public view of a state: its name, its leader, and a short text with details.

use super::parts::{Pid, Then};
use super::{State, StopReason};
use crate::model::protocol::StateName;

impl State {
    /// The name that users see. All phases of a start share one name.
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
            State::Poststop { then: Then::Crashed(_) } => StateName::Crashed,
            State::StoppingFollowers { .. }
            | State::Prestop { .. }
            | State::Stopping { .. }
            | State::Poststop { .. } => StateName::Stopping,
            State::GaveUp { .. } => StateName::GaveUp,
        }
    }

    /// The tree's leader, while it is alive.
    pub fn pid(&self) -> Option<Pid> {
        match self {
            State::Probing { pid, .. }
            | State::Running { pid, .. }
            | State::StoppingFollowers { pid, .. }
            | State::Prestop { pid, .. } => Some(*pid),
            State::Stopping { pid, .. } => *pid,
            _ => None,
        }
    }

    /// The app has a live leader that nobody is ending, or may have one of an earlier supervisor.
    pub fn is_led(&self) -> bool {
        matches!(self, State::Resuming { .. } | State::Probing { .. } | State::Running { .. })
    }

    /// The app is starting or running.
    pub fn is_up(&self) -> bool {
        matches!(self.name(), StateName::Starting | StateName::Running)
    }

    /// The app is about to be up, so apps with this one in `after` wait.
    pub fn on_its_way(&self) -> bool {
        match self {
            State::StoppingFollowers { .. }
            | State::Prestop { .. }
            | State::Stopping { .. }
            | State::Poststop { .. } => self.stop_reason().is_none(),
            _ => matches!(self.name(), StateName::Starting | StateName::Crashed | StateName::Backoff),
        }
    }

    /// A stop by an operator, the manifest or a drain is in progress.
    pub fn stop_asked(&self) -> bool {
        self.stop_reason().is_some() && !self.at_rest()
    }

    /// A process of the app is alive or about to be, or may be alive since an earlier supervisor.
    pub fn may_have_processes(&self) -> bool {
        match self {
            State::Stopped { .. }
            | State::GaveUp { .. }
            | State::Backoff { .. }
            | State::Waiting { .. }
            | State::Looking { .. }
            | State::Clearing { .. }
            | State::Hooks { .. } => false,
            State::Resuming { .. }
            | State::LookingAgain { .. }
            | State::Spawning { .. }
            | State::Probing { .. }
            | State::Running { .. }
            | State::Succeeding { .. }
            | State::Sweeping { .. }
            | State::Judging { .. }
            | State::StoppingFollowers { .. }
            | State::Prestop { .. }
            | State::Stopping { .. }
            | State::Poststop { .. } => true,
        }
    }

    /// No process is alive, and only a request starts one.
    pub fn at_rest(&self) -> bool {
        matches!(self, State::Stopped { .. } | State::GaveUp { .. })
    }

    /// Why the app is down, or about to be.
    pub fn stop_reason(&self) -> Option<StopReason> {
        match self {
            State::Stopped { why, .. }
            | State::StoppingFollowers { then: Then::Stopped(why), .. }
            | State::Prestop { then: Then::Stopped(why), .. }
            | State::Stopping { then: Then::Stopped(why), .. }
            | State::Poststop { then: Then::Stopped(why) } => Some(*why),
            _ => None,
        }
    }

    /// Details that the name of the state does not give, as text.
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
            State::StoppingFollowers { .. } => "waiting for others to stop".into(),
            State::Prestop { .. } => "prestop".into(),
            State::Poststop { .. } => "poststop".into(),
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
