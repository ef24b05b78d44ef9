//! The restart policy: what an exit means for the next start. Pure arithmetic over the exit, the app's history
//! and the time; the machine carries the verdict out.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::backoff::{Backoff, GiveUp};
use crate::model::exit::Exit;

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

/// Which ends lead to another start, after which wait, and until when.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RestartPolicy {
    pub restart: Restart,
    pub on_close: OnClose,
    pub backoff: Backoff,
    pub on_give_up: OnGiveUp,
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
    policy: &RestartPolicy,
    history: &mut History,
    exit: &Exit,
    (now, lived): (Duration, Option<Duration>),
    chance: f64,
) -> Verdict {
    let RestartPolicy { restart, on_close, backoff, on_give_up: _ } = policy;
    let closed = *exit == Exit::Clean;
    let stays = match restart {
        Restart::Never => true,
        Restart::OnFailure => closed,
        Restart::Always => closed && lived.is_some() && *on_close == OnClose::Hold,
    };
    if stays {
        return Verdict::Stay;
    }
    if exit.unexpected() && gave_up(backoff.give_up, &mut history.unexpected, now) {
        return Verdict::GiveUp;
    }
    if lived.is_some_and(|lived| lived >= backoff.stable_after) {
        history.attempt = 0;
        return Verdict::AtOnce;
    }
    history.attempt = history.attempt.saturating_add(1);
    Verdict::After { attempt: history.attempt, wait: backoff.wait(history.attempt, chance) }
}

fn gave_up(policy: GiveUp, unexpected: &mut VecDeque<Duration>, now: Duration) -> bool {
    let GiveUp::After { times, within } = policy else { return false };
    unexpected.push_back(now);
    while unexpected.len() > times as usize || unexpected.front().is_some_and(|then| now - *then > within) {
        unexpected.pop_front();
    }
    unexpected.len() >= times as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LONG: Option<Duration> = Some(Duration::from_secs(60));

    fn after(restart: Restart, on_close: OnClose, exit: Exit, lived: Option<Duration>) -> Verdict {
        let backoff = Backoff { jitter: 0.0, ..Backoff::default() };
        let policy = RestartPolicy { restart, on_close, backoff, ..RestartPolicy::default() };
        decide(&policy, &mut History::default(), &exit, (Duration::ZERO, lived), 0.0)
    }

    fn giving_up(times: u32, within: Duration) -> RestartPolicy {
        let backoff = Backoff { give_up: GiveUp::After { times, within }, ..Backoff::default() };
        RestartPolicy { backoff, ..RestartPolicy::default() }
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
        let policy = giving_up(3, Duration::from_secs(10));
        let mut history = History::default();
        let mut end = |exit: Exit, at: u64| {
            decide(&policy, &mut history, &exit, (Duration::from_secs(at), LONG), 0.0) == Verdict::GiveUp
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

    proptest! {
        #[test]
        fn giving_up_needs_exactly_so_many_unexpected_exits(times in 1u32..20) {
            let policy = giving_up(times, Duration::from_secs(3600));
            let mut history = History::default();
            let verdicts: Vec<bool> = (0..times)
                .map(|i| decide(&policy, &mut history, &Exit::Code(1), (Duration::from_secs(u64::from(i)), None), 0.0) == Verdict::GiveUp)
                .collect();
            prop_assert_eq!(verdicts.iter().filter(|gave_up| **gave_up).count(), 1);
            prop_assert!(verdicts[times as usize - 1]);
        }
    }
}
