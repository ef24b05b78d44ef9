//! The state machine that every app runs on. It takes events ([`AppEvent`]) with the current time and returns effects
//! ([`AppEffect`]). It does no I/O, reads no clock and draws no random numbers.
//!
//! Every phase of a start, an end and a stop is its own state. Users see seven names ([`State::name`]). A test walks
//! all states and writes `docs/machine.md`.
//!
//! `start` and `end` hold the steps that several states share, `resume` what an app of an earlier supervisor starts from.
//! One file because statig needs all states of a machine in one block.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use statig::blocking::{InitializedStateMachine, IntoStateMachineExt as _};
use statig::prelude::*;

use crate::model::app::App;
use crate::model::exit::Exit;
use crate::model::manifest::restart::{History, OnGiveUp};
use crate::model::plan::Change;

mod effect;
mod end;
mod event;
mod found;
mod parts;
mod resume;
mod saved;
mod start;
mod traces;
mod view;
pub use effect::{AppEffect, Context, Report};
pub use event::AppEvent;
pub use found::{EndedAs, Found};
pub use parts::{Pid, ProbeKind, RunEnd, StopReason, Then, Timer};
pub use saved::{SavedApp, SavedState};
pub use traces::Traces;

/// The wait between a failed ready probe and the next one.
pub const READY_POLL: Duration = Duration::from_millis(100);
/// A leader that exited with 0 may have forked its successor, and the successor may not have called exec yet. The
/// look-up is repeated at this interval for the first second, then at [`LOOK_AGAIN_LATER`].
pub const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// See [`LOOK_AGAIN`].
pub const LOOK_AGAIN_LATER: Duration = Duration::from_millis(500);
/// How often to measure the memory of an app with `limits.max_rss`.
pub const MEMORY_POLL: Duration = Duration::from_secs(10);
/// Processes that outlive their leader are killed after this, or after `stop.grace` if that is shorter.
pub const HELPERS_GRACE: Duration = Duration::from_secs(1);
/// A clean exit this close to the end of an app named in `after`, before or after it, is blamed on that end. It does
/// not count as a closed window.
pub const SAME_CAUSE: Duration = Duration::from_secs(1);
/// This many failures in a row are reported as a crash loop.
pub const CRASH_LOOP: u32 = 5;

const TERM: i32 = 15;

/// The machine of one app. It ignores events of earlier runs.
#[derive(Clone)]
pub struct AppMachine(InitializedStateMachine<Machine>);

impl AppMachine {
    /// A machine for an app that was never started. It does nothing until its first event.
    pub fn new(app: Arc<App>) -> Self {
        let mut cx = Context {
            now: Duration::ZERO,
            chance: 0.0,
            blocked: false,
            followed: false,
            hurried: false,
            effects: &mut Vec::new(),
        };
        AppMachine(Machine::new(app).uninitialized_state_machine().init_with_context(&mut cx))
    }

    /// Handles one event. Events of an earlier run are ignored; no other code compares runs.
    pub fn handle(&mut self, event: &AppEvent, cx: &mut Context<'_>) {
        if event.run().is_none_or(|run| run == self.run) {
            self.0.handle_with_context(event, cx);
        }
    }

    /// The state it is in, with the state's data.
    pub fn state(&self) -> &State {
        self.0.state()
    }

    /// The data that the next supervisor needs to resume this app.
    pub fn saved(&self) -> SavedApp {
        self.0.inner().saved(self.0.state())
    }
}

impl Hash for AppMachine {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.0.inner(), self.0.state()).hash(state);
    }
}

impl std::ops::Deref for AppMachine {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        self.0.inner()
    }
}

/// The data of one app that all its states share.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct Machine {
    /// The manifest in use. It may be newer than the program that runs.
    pub app: Arc<App>,
    /// Number of the latest start.
    pub run: u64,
    /// Starts that followed an exit without a request.
    pub restarts: u64,
    /// How the last run ended; `None` before the first end.
    pub last_exit: Option<Exit>,
    history: History,
    /// The program of this run was started, and `poststop` has not been run for it.
    launched: bool,
    /// Whether a look-up for a process of an earlier supervisor was done.
    looked: bool,
    /// The last time something other than a closed window could cause a clean exit: an app named in `after` ended, or
    /// an operator sent a signal.
    disturbed: Option<Duration>,
}

