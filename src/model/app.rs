//! The checked app: a manifest with every variable replaced, every pattern compiled and every value in range. After
//! `check` has made one, no code reads the manifest again.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::path::PathBuf;

use crate::model::manifest::after::After;
use crate::model::manifest::env_files::SeenFile;
use crate::model::manifest::hook::{BrowserKind, Hook, Locks, Step};
use crate::model::manifest::icon::Icon;
use crate::model::manifest::log::Log;
use crate::model::manifest::matches::Matcher;
use crate::model::manifest::probe::{Health, Ready};
use crate::model::manifest::restart::RestartPolicy;
use crate::model::manifest::rlimits::Rlimits;
use crate::model::manifest::stop::Stop;
use crate::model::manifest::workspace::Workspace;
use crate::model::protocol::{CommandLine, ProgramView};

/// Identifies one app's name, from its first manifest to the end of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppId(pub u32);

impl AppId {
    /// The id for the session's own steps, which belong to no app.
    pub const WORKSPACE: AppId = AppId(u32::MAX);
}

/// One app, ready to be supervised. The fields are the settings of its manifest in their final form. One type because it
/// is one manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct App {
    /// The manifest's file name without `.ron`.
    pub name: String,
    /// A one-line description.
    pub about: String,
    /// Whether the app is started without a request.
    pub enabled: bool,
    /// The command, environment and limits that a process of the app is started with.
    pub program: Program,
    /// Recognises a live process as this app, however it was started.
    pub matcher: Option<Matcher>,
    /// Apps that are started before this one.
    pub after: Vec<After>,
    /// The steps around a start.
    pub hooks: Hooks,
    /// When a started app counts as running. `None`: as soon as it is spawned.
    pub ready: Option<Ready>,
    /// The check that is repeated while it runs.
    pub health: Option<Health>,
    /// The policy that decides what follows an exit.
    pub policy: RestartPolicy,
    /// How it is stopped.
    pub stop: Stop,
    /// Where its output goes.
    pub log: Log,
    /// Resident memory of the whole tree in bytes; an app that uses more is restarted.
    pub max_rss: Option<u64>,
    /// Its desktop icon.
    pub icon: Option<Icon>,
    /// Sentences that `status` and `doctor` show while a switch is off.
    pub warnings: Vec<String>,
    /// Its env files as they were read, by path. If that changes, the manifest is checked again.
    pub env_files: BTreeMap<String, SeenFile>,
}

/// Everything that a process of the app is started with. If any of it changes, a running app is restarted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Program {
    /// The program and its arguments, with overrides applied. The program is an absolute path.
    pub argv: Vec<String>,
    /// How many words at the end of `argv` come from `args_last`.
    pub last: usize,
    /// Variables set over the supervisor's own environment: the workspace's, then those of env files, then the
    /// manifest's.
    pub env: BTreeMap<String, String>,
    /// Which of them come from env files.
    pub from_files: BTreeSet<String>,
    /// Variables removed from it: the workspace's `env_hidden` without the manifest's `env_secret`.
    pub env_hidden: BTreeSet<String>,
    /// Working folder; `None` for the home folder.
    pub cwd: Option<PathBuf>,
    /// -20 to 19; `None` to inherit the supervisor's.
    pub nice: Option<i32>,
    /// -1000 to 1000; `None` to inherit the supervisor's.
    pub oom_score_adj: Option<i32>,
    /// The user, by name or number; `None` for the supervisor's.
    pub user: Option<String>,
    /// The group, by name or number; `None` for the user's own.
    pub group: Option<String>,
    /// `None` to inherit the supervisor's.
    pub umask: Option<u32>,
    /// Limits of each process; the others are inherited.
    pub rlimits: Rlimits,
    /// Whether it gets a terminal of its own. Then its leader is the process that holds the terminal's other end.
    pub pty: bool,
}

impl Program {
    /// The program as `inspect` shows it: of variables only the names, since a value may be a secret.
    pub fn view(&self) -> ProgramView {
        let Program {
            argv,
            last: _,
            env,
            from_files: _,
            env_hidden,
            cwd,
            nice,
            oom_score_adj,
            user,
            group,
            umask,
            rlimits,
            pty,
        } = self;
        ProgramView {
            argv: argv.clone(),
            cwd: cwd.as_ref().map(|cwd| cwd.display().to_string()),
            env: env.keys().cloned().collect(),
            env_hidden: env_hidden.iter().cloned().collect(),
            nice: *nice,
            oom_score_adj: *oom_score_adj,
            user: user.clone(),
            group: group.clone(),
            umask: umask.map(|umask| format!("{umask:04o}")),
            rlimits: rlimits.iter().map(|(resource, limit)| (resource.name().into(), limit.to_string())).collect(),
            pty: *pty,
        }
    }
}

/// The steps around an app's starts and stops.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Hooks {
    /// Run before every spawn.
    pub prelaunch: Vec<Hook>,
    /// Run after the app is running; a failure is a warning.
    pub postlaunch: Vec<Hook>,
    /// Run before the leader is asked to end; a failure is a warning.
    pub prestop: Vec<Hook>,
    /// Run after every end of a run whose program was started, once its tree is gone; a failure is a warning.
    pub poststop: Vec<Hook>,
    /// Lists by name. On request, one runs between a stop and a start.
    pub actions: BTreeMap<String, Vec<Hook>>,
}

/// Versions with the same name and program have the same hash.
impl Hash for App {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.name, self.enabled, &self.program.argv).hash(state);
    }
}

impl App {
    /// An app that runs this program, with every default.
    pub fn new(name: &str, argv: &[&str]) -> Self {
        let argv = argv.iter().map(|word| word.to_string()).collect();
        App {
            name: name.into(),
            about: String::new(),
            enabled: true,
            program: Program { argv, ..Program::default() },
            matcher: None,
            after: Vec::new(),
            hooks: Hooks::default(),
            ready: None,
            health: None,
            policy: RestartPolicy::default(),
            stop: Stop::default(),
            log: Log::default(),
            max_rss: None,
            icon: None,
            warnings: Vec::new(),
            env_files: BTreeMap::new(),
        }
    }

    /// Whether a step before each start clears the locks of a Chromium profile. If so, the app is a Chromium, and an exit
    /// that says that its profile is in use means what it says.
    pub fn clears_chromium_locks(&self) -> bool {
        let chromium = |locks: &Locks| matches!(locks, Locks::Profile { browser: BrowserKind::Chromium, .. });
        let clears = |hook: &Hook| matches!(&hook.step, Step::ClearLocks { locks } if chromium(locks));
        self.hooks.prelaunch.iter().any(clears)
    }

    /// The command line that starts the app once more while it is up.
    pub fn command_line(&self) -> CommandLine {
        let Program { argv, last, env, env_hidden, .. } = &self.program;
        let (argv, last) = argv.split_at(argv.len().saturating_sub(*last));
        let again = self.icon.as_ref().and_then(|icon| icon.again.clone());
        CommandLine { argv: argv.into(), last: last.into(), again, env: env.clone(), env_hidden: env_hidden.clone() }
    }

    /// Represents the session while its own steps run. It has the workspace's environment and no process.
    pub fn of_workspace(workspace: &Workspace) -> Self {
        let (env, env_hidden) = (workspace.env.clone(), workspace.env_hidden.clone());
        App { program: Program { env, env_hidden, ..Program::default() }, ..App::without_manifest("workspace") }
    }

    /// An app whose manifest is deleted: just enough to stop it.
    pub fn without_manifest(name: &str) -> Self {
        App { enabled: false, ..App::new(name, &[]) }
    }
}
