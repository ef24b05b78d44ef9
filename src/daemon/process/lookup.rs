//! Looks for an app that is alive already: the process an earlier supervisor left, or one that its pattern matches.

use super::reap::SpawnClues;
use super::sight::names_folder;
use super::{Processes, Role};
use crate::host::marks;
use crate::host::proc::{self, Leader, Pid, Process};
use crate::host::sys::Ended;
use crate::model::app::{App, AppId};
use crate::model::exit::Exit;
use crate::model::manifest::matches::Matcher;
use crate::model::tree::{Owner, Wanted};

/// What a look-up found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It is alive, and watched from now on.
    Leader(Pid),
    /// It has ended since an earlier supervisor knew it. With its peak memory in bytes, where known.
    Ended(Exit, Option<u64>),
    /// No leader, but something of its tree is alive.
    Remains,
    Nothing,
}

impl Processes {
    /// The app's live leader, if we did not start it ourselves. With `by_marks`, what an earlier supervisor started is
    /// found too. What is found is watched from now on.
    pub fn look_up(&mut self, id: AppId, run: u64, app: &App, by_marks: bool) -> Found {
        if by_marks {
            self.sight.scattered.insert(id);
        }
        let left = by_marks.then(|| self.inherited.remove(&app.name)).flatten();
        // Dead, but not collected, is as good as alive, unless its end has been told. That is not told twice.
        let ended = left.and_then(|left| self.end_of(left));
        if let Some(left) = left.filter(|_| ended.is_none())
            && let Some(process) = proc::process(left.pid).filter(|process| process.started == left.started)
            && self.watch(process, id, Some(run))
        {
            return Found::Leader(left.pid);
        }
        let found = self.look_around(id, run, app, by_marks);
        let gone = left.filter(|_| !matches!(found, Found::Leader(_)));
        match gone.and_then(|left| ended.or_else(|| self.end_of(left))) {
            Some(ended) => {
                let (exit, peak) = self.exit_of_inherited(ended, SpawnClues::of(app));
                Found::Ended(exit, peak)
            }
            None => found,
        }
    }

    /// How a process ended that is gone, if anybody has said so.
    fn end_of(&mut self, left: Leader) -> Option<Ended> {
        self.hear_guard();
        left.ended.or_else(|| self.guard.as_ref()?.end_of(left))
    }

    fn look_around(&mut self, id: AppId, run: u64, app: &App, by_marks: bool) -> Found {
        let misses = proc::misses();
        let wanted = Wanted { app: id, name: &app.name, matcher: app.matcher.as_ref(), by_marks };
        let seen = self.sight.look();
        if let Some(leader) = seen.trees.leader(wanted, seen.lineage, seen.details).copied()
            && self.adopt(leader, id, run, app)
        {
            return Found::Leader(leader.pid);
        }
        if self.sight.surely_empty(id) {
            return Found::Nothing;
        }
        let seen = self.sight.look();
        let complete = seen.trees.complete();
        let members: Vec<Process> = seen.trees.members(id).copied().collect();
        let mut lives = |member: &Process| self.children.contains_key(&member.pid) || self.watch(*member, id, None);
        let alive = members.iter().filter(|member| lives(member)).count();
        if alive == 0 && complete && proc::misses() == misses {
            self.sight.emptied(id);
            return Found::Nothing;
        }
        Found::Remains
    }

    /// False: it has already ended.
    fn adopt(&mut self, leader: Process, id: AppId, run: u64, app: &App) -> bool {
        if !self.sight.is_child(&leader) {
            return self.watch(leader, id, Some(run));
        }
        self.children.insert(leader.pid, Role::Leader { app: id, run, clues: SpawnClues::of(app) });
        self.sight.lineage.watched(&leader, Owner::App(id), true);
        self.sight.adopted(id, leader.pid);
        true
    }
}

/// Whether this live process is one of the app's, by its marks or the app's pattern. A lock that it holds is not stale.
pub fn belongs(app: &App, pid: Pid) -> bool {
    let by_marks = marks::of(pid).app.as_deref() == Some(&app.name);
    let same_folder = |matcher: &Matcher| matcher.same_folder.as_ref().is_none_or(|folder| names_folder(pid, folder));
    let matches = |matcher: &Matcher| matcher.is(&proc::command_line(pid)) && same_folder(matcher);
    by_marks || app.matcher.as_ref().is_some_and(matches)
}
