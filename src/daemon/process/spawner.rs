//! Starts programs: an app's own, and the commands of its hooks. Owns the environment and the descriptors they inherit.
//! Must not decide when something is started.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Access, AtFlags, CWD};
use rustix::io::{DupFlags, Errno, dup3};

use crate::host::accounts;
use crate::host::claim;
use crate::host::marks;
use crate::host::null;
use crate::host::privacy::{self, OomScore};
use crate::host::proc::Pid;
use crate::host::sys::{self, SpawnStep, Starting};
use crate::model::accounts::RunAs;
use crate::model::app::App;
use crate::model::loading::surroundings::{DEFAULT_PATH, on_path};
use crate::model::manifest::hook::{Locks, Step};
use crate::model::manifest::rlimits::Rlimit;
use crate::model::tree::Place;

/// Our own limits, which programs do not simply inherit.
pub struct OwnLimits {
    /// The soft limit of open files for programs, if ours was raised.
    pub open_files: Option<u64>,
    /// `None` without `/proc`.
    pub oom_score: Option<OomScore>,
}

/// The most programs that are started at the same time, if there are as many processors.
const AT_ONCE: usize = 4;

pub(super) struct Spawner {
    /// The variables that apps inherit from us, by name, each as `NAME=value`.
    environment: Vec<(String, Arc<CStr>)>,
    home: PathBuf,
    null: File,
    /// Low numbers, under which children find the pipes of their output: see [`sys::Child::output`]. As many programs can be
    /// started at the same time.
    slots: RefCell<Vec<OwnedFd>>,
    own: OwnLimits,
}

/// A program that is being started.
struct Begun<'a> {
    program: &'a NewProcess<'a>,
    starting: Starting<'a>,
    /// The program gets them, so they must not be closed before.
    _claims: Vec<OwnedFd>,
}

/// The program of this process, whatever its file is by now.
const OURSELVES: &CStr = c"/proc/self/exe";
/// The variable with the kind of a terminal, and the kind that a log and its readers understand most of.
const TERM: &str = "TERM";
const KIND: &str = "xterm-256color";

/// One program to start.
pub struct NewProcess<'a> {
    pub app: &'a App,
    pub run: u64,
    pub argv: &'a [String],
    /// True for the command of a hook or probe, false for the app itself.
    pub hook: bool,
    pub output: BorrowedFd<'a>,
}

impl<'a> NewProcess<'a> {
    /// The app's own program.
    pub fn of(app: &'a App, run: u64, output: BorrowedFd<'a>) -> Self {
        NewProcess { app, run, argv: &app.program.argv, hook: false, output }
    }
}

