//! The restart policy: what an exit means for the next start. Computes a decision from the exit, the app's history and
//! the time; the machine carries it out.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::backoff::{Backoff, GiveUp};
use crate::model::exit::Exit;

/// Which exits lead to a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Restart {
    /// Restart after every exit.
    #[default]
    Always,
    /// Restart, except after exit code 0.
    OnFailure,
    /// Never restart.
    Never,
}

/// What to do if a ready app exits with code 0 and `restart` is `Always`: the user has closed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OnClose {
    /// Restart it.
    #[default]
    Restart,
    /// Leave it down until it is started by hand.
    Hold,
}

/// What to do when the backoff gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the text of the variant names its field")]
pub enum OnGiveUp {
    /// The app stays down until a start or a changed manifest.
    #[default]
    Hold,
    /// The supervisor drains and exits with this code.
    EndSession { code: u8 },
}

/// Which exits lead to a restart, after which wait, and when to give up.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RestartPolicy {
    /// `restart`: which exits lead to a restart.
    pub restart: Restart,
    /// `on_close`: what a closed window means.
    pub on_close: OnClose,
    /// `backoff`: the waits between starts.
    pub backoff: Backoff,
    /// `on_give_up`: what follows when the backoff gives up.
    pub on_give_up: OnGiveUp,
}

/// What to do after an exit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Decision {
    /// Start again at once.
    AtOnce,
    /// Start again after this wait, as start number `attempt` since the app was last stable.
    Retry {
        /// Counted from 1.
        attempt: u32,
        /// From the exit to the start.
        wait: Duration,
    },
    /// Do not start again until a start is requested or the manifest changes.
    GiveUp,
    /// Do not start again.
    Stay(Stay),
}

/// Why the app is not started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    /// `restart` does not allow a start after this exit.
    Done,
    /// The user closed the app, and `on_close` is `Hold`.
    Closed,
}

/// How a run ended, as the policy sees it.
#[derive(Debug, Clone, Copy)]
pub struct FinishedRun<'a> {
    /// The exit of its leader.
    pub exit: &'a Exit,
    /// How long it had been ready; `None` if it never was.
    pub lived: Option<Duration>,
    /// Only the user can have ended it: exit code 0 while it was ready, and no other cause.
    pub closed: bool,
}

/// The earlier exits of an app, as far as the policy needs them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct History {
    /// Number of failed starts since the app was last stable.
    pub attempt: u32,
    /// The times of recent unexpected exits before `stable_after`; at most `give_up.times` of them.
    early: VecDeque<Duration>,
}

impl History {
    /// Forgets everything, for a start by hand or a new manifest.
    pub fn forget(&mut self) {
        *self = History::default();
    }
}

/// No user closes a window sooner than this after it appeared. An app that exits with 0 before that ended by itself.
pub const SOONEST_CLOSING: Duration = Duration::from_millis(500);

/// Decides what to do after the end of a run. `chance` is a random number in 0..1.
///
/// Only exits before `stable_after` count towards giving up and lengthen the waits. Closing the window does neither.
pub fn decide(
    policy: &RestartPolicy,
    history: &mut History,
    ended: &FinishedRun<'_>,
    now: Duration,
    chance: f64,
) -> Decision {
    let RestartPolicy { restart, on_close, backoff, on_give_up: _ } = policy;
    let closed = ended.closed && ended.lived.is_some_and(|lived| lived >= SOONEST_CLOSING);
    match restart {
        Restart::Never => return Decision::Stay(Stay::Done),
        Restart::OnFailure if *ended.exit == Exit::Clean => return Decision::Stay(Stay::Done),
        Restart::Always if closed && *on_close == OnClose::Hold => return Decision::Stay(Stay::Closed),
        Restart::OnFailure | Restart::Always => {}
    }
    if ended.lived.is_some_and(|lived| lived >= backoff.stable_after) {
        history.attempt = 0;
        return Decision::AtOnce;
    }
    if closed {
        return Decision::Retry { attempt: history.attempt, wait: backoff.wait(1, chance) };
    }
    if ended.exit.unexpected() && gave_up(backoff.give_up, &mut history.early, now) {
        return Decision::GiveUp;
    }
    history.attempt = history.attempt.saturating_add(1);
    Decision::Retry { attempt: history.attempt, wait: backoff.wait(history.attempt, chance) }
}

