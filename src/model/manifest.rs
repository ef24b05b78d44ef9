//! The manifest: one app as written in RON, and its settings, one file each.
//!
//! Most settings have two types. The *form* (`BackoffForm`) is what was read, with texts that may contain variables.
//! The checked type (`Backoff`) has final values within their ranges. A form's `check` destructures its fields
//! exhaustively, so a forgotten field does not compile.

pub mod name;
pub mod quantity;
pub mod switch;

pub mod pattern;

pub mod fields;
pub mod text_or_struct;

pub mod after;
pub mod backoff;
pub mod env_files;
pub mod environment;
pub mod fixed;
pub mod icon;
pub mod limits;
pub mod log;
pub mod matches;
pub mod probe;
pub mod rlimits;
pub mod stop;
pub mod umask;
pub mod user;
pub mod warning;

pub mod hook;
pub mod restart;

pub mod workspace;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::manifest::after::AfterForm;
use crate::model::manifest::backoff::BackoffForm;
use crate::model::manifest::env_files::EnvFileForm;
use crate::model::manifest::fixed::FixedForm;
use crate::model::manifest::hook::HookForm;
use crate::model::manifest::icon::Icon;
use crate::model::manifest::limits::LimitsForm;
use crate::model::manifest::log::LogForm;
use crate::model::manifest::matches::MatchForm;
use crate::model::manifest::probe::{HealthForm, ReadyForm};
use crate::model::manifest::restart::{OnClose, OnGiveUp, Restart};
use crate::model::manifest::rlimits::RlimitsForm;
use crate::model::manifest::stop::StopForm;
use crate::model::manifest::switch::{on, switch};
use crate::model::manifest::warning::WarningForm;

/// `name.ron`: one app as written. `check` turns it into a [`crate::model::app::App`]. One type because people write it as
/// one file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename = "App", deny_unknown_fields)]
pub struct Manifest {
    /// A one-line description, shown by `status` and in icons.
    #[serde(default)]
    pub about: String,
    /// `1/true/yes/on` or `0/false/no/off`. Any other value is a warning, and the app stays enabled.
    #[serde(default = "on", deserialize_with = "switch")]
    pub enabled: String,
    /// Names for use in this manifest, before the environment.
    #[serde(default)]
    pub vars: BTreeMap<String, String>,
    /// The program: an absolute path, or a name on PATH.
    pub command: String,
    /// Its arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// The name of an environment variable. If it is set and not empty, its shell words replace `args`.
    #[serde(default)]
    pub args_from: Option<String>,
    /// Flags taken from `args` if the override of `args_from` lacks them.
    #[serde(default)]
    pub args_kept: Vec<String>,
    /// Arguments that neither `args` nor an override can remove or change.
    #[serde(default)]
    pub args_fixed: Vec<FixedForm>,
    /// Arguments after all others.
    #[serde(default)]
    pub args_last: Vec<String>,
    /// Variables set for the app, over the supervisor's own environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Files with more variables for the app; `env` wins over them.
    #[serde(default)]
    pub env_files: Vec<EnvFileForm>,
    /// Variables hidden by the workspace's `env_hidden` that this app receives anyway.
    #[serde(default)]
    pub env_secret: Vec<String>,
    /// Working folder; the home folder by default.
    #[serde(default)]
    pub cwd: Option<String>,
    /// The user that it runs as, by name or number. Only root may name another than itself.
    #[serde(default)]
    pub user: Option<String>,
    /// The group that it runs as, instead of the user's own.
    #[serde(default)]
    pub group: Option<String>,
    /// Permissions that its files never get, as an octal text.
    #[serde(default)]
    pub umask: Option<String>,
    /// Limits that the kernel keeps for each of its processes.
    #[serde(default)]
    pub rlimits: RlimitsForm,
    /// Whether it gets a terminal of its own.
    #[serde(default)]
    pub pty: bool,
    /// How to recognise a live process as this app, however it was started.
    #[serde(default)]
    pub matches: Option<MatchForm>,
    /// Apps that are started before this one.
    #[serde(default)]
    pub after: Vec<AfterForm>,
    /// Steps before every spawn.
    #[serde(default)]
    pub prelaunch: Vec<HookForm>,
    /// When the started app counts as running; without it, as soon as it is spawned.
    #[serde(default)]
    pub ready: Option<ReadyForm>,
    /// A check that is repeated while the app runs.
    #[serde(default)]
    pub health: Option<HealthForm>,
    /// Steps after the app is running; a failure is a warning.
    #[serde(default)]
    pub postlaunch: Vec<HookForm>,
    /// Steps before the app is asked to end; a failure is a warning.
    #[serde(default)]
    pub prestop: Vec<HookForm>,
    /// Steps after every end of the app, once its processes are gone; a failure is a warning.
    #[serde(default)]
    pub poststop: Vec<HookForm>,
    /// Which exits lead to a restart.
    #[serde(default)]
    pub restart: Restart,
    /// What to do when the user closes the app.
    #[serde(default)]
    pub on_close: OnClose,
    /// How long to wait before the next start, and when to give up.
    #[serde(default)]
    pub backoff: BackoffForm,
    /// What to do when the backoff gives up.
    #[serde(default)]
    pub on_give_up: OnGiveUp,
    /// How the app is stopped.
    #[serde(default)]
    pub stop: StopForm,
    /// Where its output goes.
    #[serde(default)]
    pub log: LogForm,
    /// The resources that it may use.
    #[serde(default)]
    pub limits: LimitsForm,
    /// `kasm-void do APP ACTION`: stop, these steps, start.
    #[serde(default)]
    pub actions: BTreeMap<String, Vec<HookForm>>,
    /// Its desktop icon; without it, it has none.
    #[serde(default)]
    pub icon: Option<Icon>,
    /// Sentences that `status` and `doctor` show while a switch is off.
    #[serde(default)]
    pub warnings: Vec<WarningForm>,
}