impl Spawner {
    pub fn new(home: &Path, own: OwnLimits) -> io::Result<Self> {
        let inherited = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok().filter(|name| !marks::ALL.contains(&name.as_str()))?;
            let mut entry = name.clone().into_bytes();
            entry.push(b'=');
            entry.extend(value.into_vec());
            Some((name, CString::new(entry).ok()?.into()))
        });
        let null = null::open()?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        // One is necessary. With a very low limit of open files, there may be no more.
        let more = (1..processors.min(AT_ONCE)).map_while(|_| null.as_fd().try_clone_to_owned().ok());
        let slots = [null.as_fd().try_clone_to_owned()?].into_iter().chain(more).collect();
        Ok(Spawner { environment: inherited.collect(), home: home.into(), null, slots: RefCell::new(slots), own })
    }

    /// Starts the program and returns once it has called exec. The error says what failed and why.
    pub fn start(&self, program: &NewProcess<'_>, place: &Place) -> Result<Pid, String> {
        let start = || self.begin(program, place).and_then(|begun| self.end(begun));
        match program.app.program.oom_score_adj {
            None => start(),
            Some(score) => self.with_score(score, start).flatten(),
        }
    }

    /// Starts the programs, several at the same time, and returns once all have called exec. The results are in the order
    /// of the programs. An error says what failed and why.
    pub fn start_all(&self, programs: &[NewProcess<'_>], place: &Place) -> Vec<Result<Pid, String>> {
        let mut started = BTreeMap::new();
        let mut under_way = VecDeque::new();
        for (at, program) in programs.iter().enumerate() {
            // A score that we set for ourselves is set for every child that still uses our memory too.
            let alone = program.app.program.oom_score_adj.is_some();
            while alone || self.slots.borrow().is_empty() {
                let Some((at, begun)) = under_way.pop_front() else { break };
                started.insert(at, self.end(begun));
            }
            if alone {
                started.insert(at, self.start(program, place));
                continue;
            }
            match self.begin(program, place) {
                Ok(begun) => under_way.push_back((at, begun)),
                Err(why) => drop(started.insert(at, Err(why))),
            }
        }
        started.extend(under_way.into_iter().map(|(at, begun)| (at, self.end(begun))));
        started.into_values().collect()
    }

    fn begin<'a>(&'a self, program: &'a NewProcess<'_>, place: &Place) -> Result<Begun<'a>, String> {
        let NewProcess { app, run, argv, hook, output } = program;
        let user = run_as(app)?;
        let on_terminal = app.program.pty && !hook;
        let mut words: Vec<CString> = argv.iter().map(|word| text(word)).collect();
        let mut file = program_file(app, &argv[0]);
        if on_terminal {
            // Its leader is our own program, so that a program that cannot be started would only show in its output.
            let another = user.as_ref().filter(|user| is_another(user));
            if !as_user(another, || Ok(is_executable_now(Path::new(&argv[0]))))? {
                return Err(format!("`{}` does not exist, or may not be executed by this user", argv[0]));
            }
            file = OURSELVES.into();
            words.splice(0..0, [c"kasm-void", c"pty", c"--"].map(CString::from));
        }
        let mut added: Vec<CString> =
            marks::entries(&app.name, *run, *hook, place).iter().map(|one| text(one)).collect();
        added.extend(app.program.env.iter().map(|(name, value)| text(&format!("{name}={value}"))));
        let of_user = user.iter().flat_map(|user| &user.variables);
        let of_user: Vec<_> = of_user.filter(|(name, _)| !app.program.env.contains_key(*name)).collect();
        added.extend(of_user.iter().map(|(name, value)| text(&format!("{name}={value}"))));
        if on_terminal && !app.program.env.contains_key(TERM) {
            added.push(text(&format!("{TERM}={KIND}")));
        }
        let is_replaced = |name: &str| of_user.iter().any(|(own, _)| *own == name) || on_terminal && name == TERM;
        let kept = |name: &String| {
            !app.program.env.contains_key(name) && !app.program.env_hidden.contains(name) && !is_replaced(name)
        };
        let inherited = self.environment.iter().filter(|(name, _)| kept(name)).map(|(_, entry)| entry.clone());
        let environment: Vec<Arc<CStr>> = inherited.chain(added.into_iter().map(Arc::from)).collect();
        let cwd =
            app.program.cwd.as_deref().map(|folder| CString::new(folder.as_os_str().as_bytes()).unwrap_or_default());
        let home = user.as_ref().map_or(self.home.as_path(), |user| Path::new(&user.home));
        // Many users of services have a home that does not exist, and so do those of many containers.
        let home = if home.is_dir() { home } else { Path::new("/") };
        let home = CString::new(home.as_os_str().as_bytes()).unwrap_or_default();
        let user = user.filter(is_another);
        let claims = if *hook { Vec::new() } else { as_user(user.as_ref(), || claims(app))? };
        let limits = app.program.rlimits.iter();
        let limit = |value: Option<u64>| value.unwrap_or(libc::RLIM_INFINITY);
        let rlimits: Vec<_> = limits.map(|(what, Rlimit { soft, hard })| (*what, limit(*soft), limit(*hard))).collect();
        let mut kept = inherited_by_name(&environment);
        kept.extend(claims.iter().map(AsRawFd::as_raw_fd));
        let Some(mut slot) = self.slots.borrow_mut().pop() else {
            return Err("no descriptor for its output".into()); // does not happen: each start gives its own back
        };
        if let Err(error) = dup3(output, &mut slot, DupFlags::CLOEXEC) {
            self.slots.borrow_mut().push(slot);
            return Err(format!("no pipe for its output: {error}"));
        }
        let child = sys::Child {
            program: file,
            argv: words,
            env: environment,
            cwd: Some(cwd.unwrap_or(home)),
            stdin: self.null.as_fd(),
            output: slot,
            nice: app.program.nice,
            open_files: self.own.open_files,
            rlimits,
            umask: app.program.umask,
            user,
            kept,
        };
        Ok(Begun { program, starting: sys::begin(child), _claims: claims })
    }

    fn end(
        &self,
        Begun { program: NewProcess { app, argv, .. }, starting, _claims }: Begun<'_>,
    ) -> Result<Pid, String> {
        let (pid, sys::Child { output: mut slot, user, .. }) = starting.end();
        if user.is_some() {
            privacy::hide(); // the kernel reset that for the memory that the child shared with us
        }
        // The slot must not keep the pipe of a hook open.
        let _ = dup3(&self.null, &mut slot, DupFlags::CLOEXEC);
        self.slots.borrow_mut().push(slot);
        pid.map_err(|why| explain(app, &argv[0], why))
    }

    fn with_score<T>(&self, score: i32, start: impl FnOnce() -> T) -> Result<T, String> {
        let no_proc = || io::Error::new(io::ErrorKind::NotFound, "/proc/self/oom_score_adj cannot be opened");
        let done = self.own.oom_score.as_ref().ok_or_else(no_proc).and_then(|own| own.during(score, start));
        done.map_err(|error| format!("oom score: {error} (`limits.oom_score_adj`: only root may lower it)"))
    }
}

