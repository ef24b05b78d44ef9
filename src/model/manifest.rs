//! The manifest: one app as a person writes it in RON, and the settings it is made of, one file each.
//!
//! Of each setting there are two types: the *form* (`BackoffForm`) is what was read, with texts that may hold
//! variables; the checked one (`Backoff`) has final values within their ranges. A form's `check` takes its fields
//! apart exhaustively, so a field that is forgotten there does not compile.

pub mod name;
pub mod quantity;
pub mod switch;

pub mod pattern;

pub mod fields;

pub mod backoff;
pub mod environment;
pub mod icon;
pub mod limits;
pub mod log;
pub mod matches;
pub mod probe;
pub mod stop;

pub mod hook;
pub mod restart;

pub mod workspace;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::manifest::backoff::BackoffForm;
use crate::model::manifest::hook::HookForm;
use crate::model::manifest::icon::Icon;
use crate::model::manifest::limits::LimitsForm;
use crate::model::manifest::log::LogForm;
use crate::model::manifest::matches::MatchForm;
use crate::model::manifest::probe::{HealthForm, ReadyForm};
use crate::model::manifest::restart::{OnClose, OnGiveUp, Restart};
use crate::model::manifest::stop::StopForm;
use crate::model::manifest::switch::{on, switch};

/// `name.ron`: one app as it is written. [`crate::model::app::App`] is what `check` makes of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename = "App", deny_unknown_fields)]
pub struct Manifest {
    /// What it is, in a line: shown by `status` and in icons.
    #[serde(default)]
    pub about: String,
    /// `1/true/yes/on` or `0/false/no/off`; anything else is a warning and the app stays enabled.
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
    /// Arguments after all others.
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
    pub matches: Option<MatchForm>,
    /// Apps that are started before this one.
    #[serde(default)]
    pub after: Vec<String>,
    /// Steps before every spawn.
    #[serde(default)]
    pub prelaunch: Vec<HookForm>,
    #[serde(default)]
    pub ready: Option<ReadyForm>,
    #[serde(default)]
    pub health: Option<HealthForm>,
    /// Steps once it runs; their failure is a warning.
    #[serde(default)]
    pub postlaunch: Vec<HookForm>,
    #[serde(default)]
    pub restart: Restart,
    /// What a clean exit by the person at the desktop means.
    #[serde(default)]
    pub on_close: OnClose,
    #[serde(default)]
    pub backoff: BackoffForm,
    #[serde(default)]
    pub on_give_up: OnGiveUp,
    #[serde(default)]
    pub stop: StopForm,
    #[serde(default)]
    pub log: LogForm,
    #[serde(default)]
    pub limits: LimitsForm,
    /// `kasm-void do APP ACTION`: stop, these steps, start.
    #[serde(default)]
    pub actions: BTreeMap<String, Vec<HookForm>>,
    #[serde(default)]
    pub icon: Option<Icon>,
}
