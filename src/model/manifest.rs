//! The manifest: one app as a person writes it in RON, with every default. Composes the types of the
//! rooms above; `check` turns it into an [`crate::model::loading::check::App`] that nobody has to ask again.

pub mod quantity;
pub mod switch;

pub mod backoff;
pub mod probe;
pub mod restart;

pub mod hook;
pub mod icon;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::manifest::backoff::Backoff;
use crate::model::manifest::hook::Hook;
use crate::model::manifest::probe::{Health, Ready};
use crate::model::manifest::quantity::{Size, Span};
use crate::model::manifest::restart::{OnClose, OnGiveUp, Restart};
use crate::model::manifest::switch::{on, switch};

/// `name.ron`: one app.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename = "App", deny_unknown_fields)]
pub struct Manifest {
    /// What it is, in a line: shown by `status` and in icons.
    #[serde(default)]
    pub about: String,
    /// `1/true/yes/on` or `0/false/no/off`; anything else is an error and the app stays enabled.
    #[serde(default = "on", deserialize_with = "switch")]
    pub enabled: String,
    /// Names for use in this manifest, before the environment.
    #[serde(default)]
    pub vars: BTreeMap<String, String>,
    /// The program: an absolute path, or a name on PATH.
    pub command: String,
    #[serde(default)]
    pub args: Vec<String>,
    /// An environment variable whose shell words, when it is set and not empty, replace `args`.
    #[serde(default)]
    pub args_from: Option<String>,
    /// Flags taken from `args` when the override of `args_from` lacks them.
    #[serde(default)]
    pub args_kept: Vec<String>,
    /// Arguments behind all others.
    #[serde(default)]
    pub args_last: Vec<String>,
    /// Variables set for the app, over the supervisor's own environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Variables hidden by the workspace's `env_hidden` that this app is given all the same.
    #[serde(default)]
    pub env_secret: Vec<String>,
    /// Working folder; the home folder by default.
    #[serde(default)]
    pub cwd: Option<String>,
    /// Which live process is this app, however it was started.
    #[serde(default)]
    pub matches: Option<Match>,
    /// Apps that are started before this one.
    #[serde(default)]
    pub after: Vec<String>,
    /// Steps before every spawn.
    #[serde(default)]
    pub prelaunch: Vec<Hook>,
    #[serde(default)]
    pub ready: Option<Ready>,
    #[serde(default)]
    pub health: Option<Health>,
    /// Steps once it runs; their failure is a warning.
    #[serde(default)]
    pub postlaunch: Vec<Hook>,
    #[serde(default)]
    pub restart: Restart,
    /// What a clean exit by the person at the desktop means.
    #[serde(default)]
    pub on_close: OnClose,
    #[serde(default)]
    pub backoff: Backoff,
    #[serde(default)]
    pub on_give_up: OnGiveUp,
    #[serde(default)]
    pub stop: Stop,
    #[serde(default)]
    pub log: Log,
    #[serde(default)]
    pub limits: Limits,
    /// `kasm-void do APP ACTION`: stop, these steps, start.
    #[serde(default)]
    pub actions: BTreeMap<String, Vec<Hook>>,
    #[serde(default)]
    pub icon: Option<Icon>,
}

/// A live process of our user is this app when its command line (arguments joined by a space) matches
/// `cmdline` and not `exclude`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// Regex over the command line.
    pub cmdline: String,
    /// Regex; command lines that match it are helpers, never the app.
    #[serde(default)]
    pub exclude: Option<String>,
}

/// How the app is asked to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Stop {
    /// The signal that asks: a name with or without `SIG`, or a number.
    pub signal: String,
    /// Who is still there after this is killed.
    pub grace: Span,
}

/// Where the app's output goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `logs/<app>.log` in the state folder by default.
    pub file: Option<String>,
    /// A file that would grow beyond this is rotated, between two lines.
    pub max_size: Size,
    /// Rotated files kept: `file.1` is the newest.
    pub keep: u32,
    /// Lines of output told with each crash.
    pub tail: u32,
    /// Also tell each line on the supervisor's stdout, as `event=app.output`, 100 a second at most.
    pub forward: bool,
}

/// What the app may use.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// -20 to 19.
    pub nice: Option<i32>,
    /// -1000 to 1000: who is killed first when memory runs out.
    pub oom_score_adj: Option<i32>,
    /// The tree's resident memory; an app that needs more is restarted, class `TooMuchMemory`.
    pub max_rss: Option<Size>,
}

/// A desktop icon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Icon {
    pub name: String,
    #[serde(default)]
    pub icon: String,
    #[serde(default)]
    pub categories: Vec<String>,
    /// A click while the app is up runs its command line once more, with these behind `args`. Without it such a
    /// click does nothing.
    #[serde(default)]
    pub again: Option<Vec<String>>,
    /// Actions with an icon of their own, and its name.
    #[serde(default)]
    pub actions: BTreeMap<String, String>,
}

