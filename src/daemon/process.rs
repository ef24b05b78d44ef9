//! Processes: starts them, learns of their end, finds the trees they belong to, signals and sweeps them.
//!
//! Owns the table of our children. An app is a **tree**: what descends from its leader, and whatever
//! carries its cookie `KASM_VOID_APP=<app>:<run>` in its environment (that finds what left the session).
//! Nothing else in the program calls `wait` or `kill`.
//!
//! How an end is noticed: our children's by SIGCHLD and one `wait` each, which needs no descriptor per
//! app and collects what was handed to us as subreaper along the way; other processes' by pidfd. Children of
//! a supervisor before us are the guard's now: it tells how they ended.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::process::{PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use tokio::sync::oneshot;

use crate::host::link::{GUARD, Heard, Line};
use crate::host::proc::{self, Entry, Leader, Pid};
use crate::host::sys::{self, Ended, LEADER};
use crate::model::app::App;
use crate::model::exit::Exit;
use crate::model::guard::{ChildExit, ToGuard, ToSupervisor};
use crate::model::machine::Event;
use crate::model::manifest::hook::{Hook, LockKind, Step};
use crate::model::supervisor::AppId;

/// In the environment of every process of an app.
pub const COOKIE: &str = "KASM_VOID_APP";
/// Beside it: whose app it is, and where its control socket is.
pub const STATE: &str = "KASM_VOID_STATE";
/// Beside them in hooks, which are never taken for the app.
pub const HOOK: &str = "KASM_VOID_HOOK";

/// How often we look at processes of whose end nothing tells.
const LOOK: Duration = Duration::from_millis(100);

const NO_PIDFD: &str = "pidfd_open is refused here (a seccomp profile?): the end of a process that is not our child is noticed up to 100 ms late; allow pidfd_open and pidfd_send_signal";

const NO_DESCRIPTOR: &str =
    "there was no descriptor left to watch a process with: its end is noticed up to 100 ms late; raise `ulimit -Hn`";

/// What it means that the guard has died.
pub const UNGUARDED: &str = "the guard has died: the apps go on, but should the supervisor die too, nobody starts it again; end this session with `kasm-void drain` when it suits, and start a new one";

/// A program that takes longer to be executed than this comes from a dead disk.
const HALF_BORN: Duration = Duration::from_secs(2);

/// The guard says at once how its children ended; one that is stopped is not waited for longer.
const GUARDS_WORD: Duration = Duration::from_secs(1);

pub struct Processes {
    uid: u32,
    own_pid: Pid,
    state: String,
    environment: Vec<(String, CString)>,
    home: CString,
    null: File,
    open_files: Option<u64>,
    /// Every child we know the meaning of; all others are strays.
    children: HashMap<Pid, Role>,
    /// Processes that are not our children, watched by pidfd.
    watched: HashMap<Pid, Watched>,
    epoll: OwnedFd,
    guard: Option<Guard>,
    /// Why processes that are not our children can only be looked at now and then.
    blind: Option<&'static str>,
    /// When that is due again.
    look: Option<Instant>,
    /// Apps of whose tree something may not descend from us: the quick answers do not hold for them.
    scattered: HashSet<AppId>,
    /// By app: who led its tree when an earlier supervisor wrote it down, until it is looked up.
    left: BTreeMap<String, Leader>,
    clearing: BTreeMap<AppId, Clearing>,
    out_of_memory_kills: u64,
    happened: VecDeque<(AppId, Event)>,
    /// What `/proc` said, good for one turn of the loop.
    table: Option<Rc<Vec<Seen>>>,
    /// What had been missed before the table was read.
    misses: u64,
    strays: Option<bool>,
}

/// A process as it was seen this turn; what it takes a look into it to know, is looked up once.
struct Seen {
    entry: Entry,
    cookie: OnceCell<Cookie>,
    command_line: OnceCell<String>,
}

impl Seen {
    fn cookie(&self) -> &Cookie {
        self.cookie.get_or_init(|| Cookie::of(self.entry.pid))
    }

    fn command_line(&self) -> &str {
        self.command_line.get_or_init(|| proc::command_line(self.entry.pid))
    }
}

/// What a look-up found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Leader(Pid),
    /// It has ended since an earlier supervisor knew it.
    Ended(Exit, u64),
    /// No leader, but something of the tree.
    Remains,
    Nothing,
}

/// The process that outlives us, and holds what we leave.
pub struct Guard {
    line: Line,
    pid: Pid,
    /// Ends of processes we have not looked for yet; `None` once all have been.
    told: Option<Vec<ChildExit>>,
    /// Watched processes that have ended, whose status is still to come, and until when it may.
    owed: Vec<(Instant, Pid)>,
    /// What it was told last.
    stop_budget: Option<Duration>,
    draining: Option<u8>,
}

