//! PID 1 of a container: starts the real entry point, collects every orphan, and turns the container's stop into a
//! drain of the apps before the entry point goes. One thread; supervises nothing. Decides nothing: `model::init` does,
//! and this carries out its effects.

use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::set_child_subreaper;

use crate::host::layout::StateFolder;
use crate::host::{signals, sys};
use crate::launcher::token;
use crate::model::init::{Effect, Init, Input};

/// Runs `command` until it ends; on a stop the supervisor on `state` is drained first, all of it within `grace`. The
/// code is the command's, or 128 and the signal that ended it; with `zero_when_stopped` a stop in order is 0.
pub fn run(command: &[OsString], state: &Path, grace: Duration, zero_when_stopped: bool) -> anyhow::Result<ExitCode> {
    // As PID 1 every orphan is ours anyway.
    let _ = set_child_subreaper(Some(rustix::process::getpid()));
    let mut caught = sys::catchable_signals();
    caught.push(libc::SIGWINCH);
    let signals = sys::signal_fd(&caught).context("cannot receive signals")?;
    let token = token_for_the_launcher().context("cannot keep the launcher's token")?;
    let named = token.as_ref().map(|token| format!("/proc/{}/fd/{}", std::process::id(), token.as_raw_fd()));
    let for_the_command: Vec<(&str, String)> = named.map(|path| (token::FILE, path)).into_iter().collect();
    let mut shell = Shell {
        init: Init::new(grace, zero_when_stopped),
        signals,
        state: state.into(),
        command: start(command, &for_the_command)?,
        drain: None,
        origin: Instant::now(),
        exit: None,
    };
    loop {
        if let Some(code) = shell.exit {
            return Ok(ExitCode::from(code));
        }
        shell.wait();
        while let Some(signal) = sys::next_signal(&shell.signals) {
            shell.handle(Input::Signalled(signal));
        }
        shell.reap();
        shell.handle(Input::TimePassed);
    }
}

struct Shell {
    init: Init,
    signals: OwnedFd,
    /// The state folder of the supervisor.
    state: PathBuf,
    /// The pid of the command.
    command: i32,
    /// The pid of `kasm-void drain`, while it runs.
    drain: Option<i32>,
    origin: Instant,
    exit: Option<u8>,
}

impl Shell {
    fn handle(&mut self, input: Input) {
        for effect in self.init.handle(self.origin.elapsed(), input) {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Drain => match self.start_ourselves(&["drain"]) {
                Some(pid) => self.drain = Some(pid),
                None => self.handle(Input::Drained), // the command is asked next
            },
            Effect::Reload => drop(self.start_ourselves(&["reload", "--no-wait"])),
            Effect::Forward(signal) => signals::send(self.command, signal),
            Effect::ForwardIfCaught(signal) => {
                if signals::is_caught(self.command, signal) {
                    signals::send(self.command, signal);
                }
            }
            Effect::TerminateAll => signals::send_to_descendants(&[libc::SIGTERM, libc::SIGCONT], &[]),
            Effect::KillAll => signals::send_to_descendants(&[libc::SIGKILL], &[]),
            Effect::Exit(code) => self.exit = Some(code),
        }
    }

    /// Until a signal or the next deadline.
    fn wait(&self) {
        let timeout = self.init.next_moment().map(|due| sys::timeout(due.saturating_sub(self.origin.elapsed())));
        let _ = poll(&mut [PollFd::new(&self.signals, PollFlags::IN)], timeout.as_ref()); // what follows looks itself
    }

    fn reap(&mut self) {
        while let Some(ended) = sys::ended() {
            sys::collect(ended.pid);
            if ended.pid == self.command {
                self.handle(Input::CommandExited(ended.status));
            }
            if self.drain.take_if(|drain| *drain == ended.pid).is_some() {
                // Between two supervisors nobody answers.
                let failed = ended.status != 0 && StateFolder::is_taken(&self.state);
                self.handle(if failed { Input::NotDrained } else { Input::Drained });
            }
        }
        if sys::childless() {
            self.handle(Input::NoChildren);
        }
    }

    /// A verb of ours, for the supervisor on our state folder. Nobody who answers is an end, too.
    fn start_ourselves(&self, words: &[&str]) -> Option<i32> {
        let words = ["/proc/self/exe"].iter().chain(words).chain(&["--state"]).map(OsString::from);
        start(&words.chain([self.state.as_os_str().into()]).collect::<Vec<_>>(), &[]).ok()
    }
}

/// The launcher falls back to the VNC password, but an entry point may take that out of the environment before the
/// launcher starts, as KASM's does. So the password travels as a file in memory that lives as long as this process;
/// nothing can sweep it away. `None`: the launcher's token is set already, or there is no password.
fn token_for_the_launcher() -> anyhow::Result<Option<File>> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let [own, password] = token::VARIABLES;
    let (None, None, Some(password)) = (set(token::FILE), set(own), set(password)) else { return Ok(None) };
    let mut file = File::from(memfd_create("launcher-token", MemfdFlags::CLOEXEC)?);
    file.set_permissions(Permissions::from_mode(0o400))?;
    file.write_all(password.as_encoded_bytes())?;
    Ok(Some(file))
}

/// In a process group of its own, so that a terminal's Ctrl-C comes to us alone.
fn start(words: &[OsString], environment: &[(&str, String)]) -> anyhow::Result<i32> {
    let program = &words[0];
    let mut command = Command::new(program);
    command.args(&words[1..]).envs(environment.iter().cloned()).process_group(0);
    sys::start_unblocked(&mut command, None);
    let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
    Ok(child.id() as i32)
}
