//! `ClearLocks`: the locks a browser leaves in its profile. Owns how a lock names its owner, and what makes
//! it stale; whether a live process is the app is the caller's word.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags};
use rustix::io::Errno;

use super::tree::Folder;
use super::{Around, Done, cannot};

const LOCK: &str = "SingletonLock";
const SOCKET: &str = "SingletonSocket";
const COOKIE: &str = "SingletonCookie";

/// The folder that holds the socket is made with this name and six letters or digits more.
const SOCKET_FOLDER: &str = "org.chromium.Chromium.";

pub(super) fn clear_locks(dir: &Path, around: &Around) -> Done {
    let what = || format!("clear the locks of `{}`", dir.display());
    let profile = match Folder::open(dir) {
        Ok(profile) => profile,
        Err(Errno::NOENT) => return Ok(String::new()),
        Err(error) => return Err(cannot(what(), error)),
    };
    let owner = profile.link(OsStr::new(LOCK)).map_err(|error| cannot(what(), error))?;
    let stale = match judge(owner.as_deref(), around) {
        Verdict::Held(pid) => return Ok(format!("kept the locks of `{}`: pid {pid} holds them", dir.display())),
        Verdict::Stale(why) => why,
    };
    let socket = profile.link(OsStr::new(SOCKET)).map_err(|error| cannot(what(), error))?;
    let mut removed = false;
    // The lock goes last: until then nobody else can put new ones in place.
    for name in [SOCKET, COOKIE, LOCK] {
        removed |= take(&profile, name)?;
    }
    if let Some(socket) = socket {
        remove_socket_folder(&socket);
    }
    Ok(if removed { format!("removed the stale locks of `{}` ({stale})", dir.display()) } else { String::new() })
}

enum Verdict {
    /// By this live process of the app.
    Held(i32),
    /// And why.
    Stale(String),
}

/// `owner`: what the lock points to, `HOST-PID`. A host name may hold a `-` itself.
fn judge(owner: Option<&Path>, around: &Around) -> Verdict {
    let Some(owner) = owner else { return Verdict::Stale("nobody holds them".into()) };
    let owner = owner.to_string_lossy();
    let Some((host, pid)) = owner.rsplit_once('-') else {
        return Verdict::Stale(format!("`{owner}` names no owner"));
    };
    if host != around.hostname {
        return Verdict::Stale(format!("left on host `{host}`"));
    }
    match pid.parse() {
        Ok(pid) if pid > 0 && (around.alive)(pid) => Verdict::Held(pid),
        Ok(pid) if pid > 0 => Verdict::Stale(format!("pid {pid} is gone or another program")),
        _ => Verdict::Stale(format!("`{owner}` names no owner")),
    }
}

fn take(profile: &Folder, name: &str) -> Result<bool, String> {
    match fs::unlinkat(&profile.fd, name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(cannot(format!("remove `{}`", profile.path.join(name).display()), error)),
    }
}

/// One such folder is left by each unclean exit. Only what the browser put there goes, so a folder that
/// holds more stays. Best effort: the app starts all the same.
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
