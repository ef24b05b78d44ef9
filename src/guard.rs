//! The guard: the process that `kasm-void run` starts as, and that outlives every supervisor. It holds what must
//! survive a supervisor: the lock of the state folder, the apps' output pipes, and the exits of processes in between.
//! Runs on one thread, without a runtime. Makes no decisions: `model::guard` decides, and this file carries out its
//! effects.
//!
//! The first supervisor is a fork of the guard. That saves it the start of a program, which takes as long as the start of
//! an app, and the memory of it: what neither of the two writes to is there once. Later supervisors are executed, so
//! that they may come from another binary, and from a clean state.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::mem::take;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::set_child_subreaper;

use crate::host::handover::Handover;
use crate::host::layout::{self, StateFolder};
use crate::host::link::{GUARD, Heard, Link};
use crate::host::proc::{self, Process};
use crate::host::{marks, null, privacy, signals, sys};
use crate::model::guard::{Binary, ChildExit, Guard, GuardEffect, GuardInput, ToGuard, ToSupervisor};

/// The guard's own binary, even when its file has been replaced or deleted.
const OURSELVES: &str = "/proc/self/exe";

/// The role of this process when [`run`] returns.
pub enum Role {
    /// The guard of a session that is over, with its exit code.
    Guard(ExitCode),
    /// The first supervisor, with its end of the line to the guard.
    Supervisor(Link),
}