impl Machine {
    fn new(app: Arc<App>) -> Self {
        Machine {
            app,
            run: 0,
            restarts: 0,
            last_exit: None,
            history: History::default(),
            launched: false,
            looked: false,
            disturbed: None,
        }
    }

    /// Failed starts in a row.
    pub fn failures(&self) -> u32 {
        self.history.attempt
    }

    /// Takes over the new manifest. Each state decides what the change means for a live tree.
    fn take(&mut self, app: &Arc<App>) {
        self.app = app.clone();
    }

    /// Called after every transition.
    fn report_transition(&mut self, from: &State, to: &State, cx: &mut Context<'_>) {
        if from.name() != to.name() {
            cx.report(Report::Entered { run: self.run, from: from.name(), to: to.name(), pid: to.pid() });
        }
    }
}

#[state_machine(
    initial = "State::stopped(StopReason::NotStarted, Duration::ZERO)",
    after_transition = "Self::report_transition",
    state(derive(Debug, Clone, PartialEq, Eq, Hash)),
    superstate(derive(Debug))
)]
impl Machine {
    // Down.

    #[state(superstate = "down")]
    fn stopped(
        &mut self,
        why: &mut StopReason,
        since: &mut Duration,
        event: &AppEvent,
        context: &mut Context<'_>,
    ) -> Outcome<State> {
        match event {
            AppEvent::Resumed(saved) => Transition(self.resume(saved, context)),
            AppEvent::StopAsked(reason) => {
                *why = *reason;
                self.look_for_lost(context);
                Handled
            }
            AppEvent::Found { pid, .. } => Transition(State::stopping(Some(*pid), Then::Stopped(*why))),
            AppEvent::Remains { .. } => Transition(State::stopping(None, Then::Stopped(*why))),
            AppEvent::Changed(app, change) => {
                self.take(app);
                match (*why, change) {
                    (StopReason::Done, Change::Restart(_)) => Transition(self.start(None, context)),
                    _ => Handled,
                }
            }
            // It ended because its dependency ended; nobody closed it.
            AppEvent::DependencyEnded if *why == StopReason::Closed && context.now.abs_diff(*since) <= SAME_CAUSE => {
                self.disturbed = Some(context.now);
                self.restarts += 1;
                Transition(self.start(None, context))
            }
            _ => Super,
        }
    }

    #[state(superstate = "down", entry_action = "enter_backoff", exit_action = "leave_backoff")]
    fn backoff(
        &mut self,
        attempt: &mut u32,
        since: &mut Duration,
        until: &mut Duration,
        event: &AppEvent,
        context: &mut Context<'_>,
    ) -> Outcome<State> {
        match event {
            AppEvent::Fired { timer: Timer::Retry, .. } => {
                self.restarts += 1;
                Transition(self.start(None, context))
            }
            AppEvent::Changed(app, change) => {
                let waits_differently = self.app.policy.backoff != app.policy.backoff;
                self.take(app);
                if matches!(change, Change::Restart(_) | Change::NextStart(_)) {
                    return Transition(self.start_afresh(None, context));
                }
                if waits_differently {
                    let wait = self.app.policy.backoff.wait(*attempt, context.chance);
                    *until = context.now.max(*since + wait);
                    context.arm(self.run, Timer::Retry, *until - context.now);
                }
                Handled
            }
            _ => Super,
        }
    }

    #[action]
    fn enter_backoff(&mut self, until: &mut Duration, context: &mut Context<'_>) {
        let after = until.saturating_sub(context.now);
        context.arm(self.run, Timer::Retry, after);
    }

    #[action]
    fn leave_backoff(context: &mut Context<'_>) {
        context.disarm(Timer::Retry);
    }

