//! `ClearDir`: removes everything in a folder. Links are removed, not followed. Mount points stay.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags};
use rustix::io::Errno;

use super::tree::{Folder, MAX_DEPTH};
use super::{Around, Done, cannot, refuse_precious};

/// How often a folder is emptied if something keeps filling it.
const MAX_ROUNDS: usize = 3;

pub(super) fn clear_dir(path: &Path, around: &Around) -> Done {
    let what = || format!("clear `{}`", path.display());
    refuse_precious(path, around).map_err(|reason| format!("cannot {}: {reason}", what()))?;
    let folder = match Folder::open_itself(path) {
        Ok(folder) => folder,
        Err(Errno::NOENT) => return Ok(String::new()),
        Err(_) if path.is_symlink() => {
            return Err(format!("cannot {}: it is a link: name the folder it points to", what()));
        }
        Err(error) => return Err(cannot(what(), error)),
    };
    if is_home(&folder, around) {
        return Err(format!("cannot {}: it is the home folder: name the folder that you mean", what()));
    }
    let mut sweep = Sweep { cancelled: around.cancelled, removed: 0, kept: Vec::new() };
    sweep.empty(&folder, 0)?;
    Ok(sweep.told(path))
}

/// Whether this is the home folder, even under another name such as a bind mount.
fn is_home(folder: &Folder, around: &Around) -> bool {
    let home = Folder::open(around.home).and_then(|home| home.identity());
    home.is_ok() && home == folder.identity()
}

struct Sweep<'a> {
    cancelled: &'a dyn Fn() -> bool,
    removed: usize,
    /// Entries that stay because something is mounted on them.
    kept: Vec<PathBuf>,
}

impl Sweep<'_> {
    fn empty(&mut self, folder: &Folder, depth: usize) -> Result<(), String> {
        let names = folder.entries().map_err(|error| cannot(format!("list `{}`", folder.path.display()), error))?;
        for name in names {
            if (self.cancelled)() {
                return Err(format!("cancelled while clearing `{}`", folder.path.display()));
            }
            let removed = match fs::unlinkat(&folder.fd, &name, AtFlags::empty()) {
                Err(Errno::ISDIR) => self.remove_folder(folder, &name, depth),
                result => self.note(folder, &name, result),
            };
            removed?;
        }
        Ok(())
    }

    fn remove_folder(&mut self, folder: &Folder, name: &OsStr, depth: usize) -> Result<(), String> {
        let path = folder.path.join(name);
        if depth >= MAX_DEPTH {
            return Err(format!("cannot clear `{}`: nested too deep: remove it by hand", path.display()));
        }
        let kept = self.kept.len();
        for round in 1.. {
            match enter(folder, name) {
                Ok(inner) => self.empty(&inner, depth + 1)?,
                Err(error) => return self.note(folder, name, Err(error)),
            }
            if self.kept.len() > kept {
                return Ok(());
            }
            match fs::unlinkat(&folder.fd, name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY) if round < MAX_ROUNDS => {}
                Err(Errno::NOTEMPTY) => {
                    return Err(format!(
                        "cannot clear `{}`: something fills it again: stop that first",
                        path.display()
                    ));
                }
                result => return self.note(folder, name, result),
            }
        }
        Ok(())
    }

    fn note(&mut self, folder: &Folder, name: &OsStr, result: Result<(), Errno>) -> Result<(), String> {
        let path = folder.path.join(name);
        match result {
            Ok(()) => self.removed += 1,
            Err(Errno::NOENT) => {}
            Err(Errno::BUSY | Errno::XDEV) => self.kept.push(path),
            Err(error) => return Err(cannot(format!("remove `{}`", path.display()), error)),
        }
        Ok(())
    }

    fn told(&self, path: &Path) -> String {
        let mut told = match self.removed {
            0 => String::new(),
            1 => format!("removed 1 entry from `{}`", path.display()),
            many => format!("removed {many} entries from `{}`", path.display()),
        };
        for kept in &self.kept {
            let separator = if told.is_empty() { "" } else { "; " };
            told += &format!("{separator}kept `{}`: something is mounted there", kept.display());
        }
        told
    }
}

/// Enters a folder to empty it. If the folder is ours and its mode denies us access, changes the mode first.
fn enter(folder: &Folder, name: &OsStr) -> Result<Folder, Errno> {
    match folder.unlock(name) {
        Ok(()) | Err(Errno::ACCESS | Errno::PERM) => folder.enter_unmounted(name),
        Err(error) => Err(error),
    }
}
