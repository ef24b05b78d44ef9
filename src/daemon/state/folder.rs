//! Keeps the state folder usable while the session runs. Cleaners of temporary files may delete it, a volume may change
//! its mode, or somebody may move it. Notices that, restores the folder and the lock, and reports what else is missing.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::host::clock::from_now;
use crate::host::layout::{self, Mended};

/// How long to wait after a change, so that a deletion in progress can finish.
const SETTLE: Duration = Duration::from_millis(100);

/// How often to retry an unusable folder, and to check one that cannot be watched.
const AGAIN: Duration = Duration::from_secs(2);

/// The state folder of a running session.
pub struct Folder {
    path: PathBuf,
    lock: OwnedFd,
    /// `None` if the kernel has no inotify instance left.
    watch: Option<OwnedFd>,
    /// The watch in `watch`, as the kernel numbers it. `None` while it cannot be set, and once the session ends.
    watched: Option<i32>,
    /// The session ends: see [`Folder::unwatch`].
    unwatched: bool,
    /// When to look at the folder next.
    look: Option<Instant>,
    /// How often it was restored.
    restored: u32,
    trouble: Option<String>,
}

/// The names that were restored or are missing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// There is a new lock, which the guard must get.
    pub lock: bool,
    /// The control socket is missing.
    pub socket: bool,
}

impl Folder {
    /// The folder at `path`, whose lock is held.
    pub fn new(path: &Path, lock: OwnedFd) -> Folder {
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok();
        let mut folder = Folder {
            path: path.into(),
            lock,
            watch,
            watched: None,
            unwatched: false,
            look: None,
            restored: 0,
            trouble: None,
        };
        folder.watch_again();
        folder
    }

    /// The folder's path, with links resolved.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Restores the folder before its first use, when no supervisor has bound its socket yet.
    pub fn prepare(&mut self) {
        self.restore(false);
        self.watch_again();
    }

    /// The lock, to pass on to the guard.
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// Stops watching, and keeps only the lock.
    pub fn into_lock(self) -> OwnedFd {
        self.lock
    }

    /// How often the folder was restored.
    pub fn restored(&self) -> u32 {
        self.restored
    }

