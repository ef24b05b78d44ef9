//! Processes: starts them, learns of their end, and clears the trees they belong to. Nothing else in the program calls
//! `wait` or `kill`. Which process belongs to which app is decided in `model::tree`.
//!
//! The end of our children is noticed by SIGCHLD and one `wait` each. That needs no descriptor for each app, and
//! collects whatever was left to us as subreaper. Other processes are watched by pidfd. Children of an earlier
//! supervisor are the guard's now, and the guard tells how they ended.

mod clear;
mod guard;
mod half_born;
mod lookup;
mod measure;
mod reap;
mod sight;
mod spawner;
mod watcher;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process, pidfd_send_signal};
use tokio::sync::oneshot;

use crate::host::proc::{self, Leader, Pid, Process};
use crate::model::app::{App, AppId};
use crate::model::exit::Exit;
use crate::model::guard::ToGuard;
use crate::model::machine::Event;
use crate::model::tree::{Lineage, Owner};

use clear::Clearing;
use reap::{OutOfMemory, SpawnClues};
use sight::Sight;
use spawner::{Program, Spawner};
use watcher::Watcher;

pub use guard::{Guard, UNGUARDED};
pub use lookup::{Found, belongs};
pub use spawner::{executable, present};

/// All processes of the session.
pub struct Processes {
    spawner: Spawner,
    /// Children that we started and have not collected.
    children: HashMap<Pid, Role>,
    /// Processes that we did not start.
    watcher: Watcher,
    guard: Option<Guard>,
    sight: Sight,
    /// Leaders that an earlier supervisor wrote down, by app, until they are looked up.
    inherited: BTreeMap<String, Leader>,
    /// The last leaders that an earlier supervisor knew, by app: pid and start time.
    sessions: BTreeMap<String, (Pid, u64)>,
    clearing: BTreeMap<AppId, Clearing>,
    /// When what is left of a tree is looked at again, because something could not be seen.
    look: Option<Instant>,
    out_of_memory: OutOfMemory,
    happened: VecDeque<(AppId, Event)>,
}

/// What a child of ours is.
enum Role {
    Leader { app: AppId, run: u64, clues: SpawnClues },
    Hook { app: AppId, done: oneshot::Sender<Exit> },
}

