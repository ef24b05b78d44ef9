//! The end of a session: its stages, their deadlines, and what is asked of the supervisor on the way.

use std::time::Duration;

use super::{Guard, GuardEffect, ToSupervisor};
use crate::model::signal::TERM;

/// How long after the stop budget the guard stops waiting for the supervisor. Together with `KILL_WITHIN` this must be
/// less than the promised second.
pub const OVER_BUDGET: Duration = Duration::from_millis(700);

/// After a second request to end, the supervisor has this long. It then only has to kill.
pub(super) const HURRY: Duration = Duration::from_secs(2);

/// How long the guard keeps killing before it exits anyway: a process may be stuck in the kernel.
const KILL_WITHIN: Duration = Duration::from_millis(250);

/// The wait between two rounds of killing: a killed process may just have forked.
const KILL_AGAIN: Duration = Duration::from_millis(20);

/// Supervisors that may die while they drain before the guard ends the session itself.
const DEATHS_WHILE_DRAINING: u32 = 3;

/// A session that is ending.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Ending {
    began: Duration,
    /// The exit code of the session, unless a supervisor reports another one.
    pub(super) code: u8,
    /// The signal that requested the end.
    signal: i32,
    /// The time of the second request.
    hurried: Option<Duration>,
    /// Supervisors that have died since the first request.
    deaths: u32,
    pub(super) stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    Draining,
    Terminating,
    Killing { again: Duration, until: Duration },
}

impl Guard {
    pub(super) fn end(&mut self, now: Duration, signal: i32, effects: &mut Vec<GuardEffect>) {
        match &mut self.ending {
            None => self.begin_to_end(now, 0, signal),
            Some(ending) => drop(ending.hurried.get_or_insert(now)),
        }
        match self.ending.as_ref().map(|ending| (ending.stage, ending.hurried)) {
            Some((Stage::Terminating, Some(_))) => self.kill(now, effects),
            _ => self.press(effects),
        }
    }

    pub(super) fn begin_to_end(&mut self, now: Duration, code: u8, signal: i32) {
        let stage = Stage::Draining;
        self.ending.get_or_insert(Ending { began: now, code, signal, hurried: None, deaths: 0, stage });
        // The session is ending, so do not delay the next start.
        self.respawn.due = self.respawn.due.map(|_| now);
    }

    /// The request to end, for a supervisor that has not got it and may not be signalled yet.
    pub(super) fn end_to_tell(&self) -> Option<ToSupervisor> {
        let waits = self.supervisor.as_ref().is_some_and(|supervisor| !supervisor.ready && !supervisor.asked);
        (waits && self.ending.is_some()).then_some(ToSupervisor::End)
    }

    /// Sends the supervisor the requests to end that it has not received yet. A signal would kill one that is not
    /// ready; that one is told by a message.
    pub(super) fn press(&mut self, effects: &mut Vec<GuardEffect>) {
        let (Some(ending), Some(supervisor)) = (&self.ending, &mut self.supervisor) else { return };
        if !supervisor.ready {
            return;
        }
        if !supervisor.asked {
            supervisor.asked = true;
            effects.push(GuardEffect::Forward(ending.signal));
        } else if ending.hurried.is_some() && supervisor.draining && !supervisor.hurried {
            supervisor.hurried = true; // only now, because two pending signals of one kind merge into one
            effects.push(GuardEffect::Forward(ending.signal));
        }
    }

    pub(super) fn count_death_while_ending(&mut self, was_ready: bool, effects: &mut Vec<GuardEffect>) {
        let Some(ending) = self.ending.as_mut().filter(|ending| ending.stage == Stage::Draining) else { return };
        ending.deaths += 1;
        if !was_ready || ending.deaths >= DEATHS_WHILE_DRAINING {
            let cause = &self.respawn.cause;
            effects.push(GuardEffect::Warn(format!(
                "the supervisor cannot end the session ({cause}); asking every process to end"
            )));
            self.terminate(effects);
        }
    }

    pub(super) fn terminate(&mut self, effects: &mut Vec<GuardEffect>) {
        self.respawn.due = None;
        if let Some(ending) = &mut self.ending {
            ending.stage = Stage::Terminating;
            effects.push(GuardEffect::TerminateAll);
        }
    }

    /// Ends the session with this code and kills all its processes.
    pub(super) fn give_up(&mut self, now: Duration, code: u8, effects: &mut Vec<GuardEffect>) {
        self.begin_to_end(now, code, TERM);
        if let Some(ending) = &mut self.ending {
            ending.code = code;
        }
        self.kill(now, effects);
    }

    fn kill(&mut self, now: Duration, effects: &mut Vec<GuardEffect>) {
        self.respawn.due = None;
        if let Some(ending) = &mut self.ending {
            let (again, until) = (now.saturating_add(KILL_AGAIN), now.saturating_add(KILL_WITHIN));
            ending.stage = Stage::Killing { again, until };
            effects.push(GuardEffect::KillAll);
        }
    }

    pub(super) fn no_children(&mut self, effects: &mut Vec<GuardEffect>) {
        let Some(Ending { stage: Stage::Terminating | Stage::Killing { .. }, code, .. }) = self.ending else { return };
        if self.supervisor.is_none() {
            self.exit(code, effects);
        }
    }

    fn exit(&mut self, code: u8, effects: &mut Vec<GuardEffect>) {
        self.exited = true;
        // If no supervisor ever became ready, keep the state of the earlier session for a version that can read it.
        effects.extend(self.begun.then_some(GuardEffect::Forget));
        effects.push(GuardEffect::Exit(code));
    }

    /// When the guard stops waiting and kills everything.
    fn kill_at(&self, ending: &Ending) -> Duration {
        let in_time = ending.began.saturating_add(self.stop_budget).saturating_add(OVER_BUDGET);
        ending.hurried.map_or(in_time, |hurried| in_time.min(hurried.saturating_add(HURRY)))
    }

    /// When the end needs [`GuardInput::TimePassed`](super::GuardInput::TimePassed).
    pub(super) fn next_moment_of_the_end(&self) -> Option<Duration> {
        self.ending.as_ref().map(|ending| match ending.stage {
            Stage::Killing { again, until } => again.min(until),
            Stage::Draining | Stage::Terminating => self.kill_at(ending),
        })
    }

    pub(super) fn keep_deadlines_of_the_end(&mut self, now: Duration, effects: &mut Vec<GuardEffect>) {
        let stage = self.ending.as_ref().map(|ending| (ending.stage, self.kill_at(ending), ending.code));
        match stage {
            Some((Stage::Killing { until, .. }, _, code)) if until <= now => self.exit(code, effects),
            Some((Stage::Killing { again, until }, ..)) if again <= now => {
                effects.push(GuardEffect::KillAll);
                let again = now.saturating_add(KILL_AGAIN);
                self.ending.iter_mut().for_each(|ending| ending.stage = Stage::Killing { again, until });
            }
            Some((Stage::Draining | Stage::Terminating, kill_at, _)) if kill_at <= now => {
                effects.push(GuardEffect::Warn("the session did not end in time: killing every process of it".into()));
                self.give_up(now, 1, effects);
            }
            _ => {}
        }
    }
}