fn gave_up(policy: GiveUp, early: &mut VecDeque<Duration>, now: Duration) -> bool {
    let GiveUp::After { times, within } = policy else { return false };
    early.push_back(now);
    while early.len() > times as usize || early.front().is_some_and(|then| now.saturating_sub(*then) > within) {
        early.pop_front();
    }
    early.len() >= times as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LONG: Option<Duration> = Some(Duration::from_secs(60));
    const SHORT: Option<Duration> = Some(Duration::from_secs(1));

    fn policy(restart: Restart, on_close: OnClose, give_up: GiveUp) -> RestartPolicy {
        let backoff = Backoff { jitter: 0.0, give_up, ..Backoff::default() };
        RestartPolicy { restart, on_close, backoff, on_give_up: OnGiveUp::Hold }
    }

    fn after(restart: Restart, on_close: OnClose, exit: Exit, lived: Option<Duration>) -> Decision {
        let closed = exit == Exit::Clean && lived.is_some();
        let ended = FinishedRun { exit: &exit, lived, closed };
        decide(&policy(restart, on_close, GiveUp::Never), &mut History::default(), &ended, Duration::ZERO, 0.0)
    }

    #[test]
    fn a_stable_app_is_back_at_once() {
        assert_eq!(after(Restart::Always, OnClose::Restart, Exit::Signal(9), LONG), Decision::AtOnce);
        assert_eq!(after(Restart::Always, OnClose::Restart, Exit::Clean, LONG), Decision::AtOnce);
    }

    #[test]
    fn a_young_or_unready_app_waits() {
        let wait = Decision::Retry { attempt: 1, wait: Duration::from_secs(1) };
        assert_eq!(after(Restart::Always, OnClose::Restart, Exit::Code(1), Some(Duration::from_millis(50))), wait);
        assert_eq!(after(Restart::Always, OnClose::Hold, Exit::Clean, None), wait);
    }

    #[test]
    fn policies_that_stay_down_stay_down() {
        let done = Decision::Stay(Stay::Done);
        assert_eq!(after(Restart::Never, OnClose::Restart, Exit::Signal(11), LONG), done);
        assert_eq!(after(Restart::OnFailure, OnClose::Restart, Exit::Clean, LONG), done);
        assert_eq!(after(Restart::Always, OnClose::Hold, Exit::Clean, LONG), Decision::Stay(Stay::Closed));
        let by_itself = after(Restart::Always, OnClose::Hold, Exit::Clean, Some(Duration::from_millis(3)));
        assert!(matches!(by_itself, Decision::Retry { .. }), "nobody is so fast: {by_itself:?}");
    }

    /// The decisions of the policy for exits of one app at these seconds.
    fn story(give_up: GiveUp, ends: &[(u64, Exit, Option<Duration>)]) -> Vec<Decision> {
        let policy = policy(Restart::Always, OnClose::Restart, give_up);
        let mut history = History::default();
        let decisions = ends.iter().map(|(at, exit, lived)| {
            let ended = FinishedRun { exit, lived: *lived, closed: *exit == Exit::Clean && lived.is_some() };
            decide(&policy, &mut history, &ended, Duration::from_secs(*at), 0.0)
        });
        decisions.collect()
    }

    #[test]
    fn only_early_unexpected_exits_within_the_window_give_up() {
        let give_up = GiveUp::After { times: 3, within: Duration::from_secs(10) };
        let gave_up = |ends: &[(u64, Exit, Option<Duration>)]| {
            story(give_up, ends).iter().map(|decision| *decision == Decision::GiveUp).collect::<Vec<_>>()
        };
        let code = || Exit::Code(1);
        let ends = [
            (0, code(), SHORT),
            (1, Exit::Clean, SHORT),
            (2, Exit::Clean, SHORT),
            (3, code(), None),
            (11, code(), SHORT),
            (12, code(), SHORT),
        ];
        assert_eq!(gave_up(&ends), [false, false, false, false, false, true]);
        let stable = [(0, code(), LONG), (1, Exit::Signal(11), LONG), (2, code(), LONG), (3, code(), LONG)];
        assert_eq!(gave_up(&stable), [false; 4], "each run was long and well");
    }

    #[test]
    fn six_closings_in_a_row_wait_no_longer_than_one() {
        let ends: Vec<_> = (0..6).map(|second| (second, Exit::Clean, SHORT)).collect();
        for decision in story(GiveUp::Never, &ends) {
            assert!(matches!(decision, Decision::Retry { wait, .. } if wait == Duration::from_secs(1)), "{decision:?}");
        }
        let by_itself: Vec<_> = (0..6).map(|second| (second, Exit::Clean, Some(Duration::from_millis(3)))).collect();
        let last = story(GiveUp::Never, &by_itself).pop();
        assert_eq!(last, Some(Decision::Retry { attempt: 6, wait: Duration::from_secs(30) }), "nobody is so fast");
    }

    proptest! {
        #[test]
        fn giving_up_needs_exactly_so_many_early_exits(times in 1u32..20, closings in 0u32..20) {
            let give_up = GiveUp::After { times, within: Duration::from_secs(3600) };
            let closed = (0..closings).map(|i| (u64::from(i), Exit::Clean, SHORT));
            let failed = (0..times).map(|i| (u64::from(closings + i), Exit::Code(1), None));
            let decisions = story(give_up, &closed.chain(failed).collect::<Vec<_>>());
            let at = decisions.iter().position(|decision| *decision == Decision::GiveUp);
            prop_assert_eq!(at, Some((closings + times) as usize - 1));
        }

        /// By default the policy never gives up, and no wait is longer than `max` plus jitter.
        #[test]
        fn by_default_there_is_always_a_next_start(
            ends in proptest::collection::vec((0u64..10_000, any::<bool>(), proptest::option::of(0u64..5)), 1..200),
        ) {
            let mut ends: Vec<_> = ends
                .into_iter()
                .map(|(at, clean, lived)| {
                    (at, if clean { Exit::Clean } else { Exit::Code(1) }, lived.map(Duration::from_secs))
                })
                .collect();
            ends.sort_by_key(|(at, ..)| *at);
            for decision in story(Backoff::default().give_up, &ends) {
                match decision {
                    Decision::AtOnce => {}
                    Decision::Retry { wait, .. } => prop_assert!(wait <= Backoff::default().max),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
    }
}
