//! The guard: the process that `kasm-void run` starts as, and that outlives every supervisor. It holds what must not
//! go with one: the lock of the state folder, the apps' output pipes, and how processes exited meanwhile. One thread,
//! no runtime. Decides nothing: `model::guard` does, and this carries out its effects.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::set_child_subreaper;

use crate::host::handover::Handover;
use crate::host::layout::{self, StateFolder};
use crate::host::link::{GUARD, Heard, Line};
use crate::host::proc::{self, Process};
use crate::host::{signals, sys};
use crate::model::guard::{ChildExit, Effect, Guard, Input, ToGuard, ToSupervisor};

/// The guard's own binary, even when its file has been replaced or deleted.
const OURSELVES: &str = "/proc/self/exe";

/// Runs supervisors, with the arguments that this process has, until the session is over. Returns the code that the
/// session ends with. `environment`: added to that of every supervisor.
///
/// `inherited`: what the supervisor held that became this guard.
pub fn run(
    state: &Path,
    environment: BTreeMap<String, String>,
    inherited: Option<Handover>,
) -> anyhow::Result<ExitCode> {
    let _ = rustix::thread::set_name(c"kasm-void"); // executed as /proc/self/exe, it would be called `exe`
    // A guard that was killed has lost its name; somebody who had it by now holds no lock.
    let mut name = inherited.as_ref().and_then(|_| layout::take_name(&layout::resolved(state)).ok().flatten());
    let (guard, others, Handover { lock, pipes, open_files, .. }) = match inherited {
        Some(held) => (Guard::resumed(held.deaths, held.pipes.keys().cloned().collect()), Vec::new(), held),
        None => {
            let (lock, taken) = StateFolder::take(state)?.into_lock();
            name = taken;
            let held = Handover { lock, pipes: BTreeMap::new(), deaths: 0, open_files: sys::raise_open_files() };
            (Guard::default(), children().into_iter().filter_map(proc::process).collect(), held)
        }
    };
    set_child_subreaper(Some(rustix::process::getpid())).context("cannot become the reaper of apps")?;
    let signals = sys::signal_fd(&sys::catchable_signals()).context("cannot receive signals")?;
    let mut shell = Shell {
        guard,
        folder: layout::resolved(state),
        lock,
        _name: name,
        signals,
        environment,
        open_files,
        supervisor: None,
        pipes,
        attached: None,
        others,
        origin: Instant::now(),
        exit: None,
    };
    shell.handle(Input::Began);
    sys::slim_down();
    loop {
        if let Some(code) = shell.exit {
            return Ok(ExitCode::from(code));
        }
        shell.wait();
        shell.take_signals();
        shell.hear();
        shell.reap();
        shell.handle(Input::TimePassed);
    }
}

struct Shell {
    guard: Guard,
    /// The state folder.
    folder: PathBuf,
    lock: OwnedFd,
    /// Keeps others out when the lock's file is deleted.
    _name: Option<OwnedFd>,
    signals: OwnedFd,
    /// For supervisors, beside our own.
    environment: BTreeMap<String, String>,
    /// Our soft limit of open files before it was raised: there is a pipe for each app.
    open_files: Option<u64>,
    supervisor: Option<Supervisor>,
    pipes: BTreeMap<String, OwnedFd>,
    /// The descriptor that came with the message that is being handled.
    attached: Option<OwnedFd>,
    /// Children that this process had before it became the guard (a script may have executed it). They are nobody's
    /// app, and are left alone.
    others: Vec<Process>,
    origin: Instant,
    exit: Option<u8>,
}

struct Supervisor {
    pid: i32,
    /// `None`: it has closed its end.
    line: Option<Line>,
}

impl Shell {
    fn handle(&mut self, input: Input) {
        let effects = self.guard.handle(self.origin.elapsed(), input);
        self.send_messages();
        for effect in effects {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Start(binary) => self.start(binary.as_deref().map_or(Path::new(OURSELVES), Path::new)),
            Effect::Forward(signal) => self.signal_supervisor(signal),
            Effect::KillSupervisor => self.signal_supervisor(libc::SIGKILL),
            Effect::TerminateAll => signals::send_to_descendants(&[libc::SIGTERM, libc::SIGCONT], &self.others),
            Effect::KillAll => signals::send_to_descendants(&[libc::SIGKILL], &self.others),
            Effect::Collect(pid) => sys::collect(pid),
            Effect::Hold(app) => {
                if let Some(pipe) = self.attached.take() {
                    self.pipes.insert(app, pipe);
                }
            }
            Effect::Release(app) => drop(self.pipes.remove(&app)),
            Effect::KeepLock => {
                if let Some(lock) = self.attached.take() {
                    self.lock = lock;
                }
            }
            Effect::Warn(text) => warn(&text),
            Effect::Forget => {
                // At worst the next session takes what it finds there for its own.
                let _ = std::fs::remove_file(layout::ledger(&self.folder));
            }
            Effect::Exit(code) => self.exit = Some(code),
        }
    }

