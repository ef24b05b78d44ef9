//! The few calls that no safe crate offers: spawning by vfork, reaping with resource usage, locks held in other
//! containers, other users for programs and for files, and tokio's descriptor registration. Makes no decisions.
//!
//! One file because it is the only one that may contain unsafe code, which is read with more care than the rest.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::Timespec;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::model::accounts::RunAs;
use crate::model::exit::ExitRecord;
use crate::model::manifest::rlimits::Resource;

/// Any child that has exited. It stays there until [`collect`] is called.
pub fn ended() -> Option<ExitRecord> {
    // SAFETY: all-zero values of both are valid, and both pointers live through the call. The C library's
    // `waitid` has no usage.
    let (info, usage) = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let mut usage: libc::rusage = std::mem::zeroed();
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        if libc::syscall(libc::SYS_waitid, libc::P_ALL, 0, &mut info, options, &mut usage) != 0 {
            return None;
        }
        (info, usage)
    };
    // SAFETY: `waitid` has filled in the fields of a child, or left all of them zero.
    let (pid, value) = unsafe { (info.si_pid(), info.si_status()) };
    let status = match info.si_code {
        libc::CLD_EXITED => value << 8,
        libc::CLD_DUMPED => value | 0x80,
        _ => value,
    };
    (pid > 0).then_some(ExitRecord { pid, status, peak: usage.ru_maxrss as u64 * 1024 })
}

/// Whether we have no children at all, running or exited.
pub fn childless() -> bool {
    // SAFETY: an all-zero value is valid, and the pointer lives through the call.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        libc::waitid(libc::P_ALL, 0, &mut info, options) != 0
            && io::Error::last_os_error().raw_os_error() == Some(libc::ECHILD)
    }
}

/// Collects a child that has exited.
pub fn collect(pid: i32) {
    // SAFETY: no pointer is passed. An error means that there is nothing to collect.
    unsafe { libc::waitpid(pid, ptr::null_mut(), libc::WNOHANG) };
}

/// Our own peak resident memory, in bytes.
pub fn own_peak() -> u64 {
    // SAFETY: an all-zero value is valid, and the pointer lives through the call.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    usage.ru_maxrss as u64 * 1024
}

/// Time since boot, including sleep. All supervisors of a session share this clock.
pub fn since_boot() -> std::time::Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    std::time::Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

/// Whether another process has locked any part of the file with `fcntl`. It may be in another container.
pub fn is_locked(file: impl AsFd) -> bool {
    // SAFETY: all-zero values are valid: they name the whole file. The pointer lives through the call.
    unsafe {
        let mut lock: libc::flock = std::mem::zeroed();
        lock.l_type = libc::F_WRLCK as libc::c_short;
        libc::fcntl(file.as_fd().as_raw_fd(), libc::F_GETLK, &mut lock) == 0
            && lock.l_type != libc::F_UNLCK as libc::c_short
    }
}

/// Blocks these signals and returns a descriptor from which they are read.
pub fn signal_fd(signals: &[c_int]) -> io::Result<OwnedFd> {
    // SAFETY: an all-zero set is valid memory for `sigemptyset`; a descriptor that was just made is ours alone.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in signals {
            libc::sigaddset(&mut set, *signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, &set, ptr::null_mut());
        let fd = libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// All signals that end a process by default and can be caught, and SIGCHLD. Not the signals that stop or continue a
/// process.
pub fn catchable_signals() -> Vec<c_int> {
    let left_alone = [
        libc::SIGKILL,
        libc::SIGSTOP,
        libc::SIGCONT,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
        libc::SIGURG,
        libc::SIGWINCH,
    ];
    let real_time = libc::SIGRTMIN()..=libc::SIGRTMAX();
    (1..32).chain(real_time).filter(|signal| !left_alone.contains(signal)).collect()
}

/// The next signal received by a descriptor of [`signal_fd`].
pub fn next_signal(signals: &OwnedFd) -> Option<c_int> {
    let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
    let read = rustix::io::retry_on_intr(|| rustix::io::read(signals, &mut info));
    read.is_ok_and(|bytes| bytes == info.len())
        .then(|| u32::from_ne_bytes([info[0], info[1], info[2], info[3]]) as c_int)
}

/// The `poll` timeout for `span`, rounded up so that `span` has passed when it returns. At most an hour; the caller
/// then checks its deadline again.
pub fn timeout(span: Duration) -> Timespec {
    let span = span.min(Duration::from_secs(3600)) + Duration::from_millis(1);
    Timespec { tv_sec: span.as_secs() as i64, tv_nsec: span.subsec_nanos().into() }
}

/// Ignores these signals. Programs started by [`spawn`] get the default back.
pub fn ignore_signals(signals: &[c_int]) {
    for signal in signals {
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe { libc::signal(*signal, libc::SIG_IGN) };
    }
}

/// Unblocks all signals, whatever our parent had blocked.
fn unblock_signals() {
    // SAFETY: an all-zero set is valid memory for `sigemptyset`.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
    }
}

