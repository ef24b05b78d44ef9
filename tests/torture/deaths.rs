//! Compares each app before and after a death of the supervisor or its guard. If its process is still alive, it must be the
//! same run, with the same pid and the same counts. A wait must end when it would have ended.

use std::time::{Duration, Instant};

use kasm_void::model::protocol::{AppStatus, Snapshot, StateName};

use crate::cast::Kind;
use crate::expect::Part;
use crate::sight::Process;

/// How much earlier or later than announced a wait may end. It is reported in milliseconds, on a busy machine.
const SLACK: Duration = Duration::from_secs(2);

/// The state of one app before a death.
#[derive(Debug)]
pub struct Before {
    part: usize,
    touches: u32,
    status: AppStatus,
    /// The moments before and after the request for the status.
    asked: (Instant, Instant),
    leader: Option<Process>,
}

/// Records every app in the status.
pub fn before(parts: &[Part], status: &Snapshot, asked: (Instant, Instant), processes: &[Process]) -> Vec<Before> {
    let seen = |(at, part): (usize, &Part)| {
        let status = status.apps.iter().find(|app| app.name == part.kind.name())?.clone();
        let leader =
            processes.iter().find(|process| Some(process.inner) == status.pid && process.app.is_some()).cloned();
        Some(Before { part: at, touches: part.touches, status, asked, leader })
    };
    parts.iter().enumerate().filter_map(seen).collect()
}

impl Before {
    pub fn part(&self) -> usize {
        self.part
    }

    /// Why this app was not carried over; `None` if it was, or if nothing can be concluded.
    /// `calm`: no request for this app was made since the last quiet point.
    pub fn broken_by(&self, part: &Part, calm: bool, after: &Snapshot, asked: (Instant, Instant)) -> Option<String> {
        let name = part.kind.name();
        let after = after.apps.iter().find(|app| app.name == name);
        // Checked after the status: a process that exists now existed when the status was reported.
        let lives_on = self.is_carried(part.kind) && self.leader.as_ref().is_some_and(Process::is_there);
        let untouched = calm && part.touches == self.touches;
        let Some(after) = after else {
            return (lives_on && untouched).then(|| format!("{name} lives on, and is not in the status"));
        };
        let said = |app: &AppStatus| {
            format!("pid {:?}, run {}, {} restarts, {} {}", app.pid, app.run, app.restarts, app.state, app.detail)
        };
        let told = || format!("{name} was {}, and is {}", said(&self.status), said(after));
        let counts = |app: &AppStatus| (app.run, app.restarts);
        if lives_on && (after.pid, counts(after)) != (self.status.pid, counts(&self.status)) {
            return Some(told());
        }
        if untouched && counts(after) < counts(&self.status) {
            return Some(format!("{}: counts never go back", told()));
        }
        (part.kind == Kind::Waits && untouched && self.status.state == StateName::Backoff)
            .then(|| self.wait_broken_by(after, asked).map(|why| format!("{}: {why}", told())))?
    }

    /// Whether the pid in the status names the app, and not the launcher that it forks away from.
    fn is_carried(&self, kind: Kind) -> bool {
        let started = self.status.state == StateName::Running;
        let daemon = |leader: &Process| leader.argv.iter().any(|word| word.ends_with("/daemon"));
        started && (kind != Kind::Launched || self.leader.as_ref().is_some_and(daemon))
    }

    fn wait_broken_by(&self, after: &AppStatus, asked: (Instant, Instant)) -> Option<String> {
        let (Some(wait), Some(left)) = (self.status.next_retry_ms, after.next_retry_ms) else {
            return Some("it does not wait any more".into());
        };
        let ends = |asked: (Instant, Instant), wait: u64| {
            let wait = Duration::from_millis(wait);
            (asked.0 + wait, asked.1 + wait + SLACK)
        };
        let (was, is) = (ends(self.asked, wait), ends(asked, left));
        (was.0 > is.1 || is.0 > was.1).then(|| format!("it had to wait {wait} ms, and now has to wait {left} ms"))
    }
}
