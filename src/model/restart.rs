//! Restart policy: how an app ended, and what that means for the next start. Pure arithmetic over the
//! exit, the app's history and the time; the machine carries the verdict out.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::backoff::{Backoff, GiveUp};

/// Which ends lead to another start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Restart {
    #[default]
    Always,
    /// Not after exit code 0.
    OnFailure,
    Never,
}

/// What exit code 0 of a ready app means when `restart` is `Always`: the person closed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OnClose {
    /// It comes back.
    #[default]
    Restart,
    /// It stays away until somebody starts it.
    Hold,
}

/// What follows when the backoff gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum OnGiveUp {
    /// The app stays down until a start or a changed manifest.
    #[default]
    Hold,
    /// The supervisor drains and exits with this code.
    EndSession { code: u8 },
}

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
            Exit::ProfileLocked => f.write_str("profile locked by another browser (exit code 21)"),
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

/// Linux x86_64 and aarch64 signal numbers by name.
const SIGNALS: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// Reads `TERM`, `SIGTERM`, `term` or `15`.
pub fn signal_number(text: &str) -> Result<i32, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = SIGNALS.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    match name.parse() {
        Ok(number @ 1..=31) => Ok(number),
        _ => Err(format!("`{text}` is not a signal: use a name as in \"TERM\" or \"INT\", or a number from 1 to 31")),
    }
}

/// The name without `SIG`; real-time signals have none.
pub fn signal_name(number: i32) -> Option<&'static str> {
    SIGNALS.iter().find(|(_, known)| *known == number).map(|(name, _)| *name)
}

/// What comes after an exit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    AtOnce,
    /// Start number `attempt` since it was last stable, after this wait.
    After {
        attempt: u32,
        wait: Duration,
    },
    GiveUp,
    /// Done (`restart`) or held (`on_close`): no further start.
    Stay,
}

/// What the policy remembers of an app's earlier ends.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct History {
    /// Retries since the app was last stable.
    pub attempt: u32,
    /// When the recent unexpected exits were; no longer than `give_up.times`.
    unexpected: VecDeque<Duration>,
}

impl History {
    /// A manual start or a new manifest forgets everything.
    pub fn forget(&mut self) {
        *self = History::default();
    }
}

/// Decides what follows `exit` of a run that was up for `lived` (`None`: it never became ready).
pub fn decide(
    (restart, on_close, backoff): (Restart, OnClose, &Backoff),
    history: &mut History,
    exit: &Exit,
    (now, lived): (Duration, Option<Duration>),
    chance: f64,
) -> Verdict {
    let closed = *exit == Exit::Clean;
    let stays = match restart {
        Restart::Never => true,
        Restart::OnFailure => closed,
        Restart::Always => closed && lived.is_some() && on_close == OnClose::Hold,
    };
    if stays {
        return Verdict::Stay;
    }
    if exit.unexpected() && gave_up(backoff.give_up, &mut history.unexpected, now) {
        return Verdict::GiveUp;
    }
    if lived.is_some_and(|lived| lived >= backoff.stable_after.0) {
        history.attempt = 0;
        return Verdict::AtOnce;
    }
    history.attempt = history.attempt.saturating_add(1);
    Verdict::After { attempt: history.attempt, wait: backoff.wait(history.attempt, chance) }
}

fn gave_up(policy: GiveUp, unexpected: &mut VecDeque<Duration>, now: Duration) -> bool {
    let GiveUp::After { times, within } = policy else { return false };
    unexpected.push_back(now);
    while unexpected.len() > times as usize || unexpected.front().is_some_and(|then| now - *then > within.0) {
        unexpected.pop_front();
    }
    unexpected.len() >= times as usize
}

#[cfg(test)]
mod tests {
    use super::super::quantity::Span;
    use super::*;
    use proptest::prelude::*;

    const LONG: Option<Duration> = Some(Duration::from_secs(60));

    fn after(restart: Restart, on_close: OnClose, exit: Exit, lived: Option<Duration>) -> Verdict {
        let backoff = Backoff { jitter: 0.0, ..Backoff::default() };
        decide((restart, on_close, &backoff), &mut History::default(), &exit, (Duration::ZERO, lived), 0.0)
    }

    #[test]
    fn a_stable_app_is_back_at_once() {
        assert_eq!(after(Restart::Always, OnClose::Restart, Exit::Signal(9), LONG), Verdict::AtOnce);
        assert_eq!(after(Restart::Always, OnClose::Restart, Exit::Clean, LONG), Verdict::AtOnce);
    }

    #[test]
    fn a_young_or_unready_app_waits() {
        let wait = Verdict::After { attempt: 1, wait: Duration::from_secs(1) };
        assert_eq!(after(Restart::Always, OnClose::Restart, Exit::Code(1), Some(Duration::from_millis(50))), wait);
        assert_eq!(after(Restart::Always, OnClose::Hold, Exit::Clean, None), wait);
    }

    #[test]
    fn policies_that_stay_down_stay_down() {
        assert_eq!(after(Restart::Never, OnClose::Restart, Exit::Signal(11), LONG), Verdict::Stay);
        assert_eq!(after(Restart::OnFailure, OnClose::Restart, Exit::Clean, LONG), Verdict::Stay);
        assert_eq!(after(Restart::Always, OnClose::Hold, Exit::Clean, LONG), Verdict::Stay);
    }

    #[test]
    fn only_unexpected_exits_within_the_window_give_up() {
        let backoff = Backoff { give_up: GiveUp::After { times: 3, within: Span::secs(10) }, ..Backoff::default() };
        let policy = (Restart::Always, OnClose::Restart, &backoff);
        let mut history = History::default();
        let mut end = |exit: Exit, at: u64| {
            decide(policy, &mut history, &exit, (Duration::from_secs(at), LONG), 0.0) == Verdict::GiveUp
        };
        let ends = [
            end(Exit::Code(1), 0),
            end(Exit::Clean, 1),
            end(Exit::Clean, 2),
            end(Exit::Code(1), 3),
            end(Exit::Code(1), 11),
            end(Exit::Code(1), 12),
        ];
        assert_eq!(ends, [false, false, false, false, false, true]);
    }

    #[test]
    fn signals_are_read_as_kill_reads_them() {
        for text in ["INT", "SIGINT", "int", "2"] {
            assert_eq!(signal_number(text), Ok(2), "{text}");
        }
        assert!(signal_number("0").is_err() && signal_number("TERMINATE").is_err());
    }

    proptest! {
        #[test]
        fn giving_up_needs_exactly_so_many_unexpected_exits(times in 1u32..20) {
            let backoff = Backoff { give_up: GiveUp::After { times, within: Span::secs(3600) }, ..Backoff::default() };
            let mut history = History::default();
            let verdicts: Vec<bool> = (0..times)
                .map(|i| decide((Restart::Always, OnClose::Restart, &backoff), &mut history, &Exit::Code(1), (Duration::from_secs(u64::from(i)), None), 0.0) == Verdict::GiveUp)
                .collect();
            prop_assert_eq!(verdicts.iter().filter(|gave_up| **gave_up).count(), 1);
            prop_assert!(verdicts[times as usize - 1]);
        }
    }
}
