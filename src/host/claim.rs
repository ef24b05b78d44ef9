//! Claims: one app at a time uses a browser profile, even when several containers share the home. The browser's own lock
//! cannot say that: it names a host and a pid, and nobody can know whether that host still runs.
//!
//! A claim is a `flock` on a file in the profile. The app itself inherits the locked descriptor, so the claim lives
//! exactly as long as the app does, whatever becomes of its supervisor, and the kernel ends it with a killed container.
//! It works between all containers that have the same disk mounted. On NFS it works between hosts if the mount passes
//! locks on (not with `nolock` or `local_lock=flock`); a file system without locks gives no protection.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// The file in the profile. It stays there; only the lock on it counts.
const FILE: &str = "kasm-void.lock";

/// Longest host name that is read, in bytes.
const LONGEST: u64 = 256;

/// The holder of a claim: the name of its host, as it was when the claim was made. Empty if it is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder(pub String);

/// Claims the profile for as long as the descriptor, or a copy of it, is open. `None` if the folder does not exist, or
/// if its file system has no locks.
///
/// # Errors
/// Another app has claimed it.
pub fn take(profile: &Path) -> Result<Option<OwnedFd>, Holder> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    // If the profile may not be written to, the browser will say so.
    let Ok(file) = options.open(path(profile)) else { return Ok(None) };
    let claimed = lock(&file)?.then_some(file);
    if let Some(mut file) = claimed.as_ref() {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{host}")); // only for people
    }
    Ok(claimed.map(OwnedFd::from))
}

/// Like [`take`], but creates and writes nothing: for a look at a profile that its app does not use yet.
///
/// # Errors
/// Another app has claimed it.
pub fn take_if_there(profile: &Path) -> Result<Option<OwnedFd>, Holder> {
    let Ok(file) = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path(profile)) else {
        return Ok(None);
    };
    Ok(lock(&file)?.then(|| file.into()))
}

/// Why a profile cannot be used, and the way out.
pub fn in_use(profile: &Path, Holder(host): &Holder) -> String {
    let ours = rustix::system::uname().nodename().to_string_lossy() == host.as_str();
    let (by, way_out) = match host.as_str() {
        "" => ("another session".into(), "stop it there"),
        _ if ours => ("another session on this host".into(), "stop it there"),
        host => (format!("the session on host `{host}`"), "stop that container"),
    };
    format!(
        "the profile `{}` is in use by {by}, and two browsers would destroy it: {way_out}, or use another profile",
        profile.display()
    )
}

fn path(profile: &Path) -> PathBuf {
    profile.join(FILE)
}

/// Whether the file is locked now. `false` if its file system has no locks.
fn lock(file: &File) -> Result<bool, Holder> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => {
            let mut host = String::new();
            let _ = file.take(LONGEST).read_to_string(&mut host); // without it, the holder has no name
            Err(Holder(host.trim().into()))
        }
        Err(_) => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_profile_is_claimed_by_one_at_a_time_until_the_last_copy_is_closed() {
        let profile = tempfile::tempdir().unwrap();
        let first = take(profile.path()).unwrap().unwrap();
        let copy = first.try_clone().unwrap();
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        assert_eq!(take(profile.path()).unwrap_err(), Holder(host));
        assert!(take_if_there(profile.path()).is_err());
        drop(first);
        assert!(take(profile.path()).is_err(), "the app has inherited a copy");
        drop(copy);
        assert!(take_if_there(profile.path()).unwrap().is_some());
        assert!(take(profile.path()).unwrap().is_some());
    }

    #[test]
    fn a_look_leaves_nothing_behind_and_a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        assert!(take_if_there(folder.path()).unwrap().is_none());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(take(&folder.path().join("none")).unwrap().is_none());
        fs::write(folder.path().join("precious"), "mine").unwrap();
        std::os::unix::fs::symlink("precious", folder.path().join(FILE)).unwrap();
        assert!(take(folder.path()).unwrap().is_none());
        assert_eq!(fs::read_to_string(folder.path().join("precious")).unwrap(), "mine");
    }

    #[test]
    fn people_are_told_who_has_it() {
        let said = in_use(Path::new("/p"), &Holder("pod-a".into()));
        assert!(said.contains("host `pod-a`") && said.contains("stop that container"), "{said}");
        assert!(in_use(Path::new("/p"), &Holder(String::new())).contains("another session"));
    }
}