enum Role {
    Leader { app: AppId, run: u64, locks: bool },
    Hook { app: AppId, done: oneshot::Sender<Exit> },
}

struct Watched {
    /// `None`: refused, so it is looked at now and then.
    pidfd: Option<OwnedFd>,
    entry: Entry,
    app: AppId,
    /// It is the app's leader in this run; else one of a tree that is being cleared.
    leader: Option<u64>,
}

/// A tree that is on its way out.
struct Clearing {
    run: u64,
    name: String,
    signal: i32,
    /// Members that are watched and have not ended.
    left: HashSet<Pid>,
}

impl Processes {
    /// `state` is the state folder: it marks our apps as ours. `left`: whom an earlier supervisor led, by app.
    pub fn new(
        state: &Path,
        home: &Path,
        open_files: Option<u64>,
        guard: Guard,
        left: BTreeMap<String, Leader>,
    ) -> io::Result<Self> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let ours = |name: &str| [COOKIE, STATE, HOOK, LEADER, GUARD].contains(&name);
        wait_for_the_half_born();
        let inherited = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok().filter(|name| !ours(name))?;
            let mut entry = name.clone().into_bytes();
            entry.push(b'=');
            entry.extend(value.into_vec());
            Some((name, CString::new(entry).ok()?))
        });
        Ok(Processes {
            uid: rustix::process::getuid().as_raw(),
            own_pid: rustix::process::getpid().as_raw_nonzero().get(),
            state: state.to_string_lossy().into_owned(),
            environment: inherited.collect(),
            home: CString::new(home.as_os_str().as_encoded_bytes()).unwrap_or_else(|_| c"/".into()),
            null: File::open("/dev/null")?,
            open_files,
            children: HashMap::new(),
            watched: HashMap::new(),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            guard: Some(guard),
            blind: None,
            look: None,
            scattered: HashSet::new(),
            left,
            clearing: BTreeMap::new(),
            out_of_memory_kills: proc::out_of_memory_kills(),
            happened: VecDeque::new(),
            table: None,
            misses: 0,
            strays: None,
        })
    }

    /// Readable when a watched process has ended; then call [`Processes::watched_ended`].
    pub fn wakes(&self) -> io::Result<OwnedFd> {
        self.epoll.try_clone()
    }

    /// Readable when the guard has something to say; then call [`Processes::hear_guard`].
    pub fn guard_wakes(&self) -> io::Result<Option<OwnedFd>> {
        self.guard.as_ref().map(|guard| guard.line.try_clone()).transpose()
    }

    /// Its pid, while it lives.
    pub fn guard(&self) -> Option<Pid> {
        self.guard.as_ref().map(|guard| guard.pid)
    }

    /// What cannot be done as it should be, with the way out.
    pub fn troubles(&self) -> Vec<String> {
        let unguarded = self.guard.is_none().then(|| UNGUARDED.to_string());
        unguarded.into_iter().chain(self.blind.map(String::from)).collect()
    }

    /// What it cannot take now, it does without: it is only for the case that we die.
    pub fn tell_guard(&self, message: &ToGuard, fd: Option<BorrowedFd<'_>>) {
        if let Some(guard) = &self.guard {
            let _ = guard.line.send(message, fd);
        }
    }

    /// Tells the guard how long a drain may take and whether one has begun, when that has changed.
    pub fn tell_guard_of_session(&mut self, stop_budget: Duration, draining: Option<u8>) {
        let Some(guard) = &mut self.guard else { return };
        if guard.stop_budget.replace(stop_budget) != Some(stop_budget) {
            let _ = guard.line.send(&ToGuard::StopBudget(stop_budget), None); // as in `tell_guard`
        }
        if let Some(code) = draining
            && guard.draining.replace(code) != Some(code)
        {
            let _ = guard.line.send(&ToGuard::Draining(code), None); // as in `tell_guard`
        }
    }

    /// Takes in all that the guard has said.
    pub fn hear_guard(&mut self) {
        while let Some(guard) = &mut self.guard {
            match guard.line.hear::<ToSupervisor>() {
                Ok(Heard::Message(ToSupervisor::Exited(exit), _)) => self.passed(exit),
                Ok(Heard::Message(..)) => {}
                Ok(Heard::Nothing) => return,
                Ok(Heard::Closed) | Err(_) => self.guard_is_gone(),
            }
        }
    }

    fn passed(&mut self, exit: ChildExit) {
        let watched = self.watched.get(&exit.pid);
        if watched.is_some_and(|watched| watched.entry.started == exit.started) {
            let how = self.exit(exit.status, false);
            return self.watched_is_gone(exit.pid, how, Some(exit.peak));
        }
        if let Some(told) = self.guard.as_mut().and_then(|guard| guard.told.as_mut()) {
            told.push(exit);
        }
    }

    /// We go on without it; how its children end nobody can say any more.
    fn guard_is_gone(&mut self) {
        let Some(guard) = self.guard.take() else { return };
        tracing::error!(event = "guard.lost", pid = guard.pid, "{UNGUARDED}");
        for (_, pid) in guard.owed {
            self.watched_is_gone(pid, Exit::Unknown, None);
        }
    }

    /// Nobody waits for an earlier supervisor's apps any more: all manifests have been looked at.
    pub fn taken_over(&mut self) {
        if let Some(guard) = &mut self.guard {
            guard.told = None;
        }
    }

    /// When something is to be looked at again, whatever happens.
    pub fn next(&self) -> Option<Instant> {
        let owed = self.guard.iter().flat_map(|guard| &guard.owed).map(|(until, _)| *until);
        owed.chain(self.look).min()
    }

    /// Where no descriptor tells of an end, or what is left could not be seen, only another look helps.
    fn look_at_unheard(&mut self, now: Instant) {
        if self.look.is_none_or(|due| due > now) {
            return;
        }
        let unseen: Vec<AppId> =
            self.clearing.iter().filter(|(_, clearing)| clearing.left.is_empty()).map(|(id, _)| *id).collect();
        self.look = None;
        unseen.into_iter().for_each(|id| self.clear_members(id));
        let unheard = |(_, watched): &(&Pid, &Watched)| watched.pidfd.is_none();
        let owed: Vec<Pid> = self.guard.iter().flat_map(|guard| &guard.owed).map(|(_, pid)| *pid).collect();
        let ended = |(pid, watched): &(&Pid, &Watched)| {
            let lives = |now: Entry| now.started == watched.entry.started && !now.zombie;
            !owed.contains(*pid) && !proc::entry(**pid).is_some_and(lives)
        };
        let gone: Vec<Pid> = self.watched.iter().filter(unheard).filter(ended).map(|(pid, _)| *pid).collect();
        gone.into_iter().for_each(|pid| self.end_of_watched(pid));
        if self.watched.iter().any(|watched| unheard(&watched)) {
            self.look.get_or_insert(now + LOOK);
        }
    }

    /// The name of a living process, and the leader of a tree we know.
    pub fn leader(&self, pid: Pid) -> Option<(Pid, u64)> {
        let started = match self.watched.get(&pid) {
            Some(watched) => watched.entry.started,
            None => proc::entry(pid)?.started,
        };
        Some((pid, started))
    }

    /// What has happened since the last call, oldest first.
    pub fn happened(&mut self) -> Option<(AppId, Event)> {
        self.happened.pop_front()
    }

    /// A new turn of the loop: what `/proc` said is old.
    pub fn forget_table(&mut self) {
        self.table = None;
        self.strays = None;
    }

    /// Starts the app's program. The error says what could not be done and why.
    pub fn spawn(&mut self, id: AppId, run: u64, app: &App, output: BorrowedFd<'_>) -> Result<Pid, String> {
        let pid = self
            .execute(app, run, &app.program.argv, false, output)
            .map_err(|why| explain(app, &app.program.argv[0], why))?;
        self.children.insert(pid, Role::Leader { app: id, run, locks: has_chromium_locks(app) });
        Ok(pid)
    }

    /// Starts a hook's command in the app's environment; the receiver is told how it ended.
    pub fn spawn_hook(
        &mut self,
        id: AppId,
        (run, app): (u64, &App),
        argv: &[String],
        output: BorrowedFd<'_>,
    ) -> Result<(Pid, oneshot::Receiver<Exit>), String> {
        let pid = self.execute(app, run, argv, true, output).map_err(|why| explain(app, &argv[0], why))?;
        let (done, ended) = oneshot::channel();
        self.children.insert(pid, Role::Hook { app: id, done });
        Ok((pid, ended))
    }

    fn execute(
        &self,
        app: &App,
        run: u64,
        argv: &[String],
        hook: bool,
        output: BorrowedFd<'_>,
    ) -> Result<Pid, (sys::Step, io::Error)> {
        let text = |text: &str| CString::new(text).unwrap_or_default(); // `check` has refused NUL
        let words: Vec<CString> = argv.iter().map(|word| text(word)).collect();
        let mut added = vec![text(&format!("{COOKIE}={}:{run}", app.name)), text(&format!("{STATE}={}", self.state))];
        if hook {
            added.push(text(&format!("{HOOK}=1")));
        }
        added.extend(app.program.env.iter().map(|(name, value)| text(&format!("{name}={value}"))));
        let kept = |name: &String| !app.program.env.contains_key(name) && !app.program.env_hidden.contains(name);
        let inherited = self.environment.iter().filter(|(name, _)| kept(name)).map(|(_, entry)| entry.as_c_str());
        let environment: Vec<&CStr> = inherited.chain(added.iter().map(CString::as_c_str)).collect();
        let cwd =
            app.program.cwd.as_deref().map(|folder| CString::new(folder.as_os_str().as_bytes()).unwrap_or_default());
        let score = app.program.oom_score_adj.map(|score| text(&score.to_string()));
        let program = self.program(&argv[0]);
        sys::spawn(&sys::Child {
            program: &program,
            argv: &words,
            env: &environment,
            cwd: Some(cwd.as_deref().unwrap_or(&self.home)),
            stdin: self.null.as_fd(),
            output,
            nice: app.program.nice,
            oom_score_adj: score.as_deref(),
            open_files: self.open_files,
        })
    }

    /// An app's command is absolute since `check`; a hook's may be a name on PATH.
    fn program(&self, name: &str) -> CString {
        let path = |path: PathBuf| CString::new(path.into_os_string().into_vec()).unwrap_or_default();
        if name.contains('/') {
            return path(name.into());
        }
        find_on_path(name).map_or_else(|| path(name.into()), path)
    }

    /// The app's live leader that we did not start, or that an earlier supervisor left; with `by_cookie`
    /// also what carries its cookie. Whatever is found is watched from here on.
    pub fn look_up(&mut self, id: AppId, run: u64, app: &App, by_cookie: bool) -> Found {
        if by_cookie {
            self.scattered.insert(id);
        }
        let left = by_cookie.then(|| self.left.remove(&app.name)).flatten();
        // Dead, but not collected, is as good, unless its end has been told: that is not told twice.
        let ended = left.and_then(|left| self.end_of(left));
        if let Some(left) = left.filter(|_| ended.is_none())
            && let Some(entry) = proc::entry(left.pid)
            && entry.started == left.started
            && self.watch(entry, id, Some(run))
        {
            return Found::Leader(left.pid);
        }
        let found = self.look_around(id, run, app, by_cookie);
        let gone = left.filter(|_| !matches!(found, Found::Leader(_)));
        match gone.and_then(|left| ended.or_else(|| self.end_of(left))) {
            Some(ended) => Found::Ended(self.exit(ended.status, has_chromium_locks(app)), ended.peak),
            None => found,
        }
    }

    /// How a process ended that is gone, if anybody has said so.
    fn end_of(&mut self, left: Leader) -> Option<Ended> {
        self.hear_guard();
        let is_it = |exit: &&ChildExit| (exit.pid, exit.started) == (left.pid, left.started);
        let told = self.guard.as_ref().and_then(|guard| guard.told.as_ref()?.iter().find(is_it));
        left.ended.or(told.map(|exit| Ended { pid: exit.pid, status: exit.status, peak: exit.peak }))
    }

    fn look_around(&mut self, id: AppId, run: u64, app: &App, by_cookie: bool) -> Found {
        if let Some(found) = self.find(app, by_cookie) {
            if found.parent == self.own_pid {
                let role = Role::Leader { app: id, run, locks: has_chromium_locks(app) };
                self.children.insert(found.pid, role);
                return Found::Leader(found.pid);
            }
            if self.watch(found, id, Some(run)) {
                return Found::Leader(found.pid);
            }
        }
        if self.surely_empty(id) {
            return Found::Nothing;
        }
        let mut alive = self.members(id, &app.name);
        alive.retain(|member| self.children.contains_key(&member.pid) || self.watch(*member, id, None));
        if alive.is_empty() && !self.missed() {
            self.scattered.remove(&id);
            return Found::Nothing;
        }
        Found::Remains
    }

    fn find(&mut self, app: &App, by_cookie: bool) -> Option<Entry> {
        let table = self.table();
        let is_it = |seen: &&Seen| {
            let cookie = seen.cookie();
            if cookie.hook || cookie.state.as_ref().is_some_and(|state| *state != self.state) {
                return false;
            }
            let ours = cookie.app.as_deref() == Some(&app.name);
            if by_cookie && ours && cookie.leader == Some(seen.entry.pid) {
                return true;
            }
            let free = cookie.app.is_none() || ours;
            free && app.matcher.as_ref().is_some_and(|matcher| matcher.is(seen.command_line()))
        };
        let candidates = table.iter().filter(|seen| !self.known(seen.entry.pid));
        candidates.filter(is_it).map(|seen| seen.entry).next()
    }

    fn known(&self, pid: Pid) -> bool {
        self.children.contains_key(&pid) || self.watched.get(&pid).is_some_and(|watched| watched.leader.is_some())
    }

    /// Watches a process that is not our child. False: it is gone already.
    fn watch(&mut self, entry: Entry, app: AppId, leader: Option<u64>) -> bool {
        if let Some(watched) = self.watched.get_mut(&entry.pid) {
            watched.leader = leader.or(watched.leader);
            return true;
        }
        let Some(pid) = rustix::process::Pid::from_raw(entry.pid) else { return false };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Some(pidfd),
            Err(rustix::io::Errno::SRCH) => return false,
            Err(error) => {
                let full = matches!(error, rustix::io::Errno::MFILE | rustix::io::Errno::NFILE);
                self.blind = Some(if full { NO_DESCRIPTOR } else { NO_PIDFD });
                self.look.get_or_insert_with(|| Instant::now() + LOOK);
                None
            }
        };
        // The descriptor is of whoever has the pid now: only the start time tells that it is the one we saw.
        let same = proc::entry(entry.pid).is_some_and(|now| now.started == entry.started && now.zombie == entry.zombie);
        let data = epoll::EventData::new_u64(entry.pid as u64);
        let added = |pidfd| epoll::add(&self.epoll, pidfd, data, epoll::EventFlags::IN).is_ok();
        if !same || !pidfd.as_ref().is_none_or(added) {
            return false;
        }
        self.watched.insert(entry.pid, Watched { pidfd, entry, app, leader });
        self.scattered.insert(app);
        true
    }

    /// Collects every child that has ended. How a leader did is written down first, by `note`: until it is
    /// collected, the guard would be told in our stead.
    pub fn reap(&mut self, mut note: impl FnMut(Ended)) {
        while let Some(ended) = sys::ended() {
            if matches!(self.children.get(&ended.pid), Some(Role::Leader { .. })) {
                note(ended);
            }
            sys::collect(ended.pid);
            self.child_ended(ended);
        }
    }

    fn child_ended(&mut self, reaped: Ended) {
        // What it leaves behind has just been handed to us: an answer from before it ended is wrong now.
        self.forget_table();
        match self.children.remove(&reaped.pid) {
            Some(Role::Leader { app, run, locks }) => {
                let exit = self.exit(reaped.status, locks);
                self.happened.push_back((app, Event::Exited { run, exit, peak: Some(reaped.peak) }));
                self.one_less(app, reaped.pid);
            }
            Some(Role::Hook { app, done }) => {
                let exit = self.exit(reaped.status, false);
                let _ = done.send(exit); // a cancelled hook has nobody who listens
                self.one_less(app, reaped.pid);
            }
            None => self.watched_is_gone(reaped.pid, self.exit_of_stray(reaped.status), Some(reaped.peak)),
        }
    }

    /// Takes note of every watched process that has ended.
    pub fn watched_ended(&mut self) {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            let room = rustix::buffer::spare_capacity(&mut events);
            if epoll::wait(&self.epoll, room, Some(&now)).is_err() || events.is_empty() {
                return;
            }
            for event in &events {
                self.end_of_watched(event.data.u64() as Pid);
            }
        }
    }

    fn end_of_watched(&mut self, pid: Pid) {
        self.hear_guard(); // it may be first
        let Some(watched) = self.watched.get(&pid).filter(|watched| watched.leader.is_some()) else {
            return self.watched_is_gone(pid, Exit::Unknown, None);
        };
        // Of one that is being collected in this very moment the kernel says that its parent is 0.
        let parent = proc::entry(pid).map_or(0, |entry| entry.parent);
        let parent = if parent == 0 { watched.entry.parent } else { parent };
        if let Some(guard) = self.guard.as_mut().filter(|guard| guard.pid == parent) {
            if let Some(pidfd) = &watched.pidfd {
                let _ = epoll::delete(&self.epoll, pidfd); // or it would be told for ever
            }
            guard.owed.push((Instant::now() + GUARDS_WORD, pid));
            return;
        }
        self.watched_is_gone(pid, Exit::Unknown, None);
    }

    /// Those of whom the guard should have told by now.
    pub fn give_up_waiting(&mut self, now: Instant) {
        self.look_at_unheard(now);
        let Some(guard) = &mut self.guard else { return };
        let late: Vec<Pid> = guard.owed.iter().filter(|(until, _)| *until <= now).map(|(_, pid)| *pid).collect();
        late.into_iter().for_each(|pid| self.watched_is_gone(pid, Exit::Unknown, None));
    }

    fn watched_is_gone(&mut self, pid: Pid, exit: Exit, peak: Option<u64>) {
        let Some(watched) = self.watched.remove(&pid) else { return };
        if let Some(guard) = &mut self.guard {
            guard.owed.retain(|(_, owed)| *owed != pid);
        }
        if let Some(pidfd) = &watched.pidfd {
            let _ = epoll::delete(&self.epoll, pidfd); // closing it does the same
        }
        if let Some(run) = watched.leader {
            self.happened.push_back((watched.app, Event::Exited { run, exit, peak }));
        }
        self.one_less(watched.app, pid);
    }

    fn exit(&mut self, status: i32, locks: bool) -> Exit {
        match (libc::WIFEXITED(status), libc::WEXITSTATUS(status), libc::WTERMSIG(status)) {
            (true, 0, _) => Exit::Clean,
            (true, 21, _) if locks => Exit::ProfileLocked,
            (true, code, _) => Exit::Code(code),
            (false, _, libc::SIGKILL) if self.memory_ran_out() => Exit::OutOfMemory,
            (false, _, signal) => Exit::Signal(signal),
        }
    }

    fn exit_of_stray(&self, status: i32) -> Exit {
        match libc::WIFEXITED(status) {
            true if libc::WEXITSTATUS(status) == 0 => Exit::Clean,
            true => Exit::Code(libc::WEXITSTATUS(status)),
            false => Exit::Signal(libc::WTERMSIG(status)),
        }
    }

    fn memory_ran_out(&mut self) -> bool {
        let before = std::mem::replace(&mut self.out_of_memory_kills, proc::out_of_memory_kills());
        self.out_of_memory_kills > before
    }

    /// Signals an app's leader. A child that has not been collected keeps its pid, so the pid is enough.
    pub fn signal(&self, pid: Pid, signal: i32) {
        match self.watched.get(&pid) {
            Some(watched) => send(watched.pidfd.as_ref(), pid, signal),
            None if self.children.contains_key(&pid) => send(None, pid, signal),
            None => {}
        }
    }

    /// Asks everything that is left of the app's tree to end; `TreeEmpty` follows when it has.
    pub fn clear(&mut self, id: AppId, run: u64, name: &str, signal: i32) {
        if let Some(clearing) = self.clearing.get_mut(&id)
            && clearing.signal == signal
            && clearing.run == run
        {
            return;
        }
        let clearing = Clearing { run, name: name.into(), signal, left: HashSet::new() };
        self.clearing.insert(id, clearing);
        self.table = None;
        self.clear_members(id);
    }

    /// Looks again at what is left, signals it, and waits for its end or says that there is none.
    fn clear_members(&mut self, id: AppId) {
        let Some(Clearing { run, name, signal, .. }) = self.clearing.get(&id) else { return };
        let (run, name, signal) = (*run, name.clone(), *signal);
        let surely_empty = self.surely_empty(id);
        let members = if surely_empty { Vec::new() } else { self.members(id, &name) };
        let mut left = HashSet::new();
        for member in members {
            let child = self.children.contains_key(&member.pid);
            if child || self.watch(member, id, None) {
                left.insert(member.pid);
                self.signal(member.pid, signal);
            }
        }
        if left.is_empty() && !surely_empty && self.missed() {
            self.look.get_or_insert_with(|| Instant::now() + LOOK);
        } else if left.is_empty() {
            self.scattered.remove(&id);
            self.clearing.remove(&id);
            self.happened.push_back((id, Event::TreeEmpty { run }));
        } else if let Some(clearing) = self.clearing.get_mut(&id) {
            clearing.left = left;
        }
    }

    /// What of an app that is to end is alive, in words; `leader`: where there is one.
    pub fn holding_up(&self, id: AppId, leader: Option<Pid>) -> Vec<String> {
        let left = self.clearing.get(&id).map(|clearing| clearing.left.iter().copied().collect());
        let mut pids: Vec<Pid> = left.unwrap_or_else(|| leader.into_iter().collect());
        pids.sort_unstable();
        pids.into_iter().filter_map(proc::in_words).collect()
    }

    /// Kills a hook's command with all it has started.
    pub fn kill_hook(&mut self, pid: Pid) {
        self.table = None;
        let table = self.table();
        // Its own pid may be somebody else's since it was collected; its session lives as long as a member does.
        let own = self.children.contains_key(&pid).then_some(pid);
        let session = table.iter().map(|seen| seen.entry).filter(|entry| entry.session == pid).map(|entry| entry.pid);
        for member in descendants(&table, session.chain(own)) {
            send(None, member, libc::SIGKILL);
        }
    }

    fn one_less(&mut self, id: AppId, pid: Pid) {
        let Some(clearing) = self.clearing.get_mut(&id) else { return };
        clearing.left.remove(&pid);
        if clearing.left.is_empty() {
            self.clear_members(id);
        }
    }

    /// The quick answer for the usual case. All that outlives a leader we started has been handed to us:
    /// when every child we have is a known one, and none of them is this app's, nothing is left of it.
    fn surely_empty(&mut self, id: AppId) -> bool {
        if self.scattered.contains(&id) {
            return false;
        }
        let strays = match self.strays {
            Some(known) => known,
            None => {
                let children = proc::children(self.own_pid);
                let strays = children.is_none_or(|all| all.iter().any(|pid| !self.children.contains_key(pid)));
                self.strays = Some(strays);
                strays
            }
        };
        let of_app = |role: &Role| match role {
            Role::Leader { app, .. } | Role::Hook { app, .. } => *app == id,
        };
        !strays && !self.watched.values().any(|watched| watched.app == id) && !self.children.values().any(of_app)
    }

    /// Every live process of the app's tree.
    fn members(&mut self, id: AppId, name: &str) -> Vec<Entry> {
        let table = self.table();
        let of_app = |pid: Pid| {
            let role = self.children.get(&pid);
            let child = matches!(role, Some(Role::Leader { app, .. } | Role::Hook { app, .. }) if *app == id);
            child || self.watched.get(&pid).is_some_and(|watched| watched.app == id)
        };
        let roots = table
            .iter()
            .filter(|seen| of_app(seen.entry.pid) || of_app(seen.entry.session) || self.carries(seen, name));
        let found = descendants(&table, roots.map(|seen| seen.entry.pid));
        table.iter().map(|seen| seen.entry).filter(|entry| found.contains(&entry.pid)).collect()
    }

    fn carries(&self, seen: &Seen, name: &str) -> bool {
        let cookie = seen.cookie();
        cookie.app.as_deref() == Some(name) && cookie.state.as_deref() == Some(&self.state)
    }

    /// Resident bytes of the app's whole tree.
    pub fn measure(&mut self, id: AppId, name: &str) -> u64 {
        self.table = None;
        self.members(id, name).iter().map(|member| proc::resident(member.pid)).sum()
    }

    /// Resident bytes of a process and all that descends from it.
    pub fn resident_with_descendants(&mut self, pid: Pid) -> u64 {
        let table = self.table();
        descendants(&table, [pid]).into_iter().map(proc::resident).sum()
    }

    /// Whether the table may lack something.
    fn missed(&self) -> bool {
        self.misses != proc::misses()
    }

    /// Without us: whoever started us may itself be one of a tree (a terminal in which somebody runs us).
    fn table(&mut self) -> Rc<Vec<Seen>> {
        let (uid, own_pid) = (self.uid, self.own_pid);
        let misses = &mut self.misses;
        let read = || {
            *misses = proc::misses();
            let others = proc::processes_of(uid).into_iter().filter(|entry| entry.pid != own_pid);
            Rc::new(
                others.map(|entry| Seen { entry, cookie: OnceCell::new(), command_line: OnceCell::new() }).collect(),
            )
        };
        self.table.get_or_insert_with(read).clone()
    }
}

