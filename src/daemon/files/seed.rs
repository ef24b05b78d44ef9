//! `SeedJson`: merges keys into an object file, whose other keys and their order stay. Owns what becomes of
//! a file that is no such object: it is kept as `.bad`, the newest one, and a new file takes its place.
//!
//! A link to a file of the same folder is written through. Any other link is kept as `.bad` like a broken
//! file: what it points to was never named, and is neither read nor written.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{self, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use serde_json::{Map, Value};

use super::tree::{Folder, kind};
use super::write::{Finish, replace};
use super::{Done, cannot};

/// A larger file is not one of settings.
const MAX_SIZE: u64 = 16 << 20;

type Keys = BTreeMap<String, Value>;

pub(super) fn seed_json(file: &Path, set: &Keys, default: &Keys) -> Done {
    merge_into(file, set, default).map_err(|error| cannot(format!("seed `{}`", file.display()), error))
}

fn merge_into(file: &Path, set: &Keys, default: &Keys) -> io::Result<String> {
    let (folder, named) = place(file)?;
    let (name, old) = find(&folder, &named)?;
    match old {
        Old::Nothing => {
            let object = merged(Map::new(), set, default);
            write(&folder, &name, &object, "", &private())?;
            Ok(format!("made `{}`", file.display()))
        }
        Old::Object { object, end, finish } => {
            let new = merged(object.clone(), set, default);
            if new == object {
                return Ok(String::new());
            }
            write(&folder, &name, &new, end, &finish)?;
            Ok(format!("seeded `{}`", file.display()))
        }
        Old::Bad { why, finish } => {
            let bad = keep_as_bad(&folder, &name, &named)?;
            write(&folder, &name, &merged(Map::new(), set, default), "", &finish)?;
            Ok(format!("made `{}` anew: the old one {why}, and is kept as `{}`", file.display(), bad.display()))
        }
    }
}

/// The file's folder, made if need be. Settings hold secrets: a folder of ours is nobody else's.
fn place(file: &Path) -> io::Result<(Folder, OsString)> {
    if let Some(parent) = file.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    Ok(Folder::holding(file)?)
}

/// What is there already.
enum Old {
    Nothing,
    /// `end`: what follows the closing brace.
    Object {
        object: Map<String, Value>,
        end: &'static str,
        finish: Finish,
    },
    Bad {
        why: &'static str,
        finish: Finish,
    },
}

/// The file to write, which is not `named` where that is a link, and its content.
fn find(folder: &Folder, named: &OsStr) -> io::Result<(OsString, Old)> {
    let Some(target) = folder.link(named)? else { return Ok((named.to_owned(), read(folder, named)?)) };
    match beside(folder, &target)? {
        Some(name) => Ok((name.clone(), read(folder, &name)?)),
        None => Ok((named.to_owned(), Old::Bad { why: "was a link out of its folder", finish: private() })),
    }
}

/// The name of a link's target, if that lies in the same folder and is no link itself.
fn beside(folder: &Folder, target: &Path) -> io::Result<Option<OsString>> {
    let Ok((home, name)) = Folder::holding(&folder.path.join(target)) else { return Ok(None) };
    let same = home.identity()? == folder.identity()?;
    Ok((same && folder.link(&name)?.is_none()).then_some(name))
}

fn read(folder: &Folder, name: &OsStr) -> io::Result<Old> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Some(found) = folder.look(name)? else { return Ok(Old::Nothing) };
    match kind(&found) {
        FileType::RegularFile => {}
        // Never moved aside: somebody named their whole profile by mistake.
        FileType::Directory => return Err(Errno::ISDIR.into()),
        _ => return Ok(Old::Bad { why: "was no regular file", finish: private() }),
    }
    let finish = like(&found);
    let file = match fs::openat(&folder.fd, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::ACCESS | Errno::PERM) => return Ok(Old::Bad { why: "could not be read", finish }),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes)?;
    Ok(parse(&bytes, finish))
}

fn parse(bytes: &[u8], finish: Finish) -> Old {
    if bytes.len() as u64 > MAX_SIZE {
        return Old::Bad { why: "was larger than 16 MiB", finish };
    }
    let text = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    match serde_json::from_slice(text) {
        Ok(Value::Object(object)) => {
            let end = if text.ends_with(b"\n") { "\n" } else { "" };
            Old::Object { object, end, finish }
        }
        Ok(_) => Old::Bad { why: "was not an object", finish },
        Err(_) => Old::Bad { why: "was not JSON", finish },
    }
}

fn merged(mut object: Map<String, Value>, set: &Keys, default: &Keys) -> Map<String, Value> {
    for (key, value) in set {
        object.insert(key.clone(), value.clone());
    }
    for (key, value) in default {
        object.entry(key.clone()).or_insert_with(|| value.clone());
    }
    object
}

/// Moves the file aside; one that something is mounted on cannot be moved, so its content is.
fn keep_as_bad(folder: &Folder, name: &OsStr, named: &OsStr) -> io::Result<std::path::PathBuf> {
    let mut bad = named.to_owned();
    bad.push(".bad");
    match fs::renameat(&folder.fd, name, &folder.fd, &bad) {
        Ok(()) => {}
        Err(Errno::BUSY) => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let mut old = File::from(fs::openat(&folder.fd, name, flags, Mode::empty())?);
            replace(folder, &bad, &like(&fs::fstat(&old)?), |file| io::copy(&mut old, file).map(drop))?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(folder.path.join(bad))
}

fn write(folder: &Folder, name: &OsStr, object: &Map<String, Value>, end: &str, finish: &Finish) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(object)?;
    replace(folder, name, finish, |file| {
        file.write_all(&text)?;
        file.write_all(end.as_bytes())
    })
}

fn like(was: &Stat) -> Finish {
    let mode = Mode::from_raw_mode(was.st_mode & 0o777);
    Finish { mode, owner: Some((was.st_uid, was.st_gid)), durable: true }
}

fn private() -> Finish {
    Finish { mode: Mode::RUSR | Mode::WUSR, owner: None, durable: true }
}