/// Runs supervisors, with this process's own arguments, until the session is over. Returns a second time, in another
/// process: the first supervisor. Call it while this process has one thread. `environment` is added to the environment of
/// every supervisor.
///
/// `inherited`: the locks and pipes of the supervisor that became this guard.
pub fn run(state: &Path, environment: BTreeMap<String, String>, inherited: Option<Handover>) -> anyhow::Result<Role> {
    privacy::hide();
    let _ = rustix::thread::set_name(marks::GUARD_NAME); // cannot fail: it is short, and the thread is our own
    // The name of a killed guard is free again. If another process has taken it by now, that process does not hold
    // the lock, so continue without the name.
    let mut name = inherited.as_ref().and_then(|_| layout::take_name(&layout::resolved(state)).ok().flatten());
    let (guard, others, Handover { lock, pipes, open_files, signal, .. }) = match inherited {
        Some(held) => (Guard::resumed(held.deaths, held.pipes.keys().cloned().collect()), Vec::new(), held),
        None => {
            let (lock, taken) = StateFolder::take(state)?.into_lock();
            name = taken;
            let open_files = sys::raise_open_files();
            let held = Handover { lock, pipes: BTreeMap::new(), deaths: 0, open_files, signal: None };
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
        first: true,
        is_settled: false,
        pipes,
        binaries: BTreeMap::new(),
        attached: None,
        others,
        origin: Instant::now(),
        ends_as: None,
    };
    // First, so that the supervisor knows of it from the start.
    if let Some(signal) = signal {
        shell.handle(GuardInput::Signalled(signal));
    }
    shell.handle(GuardInput::Began);
    loop {
        if let Some(role) = shell.ends_as.take() {
            return Ok(role);
        }
        shell.wait();
        shell.take_signals();
        shell.hear();
        shell.reap();
        shell.handle(GuardInput::TimePassed);
    }
}

/// The guard's resources. One type because an effect may need any of them.
struct Shell {
    guard: Guard,
    /// The state folder.
    folder: PathBuf,
    lock: OwnedFd,
    /// Keeps other sessions out even if the lock file is deleted. See [`layout::take_name`].
    _name: Option<OwnedFd>,
    signals: OwnedFd,
    /// Variables for supervisors, in addition to our own.
    environment: BTreeMap<String, String>,
    /// Our soft limit of open files before we raised it; each app needs a pipe.
    open_files: Option<u64>,
    supervisor: Option<Supervisor>,
    /// No supervisor was started yet.
    first: bool,
    /// A supervisor has become ready since memory was last given back.
    is_settled: bool,
    pipes: BTreeMap<String, OwnedFd>,
    /// Binaries of upgrades, by their number.
    binaries: BTreeMap<u32, OwnedFd>,
    /// The descriptor that came with the message being handled.
    attached: Option<OwnedFd>,
    /// Children that this process had before it became the guard, for example because a script ran `exec
    /// kasm-void`. They belong to no app and are left alone.
    others: Vec<Process>,
    origin: Instant,
    /// The value that [`run`] returns, once it is decided.
    ends_as: Option<Role>,
}

struct Supervisor {
    pid: i32,
    /// `None` once the supervisor has closed its end.
    line: Option<Link>,
}

impl Shell {
    fn handle(&mut self, input: GuardInput) {
        let effects = self.guard.handle(self.origin.elapsed(), input);
        self.send_messages();
        for effect in effects {
            self.perform(effect);
        }
        self.binaries.retain(|number, _| self.guard.needs(*number));
    }

    fn perform(&mut self, effect: GuardEffect) {
        match effect {
            GuardEffect::Start(binary) => self.start(binary.as_ref()),
            GuardEffect::Forward(signal) => self.signal_supervisor(signal),
            GuardEffect::KillSupervisor => self.signal_supervisor(libc::SIGKILL),
            GuardEffect::TerminateAll => self.signal_all(&[libc::SIGTERM, libc::SIGCONT]),
            GuardEffect::KillAll => self.signal_all(&[libc::SIGKILL]),
            GuardEffect::Collect(pid) => sys::collect(pid),
            GuardEffect::Hold(app) => {
                if let Some(pipe) = self.attached.take() {
                    self.pipes.insert(app, pipe);
                }
            }
            GuardEffect::Release(app) => drop(self.pipes.remove(&app)),
            GuardEffect::HoldBinary(number) => {
                if let Some(binary) = self.attached.take() {
                    self.binaries.insert(number, binary);
                }
            }
            GuardEffect::KeepLock => {
                if let Some(lock) = self.attached.take() {
                    self.lock = lock;
                }
            }
            GuardEffect::Warn(text) => warn(&text),
            GuardEffect::Forget => {
                // If this fails, the next session may mistake the old ledger for its own.
                let _ = std::fs::remove_file(layout::ledger(&self.folder));
            }
            GuardEffect::Exit(code) => self.ends_as = Some(Role::Guard(ExitCode::from(code))),
        }
    }

    fn start(&mut self, binary: Option<&Binary>) {
        let first = std::mem::take(&mut self.first);
        let started = if first && binary.is_none() { self.fork() } else { self.spawn(binary).map(Some) };
        match started {
            Ok(Some(supervisor)) => {
                self.supervisor = Some(supervisor);
                self.handle(GuardInput::Started);
            }
            Ok(None) => {} // this process is the supervisor
            Err(error) => self.handle(GuardInput::NotStarted(error.to_string())),
        }
    }

    /// Starts a supervisor as a fork. `None` in the fork: it returns from [`run`], which closes what is the guard's.
    fn fork(&mut self) -> io::Result<Option<Supervisor>> {
        let (ours, theirs) = Link::pair()?;
        let null = null::open()?;
        if let Some(pid) = sys::fork(self.open_files)? {
            return Ok(Some(Supervisor { pid, line: Some(ours) }));
        }
        // The rest is what `spawn` asks for. None of it can fail, and from here on this process must not act as a guard.
        let _ = rustix::process::setpgid(None, None);
        let _ = rustix::stdio::dup2_stdin(&null);
        for (name, value) in &self.environment {
            sys::set_variable(name, Some(value));
        }
        Handover::forget_here();
        self.ends_as = Some(Role::Supervisor(theirs));
        Ok(None)
    }

    fn spawn(&self, binary: Option<&Binary>) -> io::Result<Supervisor> {
        let held = binary.and_then(|binary| self.binaries.get(&binary.number));
        let program = match (binary, held) {
            (None, _) => OURSELVES.into(),
            (_, Some(held)) => format!("/proc/self/fd/{}", held.as_raw_fd()),
            (Some(_), None) => return Err(io::Error::new(io::ErrorKind::NotFound, "its descriptor was lost")),
        };
        let (ours, theirs) = Link::pair()?;
        let words: Vec<OsString> = std::env::args_os().collect();
        let mut command = Command::new(program);
        command.arg0(words.first().map_or(OsStr::new("kasm-void"), OsString::as_os_str)).args(words.iter().skip(1));
        // In its own process group: otherwise Ctrl-C would reach it twice, from the terminal and from us.
        command.env(GUARD, std::process::id().to_string()).stdin(Stdio::from(theirs.into_fd())).process_group(0);
        command.envs(&self.environment);
        Handover::forget(&mut command);
        // A script needs the descriptor too, for its interpreter.
        sys::start_unblocked(&mut command, self.open_files, held.map(AsFd::as_fd));
        let child = command.spawn()?;
        Ok(Supervisor { pid: child.id() as i32, line: Some(ours) })
    }

    /// Waits for a signal, a message, room to send a message, or the next deadline.
    fn wait(&mut self) {
        let timeout = self.guard.next_moment().map(|due| sys::timeout(due.saturating_sub(self.origin.elapsed())));
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        if let Some(Supervisor { line: Some(line), .. }) = &self.supervisor {
            let behind = self.guard.unsent().is_some();
            fds.push(PollFd::new(line, if behind { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN }));
        }
        if take(&mut self.is_settled) {
            sys::slim_down(); // from now on we only wait, and what runs between this and `poll` stays in memory
        }
        let _ = poll(&mut fds, timeout.as_ref()); // the caller checks each source itself
    }

    fn take_signals(&mut self) {
        while let Some(signal) = sys::next_signal(&self.signals) {
            if signal != libc::SIGCHLD {
                self.handle(GuardInput::Signalled(signal));
            }
        }
    }

    /// Handles every message the supervisor has sent.
    fn hear(&mut self) {
        while let Some(Supervisor { line: Some(line), .. }) = &self.supervisor {
            match line.hear::<ToGuard>() {
                // Meaningless without its descriptor.
                Ok(Heard::Message(ToGuard::Hold(_) | ToGuard::Lock | ToGuard::Upgrade(_), None)) => {}
                Ok(Heard::Message(message, fd)) => {
                    let ready = matches!(message, ToGuard::Ready);
                    self.attached = fd;
                    self.handle(GuardInput::Heard(message));
                    self.attached = None;
                    self.is_settled |= ready;
                }
                Ok(Heard::Nothing) => return,
                Ok(Heard::Closed) => self.close_line(),
                Err(_) => {} // a message of another version; the next one may be known
            }
        }
    }

    fn close_line(&mut self) {
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.line = None;
            self.handle(GuardInput::LineClosed);
        }
    }

    fn send_messages(&mut self) {
        while let Some(Supervisor { line: Some(line), .. }) = &self.supervisor
            && let Some(message) = self.guard.unsent()
        {
            match line.send(&message, self.descriptor_of(&message)) {
                Ok(()) => self.guard.sent(),
                Err(_) => return, // no room now, or the other end is closed: `hear` notices
            }
        }
    }

    fn descriptor_of(&self, message: &ToSupervisor) -> Option<BorrowedFd<'_>> {
        match message {
            ToSupervisor::Hello(_) => Some(self.lock.as_fd()),
            ToSupervisor::Pipe(app) => self.pipes.get(app).map(AsFd::as_fd),
            ToSupervisor::Exited(_) | ToSupervisor::Go | ToSupervisor::End => None,
        }
    }

    /// Reports every child that has exited to the guard.
    fn reap(&mut self) {
        while let Some(ended) = sys::ended() {
            if self.supervisor.as_ref().is_some_and(|supervisor| supervisor.pid == ended.pid) {
                self.hear(); // its last messages
                sys::collect(ended.pid);
                self.supervisor = None;
                self.handle(GuardInput::SupervisorExited(ended.status));
            } else {
                let started = proc::process(ended.pid).map_or(0, |process| process.started);
                let exit = ChildExit { pid: ended.pid, started, status: ended.status, peak: ended.peak };
                self.handle(GuardInput::ChildExited(exit));
            }
        }
        if sys::childless() || !self.others.is_empty() && children().iter().all(|pid| self.is_other(*pid)) {
            self.handle(GuardInput::NoChildren);
        }
    }

    fn is_other(&self, pid: i32) -> bool {
        self.others.iter().any(|other| other.pid == pid)
    }

    /// Signals every process of the session.
    fn signal_all(&self, signals: &[i32]) {
        signals::send_to_session(signals, &self.others, &self.folder);
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

/// Prints a warning for people; never blocks on stderr's reader.
fn warn(text: &str) {
    let stderr = io::stderr();
    if poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], Some(&Timespec::default())).is_ok_and(|ready| ready > 0) {
        let _ = writeln!(io::stderr(), "kasm-void: {text}"); // stderr may be closed
    }
}
