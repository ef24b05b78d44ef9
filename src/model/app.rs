//! The checked app: a manifest with everything filled in, compiled and in range. After `check` has made one, no
//! code looks at the manifest again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::model::manifest::hook::Hook;
use crate::model::manifest::icon::Icon;
use crate::model::manifest::log::Log;
use crate::model::manifest::matches::Matcher;
use crate::model::manifest::probe::{Health, Ready};
use crate::model::manifest::restart::RestartPolicy;
use crate::model::manifest::stop::Stop;
use crate::model::manifest::workspace::Workspace;
use crate::model::protocol::CommandLine;

/// Stands for one app's name from its first manifest to the end of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppId(pub u32);

impl AppId {
    /// Not an app: the session's own steps.
    pub const WORKSPACE: AppId = AppId(u32::MAX);
}

/// One app, ready to be supervised. Its fields are the settings of a manifest, each in its final form.
#[derive(Debug, Clone, PartialEq)]
pub struct App {
    /// The manifest's file name without `.ron`.
    pub name: String,
    /// What it is, in a line.
    pub about: String,
    pub enabled: bool,
    pub program: Program,
    /// Which live process is this app, however it was started.
    pub matcher: Option<Matcher>,
    /// Apps that are started before this one.
    pub after: Vec<String>,
    pub hooks: Hooks,
    pub ready: Option<Ready>,
    pub health: Option<Health>,
    pub policy: RestartPolicy,
    pub stop: Stop,
    pub log: Log,
    /// The tree's resident memory in bytes; an app that needs more is restarted.
    pub max_rss: Option<u64>,
    pub icon: Option<Icon>,
}

/// All that a process of the app is started with. A running app is restarted when any of it changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Program {
    /// The program and its arguments, overrides applied. The program is an absolute path.
    pub argv: Vec<String>,
    /// How many words at the end of `argv` come from `args_last`.
    pub last: usize,
    /// Variables set over the supervisor's own environment: the workspace's, then the manifest's.
    pub env: BTreeMap<String, String>,
    /// Variables taken out of it: the workspace's `env_hidden` less the manifest's `env_secret`.
    pub env_hidden: BTreeSet<String>,
    /// Working folder; `None`: the home folder.
    pub cwd: Option<PathBuf>,
    pub nice: Option<i32>,
    pub oom_score_adj: Option<i32>,
}

/// The steps around an app's starts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Hooks {
    /// Before every spawn.
    pub prelaunch: Vec<Hook>,
    /// Once it runs; their failure is a warning.
    pub postlaunch: Vec<Hook>,
    /// By name: between a stop and a start on request.
    pub actions: BTreeMap<String, Vec<Hook>>,
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
        }
    }

    /// How it is started once more, beside the one that is up.
    pub fn command_line(&self) -> CommandLine {
        let Program { argv, last, env, env_hidden, .. } = &self.program;
        let (argv, last) = argv.split_at(argv.len().saturating_sub(*last));
        let again = self.icon.as_ref().and_then(|icon| icon.again.clone());
        CommandLine { argv: argv.into(), last: last.into(), again, env: env.clone(), env_hidden: env_hidden.clone() }
    }

    /// Stands for the session while its own steps run: it has the workspace's environment and no process.
    pub fn of_workspace(workspace: &Workspace) -> Self {
        let (env, env_hidden) = (workspace.env.clone(), workspace.env_hidden.clone());
        App { program: Program { env, env_hidden, ..Program::default() }, ..App::without_manifest("workspace") }
    }

    /// What is left of an app whose manifest is gone: enough to stop it.
    pub fn without_manifest(name: &str) -> Self {
        App { enabled: false, ..App::new(name, &[]) }
    }
}
