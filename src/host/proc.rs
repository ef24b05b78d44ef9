//! Reads `/proc`: the processes, their parents, and details of a single process. Knows nothing about apps and makes no
//! decisions.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::sys::ExitRecord;
pub use crate::model::tree::{Pid, Process};
use crate::model::tree::{Place, Table};

/// The process that led an app's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    pub pid: Pid,
    /// Start time in clock ticks since boot. Together with the pid it identifies a process uniquely.
    pub started: u64,
    pub ended: Option<ExitRecord>,
}

/// All processes that `/proc` shows, of every user, oldest first, without kernel threads.
pub fn table() -> Table {
    let before = misses();
    let Ok(folder) = with_spare(|| fs::read_dir("/proc")) else { return Table::default() };
    // Close the folder before reading the first process: each read needs the descriptor that it frees.
    let pids: Vec<Pid> = folder.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    keep_spare();
    let mut processes: Vec<Process> = pids.into_iter().filter_map(process).collect();
    processes.sort_by_key(|process| (process.started, process.pid));
    Table { processes, complete: misses() == before }
}

/// One process. `None` if it does not exist or is a kernel thread.
pub fn process(pid: Pid) -> Option<Process> {
    let stat = text(&format!("/proc/{pid}/stat"))?;
    // The name is in parentheses and may contain any character, including parentheses.
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
    Some(Process { pid, parent, session, group, started, zombie, signallable: signallable(pid) })
}

/// Whether a process has ended or is ending. If so, its memory is gone, and its environment with it.
pub fn is_ending(pid: Pid) -> bool {
    let flags = text(&format!("/proc/{pid}/stat")).and_then(|stat| {
        let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
        fields.nth(6)?.parse::<u32>().ok()
    });
    flags.is_none_or(|flags| flags & EXITING != 0)
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
    let stat = text(&format!("/proc/{pid}/stat"))?;
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

/// The real user id of a process.
fn user(pid: Pid) -> Option<u32> {
    let status = text(&format!("/proc/{pid}/status"))?;
    status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_ascii_whitespace().next()?.parse().ok())
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

/// Reads a file of `/proc`, whose size is not known in advance.
fn bytes(path: &str) -> Option<Vec<u8>> {
    read_with(path, 2048)
}

/// `room` is how many bytes to read at once. If a process executes another program between two reads, the rest of its
/// old data is lost.
fn read_with(path: &str, room: usize) -> Option<Vec<u8>> {
    let file = with_spare(|| fs::File::open(path)).ok()?;
    let mut bytes = Vec::with_capacity(room);
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

/// A spare descriptor for when none is left. Without it we could not see that an app is alive, and would start it
/// twice.
static SPARE: Mutex<Option<fs::File>> = Mutex::new(None);

/// Opens the spare descriptor. Call it early, and again after the spare was used.
pub fn keep_spare() {
    let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    if spare.is_none() {
        *spare = fs::File::open("/dev/null").ok();
    }
}

static MISSES: AtomicU64 = AtomicU64::new(0);

/// How often something could not be read for lack of a descriptor. If this number grows during a look, the look is
/// incomplete.
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
            MISSES.fetch_add(1, Ordering::Relaxed); // another thread took the spare first
        }
    })
}

fn text(path: &str) -> Option<String> {
    // A process name may hold any bytes.
    Some(String::from_utf8_lossy(&bytes(path)?).into_owned())
}

