//! Starts programs. Several children can be on their way to their programs at the same time.
//!
//! A child borrows our memory until it executes its program (`CLONE_VM`), as after a vfork, but we go on meanwhile. All are
//! made by the calling thread: a program may ask for a signal when the thread that started it ends (`PR_SET_PDEATHSIG`), so
//! the threads of a pool would not do.
//!
//! A child shares more than memory with us: also the thread-local variables of the thread that made it, `errno` among them.
//! So it calls nothing of the C library, only the kernel ([`raw`]).

use std::arch::asm;
use std::ffi::{CStr, CString, c_char, c_int, c_long, c_uint, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::model::accounts::RunAs;
use crate::model::manifest::rlimits::Resource;

/// How to set up a child before it executes the program. It owns all that the child reads.
pub struct Child<'a> {
    pub program: CString,
    /// The arguments, with the program's name first.
    pub argv: Vec<CString>,
    /// `KEY=value`.
    pub env: Vec<Arc<CStr>>,
    pub cwd: Option<CString>,
    pub stdin: BorrowedFd<'a>,
    /// Becomes stdout and stderr. A start is quick if the number is low.
    pub output: OwnedFd,
    pub nice: Option<i32>,
    /// The soft limit of open files to restore, if ours was raised.
    pub open_files: Option<u64>,
    /// Limits to set: resource, soft, hard.
    pub rlimits: Vec<(Resource, u64, u64)>,
    pub umask: Option<u32>,
    /// The user that the program runs as, if it is not ours.
    pub user: Option<RunAs>,
    /// Descriptors of ours that the program gets too, under the same numbers. It gets no others.
    pub kept: Vec<RawFd>,
}

/// The step between clone and exec that failed.
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

/// Room for the entry of `marks::LEADER`. The child writes its pid over the zeros, because it cannot allocate.
const LEADER_ENTRY: [u8; 28] = *b"KASM_VOID_LEADER=0000000000\0";

const STACK: usize = 64 * 1024;

/// Whether a child may borrow our descriptor table too, until it has copied the beginning of it. To copy all of it, and
/// to close all of it again at exec, would make each start slower with every app that runs. Needs Linux 5.9, and a seccomp
/// profile that allows `close_range`.
static BORROW_DESCRIPTORS: AtomicBool = AtomicBool::new(true);

/// Signals whose default action has to be restored in a child, as bits.
static CHANGED_ACTIONS: AtomicU64 = AtomicU64::new(u64::MAX);

/// Finds out which signals are handled or ignored, so that a child restores the default action of these only. Call it
/// once all handlers are in place.
pub fn note_signal_actions() {
    CHANGED_ACTIONS.store(changed_actions(), Ordering::Relaxed);
}

fn changed_actions() -> u64 {
    let changed = (1..=64).filter(|signal| {
        let mut action = KERNEL_DEFAULT;
        // SAFETY: there is room for what the kernel writes. By the kernel, because the C library keeps two signals to itself.
        let read = unsafe { raw(libc::SYS_rt_sigaction, [*signal, 0, (&raw mut action).addr(), SIGNAL_SET, 0, 0]) };
        read == 0 && action[0] != libc::SIG_DFL
    });
    changed.fold(0, |bits, signal| bits | bit(signal))
}

fn bit(signal: usize) -> u64 {
    1 << (signal - 1)
}

/// The kernel's `struct sigaction` for the default action: handler, flags, restorer, mask.
const KERNEL_DEFAULT: [usize; 4] = [libc::SIG_DFL, 0, 0, 0];
/// Bytes of the kernel's set of signals.
const SIGNAL_SET: usize = 8;

/// A child on its way to its program. [`Starting::end`] waits for it, and so does dropping it.
pub struct Starting<'a> {
    pid: io::Result<i32>,
    /// `None` once it was taken apart.
    hand: Option<ptr::NonNull<Hand<'a>>>,
}

/// The memory that we and the child both use.
struct Hand<'a> {
    child: Child<'a>,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    leader: [u8; 28],
    stack: Vec<u128>,
    borrows_descriptors: bool,
    failed: Option<(SpawnStep, i32)>,
    /// Set while the child uses our memory. The kernel clears it, and wakes who waits for that, when the child executes its
    /// program or ends.
    is_here: AtomicU32,
}

