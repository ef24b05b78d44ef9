//! The conversation with the guard. The guard outlives us, and only it learns how an earlier supervisor's children
//! exited. This file stores what the guard has reported; it must not decide what that means.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::host::link::{Heard, Link};
use crate::host::proc::Pid;
use crate::model::exit::ExitRecord;
use crate::model::guard::{ChildExit, ToGuard, ToSupervisor};
use crate::model::ledger::Leader;

/// How long to wait for the guard to report an exit. It does so at once unless it is stopped.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a message waits for room on the line.
const FOR_ROOM: Duration = Duration::from_millis(100);

/// The guard, which outlives us and inherits our children.
pub struct GuardClient {
    line: Link,
    pub(super) pid: Pid,
    /// Exits of processes that have not been looked up yet. `None` once all have been looked up.
    told: Option<Vec<ChildExit>>,
    /// Watched processes that have ended and whose status is not known yet, with the moment we stop waiting for it.
    owed: Vec<(Instant, Pid)>,
}

impl GuardClient {
    /// `told`: the exits of processes that an earlier supervisor left.
    pub fn new(line: Link, told: Vec<ChildExit>) -> GuardClient {
        let pid = rustix::process::getppid().map_or(1, |pid| pid.as_raw_nonzero().get());
        GuardClient { line, pid, told: Some(told), owed: Vec::new() }
    }

    pub(super) fn wakes(&self) -> io::Result<OwnedFd> {
        self.line.try_clone()
    }

    /// Sends a message, or drops it if the guard does not take it in time: it only matters if we die. The guard takes
    /// messages at once unless it is stopped, but the line cannot hold a thousand at a time.
    pub(super) fn tell(&self, message: &ToGuard, fd: Option<BorrowedFd<'_>>) {
        let no_room =
            |sent: &io::Result<()>| sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        if no_room(&self.line.send(message, fd)) {
            self.line.wait_for_room(FOR_ROOM);
            let _ = self.line.send(message, fd);
        }
    }

    /// The next message. `Ok(None)`: nothing more for now.
    pub(super) fn hear(&mut self) -> Result<Option<ToSupervisor>, Gone> {
        match self.line.hear() {
            Ok(Heard::Message(message, _)) => Ok(Some(message)),
            Ok(Heard::Nothing) => Ok(None),
            Ok(Heard::Closed) | Err(_) => Err(Gone),
        }
    }

    /// Stores an exit for a later look-up.
    pub(super) fn keep(&mut self, exit: ChildExit) {
        if let Some(told) = &mut self.told {
            told.push(exit);
        }
    }

    /// How this process exited, if the guard has reported it.
    pub(super) fn end_of(&self, leader: Leader) -> Option<ExitRecord> {
        let is_it = |exit: &&ChildExit| (exit.pid, exit.started) == (leader.pid, leader.started);
        self.told.as_ref()?.iter().find(is_it).map(as_ended)
    }

    /// Call this when all manifests are applied. Earlier exits are not looked up after this.
    pub(super) fn all_looked_for(&mut self) {
        self.told = None;
    }

    /// Expects the guard to report how this process exited.
    pub(super) fn owes(&mut self, pid: Pid) {
        self.owed.push((Instant::now() + PATIENCE, pid));
    }

    pub(super) fn is_owed(&self, pid: Pid) -> bool {
        self.owed.iter().any(|(_, owed)| *owed == pid)
    }

    pub(super) fn paid(&mut self, pid: Pid) {
        self.owed.retain(|(_, owed)| *owed != pid);
    }

    /// The processes whose exit it should have reported by now.
    pub(super) fn overdue(&self, now: Instant) -> Vec<Pid> {
        self.owed.iter().filter(|(until, _)| *until <= now).map(|(_, pid)| *pid).collect()
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.owed.iter().map(|(until, _)| *until).min()
    }

    /// The processes whose exit it had not reported when it died.
    pub(super) fn debts(self) -> Vec<Pid> {
        self.owed.into_iter().map(|(_, pid)| pid).collect()
    }
}

/// Converts the report into the form that our own `wait` gives.
pub(super) fn as_ended(exit: &ChildExit) -> ExitRecord {
    ExitRecord { pid: exit.pid, status: exit.status, peak: exit.peak }
}

/// The guard has died.
pub(super) struct Gone;
