//! The few calls that no safe crate offers: starting programs, reaping with resource usage, locks held in other
//! containers, other users for programs and for files, and tokio's descriptor registration. Makes no decisions.
//!
//! Only this file and its part `spawn` may contain unsafe code, which is read with more care than the rest.
#![allow(unsafe_code)]

mod spawn;

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use rustix::event::Timespec;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::model::accounts::RunAs;
use crate::model::exit::ExitRecord;

pub use spawn::{Child, SpawnStep, Starting, begin, note_signal_actions};

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

/// Ignores these signals. Programs started by [`begin`] get the default back.
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

/// Makes room in our descriptor table, as far as the limit of open files allows. A table begins with 64 places. When it
/// is full and threads share it, the kernel waits for all processors before it uses a larger one, which takes 10 to 30 ms.
/// So call this while there is one thread, and after [`raise_open_files`].
pub fn reserve_descriptors(places: u64) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(places);
    // SAFETY: no pointer is passed. The copy is closed at once.
    unsafe {
        let last = libc::fcntl(0, libc::F_DUPFD_CLOEXEC, (places.min(limit) as c_int).saturating_sub(1));
        if last >= 0 {
            libc::close(last);
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

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

    fn nobody() -> RunAs {
        RunAs { uid: 65534, gid: 65533, groups: vec![65532, 65533], home: "/".into(), variables: Vec::new() }
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
