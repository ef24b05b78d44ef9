//! One app's output pipe, and peeking into it without removing anything. Owns the bytes in the pipe. Knows nothing
//! about lines or files.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::retry_on_intr;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, splice, tee};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::sync::Notify;

use crate::host::sync::lock;
use crate::host::sys;
use crate::model::output::pressure::{self, HeldUp};

/// The capacity of a busy pipe in bytes, if the system allows it.
pub const GROWN: usize = 1 << 20;

/// A pipe that yields this many bytes in one read is almost full, so it is made larger.
pub const BUSY: usize = 32 << 10;

/// One descriptor that is both ends of a pipe, so neither side ever sees the other close: there is no SIGPIPE and no
/// end of file, and the content stays as long as any process has the pipe open. The app gets the same descriptor as
/// stdout and stderr.
pub struct OutputPipe {
    fd: AsyncFd<OwnedFd>,
    id: u64,
    peek: Arc<PipePeek>,
    /// The chunk that was read and stays in the pipe until it is in the file. The lock is held while a chunk is taken
    /// out; otherwise it could be read twice.
    in_flight: Mutex<Option<InFlight>>,
    chunks: AtomicU32,
    /// Notified when a chunk has left the pipe.
    left: Notify,
    grown: AtomicBool,
}

struct InFlight {
    chunk: u32,
    bytes: usize,
    since: Instant,
}

/// A chunk that was read and is still in its pipe.
pub struct InPipe {
    pipe: Arc<OutputPipe>,
    chunk: u32,
}

impl InPipe {
    /// Removes the first `bytes` of the rest of the chunk from the pipe, unless they have already left it. Call it when
    /// they are in the file or lost for good.
    pub fn take_out(&self, bytes: usize) {
        self.pipe.take_out(Some(self.chunk), bytes);
    }

    /// Identifies the pipe.
    pub fn pipe(&self) -> u64 {
        self.pipe.id
    }
}

impl OutputPipe {
    /// Takes a descriptor that is both ends of a pipe. Must be called within the runtime.
    pub fn new(fd: OwnedFd, peek: Arc<PipePeek>) -> io::Result<Arc<OutputPipe>> {
        let id = pipe_id(&fd)?;
        Ok(Arc::new(OutputPipe {
            fd: sys::async_fd(fd, Interest::READABLE)?,
            id,
            peek,
            in_flight: Mutex::default(),
            chunks: AtomicU32::new(0),
            left: Notify::new(),
            grown: AtomicBool::new(false),
        }))
    }

    /// Identifies the pipe, so that it can be found and opened again: its inode.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Makes the pipe blocking again. A program may have made it nonblocking, as Node.js does, and then the next
    /// program would lose output.
    pub fn make_blocking(&self) {
        let _ = rustix::fs::fcntl_setfl(&self.fd, OFlags::RDWR);
    }

    /// Waits until there is something to read.
    pub async fn readable(&self) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
        self.fd.readable().await
    }

    /// Reads from the head of the pipe into the free room of `buffer`. The bytes leave the pipe at once.
    pub fn read(&self, buffer: &mut Vec<u8>) {
        let bytes = self.peek.peek(self, buffer);
        self.peek.discard(self, bytes);
        self.grow(bytes);
    }

    /// Like [`OutputPipe::read`], but the bytes stay in the pipe until they are taken out through the returned value.
    /// `None` if there is nothing to read. No other chunk may be in flight.
    pub fn read_protected(self: &Arc<Self>, buffer: &mut Vec<u8>) -> Option<InPipe> {
        let bytes = self.peek.peek(self, buffer);
        if bytes == 0 {
            return None;
        }
        self.grow(bytes);
        let chunk = self.chunks.fetch_add(1, Ordering::Relaxed);
        *lock(&self.in_flight) = Some(InFlight { chunk, bytes, since: Instant::now() });
        Some(InPipe { pipe: self.clone(), chunk })
    }

    /// Whether a chunk that was read is still in the pipe.
    pub fn is_in_flight(&self) -> bool {
        lock(&self.in_flight).is_some()
    }

    /// Waits until the chunk in flight has left the pipe. Lets it go if that takes too long.
    pub async fn until_taken_out(&self) {
        while let Some(left) = self.patience(if self.is_filling() { HeldUp::App } else { HeldUp::Readers }) {
            let look_again = left.min(pressure::SLOW_WHILE_FILLING);
            let _ = tokio::time::timeout(look_again, self.left.notified()).await; // on both results, check again
        }
    }

    /// The blocking version, for an app that has just died and whose last output is needed now.
    pub fn until_taken_out_at_a_death(&self) {
        while self.patience(HeldUp::Loop).is_some() {
            std::thread::sleep(Duration::from_micros(20));
        }
    }

    /// Removes the chunk in flight from the pipe although it is not in the file.
    pub fn let_go(&self) {
        self.take_out(None, usize::MAX);
    }

    /// How much longer the chunk in flight may take. `None` if there is none.
    fn patience(&self, held_up: HeldUp) -> Option<Duration> {
        let since = lock(&self.in_flight).as_ref()?.since;
        let left = pressure::patience(since.elapsed(), held_up);
        if left.is_none() {
            self.let_go();
        }
        left
    }

    fn is_filling(&self) -> bool {
        let bytes = rustix::io::ioctl_fionread(&self.fd).unwrap_or(u64::MAX) as usize;
        pressure::is_filling(bytes, fcntl_getpipe_size(&self.fd).unwrap_or(0))
    }

    /// With `chunk`, does nothing unless that chunk is in flight.
    fn take_out(&self, chunk: Option<u32>, bytes: usize) {
        let mut in_flight = lock(&self.in_flight);
        let Some(flight) = in_flight.as_mut().filter(|flight| chunk.is_none_or(|chunk| chunk == flight.chunk)) else {
            return;
        };
        let bytes = bytes.min(flight.bytes);
        self.peek.discard(self, bytes);
        flight.bytes -= bytes;
        if flight.bytes == 0 {
            *in_flight = None;
            drop(in_flight);
            self.left.notify_one();
        }
    }

    fn grow(&self, bytes: usize) {
        if bytes >= BUSY && !self.grown.swap(true, Ordering::Relaxed) {
            // Fails beyond the user's limit of pipe memory; then the pipe stays as it is.
            let _ = fcntl_setpipe_size(self, GROWN);
            self.peek.grow(GROWN);
        }
    }
}