/// The user that the app runs as; `None` if its manifest names none.
fn run_as(app: &App) -> Result<Option<RunAs>, String> {
    let run_as = |user: &String| accounts::run_as(user, app.program.group.as_deref());
    app.program.user.as_ref().map(run_as).transpose().map_err(|why| format!("{why} (`user`)"))
}

/// Whether this is not simply who we are. Root has groups of its own to drop.
fn is_another(user: &RunAs) -> bool {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    uid.is_root() || (user.uid, user.gid) != (uid.as_raw(), gid.as_raw())
}

fn as_user<T>(user: Option<&RunAs>, act: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let Some(user) = user else { return act() };
    let done = sys::with_files_of(user, act);
    privacy::hide(); // the kernel resets that with every change of the user
    done.map_err(|error| format!("cannot act as uid {}: {error} (`user`: only root can)", user.uid))?
}

/// Calls `act`, on this thread, with the rights over files of the user that the app runs as, and with that user's home
/// folder. Without a user in its manifest, `act` is called with `None`.
///
/// # Errors
/// There is no such user, or we may not act as that user; and those of `act`.
pub fn as_user_of<T>(app: &App, act: impl FnOnce(Option<&Path>) -> Result<T, String>) -> Result<T, String> {
    let user = run_as(app)?;
    let home = user.as_ref().map(|user| PathBuf::from(&user.home));
    as_user(user.filter(is_another).as_ref(), || act(home.as_deref()))
}

/// Claims the profiles that the app's hooks clear the locks of. The app itself holds the claims, for as long as it lives.
fn claims(app: &App) -> Result<Vec<OwnedFd>, String> {
    let profiles = app.hooks.prelaunch.iter().filter_map(|hook| match &hook.step {
        Step::ClearLocks { locks: Locks::Profile { dir, .. } } => Some(dir),
        _ => None,
    });
    let claimed = profiles.map(|dir| claim::take(dir).map_err(|holder| claim::in_use(dir, &holder)));
    claimed.filter_map(Result::transpose).collect()
}

