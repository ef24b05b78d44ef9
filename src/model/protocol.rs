//! The wire types: the JSON that the control socket sends and receives. Everything a client can see is here.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::model::exit::Exit;

mod event;
mod inspect;
mod route;
pub use event::{EventLine, SessionEvent};
pub use inspect::{Inspection, ProcessView, ProgramView};
pub use route::{HEAD_BYTES, Method, Route, RouteInfo};

/// `GET /v1/apps`: a snapshot of all apps at one moment.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// Ordered by name.
    pub apps: Vec<AppStatus>,
    /// The current problems of the manifests, one line each, as in `check`.
    pub problems: Vec<String>,
    /// The supervisor is stopping all apps and will exit.
    pub draining: bool,
    /// The `stage` steps of the session are not done yet, so no app was started.
    #[serde(default)]
    pub staging: bool,
}

impl Snapshot {
    /// The apps that are not in one of these states, as text.
    pub fn apps_outside(&self, states: &[StateName]) -> Vec<String> {
        let others = self.apps.iter().filter(|app| !states.contains(&app.state));
        others.map(|app| format!("{} is {}", app.name, app.state_in_words())).collect()
    }
}

/// The detail of a job that has not succeeded begins with this.
pub const FAILED_JOB: &str = "failed";

impl AppStatus {
    /// It ended, is not started again, and that was no success.
    pub fn is_failed_job(&self) -> bool {
        self.state == StateName::Stopped && self.detail.starts_with(FAILED_JOB)
    }

    /// The state with its detail, as in `Backoff (retry 3)`.
    pub fn state_in_words(&self) -> String {
        match self.detail.as_str() {
            "" => self.state.to_string(),
            detail => format!("{} ({detail})", self.state),
        }
    }
}

/// `GET /readyz`: whether the session is ready for use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Nothing is missing, and the session is neither staging nor draining.
    pub ready: bool,
    /// As in [`Snapshot`].
    pub draining: bool,
    /// As in [`Snapshot`].
    pub staging: bool,
    /// What is missing, as text.
    pub waiting: Vec<String>,
}

impl Readiness {
    /// `unmet` lists the conditions of the workspace that do not hold. `None` means that it has no conditions; then
    /// every app must be running, or down on purpose.
    pub fn of(snapshot: &Snapshot, unmet: Option<Vec<String>>) -> Readiness {
        let waiting = unmet.unwrap_or_else(|| snapshot.apps_outside(&[StateName::Running, StateName::Stopped]));
        let ready = waiting.is_empty() && !snapshot.draining && !snapshot.staging;
        Readiness { ready, draining: snapshot.draining, staging: snapshot.staging, waiting }
    }
}

/// `GET /v1/supervisor`: facts about the supervisor.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Identity {
    /// The version of the binary, as in `--version`.
    pub version: String,
    /// The supervisor's pid.
    pub pid: i32,
    /// The guard, which starts the next supervisor; `None` if it has died.
    pub guard: Option<i32>,
    /// Supervisors of this session that have died.
    pub deaths: u32,
    /// Why this supervisor was started, unless it is the first.
    pub after: Option<String>,
    /// Version of the state that one supervisor saves for the next.
    pub ledger: u32,
    /// Manifest folders; later ones win.
    pub folders: Vec<String>,
    /// Problems that limit what the supervisor can do, one sentence each with the remedy.
    pub troubles: Vec<String>,
    /// Processes that were reparented to the supervisor and belong to no app.
    #[serde(default)]
    pub strays: Vec<String>,
    /// How often another process deleted or changed the state folder and the supervisor restored it.
    #[serde(default)]
    pub restored: u32,
}

/// One app in `status`. One type because it is one row of the answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppStatus {
    /// The manifest's file name without `.ron`.
    pub name: String,
    /// The manifest's one-line description; may be empty.
    pub about: String,
    /// What the app is doing.
    pub state: StateName,
    /// Details of the state, such as "hooks" or "disabled"; empty if there are none.
    pub detail: String,
    /// The leader of the tree.
    pub pid: Option<i32>,
    /// Not started by this supervisor, but found by its pattern or by the marks in its environment.
    pub adopted: bool,
    /// Number of this start, counted from the app's first start; 0 before it.
    pub run: u64,
    /// Milliseconds since the app became ready; `None` unless it is running.
    pub uptime_ms: Option<u64>,
    /// Starts that followed an exit without a request.
    pub restarts: u64,
    /// Failed starts in a row; 0 once the app has lived for `backoff.stable_after`.
    #[serde(default)]
    pub failures: u32,
    /// How the last run ended; `None` before the first end.
    pub last_exit: Option<Exit>,
    /// Milliseconds until the next start, in `Backoff`.
    pub next_retry_ms: Option<u64>,
    /// Resident memory of the leader in bytes; only in answers, never in events.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// CPU time in milliseconds that the tree has used, with the children it waited for; only in answers, never in
    /// events. It is smaller again after a process of the tree has ended without its parent.
    #[serde(default)]
    pub cpu_ms: Option<u64>,
    /// The first problem of the manifest on disk, if it is broken and its last good version is in use.
    pub stale: Option<String>,
    /// Why output is being dropped, and how many lines were; only in answers, never in events.
    #[serde(default)]
    pub log_trouble: Option<String>,
    /// Warnings of its manifest whose switch is off.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The actions that `do` accepts.
    pub actions: Vec<String>,
}