/// The arguments, joined by single spaces. Empty for kernel threads, zombies and processes that are gone.
pub fn command_line(pid: Pid) -> String {
    let bytes = bytes(&format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    String::from_utf8_lossy(words).replace('\0', " ")
}

/// The arguments. Empty for kernel threads, zombies, processes that are gone, and in the middle of `execve`.
pub fn arguments(pid: Pid) -> Vec<String> {
    let bytes = bytes(&format!("/proc/{pid}/cmdline")).unwrap_or_default();
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

/// The value of one variable in an environment block. `None` also if the block could not be read and is empty.
pub fn variable(environment: &[u8], name: &str) -> Option<String> {
    let entries = environment.split(|byte| *byte == 0);
    let value = entries.filter_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")).next()?;
    Some(String::from_utf8_lossy(value).into_owned())
}

/// The whole environment block. Empty if there is none, or if it may not be read.
///
/// A process in the middle of `execve` shows neither environment nor arguments for a moment. If that were taken for
/// "has no marks", the process would be lost from its app's tree, so this waits.
pub fn environment(pid: Pid) -> Vec<u8> {
    let (mut seen_empty, mut looks) = (0, 0);
    let deadline = Instant::now() + EXEC_TAKES;
    while Instant::now() < deadline {
        // Do not wait for one that may not be read.
        let Some(block) = read_with(&format!("/proc/{pid}/environ"), 128 << 10) else { return Vec::new() };
        if !block.is_empty() || seen_empty == 3 {
            return block;
        }
        let Some((start, end)) = room_for_environment(pid) else { return block };
        // It is empty, or the kernel is about to set its end.
        if start == end && end != 0 {
            seen_empty += 1;
        }
        // If it has room for one, it has just become the next program: read again at once. It may also have lost its
        // core in the middle of `execve`, so only the first looks are without a pause.
        looks += 1;
        if start == end || looks > LOOKS_AT_ONCE {
            std::thread::sleep(EXEC_PAUSE);
        }
    }
    Vec::new()
}

/// The start and end address of a process's environment; zeros in the middle of `execve`. `None` if the process has
/// ended.
fn room_for_environment(pid: Pid) -> Option<(u64, u64)> {
    let stat = text(&format!("/proc/{pid}/stat"))?;
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let dead = matches!(fields.next()?, "Z" | "X");
    let (start, end) = (fields.nth(46)?.parse().ok()?, fields.next()?.parse().ok()?);
    (!dead).then_some((start, end))
}

/// An exec on a busy machine is over by then. Limits the wait for a dead disk; the first look is nearly always enough.
const EXEC_TAKES: Duration = Duration::from_millis(500);
const LOOKS_AT_ONCE: u32 = 10;
const EXEC_PAUSE: Duration = Duration::from_micros(200);

/// Our direct children, including those we inherited as subreaper. `None` if the kernel does not list them (it was
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

/// Resident bytes of one process, or 0 if it is gone. Memory shared with others counts in full.
pub fn resident(pid: Pid) -> u64 {
    let pages = text(&format!("/proc/{pid}/statm"));
    let pages = pages.and_then(|text| text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// The process's proportional share of its resident bytes: memory shared by n processes counts 1/n for each. `None` if
/// it may not be read.
pub fn share(pid: Pid) -> Option<u64> {
    let rollup = text(&format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// The process's `oom_score_adj`, which the kernel uses to choose what to kill when memory runs out. 0 if the process
/// is gone.
pub fn oom_score_adj(pid: Pid) -> i32 {
    text(&format!("/proc/{pid}/oom_score_adj")).and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// The file in which the kernel counts the out-of-memory kills in our memory cgroup.
pub fn out_of_memory_file() -> Option<fs::File> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let path = path.trim_start_matches('/');
        match controllers {
            "" => Some(PathBuf::from(format!("/sys/fs/cgroup/{path}/memory.events"))),
            _ if controllers.split(',').any(|one| one == "memory") => {
                Some(PathBuf::from(format!("/sys/fs/cgroup/memory/{path}/memory.oom_control")))
            }
            _ => None,
        }
    });
    // A container often sees its own cgroup mounted as the root, whatever name /proc gives.
    let roots = ["/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"].map(PathBuf::from);
    own.chain(roots).find_map(|file| fs::File::open(file).ok())
}

/// The number of out-of-memory kills in the file.
pub fn out_of_memory_kills(file: &fs::File) -> Option<u64> {
    let mut room = [0; 1024];
    let read = rustix::io::pread(file, &mut room, 0).ok()?;
    let text = String::from_utf8_lossy(&room[..read]);
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
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

    #[test]
    fn a_process_that_executes_the_next_program_keeps_its_environment() {
        let chain = r#"i=${1:-0}; [ $i -lt 1000 ] || exit 0; exec sh -c "$0" "$0" $((i+1))"#;
        let mut child =
            std::process::Command::new("sh").args(["-c", chain, chain]).env("CHAIN", "link").spawn().unwrap();
        let pid = child.id() as Pid;
        let mut without = 0;
        while child.try_wait().unwrap().is_none() {
            let block = environment(pid);
            // One that is exiting has no memory any more, and is no zombie yet.
            let alive = room_for_environment(pid).is_some_and(|(_, end)| end != 0);
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