/// Forks. Returns the child's pid, and `None` in the child, which has no signals blocked and this soft limit of open files.
/// Only for a process with one thread: the child has a copy of the calling thread alone, and a lock that another one
/// held would stay locked.
pub fn fork(open_files: Option<u64>) -> io::Result<Option<i32>> {
    // SAFETY: by the contract above, nothing is half done in the child.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            unblock_signals();
            if let Some(soft) = open_files {
                set_open_files(soft);
            }
            Ok(None)
        }
        pid => Ok(Some(pid)),
    }
}

/// Sets a variable of our own environment, or removes it. Only for a process with one thread: another one could be
/// reading the environment.
pub fn set_variable(name: &str, value: Option<&str>) {
    // SAFETY: by the contract above, nobody reads it meanwhile.
    unsafe {
        match value {
            Some(value) => std::env::set_var(name, value),
            None => std::env::remove_var(name),
        }
    }
}

/// Makes the command start with no signals blocked, and with this soft limit of open files. It inherits `kept`, which
/// must stay open until the command is started.
pub fn start_unblocked(command: &mut std::process::Command, open_files: Option<u64>, kept: Option<BorrowedFd<'_>>) {
    use std::os::unix::process::CommandExt;
    let kept = kept.map(|fd| fd.as_raw_fd());
    // SAFETY: what is called is async-signal-safe and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            unblock_signals();
            if let Some(soft) = open_files {
                set_open_files(soft);
            }
            if let Some(fd) = kept {
                libc::fcntl(fd, libc::F_SETFD, 0);
            }
            Ok(())
        });
    }
}

/// Makes the command start as the leader of a session of its own, on the terminal that is its stdin.
pub fn start_on_terminal(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: what is called is async-signal-safe and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            Ok(())
        });
    }
}

/// Ends this process by a signal, as another one was ended. Leaves no core dump: that one may have left its own. Returns if
/// the signal does not end a process.
pub fn end_by(signal: c_int) {
    // SAFETY: the default action runs no code of ours; the pointers live through the calls.
    unsafe {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &none);
        libc::signal(signal, libc::SIG_DFL);
        let mut only: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut only);
        libc::sigaddset(&mut only, signal);
        libc::raise(signal);
        libc::sigprocmask(libc::SIG_UNBLOCK, &only, ptr::null_mut());
    }
}

/// Raises the soft limit of open files to the hard limit. Returns the old limit, which programs get back: a program
/// that uses `select` breaks above 1024.
pub fn raise_open_files() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).ok().and(limit.current)
}

/// Async-signal-safe.
fn set_open_files(soft: u64) {
    // SAFETY: an all-zero limit is valid, and both pointers live through the calls.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = soft;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
}

/// Takes a descriptor that this process had before its exec, and makes it close-on-exec. `None` if this number is not
/// open. Call it once for each number, before anything else may have opened it.
pub fn inherited_descriptor(number: c_int) -> Option<OwnedFd> {
    // SAFETY: `fcntl` fails for a number that is not open. By the contract above nobody else owns it.
    unsafe {
        let open = number > 2 && libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) == 0;
        open.then(|| OwnedFd::from_raw_fd(number))
    }
}

