//! Resumes an app under the next supervisor: turns the saved state into the state to start from.

use std::time::Duration;

use statig::prelude::*;

use super::effect::{Context, Report};
use super::event::AppEvent;
use super::parts::{Pid, RunEnd, Then};
use super::saved::{SavedApp, SavedState};
use super::{Machine, State};
use crate::model::exit::Exit;
use crate::model::manifest::restart::Decision;
use crate::model::plan::{self, Change};

impl Machine {
    /// The data that the next supervisor needs to resume this app.
    pub(super) fn saved(&self, state: &State) -> SavedApp {
        SavedApp {
            run: self.run,
            restarts: self.restarts,
            launched: self.launched,
            last_exit: self.last_exit.clone(),
            enabled: self.app.enabled,
            history: self.history.clone(),
            program: plan::program(&self.app),
            state: saved_state(state),
        }
    }

    /// Takes over the data of an earlier supervisor, and returns the state to start from.
    pub(super) fn resume(&mut self, saved: &SavedApp, cx: &mut Context<'_>) -> State {
        (self.run, self.restarts, self.launched) = (saved.run, saved.restarts, saved.launched);
        self.last_exit.clone_from(&saved.last_exit);
        self.history = saved.history.clone();
        let another_program = plan::program(&self.app) != saved.program;
        match saved.state.clone() {
            // The manifest changed while no supervisor was running. As with any such change, try again.
            SavedState::GaveUp(_) | SavedState::Backoff { .. } if another_program => self.start_afresh(None, cx),
            SavedState::Stopped(super::StopReason::Done) if another_program => self.start_afresh(None, cx),
            SavedState::Stopped(why) => State::stopped(why, cx.now),
            SavedState::GaveUp(exit) => State::gave_up(exit),
            SavedState::Backoff { attempt, since, until } => State::backoff(attempt, since, until),
            SavedState::Starting { action } => {
                self.run = self.run.saturating_sub(1); // the same start once more
                self.start(action, cx)
            }
            SavedState::Up { pid, .. } if another_program => {
                State::resuming(SavedState::Stopping { pid: Some(pid), then: Then::Start { action: None } })
            }
            state => State::resuming(state),
        }
    }

    /// The saved leader, its successor, or the program that was just started is alive.
    pub(super) fn resumed(&mut self, pid: Pid, saved: &SavedState, cx: &mut Context<'_>) -> State {
        self.launched = true;
        match saved {
            SavedState::Up { pid: known, since: Some(since) } if *known == pid => {
                cx.report(Report::Adopted { run: self.run, pid });
                State::running(pid, true, *since, 0)
            }
            SavedState::Stopping { then: then @ Then::Crashed(_), .. } => State::stopping(Some(pid), then.clone()),
            SavedState::Stopping { then, .. } => self.stop(Some(pid), then.clone(), cx),
            SavedState::Up { pid: known, .. } if *known == pid => self.alive(pid, true, cx),
            // It was started again, but the supervisor died before it could save that.
            _ => {
                self.restarts += 1;
                self.alive(pid, true, cx)
            }
        }
    }

    /// The saved leader has ended, and a supervisor that died before it could save that has started the app again.
    pub(super) fn ended_before(&mut self, saved: &SavedState, exit: Exit, peak: Option<u64>, cx: &mut Context<'_>) {
        if let Ok(end) = end_of(saved, exit, peak, cx.now) {
            self.record(&end, Some(Decision::AtOnce), cx);
        }
    }

    /// The saved leader is gone.
    pub(super) fn not_resumed(
        &mut self,
        saved: &SavedState,
        exit: Exit,
        peak: Option<u64>,
        cx: &Context<'_>,
    ) -> Outcome<State> {
        match end_of(saved, exit, peak, cx.now) {
            Ok(end) => self.leader_gone(end),
            Err(then) => Transition(State::stopping(None, then)),
        }
    }

    /// A request during the look-up or the start of the program. A process that is alive then ends with its own steps, and
    /// after its followers. So its end waits until it is known whether there is one.
    pub(super) fn asked_before_the_answer(&mut self, event: &AppEvent) -> Outcome<State> {
        let mut saved = SavedState::Starting { action: None };
        match self.asked_meanwhile(&mut saved, event) {
            true => Transition(State::resuming(saved)),
            false => Super,
        }
    }

    /// Remembers a request that arrives during the look-up; it is carried out once the look-up is answered.
    pub(super) fn asked_meanwhile(&mut self, saved: &mut SavedState, event: &AppEvent) -> bool {
        let then = match event {
            AppEvent::StopAsked(why) => Then::Stopped(*why),
            AppEvent::RestartAsked => Then::Start { action: None },
            AppEvent::ActionAsked(action) => Then::Start { action: Some(action.clone()) },
            AppEvent::Changed(app, Change::Restart(_)) => {
                self.take(app);
                Then::Start { action: None }
            }
            _ => return false,
        };
        if !matches!(then, Then::Stopped(_)) {
            self.history.forget();
        }
        *saved = SavedState::Stopping { pid: saved.pid(), then };
        true
    }
}

/// The saved leader is gone. Returns how its run ended, or as `Err` what should follow its stop.
fn end_of(saved: &SavedState, exit: Exit, peak: Option<u64>, now: Duration) -> Result<RunEnd, Then> {
    Ok(match saved.clone() {
        SavedState::Stopping { then, .. } => return Err(then),
        SavedState::Ended(end) => end,
        SavedState::Up { pid, since } => {
            let lived = since.map(|since| now.saturating_sub(since));
            RunEnd { lived, peak, ..RunEnd::unready(Some(pid), exit, now) }
        }
        SavedState::Stopped(_) | SavedState::GaveUp(_) | SavedState::Backoff { .. } | SavedState::Starting { .. } => {
            RunEnd { peak, ..RunEnd::unready(None, exit, now) }
        }
    })
}

fn saved_state(state: &State) -> SavedState {
    match state.clone() {
        State::Stopped { why, .. } => SavedState::Stopped(why),
        State::GaveUp { exit } => SavedState::GaveUp(exit),
        State::Backoff { attempt, since, until } => SavedState::Backoff { attempt, since, until },
        State::Resuming { saved } => saved,
        State::Waiting { action }
        | State::Looking { action, .. }
        | State::Clearing { action }
        | State::Hooks { action } => SavedState::Starting { action },
        State::LookingAgain {} | State::Spawning {} => SavedState::Starting { action: None },
        State::Probing { pid, .. } => SavedState::Up { pid, since: None },
        State::Running { pid, since, .. } => SavedState::Up { pid, since: Some(since) },
        State::Succeeding { end, .. } | State::Sweeping { end } | State::Judging { end } => SavedState::Ended(end),
        State::StoppingFollowers { pid, then } | State::Prestop { pid, then } => {
            SavedState::Stopping { pid: Some(pid), then }
        }
        State::Poststop { then: Then::Crashed(end) } => SavedState::Ended(end),
        State::Poststop { then } => SavedState::Stopping { pid: None, then },
        State::Stopping { pid, then } => SavedState::Stopping { pid, then },
    }
}
