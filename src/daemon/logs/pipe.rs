//! The pipe between an app and us: a FIFO with a name, so that a later supervisor finds what this one
//! left in it. Owns its making and removal, not the reading.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::retry_on_intr;
use rustix::pipe::{PipeFlags, SpliceFlags, splice, tee};

use super::writer::lock;

/// Both ends are open for reading and writing, so neither side ever sees the other go: no SIGPIPE, no
/// end of file, and what is in the pipe stays while either lives.
pub struct Pipe {
    /// Nonblocking, for us.
    pub output: OwnedFd,
    /// Blocking, for the app's stdout and stderr: its own file description, so that nothing we set
    /// on ours shows there.
    pub input: OwnedFd,
}

/// Shows what is in a pipe without taking it out: a copy of it is made into a pipe of our own. One is enough for
/// all taps, which are read one after the other.
pub struct Peephole {
    /// Reading and writing end; nobody leaves anything in it.
    own: Mutex<(OwnedFd, OwnedFd)>,
    null: File,
}

impl Peephole {
    pub fn new() -> io::Result<Peephole> {
        let own = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Peephole { own: Mutex::new(own), null: OpenOptions::new().write(true).open("/dev/null")? })
    }

    /// For pipes that hold more than usual.
    pub fn grow(&self, size: usize) {
        let own = lock(&self.own);
        let _ = rustix::pipe::fcntl_setpipe_size(&own.0, size); // then more is read in more pieces
    }

    /// Adds what is at the head of `pipe` to `buffer`, as far as it has room; how much that is.
    pub fn peek(&self, pipe: &OwnedFd, buffer: &mut Vec<u8>) -> usize {
        let own = lock(&self.own);
        let room = buffer.capacity() - buffer.len();
        let copied = retry_on_intr(|| tee(pipe, &own.1, room, SpliceFlags::NONBLOCK)).unwrap_or(0);
        let mut left = copied;
        while left > 0 {
            match retry_on_intr(|| rustix::io::read(&own.0, rustix::buffer::spare_capacity(buffer))) {
                Ok(bytes) if bytes > 0 => left -= bytes,
                _ => break,
            }
        }
        copied - left
    }

    /// Takes `bytes` out of `pipe`; nobody else reads it, so they are there.
    pub fn discard(&self, pipe: &OwnedFd, mut bytes: usize) {
        while bytes > 0 {
            match retry_on_intr(|| splice(pipe, None, &self.null, None, bytes, SpliceFlags::NONBLOCK)) {
                Ok(taken) if taken > 0 => bytes -= taken,
                _ => return,
            }
        }
    }
}

/// The FIFO at `path`, made when there is none.
pub fn named(path: &Path) -> io::Result<Pipe> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    make_way(path)?;
    match rustix::fs::mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => open_both(path, OFlags::NOFOLLOW),
        Err(error) => Err(error.into()),
    }
}

/// A pipe nobody else can find; lost with us.
pub fn anonymous() -> io::Result<Pipe> {
    use std::os::fd::AsRawFd;
    let (reading, _writing) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    open_both(format!("/proc/self/fd/{}", reading.as_raw_fd()).as_ref(), OFlags::empty())
}

/// The pipe behind this descriptor, wherever it was made.
pub fn inherited(pipe: &OwnedFd) -> io::Result<Pipe> {
    use std::os::fd::AsRawFd;
    open_both(format!("/proc/self/fd/{}", pipe.as_raw_fd()).as_ref(), OFlags::empty())
}

pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Takes away whatever stands at `path` and is not our FIFO.
fn make_way(path: &Path) -> io::Result<()> {
    let there = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if there.file_type().is_fifo() && there.uid() == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    if there.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) }
}

fn open_both(path: &Path, flags: OFlags) -> io::Result<Pipe> {
    Ok(Pipe { output: open(path, flags | OFlags::NONBLOCK)?, input: open(path, flags)? })
}

fn open(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags.bits() as i32).open(path)?;
    if !file.metadata()?.file_type().is_fifo() {
        return Err(io::Error::other("it is not a FIFO"));
    }
    Ok(file.into())
}