    /// The problem with the folder, and how to fix it.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.clone()
    }

    /// A descriptor that is readable when something in the folder has changed. Then call [`Folder::changed`].
    pub fn wakes(&self) -> io::Result<Option<OwnedFd>> {
        self.watch.as_ref().map(OwnedFd::try_clone).transpose()
    }

    /// Schedules a look at the folder for when the change is over.
    pub fn changed(&mut self) {
        let mut events = [0; 4096];
        if let Some(watch) = &self.watch {
            while rustix::io::read(watch, &mut events).is_ok_and(|bytes| bytes > 0) {}
        }
        self.look = Some(from_now(SETTLE));
    }

    /// Looks every few seconds from now on, instead of watching. For a supervisor that ends: its exit would wait for the
    /// kernel to remove the watch.
    pub fn unwatch(&mut self) {
        self.unwatched = true;
        if let (Some(watch), Some(watched)) = (&self.watch, self.watched.take()) {
            let _ = inotify::remove_watch(watch, watched); // the kernel has removed it if the folder is gone
        }
        self.look.get_or_insert_with(|| from_now(AGAIN));
    }

    /// When to call [`Folder::look_if_due`].
    pub fn next(&self) -> Option<Instant> {
        self.look
    }

    /// Looks at the folder and restores it, if it is time. Returns what was missing.
    pub fn look_if_due(&mut self, now: Instant) -> Option<Restored> {
        self.look.take_if(|look| *look <= now)?;
        let restored = self.restore(true);
        self.watch_again();
        if self.trouble.is_some() || self.watched.is_none() {
            self.look = Some(from_now(AGAIN));
        }
        restored
    }

    fn restore(&mut self, has_socket: bool) -> Option<Restored> {
        let path = self.path.display();
        let restored = layout::mend(&self.path).and_then(|mended| {
            let lock = layout::lock_again(&self.path, &self.lock)?;
            Ok((mended, lock))
        });
        let (mended, lock) = match restored {
            Ok(restored) => restored,
            Err(error) => {
                let trouble = format!(
                    "the state folder cannot be used: {error:#}; the session continues, but cannot be controlled"
                );
                if self.trouble.replace(trouble.clone()).is_none() {
                    tracing::error!(event = "state.trouble", folder = %path, "{trouble}");
                }
                return None;
            }
        };
        let found = Restored {
            lock: lock.is_some(),
            socket: has_socket && layout::control_socket(&self.path).symlink_metadata().is_err(),
        };
        if let Some(lock) = lock {
            self.lock = lock;
        }
        let was_in_trouble = self.trouble.take().is_some();
        if mended != Mended::Nothing || found != Restored::default() || was_in_trouble {
            self.restored += 1;
            tracing::warn!(
                event = "state.restored", folder = %path,
                "the state folder {path} was deleted or changed, and is restored; exclude it from whatever cleans up there"
            );
        }
        Some(found)
    }

    /// Renews the watch, since the folder may be another one now.
    fn watch_again(&mut self) {
        let what = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ATTRIB;
        let what = what | WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::ONLYDIR;
        let watch = self.watch.as_ref().filter(|_| !self.unwatched);
        self.watched = watch.and_then(|watch| inotify::add_watch(watch, &self.path, what).ok());
        if self.watched.is_none() {
            self.look.get_or_insert_with(|| from_now(AGAIN));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::layout::StateFolder;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    fn folder() -> (tempfile::TempDir, PathBuf, Folder) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("run/state");
        let (lock, name) = StateFolder::take(&path).unwrap().into_lock();
        let folder = Folder::new(&path, lock);
        drop(name); // this test is about the lock only
        (root, path, folder)
    }

    fn look(folder: &mut Folder) -> Option<Restored> {
        folder.changed();
        folder.look_if_due(from_now(SETTLE))
    }

    #[test]
    fn a_folder_that_was_deleted_is_made_again_and_stays_ours() {
        let (_root, path, mut folder) = folder();
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        assert_eq!(look(&mut folder), Some(Restored { lock: true, socket: true }));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(StateFolder::take(&path).is_err(), "somebody else is let in");
        assert_eq!((folder.restored(), folder.trouble()), (1, None));
    }

    #[test]
    fn a_mode_that_lets_others_in_is_changed_back() {
        let (_root, path, mut folder) = folder();
        fs::write(layout::control_socket(&path), "").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o2775)).unwrap();
        assert_eq!(look(&mut folder), Some(Restored::default()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(folder.restored(), 1);
        assert_eq!(look(&mut folder), Some(Restored::default()));
        assert_eq!(folder.restored(), 1, "nothing was changed");
    }

    #[test]
    fn without_a_watch_it_is_looked_at_again_and_again() {
        let (_root, path, mut folder) = folder();
        assert_eq!(folder.next(), None);
        folder.unwatch();
        fs::remove_dir_all(&path).unwrap();
        assert_eq!(folder.look_if_due(from_now(AGAIN)), Some(Restored { lock: true, socket: true }));
        assert!(folder.next().is_some());
    }

    #[test]
    fn a_file_in_its_place_is_trouble_until_it_is_gone() {
        let (_root, path, mut folder) = folder();
        fs::remove_dir_all(&path).unwrap();
        fs::write(&path, "somebody's").unwrap();
        assert_eq!(look(&mut folder), None);
        assert!(folder.trouble().is_some() && folder.next().is_some());
        assert_eq!(fs::read_to_string(&path).unwrap(), "somebody's");
        fs::remove_file(&path).unwrap();
        assert!(look(&mut folder).is_some_and(|restored| restored.socket));
        assert_eq!(folder.trouble(), None);
    }
}
