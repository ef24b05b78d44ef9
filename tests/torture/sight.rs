//! Lists the processes of one session from `/proc`. Does not judge them.

use std::fs;
use std::path::Path;

use crate::harness::environ;

/// A live process of the session.
#[derive(Debug, Clone)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    /// Start time in clock ticks since boot. Together with the pid it identifies the process.
    pub started: u64,
    /// The app whose tree it belongs to; `None` for kasm-void's own processes.
    pub app: Option<String>,
    /// Whether the supervisor spawned it, rather than that it inherited the variables from such a process.
    pub leader: bool,
    /// Whether a guard started it, or the process that it was forked from.
    pub guarded: bool,
    pub argv: Vec<String>,
}

/// Every live process that has the session's folder in its environment, and every hidden helper.
pub fn processes(root: &Path) -> Vec<Process> {
    let ours = format!("={}", root.display());
    let mut seen: Vec<Process> = pids().filter_map(|pid| process(pid, &ours)).collect();
    let hidden: Vec<Process> = hidden(root).filter(|one| seen.iter().all(|other| other.pid != one.pid)).collect();
    seen.extend(hidden);
    seen
}

/// Helpers that wrote their pid, their start time and their app's name to a file before they hid.
fn hidden(root: &Path) -> impl Iterator<Item = Process> {
    let notes = fs::read_dir(root.join("data/hidden")).into_iter().flatten().flatten();
    notes.filter_map(|note| {
        let name = note.file_name().into_string().ok()?;
        let (pid, started) = name.split_once('.')?;
        let (pid, started) = (pid.parse().ok()?, started.parse().ok()?);
        let stat = stat(pid).filter(|stat| stat.started == started && !stat.zombie);
        let Some(stat) = stat else {
            let _ = fs::remove_file(note.path()); // another thread may have removed it
            return None;
        };
        let app = fs::read_to_string(note.path()).ok().filter(|app| !app.is_empty())?;
        let app = Some(app.trim().to_owned());
        Some(Process { pid, parent: stat.parent, started, app, leader: false, guarded: false, argv: Vec::new() })
    })
}

fn process(pid: i32, ours: &str) -> Option<Process> {
    let (parent, started) = stat(pid).filter(|stat| !stat.zombie).map(|stat| (stat.parent, stat.started))?;
    let environ = environ(pid);
    let value = |name: &str| environ.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    environ.iter().find(|word| word.starts_with("KASM_VOID_STORY") && word.ends_with(ours))?;
    let app = value("KASM_VOID_APP").and_then(|app| app.rsplit_once(':')).map(|(name, _)| name.to_owned());
    let leader = value("KASM_VOID_LEADER").and_then(|leader| leader.parse().ok()) == Some(pid);
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let argv = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let guarded = value("KASM_VOID_GUARD").is_some();
    Some(Process { pid, parent, started, app, leader, guarded, argv })
}

impl Process {
    /// Whether the same process still exists.
    pub fn is_there(&self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.started == self.started && !stat.zombie)
    }

    /// Whether it is a supervisor or a guard, not a client.
    pub fn supervises(&self) -> bool {
        self.app.is_none() && self.argv.get(1).is_some_and(|verb| verb == "run")
    }
}

/// Children that have exited and were not collected.
pub fn zombies_of(parent: i32) -> Vec<i32> {
    pids().filter(|pid| stat(*pid).is_some_and(|stat| stat.zombie && stat.parent == parent)).collect()
}

pub fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

struct Stat {
    parent: i32,
    started: u64,
    zombie: bool,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let words: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    let zombie = matches!(*words.first()?, "Z" | "X");
    Some(Stat { parent: words.get(1)?.parse().ok()?, started: words.get(19)?.parse().ok()?, zombie })
}

fn pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").expect("/proc").flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}
