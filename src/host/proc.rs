//! Reads `/proc`: the processes, their parents, and details of a single process. Knows nothing about apps and makes no
//! decisions.

mod environment;
mod memory;
mod read;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

pub use environment::{environment, variable};
pub use memory::{age, cpu, oom_score_adj, out_of_memory_file, out_of_memory_kills, resident, share};
pub use read::{keep_spare, misses};
use read::{stat, text, whole, with_spare};

pub use crate::model::tree::{Pid, Process};
use crate::model::tree::{Place, Table};

/// All processes that `/proc` shows, of every user, oldest first, without kernel threads.
pub fn table() -> Table {
    table_with(|_, _| {})
}

/// Like [`table`]. `each` is also told the name of each process: of its program, or what it has called itself.
pub fn table_with(mut each: impl FnMut(&Process, &str)) -> Table {
    let before = misses();
    let Ok(folder) = with_spare(|| fs::read_dir("/proc")) else { return Table::default() };
    // Close the folder before reading the first process: each read needs the descriptor that it frees.
    let mut pids: Vec<Pid> = folder.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    keep_spare();
    // Read after the folder: a pid that is a kernel thread's now was not another process's then, or that one is gone.
    let threads = kernel_threads();
    pids.retain(|pid| !threads.contains(pid));
    let mut processes: Vec<Process> = Vec::with_capacity(pids.len());
    for stat in pids.into_iter().filter_map(stat) {
        if let Some((process, name)) = parsed(&stat) {
            each(&process, name);
            processes.push(process);
        }
    }
    processes.sort_by_key(|process| (process.started, process.pid));
    Table { processes, complete: misses() == before }
}

/// The kernel's threads, if the kernel lists them. A machine has more of them than processes, so reading each of them
/// would be most of the work of a look. A container sees none.
fn kernel_threads() -> HashSet<Pid> {
    const THEIR_PARENT: Pid = 2;
    let is_theirs = stat(THEIR_PARENT).is_some_and(|stat| flags(&stat).is_some_and(|flags| flags & KERNEL_THREAD != 0));
    let threads = is_theirs.then(|| children(THEIR_PARENT)).flatten().unwrap_or_default();
    threads.into_iter().collect()
}

/// One process. `None` if it does not exist or is a kernel thread.
pub fn process(pid: Pid) -> Option<Process> {
    Some(parsed(&stat(pid)?)?.0)
}

/// A process and its name, from its `stat`. `None` if it is a kernel thread.
fn parsed(stat: &str) -> Option<(Process, &str)> {
    // The name is in parentheses and may contain any character, including parentheses.
    let (pid, name) = stat[..stat.rfind(')')?].split_once(" (")?;
    let pid = pid.parse().ok()?;
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let session = fields.next()?.parse().ok()?;
    let flags: u32 = fields.nth(2)?.parse().ok()?;
    let threads: u32 = fields.nth(10)?.parse().ok()?;
    let started = fields.nth(1)?.parse().ok()?;
    if flags & KERNEL_THREAD != 0 {
        return None;
    }
    // If only the first thread has ended, the process lives on in the others.
    let zombie = matches!(state, "Z" | "X") && threads <= 1;
    Some((Process { pid, parent, session, group, started, zombie, signallable: signallable(pid) }, name))
}

/// Whether a process has ended or is ending. If so, its memory is gone, and its environment with it.
pub fn is_ending(pid: Pid) -> bool {
    stat(pid).and_then(|stat| flags(&stat)).is_none_or(|flags| flags & EXITING != 0)
}

/// The kernel's flags of a process, from its `stat`.
fn flags(stat: &str) -> Option<u32> {
    stat[stat.rfind(')')? + 1..].split_ascii_whitespace().nth(6)?.parse().ok()
}

fn signallable(pid: Pid) -> bool {
    let asked = rustix::process::Pid::from_raw(pid).map(rustix::process::test_kill_process);
    asked != Some(Err(rustix::io::Errno::PERM))
}