impl Guard {
    /// `told`: how processes ended that an earlier supervisor has left.
    pub fn new(line: Line, told: Vec<ChildExit>) -> Guard {
        let pid = rustix::process::getppid().map_or(1, |pid| pid.as_raw_nonzero().get());
        Guard { line, pid, told: Some(told), owed: Vec::new(), stop_budget: None, draining: None }
    }
}

fn descendants(table: &[Seen], roots: impl IntoIterator<Item = Pid>) -> HashSet<Pid> {
    proc::with_descendants(table.iter().map(|seen| &seen.entry), roots)
}

/// What the environment of a process says about whose it is.
#[derive(Default)]
struct Cookie {
    app: Option<String>,
    state: Option<String>,
    /// The pid of the process that was spawned with it; others have inherited it.
    leader: Option<Pid>,
    hook: bool,
}

impl Cookie {
    fn of(pid: Pid) -> Self {
        let environment = proc::environment(pid);
        let Some(app) = proc::variable(&environment, COOKIE) else { return Cookie::default() };
        Cookie {
            app: app.rsplit_once(':').map(|(name, _)| name.into()),
            state: proc::variable(&environment, STATE),
            leader: proc::variable(&environment, LEADER).and_then(|pid| pid.parse().ok()),
            hook: proc::variable(&environment, HOOK).is_some(),
        }
    }
}

