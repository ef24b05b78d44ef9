//! Reads files of `/proc`, also when this process has no descriptor left.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::model::tree::Pid;

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

pub(super) fn with_spare<T>(open: impl Fn() -> io::Result<T>) -> io::Result<T> {
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

/// Reads a file of `/proc` that is a list, whose size is not known in advance.
pub(super) fn text(path: &str) -> Option<String> {
    Some(lossy(&read(path, 2048, |_| false)?))
}

/// Reads a file that the kernel writes as a whole, such as `stat` or `environ`: one read is enough if there is room left
/// after it. `room` is how many bytes to read at once. If a process executes another program between two reads, the rest
/// of its old data is lost.
pub(super) fn whole(path: &str, room: usize) -> Option<Vec<u8>> {
    read(path, room, |bytes| bytes.len() < bytes.capacity())
}

/// The fields of a process, in one line.
pub(super) fn stat(pid: Pid) -> Option<String> {
    Some(lossy(&whole(&format!("/proc/{pid}/stat"), 1024)?))
}

fn read(path: &str, room: usize, is_all: impl Fn(&Vec<u8>) -> bool) -> Option<Vec<u8>> {
    let file = with_spare(|| fs::File::open(path)).ok()?;
    let mut bytes = Vec::with_capacity(room);
    let read = loop {
        match rustix::io::read(&file, rustix::buffer::spare_capacity(&mut bytes)) {
            Ok(0) => break Some(bytes),
            Ok(_) if is_all(&bytes) => break Some(bytes),
            Ok(_) => bytes.reserve(1024),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => break None,
        }
    };
    drop(file);
    keep_spare();
    read
}

/// A process name may hold any bytes.
fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
