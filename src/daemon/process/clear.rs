//! Clears trees: signals everything that is left of an app, watches it, and reports when nothing is left.

use std::collections::HashSet;
use std::time::Instant;

use super::Processes;
use super::watcher::LOOK;
use crate::host::proc::{self, Pid, Process};
use crate::host::signals;
use crate::model::app::AppId;
use crate::model::machine::AppEvent;

/// A tree that is being cleared.
pub(super) struct Clearing {
    run: u64,
    name: String,
    signal: i32,
    /// Members that have not ended yet and whose end will be reported.
    left: HashSet<Pid>,
    /// Members that we may not signal.
    denied: HashSet<Pid>,
    /// We could not look at it, and have said so.
    unseen: bool,
}

impl Clearing {
    /// Describes the members that we may not signal and that keep the app from being down.
    pub fn trouble(&self) -> Option<String> {
        let mut denied: Vec<Pid> = self.denied.iter().copied().collect();
        denied.sort_unstable();
        let named: Vec<String> = denied.into_iter().filter_map(proc::in_words).collect();
        (!named.is_empty()).then(|| {
            format!(
                "`{}` is not down while this lives: {}; end it as that user or as root, or run kasm-void with the capability to (CAP_KILL)",
                self.name,
                named.join("; ")
            )
        })
    }
}

impl Processes {
    /// Signals everything that is left of the app's tree. `TreeEmpty` follows when all of it has ended.
    pub fn clear(&mut self, id: AppId, run: u64, name: &str, signal: i32) {
        let same = |clearing: &Clearing| clearing.signal == signal && clearing.run == run;
        if self.clearing.get(&id).is_some_and(same) {
            return;
        }
        let denied = self.clearing.remove(&id).map(|clearing| clearing.denied).unwrap_or_default();
        let clearing = Clearing { run, name: name.into(), signal, left: HashSet::new(), denied, unseen: false };
        self.clearing.insert(id, clearing);
        self.sight.forget();
        self.clear_members(id);
    }

    /// Looks at what is left, signals it, and then waits for it to end, or reports that nothing is left.
    pub(super) fn clear_members(&mut self, id: AppId) {
        let Some((run, signal)) = self.clearing.get(&id).map(|clearing| (clearing.run, clearing.signal)) else {
            return;
        };
        let misses = proc::misses();
        let (members, complete): (Vec<Process>, bool) = match self.sight.surely_empty(id) {
            true => (Vec::new(), true),
            false => {
                let seen = self.sight.look();
                (seen.trees.members(id).copied().collect(), seen.trees.complete())
            }
        };
        let mut left = HashSet::new();
        for member in members {
            if self.children.contains_key(&member.pid) || self.watch(member, id, None) {
                left.insert(member.pid);
                if self.send(member.pid, signal).is_err() {
                    self.was_denied(id, member.pid);
                }
            }
        }
        // A process that could not be seen may be a member.
        if left.is_empty() && complete && proc::misses() == misses {
            self.sight.emptied(id);
            self.clearing.remove(&id);
            self.happened.push_back((id, AppEvent::TreeEmpty { run }));
            return;
        }
        let unseen = left.is_empty();
        if unseen {
            self.look.get_or_insert_with(|| Instant::now() + LOOK);
        }
        if let Some(clearing) = self.clearing.get_mut(&id) {
            clearing.left = left;
            if unseen && !std::mem::replace(&mut clearing.unseen, true) {
                let app = &clearing.name;
                tracing::warn!(
                    event = "process.unseen",
                    app,
                    "cannot see what is left of `{app}`: no file descriptor is free; it goes on as soon as one is"
                );
            }
        }
    }

    fn was_denied(&mut self, id: AppId, pid: Pid) {
        let Some(clearing) = self.clearing.get_mut(&id) else { return };
        if clearing.denied.insert(pid) {
            let reason = clearing.trouble().unwrap_or_default();
            tracing::error!(event = "process.denied", app = clearing.name, pid, reason, "{reason}");
        }
    }

    /// Looks again at trees of which something could not be seen.
    pub(super) fn clear_unseen(&mut self, now: Instant) {
        if self.look.take_if(|due| *due <= now).is_none() {
            return;
        }
        let unseen = self.clearing.iter().filter(|(_, clearing)| clearing.left.is_empty()).map(|(id, _)| *id);
        let unseen: Vec<AppId> = unseen.collect();
        unseen.into_iter().for_each(|id| self.clear_members(id));
    }

    /// Call this when a process of the app has ended. After the last one, the tree is looked at again.
    pub(super) fn one_less(&mut self, id: AppId, pid: Pid) {
        let Some(clearing) = self.clearing.get_mut(&id) else { return };
        clearing.left.remove(&pid);
        if clearing.left.is_empty() {
            self.sight.forget();
            self.clear_members(id);
        }
    }

    /// Describes the processes that keep an app from being down. `leader`: its leader, if it has one.
    pub fn holding_up(&self, id: AppId, leader: Option<Pid>) -> Vec<String> {
        let left = self.clearing.get(&id).map(|clearing| clearing.left.iter().copied().collect());
        let mut pids: Vec<Pid> = left.unwrap_or_else(|| leader.into_iter().collect());
        pids.sort_unstable();
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
