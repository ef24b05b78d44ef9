//! `ClearLocks` for a browser profile: finds out which process holds its lock, and removes a stale lock and its
//! related files. `model::hooks::profile_lock` decides what is stale. Nothing is removed from a profile that another
//! session has claimed (`host::claim`).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, Access, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::program::runs;
use super::removal::{Judged, remove_judged};
use super::tree::Folder;
use super::{Around, Done, cannot};
use crate::host::claim;
use crate::host::proc::{self, Pid};
use crate::host::{socket, sys};
use crate::model::hooks::profile_lock::{HolderProcess, LockOwner, ProfileFacts, ProfileHolder, ProfileVerdict, judge};

const LOCK: &str = "SingletonLock";
const SOCKET: &str = "SingletonSocket";
const COOKIE: &str = "SingletonCookie";

/// The lock is removed last: while it exists, no browser creates new links in place of the others.
const LINKS: [&str; 3] = [SOCKET, COOKIE, LOCK];

/// Files that a browser locks while it runs.
const DATABASES: [&str; 3] = ["Local Storage/leveldb/LOCK", "Session Storage/LOCK", "shared_proto_db/LOCK"];

/// The socket's folder has this name plus six letters or digits.
const SOCKET_FOLDER: &str = "org.chromium.Chromium.";

