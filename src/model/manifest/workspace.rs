//! `workspace.ron`: the settings of the session. Form, defaults and check.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::manifest::environment;
use crate::model::manifest::fields::Fields;
use crate::model::manifest::hook::{Hook, HookForm};
use crate::model::manifest::name;
use crate::model::manifest::probe::{Target, TargetForm, is_address};
use crate::model::manifest::switch::{on, switch};

/// After an hour, whatever stops the container has long killed it.
const STOP_BUDGET: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60 * 60);

/// `workspace.ron` as written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename = "Workspace", deny_unknown_fields, default)]
pub struct WorkspaceForm {
    /// Names for use in every manifest, before the environment and after the manifest's own `vars`.
    pub vars: BTreeMap<String, String>,
    /// Variables set for every app.
    pub env: BTreeMap<String, String>,
    /// Variables no app is given unless it names them in `env_secret`.
    pub env_hidden: Vec<String>,
    /// File names that later folders cannot replace: their files of these names are ignored.
    pub locked: Vec<String>,
    /// Steps once, before the first app starts.
    pub stage: Vec<HookForm>,
    /// When the session is ready for people, once `stage` has run. If not empty, apps that are down do not count.
    pub ready: Vec<TargetForm>,
    /// If off, apps are loaded and checked, but not started until asked.
    #[serde(deserialize_with = "switch")]
    pub autostart: String,
    /// A drain takes no longer than this; then everything left is killed.
    pub stop_budget: Option<String>,
    /// Also serve Prometheus metrics at this TCP address.
    pub metrics: Option<String>,
}

impl Default for WorkspaceForm {
    fn default() -> Self {
        WorkspaceForm {
            vars: BTreeMap::new(),
            env: BTreeMap::new(),
            env_hidden: Vec::new(),
            locked: Vec::new(),
            stage: Vec::new(),
            ready: Vec::new(),
            autostart: on(),
            stop_budget: None,
            metrics: None,
        }
    }
}

/// The checked settings of the session.
#[derive(Debug, Clone, PartialEq)]
pub struct Workspace {
    /// Names for use in every manifest, interpolated.
    pub vars: BTreeMap<String, String>,
    /// Variables set for every app.
    pub env: BTreeMap<String, String>,
    /// Variables no app is given unless it names them in `env_secret`.
    pub env_hidden: BTreeSet<String>,
    /// Steps once, before the first app starts.
    pub stage: Vec<Hook>,
    /// When the session is ready, once `stage` has run. If empty, it is ready when every app that should run does.
    pub ready: Vec<Target>,
    /// Whether apps are started without a request.
    pub autostart: bool,
    /// A drain takes no longer than this; then everything left is killed.
    pub stop_budget: Duration,
    /// Also serve Prometheus metrics at this `host:port`.
    pub metrics: Option<String>,
}

/// Versions with the same stop budget have the same hash.
impl Hash for Workspace {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.autostart, self.stop_budget).hash(state);
    }
}

impl Default for Workspace {
    fn default() -> Self {
        Workspace {
            vars: BTreeMap::new(),
            env: BTreeMap::new(),
            env_hidden: BTreeSet::new(),
            stage: Vec::new(),
            ready: Vec::new(),
            autostart: true,
            stop_budget: Duration::from_secs(20),
            metrics: None,
        }
    }
}

impl WorkspaceForm {
    /// The fields that `lower` sets and this form does not, without hidden variables.
    pub fn leaves_out(&self, lower: &WorkspaceForm) -> Vec<String> {
        let WorkspaceForm { vars, env, env_hidden: _, locked: _, stage, ready, autostart, stop_budget, metrics } =
            lower;
        let default = WorkspaceForm::default();
        let missing = |field: &str, lower: &BTreeMap<String, String>, own: &BTreeMap<String, String>| {
            let names = lower.keys().filter(|name| !own.contains_key(*name));
            names.map(|name| format!("`{field}.{name}`")).collect::<Vec<_>>()
        };
        let fields = [
            ("stage", !stage.is_empty() && self.stage.is_empty()),
            ("ready", !ready.is_empty() && self.ready.is_empty()),
            ("autostart", *autostart != default.autostart && self.autostart == default.autostart),
            ("stop_budget", stop_budget.is_some() && self.stop_budget.is_none()),
            ("metrics", metrics.is_some() && self.metrics.is_none()),
        ];
        let others = fields.into_iter().filter(|(_, is_left_out)| *is_left_out).map(|(field, _)| format!("`{field}`"));
        let mut left_out = missing("vars", vars, &self.vars);
        left_out.extend(missing("env", env, &self.env));
        left_out.extend(others);
        left_out
    }

    /// Leaves `vars` empty: the scope interpolates them, and the caller sets them.
    pub fn check(self, fields: &mut Fields<'_>) -> Workspace {
        let WorkspaceForm { vars: _, env, env_hidden, locked, stage, ready, autostart, stop_budget, metrics } = self;
        // Locked files were already left out when the folders were read.
        for (i, name) in locked.iter().enumerate().filter(|(_, name)| !name::is_allowed(name)) {
            fields.error(&format!("locked[{i}]"), format!("`{name}` cannot be the name of an app"), name::RULE);
        }
        Workspace {
            vars: BTreeMap::new(),
            env: environment::check(env, fields),
            env_hidden: env_hidden.into_iter().collect(),
            stage: fields.each("stage", stage, |fields, hook| hook.check(fields)),
            ready: fields.each("ready", ready, |fields, target| target.check(fields)),
            autostart: fields.switch("autostart", autostart, "apps are started"),
            stop_budget: fields.duration("stop_budget", stop_budget, Workspace::default().stop_budget, STOP_BUDGET),
            metrics: metrics.map(|address| checked_address(address, fields)).filter(|address| !address.is_empty()),
        }
    }
}

fn checked_address(address: String, fields: &mut Fields<'_>) -> String {
    let address = fields.text("metrics", address);
    if !address.is_empty() && !is_address(&address) {
        fields.error("metrics", format!("`{address}` is not an address"), "write \"127.0.0.1:9102\"");
    }
    address
}