/// `workspace.ron`: what belongs to the session, not to one app.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename = "Workspace", deny_unknown_fields, default)]
pub struct Workspace {
    /// Names for use in every manifest, before the environment and after the manifest's own `vars`.
    pub vars: BTreeMap<String, String>,
    /// Variables set for every app.
    pub env: BTreeMap<String, String>,
    /// Variables no app is given unless it names them in `env_secret`.
    pub env_hidden: Vec<String>,
    /// Steps once, before the first app starts.
    pub stage: Vec<Hook>,
    /// `false`: load and check, but start nothing until asked.
    #[serde(deserialize_with = "switch")]
    pub autostart: String,
    /// A drain takes no longer than this; then everything left is killed.
    pub stop_budget: Span,
    /// Also serve Prometheus metrics at this TCP address.
    pub metrics: Option<String>,
}

impl Default for Workspace {
    fn default() -> Self {
        Workspace {
            vars: BTreeMap::new(),
            env: BTreeMap::new(),
            env_hidden: Vec::new(),
            stage: Vec::new(),
            autostart: on(),
            stop_budget: Span::secs(20),
            metrics: None,
        }
    }
}

impl Default for Stop {
    fn default() -> Self {
        Stop { signal: "TERM".into(), grace: Span::secs(5) }
    }
}

impl Default for Log {
    fn default() -> Self {
        Log { file: None, max_size: Size::mib(10), keep: 3, tail: 5, forward: false }
    }
}

impl Manifest {
    /// The smallest manifest: this command, and every default.
    pub fn new(command: &str) -> Self {
        Manifest {
            about: String::new(),
            enabled: on(),
            vars: BTreeMap::new(),
            command: command.into(),
            args: Vec::new(),
            args_from: None,
            args_kept: Vec::new(),
            args_last: Vec::new(),
            env: BTreeMap::new(),
            env_secret: Vec::new(),
            cwd: None,
            matches: None,
            after: Vec::new(),
            prelaunch: Vec::new(),
            ready: None,
            health: None,
            postlaunch: Vec::new(),
            restart: Restart::default(),
            on_close: OnClose::default(),
            backoff: Backoff::default(),
            on_give_up: OnGiveUp::default(),
            stop: Stop::default(),
            log: Log::default(),
            limits: Limits::default(),
            actions: BTreeMap::new(),
            icon: None,
        }
    }

    /// Calls `visit` with each interpolated string and its field path (`args[2]`, `ready.probe.url`).
    /// `vars` are left out: they are what interpolation reads.
    pub fn each_string(&mut self, visit: &mut dyn FnMut(&str, &mut String)) {
        visit("about", &mut self.about);
        visit("enabled", &mut self.enabled);
        visit("command", &mut self.command);
        for (field, words) in [("args", &mut self.args), ("args_last", &mut self.args_last)] {
            for (i, word) in words.iter_mut().enumerate() {
                visit(&format!("{field}[{i}]"), word);
            }
        }
        for (key, value) in &mut self.env {
            visit(&format!("env.{key}"), value);
        }
        if let Some(cwd) = &mut self.cwd {
            visit("cwd", cwd);
        }
        if let Some(matches) = &mut self.matches {
            visit("matches.cmdline", &mut matches.cmdline);
            if let Some(exclude) = &mut matches.exclude {
                visit("matches.exclude", exclude);
            }
        }
        each_hook_string("prelaunch", &mut self.prelaunch, visit);
        if let Some(ready) = &mut self.ready {
            ready.probe.each_string(&mut |path, text| visit(&format!("ready.probe.{path}"), text));
        }
        if let Some(health) = &mut self.health {
            health.probe.each_string(&mut |path, text| visit(&format!("health.probe.{path}"), text));
        }
        each_hook_string("postlaunch", &mut self.postlaunch, visit);
        visit("stop.signal", &mut self.stop.signal);
        if let Some(file) = &mut self.log.file {
            visit("log.file", file);
        }
        for (i, word) in self.icon.iter_mut().flat_map(|icon| icon.again.iter_mut().flatten()).enumerate() {
            visit(&format!("icon.again[{i}]"), word);
        }
        for (action, hooks) in &mut self.actions {
            each_hook_string(&format!("actions.{action}"), hooks, visit);
        }
    }
}

impl Workspace {
    /// As [`Manifest::each_string`].
    pub fn each_string(&mut self, visit: &mut dyn FnMut(&str, &mut String)) {
        for (key, value) in &mut self.env {
            visit(&format!("env.{key}"), value);
        }
        each_hook_string("stage", &mut self.stage, visit);
        visit("autostart", &mut self.autostart);
        if let Some(address) = &mut self.metrics {
            visit("metrics", address);
        }
    }
}

fn each_hook_string(list: &str, hooks: &mut [Hook], visit: &mut dyn FnMut(&str, &mut String)) {
    for (i, hook) in hooks.iter_mut().enumerate() {
        hook.each_string(&mut |path, text| visit(&format!("{list}[{i}].{path}"), text));
    }
}
