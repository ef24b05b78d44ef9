//! The descriptors that a supervisor passes on when it becomes the guard. They stay open across its exec, with a list of
//! them. The list is an in-memory file, whose descriptor is named in the environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;

use super::link::GUARD;
use super::sys;

/// The environment variable with the descriptor of the list.
const LIST: &str = "KASM_VOID_HANDOVER";

/// The resources of a guard.
#[derive(Debug)]
pub struct Handover {
    /// The lock of the state folder.
    pub lock: OwnedFd,
    /// The output pipe of each app.
    pub pipes: BTreeMap<String, OwnedFd>,
    /// Supervisors of this session that have died.
    pub deaths: u32,
    /// The soft limit of open files that the session was started with, if it was raised.
    pub open_files: Option<u64>,
    /// A signal that ends the session and that the supervisor had no time to obey.
    pub signal: Option<i32>,
}

impl Handover {
    /// Turns this process into a guard that holds all of this. It keeps its pid and its children. Returns only on
    /// failure.
    pub fn exec(self) -> io::Error {
        let fail = || -> io::Result<io::Error> {
            let mut list = File::from(rustix::fs::memfd_create("kasm-void-handover", MemfdFlags::empty())?);
            list.write_all(self.list()?.as_bytes())?;
            list.rewind()?;
            let words: Vec<OsString> = std::env::args_os().collect();
            let mut command = Command::new("/proc/self/exe");
            command.arg0(words.first().cloned().unwrap_or_else(|| "kasm-void".into())).args(words.iter().skip(1));
            Ok(command.env_remove(GUARD).env(LIST, list.as_raw_fd().to_string()).exec())
        };
        fail().unwrap_or_else(|error| error)
    }

    /// Writes the list, and keeps its descriptors open across an exec.
    fn list(&self) -> io::Result<String> {
        let keep = |fd: &OwnedFd| rustix::io::fcntl_setfd(fd, FdFlags::empty());
        let mut list = format!("of {}\ndeaths {}\nlock {}\n", std::process::id(), self.deaths, self.lock.as_raw_fd());
        keep(&self.lock)?;
        if let Some(limit) = self.open_files {
            list.push_str(&format!("open-files {limit}\n"));
        }
        if let Some(signal) = self.signal {
            list.push_str(&format!("signal {signal}\n"));
        }
        for (app, pipe) in &self.pipes {
            keep(pipe)?;
            list.push_str(&format!("pipe {} {app}\n", pipe.as_raw_fd()));
        }
        Ok(list)
    }

    /// The resources that this process kept from its time as a supervisor. `None` if it was not one.
    pub fn inherited() -> Option<Handover> {
        let list = std::env::var(LIST).ok()?.parse().ok()?;
        let mut text = String::new();
        File::from(sys::inherited_descriptor(list)?).read_to_string(&mut text).ok()?;
        Handover::parse(&text)
    }

    fn parse(text: &str) -> Option<Handover> {
        let mut lines = text.lines();
        // The variable may have been inherited from another process.
        (lines.next()? == format!("of {}", std::process::id())).then_some(())?;
        let (mut lock, mut pipes, mut deaths, mut open_files, mut signal) = (None, BTreeMap::new(), 0, None, None);
        for line in lines {
            let (word, rest) = line.split_once(' ')?;
            match word {
                "deaths" => deaths = rest.parse().ok()?,
                "lock" => lock = sys::inherited_descriptor(rest.parse().ok()?),
                "open-files" => open_files = Some(rest.parse().ok()?),
                "signal" => signal = Some(rest.parse().ok()?),
                _ => {
                    let (fd, app) = rest.split_once(' ')?;
                    pipes.insert(app.to_owned(), sys::inherited_descriptor(fd.parse().ok()?)?);
                }
            }
        }
        Some(Handover { lock: lock?, pipes, deaths, open_files, signal })
    }

    /// Removes the variable from our own environment. Only for a process with one thread.
    pub fn forget_here() {
        sys::set_variable(LIST, None);
    }

    /// Removes the variable from the environment of a command.
    pub fn forget(command: &mut Command) {
        command.env_remove(LIST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_over_is_what_was_held() {
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        let pipes = BTreeMap::from([("web".to_string(), null()), ("a b".to_string(), null())]);
        let before = Handover { lock: null(), pipes, deaths: 3, open_files: Some(1024), signal: Some(15) };
        let list = before.list().unwrap();
        let numbers: Vec<i32> = before.pipes.values().map(AsRawFd::as_raw_fd).collect();
        let foreign = list.replace(&format!("of {}", std::process::id()), "of 1");
        assert!(Handover::parse(&foreign).is_none());
        std::mem::forget(before); // an exec runs no destructors
        let after = Handover::parse(&list).unwrap();
        assert_eq!((after.deaths, after.open_files, after.signal), (3, Some(1024), Some(15)));
        assert_eq!(after.pipes.values().map(AsRawFd::as_raw_fd).collect::<Vec<_>>(), numbers);
        let flags = rustix::io::fcntl_getfd(&after.lock).unwrap();
        assert!(flags.contains(FdFlags::CLOEXEC), "no app inherits it");
    }
}
