//! How a run ended.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::signal::signal_name;

/// How a run ended. The names are those of status, logs and metrics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "class", content = "detail")]
pub enum Exit {
    /// Exit code 0.
    Clean,
    /// Another exit code.
    Code(i32),
    /// Ended by this signal number.
    Signal(i32),
    /// Ended by the kernel because memory ran out.
    OutOfMemory,
    /// Exit code 21 of a Chromium: its profile is locked by another one.
    ProfileLocked,
    /// A prelaunch step failed: which and why.
    HookFailed(String),
    /// The program could not be executed: why.
    SpawnFailed(String),
    /// Not ready in time: what the probe said last.
    NotReady(String),
    /// The health probe failed too often: what it said last.
    Unhealthy(String),
    /// The tree held more than `limits.max_rss`: how many bytes.
    TooMuchMemory(u64),
    /// Asked by an operator, a reload or a drain.
    StoppedByUs,
    /// Gone, and nobody could say how (it was not our child).
    Unknown,
}

impl Exit {
    /// Unexpected ends count towards giving up.
    pub fn unexpected(&self) -> bool {
        !matches!(self, Exit::Clean | Exit::StoppedByUs)
    }

    /// The class alone, as a metric label.
    pub fn class(&self) -> &'static str {
        match self {
            Exit::Clean => "Clean",
            Exit::Code(_) => "Code",
            Exit::Signal(_) => "Signal",
            Exit::OutOfMemory => "OutOfMemory",
            Exit::ProfileLocked => "ProfileLocked",
            Exit::HookFailed(_) => "HookFailed",
            Exit::SpawnFailed(_) => "SpawnFailed",
            Exit::NotReady(_) => "NotReady",
            Exit::Unhealthy(_) => "Unhealthy",
            Exit::TooMuchMemory(_) => "TooMuchMemory",
            Exit::StoppedByUs => "StoppedByUs",
            Exit::Unknown => "Unknown",
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Clean => f.write_str("exit code 0"),
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(signal) => match signal_name(*signal) {
                Some(name) => write!(f, "killed by SIG{name}"),
                None => write!(f, "killed by signal {signal}"),
            },
            Exit::OutOfMemory => f.write_str("killed: out of memory"),
            Exit::ProfileLocked => {
                f.write_str("the profile is locked by another browser, or cannot be locked (exit code 21)")
            }
            Exit::HookFailed(why) => write!(f, "hook failed: {why}"),
            Exit::SpawnFailed(why) => write!(f, "cannot start: {why}"),
            Exit::NotReady(why) => write!(f, "not ready in time: {why}"),
            Exit::Unhealthy(why) => write!(f, "unhealthy: {why}"),
            Exit::TooMuchMemory(bytes) => write!(f, "too much memory: {} MiB", bytes >> 20),
            Exit::StoppedByUs => f.write_str("stopped"),
            Exit::Unknown => f.write_str("gone, cause unknown"),
        }
    }
}
