//! `ClearLocks` on a browser profile: finds out who holds its lock, and removes a stale one with what belongs
//! to it. `model::hooks::profile_lock` decides what is stale.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, Access, AtFlags};
use rustix::io::Errno;

use super::program::runs;
use super::removal::{Judged, remove_judged};
use super::tree::Folder;
use super::{Around, Done, cannot};
use crate::host::proc::{self, Pid};
use crate::host::socket;
use crate::model::hooks::profile_lock::{HolderProcess, LockOwner, ProfileFacts, ProfileVerdict, judge};

const LOCK: &str = "SingletonLock";
const SOCKET: &str = "SingletonSocket";
const COOKIE: &str = "SingletonCookie";

/// The lock comes last: as long as it is there, no browser puts new links in place of the others.
const LINKS: [&str; 3] = [SOCKET, COOKIE, LOCK];

/// The folder of the socket is called this and six letters or digits more.
const SOCKET_FOLDER: &str = "org.chromium.Chromium.";

pub(super) fn clear_profile(dir: &Path, around: &Around) -> Done {
    let what = || format!("clear the locks of `{}`", dir.display());
    let profile = match Folder::open(dir) {
        Ok(profile) => profile,
        Err(Errno::NOENT) => return Ok(String::new()),
        Err(error) => return Err(cannot(what(), error)),
    };
    // A browser that cannot write its lock says that another one has locked the profile (exit code 21).
    fs::accessat(fs::CWD, profile.by_handle(), Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(|error| cannot(format!("lock the profile `{}`", dir.display()), error))?;

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
    };
    let stale = match judge(&facts) {
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

/// Whether a browser answers on the profile's socket. It is reached by the open folder: a profile's path may be
/// longer than a socket's may be.
fn answers(profile: &Folder) -> bool {
    socket::answers(&socket::connect(&profile.by_handle().join(SOCKET)))
}

fn holder(lock: &str, profile: &Folder, around: &Around) -> HolderProcess {
    let Some(LockOwner { pid, .. }) = LockOwner::parse(lock).filter(|owner| owner.host == around.hostname) else {
        return HolderProcess::Gone;
    };
    if pid == std::process::id() as Pid {
        // We have just opened the profile ourselves.
        return HolderProcess::Alive { same_program: false, of_app: false, uses_profile: false };
    }
    if proc::process(pid).is_none_or(|process| process.zombie) {
        return HolderProcess::Gone;
    }
    let arguments = proc::arguments(pid);
    let (Ok(_), Ok(uses_profile), false) = (proc::program(pid), uses(pid, profile), arguments.is_empty()) else {
        // It may have ended while we looked, or be about to execute the next program.
        return if proc::process(pid).is_none() { HolderProcess::Gone } else { HolderProcess::Hidden };
    };
    let same_program = runs(pid, &arguments, around.program);
    HolderProcess::Alive { same_program, of_app: (around.of_app)(pid), uses_profile }
}

/// Whether a process has something open in the profile, or works in it.
fn uses(pid: Pid, profile: &Folder) -> std::io::Result<bool> {
    let profile = std::fs::read_link(profile.by_handle())?;
    Ok(proc::open_files(pid)?.iter().any(|file| file.starts_with(&profile)))
}

/// Each unclean exit leaves one such folder. Only what the browser put there is removed, so a folder that holds
/// more stays. Best effort: the app starts all the same.
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

/// The folder of a socket path, if it has exactly the shape that browsers give it.
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