/// Whether this number is a descriptor that our parent passed to us. Our own are close-on-exec.
pub fn is_inherited(number: c_int) -> bool {
    // SAFETY: no pointer is passed, and `fcntl` fails for a number that is not open.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    number > 2 && flags >= 0 && flags & libc::FD_CLOEXEC == 0
}

/// Whether `pidfd_open` works.
pub fn pidfd_works() -> bool {
    rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty()).is_ok()
}

/// Ignores SIGXFSZ: a write beyond an inherited `ulimit -f` then fails with an error instead of ending us. Children get
/// the default back.
pub fn survive_file_size_limit() {
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Bytes of the stack below the current frame that [`slim_down`] leaves alone: more than what it calls uses.
const NEAR: usize = 16 << 10;

/// Frees memory that only the start needed: code and constants, which the page cache still has, free heap, and the unused
/// part of the main thread's stack. What is needed again is loaded again, page by page.
pub fn slim_down() {
    // SAFETY: touches only memory that is free.
    unsafe { libc::malloc_trim(0) };
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let here = (&raw const maps).addr();
    let unused = maps.lines().filter_map(|line| never_written(line).or_else(|| unused_stack(line, here)));
    for (from, to) in unused {
        // SAFETY: the mapping is one of a file, read-only and never written to, so that every page of it is
        // read from the file again when it is next used. Or it is the stack below all frames in use: nobody reads it
        // before writing to it.
        unsafe { libc::madvise(ptr::without_provenance_mut(from), to - from, libc::MADV_DONTNEED) };
    }
}

/// The bounds of a mapping, if it is code from a file, or the constants at the file's beginning. Other read-only
/// mappings hold addresses that the loader has filled in, which are not in the file.
fn never_written(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let bounds = bounds(words.next()?)?;
    let (mode, offset) = (words.next()?, words.next()?);
    let kept_in_file = mode == "r-xp" || (mode == "r--p" && usize::from_str_radix(offset, 16) == Ok(0));
    let of_a_file = words.nth(2)?.starts_with('/');
    (kept_in_file && of_a_file).then_some(bounds)
}

/// The bounds of what the main thread's stack has unused, if the mapping is that stack and this runs on it. `here`: an
/// address in the current frame.
fn unused_stack(line: &str, here: usize) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (from, to) = bounds(words.next()?)?;
    let end = here.checked_sub(NEAR)? & !4095;
    (words.last() == Some("[stack]") && (from..to).contains(&end)).then_some((from, end))
}

fn bounds(word: &str) -> Option<(usize, usize)> {
    let (from, to) = word.split_once('-')?;
    Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
}