    #[state(superstate = "down", entry_action = "enter_gave_up")]
    #[expect(unused_variables, reason = "the argument is the state's data: statig reads it off the signature")]
    fn gave_up(&mut self, exit: &mut Exit, event: &AppEvent, context: &mut Context<'_>) -> Outcome<State> {
        match event {
            AppEvent::Changed(app, change) => {
                self.take(app);
                match change.is_worth_another_try() {
                    true => Transition(self.start_afresh(None, context)),
                    false => Handled,
                }
            }
            _ => Super,
        }
    }

    #[action]
    fn enter_gave_up(&mut self, context: &mut Context<'_>) {
        if let OnGiveUp::EndSession { code } = self.app.policy.on_give_up {
            context.push(AppEffect::EndSession { code });
        }
    }

    // Starting.

    /// Looks for the process that an earlier supervisor left, and resumes from its saved state. Also waits for the answer
    /// of a look-up or a start, if the app was asked to end before.
    #[state(superstate = "starting", entry_action = "enter_resuming")]
    fn resuming(&mut self, saved: &mut SavedState, event: &AppEvent, context: &mut Context<'_>) -> Outcome<State> {
        if self.asked_meanwhile(saved, event) {
            return Handled;
        }
        match event {
            AppEvent::EndedBefore { exit, peak, .. } => {
                self.ended_before(saved, exit.clone(), *peak, context);
                Handled
            }
            AppEvent::Found { pid, .. } | AppEvent::Spawned { pid, .. } => {
                Transition(self.resumed(*pid, saved, context))
            }
            AppEvent::NotFound { .. } | AppEvent::Remains { .. } | AppEvent::SpawnFailed { .. } => {
                self.not_resumed(saved, Exit::Unknown, None, context)
            }
            AppEvent::Exited { exit, peak, .. } => self.not_resumed(saved, exit.clone(), *peak, context),
            _ => Super,
        }
    }

    #[action]
    fn enter_resuming(&mut self, context: &mut Context<'_>) {
        if !std::mem::replace(&mut self.looked, true) {
            self.look_up(true, context);
        }
    }

    /// Waits for the apps in `after`.
    #[state(superstate = "starting")]
    fn waiting(&mut self, action: &mut Option<String>, event: &AppEvent, context: &mut Context<'_>) -> Outcome<State> {
        match event {
            AppEvent::Unblocked => Transition(self.look(action.take(), context)),
            _ => Super,
        }
    }

    /// Looks for a live process of the app before any hook runs.
    #[state(superstate = "starting", entry_action = "enter_looking")]
    fn looking(&mut self, action: &mut Option<String>, event: &AppEvent, context: &mut Context<'_>) -> Outcome<State> {
        match event {
            AppEvent::Found { pid, .. } => Transition(self.alive(*pid, true, context)),
            AppEvent::NotFound { .. } | AppEvent::Exited { .. } => Transition(self.prepare(action.take(), context)),
            AppEvent::Remains { .. } => Transition(State::clearing(action.take())),
            _ => self.asked_before_the_answer(event),
        }
    }

    #[action]
    fn enter_looking(&mut self, context: &mut Context<'_>) {
        let first = !std::mem::replace(&mut self.looked, true);
        self.look_up(first, context);
    }

    /// Ends processes that an earlier run left behind.
    #[state(superstate = "starting", entry_action = "enter_clearing", exit_action = "leave_clearing")]
    fn clearing(&mut self, action: &mut Option<String>, event: &AppEvent, context: &mut Context<'_>) -> Outcome<State> {
        match event {
            AppEvent::TreeEmpty { .. } => Transition(self.prepare(action.take(), context)),
            AppEvent::Fired { timer: Timer::Helpers, .. } => {
                context.push(AppEffect::Sweep { run: self.run });
                Handled
            }
            _ => Super,
        }
    }

    #[action]
    fn enter_clearing(&mut self, context: &mut Context<'_>) {
        self.end_helpers(context);
    }

    #[action]
    fn leave_clearing(context: &mut Context<'_>) {
        context.disarm(Timer::Helpers);
    }

