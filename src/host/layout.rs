//! The state folder: its path, every name in it, its permissions, and the lock that makes us its only user. No other
//! module builds paths into the folder.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::fs::{FlockOperation, flock};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::host::{proc, socket};

/// A `flock` held by the guard and its supervisor, so that no other session runs on the folder.
const LOCK: &str = "lock";
/// The control socket, bound by the supervisor.
const CONTROL_SOCKET: &str = "control.sock";
/// The launcher's socket for our own user, bound by the launcher.
const LAUNCHER_SOCKET: &str = "launcher.sock";
/// The state that one supervisor leaves for the next.
const LEDGER: &str = "ledger.jsonl";
/// Copies of the last good version of each manifest.
const LAST_GOOD: &str = "last-good.jsonl";
/// The progress of each log file.
const CHECKPOINT: &str = "checkpoint";
/// Log files of apps whose manifest names none.
const LOGS: &str = "logs";

pub fn control_socket(state: &Path) -> PathBuf {
    state.join(CONTROL_SOCKET)
}

pub fn launcher_socket(state: &Path) -> PathBuf {
    state.join(LAUNCHER_SOCKET)
}

pub fn ledger(state: &Path) -> PathBuf {
    state.join(LEDGER)
}

/// The copies of all manifests.
pub fn last_good(state: &Path) -> PathBuf {
    state.join(LAST_GOOD)
}

pub fn checkpoint(state: &Path) -> PathBuf {
    state.join(CHECKPOINT)
}

/// The log file of one app.
pub fn log(state: &Path, app: &str) -> PathBuf {
    state.join(LOGS).join(format!("{app}.log"))
}

/// A locked state folder. The kernel releases the lock when the process ends, however it ends.
pub struct StateFolder {
    lock: OwnedFd,
    name: Option<OwnedFd>,
}

/// The folder in `$KASM_VOID_STATE`, else [`usual_path`].
pub fn default_path() -> PathBuf {
    named(STATE).unwrap_or_else(usual_path)
}

/// `$XDG_RUNTIME_DIR/kasm-void`, else `/tmp/kasm-void-<uid>`.
pub fn usual_path() -> PathBuf {
    usual_paths(named("XDG_RUNTIME_DIR"), rustix::process::getuid().as_raw()).remove(0)
}

/// The folder of the session to ask: [`default_path`], unless no supervisor is there, but one is at another usual place.
/// Shells of `su`, cron and `docker exec` often lack the variables that the session was started with.
pub fn session_path() -> PathBuf {
    let usual = usual_paths(named("XDG_RUNTIME_DIR"), rustix::process::getuid().as_raw());
    let answers = |folder: &PathBuf| socket::answers(&socket::connect(&control_socket(folder)));
    named(STATE).unwrap_or_else(|| first_that(answers, usual))
}

/// Names the state folder, for supervisors and clients alike.
const STATE: &str = "KASM_VOID_STATE";

