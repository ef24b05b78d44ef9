//! The guard's inputs, and the tasks that it gives to `crate::guard`.

use super::message::{ChildExit, ToGuard};

/// An input of the guard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuardInput {
    /// The session begins. Comes once, and first, except for a signal that came before.
    Began,
    /// The supervisor of [`GuardEffect::Start`] was started.
    Started,
    /// The supervisor could not be started, for this reason.
    NotStarted(String),
    /// The guard received this signal.
    Signalled(i32),
    /// The supervisor sent a message.
    Heard(ToGuard),
    /// The supervisor closed its end of the connection, and all its messages have been read.
    LineClosed,
    /// The supervisor exited with this `wait(2)` status. Comes after all its messages.
    SupervisorExited(i32),
    /// Another child exited.
    ChildExited(ChildExit),
    /// The guard has no children.
    NoChildren,
    /// The time that [`Guard::next_moment`](super::Guard::next_moment) returned has come.
    TimePassed,
}

/// A task for `crate::guard`. Tasks are performed in order, after all messages of [`Guard::unsent`](super::Guard::unsent) are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuardEffect {
    /// Start a supervisor from this binary; `None` means the guard's own.
    Start(Option<Binary>),
    /// Send this signal to the supervisor.
    Forward(i32),
    /// Send KILL to the supervisor: it has missed a deadline.
    KillSupervisor,
    /// Send TERM to every process that descends from the guard.
    TerminateAll,
    /// Send KILL to every process that descends from the guard.
    KillAll,
    /// Collect this child, which has exited.
    Collect(i32),
    /// Keep the descriptor of the current message as this app's pipe.
    Hold(String),
    /// Close this app's pipe.
    Release(String),
    /// Keep the descriptor of the current message as the binary of this number, for as long as
    /// [`Guard::needs`](super::Guard::needs) it.
    HoldBinary(u32),
    /// Keep the descriptor of the current message as the lock of the state folder.
    KeepLock,
    /// Write this warning to stderr.
    Warn(String),
    /// The session is over: remove the saved state of its supervisors, so that the next session inherits nothing. A
    /// supervisor that exits cleanly has done this; one that was killed has not.
    Forget,
    /// Exit with this code. Always the last effect.
    Exit(u8),
}

/// The binary of an upgrade. It is started by its descriptor, so whatever happens to its path later changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Binary {
    /// Its path, for people.
    pub path: String,
    /// Tells apart two files that had the same path. Counted from 1 in each session's guard.
    pub number: u32,
}
