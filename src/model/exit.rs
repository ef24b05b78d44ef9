//! How a run ended: turns a wait status and other clues into an exit class.

mod memory;

use std::fmt;

use serde::{Deserialize, Serialize};

use super::signal::signal_name;

pub use memory::{Candidate, Kills, peak};

/// SIGKILL, which the kernel uses to end a process when memory has run out.
const KILL: i32 = 9;

/// The exit code of a Chromium whose profile is locked.
const PROFILE_LOCKED: i32 = 21;

/// Facts that a wait status does not contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Clues {
    /// It is a Chromium. We know this because the app clears the profile locks before a start.
    pub locks: bool,
    /// The kernel killed the process because memory ran out.
    pub out_of_memory: bool,
}

/// A child that has exited and is not collected yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExitRecord {
    /// Its pid.
    pub pid: i32,
    /// The wait status, as in `wait(2)`.
    pub status: i32,
    /// Peak resident bytes of the child and of the children it waited for.
    pub peak: u64,
}

/// How a run ended. The same names appear in status, logs and metrics.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    /// Exit code 21 of a Chromium: another browser has locked its profile.
    ProfileLocked,
    /// A prelaunch step failed. Names the step and the reason.
    HookFailed(String),
    /// The program could not be executed, for this reason.
    SpawnFailed(String),
    /// Not ready in time. Holds the last failure of the probe.
    NotReady(String),
    /// The health probe failed too often. Holds its last failure.
    Unhealthy(String),
    /// The tree used more than `limits.max_rss`. Holds its size in bytes.
    TooMuchMemory(u64),
    /// Stopped on request of an operator, a reload or a drain.
    StoppedByUs,
    /// Gone for an unknown reason, because it was not our child.
    Unknown,
}

/// Whether a `wait(2)` status means "killed by SIGKILL".
pub fn was_killed(status: i32) -> bool {
    signal_of(status) == Some(KILL)
}

fn signal_of(status: i32) -> Option<i32> {
    Some(status & 0x7f).filter(|signal| *signal != 0)
}

/// Whether the guard will report how this leader ended, which is not our child. It reports its own children: those of an
/// earlier supervisor. `parent`: its parent now, if it can still be seen; the kernel reports 0 while it is being collected.
/// `parent_before`: its parent when it was found alive.
pub fn is_left_to_guard(guard: Option<i32>, parent: Option<i32>, parent_before: i32) -> bool {
    let parent = parent.filter(|parent| *parent != 0).unwrap_or(parent_before);
    guard == Some(parent)
}

impl Exit {
    /// The exit class of a `wait(2)` status.
    pub fn of(status: i32, clues: Clues) -> Exit {
        match (signal_of(status), (status >> 8) & 0xff) {
            (Some(KILL), _) if clues.out_of_memory => Exit::OutOfMemory,
            (Some(signal), _) => Exit::Signal(signal),
            (None, 0) => Exit::Clean,
            (None, PROFILE_LOCKED) if clues.locks => Exit::ProfileLocked,
            (None, code) => Exit::Code(code),
        }
    }

    /// Whether the end was unexpected and so counts towards giving up.
    pub fn unexpected(&self) -> bool {
        !matches!(self, Exit::Clean | Exit::StoppedByUs)
    }

    /// Whether its words say already that the app was not ready yet.
    pub fn is_of_a_start(&self) -> bool {
        matches!(self, Exit::HookFailed(_) | Exit::SpawnFailed(_) | Exit::NotReady(_))
    }

    /// The variables for the steps of `poststop`.
    pub fn environment(&self) -> [(String, String); 2] {
        let status = match self {
            Exit::Clean => Some(0),
            Exit::Code(code) => Some(*code),
            Exit::ProfileLocked => Some(PROFILE_LOCKED),
            Exit::Signal(signal) => Some(*signal),
            Exit::OutOfMemory => Some(KILL),
            Exit::HookFailed(_)
            | Exit::SpawnFailed(_)
            | Exit::NotReady(_)
            | Exit::Unhealthy(_)
            | Exit::TooMuchMemory(_)
            | Exit::StoppedByUs
            | Exit::Unknown => None,
        };
        let status = status.map(|status| status.to_string()).unwrap_or_default();
        [("KASM_VOID_EXIT".into(), self.class().into()), ("KASM_VOID_EXIT_STATUS".into(), status)]
    }

    /// Whether the output that explains it is that of a hook, not the app's own.
    pub fn is_of_a_hook(&self) -> bool {
        matches!(self, Exit::HookFailed(_))
    }

    /// A line for the app's log, for people who read only that. `printed`: the run has printed something. An app
    /// without output has no log file, and gets none for this.
    pub fn note(&self, run: u64, printed: bool) -> Option<String> {
        (self.unexpected() && printed).then(|| format!("run {run} ended: {self}"))
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
            Exit::NotReady(why) if why.is_empty() => f.write_str("not ready in time"),
            Exit::NotReady(why) => write!(f, "not ready in time: {why}"),
            Exit::Unhealthy(why) => write!(f, "unhealthy: {why}"),
            Exit::TooMuchMemory(bytes) => write!(f, "too much memory: {} MiB", bytes >> 20),
            Exit::StoppedByUs => f.write_str("stopped"),
            Exit::Unknown => f.write_str("gone, cause unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_reports_its_own_children_only() {
        let guard = Some(10);
        assert!(is_left_to_guard(guard, Some(10), 10), "it is dead and not collected");
        assert!(is_left_to_guard(guard, None, 10) && is_left_to_guard(guard, Some(0), 10), "it is being collected");
        assert!(!is_left_to_guard(guard, Some(1), 10), "somebody else has become its parent");
        assert!(!is_left_to_guard(guard, None, 1) && !is_left_to_guard(None, None, 10));
    }

    #[test]
    fn an_app_that_printed_nothing_gets_no_note() {
        assert_eq!(Exit::Code(3).note(7, true).as_deref(), Some("run 7 ended: exit code 3"));
        assert_eq!((Exit::Code(3).note(7, false), Exit::StoppedByUs.note(7, true)), (None, None));
        assert!(Exit::HookFailed(String::new()).is_of_a_hook() && !Exit::NotReady(String::new()).is_of_a_hook());
    }

    #[test]
    fn a_status_is_told_by_its_clues() {
        let none = Clues::default();
        let (locks, memory) = (Clues { locks: true, ..none }, Clues { out_of_memory: true, ..none });
        for (status, clues, exit) in [
            (0, none, Exit::Clean),
            (0, memory, Exit::Clean),
            (3 << 8, none, Exit::Code(3)),
            (21 << 8, none, Exit::Code(21)),
            (21 << 8, locks, Exit::ProfileLocked),
            (255 << 8, locks, Exit::Code(255)),
            (9, none, Exit::Signal(9)),
            (9, memory, Exit::OutOfMemory),
            (11, memory, Exit::Signal(11)),
            (11 | 0x80, none, Exit::Signal(11)),
        ] {
            assert_eq!(Exit::of(status, clues), exit, "{status} {clues:?}");
        }
    }
}
