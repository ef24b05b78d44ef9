//! The parent that never dies: starts the supervisor and starts it again, whatever ends it. Holds what must not
//! go with a supervisor: the lock of the state folder, the apps' output pipes, and the exit statuses of apps
//! whose supervisor is gone. One thread, no runtime, no manifest: little enough to be right and small.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process, set_child_subreaper};

use crate::host::layout::StateFolder;
use crate::host::link::{GUARD, Heard, Line, Passing, ToGuard, ToSupervisor};
use crate::host::{proc, sys};
use crate::model::exit::Exit;

/// The guard itself, whatever has become of the file it was started from.
const OURSELVES: &str = "/proc/self/exe";

/// A supervisor that lived this long was well: the next one is started at once.
const WELL: Duration = Duration::from_secs(1);

/// The wait after the second death in a row that came sooner; it doubles from there.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A new binary that has not taken over by then is given up.
const TAKE_OVER: Duration = Duration::from_secs(10);

/// Ends kept for a supervisor that has not heard of them.
const KEPT: usize = 4096;

/// Signals that are the supervisor's business.
const FORWARDED: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];

/// Runs the supervisor, with the arguments this process has, until it says that the session is over.
pub fn run(state: &Path) -> anyhow::Result<ExitCode> {
    let folder = StateFolder::take(state)?;
    set_child_subreaper(Some(rustix::process::getpid())).context("cannot become the reaper of apps")?;
    let signals: Vec<i32> = FORWARDED.into_iter().chain([libc::SIGCHLD]).collect();
    let signals = sys::signal_fd(&signals).context("cannot receive signals")?;
    let mut guard = Guard {
        folder,
        signals,
        binary: OURSELVES.into(),
        tried: None,
        supervisor: None,
        due: None,
        ended: VecDeque::new(),
        held: BTreeMap::new(),
        wanted: Vec::new(),
        begun: false,
        deaths: 0,
        early: 0,
        cause: String::new(),
    };
    guard.run()
}

struct Guard {
    folder: StateFolder,
    signals: OwnedFd,
    /// What supervisors are started from.
    binary: PathBuf,
    /// A new binary that has not proven itself.
    tried: Option<PathBuf>,
    supervisor: Option<Supervisor>,
    /// When the next one is started, while there is none.
    due: Option<Instant>,
    ended: VecDeque<Passing>,
    held: BTreeMap<String, OwnedFd>,
    /// Signals for a supervisor that is not there yet.
    wanted: Vec<i32>,
    /// A supervisor has taken over once: from then on the session goes on, whatever happens.
    begun: bool,
    deaths: u32,
    /// Deaths in a row that came before the supervisor was well.
    early: u32,
    cause: String,
}

struct Supervisor {
    pid: i32,
    /// `None`: it has closed its end.
    line: Option<Line>,
    began: Instant,
    /// It knows all that it has missed, and goes on.
    introduced: bool,
    ready: bool,
    finished: Option<u8>,
    /// How many of `ended` it has been told.
    told: usize,
}

impl Guard {
    fn run(&mut self) -> anyhow::Result<ExitCode> {
        self.start()?;
        sys::slim_down();
        loop {
            if self.due.is_some_and(|due| due <= Instant::now()) {
                self.start()?;
            }
            self.wait();
            self.take_signals();
            self.hear();
            if let Some(code) = self.reap() {
                return Ok(code);
            }
            self.tell();
            self.judge_new_binary();
        }
    }

