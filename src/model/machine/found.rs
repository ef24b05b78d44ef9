//! The result of a look-up for an app, and the events that follow from it. Does not look itself.

use super::event::AppEvent;
use super::parts::Pid;
use crate::model::exit::Exit;

/// How a process ended: its exit, and its peak resident memory in bytes, if known.
pub type EndedAs = (Exit, Option<u64>);

/// The result of a look-up for an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The leader is alive, and is now watched.
    Leader(Pid),
    /// There is no leader, but part of the tree is alive.
    Remains,
    /// Nothing of the app is alive.
    Nothing,
}

impl Found {
    /// The events for the app's machine, in order. `ended`: how the leader that an earlier supervisor has recorded ended,
    /// if it is gone and that is known. If another leader is alive, the app was started again since.
    pub fn events(self, run: u64, ended: Option<EndedAs>) -> Vec<AppEvent> {
        match (self, ended) {
            (Found::Leader(pid), Some((exit, peak))) => {
                vec![AppEvent::EndedBefore { run, exit, peak }, AppEvent::Found { run, pid }]
            }
            (Found::Leader(pid), None) => vec![AppEvent::Found { run, pid }],
            (Found::Remains | Found::Nothing, Some((exit, peak))) => vec![AppEvent::Exited { run, exit, peak }],
            (Found::Remains, None) => vec![AppEvent::Remains { run }],
            (Found::Nothing, None) => vec![AppEvent::NotFound { run }],
        }
    }
}
