//! The wire: what the control socket sends and takes, as JSON. Everything a client can see is here.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::model::exit::Exit;

mod event;
mod route;
pub use event::{EventLine, SessionEvent};
pub use route::{HEAD_BYTES, Method, Route, RouteInfo};

/// `GET /v1/apps`: everything, as it was at one moment.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// Ordered by name.
    pub apps: Vec<AppStatus>,
    /// What is wrong with the manifests now, one line each, as `check` says it.
    pub problems: Vec<String>,
    /// The supervisor is stopping everything and will exit.
    pub draining: bool,
    /// The session's own steps are not done yet, so no app was started.
    #[serde(default)]
    pub staging: bool,
}

impl Snapshot {
    /// The apps in other states than these, in words.
    pub fn apps_outside(&self, states: &[StateName]) -> Vec<String> {
        let others = self.apps.iter().filter(|app| !states.contains(&app.state));
        others.map(|app| format!("{} is {}", app.name, app.state_in_words())).collect()
    }
}

impl AppStatus {
    /// The state and what its name leaves open, as in `Backoff (retry 3)`.
    pub fn state_in_words(&self) -> String {
        match self.detail.as_str() {
            "" => self.state.to_string(),
            detail => format!("{} ({detail})", self.state),
        }
    }
}

/// `GET /readyz`: whether people can use the session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    pub ready: bool,
    pub draining: bool,
    pub staging: bool,
    /// What is missing, in words.
    pub waiting: Vec<String>,
}

impl Readiness {
    /// `unmet`: which of the workspace's own conditions do not hold; `None`: it has none, and every app has to run, or
    /// to be down on purpose.
    pub fn of(snapshot: &Snapshot, unmet: Option<Vec<String>>) -> Readiness {
        let waiting = unmet.unwrap_or_else(|| snapshot.apps_outside(&[StateName::Running, StateName::Stopped]));
        let ready = waiting.is_empty() && !snapshot.draining && !snapshot.staging;
        Readiness { ready, draining: snapshot.draining, staging: snapshot.staging, waiting }
    }
}

/// `GET /v1/supervisor`: who is supervising.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Identity {
    pub version: String,
    pub pid: i32,
    /// The process that starts the next supervisor; `None`: it has died.
    pub guard: Option<i32>,
    /// Supervisors of this session that have died.
    pub deaths: u32,
    /// Why this one was started, unless it was the first.
    pub after: Option<String>,
    /// Version of what one supervisor leaves for the next.
    pub ledger: u32,
    /// Manifest folders; later ones win.
    pub folders: Vec<String>,
    /// What keeps it from keeping its promises, one sentence each with the way out.
    pub troubles: Vec<String>,
    /// Processes that were left to the supervisor and belong to no app.
    #[serde(default)]
    pub strays: Vec<String>,
    /// How often its state folder was deleted or changed by somebody, and restored.
    #[serde(default)]
    pub restored: u32,
}

/// One app in `status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppStatus {
    pub name: String,
    pub about: String,
    pub state: StateName,
    /// The rest of the state in words: "hooks", "waiting for display", "disabled"; empty when there is none.
    pub detail: String,
    /// The leader of the tree.
    pub pid: Option<i32>,
    /// Not started by this supervisor, but found by its pattern or by the marks in its environment.
    pub adopted: bool,
    /// Number of this start since the supervisor began with the app; 0 before the first.
    pub run: u64,
    /// Milliseconds since the app became ready; `None` unless it is running.
    pub uptime_ms: Option<u64>,
    /// Starts that followed an exit nobody asked for.
    pub restarts: u64,
    /// Starts in a row that failed; 0 once it lived for `backoff.stable_after`.
    #[serde(default)]
    pub failures: u32,
    pub last_exit: Option<Exit>,
    /// Milliseconds until the next start, in `Backoff`.
    pub next_retry_ms: Option<u64>,
    /// Resident bytes of the tree's leader; only in answers, never in events.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// The manifest on disk is broken and its last good version is running: the first problem.
    pub stale: Option<String>,
    /// Its output is not being kept: why, and how many lines were dropped; only in answers.
    #[serde(default)]
    pub log_trouble: Option<String>,
    /// Names that `do` takes.
    pub actions: Vec<String>,
}

/// The states of `docs/machine.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StateName {
    Stopped,
    Starting,
    Running,
    Crashed,
    Backoff,
    Stopping,
    GaveUp,
}

impl std::fmt::Display for StateName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            StateName::Stopped => "Stopped",
            StateName::Starting => "Starting",
            StateName::Running => "Running",
            StateName::Crashed => "Crashed",
            StateName::Backoff => "Backoff",
            StateName::Stopping => "Stopping",
            StateName::GaveUp => "GaveUp",
        })
    }
}

/// What a client can ask of one app: `POST /v1/apps/{app}/{verb}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    Start,
    Stop,
    Restart,
    /// `do/ACTION`
    Do(String),
    /// `signal/SIG`, a signal number, to the leader.
    Signal(i32),
}

impl std::fmt::Display for Verb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Verb::Start => f.write_str("start"),
            Verb::Stop => f.write_str("stop"),
            Verb::Restart => f.write_str("restart"),
            Verb::Do(action) => write!(f, "do {action}"),
            Verb::Signal(number) => write!(f, "signal {number}"),
        }
    }
}

/// Answer of a verb that changes something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub app: String,
    pub done: bool,
    /// One sentence: what happened, or why it did not and the way out.
    pub message: String,
    /// Why it was not done; absent when it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
}

/// Why a request was not carried out; each has one HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// 404
    NoSuchApp,
    /// 404
    NoSuchAction,
    /// 409: the state does not allow it (signal to an app that is down, anything while draining).
    WrongState,
    /// 409: another request ended what this one waited for.
    Overtaken,
    /// 502: it was tried and failed.
    Failed,
    /// 504: not done within the time the client gave.
    TimedOut,
}

impl Refusal {
    pub fn status(self) -> u16 {
        match self {
            Refusal::NoSuchApp | Refusal::NoSuchAction => 404,
            Refusal::WrongState | Refusal::Overtaken => 409,
            Refusal::Failed => 502,
            Refusal::TimedOut => 504,
        }
    }
}

/// How an app is started, for whoever shows one that is up: `GET /v1/apps/{app}/command`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandLine {
    /// The program and its arguments up to `args_last`.
    pub argv: Vec<String>,
    /// `args_last`
    pub last: Vec<String>,
    /// What goes between the two when the app is up; `None`: there is no use in running it again.
    pub again: Option<Vec<String>>,
    pub env: BTreeMap<String, String>,
    pub env_hidden: BTreeSet<String>,
}

/// One past crash: `GET /v1/apps/{app}/crashes`, newest last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crash {
    /// RFC 3339, UTC.
    pub at: String,
    pub run: u64,
    pub pid: Option<i32>,
    pub exit: Exit,
    /// The exit in words.
    pub reason: String,
    pub uptime_ms: Option<u64>,
    /// Peak resident bytes of the leader and the children it waited for.
    pub peak_memory_bytes: Option<u64>,
    /// Last lines of the app's output.
    pub tail: Vec<String>,
    /// What the cause may be, and the way out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// `GET /v1/plan` and the answer of `POST /v1/reload`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PlanReport {
    /// Ordered by app.
    pub steps: Vec<PlanStep>,
    pub unchanged: usize,
    /// One line each, as `check` says it.
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanStep {
    /// `+` start, `~` restart, `·` live or at the next start, `-` stop, `!` broken: last good kept.
    pub sign: char,
    pub app: String,
    /// As in `restart (args changed)`.
    pub text: String,
}
