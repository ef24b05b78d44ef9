//! Processes: starts them, learns how they exit, and clears the trees they belong to. In the supervisor, only this
//! module and its parts wait for processes or kill them. `model::tree` decides which process belongs to which app.
//!
//! SIGCHLD reports that children have exited, and one `wait` each collects them. That needs no descriptor per app, and
//! also collects processes left to us as subreaper. Other processes are watched by pidfd. Children of an earlier
//! supervisor are now the guard's, and the guard reports how they exited.

mod clear;
mod clues;
mod guard;
mod half_born;
mod lookup;
mod measure;
mod reap;
mod sight;
mod spawner;
mod watcher;

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use rustix::process::{Signal, kill_process, pidfd_send_signal};
use tokio::sync::oneshot;

use crate::host::proc::{self, Pid, Process};
use crate::model::app::{App, AppId};
use crate::model::exit::Exit;
use crate::model::guard::ToGuard;
use crate::model::ledger::Leader;
use crate::model::machine::AppEvent;
use crate::model::tree::{Clearings, Lineage, Owner};

use clues::{Led, SpawnClues};
use reap::OutOfMemory;
use sight::Sight;
use spawner::Spawner;
use watcher::Watcher;

pub use guard::GuardClient;
pub use lookup::belongs;
pub use spawner::{NewProcess, OwnLimits, as_user_of, present};

/// All processes of the session.
pub struct Processes {
    spawner: Spawner,
    /// Children that we started and have not collected.
    children: HashMap<Pid, Role>,
    /// Watches processes that are not our children.
    watcher: Watcher,
    guard: Option<GuardClient>,
    /// The guard has said that the session has to end, and nobody was told.
    end_asked: bool,
    sight: Sight,
    /// Leaders that an earlier supervisor recorded, by app, until they are looked up.
    inherited: BTreeMap<String, Leader>,
    /// The last known leaders of an earlier supervisor, by app: pid and start time.
    sessions: BTreeMap<String, (Pid, u64)>,
    clearings: Clearings,
    /// When to look again at what is left of a tree, because something could not be seen.
    look: Option<Instant>,
    out_of_memory: OutOfMemory,
    happened: VecDeque<(AppId, AppEvent)>,
}

/// The role of a child.
enum Role {
    /// `started` is its start time, once somebody has asked for it.
    Leader {
        app: AppId,
        run: u64,
        clues: SpawnClues,
        started: Cell<Option<u64>>,
    },
    Hook {
        app: AppId,
        done: oneshot::Sender<Exit>,
    },
}