    /// Runs the steps of the requested action, if any, then `prelaunch`.
    #[state(superstate = "starting", entry_action = "enter_hooks", exit_action = "leave_hooks")]
    #[expect(unused_variables, reason = "the argument is the state's data: statig reads it off the signature")]
    fn hooks(&mut self, action: &mut Option<String>, event: &AppEvent, context: &mut Context<'_>) -> Outcome<State> {
        match event {
            // An app named in `after` died while the hooks ran. The steps may have depended on it.
            AppEvent::HooksDone { .. } if context.blocked => Transition(State::waiting(None)),
            AppEvent::HooksDone { .. } => Transition(match self.app.matcher.is_some() {
                true => State::looking_again(),
                false => State::spawning(),
            }),
            AppEvent::HookFailed { why, .. } => {
                let end = RunEnd::unready(None, Exit::HookFailed(why.clone()), context.now);
                Transition(State::sweeping(end))
            }
            _ => Super,
        }
    }

    #[action]
    fn enter_hooks(&mut self, action: &mut Option<String>, context: &mut Context<'_>) {
        let action = action.clone();
        context.push(AppEffect::RunHooks { run: self.run, app: self.app.clone(), action });
    }

    #[action]
    fn leave_hooks(context: &mut Context<'_>) {
        context.push(AppEffect::CancelHooks);
    }

    /// Somebody may have started it by hand while the hooks ran.
    #[state(superstate = "starting", entry_action = "enter_looking_again")]
    fn looking_again(&mut self, event: &AppEvent, context: &mut Context<'_>) -> Outcome<State> {
        match event {
            AppEvent::Found { pid, .. } => Transition(self.alive(*pid, true, context)),
            AppEvent::NotFound { .. } => Transition(State::spawning()),
            AppEvent::Remains { .. } => Transition(State::clearing(None)),
            _ => self.asked_before_the_answer(event),
        }
    }

    #[action]
    fn enter_looking_again(&mut self, context: &mut Context<'_>) {
        self.look_up(false, context);
    }

    #[state(superstate = "starting", entry_action = "enter_spawning")]
    fn spawning(&mut self, event: &AppEvent, context: &mut Context<'_>) -> Outcome<State> {
        match event {
            AppEvent::Spawned { pid, .. } => Transition(self.alive(*pid, false, context)),
            AppEvent::SpawnFailed { why, .. } => {
                let end = RunEnd::unready(None, Exit::SpawnFailed(why.clone()), context.now);
                Transition(State::sweeping(end))
            }
            _ => self.asked_before_the_answer(event),
        }
    }

    #[action]
    fn enter_spawning(&mut self, context: &mut Context<'_>) {
        context.push(AppEffect::Spawn { run: self.run, app: self.app.clone() });
    }

    // Alive.

    /// Alive but not ready: the ready probe runs until it passes. `said` is its last failure.
    #[state(superstate = "led", entry_action = "enter_probing", exit_action = "leave_probing")]
    fn probing(
        &mut self,
        pid: &mut Pid,
        adopted: &mut bool,
        said: &mut String,
        event: &AppEvent,
        context: &mut Context<'_>,
    ) -> Outcome<State> {
        match event {
            AppEvent::ProbePassed { .. } => Transition(State::running(*pid, *adopted, context.now, 0)),
            AppEvent::ProbeFailed { why, .. } => {
                said.clone_from(why);
                context.arm(self.run, Timer::ReadyPoll, READY_POLL);
                Handled
            }
            AppEvent::Fired { timer: Timer::ReadyPoll, .. } => {
                self.probe(ProbeKind::Ready, context);
                Handled
            }
            AppEvent::Fired { timer: Timer::ReadyWithin, .. } => {
                self.fail(*pid, Exit::NotReady(std::mem::take(said)), None, context)
            }
            AppEvent::Exited { exit, peak, .. } => {
                let end = RunEnd::unready(Some(*pid), exit.clone(), context.now);
                self.leader_gone(RunEnd { peak: *peak, ..end })
            }
            _ => Super,
        }
    }

