//! PID 1 of a container. Starts the real entry point, reaps every orphan, and drains the apps before it stops the
//! entry point. Runs on one thread and supervises nothing. Makes no decisions: `model::init` decides, and this file
//! carries out its effects.

use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::set_child_subreaper;

use crate::host::layout::StateFolder;
use crate::host::{privacy, signals, sys};
use crate::launcher::token;
use crate::model::init::{Init, InitEffect, InitInput};

/// Runs `command` until it exits. When the container is stopped, first drains the supervisor of the folder `state`,
/// then stops the command, all within `grace`. Returns the command's exit code, or 128 plus the signal that ended it.
/// With `zero_when_stopped`, a clean stop returns 0.
pub fn run(command: &[OsString], state: &Path, grace: Duration, zero_when_stopped: bool) -> anyhow::Result<ExitCode> {
    privacy::hide();
    // Failure is harmless: PID 1 inherits every orphan anyway.
    let _ = set_child_subreaper(Some(rustix::process::getpid()));
    let mut caught = sys::catchable_signals();
    caught.push(libc::SIGWINCH);
    let signals = sys::signal_fd(&caught).context("cannot receive signals")?;
    let token = token_for_the_launcher().context("cannot keep the launcher's token")?;
    let mut shell = Shell {
        init: Init::new(grace, zero_when_stopped),
        signals,
        state: state.into(),
        command: start_command(command, token.as_ref())?,
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
            shell.handle(InitInput::Signalled(signal));
        }
        shell.reap();
        shell.handle(InitInput::TimePassed);
    }
}

struct Shell {
    init: Init,
    signals: OwnedFd,
    /// The supervisor's state folder.
    state: PathBuf,
    /// The pid of the command.
    command: i32,
    /// The pid of `kasm-void drain`, while it runs.
    drain: Option<i32>,
    origin: Instant,
    exit: Option<u8>,
}

impl Shell {
    fn handle(&mut self, input: InitInput) {
        for effect in self.init.handle(self.origin.elapsed(), input) {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: InitEffect) {
        match effect {
            InitEffect::Drain => match self.start_ourselves(&["drain"]) {
                Some(pid) => self.drain = Some(pid),
                None => self.handle(InitInput::DrainEnded { succeeded: false, taken: false }),
            },
            InitEffect::Reload => drop(self.start_ourselves(&["reload", "--no-wait"])),
            InitEffect::Forward(signal) => signals::send(self.command, signal),
            InitEffect::ForwardIfCaught(signal) => {
                if signals::is_caught(self.command, signal) {
                    signals::send(self.command, signal);
                }
            }
            InitEffect::TerminateAll => signals::send_to_descendants(&[libc::SIGTERM, libc::SIGCONT], &[]),
            InitEffect::KillAll => signals::send_to_descendants(&[libc::SIGKILL], &[]),
            InitEffect::Exit(code) => self.exit = Some(code),
        }
    }

    /// Waits for a signal or the next deadline.
    fn wait(&self) {
        let timeout = self.init.next_moment().map(|due| sys::timeout(due.saturating_sub(self.origin.elapsed())));
        let _ = poll(&mut [PollFd::new(&self.signals, PollFlags::IN)], timeout.as_ref()); // the caller checks
    }

    fn reap(&mut self) {
        while let Some(ended) = sys::ended() {
            sys::collect(ended.pid);
            if ended.pid == self.command {
                self.handle(InitInput::CommandExited(ended.status));
            }
            if self.drain.take_if(|drain| *drain == ended.pid).is_some() {
                let (succeeded, taken) = (ended.status == 0, StateFolder::is_taken(&self.state));
                self.handle(InitInput::DrainEnded { succeeded, taken });
            }
        }
        if sys::childless() {
            self.handle(InitInput::NoChildren);
        }
    }

    /// Runs a kasm-void verb against the supervisor of our state folder. Returns its pid, or `None` if it could not
    /// be started.
    fn start_ourselves(&self, words: &[&str]) -> Option<i32> {
        let mut command = Command::new("/proc/self/exe");
        command.args(words).arg("--state").arg(&self.state);
        // The supervisor's log says what happens, in its own format.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        for secret in token::VARIABLES.iter().chain(&[token::FILE]) {
            command.env_remove(secret); // it needs none
        }
        start(&mut command, None).ok()
    }
}

/// Starts the entry point. It and the programs it starts inherit the launcher's token, which a variable names.
fn start_command(words: &[OsString], token: Option<&OwnedFd>) -> anyhow::Result<i32> {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    if let Some(token) = token {
        command.env(token::FILE, format!("/proc/self/fd/{}", token.as_raw_fd()));
    }
    start(&mut command, token.map(AsFd::as_fd))
}

/// Starts the command in its own process group, so that a terminal's Ctrl-C reaches only us.
fn start(command: &mut Command, kept: Option<BorrowedFd<'_>>) -> anyhow::Result<i32> {
    command.process_group(0);
    sys::start_unblocked(command, None, kept);
    let child = command.spawn().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    Ok(child.id() as i32)
}

/// The lowest number of the descriptor with the token. Scripts use smaller ones for their own files.
const TOKEN: i32 = 100;

/// Keeps the VNC password for the launcher, which uses it when no token is set. An entry point may remove the
/// password from the environment before it starts the launcher, as KASM's does. So the password is put into an in-memory
/// file, whose descriptor every process of the session inherits until the supervisor, which gives it to the launcher
/// alone. Returns `None` if the launcher's token is already set, or if there is no password.
fn token_for_the_launcher() -> anyhow::Result<Option<OwnedFd>> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let [own, password] = token::VARIABLES;
    let (None, None, Some(password)) = (set(token::FILE), set(own), set(password)) else { return Ok(None) };
    let mut file = File::from(memfd_create("launcher-token", MemfdFlags::CLOEXEC)?);
    file.set_permissions(Permissions::from_mode(0o400))?;
    file.write_all(password.as_encoded_bytes())?;
    let file = OwnedFd::from(file);
    Ok(Some(fcntl_dupfd_cloexec(&file, TOKEN).unwrap_or(file))) // fails only if so few files may be open
}
