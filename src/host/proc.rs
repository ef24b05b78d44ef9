//! Reads `/proc`: who is alive, whose child, with which command line and cookie. Knows no app.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::sys::Ended;

pub type Pid = i32;

/// One line of the process table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub pid: Pid,
    pub parent: Pid,
    pub session: Pid,
    /// Clock ticks since boot: with the pid, it names a process for good.
    pub started: u64,
    /// Dead, but not yet collected by its parent.
    pub zombie: bool,
    /// A thread of the kernel's own: it belongs to nobody.
    pub kernel: bool,
}

/// Who led an app's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    pub pid: Pid,
    /// Clock ticks since boot: with the pid, it names a process for good.
    pub started: u64,
    pub ended: Option<Ended>,
}

/// Every process that can be seen, of any user.
pub fn all() -> Vec<Entry> {
    pids().into_iter().filter_map(entry).collect()
}

fn pids() -> Vec<Pid> {
    let Ok(folder) = with_spare(|| fs::read_dir("/proc")) else { return Vec::new() };
    // All of them before the first is looked into: each look takes the descriptor that the folder takes now.
    let pids = folder.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    keep_spare();
    pids
}

/// The living processes of one user, oldest first.
pub fn processes_of(uid: u32) -> Vec<Entry> {
    let pids = pids();
    let ours =
        pids.into_iter().filter(|pid| fs::metadata(format!("/proc/{pid}")).is_ok_and(|folder| folder.uid() == uid));
    let mut entries: Vec<Entry> = ours.filter_map(entry).filter(|entry| !entry.zombie && !entry.kernel).collect();
    entries.sort_by_key(|entry| (entry.started, entry.pid));
    entries
}

/// `None`: no such process.
pub fn entry(pid: Pid) -> Option<Entry> {
    let stat = text(&format!("/proc/{pid}/stat"))?;
    // The name stands in parentheses and may hold any character, parentheses too.
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    let flags: u32 = fields.nth(2)?.parse().ok()?;
    let started = fields.nth(12)?.parse().ok()?;
    let (zombie, kernel) = (matches!(state, "Z" | "X"), flags & KERNEL_THREAD != 0);
    Some(Entry { pid, parent, session, started, zombie, kernel })
}

/// Its name and, where that tells why it does not end, its state; for people.
pub fn in_words(pid: Pid) -> Option<String> {
    let stat = text(&format!("/proc/{pid}/stat"))?;
    let (before, after) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    Some(match after.split_ascii_whitespace().next()? {
        "Z" | "X" => return None,
        "D" => format!("pid {pid} ({name}), which waits in the kernel, for a disk perhaps: not even SIGKILL ends that"),
        "T" | "t" => format!("pid {pid} ({name}), which is stopped by a signal or a debugger"),
        _ => format!("pid {pid} ({name})"),
    })
}

/// PF_KTHREAD of the kernel's `sched.h`.
const KERNEL_THREAD: u32 = 0x0020_0000;

/// A file of `/proc`, which has no size to ask for.
fn bytes(path: &str) -> Option<Vec<u8>> {
    let file = with_spare(|| fs::File::open(path)).ok()?;
    let mut bytes = Vec::with_capacity(2048);
    let read = loop {
        match rustix::io::read(&file, rustix::buffer::spare_capacity(&mut bytes)) {
            Ok(0) => break Some(bytes),
            Ok(_) => bytes.reserve(1024),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => break None,
        }
    };
    drop(file);
    keep_spare();
    read
}

/// A descriptor kept for the moment when there is none left: whoever cannot see that an app is alive would start
/// a second one.
static SPARE: Mutex<Option<fs::File>> = Mutex::new(None);

/// Keeps the spare descriptor, from before there is none, and again after it was needed.
pub fn keep_spare() {
    let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    if spare.is_none() {
        *spare = fs::File::open("/dev/null").ok();
    }
}

static MISSES: AtomicU64 = AtomicU64::new(0);

/// How often something could not be looked at for want of a descriptor: what is seen while this grows is not all
/// there is.
pub fn misses() -> u64 {
    MISSES.load(Ordering::Relaxed)
}

fn with_spare<T>(open: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let result = open();
    let full = |error: &io::Error| matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
    if !result.as_ref().is_err_and(full) {
        return result;
    }
    drop(SPARE.lock().unwrap_or_else(PoisonError::into_inner).take());
    open().inspect_err(|error| {
        if full(error) {
            MISSES.fetch_add(1, Ordering::Relaxed); // another thread was quicker
        }
    })
}

fn text(path: &str) -> Option<String> {
    // A process may call itself anything.
    Some(String::from_utf8_lossy(&bytes(path)?).into_owned())
}