impl Processes {
    /// `state` is the state folder. `inherited` are the leaders that an earlier supervisor recorded, by app. `sessions`
    /// are the last leaders it knew; their process sessions may outlive them.
    pub fn new(
        state: &Path,
        home: &Path,
        limits: OwnLimits,
        guard: GuardClient,
        inherited: BTreeMap<String, Leader>,
        sessions: BTreeMap<String, (Pid, u64)>,
    ) -> io::Result<Self> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let lineage = Lineage::new(proc::place(state), vec![own, guard.pid]);
        let out_of_memory = OutOfMemory::new();
        Ok(Processes {
            spawner: Spawner::new(home, limits)?,
            children: HashMap::new(),
            watcher: Watcher::new(out_of_memory.file())?,
            guard: Some(guard),
            end_asked: false,
            sight: Sight::new(lineage, own),
            inherited,
            sessions,
            clearings: Clearings::default(),
            look: None,
            out_of_memory,
            happened: VecDeque::new(),
        })
    }

    /// Waits until no half-started app is left, and sees what runs. Call this right before the first turn.
    pub fn first_look(&mut self) {
        self.sight.first = Some(half_born::wait());
    }

    /// A descriptor that is readable when a watched process has ended. Then call [`Processes::watched_ended`].
    pub fn wakes(&self) -> io::Result<OwnedFd> {
        self.watcher.wakes()
    }

    /// A descriptor that is readable when the guard has sent a message. Then call [`Processes::hear_guard`].
    pub fn guard_wakes(&self) -> io::Result<Option<OwnedFd>> {
        self.guard.as_ref().map(GuardClient::wakes).transpose()
    }

    /// The guard's pid. `None` once it has died.
    pub fn guard(&self) -> Option<Pid> {
        self.guard.as_ref().map(|guard| guard.pid)
    }

    /// Sends a message to the guard. If the guard cannot take it now, it is dropped: it only matters if we die.
    pub fn tell_guard(&self, message: &ToGuard, fd: Option<BorrowedFd<'_>>) {
        if let Some(guard) = &self.guard {
            guard.tell(message, fd);
        }
    }

    /// Whether the guard has said that the session has to end. True once.
    pub fn end_asked(&mut self) -> bool {
        std::mem::take(&mut self.end_asked)
    }

    /// Problems of the supervision, and how to fix them.
    pub fn troubles(&self) -> Vec<String> {
        let denied = self.clearings.all().filter_map(clear::trouble);
        self.watcher.trouble().map(String::from).into_iter().chain(denied).collect()
    }

    /// Live processes that were left to us and belong to no app, in words.
    pub fn strays(&mut self) -> Vec<String> {
        self.sight.forget();
        self.sight.strays().into_iter().filter_map(proc::in_words).collect()
    }

    /// Adds an app. `output` is the pipe its output goes to.
    pub fn appeared(&mut self, id: AppId, name: &str, output: Option<BorrowedFd<'_>>) {
        if self.sight.lineage.named(id, name) {
            self.sight.forget();
            if let Some((pid, started)) = self.sessions.remove(name) {
                self.sight.lineage.led(id, pid, started);
            }
        }
        if let Some(pipe) = output.and_then(|output| rustix::fs::fstat(output).ok()) {
            self.sight.output(id, (pipe.st_dev, pipe.st_ino));
        }
    }

    /// Forgets an app that is gone, and its tree with it.
    pub fn vanished(&mut self, id: AppId) {
        self.sight.lineage.forgotten(id);
    }

    /// Call this when all manifests are applied. Apps of an earlier supervisor are not looked up after this.
    pub fn taken_over(&mut self) {
        self.sight.first = None;
        if let Some(guard) = &mut self.guard {
            guard.all_looked_for();
        }
    }

    /// When something must be looked at again.
    pub fn next(&self) -> Option<Instant> {
        let guard = self.guard.as_ref().and_then(GuardClient::next);
        [guard, self.watcher.next(), self.look].into_iter().flatten().min()
    }

    /// The pid and start time of a leader that is alive, or that was inherited and has not been looked for.
    pub fn leader(&self, pid: Pid) -> Option<(Pid, u64)> {
        let watched = self.watcher.get(pid).map(|watched| watched.process.started);
        let child = || self.start_of_child(pid);
        let alive = || proc::process(pid).map(|process| process.started);
        let inherited = || self.inherited.values().find(|leader| leader.pid == pid).map(|leader| leader.started);
        let started = watched.or_else(child).or_else(inherited).or_else(alive)?;
        Some((pid, started))
    }

    /// A child keeps its pid until it is collected, so its start time is read only once.
    fn start_of_child(&self, pid: Pid) -> Option<u64> {
        let Some(Role::Leader { started, .. }) = self.children.get(&pid) else { return None };
        if started.get().is_none() {
            started.set(proc::process(pid).map(|process| process.started));
        }
        started.get()
    }

    /// The next event that has happened, oldest first. `None` if there is none.
    pub fn happened(&mut self) -> Option<(AppId, AppEvent)> {
        self.happened.pop_front()
    }

    /// Call this at the start of a turn: the process table of the last turn is out of date.
    pub fn forget_table(&mut self) {
        self.sight.forget();
    }

    /// Starts the programs of these apps, several at the same time. An error says what failed and why.
    pub fn spawn(&mut self, ids: &[AppId], programs: &[NewProcess<'_>]) -> Vec<Result<Pid, String>> {
        let started = self.spawner.start_all(programs, self.sight.lineage.place());
        for ((id, NewProcess { app, run, .. }), pid) in ids.iter().zip(programs).zip(&started) {
            if let Ok(pid) = *pid {
                let (clues, started) = (SpawnClues::of(app), Cell::default());
                self.children.insert(pid, Role::Leader { app: *id, run: *run, clues, started });
                self.sight.lineage.started(pid, Owner::App(*id));
            }
        }
        started
    }

    /// Starts a hook's command in the app's environment. The receiver gets its exit.
    pub fn spawn_hook(
        &mut self,
        id: AppId,
        (run, app): (u64, &App),
        argv: &[String],
        output: BorrowedFd<'_>,
    ) -> Result<(Pid, oneshot::Receiver<Exit>), String> {
        let program = NewProcess { app, run, argv, hook: true, output };
        let pid = self.spawner.start(&program, self.sight.lineage.place())?;
        let (done, ended) = oneshot::channel();
        self.children.insert(pid, Role::Hook { app: id, done });
        self.sight.lineage.started(pid, Owner::Hook(id));
        Ok((pid, ended))
    }

    /// Watches a process that we did not start. Returns false if it has already ended.
    fn watch(&mut self, process: Process, app: AppId, leads: Option<Led>) -> bool {
        if !self.watcher.watch(process, app, leads) {
            return false;
        }
        let owner = self.sight.owner(process.pid).filter(|owner| leads.is_none() && owner.is(app));
        self.sight.lineage.watched(&process, owner.unwrap_or(Owner::App(app)), leads.is_some());
        self.sight.adopted(app, process.pid);
        self.sight.lineage.scattered(app);
        true
    }

    /// Signals an app's leader. The pid is enough, because a child keeps its pid until it is collected.
    pub fn signal(&self, pid: Pid, signal: i32) {
        let _ = self.send(pid, signal); // a denied signal is reported when the tree is cleared
    }

    /// Signals a process that we know. It is no error if the process is gone.
    fn send(&self, pid: Pid, signal: i32) -> Result<(), Denied> {
        let Some(signal) = Signal::from_named_raw(signal) else { return Ok(()) };
        let sent = match (self.watcher.get(pid), rustix::process::Pid::from_raw(pid)) {
            (Some(watcher::Watched { pidfd: Some(pidfd), .. }), _) => pidfd_send_signal(pidfd, signal),
            (Some(_), Some(pid)) => kill_process(pid, signal),
            (None, Some(known)) if self.children.contains_key(&pid) => kill_process(known, signal),
            _ => Ok(()),
        };
        if sent == Err(rustix::io::Errno::PERM) { Err(Denied) } else { Ok(()) }
    }
}

/// We may not signal the process.
struct Denied;
