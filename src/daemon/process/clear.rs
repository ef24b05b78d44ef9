//! Clears trees: signals everything that is left of an app, watches it, and reports when nothing is left.
//! `model::tree::Clearings` decides when that is.

use std::collections::BTreeSet;
use std::time::Instant;

use super::Processes;
use super::watcher::LOOK;
use crate::host::proc::{self, Pid, Process};
use crate::host::signals;
use crate::model::app::AppId;
use crate::model::machine::AppEvent;
use crate::model::tree::{AfterLook, Clearing};

/// How often to look at once, if each process that was seen has ended before it could be watched: it may have forked just
/// before. Few, because an app that forks all the time must not hold up the loop.
pub(super) const LOOKS: usize = 3;

/// Describes the members of a tree that we may not signal and that keep the app from being down.
pub(super) fn trouble(clearing: &Clearing) -> Option<String> {
    let named: Vec<String> = clearing.denied().filter_map(proc::in_words).collect();
    (!named.is_empty()).then(|| {
        format!(
            "`{}` is not down while this lives: {}; end it as that user or as root, or run kasm-void with the capability to (CAP_KILL)",
            clearing.name,
            named.join("; ")
        )
    })
}

impl Processes {
    /// Signals everything that is left of the app's tree. `TreeEmpty` follows when all of it has ended.
    pub fn clear(&mut self, id: AppId, run: u64, name: &str, signal: i32) {
        if self.clearings.begin(id, name, run, signal) {
            self.sight.forget();
            self.clear_members(id);
        }
    }

    /// Looks at what is left, signals it, and then waits for it to end, or reports that nothing is left.
    pub(super) fn clear_members(&mut self, id: AppId) {
        let Some(signal) = self.clearings.get(id).map(|clearing| clearing.signal) else { return };
        let misses = proc::misses();
        let mut left = BTreeSet::new();
        let mut complete = false;
        for _ in 0..LOOKS {
            let (members, all_seen): (Vec<Process>, bool) = match self.sight.surely_empty(id) {
                true => (Vec::new(), true),
                false => {
                    let seen = self.sight.look();
                    (seen.trees.members(id).copied().collect(), seen.trees.shows_all_of(id))
                }
            };
            let none = members.is_empty();
            complete = all_seen && none;
            for member in members {
                if self.children.contains_key(&member.pid) || self.watch(member, id, None) {
                    left.insert(member.pid);
                    if self.send(member.pid, signal).is_err() {
                        self.was_denied(id, member.pid);
                    }
                }
            }
            if none || !left.is_empty() {
                break;
            }
            self.sight.forget();
        }
        // A process that could not be seen may be a member.
        let unseen = proc::misses() != misses;
        match self.clearings.looked(id, left, complete && !unseen) {
            AfterLook::Empty { run } => {
                self.sight.lineage.emptied(id);
                self.happened.push_back((id, AppEvent::TreeEmpty { run }));
            }
            AfterLook::Wait => {}
            AfterLook::LookAgain { first } => {
                self.look.get_or_insert_with(|| Instant::now() + LOOK);
                if let Some(Clearing { name: app, .. }) = self.clearings.get(id).filter(|_| first && unseen) {
                    tracing::warn!(
                        event = "process.unseen",
                        app,
                        "cannot see what is left of `{app}`: no file descriptor is free; this is tried again until one is"
                    );
                }
            }
        }
    }

    fn was_denied(&mut self, id: AppId, pid: Pid) {
        if !self.clearings.denied(id, pid) {
            return;
        }
        if let Some(clearing) = self.clearings.get(id) {
            let reason = trouble(clearing).unwrap_or_default();
            tracing::error!(event = "process.denied", app = clearing.name, pid, reason, "{reason}");
        }
    }

    /// Looks again at trees of which something could not be seen.
    pub(super) fn clear_unseen(&mut self, now: Instant) {
        if self.look.take_if(|due| *due <= now).is_none() {
            return;
        }
        self.clearings.unseen().into_iter().for_each(|id| self.clear_members(id));
    }

    /// Call this when a process of the app has ended. After the last one, the tree is looked at again.
    pub(super) fn one_less(&mut self, id: AppId, pid: Pid) {
        if self.clearings.ended(id, pid) {
            self.sight.forget();
            self.clear_members(id);
        }
    }

    /// Describes the processes that keep an app from being down. `leader`: its leader, if it has one.
    pub fn holding_up(&self, id: AppId, leader: Option<Pid>) -> Vec<String> {
        let left = self.clearings.get(id).map(|clearing| clearing.left().collect());
        let pids: Vec<Pid> = left.unwrap_or_else(|| leader.into_iter().collect());
        pids.into_iter().filter_map(proc::in_words).collect()
    }

    /// Kills a hook's command and everything it has started.
    pub fn kill_hook(&mut self, pid: Pid) {
        self.sight.forget();
        // Once the command was collected, its pid may belong to another process. Its session exists as long as it has a
        // member.
        let own = self.children.contains_key(&pid);
        for member in self.sight.look().trees.with_session(pid, own) {
            signals::send(member, libc::SIGKILL);
        }
    }
}
