//! The variables with which we mark the environment of what we start, so that its app can be told later. Owns their
//! names and their form; `model::tree` says what they mean.

use super::proc::{self, Pid};
use crate::model::tree::{Marks, Place};

/// In every process of an app: `NAME:RUN`.
pub const APP: &str = "KASM_VOID_APP";
/// The state folder of its session.
pub const STATE: &str = "KASM_VOID_STATE";
/// Which of several folders with that path, and in which container.
pub const PLACE: &str = "KASM_VOID_PLACE";
/// The pid of the process that was started with these marks, which tells it from those that inherited them.
pub const LEADER: &str = "KASM_VOID_LEADER";
/// In hooks and probes, and in what they start.
pub const HOOK: &str = "KASM_VOID_HOOK";
/// In a supervisor: the pid of its guard.
pub const GUARD: &str = "KASM_VOID_GUARD";

/// What an app must not inherit from us.
pub const ALL: [&str; 6] = [APP, STATE, PLACE, LEADER, HOOK, GUARD];

/// `NAME=value` for a process of this app in this run. The child itself adds [`LEADER`].
pub fn entries(app: &str, run: u64, hook: bool, place: &Place) -> Vec<String> {
    let mut entries =
        vec![format!("{APP}={app}:{run}"), format!("{STATE}={}", place.state), format!("{PLACE}={}", place.text())];
    if hook {
        entries.push(format!("{HOOK}=1"));
    }
    entries
}

/// The marks of a live process. None of them if its environment cannot be read, or was overwritten.
pub fn of(pid: Pid) -> Marks {
    let environment = proc::environment(pid);
    let variable = |name| proc::variable(&environment, name);
    let Some(app) = variable(APP) else { return Marks::default() };
    Marks {
        app: app.rsplit_once(':').map(|(name, _)| name.into()),
        state: variable(STATE),
        place: variable(PLACE),
        leader: variable(LEADER).and_then(|pid| pid.parse().ok()),
        hook: variable(HOOK).is_some(),
    }
}
