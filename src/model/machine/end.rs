//! How an app is stopped, and what follows the end of a run: a successor, a sweep, a judgement, the next start.

use std::time::Duration;

use statig::prelude::*;

use super::effect::{AppEffect, Context, Report};
use super::event::AppEvent;
use super::parts::{Pid, RunEnd, StopReason, Then, Timer};
use super::{CRASH_LOOP, HELPERS_GRACE, Machine, SAME_CAUSE, State};
use crate::model::exit::Exit;
use crate::model::manifest::restart::{self, Decision, OnClose, Restart, Stay};
use crate::model::plan::Change;

impl Machine {
    /// The first attempt to end the leader. If the leader ignores it, the timers take over.
    pub(super) fn ask_to_end(&self, pid: Pid) -> AppEffect {
        match self.app.stop.devtools {
            Some(_) => AppEffect::CloseBrowser { run: self.run, pid, app: self.app.clone() },
            None => AppEffect::Signal { pid, signal: self.app.stop.signal },
        }
    }

    /// Handles a request to an app that is up. `pid` is its leader, if there is one.
    pub(super) fn asked_while_up(&mut self, pid: Option<Pid>, event: &AppEvent, cx: &Context<'_>) -> Outcome<State> {
        let action = match event {
            AppEvent::StartAsked => return Handled,
            AppEvent::StopAsked(why) => return Transition(self.stop(pid, Then::Stopped(*why), cx)),
            AppEvent::DependencyLost => return Transition(self.stop(pid, Then::Start { action: None }, cx)),
            AppEvent::RestartAsked => None,
            AppEvent::ActionAsked(action) => Some(action.clone()),
            AppEvent::Changed(app, change) => {
                self.take(app);
                match change {
                    Change::Restart(_) => None,
                    _ => return Handled,
                }
            }
            _ => return Super,
        };
        self.history.forget();
        Transition(self.stop(pid, Then::Start { action }, cx))
    }

    pub(super) fn fail(&self, pid: Pid, exit: Exit, lived: Option<Duration>, cx: &Context<'_>) -> Outcome<State> {
        let end = RunEnd { lived, ..RunEnd::unready(Some(pid), exit, cx.now) };
        Transition(self.stop(Some(pid), Then::Crashed(end), cx))
    }

    /// The leader is gone. Looks for a successor first if a pattern can find one, or if the leader exited with 0 too
    /// early.
    pub(super) fn leader_gone(&self, end: RunEnd) -> Outcome<State> {
        Transition(match self.app.matcher.is_some() || self.ended_at_once(&end) {
            true => State::succeeding(end, false),
            false => State::sweeping(end),
        })
    }

    /// The leader exited with 0 before the app was stable.
    pub(super) fn ended_at_once(&self, end: &RunEnd) -> bool {
        end.exit == Exit::Clean && end.lived.is_none_or(|lived| lived < self.app.policy.backoff.stable_after)
    }

    /// Asks the rest of the tree to end. The `Helpers` timer then kills it.
    pub(super) fn end_helpers(&self, cx: &mut Context<'_>) {
        cx.push(AppEffect::StopRest { run: self.run });
        cx.arm(self.run, Timer::Helpers, HELPERS_GRACE.min(self.app.stop.grace));
    }

    /// Whether the clean exit may mean that a person closed the window.
    pub(super) fn may_be_closed(&self, end: &RunEnd) -> bool {
        let disturbed = self.disturbed.is_some_and(|then| end.at.abs_diff(then) <= SAME_CAUSE);
        end.exit == Exit::Clean && end.lived.is_some_and(|lived| lived >= restart::SOONEST_CLOSING) && !disturbed
    }

    /// The first state of a stop. Apps that follow this one end before it, unless it has failed.
    pub(super) fn stop(&self, pid: Option<Pid>, then: Then, cx: &Context<'_>) -> State {
        match pid.filter(|_| cx.followed && !matches!(then, Then::Crashed(_))) {
            Some(pid) => State::stopping_followers(pid, then),
            None => self.stop_itself(pid, then, cx),
        }
    }

    /// Runs `prestop` if there is a leader, then asks it to end.
    pub(super) fn stop_itself(&self, pid: Option<Pid>, then: Then, cx: &Context<'_>) -> State {
        match pid.filter(|_| !self.app.hooks.prestop.is_empty() && !cx.hurried) {
            Some(pid) => State::prestop(pid, then),
            None => State::stopping(pid, then),
        }
    }