    /// Until a signal, a message, or the next start.
    fn wait(&self) {
        let trial = self.supervisor.as_ref().filter(|supervisor| self.tried.is_some() && !supervisor.ready);
        let until = self.due.or(trial.map(|supervisor| supervisor.began + TAKE_OVER));
        let timeout = until.map(|until| {
            let span = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            Timespec { tv_sec: span.as_secs() as i64, tv_nsec: span.subsec_nanos().into() }
        });
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        if let Some(Supervisor { line: Some(line), introduced, told, .. }) = &self.supervisor {
            let behind = !*introduced || *told < self.ended.len();
            let flags = if behind { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            fds.push(PollFd::new(line, flags));
        }
        let _ = poll(&mut fds, timeout.as_ref()); // whatever comes of it, what follows looks for itself
    }

    fn start(&mut self) -> anyhow::Result<()> {
        self.due = None;
        let (ours, theirs) = Line::pair().context("cannot make a line to the supervisor")?;
        let words: Vec<OsString> = std::env::args_os().collect();
        let mut command = Command::new(self.tried.as_deref().unwrap_or(&self.binary));
        command.arg0(words.first().map_or(OsStr::new("kasm-void"), OsString::as_os_str)).args(words.iter().skip(1));
        // A process group of its own, or a Ctrl-C would reach it twice: from the terminal and from us.
        command.env(GUARD, std::process::id().to_string()).stdin(Stdio::from(theirs.into_fd())).process_group(0);
        sys::start_unblocked(&mut command);
        match command.spawn() {
            Ok(child) => {
                let pid = child.id() as i32;
                let began = Instant::now();
                let (introduced, ready, finished, told) = (false, false, None, 0);
                let supervisor = Supervisor { pid, line: Some(ours), began, introduced, ready, finished, told };
                let hello = ToSupervisor::Hello { deaths: self.deaths, cause: self.cause.clone() };
                let _ = supervisor.tell(&hello, Some(self.folder.lock())); // its end is noticed as any other
                self.supervisor = Some(supervisor);
                self.tell();
                Ok(())
            }
            Err(error) if !self.begun => Err(error).context("cannot start the supervisor"),
            Err(error) => {
                self.lost(format!("cannot be started: {error}"), false);
                Ok(())
            }
        }
    }

    fn take_signals(&mut self) {
        let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
        while rustix::io::read(&self.signals, &mut info).is_ok_and(|bytes| bytes == info.len()) {
            let signal = u32::from_ne_bytes([info[0], info[1], info[2], info[3]]) as i32;
            if signal != libc::SIGCHLD {
                self.wanted.push(signal);
                // Whoever wants the end does not want to wait for a start first.
                self.due = self.due.map(|_| Instant::now());
            }
        }
        self.forward();
    }

    /// A supervisor that has not taken over would die of a signal rather than obey it.
    fn forward(&mut self) {
        let Some(supervisor) = self.supervisor.as_ref().filter(|supervisor| supervisor.ready) else { return };
        for signal in self.wanted.drain(..) {
            send(supervisor.pid, signal);
        }
    }

    fn hear(&mut self) {
        while let Some(supervisor) = &mut self.supervisor {
            let Some(line) = &supervisor.line else { return };
            let message = match line.hear::<ToGuard>() {
                Ok(Heard::Message(message, _)) => message,
                Ok(Heard::Nothing) => return,
                Ok(Heard::Closed) => {
                    supervisor.line = None;
                    return;
                }
                Err(_) => continue, // a message of another version: its next one may be known
            };
            match message {
                ToGuard::Ready => self.ready(),
                ToGuard::Hold(app) => self.hold(app),
                ToGuard::Release(app) => {
                    self.held.remove(&app);
                }
                ToGuard::Upgrade(binary) => self.tried = Some(binary.into()),
                ToGuard::Finished(code) => supervisor.finished = Some(code),
            }
        }
    }

    fn ready(&mut self) {
        let Some(supervisor) = &mut self.supervisor else { return };
        supervisor.ready = true;
        self.begun = true;
        self.ended.drain(..supervisor.told);
        supervisor.told = 0;
        if let Some(binary) = self.tried.take() {
            self.binary = binary;
        }
        self.forward();
    }

    /// What is in a pipe is lost when the last one who has it open goes.
    fn hold(&mut self, app: String) {
        let path = self.folder.path.join("out").join(&app);
        let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
        if let Ok(pipe) = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path) {
            self.held.insert(app, pipe.into());
        }
    }