/// Whether the process with this pid and start time still exists and is not dead. If it cannot be read for lack of a
/// descriptor, it counts as alive.
pub fn lives(pid: Pid, started: u64) -> bool {
    let before = misses();
    match process(pid) {
        Some(now) => now.started == started && !now.zombie,
        None => misses() != before,
    }
}

/// Describes a process for people, and says what keeps it from ending. `None` if it has ended.
pub fn in_words(pid: Pid) -> Option<String> {
    let stat = stat(pid)?;
    let (before, after) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let state = after.split_ascii_whitespace().next()?;
    if process(pid)?.zombie {
        return None;
    }
    let name = format!("pid {pid} ({name})");
    Some(match (signallable(pid), state) {
        (false, _) => {
            let user = user(pid).map_or_else(|| "another user".into(), |uid| format!("uid {uid}"));
            format!("{name}, which runs as {user} and may not be signalled by us")
        }
        (true, "D") => {
            format!("{name}, which is stuck in the kernel, perhaps waiting for a disk, so SIGKILL does not end it")
        }
        (true, "T" | "t") => format!("{name}, which is stopped by a signal or a debugger"),
        (true, _) => name,
    })
}

/// The user that a process runs as: its effective user id.
pub fn user(pid: Pid) -> Option<u32> {
    let status = text(&format!("/proc/{pid}/status"))?;
    status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_ascii_whitespace().nth(1)?.parse().ok())
}

/// The file name of the process's program, even if the file is deleted. `None` if it may not be read.
pub fn program_name(pid: Pid) -> Option<String> {
    let path = program(pid).ok()?;
    let name = path.file_name()?.to_string_lossy().into_owned();
    Some(name.strip_suffix(" (deleted)").map(String::from).unwrap_or(name))
}

/// The inode of a process's mount namespace. `None` if it may not be read.
pub fn mount_namespace(pid: Pid) -> Option<u64> {
    Some(fs::metadata(format!("/proc/{pid}/ns/mnt")).ok()?.ino())
}

/// The device and inode of its standard output and standard error.
pub fn outputs(pid: Pid) -> impl Iterator<Item = (u64, u64)> {
    let file = move |number| fs::metadata(format!("/proc/{pid}/fd/{number}")).ok();
    [1, 2].into_iter().filter_map(file).map(|file| (file.dev(), file.ino()))
}

/// Identifies the session that owns this state folder.
pub fn place(state: &std::path::Path) -> Place {
    let folder = fs::metadata(state).map_or((0, 0), |folder| (folder.dev(), folder.ino()));
    let namespace = mount_namespace(std::process::id() as Pid).unwrap_or(0);
    Place { state: state.to_string_lossy().into_owned(), namespace, folder }
}

/// PF_EXITING of the kernel's `sched.h`.
const EXITING: u32 = 0x4;

/// PF_KTHREAD of the kernel's `sched.h`.
const KERNEL_THREAD: u32 = 0x0020_0000;

/// The arguments, joined by single spaces. Empty for kernel threads, zombies and processes that are gone.
pub fn command_line(pid: Pid) -> String {
    let bytes = whole(&format!("/proc/{pid}/cmdline"), 2048).unwrap_or_default();
    let words = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    String::from_utf8_lossy(words).replace('\0', " ")
}

/// The arguments. Empty for kernel threads, zombies, processes that are gone, and in the middle of `execve`.
pub fn arguments(pid: Pid) -> Vec<String> {
    let bytes = whole(&format!("/proc/{pid}/cmdline"), 2048).unwrap_or_default();
    if bytes.ends_with(b"\0") { words(&bytes) } else { Vec::new() }
}

