//! Lists the processes of one session from `/proc`. Does not judge them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::environ;

/// A live process of the session.
#[derive(Debug, Clone)]
pub struct Process {
    pub pid: i32,
    /// The pid by which the supervisor knows it. Differs from `pid` if the session runs in a container.
    pub inner: i32,
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
    let notes = notes(root);
    let mut used = vec![false; notes.len()];
    let mut seen = Vec::new();
    for pid in pids() {
        let Some(stat) = stat(pid).filter(|stat| !stat.zombie) else { continue };
        let is_it = |note: &Note| note.started == stat.started && inner(pid) == Some(note.inner);
        match notes.iter().position(is_it) {
            Some(at) => {
                used[at] = true;
                seen.extend(notes[at].process(pid, &stat));
            }
            None => seen.extend(process(pid, &stat, &ours)),
        }
    }
    // Only what a whole look has missed is gone: the look may be older than the note.
    for (note, _) in notes.iter().zip(used).filter(|(_, used)| !used) {
        note.remove_if_gone();
    }
    seen
}

/// What a helper writes before it hides: its app's name, in a file named by its pid and its start time.
struct Note {
    file: PathBuf,
    inner: i32,
    started: u64,
    app: String,
}

fn notes(root: &Path) -> Vec<Note> {
    let files = fs::read_dir(root.join("data/hidden")).into_iter().flatten().flatten();
    let note = |file: fs::DirEntry| {
        let name = file.file_name().into_string().ok()?;
        let (inner, started) = name.split_once('.')?;
        let app = fs::read_to_string(file.path()).ok().filter(|app| app.ends_with('\n'))?;
        let app = app.trim().to_owned();
        Some(Note { file: file.path(), inner: inner.parse().ok()?, started: started.parse().ok()?, app })
    };
    files.filter_map(note).collect()
}

impl Note {
    fn process(&self, pid: i32, stat: &Stat) -> Option<Process> {
        let Stat { parent, started, .. } = *stat;
        let app = Some(self.app.clone());
        Some(Process { pid, inner: self.inner, parent, started, app, leader: false, guarded: false, argv: Vec::new() })
    }

    fn remove_if_gone(&self) {
        let there = |pid: i32| {
            let same = |stat: Stat| stat.started == self.started && !stat.zombie;
            stat(pid).is_some_and(same) && inner(pid) == Some(self.inner)
        };
        if !pids().any(there) {
            let _ = fs::remove_file(&self.file); // another thread may have removed it
        }
    }
}

fn process(pid: i32, stat: &Stat, ours: &str) -> Option<Process> {
    let Stat { parent, started, .. } = *stat;
    let environ = environ(pid);
    let value = |name: &str| environ.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    environ.iter().find(|word| word.starts_with("KASM_VOID_STORY") && word.ends_with(ours))?;
    let inner = inner(pid)?;
    let app = value("KASM_VOID_APP").and_then(|app| app.rsplit_once(':')).map(|(name, _)| name.to_owned());
    let leader = value("KASM_VOID_LEADER").and_then(|leader| leader.parse().ok()) == Some(inner);
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let argv: Vec<String> =
        line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    // A fork of the guard has the guard's environment, so it is known by its name.
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let guarded = value("KASM_VOID_GUARD").is_some() || name.trim() == "kasm-supervisor";
    let container = argv.first().is_some_and(|program| program == "unshare");
    (!container).then_some(Process { pid, inner, parent, started, app, leader, guarded, argv })
}

/// The pid of a process in its own pid namespace.
fn inner(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace().next_back()?.parse().ok()
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