macro_rules! states {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The state of an app, as people see it. The states of `docs/machine.md` have these names.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum StateName {
            $($(#[$doc])* $name,)*
        }

        impl StateName {
            /// Every state, in the order of the metrics.
            pub const ALL: &'static [StateName] = &[$(StateName::$name),*];
        }

        impl std::fmt::Display for StateName {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(match self {
                    $(StateName::$name => stringify!($name),)*
                })
            }
        }
    };
}

states! {
    /// Down on purpose: never started, stopped, disabled, closed or done.
    Stopped,
    /// On the way to a process that is alive and ready.
    Starting,
    /// Alive, and ready if it has a ready probe.
    Running,
    /// The run has ended by itself; what is left of its tree is being ended.
    Crashed,
    /// Down, and started again when the wait is over.
    Backoff,
    /// Being stopped.
    Stopping,
    /// Down: the restart policy does not start it any more.
    GaveUp,
}

#[cfg(test)]
impl AppStatus {
    /// An app of which nothing else is known.
    pub(crate) fn of(name: &str, state: StateName) -> Self {
        AppStatus {
            name: name.into(),
            about: String::new(),
            state,
            detail: String::new(),
            pid: None,
            adopted: false,
            run: 0,
            uptime_ms: None,
            restarts: 0,
            failures: 0,
            last_exit: None,
            next_retry_ms: None,
            memory_bytes: None,
            cpu_ms: None,
            stale: None,
            log_trouble: None,
            warnings: Vec::new(),
            actions: Vec::new(),
        }
    }
}

/// A request to one app: `POST /v1/apps/{app}/{verb}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// Start it, unless it is up.
    Start,
    /// Stop it and keep it down.
    Stop,
    /// Stop it if it is up, then start it.
    Restart,
    /// `do/ACTION`
    Do(String),
    /// `signal/SIG`: sends this signal number to the leader.
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

/// The answer to a verb.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The app that was asked about; empty if the answer concerns no single app.
    pub app: String,
    /// Whether the request was carried out.
    pub done: bool,
    /// One sentence: what happened, or why it failed and what to do about it.
    pub message: String,
    /// Why it was not done; absent if it was.
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
    /// 409: the state does not allow it (a signal to an app that is down, any request while draining).
    WrongState,
    /// 409: another request overrode this one.
    Overtaken,
    /// 502: it was tried and failed.
    Failed,
    /// 504: not done within the time the client gave.
    TimedOut,
}

impl Refusal {
    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Refusal::NoSuchApp | Refusal::NoSuchAction => 404,
            Refusal::WrongState | Refusal::Overtaken => 409,
            Refusal::Failed => 502,
            Refusal::TimedOut => 504,
        }
    }
}

/// `GET /v1/apps/{app}/command`: how to start an app, and how to show it while it is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandLine {
    /// The program and its arguments before `args_last`.
    pub argv: Vec<String>,
    /// `args_last`
    pub last: Vec<String>,
    /// The arguments between the two while the app is up; `None` if it is pointless to run the program again.
    pub again: Option<Vec<String>>,
    /// Variables to set.
    pub env: BTreeMap<String, String>,
    /// Variables to remove.
    pub env_hidden: BTreeSet<String>,
}

/// One past crash: `GET /v1/apps/{app}/crashes`, newest last.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Crash {
    /// RFC 3339, UTC.
    pub at: String,
    /// The number of the run that ended.
    pub run: u64,
    /// The leader; `None` if the program was never started.
    pub pid: Option<i32>,
    /// How it ended.
    pub exit: Exit,
    /// The exit as text.
    pub reason: String,
    /// Milliseconds that it was ready; `None` if it never was.
    pub uptime_ms: Option<u64>,
    /// Peak resident memory in bytes, of the leader and the children it waited for.
    pub peak_memory_bytes: Option<u64>,
    /// Last lines of the app's output.
    pub tail: Vec<String>,
    /// The likely cause, and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// `GET /v1/plan` and the answer of `POST /v1/reload`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PlanReport {
    /// Ordered by app.
    pub steps: Vec<PlanStep>,
    /// How many apps stay as they are.
    pub unchanged: usize,
    /// One line each, as in `check`.
    pub problems: Vec<String>,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanStep {
    /// `+` start, `~` restart, `·` live or at the next start, `-` stop, `!` broken: last good kept.
    pub sign: char,
    /// The app's name.
    pub app: String,
    /// As in `restart (args changed)`.
    pub text: String,
}
