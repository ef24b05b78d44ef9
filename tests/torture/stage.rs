//! The session under torture: its folders, its supervisor, and the faults injected into it. Carries out single actions;
//! `driver` decides which and when.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

use crate::cast::{self, Kind};
use crate::expect::Part;
use crate::harness::{Session, binary, finish, until};
use crate::sight::{self, Process};
use crate::wire::{self, Socket};

/// The state folder, below the session's root.
const STATE: &str = "disk/state";
/// Large enough for the session's files, small enough to be filled quickly.
const DISK_BYTES: usize = 8 << 20;

pub struct Stage {
    session: Session,
    /// The process that we started: the supervisor, or the guard that started it.
    started: Option<Child>,
    small_disk: bool,
    /// The session that runs now, or the next one, is a container: the guard is the first process of a pid namespace.
    pub contained: bool,
    /// The supervisor was left with few descriptors, or none. It cannot answer before it is given some.
    deprived: bool,
    swaps: u32,
}

impl Stage {
    /// With `small_disk`, the state folder is on its own file system. This process must then be root in its own mount
    /// namespace.
    pub fn new(small_disk: bool) -> Self {
        let session = Session::new();
        let state = session.root().join(STATE).display().to_string();
        let session = cast::programs(session).env("KASM_VOID_STATE", &state);
        let mut stage = Stage { session, started: None, small_disk, contained: false, deprived: false, swaps: 0 };
        fs::create_dir(stage.disk()).expect("a folder for the state folder");
        if small_disk {
            let options = format!("size={DISK_BYTES},mode=700");
            let mut mount = Command::new("mount");
            mount.args(["-t", "tmpfs", "-o", &options, "torture"]).arg(stage.disk());
            let mounted = finish(mount);
            assert_eq!(mounted.code, Some(0), "cannot mount a small disk: {mounted:?}");
        }
        fs::create_dir(stage.mounted()).expect("the folder that is mounted");
        symlink("..data/mounted.ron", stage.mounted().join("mounted.ron")).expect("a link to the manifest");
        for kind in cast::all() {
            let part = Part::new(kind);
            stage.write(kind, &kind.manifest(part.edition), How::Plainly);
        }
        stage
    }

    pub fn root(&self) -> &Path {
        self.session.root()
    }

    /// The folder or file system that holds the state folder.
    fn disk(&self) -> PathBuf {
        self.root().join("disk")
    }

    fn state(&self) -> PathBuf {
        self.root().join(STATE)
    }

