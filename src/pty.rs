//! A terminal for an app with `pty: true`. `kasm-void pty -- COMMAND` is the leader of such an app: it makes the terminal,
//! starts the command on it, and passes what is written there on to its own stdout, the app's pipe.
//!
//! A terminal hangs up when its other end is closed. So that end is held by this process, which belongs to the app's own
//! tree: the terminal lives as long as the app, whatever becomes of supervisor and guard, and no output depends on them.
//! To everybody else it stands for the command: it passes on signals, and ends as the command does. Runs on one thread.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, ExitCode};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, OptionalActions, OutputModes, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

use crate::host::{signals, sys};

/// The size that programs expect of a terminal that has none.
const SIZE: Winsize = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };

/// Bytes that are passed on at once.
const CHUNK: usize = 16 << 10;
/// How many chunks are still read from the terminal after the command has ended. A helper may write for ever.
const MOST_LEFT: usize = 64;

/// Runs the command on a terminal of its own, until it ends. Returns its exit code, or ends by the same signal.
///
/// # Errors
/// There is no terminal, or the command cannot be started.
pub fn run(command: &[OsString]) -> anyhow::Result<ExitCode> {
    // The program was executed as /proc/self/exe; without this, its name would be `exe`. It is told from a supervisor.
    let _ = rustix::thread::set_name(c"kasm-void-pty");
    let signals = sys::signal_fd(&sys::catchable_signals()).context("cannot receive signals")?;
    let (screen, terminal) = terminal().context("cannot make a terminal")?;
    let child = start(command, &terminal)?;
    drop(terminal);
    sys::slim_down();
    let mut is_open = true;
    loop {
        let mut ready = vec![PollFd::new(&signals, PollFlags::IN)];
        ready.extend(is_open.then(|| PollFd::new(&screen, PollFlags::IN)));
        let _ = poll(&mut ready, None); // what is ready is seen by reading it
        let is_written = ready.get(1).is_some_and(|screen| !screen.revents().is_empty());
        if is_written {
            is_open = pass_on(&screen).is_ok();
        }
        while let Some(signal) = sys::next_signal(&signals) {
            if signal != libc::SIGCHLD {
                signals::send(child, signal);
            }
        }
        if let Some(ended) = sys::ended() {
            pass_on_the_rest(&screen);
            sys::collect(ended.pid);
            return Ok(end(ended.status));
        }
    }
}

/// A new terminal: the end where what is written comes out, and the end for programs. Lines are not changed on the way,
/// and nobody types.
fn terminal() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let screen = openpt(flags)?;
    grantpt(&screen)?;
    unlockpt(&screen)?;
    let terminal = ioctl_tiocgptpeer(&screen, flags)?;
    let mut modes = tcgetattr(&terminal)?;
    modes.output_modes.remove(OutputModes::OPOST);
    modes.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&terminal, OptionalActions::Now, &modes)?;
    tcsetwinsize(&terminal, SIZE)?;
    Ok((screen, terminal))
}

fn start(words: &[OsString], terminal: &OwnedFd) -> anyhow::Result<i32> {
    let end = || terminal.try_clone();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(end()?).stdout(end()?).stderr(end()?);
    sys::start_unblocked(&mut command, None, None);
    sys::start_on_terminal(&mut command);
    let child = command.spawn().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    Ok(child.id() as i32)
}

/// Passes on what has been written. Fails when no program has the terminal any more.
fn pass_on(screen: &OwnedFd) -> rustix::io::Result<()> {
    let mut bytes = [0; CHUNK];
    let read = match rustix::io::read(screen, &mut bytes) {
        Ok(0) => return Err(Errno::IO),
        Err(Errno::INTR) => return Ok(()),
        read => read?,
    };
    let mut rest = &bytes[..read];
    while !rest.is_empty() {
        match rustix::io::write(rustix::stdio::stdout(), rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(_) => return Ok(()), // the terminal must be emptied all the same
        }
    }
    Ok(())
}

fn pass_on_the_rest(screen: &OwnedFd) {
    for _ in 0..MOST_LEFT {
        let mut ready = [PollFd::from_borrowed_fd(screen.as_fd(), PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let is_more = poll(&mut ready, Some(&now)).is_ok_and(|count| count > 0);
        if !is_more || pass_on(screen).is_err() {
            return;
        }
    }
}

/// Ends as a process with this wait status did.
fn end(status: i32) -> ExitCode {
    match status & 0x7f {
        0 => ExitCode::from((status >> 8) as u8),
        signal => {
            sys::end_by(signal);
            ExitCode::from(128 + signal as u8)
        }
    }
}
