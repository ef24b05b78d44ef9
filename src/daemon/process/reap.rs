//! Learns how processes exited: from `wait`, from pidfds and from the guard.

use std::fs::File;
use std::time::Instant;

use super::clues::{Led, SpawnClues};
use super::guard::{Gone, GuardClient, as_ended};
use super::{Processes, Role};
use crate::host::proc::{self, Pid};
use crate::host::sys;
use crate::model::exit::{self, Candidate, Clues, Exit, ExitRecord, Kills};
use crate::model::guard::{ChildExit, ToSupervisor};
use crate::model::machine::AppEvent;

/// Tracks the kernel's count of out-of-memory kills.
pub(super) struct OutOfMemory {
    file: Option<File>,
    kills: Kills,
    /// Our own `oom_score_adj`, which programs inherit.
    own_score_adj: i32,
}

impl OutOfMemory {
    pub fn new() -> Self {
        let own_score_adj = proc::oom_score_adj(std::process::id() as Pid);
        let mut new = OutOfMemory { file: proc::out_of_memory_file(), kills: Kills::default(), own_score_adj };
        new.count();
        new
    }

    pub fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    fn count(&mut self) {
        if let Some(total) = self.file.as_ref().and_then(proc::out_of_memory_kills) {
            self.kills.counted(sys::since_boot(), total);
        }
    }
}

impl Processes {
    /// Collects every child that has exited. A leader's exit is first recorded by `note`. If we died before collecting
    /// it, the guard would collect it in our place.
    pub fn reap(&mut self, mut note: impl FnMut(ExitRecord)) {
        while let Some(ended) = sys::ended() {
            if matches!(self.children.get(&ended.pid), Some(Role::Leader { .. })) {
                note(ended);
            }
            sys::collect(ended.pid);
            self.child_ended(ended);
        }
    }

    fn child_ended(&mut self, ended: ExitRecord) {
        // Its children have just become ours, so earlier answers are wrong now.
        self.sight.forget();
        self.sight.lineage.ended(ended.pid);
        match self.children.remove(&ended.pid) {
            Some(Role::Leader { app, run, clues, .. }) => {
                let (exit, peak) = self.exit(ended, clues);
                self.happened.push_back((app, AppEvent::Exited { run, exit, peak }));
                self.one_less(app, ended.pid);
            }
            Some(Role::Hook { app, done }) => {
                let (exit, _) = self.exit(ended, SpawnClues::default());
                let _ = done.send(exit); // a cancelled hook has no receiver
                self.one_less(app, ended.pid);
            }
            None => {
                let (exit, peak) = self.exit(ended, SpawnClues::default());
                self.watched_is_gone(ended.pid, exit, peak);
            }
        }
    }

    /// Handles every message the guard has sent.
    pub fn hear_guard(&mut self) {
        while let Some(guard) = &mut self.guard {
            match guard.hear() {
                Ok(Some(ToSupervisor::Exited(end))) => self.told(end),
                Ok(Some(ToSupervisor::End)) => self.end_asked = true,
                Ok(Some(ToSupervisor::Hello(_) | ToSupervisor::Pipe(_) | ToSupervisor::Go)) => {}
                Ok(None) => return,
                Err(Gone) => self.guard_is_gone(),
            }
        }
    }

    fn told(&mut self, end: ChildExit) {
        let watched = self.watcher.get(end.pid).filter(|watched| watched.process.started == end.started);
        if let Some(watched) = watched {
            let clues = watched.leads.map(|led| led.clues).unwrap_or_default();
            let (exit, peak) = self.exit(as_ended(&end), clues);
            return self.watched_is_gone(end.pid, exit, peak);
        }
        if let Some(guard) = &mut self.guard {
            guard.keep(end);
        }
    }

    /// Call this when the guard has died. The exits of its children can no longer be known.
    fn guard_is_gone(&mut self) {
        let Some(guard) = self.guard.take() else { return };
        self.sight.lineage.unguarded(guard.pid);
        tracing::error!(event = "guard.lost", pid = guard.pid, "the guard has died");
        for pid in guard.debts() {
            self.watched_is_gone(pid, Exit::Unknown, None);
        }
    }

