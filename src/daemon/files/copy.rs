//! `Copy`: copies a file, or a folder with everything in it, over the target. Each file is replaced as a whole or
//! left alone. Links are copied as links. A link at the target is replaced, never followed.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::tree::{Folder, MAX_DEPTH, kind};
use super::write::{Finish, replace, with_temporary_name};
use super::{Around, Done, cannot};
use crate::model::spelling::counted;

pub(super) fn copy(from: &Path, to: &Path, around: &Around) -> Done {
    let what = || format!("copy `{}` to `{}`", from.display(), to.display());
    let found = fs::stat(from).map_err(|error| cannot(format!("read `{}`", from.display()), error))?;
    let mut copying = Copying { cancelled: around.cancelled, copied: 0 };
    match kind(&found) {
        FileType::Directory => {
            let source = Folder::open(from).map_err(|error| cannot(format!("read `{}`", from.display()), error))?;
            refuse_nested(from, to).map_err(|reason| format!("cannot {}: {reason}", what()))?;
            let target = target_folder(to, found.st_mode)?;
            copying.folder(&source, &target, 0)?;
        }
        FileType::RegularFile => {
            let file = File::open(from).map_err(|error| cannot(format!("read `{}`", from.display()), error))?;
            let (folder, name) = target_file(to)?;
            copying.file(file, &folder, &name)?;
        }
        _ => return Err(format!("cannot {}: it is neither a file nor a folder: name one", what())),
    }
    Ok(copying.told(to))
}

/// Refuses to copy a folder into itself, which would never end.
fn refuse_nested(from: &Path, to: &Path) -> Result<(), String> {
    let real = |path: &Path| {
        let there = path.ancestors().find_map(|path| Some((path, path.canonicalize().ok()?)));
        there.map_or(path.to_owned(), |(there, real)| real.join(path.strip_prefix(there).unwrap_or(path)))
    };
    if real(to).starts_with(real(from)) {
        return Err("one contains the other: name a folder outside".into());
    }
    Ok(())
}

fn target_folder(to: &Path, mode: u32) -> Result<Folder, String> {
    let what = || format!("copy to `{}`", to.display());
    match Folder::open_itself(to) {
        Err(Errno::NOENT) => {
            let (parent, name) = target_file(to)?;
            make_folder(&parent, &name, mode).map_err(|error| cannot(what(), error))
        }
        Err(_) if to.is_symlink() => Err(format!("cannot {}: it is a link: name the folder it points to", what())),
        result => result.map_err(|error| cannot(what(), error)),
    }
}

fn target_file(to: &Path) -> Result<(Folder, std::ffi::OsString), String> {
    let made = to.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| Ok(Folder::holding(to)?)).map_err(|error| cannot(format!("copy to `{}`", to.display()), error))
}

fn make_folder(parent: &Folder, name: &OsStr, mode: u32) -> Result<Folder, Errno> {
    fs::mkdirat(&parent.fd, name, Mode::RWXU)?;
    let folder = parent.enter(name)?;
    // We need to write into it, whatever mode the source has.
    fs::fchmod(&folder.fd, Mode::from_raw_mode(mode & 0o777) | Mode::RWXU)?;
    Ok(folder)
}

struct Copying<'a> {
    cancelled: &'a dyn Fn() -> bool,
    copied: usize,
}