    fn start(&mut self, binary: &Path) {
        match self.spawn(binary) {
            Ok(supervisor) => {
                self.supervisor = Some(supervisor);
                self.handle(Input::Started);
            }
            Err(error) => self.handle(Input::NotStarted(error.to_string())),
        }
    }

    fn spawn(&self, binary: &Path) -> io::Result<Supervisor> {
        let (ours, theirs) = Line::pair()?;
        let words: Vec<OsString> = std::env::args_os().collect();
        let mut command = Command::new(binary);
        command.arg0(words.first().map_or(OsStr::new("kasm-void"), OsString::as_os_str)).args(words.iter().skip(1));
        // In a process group of its own: a Ctrl-C would reach it twice otherwise, from the terminal and from us.
        command.env(GUARD, std::process::id().to_string()).stdin(Stdio::from(theirs.into_fd())).process_group(0);
        command.envs(&self.environment);
        Handover::forget(&mut command);
        sys::start_unblocked(&mut command, self.open_files);
        let child = command.spawn()?;
        Ok(Supervisor { pid: child.id() as i32, line: Some(ours) })
    }

    /// Until a signal, a message, room for a message, or the next deadline.
    fn wait(&self) {
        let timeout = self.guard.next_moment().map(|due| sys::timeout(due.saturating_sub(self.origin.elapsed())));
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        if let Some(Supervisor { line: Some(line), .. }) = &self.supervisor {
            let behind = self.guard.unsent().is_some();
            fds.push(PollFd::new(line, if behind { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN }));
        }
        let _ = poll(&mut fds, timeout.as_ref()); // however this ends, what follows finds out what is there
    }

    fn take_signals(&mut self) {
        while let Some(signal) = sys::next_signal(&self.signals) {
            if signal != libc::SIGCHLD {
                self.handle(Input::Signalled(signal));
            }
        }
    }

    /// Everything the supervisor has sent.
    fn hear(&mut self) {
        while let Some(Supervisor { line: Some(line), .. }) = &self.supervisor {
            match line.hear::<ToGuard>() {
                // Without its descriptor it says nothing.
                Ok(Heard::Message(ToGuard::Hold(_) | ToGuard::Lock, None)) => {}
                Ok(Heard::Message(message, fd)) => {
                    self.attached = fd;
                    self.handle(Input::Heard(message));
                    self.attached = None;
                }
                Ok(Heard::Nothing) => return,
                Ok(Heard::Closed) => self.close_line(),
                Err(_) => {} // a message of another version: the next one may be known
            }
        }
    }

    fn close_line(&mut self) {
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.line = None;
            self.handle(Input::LineClosed);
        }
    }

    fn send_messages(&mut self) {
        while let Some(Supervisor { line: Some(line), .. }) = &self.supervisor
            && let Some(message) = self.guard.unsent()
        {
            match line.send(&message, self.descriptor_of(&message)) {
                Ok(()) => self.guard.sent(),
                Err(_) => return, // there is no room now, or nobody to hear it: `hear` notices
            }
        }
    }

    fn descriptor_of(&self, message: &ToSupervisor) -> Option<BorrowedFd<'_>> {
        match message {
            ToSupervisor::Hello(_) => Some(self.lock.as_fd()),
            ToSupervisor::Pipe(app) => self.pipes.get(app).map(AsFd::as_fd),
            ToSupervisor::Exited(_) | ToSupervisor::Go => None,
        }
    }

    /// Tells the guard of every child that has exited.
    fn reap(&mut self) {
        while let Some(ended) = sys::ended() {
            if self.supervisor.as_ref().is_some_and(|supervisor| supervisor.pid == ended.pid) {
                self.hear(); // its last messages
                sys::collect(ended.pid);
                self.supervisor = None;
                self.handle(Input::SupervisorExited(ended.status));
            } else {
                let started = proc::process(ended.pid).map_or(0, |process| process.started);
                let exit = ChildExit { pid: ended.pid, started, status: ended.status, peak: ended.peak };
                self.handle(Input::ChildExited(exit));
            }
        }
        if sys::childless() || !self.others.is_empty() && children().iter().all(|pid| self.is_other(*pid)) {
            self.handle(Input::NoChildren);
        }
    }

    fn is_other(&self, pid: i32) -> bool {
        self.others.iter().any(|other| other.pid == pid)
    }

    fn signal_supervisor(&self, signal: i32) {
        if let Some(supervisor) = &self.supervisor {
            signals::send(supervisor.pid, signal);
        }
    }
}

fn children() -> Vec<i32> {
    proc::children(std::process::id() as i32).unwrap_or_default()
}

/// For people; never waits for whoever reads stderr.
fn warn(text: &str) {
    let stderr = io::stderr();
    if poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], Some(&Timespec::default())).is_ok_and(|ready| ready > 0) {
        let _ = writeln!(io::stderr(), "kasm-void: {text}"); // nobody may be reading
    }
}