/// Starts a program as the leader of its own session, with default signal handling. Never copies our memory.
pub fn begin(child: Child<'_>) -> Starting<'_> {
    begin_with(child, if BORROW_DESCRIPTORS.load(Ordering::Relaxed) { libc::CLONE_FILES } else { 0 })
}

/// `sharing` is `CLONE_FILES` or nothing.
fn begin_with(child: Child<'_>, sharing: c_int) -> Starting<'_> {
    let argv = child.argv.iter().map(|word| word.as_ptr()).chain([ptr::null()]).collect();
    let mut env: Vec<_> = child.env.iter().map(|entry| entry.as_ptr()).collect();
    let mut hand = Box::new(Hand {
        child,
        argv,
        env: Vec::new(),
        leader: LEADER_ENTRY,
        stack: Vec::with_capacity(STACK / size_of::<u128>()),
        borrows_descriptors: sharing != 0,
        failed: None,
        is_here: AtomicU32::new(1),
    });
    env.extend([hand.leader.as_ptr().cast(), ptr::null()]);
    hand.env = env;
    let hand = ptr::NonNull::from(Box::leak(hand));
    // SAFETY: `hand`, and all that it points to, stays where it is until `is_here` is cleared, or for good. All signals are
    // blocked in the child until it has restored the default actions (its table of them is its own), so that no handler of
    // ours runs in it.
    let pid = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let top = (*hand.as_ptr()).stack.as_mut_ptr().add(STACK / size_of::<u128>());
        let flags = libc::CLONE_VM | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD | sharing;
        let (none, is_here) = (ptr::null_mut::<c_void>(), &raw mut (*hand.as_ptr()).is_here);
        let pid = libc::clone(become_program, top.cast(), flags, hand.as_ptr().cast(), none, none, is_here);
        let error = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut());
        if pid < 0 {
            (*hand.as_ptr()).is_here.store(0, Ordering::Relaxed);
            Err(error)
        } else {
            Ok(pid)
        }
    };
    Starting { pid, hand: Some(hand) }
}

impl<'a> Starting<'a> {
    /// Waits until exec has succeeded or failed. Also returns what was given to [`begin`].
    pub fn end(mut self) -> (Result<i32, (SpawnStep, io::Error)>, Child<'a>) {
        self.wait();
        let pid = std::mem::replace(&mut self.pid, Ok(0));
        let Some(hand) = self.hand.take() else { unreachable!("it is taken here only") };
        // SAFETY: it comes from a box, and nobody uses it any more.
        let Hand { child, failed, borrows_descriptors, .. } = *unsafe { Box::from_raw(hand.as_ptr()) };
        match (pid, failed) {
            (Err(error), _) => (Err((SpawnStep::Clone, error)), child),
            (Ok(pid), None) => (Ok(pid), child),
            (Ok(pid), Some((step, error))) => {
                // SAFETY: it is our child and has not been collected: nothing reaps while this call runs.
                unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
                if step == SpawnStep::Descriptors && borrows_descriptors {
                    BORROW_DESCRIPTORS.store(false, Ordering::Relaxed);
                    return begin_with(child, 0).end();
                }
                (Err((step, io::Error::from_raw_os_error(error))), child)
            }
        }
    }

    fn wait(&self) {
        while let Some(word) = self.word().filter(|_| self.is_here()) {
            // SAFETY: the word lives through the call, which returns at once if it is not 1 any more.
            unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, 1, ptr::null::<c_void>()) };
        }
    }

    /// Whether the child still uses our memory.
    fn is_here(&self) -> bool {
        self.word().is_some_and(|word| word.load(Ordering::Acquire) != 0)
    }

    fn word(&self) -> Option<&AtomicU32> {
        // SAFETY: the hand lives as long as this value. The kernel writes to the word as another thread would.
        self.hand.map(|hand| unsafe { &(*hand.as_ptr()).is_here })
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.wait();
        if let Some(hand) = self.hand.take() {
            // SAFETY: it comes from a box, and nobody uses it any more.
            drop(unsafe { Box::from_raw(hand.as_ptr()) });
        }
    }
}