/// The descriptors that the variables name as `/proc/self/fd/N` or `/dev/fd/N`, if they were passed to us for that. So a
/// secret can be handed through us to the one app that gets its variable.
fn inherited_by_name(environment: &[Arc<CStr>]) -> Vec<RawFd> {
    let named = environment.iter().filter_map(|entry| {
        let (_, value) = entry.to_str().ok()?.split_once('=')?;
        let number = value.strip_prefix("/proc/self/fd/").or_else(|| value.strip_prefix("/dev/fd/"))?;
        number.parse().ok()
    });
    named.filter(|number| sys::is_inherited(*number)).collect()
}

/// Cannot lose text: `check` has refused NUL.
fn text(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

/// The path of a program. An app's command is absolute since `check`. A hook's may be a name on the app's `PATH`.
fn program_file(app: &App, name: &str) -> CString {
    let path = if name.contains('/') { None } else { find_on_path(app, name) };
    CString::new(path.unwrap_or_else(|| name.into()).into_os_string().into_vec()).unwrap_or_default()
}

/// The first executable file of that name on the app's `PATH`.
fn find_on_path(app: &App, name: &str) -> Option<PathBuf> {
    let inherited = || std::env::var("PATH").ok().filter(|_| !app.program.env_hidden.contains("PATH"));
    let path = app.program.env.get("PATH").cloned().or_else(inherited);
    let path = path.as_deref().unwrap_or(DEFAULT_PATH);
    on_path(name, path, |file| executable(Path::new(file))).map(PathBuf::from)
}

/// Whether a command of the app's hooks can be started: a path, or a name on the app's `PATH`.
pub fn present(app: &App, program: &str) -> bool {
    match program.contains('/') {
        true => executable(Path::new(program)),
        false => find_on_path(app, program).is_some(),
    }
}

/// Whether this is a regular file that we may execute.
pub fn executable(file: &Path) -> bool {
    file.is_file() && rustix::fs::access(file, Access::EXEC_OK).is_ok()
}

/// Whether this is a regular file that may be executed with the rights over files that this thread has now.
fn is_executable_now(file: &Path) -> bool {
    // A kernel or a seccomp profile that does not know the call says nothing about the file.
    let said = rustix::fs::accessat(CWD, file, Access::EXEC_OK, AtFlags::EACCESS);
    file.is_file() && said != Err(Errno::ACCESS)
}

fn explain(app: &App, program: &str, (step, error): (SpawnStep, io::Error)) -> String {
    match (step, error.kind(), error.raw_os_error()) {
        (SpawnStep::Exec, io::ErrorKind::NotFound, _) if Path::new(program).exists() => {
            format!("the interpreter that `{program}` names does not exist")
        }
        (SpawnStep::Exec, io::ErrorKind::NotFound, _) => format!("`{program}` does not exist"),
        (SpawnStep::Exec, io::ErrorKind::PermissionDenied, _) => {
            format!("`{program}` may not be executed by this user")
        }
        (SpawnStep::Exec, _, Some(libc::ENOEXEC)) => {
            format!("`{program}` is neither a program nor a script that begins with `#!`")
        }
        (SpawnStep::Exec, ..) => format!("`{program}`: {error}"),
        (SpawnStep::WorkingFolder, ..) => match &app.program.cwd {
            Some(folder) => format!("working folder `{}`: {error} (`cwd`)", folder.display()),
            None => format!("its home folder cannot be its working folder: {error}; name another in `cwd`"),
        },
        (SpawnStep::Nice, ..) => format!("priority: {error} (`limits.nice`: only root may lower it)"),
        (SpawnStep::Limit(resource), ..) => {
            let name = resource.name();
            format!(
                "limit `{name}`: {error} (`rlimits.{name}`: only root may raise a limit, and not in every container)"
            )
        }
        (SpawnStep::User, ..) => {
            let user = app.program.user.as_deref().unwrap_or_default();
            format!("cannot run as `{user}`: {error} (`user`: only root can; run kasm-void as root, or leave it out)")
        }
        (SpawnStep::Clone | SpawnStep::Descriptors, ..) => format!("no new process: {error}"),
    }
}
