//! `SeedJson`: merges keys into a JSON file that holds an object. Owns what happens to a file that does not: it is
//! kept as `.bad` (only the newest one), and a new file takes its place. `model::hooks::json_edit` edits the text.
//!
//! A link to a file in the same folder is followed. Any other link is kept as `.bad` like a broken file: the
//! manifest never named its target, so the target is neither read nor written.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::tree::{Folder, kind};
use super::write::{Finish, replace};
use super::{Done, cannot};
use crate::model::hooks::json_edit::{self, Keys};

/// Bytes. A larger file is not a settings file.
const MAX_SIZE: u64 = 16 << 20;

const READ: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

pub(super) fn seed_json(file: &Path, set: &Keys, default: &Keys) -> Done {
    merge_into(file, set, default).map_err(|error| cannot(format!("seed `{}`", file.display()), error))
}

fn merge_into(file: &Path, set: &Keys, default: &Keys) -> io::Result<String> {
    let (folder, named) = place(file)?;
    let (name, found) = find(&folder, &named)?;
    let fresh = || json_edit::fresh(set, default);
    let (why, finish) = match found {
        Found::Nothing => {
            write(&folder, &name, fresh().as_bytes(), &private())?;
            return Ok(format!("made `{}`", file.display()));
        }
        Found::Text { text, finish } => match json_edit::merge(&text, set, default) {
            Ok(None) => return Ok(String::new()),
            Ok(Some(edited)) => {
                write(&folder, &name, &edited, &finish)?;
                return Ok(format!("seeded `{}`", file.display()));
            }
            Err(refused) => (refused.to_string(), finish),
        },
        Found::Unusable { why, finish } => (why.to_string(), finish),
    };
    let bad = keep_as_bad(&folder, &name, &named)?;
    write(&folder, &name, fresh().as_bytes(), &finish)?;
    Ok(format!("replaced `{}`: it {why}; the old file is kept as `{}`", file.display(), bad.display()))
}

/// The file's folder, created if missing. Settings hold secrets, so a new folder is private.
fn place(file: &Path) -> io::Result<(Folder, OsString)> {
    if let Some(parent) = file.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    Ok(Folder::holding(file)?)
}

/// The file as it is before the step.
enum Found {
    Nothing,
    Text { text: Vec<u8>, finish: Finish },
    Unusable { why: &'static str, finish: Finish },
}

/// The file to write (the target, if `named` is a link) and its content.
fn find(folder: &Folder, named: &OsStr) -> io::Result<(OsString, Found)> {
    let Some(target) = folder.link(named)? else { return Ok((named.to_owned(), read(folder, named)?)) };
    match beside(folder, &target)? {
        Some(name) => Ok((name.clone(), read(folder, &name)?)),
        None => {
            let found = Found::Unusable { why: "was a link out of its folder", finish: private() };
            Ok((named.to_owned(), found))
        }
    }
}

/// The name of a link's target, if the target is in the same folder and is not a link itself.
fn beside(folder: &Folder, target: &Path) -> io::Result<Option<OsString>> {
    let Ok((holder, name)) = Folder::holding(&folder.path.join(target)) else { return Ok(None) };
    let same = holder.identity()? == folder.identity()?;
    Ok((same && folder.link(&name)?.is_none()).then_some(name))
}

fn read(folder: &Folder, name: &OsStr) -> io::Result<Found> {
    let Some(found) = folder.look(name)? else { return Ok(Found::Nothing) };
    match kind(&found) {
        FileType::RegularFile => {}
        // Never moved aside: it may be a whole profile, named by mistake.
        FileType::Directory => return Err(Errno::ISDIR.into()),
        _ => return Ok(Found::Unusable { why: "was no regular file", finish: private() }),
    }
    let finish = like(&found);
    let file = match open(folder, name) {
        Ok(file) => file,
        Err(Errno::ACCESS | Errno::PERM) => return Ok(Found::Unusable { why: "could not be read", finish: private() }),
        Err(error) => return Err(error.into()),
    };
    let mut text = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_SIZE {
        return Ok(Found::Unusable { why: "was larger than 16 MiB", finish });
    }
    Ok(Found::Text { text, finish })
}

/// Opens a file for reading. If the file is ours and its mode forbids that, makes it readable first: the app could
/// not read it either.
fn open(folder: &Folder, name: &OsStr) -> Result<File, Errno> {
    let opened = match fs::openat(&folder.fd, name, READ, Mode::empty()) {
        Err(Errno::ACCESS) => {
            folder.make_readable(name)?;
            fs::openat(&folder.fd, name, READ, Mode::empty())
        }
        opened => opened,
    };
    opened.map(File::from)
}

/// Moves the file aside. A mounted file cannot be moved, so its content is copied.
fn keep_as_bad(folder: &Folder, name: &OsStr, named: &OsStr) -> io::Result<PathBuf> {
    let mut bad = named.to_owned();
    bad.push(".bad");
    match fs::renameat(&folder.fd, name, &folder.fd, &bad) {
        Ok(()) => {}
        Err(Errno::BUSY) => {
            let mut old = File::from(fs::openat(&folder.fd, name, READ, Mode::empty())?);
            replace(folder, &bad, &like(&fs::fstat(&old)?), |file| io::copy(&mut old, file).map(drop))?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(folder.path.join(bad))
}

fn write(folder: &Folder, name: &OsStr, text: &[u8], finish: &Finish) -> io::Result<()> {
    replace(folder, name, finish, |file| file.write_all(text))
}

/// The mode and owner of the replaced file. If even the owner could not access it, the mode is corrected.
fn like(was: &Stat) -> Finish {
    let mode = Mode::from_raw_mode(was.st_mode & 0o777);
    let mode = if mode.contains(Mode::RUSR) { mode } else { mode | Mode::RUSR | Mode::WUSR };
    Finish { mode, owner: Some((was.st_uid, was.st_gid)), durable: true }
}

fn private() -> Finish {
    Finish { mode: Mode::RUSR | Mode::WUSR, owner: None, durable: true }
}
