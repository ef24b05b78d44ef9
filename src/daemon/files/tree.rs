//! Folders by handle: opened once and entered one name at a time, so a link that is swapped in meanwhile has no
//! effect.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// Deeper nesting is never intended, and each level keeps a descriptor open.
pub(super) const MAX_DEPTH: usize = 200;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// An open folder, and the path it was opened by, for messages.
#[derive(Debug)]
pub(super) struct Folder {
    pub fd: OwnedFd,
    pub path: PathBuf,
}

impl Folder {
    /// Opens a folder and follows links. For paths that the operator wrote.
    pub fn open(path: &Path) -> Result<Self, Errno> {
        Ok(Folder { fd: fs::open(path, FOLDER, Mode::empty())?, path: path.to_owned() })
    }

    /// Opens the folder itself, never a link to one (`NOTDIR`).
    pub fn open_itself(path: &Path) -> Result<Self, Errno> {
        Ok(Folder { fd: fs::open(path, FOLDER | OFlags::NOFOLLOW, Mode::empty())?, path: path.to_owned() })
    }

    /// Opens the folder that holds `path`. Also returns the name of `path` in it.
    pub fn holding(path: &Path) -> Result<(Self, OsString), Errno> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::INVAL) };
        Ok((Folder::open(parent)?, name.to_owned()))
    }

    /// Opens the folder `name` in this one, never a link to one (`NOTDIR`).
    pub fn enter(&self, name: &OsStr) -> Result<Self, Errno> {
        let fd = fs::openat(&self.fd, name, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
        Ok(Folder { fd, path: self.path.join(name) })
    }

    /// Like [`Self::enter`], but refuses a mount point (`XDEV`).
    pub fn enter_unmounted(&self, name: &OsStr) -> Result<Self, Errno> {
        let fd = open_unmounted(self, name, FOLDER)?;
        Ok(Folder { fd, path: self.path.join(name) })
    }

    /// Gives us access to the folder `name` if we own it and its mode denies access.
    pub fn unlock(&self, name: &OsStr) -> Result<(), Errno> {
        let fd = open_unmounted(self, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC)?;
        grant_owner(&fd, Mode::RWXU)
    }

    /// Lets the owner read and write the file `name` if we are the owner.
    pub fn make_readable(&self, name: &OsStr) -> Result<(), Errno> {
        let fd = fs::openat(&self.fd, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        grant_owner(&fd, Mode::RUSR | Mode::WUSR)
    }

    /// The names in the folder, sorted, without `.` and `..`.
    pub fn entries(&self) -> Result<Vec<OsString>, Errno> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        names.sort();
        Ok(names)
    }

    /// The metadata of `name` itself, not of its target. `None` if it does not exist.
    pub fn look(&self, name: &OsStr) -> Result<Option<Stat>, Errno> {
        match fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The target of the link `name`. `None` if it does not exist or is not a link.
    pub fn link(&self, name: &OsStr) -> Result<Option<PathBuf>, Errno> {
        match fs::readlinkat(&self.fd, name, Vec::new()) {
            Ok(target) => Ok(Some(PathBuf::from(OsStr::from_bytes(target.as_bytes())))),
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A short path to this folder that stays valid when the folder is moved or renamed.
    pub fn by_handle(&self) -> PathBuf {
        format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.fd)).into()
    }

    pub fn identity(&self) -> Result<(u64, u64), Errno> {
        fs::fstat(&self.fd).map(|found| (found.st_dev, found.st_ino))
    }
}

fn grant_owner(fd: &OwnedFd, rights: Mode) -> Result<(), Errno> {
    let found = fs::fstat(fd)?;
    let mode = Mode::from_raw_mode(found.st_mode & 0o7777);
    if found.st_uid != rustix::process::geteuid().as_raw() || mode.contains(rights) {
        return Ok(());
    }
    // A handle without read permission takes no fchmod, but its name under /proc does.
    let itself = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(fd));
    fs::chmodat(CWD, itself, mode | rights, AtFlags::empty())
}

pub(super) fn kind(found: &Stat) -> FileType {
    FileType::from_raw_mode(found.st_mode)
}

fn open_unmounted(folder: &Folder, name: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match fs::openat2(&folder.fd, name, flags | OFlags::NOFOLLOW, Mode::empty(), resolve) {
        // openat2 returns LOOP for a link where other calls return NOTDIR.
        Err(Errno::LOOP) => Err(Errno::NOTDIR),
        // Old kernels, and seccomp profiles that do not allow openat2.
        Err(Errno::NOSYS | Errno::PERM) => open_on_same_device(folder, name, flags),
        result => result,
    }
}

/// Without openat2, a bind mount from the same file system is not recognised.
fn open_on_same_device(folder: &Folder, name: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let fd = fs::openat(&folder.fd, name, flags | OFlags::NOFOLLOW, Mode::empty())?;
    if fs::fstat(&fd)?.st_dev == fs::fstat(&folder.fd)?.st_dev { Ok(fd) } else { Err(Errno::XDEV) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_not_entered_with_or_without_openat2() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        for name in ["real", "link"] {
            let name = OsStr::new(name);
            let expected = if name == "real" { None } else { Some(Errno::NOTDIR) };
            assert_eq!(folder.enter(name).err(), expected);
            assert_eq!(folder.enter_unmounted(name).err(), expected);
            assert_eq!(open_on_same_device(&folder, name, FOLDER).err(), expected);
        }
    }

    #[test]
    fn another_device_is_not_entered_with_or_without_openat2() {
        let root = Folder::open(Path::new("/")).unwrap();
        let proc = OsStr::new("proc");
        assert_eq!(root.enter_unmounted(proc).err(), Some(Errno::XDEV));
        assert_eq!(open_on_same_device(&root, proc, FOLDER).err(), Some(Errno::XDEV));
    }
}
