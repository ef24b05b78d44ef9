//! What of an app outlives its supervisor, and how the next one goes on from there. Owns the form that is
//! kept; `daemon::state` writes it down and finds the process again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::words::{Event, Phase, Pid, Report, Then, Why};
use super::{Cx, Machine, State};
use crate::model::exit::Exit;
use crate::model::manifest::restart::History;
use crate::model::plan::{self, Change};

/// One app as its supervisor last knew it. Times are those of the clock that all supervisors since boot share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    pub run: u64,
    pub restarts: u64,
    pub last_exit: Option<Exit>,
    /// What its manifest said. An app that was started by hand though it was disabled goes on.
    #[serde(default = "by_default")]
    pub enabled: bool,
    history: History,
    /// Of what a running app was started with.
    program: u64,
    pub posture: Posture,
}

/// Ledgers of earlier versions do not say it.
fn by_default() -> bool {
    true
}

/// Where the app was. What was only being tried is tried again; what lived is looked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Posture {
    Stopped(Why),
    GaveUp(Exit),
    Backoff {
        attempt: u32,
        until: Duration,
    },
    /// Not spawned yet, as far as is known.
    Starting {
        action: Option<String>,
    },
    /// Its leader lived; `since` when it has been ready.
    Up {
        pid: Option<Pid>,
        since: Option<Duration>,
    },
    /// Its leader was gone, the rest of its tree was being cleared.
    Ended {
        pid: Option<Pid>,
        exit: Exit,
        lived: Option<Duration>,
        peak: Option<u64>,
    },
    Stopping {
        pid: Option<Pid>,
        then: Then,
    },
}

impl Posture {
    /// The leader to look for.
    pub fn pid(&self) -> Option<Pid> {
        match self {
            Posture::Up { pid, .. } | Posture::Stopping { pid, .. } => *pid,
            _ => None,
        }
    }

    fn of(state: &State) -> Posture {
        match state.clone() {
            State::Stopped { why } => Posture::Stopped(why),
            State::GaveUp { exit } => Posture::GaveUp(exit),
            State::Backoff { attempt, until } => Posture::Backoff { attempt, until },
            State::Starting { pid, phase: Phase::Probing { .. }, .. } => Posture::Up { pid, since: None },
            State::Starting { phase: Phase::Resuming(posture), .. } => *posture,
            State::Starting { action, .. } => Posture::Starting { action },
            State::Running { pid, since, .. } => Posture::Up { pid, since: Some(since) },
            State::Crashed { pid, exit, lived, peak, .. } => Posture::Ended { pid, exit, lived, peak },
            State::Stopping { pid, then } => Posture::Stopping { pid, then },
        }
    }
}

impl Machine {
    /// What the next supervisor has to know of it.
    pub fn kept(&self, state: &State) -> Kept {
        Kept {
            run: self.run,
            restarts: self.restarts,
            last_exit: self.last_exit.clone(),
            enabled: self.app.enabled,
            history: self.history.clone(),
            program: plan::program(&self.app),
            posture: Posture::of(state),
        }
    }

    /// Takes over what an earlier supervisor knew; the state to go on in, unless this one will do.
    pub(super) fn resume(&mut self, kept: &Kept, why: &mut Why) -> Option<State> {
        (self.run, self.restarts) = (kept.run, kept.restarts);
        self.last_exit.clone_from(&kept.last_exit);
        self.history = kept.history.clone();
        let another = plan::program(&self.app) != kept.program;
        let looking = |posture| State::starting(None, Phase::Resuming(Box::new(posture)), None);
        Some(match kept.posture.clone() {
            // Its manifest was changed while nobody looked: that is a reason to try again, as ever.
            Posture::GaveUp(_) | Posture::Backoff { .. } | Posture::Stopped(Why::Done) if another => {
                self.history.forget();
                State::starting(None, Phase::New, None)
            }
            Posture::Stopped(reason) => {
                *why = reason;
                return None;
            }
            Posture::GaveUp(exit) => State::gave_up(exit),
            Posture::Backoff { attempt, until } => State::backoff(attempt, until),
            Posture::Starting { action } => {
                self.run = self.run.saturating_sub(1); // the same start once more
                State::starting(None, Phase::New, action)
            }
            Posture::Up { pid, .. } if another => {
                looking(Posture::Stopping { pid, then: Then::Start { action: None } })
            }
            posture => looking(posture),
        })
    }

    /// The leader that was kept in mind, or its successor, is alive.
    pub(super) fn resumed(&mut self, pid: Pid, posture: &Posture, cx: &mut Cx<'_>) -> State {
        match posture {
            Posture::Up { pid: Some(kept), since: Some(since) } if *kept == pid => {
                cx.push(super::Effect::Report(Report::Adopted { run: self.run, pid }));
                State::running(Some(pid), true, *since, 0)
            }
            Posture::Stopping { then, .. } => State::stopping(Some(pid), then.clone()),
            Posture::Up { pid: Some(kept), .. } if *kept == pid => self.alive(pid, true, cx),
            // It was started again, and nobody lived to write that down.
            _ => {
                self.restarts += 1;
                self.alive(pid, true, cx)
            }
        }
    }

    /// The leader that was kept in mind is gone.
    pub(super) fn not_resumed(posture: &Posture, exit: Exit, peak: Option<u64>, now: Duration) -> State {
        match posture.clone() {
            Posture::Ended { pid, exit, lived, peak } => State::crashed(pid, exit, lived, peak, 0),
            Posture::Stopping { then, .. } => State::stopping(None, then),
            Posture::Up { pid, since } => {
                State::crashed(pid, exit, since.map(|since| now.saturating_sub(since)), peak, 0)
            }
            Posture::Stopped(_) | Posture::GaveUp(_) | Posture::Backoff { .. } | Posture::Starting { .. } => {
                State::crashed(None, exit, None, peak, 0)
            }
        }
    }

    /// What is asked while the leader is being looked for is done once that is answered.
    pub(super) fn asked_meanwhile(&mut self, posture: &mut Posture, event: &Event) -> bool {
        let then = match event {
            Event::StopAsked(why) => Then::Stopped(*why),
            Event::RestartAsked => Then::Start { action: None },
            Event::ActionAsked(action) => Then::Start { action: Some(action.clone()) },
            Event::Changed(app, Change::Restart(_)) => {
                self.take(app);
                Then::Start { action: None }
            }
            _ => return false,
        };
        *posture = Posture::Stopping { pid: posture.pid(), then };
        true
    }
}
