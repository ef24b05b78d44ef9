//! Performs the file steps of hooks, one file per step. Blocks, so it runs on its own thread. Does not decide
//! whether a step runs, or what its failure means.
//!
//! The operator wrote the path of a step, so links in that path are followed. Links below it are not: folders are
//! entered by handle, one name at a time.

mod clear;
mod copy;
mod display_lock;
mod profile_lock;
mod program;
mod removal;
mod seed;
mod stage;
mod tree;
mod write;

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags};
use rustix::io::Errno;

use crate::host::sys;
use crate::model::manifest::hook::{Locks, Step};
pub use profile_lock::left_locked;
use tree::Folder;

/// The facts about its app and this machine that a step needs.
pub struct Around<'a> {
    /// This host's name, as browsers write it into their locks.
    pub hostname: &'a str,
    /// The home folder. It and the folders above it are never cleared or removed.
    pub home: &'a Path,
    /// The app's DISPLAY.
    pub display: Option<&'a str>,
    /// The app's program.
    pub program: &'a Path,
    /// Whether a live process belongs to the app, by its pattern or its marks.
    pub of_app: &'a dyn Fn(i32) -> bool,
    /// Whether the step was cancelled. Checked between the entries of a folder.
    pub cancelled: &'a dyn Fn() -> bool,
}

/// `Ok`: one line about what was done, empty if nothing had to be done. `Err`: what failed, and how to fix it.
type Done = Result<String, String>;

/// Performs a file step. Other steps are refused: they do not run on a blocking thread.
pub fn perform(step: &Step, around: &Around) -> Done {
    match step {
        Step::MakeDir { path } => make_dir(&plain(path)),
        Step::Copy { from, to } => copy::copy(&plain(from), &plain(to), around),
        Step::Stage { from, to } => stage::stage(&plain(from), &plain(to), around),
        Step::Remove { path } => remove(&plain(path), around),
        Step::ClearDir { path } => clear::clear_dir(&plain(path), around),
        Step::ClearLocks { locks: Locks::Profile { dir, .. } } => profile_lock::clear_profile(&plain(dir), around),
        Step::ClearLocks { locks: Locks::Display } => display_lock::clear_display(around),
        Step::SeedJson { file, set, default } => seed::seed_json(&plain(file), set, default),
        Step::WaitFor { .. } | Step::Run { .. } | Step::Maximize { .. } => {
            Err(format!("`{}` is not a file step", step.name()))
        }
    }
}

fn make_dir(path: &Path) -> Done {
    if path.is_dir() {
        return Ok(String::new());
    }
    std::fs::create_dir_all(path).map_err(|error| cannot(format!("make the folder `{}`", path.display()), error))?;
    Ok(format!("made `{}`", path.display()))
}

fn remove(path: &Path, around: &Around) -> Done {
    let what = || format!("remove `{}`", path.display());
    refuse_precious(path, around).map_err(|reason| format!("cannot {}: {reason}", what()))?;
    let (folder, name) = match Folder::holding(path) {
        Ok(place) => place,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        Err(error) => return Err(cannot(what(), error)),
    };
    let removed = fs::unlinkat(&folder.fd, &name, AtFlags::empty()).or_else(|error| match error {
        Errno::ISDIR => fs::unlinkat(&folder.fd, &name, AtFlags::REMOVEDIR),
        error => Err(error),
    });
    match removed {
        Ok(()) => Ok(format!("removed `{}`", path.display())),
        Err(Errno::NOENT) => Ok(String::new()),
        Err(error) => Err(cannot(what(), error)),
    }
}

/// The path without a trailing slash or dot, which would turn a link into its target.
fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}

/// Refuses the home folder, the folders above it and `/`. No hook should remove those.
fn refuse_precious(path: &Path, around: &Around) -> Result<(), String> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err("it names no file or folder of its own: name one".into());
    };
    // A path that does not resolve does not exist.
    let Ok(real) = parent.canonicalize().map(|parent| parent.join(name)) else { return Ok(()) };
    let home = around.home.canonicalize().unwrap_or_else(|_| around.home.into());
    if home.starts_with(&real) {
        return Err("it is the home folder or holds it: name the folder that you mean".into());
    }
    Ok(())
}

/// Formats an error as "cannot do this: why: how to fix it".
fn cannot(what: impl Display, error: impl Into<io::Error>) -> String {
    let error = error.into();
    let uid = sys::file_user();
    let (reason, way_out) = match Errno::from_io_error(&error) {
        Some(Errno::ACCESS | Errno::PERM) => {
            ("no permission", format!("let uid {uid} write there, or name another path"))
        }
        Some(Errno::NOTDIR) => {
            ("a part of the path is not a folder", "move what is in the way, or name another path".into())
        }
        Some(Errno::ISDIR) => ("a folder is in the way", "remove it, or name another path".into()),
        Some(Errno::EXIST) => ("something else is in the way", "remove it, or name another path".into()),
        Some(Errno::NOTEMPTY) => ("the folder is not empty", "empty it with ClearDir first".into()),
        Some(Errno::NOENT) => ("it does not exist", "create it, or name another path".into()),
        Some(Errno::ROFS) => ("the file system is read-only", "mount it writable, or name another path".into()),
        Some(Errno::NOSPC | Errno::DQUOT) => ("the disk is full", "free some space".into()),
        Some(Errno::BUSY) => ("something is mounted there", "unmount it, or name another path".into()),
        Some(Errno::LOOP) => ("a link leads back to itself, or is in the way", "remove the link".into()),
        Some(Errno::NAMETOOLONG) => ("the name is too long", "name another path".into()),
        _ => return format!("cannot {what}: {error}"),
    };
    format!("cannot {what}: {reason}: {way_out}")
}

#[cfg(test)]
mod tests;
