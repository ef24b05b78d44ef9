//! Waits for half-started apps. A supervisor that is killed while it starts an app leaves a copy of itself that has not
//! called exec yet. Until then the copy carries no marks: a look-up would not find it, and the app would be started
//! twice. So a new supervisor waits until no such copy exists.

use std::time::{Duration, Instant};

use super::sight::is_kasm_void;
use crate::host::marks;
use crate::host::proc::{self, Process};
use crate::model::tree::Table;

/// The longest wait. Only a dead disk makes an exec take longer.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(1);

/// Waits, and returns the process table of the last look.
pub(super) fn wait() -> Table {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let end = Instant::now() + PATIENCE;
    loop {
        let mut named = Vec::new();
        let table = proc::table_with(|process, name| {
            if name.as_bytes() == marks::SUPERVISOR_NAME.to_bytes() && process.pid != own && !process.zombie {
                named.push(*process);
            }
        });
        if Instant::now() >= end || !orphans(&named).any(|copy| is_kasm_void(copy.pid)) {
            return table;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Copies whose supervisor has died, among the processes with a supervisor's name. A copy of one that lives is its own
/// affair: it belongs to another session.
fn orphans(named: &[Process]) -> impl Iterator<Item = &Process> {
    let is_orphan = |copy: &&Process| named.iter().all(|other| other.pid != copy.parent);
    named.iter().filter(|process| !is_supervisor(process)).filter(is_orphan)
}

/// Whether this is a supervisor and not a copy of one. A guard starts its supervisor as the leader of a process group
/// in the guard's own session. A copy leads its own session, or leads no group yet.
fn is_supervisor(process: &Process) -> bool {
    process.group == process.pid && process.session != process.pid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_copy_of_a_dead_supervisor_is_waited_for() {
        let process = |pid, parent, group, session| Process {
            pid,
            parent,
            group,
            session,
            started: 1,
            zombie: false,
            signallable: true,
        };
        let of_another_session = [process(20, 19, 20, 19), process(21, 20, 20, 19), process(22, 20, 22, 22)];
        assert_eq!(orphans(&of_another_session).count(), 0);
        let (before_its_session, in_it) = (process(31, 10, 30, 10), process(32, 1, 32, 32));
        let all = [of_another_session.as_slice(), &[before_its_session, in_it]].concat();
        assert_eq!(orphans(&all).copied().collect::<Vec<_>>(), [before_its_session, in_it]);
    }
}
