//! Waits for half-started apps. A supervisor that is killed while it starts an app leaves a copy of itself that has not
//! called exec yet. Until then the copy carries no marks: a look-up would not find it, and the app would be started
//! twice. So a new supervisor waits until no such copy exists.

use std::time::{Duration, Instant};

use super::sight::is_kasm_void;
use crate::host::marks;
use crate::host::proc::{self, Pid, Process};

/// The longest wait. Only a dead disk makes an exec take longer.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(1);

pub(super) fn wait() {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let guard = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    let half_born = |process: &Process| {
        if process.pid == own || process.zombie || !is_kasm_void(process.pid) {
            return false;
        }
        if Some(process.parent) == guard && is_hidden_copy(process) {
            return true;
        }
        let environment = proc::environment(process.pid);
        let named = proc::variable(&environment, marks::GUARD).and_then(|pid| pid.parse().ok());
        let may_be = named.is_some_and(|named| may_be_of_ours(named, process.parent, guard));
        may_be && proc::variable(&environment, marks::APP).is_none() && !is_supervisor(process)
    };
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end && proc::table().processes.iter().any(half_born) {
        std::thread::sleep(PAUSE);
    }
}

/// Whether this is a supervisor and not a copy of one. A guard starts its supervisor as the leader of a process group
/// in the guard's own session. A copy leads its own session, or leads no group yet.
fn is_supervisor(process: &Process) -> bool {
    process.group == process.pid && process.session != process.pid
}

/// Whether this orphan is a copy of a supervisor of our session. A supervisor hides its environment, and so does a copy
/// that still shares its memory. But the command line can be read, and it is ours.
fn is_hidden_copy(process: &Process) -> bool {
    let own = std::process::id() as Pid;
    !is_supervisor(process) && proc::command_line(process.pid) == proc::command_line(own)
}

/// Whether a supervisor, or a copy of one, may belong to this session. `named` is the guard in its environment. A child
/// of another guard is the supervisor of another session.
fn may_be_of_ours(named: Pid, parent: Pid, guard: Option<Pid>) -> bool {
    Some(named) == guard || named != parent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_supervisor_of_another_session_is_not_waited_for() {
        let ours = Some(10);
        assert!(may_be_of_ours(10, 10, ours), "left by the supervisor before us");
        assert!(may_be_of_ours(20, 1, ours), "its guard has died with it");
        assert!(!may_be_of_ours(20, 20, ours), "another guard has a supervisor");
    }
}