impl AsFd for OutputPipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.get_ref().as_fd()
    }
}

/// Reads a pipe without removing anything, by copying its content into a second pipe. One is enough for all apps, which
/// are read one after the other.
pub struct PipePeek {
    /// The reading and the writing end. Empty between two calls.
    own: Mutex<(OwnedFd, OwnedFd)>,
    null: File,
}

impl PipePeek {
    pub fn new() -> io::Result<PipePeek> {
        let own = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(PipePeek { own: Mutex::new(own), null: OpenOptions::new().write(true).open("/dev/null")? })
    }

    /// Grows the second pipe, for pipes that hold more than usual.
    fn grow(&self, size: usize) {
        let own = lock(&self.own);
        let _ = fcntl_setpipe_size(&own.0, size); // if refused, the content is read in more pieces
    }

    /// Copies the head of `pipe` into the free room of `buffer`. Returns the number of bytes.
    pub fn peek(&self, pipe: impl AsFd, buffer: &mut Vec<u8>) -> usize {
        let own = lock(&self.own);
        let room = buffer.capacity() - buffer.len();
        let copied = retry_on_intr(|| tee(&pipe, &own.1, room, SpliceFlags::NONBLOCK)).unwrap_or(0);
        let mut left = copied;
        while left > 0 {
            match retry_on_intr(|| rustix::io::read(&own.0, rustix::buffer::spare_capacity(buffer))) {
                Ok(bytes) if bytes > 0 => left -= bytes,
                _ => break,
            }
        }
        copied - left
    }

    /// Removes `bytes` from `pipe`. We are its only reader, so they are there.
    pub fn discard(&self, pipe: impl AsFd, mut bytes: usize) {
        while bytes > 0 {
            match retry_on_intr(|| splice(&pipe, None, &self.null, None, bytes, SpliceFlags::NONBLOCK)) {
                Ok(taken) if taken > 0 => bytes -= taken,
                _ => return,
            }
        }
    }
}

/// Makes a pipe without a name in the file system. A program that has dropped its user may open it for writing through
/// `/dev/stderr`, as nginx and php-fpm do. Only we may read it.
pub fn make() -> io::Result<OwnedFd> {
    let (_reading, writing) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fchmod(&writing, Mode::from_raw_mode(MODE))?;
    open_both_ends(&format!("/proc/self/fd/{}", writing.as_raw_fd()))
}

/// The mode of every pipe that [`make`] makes.
const MODE: u32 = 0o622;

/// The inode of the pipe that a process has as its output, if [`make`] made it for one of our user's sessions.
pub fn output_of(pid: i32) -> Option<u64> {
    let output = |fd: u32| fs::metadata(format!("/proc/{pid}/fd/{fd}")).ok();
    let made_by_us = |is: &fs::Metadata| {
        is.file_type().is_fifo() && is.mode() & 0o7777 == MODE && is.uid() == rustix::process::geteuid().as_raw()
    };
    [1, 2].into_iter().filter_map(output).find(made_by_us).map(|is| is.ino())
}

/// Opens the pipe with this inode through one of these processes.
pub fn find(id: u64, processes: &[i32]) -> io::Result<OwnedFd> {
    let found = processes.iter().find_map(|pid| open_of(id, *pid));
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it is not open there, or may not be opened"))
}

/// All processes, for a pipe that the app itself has closed.
pub fn everyone() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn open_of(id: u64, pid: i32) -> Option<OwnedFd> {
    let link = format!("pipe:[{id}]");
    // Check the link first: opening anything else may have side effects.
    let is_it = |fd: &fs::DirEntry| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == &*link);
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let found = fds.flatten().filter(is_it).find_map(|fd| open_both_ends(fd.path().to_str()?).ok())?;
    (pipe_id(&found).ok()? == id).then_some(found)
}

fn open_both_ends(path: &str) -> io::Result<OwnedFd> {
    Ok(OpenOptions::new().read(true).write(true).open(path)?.into())
}

fn pipe_id(fd: &OwnedFd) -> io::Result<u64> {
    let is = rustix::fs::fstat(fd)?;
    match rustix::fs::FileType::from_raw_mode(is.st_mode) {
        rustix::fs::FileType::Fifo => Ok(is.st_ino),
        _ => Err(io::Error::other("it is not a pipe")),
    }
}
