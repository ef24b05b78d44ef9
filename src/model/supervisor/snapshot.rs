//! The snapshot that clients see: the status of every app at one moment.

use std::time::Duration;

use super::apps::Slot;
use super::{AppId, Staging, Supervisor};
use crate::model::exit::Exit;
use crate::model::machine::{State, StopReason};
use crate::model::protocol::{AppStatus, FAILED_JOB, Snapshot};

/// Facts about an app that only the daemon can observe.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Resident memory of the whole tree; `None` while the app has no leader.
    pub memory_bytes: Option<u64>,
    /// CPU time of the whole tree in milliseconds; `None` while the app has no leader.
    pub cpu_ms: Option<u64>,
    /// Why its output is being dropped.
    pub log_trouble: Option<String>,
    /// The processes that keep it from being down, as text.
    pub alive: Vec<String>,
}

impl Supervisor {
    /// Calls `observe` once for each app.
    pub fn snapshot(&self, now: Duration, mut observe: impl FnMut(AppId, &State, &str) -> Observed) -> Snapshot {
        let status = |(name, id, slot): (&str, AppId, &Slot)| {
            let waits_for = self.waits_for(id);
            status(name, slot, now, (observe(id, slot.state(), name), waits_for))
        };
        Snapshot {
            apps: self.apps.by_name().map(status).collect(),
            problems: self.problems.iter().cloned().chain(self.trouble().map(String::from)).collect(),
            draining: self.drain.is_some(),
            staging: self.staging != Staging::Done,
        }
    }
}

fn status(name: &str, slot: &Slot, now: Duration, (observed, waits_for): (Observed, Option<String>)) -> AppStatus {
    let (machine, state) = (&slot.machine, slot.state());
    let milliseconds = |span: Duration| span.as_millis() as u64;
    AppStatus {
        name: name.into(),
        about: machine.app.about.clone(),
        state: state.name(),
        detail: failed_job(slot).unwrap_or_else(|| detail(name, state, waits_for, &observed.alive)),
        pid: state.pid(),
        adopted: matches!(state, State::Running { adopted: true, .. }),
        run: machine.run,
        uptime_ms: match state {
            State::Running { since, .. } => Some(milliseconds(now.saturating_sub(*since))),
            _ => None,
        },
        restarts: machine.restarts,
        failures: machine.failures(),
        last_exit: machine.last_exit.clone(),
        next_retry_ms: match state {
            State::Backoff { until, .. } => Some(milliseconds(until.saturating_sub(now))),
            _ => None,
        },
        memory_bytes: observed.memory_bytes,
        cpu_ms: observed.cpu_ms,
        stale: slot.stale.clone(),
        log_trouble: observed.log_trouble,
        warnings: machine.app.warnings.clone(),
        actions: machine.app.hooks.actions.keys().cloned().collect(),
    }
}

/// The detail of a job that has ended with a failure.
fn failed_job(slot: &Slot) -> Option<String> {
    let exit = slot.machine.last_exit.as_ref().filter(|exit| **exit != Exit::Clean)?;
    let is_over = matches!(slot.state(), State::Stopped { why: StopReason::Done, .. });
    is_over.then(|| format!("{FAILED_JOB}: {exit}"))
}

/// The detail of the state. Adds what it waits for, how to leave `GaveUp`, and which processes delay a stop.
fn detail(name: &str, state: &State, waits_for: Option<String>, alive: &[String]) -> String {
    /// This many are named; the rest are counted.
    const NAMED: usize = 3;
    let mut parts = vec![waits_for.unwrap_or_else(|| state.detail())];
    match state {
        State::GaveUp { .. } => parts.push(format!("`kasm-void start {name}` tries again")),
        _ if !alive.is_empty() => {
            let more = match alive.len().saturating_sub(NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            parts.push(format!("alive: {}{more}", alive[..alive.len().min(NAMED)].join(", ")));
        }
        _ => {}
    }
    parts.retain(|part| !part.is_empty());
    parts.join("; ")
}
