//! The pipe between an app and us: a FIFO with a name, so that a later supervisor finds what this one
//! left in it. Owns its making and removal, not the reading.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};

/// Both ends are open for reading and writing, so neither side ever sees the other go: no SIGPIPE, no
/// end of file, and what is in the pipe stays while either lives.
pub struct Pipe {
    /// Nonblocking, for us.
    pub output: OwnedFd,
    /// Blocking, for the app's stdout and stderr: its own file description, so that nothing we set
    /// on ours shows there.
    pub input: OwnedFd,
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