/// A folder named by a variable; an empty variable names none.
fn named(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The places where sessions of a user usually are, the default first.
fn usual_paths(runtime: Option<PathBuf>, uid: u32) -> Vec<PathBuf> {
    let places = [PathBuf::from(format!("/tmp/kasm-void-{uid}")), format!("/run/user/{uid}/kasm-void").into()];
    runtime.map(|folder| folder.join("kasm-void")).into_iter().chain(places).collect()
}

/// The first place that is as wanted, else the first of all.
fn first_that(is_wanted: impl Fn(&PathBuf) -> bool, mut places: Vec<PathBuf>) -> PathBuf {
    let found = places.iter().position(is_wanted).unwrap_or(0);
    places.swap_remove(found)
}

impl StateFolder {
    /// Creates the folder if it is missing, and locks it for this process.
    pub fn take(path: &Path) -> anyhow::Result<StateFolder> {
        let path = ours_alone(path)?;
        let lock = take_lock(&path.join(LOCK), &path)?;
        let name = take_name(&path)?;
        Ok(StateFolder { lock: lock.into(), name })
    }

    /// Whether any process holds the lock of the folder at `path`.
    pub fn is_taken(path: &Path) -> bool {
        let Ok(lock) = File::open(path.join(LOCK)) else { return false };
        flock(&lock, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
    }

    /// The lock and the name, for which see [`take_name`].
    pub fn into_lock(self) -> (OwnedFd, Option<OwnedFd>) {
        (self.lock, self.name)
    }
}

/// Creates the folder if it is missing, checks that other users cannot enter it, and returns its canonical path.
fn ours_alone(path: &Path) -> anyhow::Result<PathBuf> {
    let found = made(path)?;
    let said = path.display();
    ensure!(
        found.mode() & 0o077 == 0,
        "the state folder {said} is open to other users (mode {:o}): `chmod 700 {said}`, or name another with --state",
        found.mode() & 0o777
    );
    path.canonicalize().with_context(|| format!("cannot reach the state folder {said}"))
}

/// Creates the folder if it is missing. Checks that it is ours and not a link.
fn made(path: &Path) -> anyhow::Result<fs::Metadata> {
    let said = path.display();
    let uid = rustix::process::getuid().as_raw();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot create the state folder {said}"))?;
    // In /tmp, any user could have placed a link to one of our folders.
    let link = path.symlink_metadata().with_context(|| format!("cannot look at the state folder {said}"))?;
    ensure!(!link.is_symlink(), "the state folder {said} is a link: name the folder itself with --state");
    ensure!(
        link.uid() == uid,
        "the state folder {said} belongs to user {}, not to user {uid}: name another with --state or KASM_VOID_STATE",
        link.uid()
    );
    Ok(link)
}

/// Repairs of the folder of a running session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mended {
    Nothing,
    /// It was missing and was created.
    Made,
    /// Other users could enter it; its mode was changed.
    Closed,
}

/// Makes the folder of a running session usable again.
///
/// # Errors
/// Something else is in its place, or it belongs to another user.
pub fn mend(path: &Path) -> anyhow::Result<Mended> {
    let was_there = path.symlink_metadata().is_ok();
    let there = made(path)?;
    if !was_there {
        return Ok(Mended::Made);
    }
    if there.mode() & 0o077 == 0 {
        return Ok(Mended::Nothing);
    }
    let said = path.display();
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .with_context(|| format!("cannot change the mode of {said}"))?;
    Ok(Mended::Closed)
}

/// The folder's canonical path, or its absolute path if it does not exist.
pub fn resolved(path: &Path) -> PathBuf {
    path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.into())
}

/// Takes a new lock if the one `held` is no longer the lock file in the folder.
pub fn lock_again(path: &Path, held: &OwnedFd) -> anyhow::Result<Option<OwnedFd>> {
    let file = path.join(LOCK);
    let held = rustix::fs::fstat(held).context("cannot look at the lock that is held")?;
    if fs::symlink_metadata(&file).is_ok_and(|there| (there.dev(), there.ino()) == (held.st_dev, held.st_ino)) {
        return Ok(None);
    }
    Ok(Some(take_lock(&file, path)?.into()))
}

/// How long to wait for a dying supervisor to release the lock: the kernel first ends all its threads.
const LETTING_GO: Duration = Duration::from_secs(2);

fn take_lock(file: &Path, folder: &Path) -> anyhow::Result<File> {
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(file);
    let mut lock = open.with_context(|| format!("cannot open {}", file.display()))?;
    let patience = Instant::now() + LETTING_GO;
    while let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(error).with_context(|| format!("cannot lock {}", file.display()));
        }
        match holder(file) {
            Some(Holder::Here(pid)) if is_alive(pid) => return Err(taken(Some(Holder::Here(pid)), folder)),
            _ if Instant::now() < patience => std::thread::sleep(Duration::from_millis(5)),
            holder => return Err(taken(holder.filter(|holder| *holder == Holder::Elsewhere), folder)),
        }
    }
    // This is only for the error message above; the lock is what counts.
    let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{} {}", std::process::id(), pid_namespace()));
    Ok(lock)
}