    /// Collects every child that has ended; the code to end with, if the session is over.
    fn reap(&mut self) -> Option<ExitCode> {
        while let Some(ended) = sys::ended() {
            if self.supervisor.as_ref().is_some_and(|supervisor| supervisor.pid == ended.pid) {
                self.hear(); // its last words
                sys::collect(ended.pid);
                if let Some(code) = self.supervisor_ended(ended.status) {
                    return Some(code);
                }
                continue;
            }
            let started = proc::entry(ended.pid).map_or(0, |entry| entry.started);
            if self.ended.len() == KEPT {
                self.ended.pop_front();
                if let Some(supervisor) = &mut self.supervisor {
                    supervisor.told = supervisor.told.saturating_sub(1);
                }
            }
            self.ended.push_back(Passing { pid: ended.pid, started, status: ended.status, peak: ended.peak });
            self.tell();
            // Not before it was told: whoever finds it gone can be sure that the message is there.
            sys::collect(ended.pid);
        }
        None
    }

    /// Tells the supervisor what it has not been told. What its buffer has no room for is told when there is some.
    fn tell(&mut self) {
        let Some(supervisor) = &mut self.supervisor else { return };
        while let Some(ended) = self.ended.get(supervisor.told) {
            if supervisor.tell(&ToSupervisor::Ended(*ended), None).is_err() {
                return;
            }
            supervisor.told += 1;
        }
        if !supervisor.introduced {
            supervisor.introduced = supervisor.tell(&ToSupervisor::Go, None).is_ok();
        }
    }

    fn supervisor_ended(&mut self, status: i32) -> Option<ExitCode> {
        let supervisor = self.supervisor.take()?;
        if let Some(code) = supervisor.finished {
            return Some(ExitCode::from(code));
        }
        if !self.begun && libc::WIFEXITED(status) {
            return Some(ExitCode::from(libc::WEXITSTATUS(status) as u8)); // it could not begin, and has said why
        }
        match (self.tried.take(), supervisor.ready) {
            (None, _) => {
                self.deaths += 1;
                self.lost(in_words(status), supervisor.began.elapsed() >= WELL);
            }
            // Gone to make way for it.
            (Some(binary), true) => {
                self.tried = Some(binary);
                self.lost("upgrade".into(), true);
            }
            (Some(binary), false) => {
                let cause = in_words(status);
                self.lost(format!("the new binary {} did not take over: {cause}", binary.display()), true);
            }
        }
        None
    }

    /// There is no supervisor: when is the next one due?
    fn lost(&mut self, cause: String, well: bool) {
        self.early = if well { 0 } else { self.early + 1 };
        self.cause = cause;
        let wait = match self.early {
            0 | 1 => Duration::ZERO,
            more => FIRST_WAIT.saturating_mul(1 << (more - 2).min(10)).min(LONGEST_WAIT),
        };
        self.due = Some(Instant::now() + wait);
    }

    /// A new binary that hangs is as bad as one that dies.
    fn judge_new_binary(&mut self) {
        let Some(supervisor) = &self.supervisor else { return };
        if self.tried.is_some() && !supervisor.ready && supervisor.began.elapsed() >= TAKE_OVER {
            send(supervisor.pid, libc::SIGKILL);
        }
    }
}

impl Supervisor {
    fn tell(&self, message: &ToSupervisor, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        match &self.line {
            Some(line) => line.tell_supervisor(message, fd),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// A status as `wait(2)` gives it.
fn in_words(status: i32) -> String {
    match libc::WIFEXITED(status) {
        true => Exit::Code(libc::WEXITSTATUS(status)).to_string(),
        false => Exit::Signal(libc::WTERMSIG(status)).to_string(),
    }
}

/// Our child until we collect it, so the pid is its own.
fn send(pid: i32, signal: i32) {
    if let (Some(pid), Some(signal)) = (Pid::from_raw(pid), Signal::from_named_raw(signal)) {
        let _ = kill_process(pid, signal); // it may be ending
    }
}
