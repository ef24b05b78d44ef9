//! Reads files of `/proc`, also when this process has no descriptor left.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

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

/// Reads a file of `/proc`, whose size is not known in advance.
pub(super) fn bytes(path: &str) -> Option<Vec<u8>> {
    read_with(path, 2048)
}

/// `room` is how many bytes to read at once. If a process executes another program between two reads, the rest of its
/// old data is lost.
pub(super) fn read_with(path: &str, room: usize) -> Option<Vec<u8>> {
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

pub(super) fn text(path: &str) -> Option<String> {
    // A process name may hold any bytes.
    Some(String::from_utf8_lossy(&bytes(path)?).into_owned())
}
