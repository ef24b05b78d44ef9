//! Looks up an app that may already be running: a process that an earlier supervisor left, or one that matches the
//! app's pattern.

use std::cell::Cell;

use super::clear::LOOKS;
use super::clues::{Led, SpawnClues};
use super::sight::names_folder;
use super::{Processes, Role};
use crate::host::marks;
use crate::host::proc::{self, Pid, Process};
use crate::model::app::{App, AppId};
use crate::model::exit::ExitRecord;
use crate::model::ledger::Leader;
use crate::model::machine::{EndedAs, Found};
use crate::model::manifest::matches::Matcher;
use crate::model::tree::{Listeners, Owner, Wanted};

impl Processes {
    /// Looks for the app's live leader, if we did not start it ourselves. With `by_marks`, also finds what an earlier
    /// supervisor started. Watches what it finds. Also returns how the leader that an earlier supervisor has recorded
    /// ended, if it is gone and that is known.
    pub fn look_up(&mut self, id: AppId, run: u64, app: &App, by_marks: bool) -> (Found, Option<EndedAs>) {
        if by_marks {
            self.sight.lineage.scattered(id);
        }
        let left = by_marks.then(|| self.inherited.remove(&app.name)).flatten();
        // A dead leader that is not collected counts as alive: its exit will be reported. But if the exit was already
        // reported, it will not be reported again.
        let ended = left.and_then(|left| self.end_of(left));
        if let Some(left) = left.filter(|_| ended.is_none())
            && let Some(process) = proc::process(left.pid).filter(|process| process.started == left.started)
            && self.watch(process, id, Some(Led { run, clues: SpawnClues::of(app) }))
        {
            return (Found::Leader(left.pid), None);
        }
        let found = self.look_around(id, run, app, by_marks);
        let ended = ended.or_else(|| left.and_then(|left| self.end_of(left)));
        (found, ended.map(|ended| self.exit_of_inherited(ended, SpawnClues::of(app))))
    }

    /// How a process that is gone exited, if that was recorded or reported.
    fn end_of(&mut self, left: Leader) -> Option<ExitRecord> {
        self.hear_guard();
        left.ended.or_else(|| self.guard.as_ref()?.end_of(left))
    }

    fn look_around(&mut self, id: AppId, run: u64, app: &App, by_marks: bool) -> Found {
        let misses = proc::misses();
        let wanted = Wanted { app: id, name: &app.name, matcher: app.matcher.as_ref(), by_marks };
        for _ in 0..LOOKS {
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
            let complete = seen.trees.shows_all_of(id);
            let members: Vec<Process> = seen.trees.members(id).copied().collect();
            let mut lives = |member: &Process| self.children.contains_key(&member.pid) || self.watch(*member, id, None);
            let alive = members.iter().filter(|member| lives(member)).count();
            if alive > 0 {
                break;
            }
            if members.is_empty() {
                if complete && proc::misses() == misses {
                    self.sight.lineage.emptied(id);
                    return Found::Nothing;
                }
                break;
            }
            self.sight.forget();
        }
        Found::Remains
    }

    /// The live processes of the app's tree.
    pub fn members(&mut self, id: AppId) -> Vec<Pid> {
        self.sight.look().trees.members(id).map(|member| member.pid).collect()
    }

    /// Whether a process of the app listens there.
    pub fn listens(&mut self, id: AppId, at: &Listeners) -> bool {
        let hidden = |pid| proc::open_files(pid).is_err().then(|| proc::user(pid)).flatten();
        self.sight.forget();
        self.sight.look().trees.listens(id, at, rustix::process::geteuid().as_raw(), hidden)
    }

    /// Takes the process as the app's leader. Returns false if it has already ended.
    fn adopt(&mut self, leader: Process, id: AppId, run: u64, app: &App) -> bool {
        let clues = SpawnClues::of(app);
        if !self.sight.is_child(&leader) {
            return self.watch(leader, id, Some(Led { run, clues }));
        }
        let started = Cell::new(Some(leader.started));
        self.children.insert(leader.pid, Role::Leader { app: id, run, clues, started });
        self.sight.lineage.watched(&leader, Owner::App(id), true);
        self.sight.adopted(id, leader.pid);
        true
    }
}

/// Whether this live process belongs to the app, by its marks or the app's pattern. If so, a lock that it holds is not
/// stale.
pub fn belongs(app: &App, pid: Pid) -> bool {
    let by_marks = marks::of(pid).app.as_deref() == Some(&app.name);
    let same_folder = |matcher: &Matcher| matcher.same_folder.as_ref().is_none_or(|folder| names_folder(pid, folder));
    let matches = |matcher: &Matcher| matcher.is(&proc::command_line(pid)) && same_folder(matcher);
    by_marks || app.matcher.as_ref().is_some_and(matches)
}