pub(super) fn clear_profile(dir: &Path, around: &Around) -> Done {
    let what = || format!("clear the locks of `{}`", dir.display());
    let profile = match Folder::open(dir) {
        Ok(profile) => profile,
        Err(Errno::NOENT) => return Ok(String::new()),
        Err(error) => return Err(cannot(what(), error)),
    };
    // A browser that cannot write its lock reports that another browser has locked the profile (exit code 21).
    fs::accessat(fs::CWD, profile.by_handle(), Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(|error| cannot(format!("lock the profile `{}`", dir.display()), error))?;

    // Held until we are done, so that nobody starts a browser meanwhile.
    let _claim = claim::take_if_there(dir).map_err(|holder| claim::in_use(dir, &holder))?;
    let links = LINKS.map(|name| Judged::of(&profile, OsStr::new(name)));
    let [socket, cookie, lock] = links.map(|link| link.map_err(|error| cannot(what(), error)));
    let (socket, cookie, lock) = (socket?, cookie?, lock?);
    if socket.is_none() && cookie.is_none() && lock.is_none() {
        return Ok(String::new());
    }
    let owner = lock.as_ref().and_then(Judged::link).map(|owner| owner.to_string_lossy());
    let facts = ProfileFacts {
        lock: owner.as_deref(),
        host: around.hostname,
        answers: answers(&profile),
        process: owner.as_deref().map_or(HolderProcess::Gone, |owner| holder(owner, &profile, around)),
        in_use: is_in_use(&profile),
    };
    let stale = match judge(&facts) {
        ProfileVerdict::Keep(holder @ ProfileHolder::Elsewhere(_)) => {
            return Err(format!("cannot {}: {holder}: stop it first, or use a profile of your own", what()));
        }
        ProfileVerdict::Keep(holder) => return Ok(format!("kept the locks of `{}`: {holder}", dir.display())),
        ProfileVerdict::Remove(stale) => stale,
    };
    for (name, judged) in LINKS.into_iter().zip([&socket, &cookie, &lock]) {
        if let Some(judged) = judged
            && !remove_judged(&profile, OsStr::new(name), judged)?
        {
            return Ok(format!("kept the locks of `{}`: a browser has just taken them", dir.display()));
        }
    }
    if let Some(socket) = socket.as_ref().and_then(Judged::link) {
        remove_socket_folder(socket);
    }
    Ok(format!("removed the stale locks of `{}` ({stale})", dir.display()))
}

/// Whether a browser answers on the profile's socket. Connects through the open folder, because the profile's path
/// may be too long for a socket path.
fn answers(profile: &Folder) -> bool {
    socket::answers(&socket::connect(&profile.by_handle().join(SOCKET)))
}

fn holder(lock: &str, profile: &Folder, around: &Around) -> HolderProcess {
    let Some(LockOwner { pid, .. }) = LockOwner::parse(lock).filter(|owner| owner.host == around.hostname) else {
        return HolderProcess::Gone;
    };
    if pid == std::process::id() as Pid {
        // The profile is open in our own process, so the checks below would be wrong for it.
        return HolderProcess::Alive { same_program: false, of_app: false, uses_profile: false };
    }
    if proc::process(pid).is_none_or(|process| process.zombie) {
        return HolderProcess::Gone;
    }
    let arguments = proc::arguments(pid);
    let (Ok(_), Ok(uses_profile), false) = (proc::program(pid), uses(pid, profile), arguments.is_empty()) else {
        // It may have ended while we looked, or may be in the middle of an exec.
        return if proc::process(pid).is_none() { HolderProcess::Gone } else { HolderProcess::Hidden };
    };
    let same_program = runs(pid, &arguments, around.program);
    HolderProcess::Alive { same_program, of_app: (around.of_app)(pid), uses_profile }
}

/// Whether a process has a file open in the profile, or has its working folder there.
fn uses(pid: Pid, profile: &Folder) -> std::io::Result<bool> {
    let profile = std::fs::read_link(profile.by_handle())?;
    Ok(proc::open_files(pid)?.iter().any(|file| file.starts_with(&profile)))
}

/// Whether a process has a database of the profile locked. The kernel shows such a lock to every container that shares
/// the folder, and a file system may show it to other machines. The databases are in the profile itself (Electron), or in
/// the folder of one of its users.
fn is_in_use(profile: &Folder) -> bool {
    let users = profile.entries().unwrap_or_default();
    let folders = std::iter::once(PathBuf::new()).chain(users.into_iter().map(PathBuf::from));
    let locked = |file: &Path| {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        fs::open(profile.by_handle().join(file), flags, Mode::empty()).is_ok_and(|file| sys::is_locked(&file))
    };
    folders.into_iter().any(|user| DATABASES.iter().any(|lock| locked(&user.join(lock))))
}

/// Whether a browser of this host has ended without removing its lock from the profile.
pub fn left_locked(dir: &Path, hostname: &str) -> bool {
    let Ok(lock) = std::fs::read_link(dir.join(LOCK)) else { return false };
    let lock = lock.to_string_lossy();
    let owner = LockOwner::parse(&lock).filter(|owner| owner.host == hostname);
    owner.is_some_and(|owner| proc::process(owner.pid).is_none_or(|process| process.zombie))
}

/// Removes the socket's folder; each unclean exit leaves one. Removes only what the browser put there, so a folder
/// that holds more stays. Best effort: the app starts anyway.
fn remove_socket_folder(socket: &Path) {
    let Some(path) = socket_folder(socket) else { return };
    let Ok(folder) = Folder::open_itself(&path) else { return };
    if !fs::fstat(&folder.fd).is_ok_and(|found| found.st_uid == rustix::process::geteuid().as_raw()) {
        return;
    }
    for name in [SOCKET, COOKIE] {
        let _ = fs::unlinkat(&folder.fd, name, AtFlags::empty());
    }
    let _ = std::fs::remove_dir(&path);
}

/// The folder of a socket path, if its name has exactly the form that browsers use.
fn socket_folder(socket: &Path) -> Option<PathBuf> {
    let folder = socket.parent()?;
    let random = folder.file_name()?.as_bytes().strip_prefix(SOCKET_FOLDER.as_bytes())?;
    let shape = random.len() == 6
        && random.iter().all(u8::is_ascii_alphanumeric)
        && folder.parent() == Some(Path::new("/tmp"))
        && socket.file_name() == Some(OsStr::new(SOCKET));
    shape.then(|| folder.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_shape_is_a_socket_folder() {
        let is = |path: &str| socket_folder(Path::new(path)).is_some();
        assert!(is("/tmp/org.chromium.Chromium.aB3xYz/SingletonSocket"));
        for path in [
            "/tmp/org.chromium.Chromium.aB3xY/SingletonSocket",
            "/tmp/org.chromium.Chromium.aB3xYzz/SingletonSocket",
            "/tmp/org.chromium.Chromium.aB3..z/SingletonSocket",
            "/tmp/org.chromium.Chromium.aB3xYz/other",
            "/tmp/other.aB3xYz/SingletonSocket",
            "/home/u/org.chromium.Chromium.aB3xYz/SingletonSocket",
            "/tmp/x/../org.chromium.Chromium.aB3xYz/SingletonSocket",
            "tmp/org.chromium.Chromium.aB3xYz/SingletonSocket",
        ] {
            assert!(!is(path), "{path}");
        }
    }
}