    #[action]
    fn enter_probing(&mut self, context: &mut Context<'_>) {
        if let Some(ready) = &self.app.ready {
            context.arm(self.run, Timer::ReadyWithin, ready.within);
            self.probe(ProbeKind::Ready, context);
        }
    }

    #[action]
    fn leave_probing(context: &mut Context<'_>) {
        context.push(AppEffect::CancelProbe);
        context.disarm(Timer::ReadyWithin);
        context.disarm(Timer::ReadyPoll);
    }

    #[state(superstate = "led", entry_action = "enter_running", exit_action = "leave_running")]
    #[expect(unused_variables, reason = "the arguments are the state's data: statig reads them off the signature")]
    fn running(
        &mut self,
        pid: &mut Pid,
        adopted: &mut bool,
        since: &mut Duration,
        failures: &mut u32,
        event: &AppEvent,
        context: &mut Context<'_>,
    ) -> Outcome<State> {
        let lived = Some(context.now.saturating_sub(*since));
        match event {
            AppEvent::Exited { exit, peak, .. } => {
                let end = RunEnd::unready(Some(*pid), exit.clone(), context.now);
                self.leader_gone(RunEnd { lived, peak: *peak, ..end })
            }
            AppEvent::Fired { timer: Timer::Health, .. } => {
                self.probe(ProbeKind::Health, context);
                Handled
            }
            AppEvent::ProbePassed { .. } => {
                *failures = 0;
                self.arm_health(context);
                Handled
            }
            AppEvent::ProbeFailed { why, .. } => {
                let Some(health) = &self.app.health else { return Handled };
                if lived >= Some(health.grace) {
                    *failures += 1;
                }
                if *failures >= health.failures {
                    return self.fail(*pid, Exit::Unhealthy(why.clone()), lived, context);
                }
                self.arm_health(context);
                Handled
            }
            AppEvent::Fired { timer: Timer::Memory, .. } => {
                context.push(AppEffect::Measure { run: self.run });
                Handled
            }
            AppEvent::Measured { bytes, .. } => {
                if self.app.max_rss.is_some_and(|most| *bytes > most) {
                    return self.fail(*pid, Exit::TooMuchMemory(*bytes), lived, context);
                }
                self.arm_memory(context);
                Handled
            }
            AppEvent::Changed(app, Change::None | Change::Live(_) | Change::NextStart(_)) => {
                self.disarm_watch(context);
                self.take(app);
                *failures = 0;
                self.arm_health(context);
                self.arm_memory(context);
                Handled
            }
            _ => Super,
        }
    }

    #[action]
    fn enter_running(&mut self, since: &mut Duration, context: &mut Context<'_>) {
        self.arm_health(context);
        self.arm_memory(context);
        let resumed = *since < context.now;
        if !resumed && !self.app.hooks.postlaunch.is_empty() {
            context.push(AppEffect::RunPostlaunch { run: self.run, app: self.app.clone() });
        }
    }

    #[action]
    fn leave_running(&mut self, context: &mut Context<'_>) {
        self.disarm_watch(context);
        if !self.app.hooks.postlaunch.is_empty() {
            context.push(AppEffect::CancelHooks);
        }
    }

    // Crashed.

