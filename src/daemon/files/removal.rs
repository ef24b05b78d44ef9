//! Removes exactly the file that was judged, never one that has replaced it since.

use std::ffi::OsStr;
use std::path::PathBuf;

use rustix::fs::{self, AtFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::cannot;
use super::tree::Folder;
use super::write::with_temporary_name;

/// A file's identity at the time it was judged.
pub(super) struct Judged {
    stat: Stat,
    link: Option<PathBuf>,
}

impl Judged {
    /// Returns `None` if there is no such file.
    pub fn of(folder: &Folder, name: &OsStr) -> Result<Option<Self>, Errno> {
        let (stat, link) = (folder.look(name)?, folder.link(name)?);
        Ok(stat.map(|stat| Judged { stat, link }))
    }

    /// The target, if it is a link.
    pub fn link(&self) -> Option<&PathBuf> {
        self.link.as_ref()
    }

    /// Whether both are the same file. Inode numbers are reused soon, so more than the number is compared.
    fn is(&self, other: &Judged) -> bool {
        let key = |stat: &Stat| (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
        key(&self.stat) == key(&other.stat) && self.link == other.link
    }
}

/// Removes `name` if it is still the file of `judged`. Returns `false` if it is another file by now, which stays.
/// The file is first moved aside and checked there, where nobody replaces it.
pub(super) fn remove_judged(folder: &Folder, name: &OsStr, judged: &Judged) -> Result<bool, String> {
    let cannot = |error| cannot(format!("remove `{}`", folder.path.join(name).display()), error);
    let move_aside = |aside: &OsStr| fs::renameat_with(&folder.fd, name, &folder.fd, aside, RenameFlags::NOREPLACE);
    let aside = match with_temporary_name(name, move_aside) {
        Ok((aside, ())) => aside,
        Err(Errno::NOENT) => return Ok(true),
        // This file system does not support such a rename. Remove in place; only a short race remains.
        Err(Errno::INVAL | Errno::NOSYS) => name.into(),
        Err(error) => return Err(cannot(error)),
    };
    let Some(found) = Judged::of(folder, &aside).map_err(cannot)? else { return Ok(true) };
    if found.is(judged) {
        return fs::unlinkat(&folder.fd, &aside, AtFlags::empty()).map(|()| true).map_err(cannot);
    }
    if aside != name {
        // If a newer file exists by now, that one wins.
        let back = fs::renameat_with(&folder.fd, &aside, &folder.fd, name, RenameFlags::NOREPLACE);
        back.or_else(|_| fs::unlinkat(&folder.fd, &aside, AtFlags::empty())).map_err(cannot)?;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_that_was_replaced_since_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, name) = (Folder::open(dir.path()).unwrap(), OsStr::new("lock"));
        let put = |target: &str| symlink(target, dir.path().join("lock")).unwrap();
        let left = || std::fs::read_dir(dir.path()).unwrap().count();
        put("old");
        let judged = Judged::of(&folder, name).unwrap().unwrap();
        std::fs::remove_file(dir.path().join("lock")).unwrap();
        put("new");
        assert_eq!(remove_judged(&folder, name, &judged), Ok(false));
        assert_eq!(folder.link(name).unwrap().unwrap().to_str(), Some("new"));
        let judged = Judged::of(&folder, name).unwrap().unwrap();
        assert_eq!(remove_judged(&folder, name, &judged), Ok(true));
        assert_eq!(left(), 0);
        assert_eq!(remove_judged(&folder, name, &judged), Ok(true));
    }
}