/// Calls the kernel. Returns what it returns: an error is a negative number.
///
/// # Safety
/// As the call's own.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn raw(number: c_long, [a, b, c, d, e, f]: [usize; 6]) -> isize {
    let result;
    // SAFETY: by the contract of the function. The kernel changes two registers besides the result.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// Calls the kernel. Returns what it returns: an error is a negative number.
///
/// # Safety
/// As the call's own.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
unsafe fn raw(number: c_long, [a, b, c, d, e, f]: [usize; 6]) -> isize {
    let result;
    // SAFETY: by the contract of the function.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a as isize => result, in("x1") b, in("x2") c, in("x3") d,
            in("x4") e, in("x5") f, options(nostack));
    }
    result
}

/// Like [`raw`]. The error says what failed, with the kernel's number for it.
///
/// # Safety
/// As the call's own.
#[inline(always)]
unsafe fn step(step: SpawnStep, number: c_long, arguments: [usize; 6]) -> Result<(), (SpawnStep, i32)> {
    // SAFETY: by the contract of the function.
    match unsafe { raw(number, arguments) } {
        error if error < 0 => Err((step, -error as i32)),
        _ => Ok(()),
    }
}

extern "C" fn become_program(hand: *mut c_void) -> c_int {
    let hand = hand.cast::<Hand<'_>>();
    // SAFETY: the hand lives until we have left this memory, and until then its maker reads only `is_here`. Only calls of the
    // kernel, on values prepared before.
    unsafe {
        let pid = raw(libc::SYS_getpid, [0; 6]);
        write_digits(&mut (*hand).leader, pid as i32);
        let error = match prepare(&(*hand).child, (*hand).borrows_descriptors) {
            Err(error) => error,
            Ok(()) => {
                let (argv, env) = ((*hand).argv.as_ptr(), (*hand).env.as_ptr());
                let program = (*hand).child.program.as_ptr();
                let error = raw(libc::SYS_execve, [program.addr(), argv.addr(), env.addr(), 0, 0, 0]);
                (SpawnStep::Exec, -error as i32)
            }
        };
        ptr::write_volatile(&raw mut (*hand).failed, Some(error));
        raw(libc::SYS_exit_group, [127, 0, 0, 0, 0, 0]);
    }
    127 // not reached: the kernel has ended us
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

/// Does everything between clone and exec.
///
/// # Safety
/// Only in a child. Calls nothing but the kernel.
unsafe fn prepare(child: &Child<'_>, borrows_descriptors: bool) -> Result<(), (SpawnStep, i32)> {
    // SAFETY: as the function's own contract; the pointers are to values that live through the calls.
    unsafe {
        if borrows_descriptors {
            own_descriptors(child)?;
        }
        let (changed, default) = (CHANGED_ACTIONS.load(Ordering::Relaxed), KERNEL_DEFAULT);
        for signal in (1..=64).filter(|signal| changed & bit(*signal) != 0) {
            raw(libc::SYS_rt_sigaction, [signal, (&raw const default).addr(), 0, SIGNAL_SET, 0, 0]);
        }
        raw(libc::SYS_setsid, [0; 6]);
        for (from, to) in [(child.stdin.as_raw_fd(), 0), (child.output.as_raw_fd(), 1), (child.output.as_raw_fd(), 2)] {
            raw(libc::SYS_dup3, [from as usize, to, 0, 0, 0, 0]);
        }
        keep_only(&child.kept);
        if let Some(soft) = child.open_files {
            let limit = libc::rlimit { rlim_cur: soft, ..open_files() };
            set_limit(libc::RLIMIT_NOFILE, &limit);
        }
        if let Some(nice) = child.nice {
            step(SpawnStep::Nice, libc::SYS_setpriority, [libc::PRIO_PROCESS as usize, 0, nice as usize, 0, 0, 0])?;
        }
        for (resource, soft, hard) in &child.rlimits {
            let limit = libc::rlimit { rlim_cur: *soft, rlim_max: *hard };
            let error = set_limit(number_of(*resource), &limit);
            if error < 0 {
                return Err((SpawnStep::Limit(*resource), -error as i32));
            }
        }
        if let Some(umask) = child.umask {
            raw(libc::SYS_umask, [umask as usize, 0, 0, 0, 0, 0]);
        }
        if let Some(RunAs { uid, gid, groups, .. }) = &child.user {
            let (uid, gid) = (*uid as usize, *gid as usize);
            step(SpawnStep::User, libc::SYS_setgroups, [groups.len(), groups.as_ptr().addr(), 0, 0, 0, 0])?;
            step(SpawnStep::User, libc::SYS_setresgid, [gid, gid, gid, 0, 0, 0])?;
            step(SpawnStep::User, libc::SYS_setresuid, [uid, uid, uid, 0, 0, 0])?;
        }
        // As the user that the program runs as, so that it never starts in a folder that it may not enter.
        if let Some(cwd) = &child.cwd {
            step(SpawnStep::WorkingFolder, libc::SYS_chdir, [cwd.as_ptr().addr(), 0, 0, 0, 0, 0])?;
        }
        let none = 0_u64;
        let arguments = [libc::SIG_SETMASK as usize, (&raw const none).addr(), 0, SIGNAL_SET, 0, 0];
        raw(libc::SYS_rt_sigprocmask, arguments);
    }
    Ok(())
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

/// Our limits of open files.
///
/// # Safety
/// None: it is unsafe only to be called where nothing but the kernel may be.
unsafe fn open_files() -> libc::rlimit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer lives through the call.
    unsafe { raw(libc::SYS_prlimit64, [0, libc::RLIMIT_NOFILE as usize, 0, (&raw mut limit).addr(), 0, 0]) };
    limit
}

/// # Safety
/// Only in a child.
unsafe fn set_limit(resource: libc::__rlimit_resource_t, limit: &libc::rlimit) -> isize {
    // SAFETY: the pointer lives through the call.
    unsafe { raw(libc::SYS_prlimit64, [0, resource as usize, ptr::from_ref(limit).addr(), 0, 0, 0]) }
}

/// Stops sharing the parent's descriptor table: copies its beginning, up to the last descriptor that the program gets.
///
/// # Safety
/// Only in a child that shares its parent's descriptor table. Calls nothing but the kernel.
unsafe fn own_descriptors(child: &Child<'_>) -> Result<(), (SpawnStep, i32)> {
    let given = child.kept.iter().copied().chain([2, child.stdin.as_raw_fd(), child.output.as_raw_fd()]);
    let rest = given.max().unwrap_or(2) as usize + 1;
    let last = c_uint::MAX as usize;
    // SAFETY: no pointers are passed. With UNSHARE, what is closed is the copy's.
    unsafe {
        step(SpawnStep::Descriptors, libc::SYS_close_range, [rest, last, libc::CLOSE_RANGE_UNSHARE as usize, 0, 0, 0])
    }
}

/// Marks all descriptors close-on-exec, except the first three and those of `kept`. A descriptor that we inherited
/// ourselves, such as the lock of a start script, is not for the app.
///
/// # Safety
/// Only in a child with its own descriptor table. Calls nothing but the kernel.
unsafe fn keep_only(kept: &[RawFd]) {
    let flags = |fd: usize, call: c_int, flags: c_int| {
        // SAFETY: no pointers are passed.
        unsafe { raw(libc::SYS_fcntl, [fd, call as usize, flags as usize, 0, 0, 0]) as c_int }
    };
    // SAFETY: no pointers are passed.
    unsafe {
        // Marked, not closed, so that the number of the pipe's descriptor does not matter.
        let range = [3, c_uint::MAX as usize, libc::CLOSE_RANGE_CLOEXEC as usize, 0, 0, 0];
        if raw(libc::SYS_close_range, range) != 0 {
            // Linux before 5.11, or a seccomp profile that does not allow the call.
            for fd in 3..open_files().rlim_cur.min(MOST_INHERITED) as usize {
                let before = flags(fd, libc::F_GETFD, 0);
                if before >= 0 {
                    flags(fd, libc::F_SETFD, before | libc::FD_CLOEXEC);
                }
            }
        }
    }
    for fd in kept {
        flags(*fd as usize, libc::F_SETFD, 0);
    }
}

/// Inherited descriptors are among the first, so checking this many is enough.
const MOST_INHERITED: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::sys::{self, is_inherited};
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    fn shell(stdin: BorrowedFd<'_>, output: OwnedFd) -> Child<'_> {
        Child {
            program: c"/bin/sh".into(),
            argv: Vec::new(),
            env: vec![c"PATH=/usr/bin:/bin".into(), c"GREETING=hello".into()],
            cwd: None,
            stdin,
            output,
            nice: None,
            open_files: None,
            rlimits: Vec::new(),
            umask: None,
            user: None,
            kept: Vec::new(),
        }
    }

    fn text(text: &str) -> CString {
        CString::new(text).unwrap()
    }

    fn run(script: &str, change: impl FnOnce(&mut Child<'_>)) -> (Result<i32, (SpawnStep, io::Error)>, String) {
        let null = File::open("/dev/null").unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        let argv = [c"sh".into(), c"-c".into(), CString::new(script).unwrap()];
        let mut child = Child { argv: argv.into(), ..shell(null.as_fd(), writer.into()) };
        change(&mut child);
        let (pid, child) = begin(child).end();
        drop(child);
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
            let argv = vec![c"sh".into(), c"-c".into(), c"for fd in /proc/$$/fd/*; do readlink $fd; done".into()];
            let child = Child { argv, kept: vec![kept.as_raw_fd()], ..shell(null.as_fd(), writer.into()) };
            let (pid, child) = begin_with(child, sharing).end();
            drop(child);
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            // SAFETY: it is our child, and nobody else waits for it.
            unsafe { libc::waitpid(pid.unwrap(), ptr::null_mut(), 0) };
            let lines: Vec<&str> = text.lines().collect();
            assert!(lines.contains(&"/etc/group") && !lines.contains(&"/etc/passwd"), "{sharing}: {lines:?}");
            for ours in [&null, &secret, &kept] {
                assert!(ours.metadata().is_ok(), "{sharing}: closed by the child");
            }
        }
    }

    #[test]
    fn the_kernel_gets_all_six_arguments_and_its_errors_are_negative() {
        let file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut &file, &[1; 4096]).unwrap();
        // SAFETY: none of them changes memory that is in use: the mapping is new, and removed again.
        unsafe {
            assert_eq!(raw(libc::SYS_getpid, [0; 6]), std::process::id() as isize);
            assert_eq!(raw(libc::SYS_close, [usize::MAX, 0, 0, 0, 0, 0]), -(libc::EBADF as isize));
            let (fd, protection) = (file.as_raw_fd() as usize, libc::PROT_READ as usize);
            let map = |offset| raw(libc::SYS_mmap, [0, 4096, protection, libc::MAP_SHARED as usize, fd, offset]);
            assert_eq!(map(1), -(libc::EINVAL as isize), "the last argument did not arrive");
            let mapped = map(0);
            assert_eq!(*ptr::with_exposed_provenance::<u8>(mapped as usize), 1);
            assert_eq!(raw(libc::SYS_munmap, [mapped as usize, 4096, 0, 0, 0, 0]), 0);
        }
    }

    #[test]
    fn children_on_their_way_at_once_disturb_neither_each_other_nor_us() {
        let null = File::open("/dev/null").unwrap();
        for round in 0..32 {
            let begin_one = |number: usize| {
                let (reader, writer) = io::pipe().unwrap();
                let argv = vec![c"sh".into(), c"-c".into(), text(&format!("echo {number} $KASM_VOID_LEADER"))];
                let program = if number % 3 == 2 { c"/nonexistent".into() } else { c"/bin/sh".into() };
                (number, reader, begin(Child { program, argv, ..shell(null.as_fd(), writer.into()) }))
            };
            let begun: Vec<_> = (round * 8..round * 8 + 8).map(begin_one).collect();
            while begun.iter().any(|(_, _, starting)| starting.is_here()) {
                // SAFETY: a wrong descriptor is refused.
                let closed = unsafe { libc::close(-1) };
                let error = io::Error::last_os_error().raw_os_error();
                assert_eq!((closed, error), (-1, Some(libc::EBADF)), "the error of a child's call is taken for ours");
            }
            for (number, mut reader, starting) in begun {
                let (pid, child) = starting.end();
                drop(child);
                let mut text = String::new();
                reader.read_to_string(&mut text).unwrap();
                match pid {
                    Ok(pid) => assert_eq!(text, format!("{number} {pid:010}\n")),
                    Err((step, error)) => {
                        assert_eq!((step, error.kind(), number % 3), (SpawnStep::Exec, io::ErrorKind::NotFound, 2));
                    }
                }
            }
        }
    }

    #[test]
    fn a_child_that_nobody_waits_for_keeps_what_it_reads() {
        let (mut reader, writer) = io::pipe().unwrap();
        let null = File::open("/dev/null").unwrap();
        drop(begin(Child {
            argv: vec![c"sh".into(), c"-c".into(), c"echo alive".into()],
            ..shell(null.as_fd(), writer.into())
        }));
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "alive\n");
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
        assert_eq!(masks.collect::<Vec<_>>(), [0, 0], "{text}");
    }

    #[test]
    fn signals_that_are_handled_or_ignored_are_the_ones_to_restore() {
        extern "C" fn handler(_: c_int) {}
        sys::ignore_signals(&[libc::SIGUSR1]);
        // SAFETY: the handler does nothing.
        unsafe { libc::signal(libc::SIGRTMAX(), handler as *const () as libc::sighandler_t) };
        let changed = changed_actions();
        for (signal, is_changed) in [(libc::SIGUSR1, true), (libc::SIGRTMAX(), true), (libc::SIGWINCH, false)] {
            assert_eq!(changed & bit(signal as usize) != 0, is_changed, "{signal}");
        }
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
        let kept = ours.as_raw_fd();
        let (pid, text) = run(&format!("readlink /proc/$$/fd/{kept}"), |child| child.kept = vec![kept]);
        pid.unwrap();
        assert!(text.starts_with("/etc/"), "{text}");
        assert!(!is_inherited(kept), "in us it is still close-on-exec");
    }

    #[test]
    fn a_child_is_told_its_own_pid() {
        let (pid, text) = run("echo $KASM_VOID_LEADER", |_| {});
        assert_eq!(text.trim().parse::<i32>().unwrap(), pid.unwrap());
    }

    #[test]
    fn a_program_that_cannot_be_executed_is_told_apart_from_a_missing_folder() {
        let (missing, _) = run("", |child| child.program = c"/nonexistent/program".into());
        let (step, error) = missing.unwrap_err();
        assert_eq!((step, error.kind()), (SpawnStep::Exec, io::ErrorKind::NotFound));
        let (folder, _) = run("", |child| child.cwd = Some(c"/nonexistent".into()));
        assert_eq!(folder.unwrap_err().0, SpawnStep::WorkingFolder);
    }

    #[test]
    fn limits_hold_from_the_first_instruction() {
        let (pid, text) = run("nice; ulimit -Sn; ulimit -Hc; ulimit -Sc; umask", |child| {
            child.nice = Some(5);
            child.open_files = Some(256);
            child.rlimits = vec![(Resource::Core, 1024, 2048)];
            child.umask = Some(0o27);
        });
        pid.unwrap();
        assert_eq!(text.lines().collect::<Vec<_>>(), ["5", "256", "4", "2", "0027"]);
        let (refused, _) = run("", |child| child.rlimits = vec![(Resource::OpenFiles, u64::MAX, u64::MAX)]);
        assert_eq!(refused.unwrap_err().0, SpawnStep::Limit(Resource::OpenFiles));
    }

    fn nobody() -> RunAs {
        RunAs { uid: 65534, gid: 65533, groups: vec![65532, 65533], home: "/".into(), variables: Vec::new() }
    }

    #[test]
    fn another_user_is_only_for_root() {
        let (pid, text) = run("id -u; id -g; id -G", |child| child.user = Some(nobody()));
        match rustix::process::geteuid().is_root() {
            true => {
                pid.unwrap();
                assert_eq!(text.lines().collect::<Vec<_>>(), ["65534", "65533", "65533 65532"]);
                assert!(rustix::process::geteuid().is_root(), "we are who we were");
                let (refused, _) = run("", |child| (child.user, child.cwd) = (Some(nobody()), Some(c"/root".into())));
                assert_eq!(refused.unwrap_err().0, SpawnStep::WorkingFolder, "the folder is entered as that user");
            }
            false => assert_eq!(pid.unwrap_err().0, SpawnStep::User),
        }
    }
}