    /// The leader may have a successor: a launcher may have forked the app, or an updater may start the new version.
    /// After a clean exit, the tree has until `matches.successor` to produce one, as long as any of it is alive.
    #[state(superstate = "crashed", entry_action = "enter_succeeding", exit_action = "leave_succeeding")]
    fn succeeding(
        &mut self,
        end: &mut RunEnd,
        waited: &mut bool,
        event: &AppEvent,
        context: &mut Context<'_>,
    ) -> Outcome<State> {
        match event {
            AppEvent::Found { pid, .. } => Transition(self.alive(*pid, true, context)),
            AppEvent::NotFound { .. } => Transition(State::sweeping(end.clone())),
            AppEvent::Remains { .. } => {
                let so_far = context.now.saturating_sub(end.at);
                let clean = end.exit == Exit::Clean;
                let within = self.app.matcher.as_ref().map_or(Duration::ZERO, |matcher| matcher.successor);
                if clean && so_far < within {
                    *waited = true;
                    let pause = if so_far < Duration::from_secs(1) { LOOK_AGAIN } else { LOOK_AGAIN_LATER };
                    context.arm(self.run, Timer::LookAgain, pause.min(within - so_far));
                    return Handled;
                }
                Transition(State::sweeping(RunEnd { daemonised: self.ended_at_once(end), ..end.clone() }))
            }
            AppEvent::Fired { timer: Timer::LookAgain, .. } => {
                self.look_up(false, context);
                Handled
            }
            _ => Super,
        }
    }

    #[action]
    fn enter_succeeding(&mut self, context: &mut Context<'_>) {
        self.look_up(false, context);
    }

    #[action]
    fn leave_succeeding(waited: &mut bool, context: &mut Context<'_>) {
        if *waited {
            context.disarm(Timer::LookAgain);
        }
    }

    /// Ends the processes that outlived the leader.
    #[state(superstate = "crashed", entry_action = "enter_sweeping", exit_action = "leave_sweeping")]
    fn sweeping(&mut self, end: &mut RunEnd, event: &AppEvent, context: &mut Context<'_>) -> Outcome<State> {
        match event {
            AppEvent::TreeEmpty { .. } => {
                let end = end.clone();
                self.tree_gone(Then::Crashed(end), context)
            }
            AppEvent::Fired { timer: Timer::Helpers, .. } => {
                context.push(AppEffect::Sweep { run: self.run });
                Handled
            }
            _ => Super,
        }
    }

    #[action]
    fn enter_sweeping(&mut self, context: &mut Context<'_>) {
        self.end_helpers(context);
    }

    #[action]
    fn leave_sweeping(context: &mut Context<'_>) {
        context.disarm(Timer::Helpers);
    }

    /// Either somebody closed the window, or something else ended the app. Looks for traces to find out.
    #[state(superstate = "crashed", entry_action = "enter_judging", exit_action = "leave_judging")]
    fn judging(&mut self, end: &mut RunEnd, event: &AppEvent, context: &mut Context<'_>) -> Outcome<State> {
        match event {
            AppEvent::TracesFound { traces, .. } => {
                let end = end.clone();
                let closed = self.may_be_closed(&end) && traces.allow_a_person(context.now.saturating_sub(end.at));
                self.conclude(&end, closed, context)
            }
            _ => Super,
        }
    }

    #[action]
    fn enter_judging(&mut self, context: &mut Context<'_>) {
        context.push(AppEffect::FindTraces { run: self.run, app: self.app.clone() });
    }

    #[action]
    fn leave_judging(context: &mut Context<'_>) {
        context.push(AppEffect::CancelProbe);
    }

    // Stopping.

    /// Waits until the apps that follow it have ended. Each of those ends within its own `stop.grace`.
    #[state(superstate = "ending")]
    fn stopping_followers(
        &mut self,
        pid: &mut Pid,
        then: &mut Then,
        event: &AppEvent,
        context: &mut Context<'_>,
    ) -> Outcome<State> {
        match event {
            AppEvent::FollowersEnded => Transition(self.stop_itself(Some(*pid), then.clone(), context)),
            _ => Super,
        }
    }

    /// Runs `prestop`.
    #[state(superstate = "ending", entry_action = "enter_prestop", exit_action = "leave_hooks")]
    fn prestop(&mut self, pid: &mut Pid, then: &mut Then, event: &AppEvent) -> Outcome<State> {
        match event {
            AppEvent::HooksDone { .. } | AppEvent::HookFailed { .. } => {
                Transition(State::stopping(Some(*pid), then.clone()))
            }
            _ => Super,
        }
    }

    #[action]
    fn enter_prestop(&mut self, context: &mut Context<'_>) {
        context.push(AppEffect::RunPrestop { run: self.run, app: self.app.clone() });
    }

