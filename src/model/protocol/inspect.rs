//! The wire types of `inspect`: everything about one app.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{AppStatus, Crash};

/// `GET /v1/apps/{app}/inspect`: an app as it is now, with every setting resolved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// As in `status`.
    pub status: AppStatus,
    /// The file with its manifest; `None` once it is deleted.
    pub manifest: Option<String>,
    /// The command, environment and limits of its processes.
    pub program: ProgramView,
    /// Apps that are started before it.
    pub after: Vec<String>,
    /// The file with its output.
    pub log: String,
    /// Resident memory of the tree in bytes; an app that uses more is restarted.
    pub max_rss: Option<u64>,
    /// Its live processes, oldest first.
    pub processes: Vec<ProcessView>,
    /// Its last crashes, newest last.
    pub crashes: Vec<Crash>,
}

/// The command, environment and limits of an app's processes. Of variables only the names are shown: a value may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramView {
    /// The program and its arguments, with variables and overrides applied.
    pub argv: Vec<String>,
    /// The working folder; `None` for the home folder.
    pub cwd: Option<String>,
    /// Variables that the workspace or the manifest sets, over the supervisor's own.
    pub env: Vec<String>,
    /// Variables that are kept from it.
    pub env_hidden: Vec<String>,
    /// Scheduling priority; `None` for the supervisor's own.
    pub nice: Option<i32>,
    /// How early the kernel kills it when memory runs out; `None` for the supervisor's own.
    pub oom_score_adj: Option<i32>,
    /// The user as the manifest names it; `None` for the supervisor's own.
    #[serde(default)]
    pub user: Option<String>,
    /// The group as the manifest names it; `None` for the user's own.
    #[serde(default)]
    pub group: Option<String>,
    /// In octal digits; `None` for the supervisor's own.
    #[serde(default)]
    pub umask: Option<String>,
    /// Limits of each process by name, each as `SOFT:HARD` or one value for both.
    #[serde(default)]
    pub rlimits: BTreeMap<String, String>,
    /// Whether it has a terminal of its own.
    #[serde(default)]
    pub pty: bool,
}

/// One process of an app's tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessView {
    /// Its pid.
    pub pid: i32,
    /// Its parent's pid.
    pub parent: i32,
    /// Its arguments, joined by spaces; empty if it is dead and not collected yet.
    pub command: String,
    /// Resident memory in bytes.
    pub memory_bytes: u64,
    /// CPU time in milliseconds that it has used, with the children it waited for.
    pub cpu_ms: u64,
    /// Milliseconds since it was started.
    pub age_ms: u64,
}
