//! Starts programs: an app's own, and the commands of its hooks. Owns the environment they inherit. Must not decide
//! when something is started.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::host::marks;
use crate::host::proc::Pid;
use crate::host::sys::{self, SpawnStep};
use crate::model::app::App;
use crate::model::loading::surroundings::{DEFAULT_PATH, on_path};
use crate::model::tree::Place;

pub(super) struct Spawner {
    /// The variables that apps inherit from us, by name, each as `NAME=value`.
    environment: Vec<(String, CString)>,
    home: CString,
    null: File,
    open_files: Option<u64>,
}

/// One program to start.
pub(super) struct Program<'a> {
    pub app: &'a App,
    pub run: u64,
    pub argv: &'a [String],
    /// True for the command of a hook or probe, false for the app itself.
    pub hook: bool,
    pub output: BorrowedFd<'a>,
}

impl Spawner {
    /// `open_files`: the soft limit for programs, in place of ours.
    pub fn new(home: &Path, open_files: Option<u64>) -> io::Result<Self> {
        let inherited = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok().filter(|name| !marks::ALL.contains(&name.as_str()))?;
            let mut entry = name.clone().into_bytes();
            entry.push(b'=');
            entry.extend(value.into_vec());
            Some((name, CString::new(entry).ok()?))
        });
        Ok(Spawner {
            environment: inherited.collect(),
            home: CString::new(home.as_os_str().as_encoded_bytes()).unwrap_or_else(|_| c"/".into()),
            null: File::open("/dev/null")?,
            open_files,
        })
    }

    /// Starts the program and returns once it has called exec. The error says what failed and why.
    pub fn start(&self, program: &Program<'_>, place: &Place) -> Result<Pid, String> {
        let Program { app, run, argv, hook, output } = program;
        let words: Vec<CString> = argv.iter().map(|word| text(word)).collect();
        let mut added: Vec<CString> =
            marks::entries(&app.name, *run, *hook, place).iter().map(|one| text(one)).collect();
        added.extend(app.program.env.iter().map(|(name, value)| text(&format!("{name}={value}"))));
        let kept = |name: &String| !app.program.env.contains_key(name) && !app.program.env_hidden.contains(name);
        let inherited = self.environment.iter().filter(|(name, _)| kept(name)).map(|(_, entry)| entry.as_c_str());
        let environment: Vec<&CStr> = inherited.chain(added.iter().map(CString::as_c_str)).collect();
        let cwd =
            app.program.cwd.as_deref().map(|folder| CString::new(folder.as_os_str().as_bytes()).unwrap_or_default());
        let score = app.program.oom_score_adj.map(|score| text(&score.to_string()));
        let started = sys::spawn(&sys::Child {
            program: &program_file(app, &argv[0]),
            argv: &words,
            env: &environment,
            cwd: Some(cwd.as_deref().unwrap_or(&self.home)),
            stdin: self.null.as_fd(),
            output: *output,
            nice: app.program.nice,
            oom_score_adj: score.as_deref(),
            open_files: self.open_files,
        });
        started.map_err(|why| explain(app, &argv[0], why))
    }
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
    file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
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
        (SpawnStep::WorkingFolder, ..) => {
            let folder = app.program.cwd.as_deref().unwrap_or(Path::new("home"));
            format!("working folder `{}`: {error} (`cwd`)", folder.display())
        }
        (SpawnStep::Nice, ..) => format!("priority: {error} (`limits.nice`: only root may lower it)"),
        (SpawnStep::OomScore, ..) => format!("oom score: {error} (`limits.oom_score_adj`: only root may lower it)"),
        (SpawnStep::Clone, ..) => format!("no new process: {error}"),
    }
}