/// Makes all threads share one heap. Other threads than the main one use little, and each would keep a heap of its own.
pub fn share_one_heap() {
    // SAFETY: passes two numbers.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Registers a descriptor with the current tokio runtime.
pub fn async_fd(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` returns the same open descriptor for as long as it lives, and the `AsyncFd`
    // owns it.
    unsafe { Ok(AsyncFd::register_with_interest(fd, interest)?) }
}

/// How to set up a child before it executes the program. Everything is prepared, because the child may not allocate.
pub struct Child<'a> {
    pub program: &'a CStr,
    /// The arguments, with the program's name first.
    pub argv: &'a [CString],
    /// `KEY=value`.
    pub env: &'a [&'a CStr],
    pub cwd: Option<&'a CStr>,
    pub stdin: BorrowedFd<'a>,
    /// Becomes stdout and stderr.
    pub output: BorrowedFd<'a>,
    pub nice: Option<i32>,
    /// The soft limit of open files to restore, if ours was raised.
    pub open_files: Option<u64>,
    /// Limits to set: resource, soft, hard.
    pub rlimits: &'a [(Resource, u64, u64)],
    pub umask: Option<u32>,
    /// The user that the program runs as, if it is not ours.
    pub user: Option<&'a RunAs>,
    /// Descriptors of ours that the program gets too, under the same numbers. It gets no others.
    pub kept: &'a [c_int],
}

/// Room for the entry of `marks::LEADER`. The child writes its pid over the zeros, because it cannot allocate.
const LEADER_ENTRY: [u8; 28] = *b"KASM_VOID_LEADER=0000000000\0";

/// The step between fork and exec that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpawnStep {
    Clone,
    /// The child could not get a descriptor table of its own.
    Descriptors,
    WorkingFolder,
    Nice,
    Limit(Resource),
    User,
    Exec,
}

struct Hand<'a> {
    child: &'a Child<'a>,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    leader: [u8; 28],
    borrows_descriptors: bool,
    failed: Option<(SpawnStep, i32)>,
}

const STACK: usize = 64 * 1024;

/// Whether a child may borrow our descriptor table too, until it has copied the beginning of it. To copy all of it, and
/// to close all of it again at exec, would make each start slower with every app that runs. Needs Linux 5.9, and a seccomp
/// profile that allows `close_range`.
static BORROW_DESCRIPTORS: AtomicBool = AtomicBool::new(true);

/// Starts a program as the leader of its own session, with default signal handling. Returns when exec has succeeded or
/// failed. Never copies our memory: until then the child borrows it (vfork). Quick if the descriptors it gets have low
/// numbers.
pub fn spawn(child: &Child<'_>) -> Result<i32, (SpawnStep, io::Error)> {
    if BORROW_DESCRIPTORS.load(Ordering::Relaxed) {
        match spawn_with(child, libc::CLONE_FILES) {
            Err((SpawnStep::Descriptors, _)) => BORROW_DESCRIPTORS.store(false, Ordering::Relaxed),
            done => return done,
        }
    }
    spawn_with(child, 0)
}

/// `sharing` is `CLONE_FILES` or nothing.
fn spawn_with(child: &Child<'_>, sharing: c_int) -> Result<i32, (SpawnStep, io::Error)> {
    let pointers = |list: &mut dyn Iterator<Item = *const c_char>| list.chain([ptr::null()]).collect::<Vec<_>>();
    let mut hand = Hand {
        child,
        argv: pointers(&mut child.argv.iter().map(|word| word.as_ptr())),
        env: pointers(&mut child.env.iter().map(|entry| entry.as_ptr())),
        leader: LEADER_ENTRY,
        borrows_descriptors: sharing != 0,
        failed: None,
    };
    let end = hand.env.len() - 1;
    hand.env.insert(end, hand.leader.as_ptr().cast());
    let mut stack: Vec<u128> = Vec::with_capacity(STACK / 16);
    // SAFETY: with CLONE_VFORK this thread sleeps until the child has left our memory, so `hand` and
    // `stack` outlive its use of them; with all signals blocked and every handler of the child (it has
    // a table of its own) reset before they are unblocked, no handler of ours runs in the child; it
    // calls only async-signal-safe functions.
    let pid = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let top = stack.as_mut_ptr().add(STACK / 16).cast::<c_void>();
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD | sharing;
        let pid = libc::clone(become_program, top, flags, ptr::from_mut(&mut hand).cast());
        let error = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut());
        if pid < 0 {
            return Err((SpawnStep::Clone, error));
        }
        pid
    };
    // SAFETY: the child has written this before it ended, and nothing writes it any more.
    match unsafe { ptr::read_volatile(&hand.failed) } {
        None => Ok(pid),
        Some((step, error)) => {
            // SAFETY: it is our child and has not been collected: nothing reaps while this call runs.
            unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
            Err((step, io::Error::from_raw_os_error(error)))
        }
    }
}

extern "C" fn become_program(hand: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes its own `Hand` and sleeps until we are done with it.
    let hand = unsafe { &mut *hand.cast::<Hand<'_>>() };
    // SAFETY: only async-signal-safe calls on values prepared before.
    unsafe {
        write_digits(&mut hand.leader, libc::getpid());
        let step = prepare(hand.child, hand.borrows_descriptors);
        let step = step.err().unwrap_or_else(|| {
            libc::execve(hand.child.program.as_ptr(), hand.argv.as_ptr(), hand.env.as_ptr());
            SpawnStep::Exec
        });
        ptr::write_volatile(&mut hand.failed, Some((step, *libc::__errno_location())));
        libc::_exit(127)
    }
}

/// Writes the number over the zeros before the final NUL.
fn write_digits(entry: &mut [u8], mut number: i32) {
    for digit in entry.iter_mut().rev().skip(1) {
        if number == 0 {
            return;
        }
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Does everything between fork and exec.
///
/// # Safety
/// Only in a child that may be sharing its parent's memory: calls nothing that allocates or locks.
unsafe fn prepare(child: &Child<'_>, borrows_descriptors: bool) -> Result<(), SpawnStep> {
    // SAFETY: as the function's own contract.
    unsafe {
        if borrows_descriptors {
            own_descriptors(child)?;
        }
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        for signal in 1..=64 {
            libc::sigaction(signal, &default, ptr::null_mut());
        }
        libc::setsid();
        libc::dup2(child.stdin.as_raw_fd(), 0);
        libc::dup2(child.output.as_raw_fd(), 1);
        libc::dup2(child.output.as_raw_fd(), 2);
        keep_only(child.kept);
        if let Some(soft) = child.open_files {
            set_open_files(soft);
        }
        if let Some(nice) = child.nice
            && libc::setpriority(libc::PRIO_PROCESS, 0, nice) != 0
        {
            return Err(SpawnStep::Nice);
        }
        for (resource, soft, hard) in child.rlimits {
            let limit = libc::rlimit { rlim_cur: *soft, rlim_max: *hard };
            if libc::setrlimit(number_of(*resource), &limit) != 0 {
                return Err(SpawnStep::Limit(*resource));
            }
        }
        if let Some(umask) = child.umask {
            libc::umask(umask);
        }
        if let Some(user) = child.user {
            become_user(user)?;
        }
        // As the user that the program runs as, so that it never starts in a folder that it may not enter.
        if let Some(cwd) = child.cwd
            && libc::chdir(cwd.as_ptr()) != 0
        {
            return Err(SpawnStep::WorkingFolder);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
    }
    Ok(())
}

/// Changes user and groups, for good. By system calls: the C library's functions would change all threads of the parent,
/// whose memory we share.
///
/// # Safety
/// Only in a child. Calls nothing that allocates or locks.
unsafe fn become_user(RunAs { uid, gid, groups, .. }: &RunAs) -> Result<(), SpawnStep> {
    // SAFETY: the pointer is to `groups`, which lives through the call.
    let done = unsafe {
        libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) == 0
            && libc::syscall(libc::SYS_setresgid, *gid, *gid, *gid) == 0
            && libc::syscall(libc::SYS_setresuid, *uid, *uid, *uid) == 0
    };
    if done { Ok(()) } else { Err(SpawnStep::User) }
}

fn number_of(resource: Resource) -> libc::__rlimit_resource_t {
    match resource {
        Resource::Core => libc::RLIMIT_CORE,
        Resource::Cpu => libc::RLIMIT_CPU,
        Resource::Data => libc::RLIMIT_DATA,
        Resource::FileSize => libc::RLIMIT_FSIZE,
        Resource::LockedMemory => libc::RLIMIT_MEMLOCK,
        Resource::OpenFiles => libc::RLIMIT_NOFILE,
        Resource::Processes => libc::RLIMIT_NPROC,
        Resource::RealTimePriority => libc::RLIMIT_RTPRIO,
        Resource::Stack => libc::RLIMIT_STACK,
    }
}

/// The user whose rights this thread has over files.
pub fn file_user() -> u32 {
    // SAFETY: no pointers are passed. An impossible user changes nothing, and the answer is the current one.
    unsafe { libc::syscall(libc::SYS_setfsuid, -1) as u32 }
}

/// Runs `act` with this user's rights over files, in this thread only. What it creates belongs to that user.
///
/// # Errors
/// We are not root.
pub fn with_files_of<T>(RunAs { uid, gid, groups, .. }: &RunAs, act: impl FnOnce() -> T) -> io::Result<T> {
    /// The ids to return to, even if `act` panics.
    struct Before {
        uid: u32,
        gid: u32,
        groups: Vec<u32>,
    }
    impl Drop for Before {
        fn drop(&mut self) {
            // SAFETY: the pointer is to `groups`, which lives through the call. We may always return to what we had.
            unsafe {
                libc::syscall(libc::SYS_setfsuid, self.uid);
                libc::syscall(libc::SYS_setfsgid, self.gid);
                libc::syscall(libc::SYS_setgroups, self.groups.len(), self.groups.as_ptr());
            }
        }
    }
    let groups_before = rustix::process::getgroups()?.iter().map(|group| group.as_raw()).collect();
    // SAFETY: no pointers are passed. An impossible group changes nothing, and the answer is the current one.
    let gid_before = unsafe { libc::syscall(libc::SYS_setfsgid, -1) as u32 };
    let _before = Before { uid: file_user(), gid: gid_before, groups: groups_before };
    // SAFETY: the pointer is to `groups`, which lives through the call.
    unsafe {
        if libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::syscall(libc::SYS_setfsgid, *gid);
        libc::syscall(libc::SYS_setfsuid, *uid);
    }
    if file_user() != *uid {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(act())
}

/// Stops sharing the parent's descriptor table: copies its beginning, up to the last descriptor that the program gets.
///
/// # Safety
/// Only in a child that shares its parent's descriptor table. Calls nothing that allocates or locks.
unsafe fn own_descriptors(child: &Child<'_>) -> Result<(), SpawnStep> {
    let given = child.kept.iter().copied().chain([2, child.stdin.as_raw_fd(), child.output.as_raw_fd()]);
    let rest = given.max().unwrap_or(2) as c_uint + 1;
    // SAFETY: no pointers are passed. With UNSHARE, what is closed is the copy's.
    match unsafe { libc::syscall(libc::SYS_close_range, rest, c_uint::MAX, libc::CLOSE_RANGE_UNSHARE) } {
        0 => Ok(()),
        _ => Err(SpawnStep::Descriptors),
    }
}

/// Marks all descriptors close-on-exec, except the first three and those of `kept`. A descriptor that we inherited
/// ourselves, such as the lock of a start script, is not for the app.
///
/// # Safety
/// Only in a child with its own descriptor table. Calls nothing that allocates or locks.
unsafe fn keep_only(kept: &[c_int]) {
    // SAFETY: no pointers are passed.
    unsafe {
        // Marked, not closed: the descriptor that reports errors is still needed.
        if libc::syscall(libc::SYS_close_range, 3, c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) != 0 {
            // Linux before 5.11, or a seccomp profile that does not allow the call.
            let mut limit: libc::rlimit = std::mem::zeroed();
            libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
            for fd in 3..limit.rlim_cur.min(MOST_INHERITED) as c_int {
                let flags = libc::fcntl(fd, libc::F_GETFD);
                if flags >= 0 {
                    libc::fcntl(fd, libc::F_SETFD, flags | libc::FD_CLOEXEC);
                }
            }
        }
        for fd in kept {
            libc::fcntl(*fd, libc::F_SETFD, 0);
        }
    }
}

/// Inherited descriptors are among the first, so checking this many is enough.
const MOST_INHERITED: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    #[test]
    fn only_what_nobody_reads_again_is_given_back() {
        let code = "5570dd761000-5570ddd93000 r-xp 001ce000 fe:00 32580                      /usr/bin/kasm-void";
        let constants = "5570dd593000-5570dd761000 r--p 00000000 fe:00 32580                      /usr/bin/kasm-void";
        let relocated = "5570ddd93000-5570dddbc000 r--p 00800000 fe:00 32580                      /usr/bin/kasm-void";
        let heap = "5570fd143000-5570fd1ca000 rw-p 00000000 00:00 0                          [heap]";
        let stack = "7fffbe6ad000-7fffbe6ce000 rw-p 00000000 00:00 0                          [stack]";
        assert_eq!(never_written(code), Some((0x5570_dd76_1000, 0x5570_ddd9_3000)));
        assert_eq!(never_written(constants), Some((0x5570_dd59_3000, 0x5570_dd76_1000)));
        assert_eq!([relocated, heap, stack].map(never_written), [None; 3]);
        let here = 0x7fff_be6c_b123;
        assert_eq!(unused_stack(stack, here), Some((0x7fff_be6a_d000, 0x7fff_be6c_7000)));
        assert_eq!(unused_stack(stack, 0x7fb7_ff4b_5000), None, "another thread's stack");
        assert_eq!(unused_stack(heap, here), None);
    }

    fn run(script: &str, change: impl FnOnce(&mut Child<'_>)) -> (Result<i32, (SpawnStep, io::Error)>, String) {
        let null = File::open("/dev/null").unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        let argv = [c"sh".into(), c"-c".into(), CString::new(script).unwrap()];
        let mut child = Child {
            program: c"/bin/sh",
            argv: &argv,
            env: &[c"PATH=/usr/bin:/bin", c"GREETING=hello"],
            cwd: None,
            stdin: null.as_fd(),
            output: writer.as_fd(),
            nice: None,
            open_files: None,
            rlimits: &[],
            umask: None,
            user: None,
            kept: &[],
        };
        change(&mut child);
        let pid = spawn(&child);
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        (pid, text)
    }

    #[test]
    fn a_child_gets_its_descriptors_and_leaves_ours_alone() {
        for sharing in [libc::CLONE_FILES, 0] {
            let null = File::open("/dev/null").unwrap();
            let (mut reader, writer) = io::pipe().unwrap();
            let secret = File::open("/etc/passwd").unwrap();
            let kept = File::open("/etc/group").unwrap();
            let argv = [c"sh".into(), c"-c".into(), c"for fd in /proc/$$/fd/*; do readlink $fd; done".into()];
            let child = Child {
                program: c"/bin/sh",
                argv: &argv,
                env: &[c"PATH=/usr/bin:/bin"],
                cwd: None,
                stdin: null.as_fd(),
                output: writer.as_fd(),
                nice: None,
                open_files: None,
                rlimits: &[],
                umask: None,
                user: None,
                kept: &[kept.as_raw_fd()],
            };
            let pid = spawn_with(&child, sharing).unwrap();
            drop(writer);
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            // SAFETY: it is our child, and nobody else waits for it.
            unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
            let lines: Vec<&str> = text.lines().collect();
            assert!(lines.contains(&"/etc/group") && !lines.contains(&"/etc/passwd"), "{sharing}: {lines:?}");
            for ours in [&null, &secret, &kept] {
                assert!(ours.metadata().is_ok(), "{sharing}: closed by the child");
            }
        }
    }

    #[test]
    fn a_child_leads_its_own_session_with_default_signals() {
        let (pid, text) =
            run("echo $GREETING; cut -d' ' -f6 /proc/$$/stat; exec grep -E 'Sig(Ign|Blk)' /proc/self/status", |_| {});
        let pid = pid.unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["hello", &pid.to_string()]);
        // The program reads them itself: a shell blocks signals for a moment while it starts another program.
        let masks =
            lines[2..].iter().map(|line| u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap());
        assert_eq!(masks.map(|mask| mask & !(3 << 31)).collect::<Vec<_>>(), [0, 0], "{text}");
    }

    #[test]
    fn a_child_inherits_three_descriptors() {
        // Like the lock of a start script: not close-on-exec.
        let inherited = rustix::io::dup(File::open("/dev/null").unwrap()).unwrap();
        rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty()).unwrap();
        let (pid, text) = run("ls /proc/$$/fd", |_| {});
        pid.unwrap();
        drop(inherited);
        assert_eq!(text.lines().filter(|fd| fd.parse::<i32>().is_ok_and(|fd| fd < 10)).count(), 3, "{text}");
    }

    #[test]
    fn a_child_gets_the_descriptors_that_are_meant_for_it() {
        let ours = File::open("/etc/hostname").or_else(|_| File::open("/etc/passwd")).unwrap();
        let kept: &[c_int] = vec![ours.as_raw_fd()].leak();
        let (pid, text) = run(&format!("readlink /proc/$$/fd/{}", kept[0]), |child| child.kept = kept);
        pid.unwrap();
        assert!(text.starts_with("/etc/"), "{text}");
        assert!(!is_inherited(kept[0]), "in us it is still close-on-exec");
    }

    #[test]
    fn a_child_is_told_its_own_pid() {
        let (pid, text) = run("echo $KASM_VOID_LEADER", |_| {});
        assert_eq!(text.trim().parse::<i32>().unwrap(), pid.unwrap());
    }

    #[test]
    fn a_program_that_cannot_be_executed_is_told_apart_from_a_missing_folder() {
        let (missing, _) = run("", |child| child.program = c"/nonexistent/program");
        let (step, error) = missing.unwrap_err();
        assert_eq!((step, error.kind()), (SpawnStep::Exec, io::ErrorKind::NotFound));
        let (folder, _) = run("", |child| child.cwd = Some(c"/nonexistent"));
        assert_eq!(folder.unwrap_err().0, SpawnStep::WorkingFolder);
    }

    #[test]
    fn limits_hold_from_the_first_instruction() {
        let (pid, text) = run("nice; ulimit -Sn; ulimit -Hc; ulimit -Sc; umask", |child| {
            child.nice = Some(5);
            child.open_files = Some(256);
            child.rlimits = &[(Resource::Core, 1024, 2048)];
            child.umask = Some(0o27);
        });
        pid.unwrap();
        assert_eq!(text.lines().collect::<Vec<_>>(), ["5", "256", "4", "2", "0027"]);
        let (refused, _) = run("", |child| child.rlimits = &[(Resource::OpenFiles, u64::MAX, u64::MAX)]);
        assert_eq!(refused.unwrap_err().0, SpawnStep::Limit(Resource::OpenFiles));
    }

    fn nobody() -> RunAs {
        RunAs { uid: 65534, gid: 65533, groups: vec![65532, 65533], home: "/".into(), variables: Vec::new() }
    }

    #[test]
    fn another_user_is_only_for_root() {
        let nobody: &RunAs = Box::leak(Box::new(nobody()));
        let (pid, text) = run("id -u; id -g; id -G", |child| child.user = Some(nobody));
        match rustix::process::geteuid().is_root() {
            true => {
                pid.unwrap();
                assert_eq!(text.lines().collect::<Vec<_>>(), ["65534", "65533", "65533 65532"]);
                assert!(rustix::process::geteuid().is_root(), "we are who we were");
                let (refused, _) = run("", |child| (child.user, child.cwd) = (Some(nobody), Some(c"/root")));
                assert_eq!(refused.unwrap_err().0, SpawnStep::WorkingFolder, "the folder is entered as that user");
            }
            false => assert_eq!(pid.unwrap_err().0, SpawnStep::User),
        }
    }

    #[test]
    fn files_are_made_as_another_user_in_one_thread_and_for_a_while() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let make = |name: &str| File::create(dir.path().join(name)).unwrap().metadata().unwrap();
        let made = with_files_of(&nobody(), || {
            let secret = File::open("/etc/shadow").map(drop).map_err(|error| error.kind());
            let made = make("theirs");
            (made.uid(), made.gid(), file_user(), secret)
        });
        match rustix::process::geteuid().is_root() {
            true => {
                assert_eq!(made.unwrap(), (65534, 65533, 65534, Err(io::ErrorKind::PermissionDenied)));
            }
            false => assert!(made.is_err()),
        }
        let after = make("ours");
        assert_eq!(after.uid(), rustix::process::geteuid().as_raw());
        assert_eq!(after.gid(), rustix::process::getegid().as_raw());
    }
}
