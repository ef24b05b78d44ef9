//! Replaces files as a whole: writes a temporary file beside the target, then renames it. No reader sees half a file,
//! and no link is followed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::fs::MetadataExt;

use rustix::fs::{self, AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::tree::Folder;

/// The properties of the finished file.
pub(super) struct Finish {
    pub mode: Mode,
    /// Uid and gid, set if we are allowed to.
    pub owner: Option<(u32, u32)>,
    /// Flush to disk before the call returns.
    pub durable: bool,
}

/// Replaces `name`, whatever it is, except a folder. A rename cannot replace a mounted file, so that is written in
/// place, from the temporary file, which already has the whole content.
pub(super) fn replace(
    folder: &Folder,
    name: &OsStr,
    finish: &Finish,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let (temporary, mut file) = create_temporary(folder, name)?;
    let result = fill(&mut file).and_then(|()| put(folder, &temporary, name, &mut file, finish));
    if result.is_err() {
        // Best effort: the first error is the one to report.
        let _ = fs::unlinkat(&folder.fd, &temporary, AtFlags::empty());
    }
    result
}

/// Runs `make` with temporary names until one is free.
pub(super) fn with_temporary_name<T>(
    name: &OsStr,
    mut make: impl FnMut(&OsStr) -> Result<T, Errno>,
) -> Result<(OsString, T), Errno> {
    loop {
        // Only part of the name is used, so that the temporary name is not too long.
        let mut short: String = name.to_string_lossy().chars().take(40).collect();
        short.insert(0, '.');
        let temporary = OsString::from(format!("{short}.{:08x}.tmp", fastrand::u32(..)));
        match make(&temporary) {
            Ok(made) => return Ok((temporary, made)),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
}

fn create_temporary(folder: &Folder, name: &OsStr) -> io::Result<(OsString, File)> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let (temporary, fd) =
        with_temporary_name(name, |temporary| fs::openat(&folder.fd, temporary, flags, Mode::RUSR | Mode::WUSR))?;
    Ok((temporary, File::from(fd)))
}

fn put(folder: &Folder, temporary: &OsStr, name: &OsStr, file: &mut File, finish: &Finish) -> io::Result<()> {
    if let Some((uid, gid)) = finish.owner
        && (file.metadata()?.uid(), file.metadata()?.gid()) != (uid, gid)
    {
        // Only root may change the owner. Otherwise the file becomes ours.
        let _ = fs::fchown(&*file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    }
    fs::fchmod(&*file, finish.mode)?;
    if finish.durable {
        file.sync_all()?;
    }
    match fs::renameat(&folder.fd, temporary, &folder.fd, name) {
        Ok(()) => {}
        Err(Errno::BUSY) => {
            write_in_place(folder, name, file, finish.durable)?;
            fs::unlinkat(&folder.fd, temporary, AtFlags::empty())?;
        }
        Err(error) => return Err(error.into()),
    }
    if finish.durable { sync(folder) } else { Ok(()) }
}

fn write_in_place(folder: &Folder, name: &OsStr, content: &mut File, durable: bool) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut target = File::from(fs::openat(&folder.fd, name, flags, Mode::empty())?);
    // Reserve the space first: running out of it half-way would lose the old content.
    match fs::fallocate(&target, fs::FallocateFlags::KEEP_SIZE, 0, content.metadata()?.len().max(1)) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    content.rewind()?;
    let length = io::copy(content, &mut target)?;
    target.set_len(length)?;
    if durable { target.sync_all() } else { Ok(()) }
}

fn sync(folder: &Folder) -> io::Result<()> {
    match fs::fsync(&folder.fd) {
        // Some file systems cannot flush a folder.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
