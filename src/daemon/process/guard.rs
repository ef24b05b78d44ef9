//! The conversation with the guard: it outlives us, and it alone learns how processes ended that were an earlier
//! supervisor's children. Owns what it has said; must not decide what that means.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::host::link::{Heard, Line};
use crate::host::proc::{Leader, Pid};
use crate::host::sys::Ended;
use crate::model::guard::{ChildExit, ToGuard, ToSupervisor};

/// What it means that the guard has died.
pub const UNGUARDED: &str =
    "the guard has died while the session is ending: should the supervisor die too, nobody starts it again";

/// The guard says at once how its children ended. One that is stopped is not waited for longer than this.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a message waits for room on the line.
const FOR_ROOM: Duration = Duration::from_millis(100);

/// The process that outlives us and is left our children.
pub struct Guard {
    line: Line,
    pub(super) pid: Pid,
    /// Ends of processes that we have not looked for yet. `None` once all have been looked for.
    told: Option<Vec<ChildExit>>,
    /// Watched processes that have ended and whose status is still to come, with the moment we stop waiting for it.
    owed: Vec<(Instant, Pid)>,
    /// What it was told last about the session.
    stop_budget: Option<Duration>,
    draining: Option<u8>,
}

impl Guard {
    /// `told`: how processes ended that an earlier supervisor left.
    pub fn new(line: Line, told: Vec<ChildExit>) -> Guard {
        let pid = rustix::process::getppid().map_or(1, |pid| pid.as_raw_nonzero().get());
        Guard { line, pid, told: Some(told), owed: Vec::new(), stop_budget: None, draining: None }
    }

    pub(super) fn wakes(&self) -> io::Result<OwnedFd> {
        self.line.try_clone()
    }

    /// A message that it does not take in time is dropped: it only matters if we die. It takes them at once unless it is
    /// stopped, but a thousand at a time do not fit on the line.
    pub(super) fn tell(&self, message: &ToGuard, fd: Option<BorrowedFd<'_>>) {
        let no_room =
            |sent: &io::Result<()>| sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        if no_room(&self.line.send(message, fd)) {
            self.line.wait_for_room(FOR_ROOM);
            let _ = self.line.send(message, fd);
        }
    }

    /// Tells how long a drain may take and whether one has begun, when that has changed.
    pub(super) fn tell_of_session(&mut self, stop_budget: Duration, draining: Option<u8>) {
        if self.stop_budget.replace(stop_budget) != Some(stop_budget) {
            self.tell(&ToGuard::StopBudget(stop_budget), None);
        }
        if let Some(code) = draining
            && self.draining.replace(code) != Some(code)
        {
            self.tell(&ToGuard::Draining(code), None);
        }
    }

    /// The next end that it tells of. `Ok(None)`: nothing more for now.
    pub(super) fn hear(&mut self) -> Result<Option<ChildExit>, Gone> {
        loop {
            match self.line.hear::<ToSupervisor>() {
                Ok(Heard::Message(ToSupervisor::Exited(exit), _)) => return Ok(Some(exit)),
                Ok(Heard::Message(..)) => {}
                Ok(Heard::Nothing) => return Ok(None),
                Ok(Heard::Closed) | Err(_) => return Err(Gone),
            }
        }
    }

    /// Remembers an end for a look-up that is still to come.
    pub(super) fn keep(&mut self, exit: ChildExit) {
        if let Some(told) = &mut self.told {
            told.push(exit);
        }
    }

    /// How this process ended, if the guard has said so.
    pub(super) fn end_of(&self, leader: Leader) -> Option<Ended> {
        let is_it = |exit: &&ChildExit| (exit.pid, exit.started) == (leader.pid, leader.started);
        self.told.as_ref()?.iter().find(is_it).map(as_ended)
    }

    /// All manifests have been looked at, so nobody asks for earlier ends any more.
    pub(super) fn all_looked_for(&mut self) {
        self.told = None;
    }

    /// It will say how this process ended.
    pub(super) fn owes(&mut self, pid: Pid) {
        self.owed.push((Instant::now() + PATIENCE, pid));
    }

    pub(super) fn is_owed(&self, pid: Pid) -> bool {
        self.owed.iter().any(|(_, owed)| *owed == pid)
    }

    pub(super) fn paid(&mut self, pid: Pid) {
        self.owed.retain(|(_, owed)| *owed != pid);
    }

    /// Those that it should have told of by now.
    pub(super) fn overdue(&self, now: Instant) -> Vec<Pid> {
        self.owed.iter().filter(|(until, _)| *until <= now).map(|(_, pid)| *pid).collect()
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.owed.iter().map(|(until, _)| *until).min()
    }

    /// It is gone: whose status it still owed.
    pub(super) fn debts(self) -> Vec<Pid> {
        self.owed.into_iter().map(|(_, pid)| pid).collect()
    }
}

/// As we would have learned it ourselves.
pub(super) fn as_ended(exit: &ChildExit) -> Ended {
    Ended { pid: exit.pid, status: exit.status, peak: exit.peak }
}

/// The guard has died.
pub(super) struct Gone;
