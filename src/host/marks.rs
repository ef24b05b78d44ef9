//! The variables that mark the environment of what we start, so that its app can be recognised later. Owns their names
//! and format; `model::tree` defines their meaning.

use std::ffi::CStr;

use super::proc::{self, Pid};
use crate::model::tree::{Marks, Place};

/// In every process of an app: `NAME:RUN`.
pub const APP: &str = "KASM_VOID_APP";
/// The state folder of its session.
pub const STATE: &str = "KASM_VOID_STATE";
/// Tells apart folders with the same path, for example in different containers.
pub const PLACE: &str = "KASM_VOID_PLACE";
/// The pid of the process that was started with these marks. It tells that process from those that inherited the marks.
pub const LEADER: &str = "KASM_VOID_LEADER";
/// In hooks and probes, and in the processes they start.
pub const HOOK: &str = "KASM_VOID_HOOK";
/// In a supervisor: the pid of its guard.
pub const GUARD: &str = "KASM_VOID_GUARD";

/// Variables that an app must not inherit from us.
pub const ALL: [&str; 6] = [APP, STATE, PLACE, LEADER, HOOK, GUARD];

/// The name of a guard in the process table, whatever it was executed as.
pub const GUARD_NAME: &CStr = c"kasm-void";
/// The name of a supervisor. Nothing else has it but the children of a supervisor, until they have called exec.
pub const SUPERVISOR_NAME: &CStr = c"kasm-supervisor";

/// `NAME=value` for a process of this app in this run. The child itself adds [`LEADER`].
pub fn entries(app: &str, run: u64, hook: bool, place: &Place) -> Vec<String> {
    let mut entries =
        vec![format!("{APP}={app}:{run}"), format!("{STATE}={}", place.state), format!("{PLACE}={}", place.text())];
    if hook {
        entries.push(format!("{HOOK}=1"));
    }
    entries
}

/// The marks of a live process. Empty if its environment cannot be read, or was overwritten.
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
