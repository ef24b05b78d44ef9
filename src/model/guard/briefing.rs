//! The messages for a new supervisor, in this order: what happened before it, the pipes of the apps, the exits of earlier
//! supervisors' children, and that it may begin. From then on, each further exit.

use std::collections::{BTreeSet, VecDeque};

use super::message::{ChildExit, Hello, ToSupervisor};

/// How far the briefing of one supervisor has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Briefing {
    step: Step,
    /// How many of the guard's exits were sent.
    exits: usize,
    /// How many of them had been sent when `Go` was sent.
    exits_at_go: usize,
}

/// The next message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
enum Step {
    #[default]
    Hello,
    /// These pipes, the last one first.
    Pipes(Vec<String>),
    /// Exits, and `Go` after the last one.
    Exits,
    Done,
}

impl Briefing {
    /// The next message. `exits` are all that the guard keeps, oldest first. `None` if there is nothing to send.
    pub(super) fn next(&self, hello: impl FnOnce() -> Hello, exits: &VecDeque<ChildExit>) -> Option<ToSupervisor> {
        let exit = || exits.get(self.exits).copied().map(ToSupervisor::Exited);
        match &self.step {
            Step::Hello => Some(ToSupervisor::Hello(hello())),
            Step::Pipes(apps) => apps.last().cloned().map(ToSupervisor::Pipe),
            Step::Exits => exit().or(Some(ToSupervisor::Go)),
            Step::Done => exit(),
        }
    }

    /// Records that the message from [`Briefing::next`] was sent. `pipes` are the apps whose pipe the guard holds, and
    /// `exits` is how many exits it keeps.
    pub(super) fn sent(&mut self, pipes: &BTreeSet<String>, exits: usize) {
        let pipes_or_exits = |apps: Vec<String>| if apps.is_empty() { Step::Exits } else { Step::Pipes(apps) };
        match &mut self.step {
            Step::Hello => self.step = pipes_or_exits(pipes.iter().rev().cloned().collect()),
            Step::Pipes(apps) => {
                apps.pop();
                self.step = pipes_or_exits(std::mem::take(apps));
            }
            Step::Exits if self.exits == exits => {
                self.step = Step::Done;
                self.exits_at_go = self.exits;
            }
            Step::Exits | Step::Done => self.exits += 1,
        }
    }

    /// Whether there is nothing to send. `exits` is how many exits the guard keeps.
    pub(super) fn is_done(&self, exits: usize) -> bool {
        self.step == Step::Done && self.exits == exits
    }

    /// The guard has dropped its oldest exit.
    pub(super) fn oldest_exit_dropped(&mut self) {
        self.exits = self.exits.saturating_sub(1);
        self.exits_at_go = self.exits_at_go.saturating_sub(1);
    }

    /// The supervisor is ready: it has read everything up to `Go`. Returns how many exits that are; the guard need not
    /// keep them. What was sent after `Go` may not have been read.
    pub(super) fn read_up_to_go(&mut self) -> usize {
        let read = std::mem::take(&mut self.exits_at_go);
        self.exits -= read;
        read
    }
}