    pub fn socket(&self) -> Socket {
        let patience = Duration::from_secs(if self.deprived { 1 } else { 20 });
        Socket { path: self.state().join("control.sock"), patience }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    pub fn lines(&self, name: &str) -> Vec<String> {
        self.session.lines(name)
    }

    pub fn data(&self) -> PathBuf {
        self.session.data()
    }

    fn log_file(&self) -> PathBuf {
        self.root().join("supervisor.log")
    }

    fn mounted(&self) -> PathBuf {
        self.root().join("mounted")
    }

    /// Waits until a supervisor answers. Starts one only when neither a supervisor nor a guard is left.
    pub fn revive(&mut self) {
        until("a supervisor answers", || {
            if self.supervising().is_empty() {
                self.close_state_folder();
                self.start();
            }
            wire::ask(&self.socket(), "GET", "/livez").is_ok_and(|(code, _)| code == 200).then_some(())
        });
    }

    /// Does what the refusal of a folder that is open to others asks for. A session that was killed just then has not mended
    /// it.
    fn close_state_folder(&self) {
        let _ = fs::set_permissions(self.state(), fs::Permissions::from_mode(0o700)); // it may have been moved away
    }

    fn start(&mut self) {
        self.forget_ended();
        let log = fs::File::options().create(true).append(true).open(self.log_file()).expect("a log");
        let mut run = self.session.command(if self.contained { "unshare".into() } else { binary() });
        if self.contained {
            run.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"]).arg(binary());
        }
        run.arg("run").arg(self.session.manifests()).arg(self.mounted());
        run.stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.started = Some(run.spawn().expect("the built binary"));
    }

    fn forget_ended(&mut self) {
        if let Some(mut ended) = self.started.take() {
            let _ = ended.kill(); // it may have ended already
            ended.wait().expect("a process of ours");
        }
    }

    /// The supervisor, and its guard if it has one.
    pub fn supervising(&self) -> Vec<Process> {
        let mut found = sight::processes(self.root());
        found.retain(Process::supervises);
        found
    }

    /// The supervisor, and not a forked child that has not called exec yet.
    pub fn supervisor(&self) -> Option<i32> {
        let all = self.supervising();
        let forked = |process: &&Process| all.iter().any(|other| other.guarded && other.pid == process.parent);
        all.iter().filter(|process| process.guarded).find(|process| !forked(process)).map(|process| process.pid)
    }

    pub fn guard(&self) -> Option<i32> {
        self.supervising().into_iter().find(|process| !process.guarded).map(|process| process.pid)
    }

    /// Tries to start a second session on the same state folder. Returns what it said.
    pub fn start_another(&self) -> (Option<i32>, String) {
        let mut run = self.session.command(binary());
        run.arg("run").arg(self.session.manifests());
        let ended = finish(run);
        (ended.code, ended.stderr)
    }

    /// What is wrong with the state folder, when all faults have ended.
    pub fn state_wrong(&self) -> Option<String> {
        let state = self.state();
        let mode = match fs::symlink_metadata(&state) {
            Ok(is) => is.permissions().mode() & 0o7777,
            Err(error) => return Some(format!("the state folder is not there: {error}")),
        };
        let ours = ["lock", "control.sock", "ledger.jsonl", "last-good.jsonl"];
        let missing: Vec<&str> = ours.into_iter().filter(|name| !state.join(name).exists()).collect();
        (mode & 0o077 != 0 || !missing.is_empty()).then(|| format!("mode {mode:o}, and {missing:?} are missing"))
    }

    /// Does to the state folder what cleaners and volumes do.
    pub fn harm_state(&self, harm: Harm) {
        let (state, aside) = (self.state(), self.disk().join("moved"));
        // It may be missing already, or be restored while this goes on.
        let _ = match harm {
            Harm::Delete => fs::remove_dir_all(&state),
            Harm::Move => {
                let _ = fs::remove_dir_all(&aside);
                fs::rename(&state, &aside)
            }
            Harm::Open(mode) => fs::set_permissions(&state, fs::Permissions::from_mode(mode)),
            Harm::DeleteOne(name) => fs::remove_file(state.join(name)),
        };
    }

    pub fn drain(&self) {
        let drained = self.session.cli(&["drain"]);
        assert_eq!(drained.code, Some(0), "drain: {drained:?}");
    }

    /// Drains, and waits until the guard and the supervisor are gone.
    pub fn end(&mut self) {
        self.drain();
        until("the supervisor has ended", || self.supervising().is_empty().then_some(()));
        self.forget_ended();
    }

    pub fn write(&mut self, kind: Kind, text: &str, how: How) {
        if kind == Kind::Mounted {
            return self.swap_folder(text);
        }
        let path = self.manifest(kind);
        let aside = self.root().join("aside");
        match how {
            How::Plainly => fs::write(&path, text).expect("a manifest"),
            How::RenamedOver => {
                fs::write(&aside, text).expect("a manifest");
                fs::rename(&aside, &path).expect("a renamed manifest");
            }
            How::InPieces => {
                let mut file = fs::File::create(&path).expect("a manifest");
                for piece in text.as_bytes().chunks(1 + text.len() / 3) {
                    file.write_all(piece).expect("a piece of a manifest");
                    file.sync_data().expect("a piece on disk");
                }
            }
        }
    }

    pub fn remove(&mut self, kind: Kind) {
        let _ = fs::remove_file(self.manifest(kind)); // it may be gone already
    }

    fn manifest(&self, kind: Kind) -> PathBuf {
        self.session.manifests().join(format!("{}.ron", kind.name()))
    }

    /// Updates the folder like the kubelet: writes a new folder beside the old one, then renames once.
    fn swap_folder(&mut self, text: &str) {
        let version = |number: u32| format!("..v{number}");
        let (old, new) = (version(self.swaps), version(self.swaps + 1));
        self.swaps += 1;
        let folder = self.mounted().join(&new);
        fs::create_dir(&folder).expect("a new version's folder");
        fs::write(folder.join("mounted.ron"), text).expect("the new version");
        symlink(&new, self.mounted().join("..new")).expect("a link to the new version");
        fs::rename(self.mounted().join("..new"), self.mounted().join("..data")).expect("the swap");
        let _ = fs::remove_dir_all(self.mounted().join(&old)); // there is none before the first
    }

    /// Fills the disk of the state folder. Without its own disk, makes the folder of the logs unwritable instead.
    pub fn fill_disk(&self) {
        match self.small_disk {
            true => {
                let mut filler = fs::File::create(self.filler()).expect("room for a name");
                while filler.write_all(&[0; 64 << 10]).is_ok() {}
            }
            false => self.set_logs_mode(0o500),
        }
    }

    pub fn free_disk(&self) {
        match self.small_disk {
            true => drop(fs::remove_file(self.filler())), // the disk may be free already
            false => self.set_logs_mode(0o700),
        }
    }

    fn filler(&self) -> PathBuf {
        self.disk().join("filler")
    }

    fn set_logs_mode(&self, mode: u32) {
        // The folder does not exist before the first line is logged.
        let _ = fs::set_permissions(self.state().join("logs"), fs::Permissions::from_mode(mode));
    }

    /// Limits the supervisor to `spare` more descriptors: 0 is none, `None` removes the limit.
    pub fn limit_descriptors(&mut self, spare: Option<u64>) {
        self.deprived = spare.is_some();
        let Some(pid) = self.supervisor() else { return };
        let maximum = getrlimit(Resource::Nofile).maximum;
        let current = match spare {
            None => maximum,
            // The limit applies to the number of a new descriptor, and no number below 3 is ever free.
            Some(0) => Some(3),
            Some(spare) => Some(sight::descriptors(pid) as u64 + spare),
        };
        if let Some(pid) = Pid::from_raw(pid) {
            let _ = prlimit(Some(pid), Resource::Nofile, Rlimit { current, maximum }); // it may have died meanwhile
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for process in sight::processes(self.root()) {
            signal(process.pid, Signal::KILL);
        }
        self.forget_ended();
        if self.small_disk {
            let mut unmount = Command::new("umount");
            unmount.arg("--lazy").arg(self.disk());
            finish(unmount);
        }
    }
}

/// What happens to the state folder.
#[derive(Debug, Clone, Copy)]
pub enum Harm {
    Delete,
    Move,
    /// Its mode becomes this.
    Open(u32),
    DeleteOne(&'static str),
}

/// The ways to write a manifest.
#[derive(Debug, Clone, Copy)]
pub enum How {
    Plainly,
    RenamedOver,
    InPieces,
}

/// Signals a process, which may be gone.
pub fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}