/// A program that sets its title (Chromium does when a link was executed) leaves one text there in place of its
/// arguments, padded with NULs. It is split at its spaces: a word that holds a space itself cannot be told.
fn words(cmdline: &[u8]) -> Vec<String> {
    let title = cmdline.trim_ascii_end().split(|byte| *byte == 0).find(|word| !word.is_empty()).unwrap_or_default();
    let is_title = title.contains(&b' ') && cmdline[title.len()..].iter().all(|byte| *byte == 0);
    let separator = if is_title { b' ' } else { 0 };
    let end = if is_title { title.len() } else { cmdline.len() - 1 };
    let words = cmdline[..end].split(|byte| *byte == separator);
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// The program file of a process. If the file is deleted, the path ends in ` (deleted)`.
///
/// # Errors
/// The process is gone, or we may not inspect it.
pub fn program(pid: Pid) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe"))
}

/// The open files of a process, and its working folder. Includes sockets and pipes, with the names the kernel gives
/// them.
///
/// # Errors
/// As [`program`].
pub fn open_files(pid: Pid) -> io::Result<Vec<PathBuf>> {
    let mut files = vec![fs::read_link(format!("/proc/{pid}/cwd"))?];
    for entry in with_spare(|| fs::read_dir(format!("/proc/{pid}/fd")))? {
        // The process may close any of them while we look.
        files.extend(entry.and_then(|entry| fs::read_link(entry.path())).ok());
    }
    keep_spare();
    Ok(files)
}

/// The direct children of a process, including those it inherited as subreaper. `None` if the kernel does not list them (it was
/// built without CONFIG_PROC_CHILDREN).
pub fn children(main_thread: Pid) -> Option<Vec<Pid>> {
    let text = text(&format!("/proc/{main_thread}/task/{main_thread}/children"))?;
    Some(text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

/// The given processes and all their descendants.
pub fn with_descendants<'a>(
    table: impl IntoIterator<Item = &'a Process>,
    roots: impl IntoIterator<Item = Pid>,
) -> HashSet<Pid> {
    let mut by_parent: HashMap<Pid, Vec<Pid>> = HashMap::new();
    for process in table {
        by_parent.entry(process.parent).or_default().push(process.pid);
    }
    let mut found = HashSet::new();
    let mut queue: Vec<Pid> = roots.into_iter().collect();
    while let Some(pid) = queue.pop() {
        if found.insert(pid) {
            queue.extend(by_parent.get(&pid).into_iter().flatten());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_told_from_a_title_in_their_place() {
        for (cmdline, expected) in [
            (&b"web\0--dir=/a b\0\0"[..], &["web", "--dir=/a b", ""][..]),
            (b"/opt/chrome --a --dir=/x\0\0\0\0", &["/opt/chrome", "--a", "--dir=/x"]),
            (b"web\0", &["web"]),
            (b"\0", &[""]),
        ] {
            assert_eq!(words(cmdline), expected, "{cmdline:?}");
        }
    }

    #[test]
    fn we_find_ourselves() {
        let own = std::process::id() as Pid;
        let process = process(own).unwrap();
        assert!(process.started > 0 && !process.zombie && process.signallable);
        assert_eq!(process.parent, std::os::unix::process::parent_id() as Pid);
        let table = table();
        assert!(table.complete && table.processes.contains(&process));
        assert!(resident(own) > 100_000 && share(own).is_none_or(|share| share <= resident(own)));
        assert_eq!(
            program_name(own),
            std::env::current_exe().unwrap().file_name().map(|name| name.to_string_lossy().into())
        );
    }

    #[test]
    fn a_zombie_is_ending_and_we_are_not() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id() as Pid;
        while !process(pid).unwrap().zombie {
            std::thread::yield_now();
        }
        assert!(is_ending(pid) && !is_ending(std::process::id() as Pid));
        child.wait().unwrap();
        assert!(is_ending(pid));
    }

    #[test]
    fn descendants_are_found_at_any_depth_and_in_any_order() {
        let process = |pid, parent| Process {
            pid,
            parent,
            session: pid,
            group: pid,
            started: 0,
            zombie: false,
            signallable: true,
        };
        let table = [process(7, 5), process(5, 3), process(3, 1), process(9, 1)];
        assert_eq!(with_descendants(&table, [3]), HashSet::from([3, 5, 7]));
    }
}
