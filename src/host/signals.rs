//! Sends signals, and tells whether a process handles one.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use super::marks;
use super::proc::{self, Process};

/// Signals a process, which may be gone. A child keeps its pid until we collect it.
pub fn send(pid: i32, signal: i32) {
    if let (Some(pid), Some(signal)) = (Pid::from_raw(pid), Signal::from_named_raw(signal)) {
        let _ = kill_process(pid, signal); // the process may be gone
    }
}

/// Signals all our descendants, except `spared` and their descendants. We are a subreaper: a process that loses its
/// parent becomes our child, so none escapes.
pub fn send_to_descendants(signals: &[i32], spared: &[Process]) {
    send_to_all(descendants(&proc::table().processes, spared), signals);
}

/// Like [`send_to_descendants`]. Also signals every process that carries the marks of a session on this state folder, and
/// what descends from it and may have hidden its marks. Those whose guard and supervisor were killed descend from init.
pub fn send_to_session(signals: &[i32], spared: &[Process], state: &Path) {
    let table = proc::table().processes;
    let mut session = descendants(&table, spared);
    let place = proc::place(state);
    let own = std::process::id() as i32;
    let others =
        table.iter().filter(|process| process.pid != own && !process.zombie && !session.contains(&process.pid));
    let marked = others.map(|process| process.pid).filter(|pid| place.owns(&marks::of(*pid)));
    let marked = proc::with_descendants(&table, marked.collect::<Vec<_>>());
    session.extend(marked.into_iter().filter(|pid| *pid != own));
    send_to_all(session, signals);
}

fn send_to_all(pids: HashSet<i32>, signals: &[i32]) {
    for pid in pids {
        signals.iter().for_each(|signal| send(pid, *signal));
    }
}

/// All our descendants, except `spared` and their descendants.
fn descendants(table: &[Process], spared: &[Process]) -> HashSet<i32> {
    let own = std::process::id() as i32;
    let same = |process: &&Process| table.iter().any(|now| (now.pid, now.started) == (process.pid, process.started));
    let spared = spared.iter().filter(same).map(|process| process.pid);
    let spared: HashSet<i32> = proc::with_descendants(table, spared);
    let mut all = proc::with_descendants(table, [own]);
    all.retain(|pid| *pid != own && !spared.contains(pid));
    all
}

/// Whether the process has a handler for this signal.
pub fn is_caught(pid: i32, signal: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::{Command, Stdio};

    #[test]
    fn a_handler_is_seen() {
        let mut shell = Command::new("sh")
            .args(["-c", "trap : USR1; echo; read line"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        shell.stdout.take().unwrap().read_exact(&mut [0]).unwrap(); // the trap is set
        let pid = shell.id() as i32;
        assert!(is_caught(pid, libc::SIGUSR1) && !is_caught(pid, libc::SIGUSR2));
        shell.kill().unwrap();
        shell.wait().unwrap();
    }
}
