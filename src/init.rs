//! PID 1 of a container whose real entry point is somebody else's script: starts it, collects every orphan, and
//! turns the container's stop into a drain of the apps before the script goes. One thread; supervises nothing.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process, kill_process_group, set_child_subreaper};

use crate::host::sys;

/// What ends a container: these begin the drain, and a second one makes it short.
const ENDING: [i32; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT];
/// What the command may want to hear.
const PASSED_ON: [i32; 4] = [libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGWINCH];

/// Of the grace, what is left for the command after the drain.
const FOR_THE_COMMAND: Duration = Duration::from_secs(3);

/// Runs `command` until it ends; on a stop the supervisor on `state` is drained first. All of it within `grace`.
/// The code is the command's, or 128 and the signal that ended it; with `zero_when_stopped` an orderly stop is 0.
pub fn run(command: &[OsString], state: &Path, grace: Duration, zero_when_stopped: bool) -> anyhow::Result<ExitCode> {
    // As PID 1 every orphan is ours anyway.
    let _ = set_child_subreaper(Some(rustix::process::getpid()));
    let heard: Vec<i32> = ENDING.into_iter().chain(PASSED_ON).chain([libc::SIGCHLD]).collect();
    let signals = sys::signal_fd(&heard).context("cannot receive signals")?;
    let mut init = Init { signals, command: 0, drain: None, status: None, ending: None, grace };
    init.command = start(command)?;
    let status = init.run(state);
    Ok(match zero_when_stopped && init.stopped_in_order() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(code(status)),
    })
}

struct Init {
    signals: OwnedFd,
    /// The pid of the command.
    command: i32,
    /// The pid of `kasm-void drain`, while it runs.
    drain: Option<i32>,
    /// How the command ended, as `wait(2)` gives it.
    status: Option<i32>,
    ending: Option<Ending>,
    grace: Duration,
}

/// How far the end has come.
struct Ending {
    began: Instant,
    /// Somebody wanted it, rather than that the command ended by itself.
    wanted: bool,
    /// The command was asked to end.
    asked: bool,
    /// It was killed.
    killed: bool,
}

impl Init {
    /// Until nothing is left to be done; how the command ended.
    fn run(&mut self, state: &Path) -> i32 {
        loop {
            self.wait();
            for signal in self.signals() {
                self.take(signal, state);
            }
            while let Some(ended) = sys::ended() {
                sys::collect(ended.pid);
                if ended.pid == self.command {
                    self.status = Some(ended.status);
                }
                if Some(ended.pid) == self.drain {
                    self.drain = None;
                }
            }
            if self.go_on(state)
                && let Some(status) = self.status
            {
                return status;
            }
        }
    }

    fn wait(&self) {
        // While something is ending its deadlines pass without a signal.
        let tick = self.ending.as_ref().map(|_| Timespec { tv_sec: 0, tv_nsec: 100_000_000 });
        let _ = poll(&mut [PollFd::new(&self.signals, PollFlags::IN)], tick.as_ref()); // what follows looks for itself
    }

    fn signals(&self) -> Vec<i32> {
        let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
        let mut signals = Vec::new();
        while rustix::io::read(&self.signals, &mut info).is_ok_and(|bytes| bytes == info.len()) {
            signals.push(u32::from_ne_bytes([info[0], info[1], info[2], info[3]]) as i32);
        }
        signals
    }

    fn take(&mut self, signal: i32, state: &Path) {
        match &self.ending {
            _ if PASSED_ON.contains(&signal) => send(self.command, signal),
            _ if !ENDING.contains(&signal) => {}
            None => self.begin_to_end(state),
            Some(_) => self.hurry(),
        }
    }

    fn begin_to_end(&mut self, state: &Path) {
        let wanted = self.status.is_none();
        self.ending = Some(Ending { began: Instant::now(), wanted, asked: false, killed: false });
        let limit = self.grace.saturating_sub(FOR_THE_COMMAND).max(Duration::from_secs(1));
        let words = ["drain", "--timeout", &format!("{}ms", limit.as_millis()), "--state"].map(OsString::from);
        let words = [OsString::from("/proc/self/exe")].into_iter().chain(words).chain([state.as_os_str().into()]);
        // Nobody to drain is a drain, too: the command is asked next.
        self.drain = start(&words.collect::<Vec<_>>()).ok();
    }

    /// Asked twice: no time for the apps, and little for the command.
    fn hurry(&mut self) {
        if let Some(drain) = self.drain.take() {
            send(drain, libc::SIGKILL);
        }
    }

    fn stopped_in_order(&self) -> bool {
        self.ending.as_ref().is_some_and(|ending| ending.wanted && !ending.killed)
    }

    /// Whether nothing is left to be done but to go.
    fn go_on(&mut self, state: &Path) -> bool {
        if self.status.is_some() && self.ending.is_none() {
            self.begin_to_end(state); // the command ended by itself; its apps end as well as ever
        }
        let Some(ending) = &mut self.ending else { return false };
        if self.drain.is_some() && ending.began.elapsed() < self.grace {
            return false;
        }
        if self.status.is_some() {
            return true;
        }
        if !ending.asked {
            ending.asked = true;
            send(self.command, libc::SIGTERM);
        }
        let left = self.grace.saturating_sub(ending.began.elapsed());
        if left < Duration::from_millis(500) && !ending.killed {
            ending.killed = true;
            if let Some(group) = Pid::from_raw(self.command) {
                let _ = kill_process_group(group, Signal::KILL); // as `send`
            }
        }
        false
    }
}

/// In a process group of its own, so that a terminal's Ctrl-C comes to us alone.
fn start(words: &[OsString]) -> anyhow::Result<i32> {
    let program = &words[0];
    let mut command = Command::new(program);
    command.args(&words[1..]).process_group(0);
    sys::start_unblocked(&mut command);
    let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
    Ok(child.id() as i32)
}

fn code(status: i32) -> u8 {
    match libc::WIFEXITED(status) {
        true => libc::WEXITSTATUS(status) as u8,
        false => 128 + libc::WTERMSIG(status) as u8,
    }
}

/// Our child until we collect it, so the pid is its own.
fn send(pid: i32, signal: i32) {
    if let (Some(pid), Some(signal)) = (Pid::from_raw(pid), Signal::from_named_raw(signal)) {
        let _ = kill_process(pid, signal); // it may be ending
    }
}
