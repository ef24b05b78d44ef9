//! The state folder: where it is, that it is ours alone, and the lock that makes us the only one in it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::fs::{FlockOperation, flock};

use crate::host::proc;

/// What supervisors write down for one another, in the state folder.
pub const LEDGER: &str = "ledger.jsonl";

/// Held as long as the supervisor lives; the kernel lets go of it when the process ends, however it ends.
pub struct StateFolder {
    pub path: PathBuf,
    lock: OwnedFd,
}

/// `$KASM_VOID_STATE`, else `$XDG_RUNTIME_DIR/kasm-void`, else `/tmp/kasm-void-<uid>`.
pub fn default_path() -> PathBuf {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    named("KASM_VOID_STATE")
        .or_else(|| named("XDG_RUNTIME_DIR").map(|folder| folder.join("kasm-void")))
        .unwrap_or_else(|| format!("/tmp/kasm-void-{}", rustix::process::getuid().as_raw()).into())
}

impl StateFolder {
    /// Makes the folder if need be, and takes it for this process.
    pub fn take(path: &Path) -> anyhow::Result<StateFolder> {
        let path = ours_alone(path)?;
        let lock = take_lock(&path.join("lock"), &path)?;
        Ok(StateFolder { path, lock: lock.into() })
    }

    /// Whether somebody holds the lock of the folder at `path`.
    pub fn is_taken(path: &Path) -> bool {
        let Ok(lock) = File::open(path.join("lock")) else { return false };
        flock(&lock, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
    }

    /// The folder for a process whose guard holds the lock.
    pub fn given(path: &Path) -> anyhow::Result<PathBuf> {
        ours_alone(path)
    }

    pub fn into_lock(self) -> OwnedFd {
        self.lock
    }
}

/// The folder's own path, once it is sure that nobody else can enter it.
fn ours_alone(path: &Path) -> anyhow::Result<PathBuf> {
    let said = path.display();
    let uid = rustix::process::getuid().as_raw();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the state folder {said}"))?;
    // In /tmp anybody could have laid a link to a folder of ours.
    let link = path.symlink_metadata().with_context(|| format!("cannot look at the state folder {said}"))?;
    ensure!(!link.is_symlink(), "the state folder {said} is a link: name the folder itself with --state");
    let path = path.canonicalize().with_context(|| format!("cannot reach the state folder {said}"))?;
    let found = path.symlink_metadata().with_context(|| format!("cannot look at the state folder {said}"))?;
    ensure!(
        found.uid() == uid,
        "the state folder {said} belongs to user {}, and we are user {uid}: name another with --state or KASM_VOID_STATE",
        found.uid()
    );
    ensure!(
        found.mode() & 0o077 == 0,
        "the state folder {said} is open to other users (mode {:o}): `chmod 700 {said}`, or name another with --state",
        found.mode() & 0o777
    );
    Ok(path)
}

/// How long a dying supervisor may take to let go of the lock: the kernel first tears down all its threads.
const LETTING_GO: Duration = Duration::from_secs(2);

fn take_lock(file: &Path, folder: &Path) -> anyhow::Result<File> {
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(file);
    let mut lock = open.with_context(|| format!("cannot open {}", file.display()))?;
    let patience = Instant::now() + LETTING_GO;
    while let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(error).with_context(|| format!("cannot lock {}", file.display()));
        }
        let holder = fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
        let alive = |pid: &i32| proc::process(*pid).is_some_and(|process| !process.zombie);
        match holder.filter(alive) {
            None if Instant::now() < patience => std::thread::sleep(Duration::from_millis(5)),
            holder => bail!(
                "another supervisor{} is running on the state folder {}: stop it with `kasm-void drain`, or name another folder with --state",
                holder.map_or_else(String::new, |pid| format!(" (pid {pid})")),
                folder.display()
            ),
        }
    }
    // Only a help for the message above; the lock is what counts.
    let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_second_of_two_is_told_who_the_first_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/state");
        let first = StateFolder::take(&path).unwrap();
        let error = StateFolder::take(&path).err().unwrap().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())) && error.contains("kasm-void drain"), "{error}");
        drop(first);
        StateFolder::take(&path).unwrap();
    }

    #[test]
    fn a_folder_that_others_can_enter_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = StateFolder::take(folder.path()).err().unwrap().to_string();
        assert!(error.contains("chmod 700"), "{error}");
    }

    #[test]
    fn a_file_in_its_place_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state");
        std::fs::write(&file, "").unwrap();
        assert!(format!("{:#}", StateFolder::take(&file).err().unwrap()).contains(&*file.to_string_lossy()));
    }
}