    /// Handles every watched process that has ended, and memory events.
    pub fn watched_ended(&mut self) {
        self.out_of_memory.count();
        loop {
            let ended = self.watcher.ended();
            if ended.is_empty() {
                return;
            }
            ended.into_iter().for_each(|pid| self.end_of_watched(pid));
        }
    }

    fn end_of_watched(&mut self, pid: Pid) {
        self.hear_guard(); // the guard may have reported it already
        let Some(watched) = self.watcher.get(pid).filter(|watched| watched.leads.is_some()) else {
            return self.watched_is_gone(pid, Exit::Unknown, None);
        };
        let (parent, before) = (proc::process(pid).map(|process| process.parent), watched.process.parent);
        let reports = |guard: &&mut GuardClient| exit::is_left_to_guard(Some(guard.pid), parent, before);
        if let Some(guard) = self.guard.as_mut().filter(reports) {
            self.watcher.quiet(pid);
            guard.owes(pid);
            return;
        }
        self.watched_is_gone(pid, Exit::Unknown, None);
    }

    /// Stops waiting for overdue reports, and looks at processes that send no events.
    pub fn give_up_waiting(&mut self, now: Instant) {
        self.clear_unseen(now);
        self.watcher.rearm_memory(now);
        for pid in self.watcher.looked_at(now) {
            if !self.guard.as_ref().is_some_and(|guard| guard.is_owed(pid)) {
                self.end_of_watched(pid);
            }
        }
        let late = self.guard.as_ref().map(|guard| guard.overdue(now)).unwrap_or_default();
        late.into_iter().for_each(|pid| self.watched_is_gone(pid, Exit::Unknown, None));
    }

    fn watched_is_gone(&mut self, pid: Pid, exit: Exit, peak: Option<u64>) {
        let Some(watched) = self.watcher.remove(pid) else { return };
        self.sight.forget();
        self.sight.lineage.ended(pid);
        if let Some(guard) = &mut self.guard {
            guard.paid(pid);
        }
        if let Some(Led { run, .. }) = watched.leads {
            self.happened.push_back((watched.app, AppEvent::Exited { run, exit, peak }));
        }
        self.one_less(watched.app, pid);
    }

    /// How a leader exited while no supervisor was running.
    pub(super) fn exit_of_inherited(&mut self, ended: ExitRecord, clues: SpawnClues) -> (Exit, Option<u64>) {
        self.exit(ended, clues)
    }

    fn exit(&mut self, ended: ExitRecord, SpawnClues { locks, oom_score_adj }: SpawnClues) -> (Exit, Option<u64>) {
        let victim = Candidate {
            resident: ended.peak,
            oom_score_adj: oom_score_adj.unwrap_or(self.out_of_memory.own_score_adj),
        };
        let out_of_memory = exit::was_killed(ended.status) && self.ran_out_of_memory(victim);
        let peak = exit::peak(ended.peak, sys::own_peak());
        (Exit::of(ended.status, Clues { locks, out_of_memory }), peak)
    }

    fn ran_out_of_memory(&mut self, victim: Candidate) -> bool {
        self.out_of_memory.count();
        if !self.out_of_memory.kills.any_open() {
            return false;
        }
        let mut survivors: Vec<Candidate> = self.sight.everything().into_iter().map(candidate).collect();
        // A child starts with our peak as its own. If the victim's peak is no more than that, the kernel would have
        // killed us first.
        let own_score_adj = self.out_of_memory.own_score_adj;
        survivors.push(Candidate { resident: sys::own_peak() + 1, oom_score_adj: own_score_adj });
        self.out_of_memory.kills.claim(victim, survivors)
    }
}

fn candidate(pid: Pid) -> Candidate {
    Candidate { resident: proc::resident(pid), oom_score_adj: proc::oom_score_adj(pid) }
}