    /// Ends the tree within `stop.grace`: first with `stop.signal`, then with TERM, then with KILL.
    #[state(superstate = "any", entry_action = "enter_stopping", exit_action = "leave_stopping")]
    fn stopping(
        &mut self,
        pid: &mut Option<Pid>,
        then: &mut Then,
        event: &AppEvent,
        context: &mut Context<'_>,
    ) -> Outcome<State> {
        match event {
            AppEvent::Exited { peak, .. } => {
                *pid = None;
                if let Then::Crashed(end) = then {
                    end.peak = *peak;
                }
                context.push(AppEffect::StopRest { run: self.run });
                Handled
            }
            AppEvent::Fired { timer: Timer::Insist, .. } => {
                if let Some(pid) = *pid {
                    context.push(AppEffect::Signal { pid, signal: TERM });
                }
                Handled
            }
            AppEvent::Fired { timer: Timer::Grace, .. } => {
                context.push(AppEffect::Sweep { run: self.run });
                Handled
            }
            AppEvent::TreeEmpty { .. } => {
                let then = then.clone();
                self.tree_gone(then, context)
            }
            AppEvent::SignalAsked(signal) => {
                context.effects.extend(pid.map(|pid| AppEffect::Signal { pid, signal: *signal }));
                Handled
            }
            AppEvent::Changed(app, _) => {
                self.take(app);
                Handled
            }
            _ => match Self::asked_while_stopping(then, event) {
                Some(other) => {
                    *then = other;
                    Handled
                }
                None => Super,
            },
        }
    }

    #[action]
    fn enter_stopping(&mut self, pid: &mut Option<Pid>, context: &mut Context<'_>) {
        let stop = &self.app.stop;
        match *pid {
            Some(pid) => context.push(self.ask_to_end(pid)),
            None => context.push(AppEffect::StopRest { run: self.run }),
        }
        if stop.signal != TERM {
            context.arm(self.run, Timer::Insist, stop.grace / 2);
        }
        context.arm(self.run, Timer::Grace, stop.grace);
    }

    #[action]
    fn leave_stopping(context: &mut Context<'_>) {
        context.disarm(Timer::Insist);
        context.disarm(Timer::Grace);
    }

    /// Runs `poststop`: the tree is gone. A drain that is in a hurry kills what is left, and ends this state with it.
    #[state(superstate = "any", entry_action = "enter_poststop", exit_action = "leave_hooks")]
    fn poststop(&mut self, then: &mut Then, event: &AppEvent, context: &mut Context<'_>) -> Outcome<State> {
        match event {
            AppEvent::HooksDone { .. } | AppEvent::HookFailed { .. } => {
                let then = then.clone();
                Transition(self.poststop_done(then))
            }
            // Otherwise this is the second answer to two attempts to end the tree.
            AppEvent::TreeEmpty { .. } if context.hurried => {
                let then = then.clone();
                self.after_the_stop(then, context)
            }
            AppEvent::Changed(app, _) => {
                self.take(app);
                Handled
            }
            _ => match (&*then, Self::asked_after_the_end(then, event)) {
                (_, None) => Super,
                (Then::Crashed(end), Some(other)) => {
                    let end = end.clone();
                    self.record(&end, None, context);
                    self.history.forget();
                    *then = other;
                    Handled
                }
                (_, Some(other)) => {
                    *then = other;
                    Handled
                }
            },
        }
    }

    #[action]
    fn enter_poststop(&mut self, then: &mut Then, context: &mut Context<'_>) {
        let exit = match then {
            Then::Crashed(end) => end.exit.clone(),
            Then::Stopped(_) | Then::Start { .. } => Exit::StoppedByUs,
        };
        context.push(AppEffect::RunPoststop { run: self.run, app: self.app.clone(), exit });
    }

    // Superstates.