/// Arguments joined by single spaces; empty for kernel threads, zombies and the gone.
pub fn command_line(pid: Pid) -> String {
    let bytes = bytes(&format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    String::from_utf8_lossy(words).replace('\0', " ")
}

/// The arguments, each by itself; none for kernel threads, zombies, the gone, and in the middle of `execve`.
pub fn arguments(pid: Pid) -> Vec<String> {
    let bytes = bytes(&format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let Some(words) = bytes.strip_suffix(b"\0") else { return Vec::new() };
    words.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// The file that a process executes. Once the file is deleted, ` (deleted)` stands behind its name.
///
/// # Errors
/// When the process is gone, or we may not look into it.
pub fn program(pid: Pid) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe"))
}

/// What a process has open, and the folder it works in. Sockets and pipes are there too, as the kernel names them.
///
/// # Errors
/// As [`program`].
pub fn open_files(pid: Pid) -> io::Result<Vec<PathBuf>> {
    let mut files = vec![fs::read_link(format!("/proc/{pid}/cwd"))?];
    for entry in with_spare(|| fs::read_dir(format!("/proc/{pid}/fd")))? {
        // It may close any of them while we look.
        files.extend(entry.and_then(|entry| fs::read_link(entry.path())).ok());
    }
    keep_spare();
    Ok(files)
}

/// The value of one variable in the environment the process was executed with. `None` also when it may
/// not be read.
pub fn variable(environment: &[u8], name: &str) -> Option<String> {
    let entries = environment.split(|byte| *byte == 0);
    let value = entries.filter_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")).next()?;
    Some(String::from_utf8_lossy(value).into_owned())
}

/// The whole environment block; empty when there is none, or when it may not be read.
///
/// A process in the middle of `execve` shows neither environment nor arguments for a moment. To take that
/// for "has no cookie" would lose it from its app's tree, so the moment is waited for.
pub fn environment(pid: Pid) -> Vec<u8> {
    let read = |file: &str| bytes(&format!("/proc/{pid}/{file}")).unwrap_or_default();
    let mut none_at_all = 0;
    for _ in 0..LOOKS_AT_EXEC {
        let block = read("environ");
        if !block.is_empty() || none_at_all == 3 {
            return block;
        }
        if !read("cmdline").is_empty() {
            none_at_all += 1; // or it had just become the next program
            continue;
        }
        if entry(pid).is_none_or(|entry| entry.zombie || entry.kernel) {
            return block;
        }
        std::thread::sleep(EXEC_PAUSE);
    }
    Vec::new()
}

/// Together 100 ms, hardly ever more than the first: a busy machine lets it come to an end, a dead disk
/// does not hold us up for good.
const LOOKS_AT_EXEC: u32 = 500;
const EXEC_PAUSE: Duration = Duration::from_micros(200);

/// Our direct children, those that were handed to us as subreaper too. `None` where the kernel does not
/// tell (it was built without CONFIG_PROC_CHILDREN).
pub fn children(main_thread: Pid) -> Option<Vec<Pid>> {
    let text = text(&format!("/proc/{main_thread}/task/{main_thread}/children"))?;
    Some(text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

/// The given processes and all that descend from them.
pub fn with_descendants<'a>(
    table: impl IntoIterator<Item = &'a Entry>,
    roots: impl IntoIterator<Item = Pid>,
) -> HashSet<Pid> {
    let mut by_parent: HashMap<Pid, Vec<Pid>> = HashMap::new();
    for entry in table {
        by_parent.entry(entry.parent).or_default().push(entry.pid);
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

/// Resident bytes of one process; 0 when it is gone.
pub fn resident(pid: Pid) -> u64 {
    let pages = text(&format!("/proc/{pid}/statm"));
    let pages = pages.and_then(|text| text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// How many processes the kernel has killed in our memory group for want of memory.
pub fn out_of_memory_kills() -> u64 {
    let own = ["/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"];
    let count = |text: String| {
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
        line.unwrap_or(0)
    };
    own.iter().find_map(|file| fs::read_to_string(file).ok()).map_or(0, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_find_ourselves() {
        let own = std::process::id() as Pid;
        let entry = entry(own).unwrap();
        assert!(entry.started > 0 && !entry.zombie);
        assert!(processes_of(rustix::process::getuid().as_raw()).contains(&entry));
        assert!(resident(own) > 100_000);
        assert_eq!(entry.parent, std::os::unix::process::parent_id() as Pid);
    }

    #[test]
    fn descendants_are_found_at_any_depth_and_in_any_order() {
        let process = |pid, parent| Entry { pid, parent, session: pid, started: 0, zombie: false, kernel: false };
        let table = [process(7, 5), process(5, 3), process(3, 1), process(9, 1)];
        assert_eq!(with_descendants(&table, [3]), HashSet::from([3, 5, 7]));
    }

    #[test]
    fn a_process_that_executes_the_next_program_keeps_its_environment() {
        let chain = r#"i=${1:-0}; [ $i -lt 1000 ] || exit 0; exec sh -c "$0" "$0" $((i+1))"#;
        let mut child =
            std::process::Command::new("sh").args(["-c", chain, chain]).env("CHAIN", "link").spawn().unwrap();
        let pid = child.id() as Pid;
        let mut without = 0;
        while child.try_wait().unwrap().is_none() {
            let block = environment(pid);
            let alive = entry(pid).is_some_and(|entry| !entry.zombie);
            without += usize::from(alive && variable(&block, "CHAIN").is_none());
        }
        assert_eq!(without, 0);
    }

    #[test]
    fn a_variable_is_found_by_its_whole_name() {
        let block = b"KASM_VOID_APPS=x\0KASM_VOID_APP=web:3\0";
        assert_eq!(variable(block, "KASM_VOID_APP").as_deref(), Some("web:3"));
        assert_eq!(variable(block, "KASM_VOID"), None);
    }
}