impl Processes {
    /// `state`: the state folder. `inherited`: the leaders that an earlier supervisor wrote down, by app. `sessions`: the
    /// last leaders that it knew, whose sessions may outlive them.
    pub fn new(
        state: &Path,
        home: &Path,
        open_files: Option<u64>,
        guard: Guard,
        inherited: BTreeMap<String, Leader>,
        sessions: BTreeMap<String, (Pid, u64)>,
    ) -> io::Result<Self> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        half_born::wait();
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let lineage = Lineage::new(proc::place(state), vec![own, guard.pid]);
        let out_of_memory = OutOfMemory::new();
        Ok(Processes {
            spawner: Spawner::new(home, open_files)?,
            children: HashMap::new(),
            watcher: Watcher::new(out_of_memory.file())?,
            guard: Some(guard),
            sight: Sight::new(lineage, own),
            inherited,
            sessions,
            clearing: BTreeMap::new(),
            look: None,
            out_of_memory,
            happened: VecDeque::new(),
        })
    }

    /// Readable when a watched process has ended. Then call [`Processes::watched_ended`].
    pub fn wakes(&self) -> io::Result<OwnedFd> {
        self.watcher.wakes()
    }

    /// Readable when the guard has something to say. Then call [`Processes::hear_guard`].
    pub fn guard_wakes(&self) -> io::Result<Option<OwnedFd>> {
        self.guard.as_ref().map(Guard::wakes).transpose()
    }

    /// The guard's pid, while it lives.
    pub fn guard(&self) -> Option<Pid> {
        self.guard.as_ref().map(|guard| guard.pid)
    }

    /// A message that the guard cannot take now is dropped: it only matters if we die.
    pub fn tell_guard(&self, message: &ToGuard, fd: Option<BorrowedFd<'_>>) {
        if let Some(guard) = &self.guard {
            guard.tell(message, fd);
        }
    }

    /// Tells the guard how long a drain may take and whether one has begun, when that has changed.
    pub fn tell_guard_of_session(&mut self, stop_budget: Duration, draining: Option<u8>) {
        if let Some(guard) = &mut self.guard {
            guard.tell_of_session(stop_budget, draining);
        }
    }

    /// What cannot be done as it should be, with the way out.
    pub fn troubles(&self) -> Vec<String> {
        let unguarded = self.guard.is_none().then(|| UNGUARDED.to_string());
        let denied = self.clearing.values().filter_map(Clearing::trouble);
        unguarded.into_iter().chain(self.watcher.trouble().map(String::from)).chain(denied).collect()
    }

    /// Live processes that were left to us and belong to no app, in words.
    pub fn strays(&mut self) -> Vec<String> {
        self.sight.forget();
        self.sight.strays().into_iter().filter_map(proc::in_words).collect()
    }

    /// An app has appeared. `output`: where its output goes.
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

    /// An app is gone, and so is its tree.
    pub fn vanished(&mut self, id: AppId) {
        self.sight.lineage.forgotten(id);
    }

    /// All manifests have been looked at, so nobody looks for an earlier supervisor's apps any more.
    pub fn taken_over(&mut self) {
        if let Some(guard) = &mut self.guard {
            guard.all_looked_for();
        }
    }

    /// When something has to be looked at again, whatever happens.
    pub fn next(&self) -> Option<Instant> {
        let guard = self.guard.as_ref().and_then(Guard::next);
        [guard, self.watcher.next(), self.look].into_iter().flatten().min()
    }

    /// The pid and start time of a living leader that we know.
    pub fn leader(&self, pid: Pid) -> Option<(Pid, u64)> {
        let started = match self.watcher.get(pid) {
            Some(watched) => watched.process.started,
            None => proc::process(pid)?.started,
        };
        Some((pid, started))
    }

    /// What has happened since the last call, oldest first.
    pub fn happened(&mut self) -> Option<(AppId, Event)> {
        self.happened.pop_front()
    }

    /// A new turn of the loop: what was seen in the last one is out of date.
    pub fn forget_table(&mut self) {
        self.sight.forget();
    }

    /// Starts the app's program. The error says what could not be done and why.
    pub fn spawn(&mut self, id: AppId, run: u64, app: &App, output: BorrowedFd<'_>) -> Result<Pid, String> {
        let program = Program { app, run, argv: &app.program.argv, hook: false, output };
        let pid = self.spawner.start(&program, self.sight.lineage.place())?;
        self.children.insert(pid, Role::Leader { app: id, run, clues: SpawnClues::of(app) });
        self.sight.lineage.started(pid, Owner::App(id));
        Ok(pid)
    }

    /// Starts a hook's command in the app's environment. The receiver is told how it ended.
    pub fn spawn_hook(
        &mut self,
        id: AppId,
        (run, app): (u64, &App),
        argv: &[String],
        output: BorrowedFd<'_>,
    ) -> Result<(Pid, oneshot::Receiver<Exit>), String> {
        let program = Program { app, run, argv, hook: true, output };
        let pid = self.spawner.start(&program, self.sight.lineage.place())?;
        let (done, ended) = oneshot::channel();
        self.children.insert(pid, Role::Hook { app: id, done });
        self.sight.lineage.started(pid, Owner::Hook(id));
        Ok((pid, ended))
    }

    /// Watches a process that we did not start. False: it has already ended.
    fn watch(&mut self, process: Process, app: AppId, leads: Option<u64>) -> bool {
        if !self.watcher.watch(process, app, leads) {
            return false;
        }
        let owner = self.sight.owner(process.pid).filter(|owner| leads.is_none() && owner.is(app));
        self.sight.lineage.watched(&process, owner.unwrap_or(Owner::App(app)), leads.is_some());
        self.sight.adopted(app, process.pid);
        self.sight.scattered.insert(app);
        true
    }

    /// Signals an app's leader. A child that has not been collected keeps its pid, so the pid is enough.
    pub fn signal(&self, pid: Pid, signal: i32) {
        let _ = self.send(pid, signal); // what refuses it is told when its tree is cleared
    }

    /// Signals a process that we know. One that is gone is no error.
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