/// The holder of a lock, as the lock file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    Here(i32),
    /// A process in another container, where pids mean something else.
    Elsewhere,
}

fn holder(file: &Path) -> Option<Holder> {
    let text = fs::read_to_string(file).ok()?;
    let (pid, namespace) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    let pid = pid.parse().ok()?;
    Some(if namespace.is_empty() || namespace == pid_namespace() { Holder::Here(pid) } else { Holder::Elsewhere })
}

fn pid_namespace() -> String {
    fs::read_link("/proc/self/ns/pid").map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Takes the folder a second time, through an abstract socket name that has no file. If the folder is deleted, its lock
/// file goes too, and until it is restored another session could start there. The name prevents that. Returns `None` if
/// the name is not available; then the lock alone must do.
///
/// # Errors
/// Another supervisor of our user has the name.
pub fn take_name(path: &Path) -> anyhow::Result<Option<OwnedFd>> {
    let name = name_of(path);
    let patience = Instant::now() + LETTING_GO;
    loop {
        match bind(&name) {
            Ok(socket) => return Ok(Some(socket)),
            Err(rustix::io::Errno::ADDRINUSE) => {}
            Err(_) => return Ok(None),
        }
        let holder = socket::connect_abstract(&name).and_then(|holder| Ok(socket_peercred(&holder)?));
        match holder {
            // Any other user may have taken the name.
            Ok(holder) if holder.uid != rustix::process::getuid() => return Ok(None),
            // It has just let go, or is about to.
            Ok(holder) if is_alive(holder.pid.as_raw_nonzero().get()) => {
                return Err(taken(Some(Holder::Here(holder.pid.as_raw_nonzero().get())), path));
            }
            _ if Instant::now() >= patience => return Err(taken(None, path)),
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// The abstract name for a folder. Equal for two processes only if they mean the same folder: an abstract name is
/// visible in the whole network namespace, which containers may share.
fn name_of(path: &Path) -> Vec<u8> {
    let namespace = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap_or_default();
    let uid = rustix::process::getuid().as_raw();
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one((namespace("pid"), namespace("mnt"), path));
    format!("kasm-void/{uid}/{hash:016x}").into_bytes()
}

fn bind(name: &[u8]) -> Result<OwnedFd, rustix::io::Errno> {
    let address = SocketAddrUnix::new_abstract_name(name)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, 8)?; // never accepted: a client only reads our credentials
    Ok(socket)
}

fn is_alive(pid: i32) -> bool {
    proc::process(pid).is_some_and(|entry| !entry.zombie)
}

fn taken(holder: Option<Holder>, folder: &Path) -> anyhow::Error {
    let who = match holder {
        Some(Holder::Here(pid)) => format!(" (pid {pid})"),
        Some(Holder::Elsewhere) => " (in another container)".into(),
        None => String::new(),
    };
    anyhow::anyhow!(
        "another supervisor{who} is running on the state folder {}: stop it with `kasm-void drain`, or name another folder with --state",
        folder.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_found_at_the_other_usual_places() {
        let usual = |runtime: Option<&str>| usual_paths(runtime.map(PathBuf::from), 7);
        let asked = |runtime, there: &str| first_that(|place| place == Path::new(there), usual(runtime));
        assert_eq!(asked(None, "nowhere"), Path::new("/tmp/kasm-void-7"), "the default, if there is none at all");
        assert_eq!(asked(Some("/run/x"), "nowhere"), Path::new("/run/x/kasm-void"));
        for there in ["/tmp/kasm-void-7", "/run/user/7/kasm-void"] {
            assert_eq!(asked(None, there), Path::new(there));
            assert_eq!(asked(Some("/run/x"), there), Path::new(there), "a shell with another runtime folder");
        }
    }

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
    fn the_second_is_not_let_in_when_somebody_has_deleted_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let first = StateFolder::take(&path).unwrap();
        fs::remove_dir_all(&path).unwrap();
        let error = StateFolder::take(&path).err().unwrap().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
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