impl Copying<'_> {
    fn folder(&mut self, source: &Folder, target: &Folder, depth: usize) -> Result<(), String> {
        if depth >= MAX_DEPTH {
            return Err(format!("cannot copy `{}`: nested too deep: copy it by hand", source.path.display()));
        }
        let unread = |error| cannot(format!("read `{}`", source.path.display()), error);
        for name in source.entries().map_err(unread)? {
            if (self.cancelled)() {
                return Err(format!("cancelled while copying `{}`", source.path.display()));
            }
            self.entry(source, target, &name, depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, source: &Folder, target: &Folder, name: &OsStr, depth: usize) -> Result<(), String> {
        let path = source.path.join(name);
        let unread = |error| cannot(format!("read `{}`", path.display()), error);
        let Some(found) = source.look(name).map_err(unread)? else { return Ok(()) };
        match kind(&found) {
            FileType::Directory => {
                let inner = source.enter(name).map_err(unread)?;
                let into = subfolder(target, name, found.st_mode)?;
                self.folder(&inner, &into, depth + 1)
            }
            FileType::Symlink => {
                let Some(aim) = source.link(name).map_err(unread)? else { return Ok(()) };
                self.link(&aim, target, name)
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = fs::openat(&source.fd, name, flags, Mode::empty()).map_err(unread)?;
                self.file(File::from(file), target, name)
            }
            _ => Err(format!("cannot copy `{}`: it is not a file, folder or link: remove it", path.display())),
        }
    }

    fn file(&mut self, mut source: File, folder: &Folder, name: &OsStr) -> Result<(), String> {
        let path = folder.path.join(name);
        let mut work = || -> io::Result<bool> {
            let mode = Mode::from_raw_mode(fs::fstat(&source)?.st_mode & 0o777);
            if is_same(&mut source, mode, folder, name)? {
                return Ok(false);
            }
            io::Seek::rewind(&mut source)?;
            let finish = Finish { mode, owner: None, durable: false };
            replace(folder, name, &finish, |file| io::copy(&mut source, file).map(drop))?;
            Ok(true)
        };
        self.copied += usize::from(work().map_err(|error| cannot(format!("write `{}`", path.display()), error))?);
        Ok(())
    }

    fn link(&mut self, aim: &Path, folder: &Folder, name: &OsStr) -> Result<(), String> {
        let path = folder.path.join(name);
        let work = || -> Result<bool, Errno> {
            if folder.link(name)?.as_deref() == Some(aim) {
                return Ok(false);
            }
            let (temporary, ()) = with_temporary_name(name, |free| fs::symlinkat(aim, &folder.fd, free))?;
            fs::renameat(&folder.fd, &temporary, &folder.fd, name).inspect_err(|_| {
                // Best effort: the failed rename is the error to report.
                let _ = fs::unlinkat(&folder.fd, &temporary, AtFlags::empty());
            })?;
            Ok(true)
        };
        self.copied += usize::from(work().map_err(|error| cannot(format!("write `{}`", path.display()), error))?);
        Ok(())
    }

    fn told(&self, to: &Path) -> String {
        match self.copied {
            0 => String::new(),
            some => format!("copied {} to `{}`", counted(some as u64, "file"), to.display()),
        }
    }
}

/// The folder `name` in `target`, created if missing. A link in its place is removed, so that the copy stays inside
/// `target`.
fn subfolder(target: &Folder, name: &OsStr, mode: u32) -> Result<Folder, String> {
    let work = || -> Result<Folder, Errno> {
        if target.look(name)?.is_some_and(|found| kind(&found) == FileType::Symlink) {
            fs::unlinkat(&target.fd, name, AtFlags::empty())?;
        }
        match target.enter(name) {
            Err(Errno::NOENT) => make_folder(target, name, mode),
            result => result,
        }
    };
    let path: PathBuf = target.path.join(name);
    work().map_err(|error| cannot(format!("copy to `{}`", path.display()), error))
}

/// Whether the target already has this content and mode. Such a file is not written again, which saves disk writes
/// and keeps what desktops have noted about the file.
fn is_same(source: &mut File, mode: Mode, folder: &Folder, name: &OsStr) -> io::Result<bool> {
    let there = match folder.look(name)? {
        Some(found) if kind(&found) == FileType::Directory => return Err(Errno::ISDIR.into()),
        Some(found) if kind(&found) == FileType::RegularFile => found,
        _ => return Ok(false),
    };
    if there.st_size as u64 != source.metadata()?.len() || there.st_mode & 0o7777 != mode.as_raw_mode() {
        return Ok(false);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match fs::openat(&folder.fd, name, flags, Mode::empty()) {
        Ok(file) => same_content(source, &mut File::from(file)),
        Err(_) => Ok(false),
    }
}

fn same_content(one: &mut File, other: &mut File) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let length = one.read(&mut left)?;
        if length == 0 {
            return Ok(other.read(&mut right)? == 0);
        }
        match other.read_exact(&mut right[..length]) {
            Ok(()) if left[..length] == right[..length] => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}