/// A supervisor that was killed while it started an app leaves a copy of itself behind, which turns into the app
/// a moment later. Until then it carries no cookie: who looked for the app now would not find it, and double it.
fn wait_for_the_half_born() {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let guard = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    let half_born = |entry: &Entry| {
        let environment = proc::environment(entry.pid);
        let named = proc::variable(&environment, GUARD).and_then(|pid| pid.parse().ok());
        let may_be = named.is_some_and(|named| may_be_of_ours(named, entry.parent, guard));
        entry.pid != own && may_be && proc::variable(&environment, COOKIE).is_none() && !is_supervisor(entry)
    };
    let uid = rustix::process::getuid().as_raw();
    let until = Instant::now() + HALF_BORN;
    while proc::processes_of(uid).iter().any(half_born) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A guard starts its supervisor as the leader of a process group, in the session that it is in itself. A copy leads
/// its own session, or no group yet.
fn is_supervisor(entry: &Entry) -> bool {
    let group = rustix::process::Pid::from_raw(entry.pid).and_then(|pid| rustix::process::getpgid(Some(pid)).ok());
    group.is_some_and(|group| group.as_raw_nonzero().get() == entry.pid) && entry.session != entry.pid
}

/// Whether a supervisor, or a copy of one, may be of this session. `named`: the guard in its environment. A child of
/// another guard is the supervisor of another session, and stays one.
fn may_be_of_ours(named: Pid, parent: Pid, guard: Option<Pid>) -> bool {
    Some(named) == guard || named != parent
}

/// Whether this live process is one of the app's, by cookie or pattern: a lock it holds is not stale.
pub fn belongs(app: &App, pid: Pid) -> bool {
    let by_cookie = Cookie::of(pid).app.as_deref() == Some(&app.name);
    by_cookie || app.matcher.as_ref().is_some_and(|matcher| matcher.is(&proc::command_line(pid)))
}

/// Signals a process that may be gone: that is no error.
fn send(pidfd: Option<&OwnedFd>, pid: Pid, signal: i32) {
    let Some(signal) = Signal::from_named_raw(signal) else { return };
    let _ = match (pidfd, rustix::process::Pid::from_raw(pid)) {
        (Some(pidfd), _) => pidfd_send_signal(pidfd, signal),
        (None, Some(pid)) => kill_process(pid, signal),
        (None, None) => Ok(()),
    };
}

fn has_chromium_locks(app: &App) -> bool {
    let clears = |hook: &Hook| matches!(hook.step, Step::ClearLocks { kind: LockKind::Chromium, .. });
    app.hooks.prelaunch.iter().any(clears)
}

/// The first executable file of that name on PATH.
pub fn find_on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| executable(file))
}

