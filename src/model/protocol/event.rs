//! The event stream: one JSON object per line.

use serde::{Deserialize, Serialize};

use super::StateName;
use crate::model::exit::Exit;

/// One line of `GET /v1/events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventLine {
    /// When it happened: RFC 3339, UTC.
    pub ts: String,
    /// What happened.
    #[serde(flatten)]
    pub event: SessionEvent,
}

/// What happened in the session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event")]
#[expect(missing_docs, reason = "docs/control.md describes the fields; they mean what they mean in `AppStatus`")]
pub enum SessionEvent {
    /// A new process was spawned.
    #[serde(rename = "app.launching")]
    Launching { app: String, run: u64, pid: i32 },
    /// A process that was already alive was adopted as the app.
    #[serde(rename = "app.adopted")]
    Adopted { app: String, run: u64, pid: i32 },
    /// The app has changed state.
    #[serde(rename = "app.state")]
    State { app: String, run: u64, pid: Option<i32>, from: StateName, to: StateName },
    /// A run ended without a request.
    #[serde(rename = "app.crashed")]
    Crashed {
        app: String,
        run: u64,
        pid: Option<i32>,
        exit: Exit,
        /// The exit as text.
        reason: String,
        uptime_ms: Option<u64>,
        /// The next step, as text.
        next: String,
    },
    /// The app has failed many times in a row and needs attention.
    #[serde(rename = "app.crash_looping")]
    CrashLooping { app: String, run: u64, failures: u32 },
    /// Manifests were applied, in this many steps.
    #[serde(rename = "manifests.applied")]
    Applied { steps: usize, unchanged: usize, problems: usize },
    /// All apps are being stopped.
    #[serde(rename = "drain.begun")]
    DrainBegun { reason: String },
    /// All remaining processes are being killed.
    #[serde(rename = "drain.hurried")]
    DrainHurried { reason: String },
    /// This many events were dropped because the client was too slow.
    #[serde(rename = "dropped")]
    Dropped { n: u64 },
}