    /// The app is down. A request starts it.
    #[superstate(superstate = "any")]
    fn down(&mut self, event: &AppEvent, context: &mut Context<'_>) -> Outcome<State> {
        match event {
            AppEvent::StartAsked | AppEvent::RestartAsked => Transition(self.start_afresh(None, context)),
            AppEvent::ActionAsked(action) => Transition(self.start_afresh(Some(action.clone()), context)),
            AppEvent::StopAsked(why) => Transition(State::stopped(*why, context.now)),
            _ => Super,
        }
    }

    /// The app is starting and has no leader yet.
    #[superstate(superstate = "any")]
    fn starting(&mut self, event: &AppEvent, context: &mut Context<'_>) -> Outcome<State> {
        if *event == AppEvent::DependencyLost {
            return Super;
        }
        self.asked_while_up(None, event, context)
    }

    /// The app has a live leader.
    #[superstate(superstate = "any")]
    fn led(&mut self, pid: &mut Pid, event: &AppEvent, context: &mut Context<'_>) -> Outcome<State> {
        if let AppEvent::SignalAsked(signal) = event {
            context.push(AppEffect::Signal { pid: *pid, signal: *signal });
            return Super;
        }
        self.asked_while_up(Some(*pid), event, context)
    }

    /// The app is to end, and its leader has not been asked yet.
    #[superstate(superstate = "any")]
    fn ending(
        &mut self,
        pid: &mut Pid,
        then: &mut Then,
        event: &AppEvent,
        context: &mut Context<'_>,
    ) -> Outcome<State> {
        match event {
            AppEvent::Exited { peak, .. } => {
                if let Then::Crashed(end) = then {
                    end.peak = *peak;
                }
                Transition(State::stopping(None, then.clone()))
            }
            AppEvent::SignalAsked(signal) => {
                context.push(AppEffect::Signal { pid: *pid, signal: *signal });
                Super
            }
            AppEvent::Changed(app, _) => {
                self.take(app);
                Handled
            }
            _ => match Self::asked_while_stopping(then, event) {
                Some(other) => {
                    *then = other;
                    Handled
                }
                None => Super,
            },
        }
    }

    /// The leader is gone and the policy has not decided what follows. A request decides instead.
    #[superstate(superstate = "any")]
    fn crashed(&mut self, end: &mut RunEnd, event: &AppEvent, context: &mut Context<'_>) -> Outcome<State> {
        if let AppEvent::Changed(app, _) = event {
            self.take(app);
            return Handled;
        }
        let Some(then) = Self::asked_after_a_crash(event) else { return Super };
        let end = end.clone();
        self.record(&end, None, context);
        self.history.forget();
        Transition(State::stopping(None, then))
    }

    /// Names every event, so that a new one does not compile until it is handled. An event that gets here came too late
    /// or means nothing in the current state.
    #[superstate]
    fn any(&mut self, event: &AppEvent, context: &mut Context<'_>) -> Outcome<State> {
        match event {
            AppEvent::DependencyEnded | AppEvent::SignalAsked(_) => {
                self.disturbed = Some(context.now);
                Handled
            }
            AppEvent::StartAsked
            | AppEvent::StopAsked(_)
            | AppEvent::RestartAsked
            | AppEvent::ActionAsked(_)
            | AppEvent::Changed(..)
            | AppEvent::Resumed(_)
            | AppEvent::Unblocked
            | AppEvent::DependencyLost
            | AppEvent::FollowersEnded
            | AppEvent::HooksDone { .. }
            | AppEvent::HookFailed { .. }
            | AppEvent::Found { .. }
            | AppEvent::NotFound { .. }
            | AppEvent::Remains { .. }
            | AppEvent::EndedBefore { .. }
            | AppEvent::Spawned { .. }
            | AppEvent::SpawnFailed { .. }
            | AppEvent::ProbePassed { .. }
            | AppEvent::ProbeFailed { .. }
            | AppEvent::TracesFound { .. }
            | AppEvent::Exited { .. }
            | AppEvent::TreeEmpty { .. }
            | AppEvent::Measured { .. }
            | AppEvent::Fired { .. } => Handled,
        }
    }
}

#[cfg(test)]
mod tests;