    /// The tree is gone. Runs `poststop` if the program had been started.
    pub(super) fn tree_gone(&mut self, then: Then, cx: &mut Context<'_>) -> Outcome<State> {
        match self.launched && !self.app.hooks.poststop.is_empty() && !cx.hurried {
            true => Transition(State::poststop(then)),
            false => self.after_the_stop(then, cx),
        }
    }

    /// `poststop` is done for this run. What its commands have left in the background is ended, as at any end of the app.
    pub(super) fn poststop_done(&mut self, then: Then) -> State {
        self.launched = false;
        match then {
            Then::Crashed(end) => State::sweeping(end),
            other => State::stopping(None, other),
        }
    }

    /// The tree is gone. Looks for traces first, but only if they decide whether the app stays down.
    pub(super) fn after_the_end(&mut self, end: &RunEnd, cx: &mut Context<'_>) -> Outcome<State> {
        let policy = &self.app.policy;
        let holds = policy.restart == Restart::Always && policy.on_close == OnClose::Hold;
        let closed = self.may_be_closed(end);
        match holds && closed {
            true => Transition(State::judging(end.clone())),
            false => self.conclude(end, closed, cx),
        }
    }

    /// Records the end and moves to the state that the restart policy selects.
    pub(super) fn conclude(&mut self, end: &RunEnd, closed: bool, cx: &mut Context<'_>) -> Outcome<State> {
        let ended = restart::FinishedRun { exit: &end.exit, lived: end.lived, closed };
        let next = restart::decide(&self.app.policy, &mut self.history, &ended, cx.now, cx.chance);
        self.record(end, Some(next), cx);
        Transition(match next {
            Decision::AtOnce => {
                self.restarts += 1;
                self.start(None, cx)
            }
            Decision::Retry { attempt, wait } => {
                if attempt == CRASH_LOOP && !closed {
                    cx.report(Report::CrashLooping { run: self.run, attempt });
                }
                State::backoff(attempt, cx.now, cx.now + wait)
            }
            Decision::GiveUp => State::gave_up(end.exit.clone()),
            Decision::Stay(Stay::Closed) => State::stopped(StopReason::Closed, cx.now),
            Decision::Stay(Stay::Done) => State::stopped(StopReason::Done, cx.now),
        })
    }

    pub(super) fn record(&mut self, end: &RunEnd, next: Option<Decision>, cx: &mut Context<'_>) {
        self.last_exit = Some(end.exit.clone());
        cx.report(Report::Crashed { run: self.run, end: end.clone(), next });
    }

    /// The tree is gone, and `poststop` is done.
    pub(super) fn after_the_stop(&mut self, then: Then, cx: &mut Context<'_>) -> Outcome<State> {
        self.launched = false;
        match then {
            Then::Crashed(end) => self.after_the_end(&end, cx),
            Then::Stopped(why) => {
                self.last_exit = Some(Exit::StoppedByUs);
                Transition(State::stopped(why, cx.now))
            }
            Then::Start { action } => {
                self.last_exit = Some(Exit::StoppedByUs);
                Transition(self.start(action, cx))
            }
        }
    }

    /// The next step after a crash and this request; `None` if the event is not a request.
    pub(super) fn asked_after_a_crash(event: &AppEvent) -> Option<Then> {
        Some(match event {
            AppEvent::StopAsked(why) => Then::Stopped(*why),
            AppEvent::StartAsked | AppEvent::RestartAsked => Then::Start { action: None },
            AppEvent::ActionAsked(action) => Then::Start { action: Some(action.clone()) },
            _ => return None,
        })
    }

    /// The next step after `poststop` and this request; `None` if the event is not a request.
    pub(super) fn asked_after_the_end(then: &Then, event: &AppEvent) -> Option<Then> {
        match then {
            Then::Crashed(_) => Self::asked_after_a_crash(event),
            Then::Stopped(_) | Then::Start { .. } => Self::asked_while_stopping(then, event),
        }
    }

    /// The next step after a stop in progress and this request; `None` if the event is not a request. A stop beats a restart.
    pub(super) fn asked_while_stopping(then: &Then, event: &AppEvent) -> Option<Then> {
        let stopped = matches!(then, Then::Stopped(_));
        Some(match event {
            AppEvent::StopAsked(why) => Then::Stopped(*why),
            AppEvent::StartAsked if stopped => Then::Start { action: None },
            AppEvent::RestartAsked if !stopped => Then::Start { action: None },
            AppEvent::ActionAsked(action) if !stopped => Then::Start { action: Some(action.clone()) },
            AppEvent::StartAsked | AppEvent::RestartAsked | AppEvent::ActionAsked(_) => then.clone(),
            _ => return None,
        })
    }
}