/// A regular file that we may execute.
pub fn executable(file: &Path) -> bool {
    file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
}

fn explain(app: &App, program: &str, (step, error): (sys::Step, io::Error)) -> String {
    match (step, error.kind(), error.raw_os_error()) {
        (sys::Step::Exec, io::ErrorKind::NotFound, _) if Path::new(program).exists() => {
            format!("the interpreter that `{program}` names does not exist")
        }
        (sys::Step::Exec, io::ErrorKind::NotFound, _) => format!("`{program}` does not exist"),
        (sys::Step::Exec, io::ErrorKind::PermissionDenied, _) => {
            format!("`{program}` may not be executed by this user")
        }
        (sys::Step::Exec, _, Some(libc::ENOEXEC)) => {
            format!("`{program}` is neither a program nor a script that begins with `#!`")
        }
        (sys::Step::Exec, ..) => format!("`{program}`: {error}"),
        (sys::Step::WorkingFolder, ..) => {
            format!(
                "working folder `{}`: {error} (`cwd`)",
                app.program.cwd.as_deref().unwrap_or(Path::new("home")).display()
            )
        }
        (sys::Step::Nice, ..) => format!("priority: {error} (`limits.nice`: only root may lower it)"),
        (sys::Step::OomScore, ..) => format!("oom score: {error} (`limits.oom_score_adj`: only root may lower it)"),
        (sys::Step::Clone, ..) => format!("no new process: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_supervisor_of_another_session_is_not_waited_for() {
        let ours = Some(10);
        assert!(may_be_of_ours(10, 10, ours), "left by the supervisor before us");
        assert!(may_be_of_ours(20, 1, ours), "its guard has died with it");
        assert!(!may_be_of_ours(20, 20, ours), "another guard has a supervisor");
    }
}
