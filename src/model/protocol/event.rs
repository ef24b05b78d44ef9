//! The event stream: one JSON object a line.

use serde::{Deserialize, Serialize};

use super::StateName;
use crate::model::exit::Exit;

/// One line of `GET /v1/events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventLine {
    /// When it happened: RFC 3339, UTC.
    pub ts: String,
    #[serde(flatten)]
    pub event: SessionEvent,
}

/// What happened in the session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event")]
pub enum SessionEvent {
    /// A real spawn.
    #[serde(rename = "app.launching")]
    Launching { app: String, run: u64, pid: i32 },
    /// A live process was taken for the app.
    #[serde(rename = "app.adopted")]
    Adopted { app: String, run: u64, pid: i32 },
    /// The app is in another state.
    #[serde(rename = "app.state")]
    State { app: String, run: u64, pid: Option<i32>, from: StateName, to: StateName },
    /// A run ended that nobody had asked to end.
    #[serde(rename = "app.crashed")]
    Crashed {
        app: String,
        run: u64,
        pid: Option<i32>,
        exit: Exit,
        /// The exit in words.
        reason: String,
        uptime_ms: Option<u64>,
        /// What follows, in words.
        next: String,
    },
    /// The app has failed so many times in a row that somebody should look.
    #[serde(rename = "app.crash_looping")]
    CrashLooping { app: String, run: u64, failures: u32 },
    /// Manifests were applied: how many steps that took.
    #[serde(rename = "manifests.applied")]
    Applied { steps: usize, unchanged: usize, problems: usize },
    /// Everything is being stopped.
    #[serde(rename = "drain.begun")]
    DrainBegun { reason: String },
    /// What is left is being killed.
    #[serde(rename = "drain.hurried")]
    DrainHurried { reason: String },
    /// This client was too slow for so many events.
    #[serde(rename = "dropped")]
    Dropped { n: u64 },
}
