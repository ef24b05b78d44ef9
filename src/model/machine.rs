//! The one machine every app runs on. It is told what happened ([`Event`]) and when, and says what to do
//! next ([`Effect`]); it reads no clock, draws no random number and touches nothing.
//!
//! Timers, exits and answers carry the run they belong to, so one that comes late falls through.

use std::sync::Arc;
use std::time::Duration;

use statig::prelude::*;

use crate::model::app::App;
use crate::model::exit::Exit;
use crate::model::manifest::restart::{self, History, OnGiveUp, Verdict};
use crate::model::plan::Change;
use crate::model::protocol::StateName;

mod kept;
mod words;
pub use kept::{Kept, Posture};
pub use words::{Effect, Event, Phase, Pid, ProbeKind, Report, Then, Timer, Why};

/// A ready probe that failed is repeated after this.
pub const READY_POLL: Duration = Duration::from_millis(100);
/// A launcher that ended well may have left a program that is not yet the one it will be: looked for this
/// often, at this interval.
pub const LOOKS: u32 = 20;
pub const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How often the memory of an app with `limits.max_rss` is measured.
pub const MEMORY_POLL: Duration = Duration::from_secs(10);

/// Where effects go, and what the machine may know of the world at this moment.
pub struct Cx<'a> {
    /// Since the supervisor began.
    pub now: Duration,
    /// A random number in 0..1, for jitter.
    pub chance: f64,
    /// An app named in `after` is still on its way up.
    pub blocked: bool,
    pub effects: &'a mut Vec<Effect>,
}

impl Cx<'_> {
    fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    fn arm(&mut self, run: u64, timer: Timer, after: Duration) {
        self.push(Effect::Arm { run, timer, after });
    }
}

/// What outlives the states of one app.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    pub app: Arc<App>,
    /// Number of the latest start.
    pub run: u64,
    /// Starts that followed an exit nobody asked for.
    pub restarts: u64,
    pub last_exit: Option<Exit>,
    history: History,
    /// Whether it was looked for once: an earlier supervisor may have left it.
    looked: bool,
}

impl Machine {
    pub fn new(app: Arc<App>) -> Self {
        Machine { app, run: 0, restarts: 0, last_exit: None, history: History::default(), looked: false }
    }

    fn current(&self, run: u64) -> bool {
        run == self.run
    }

    /// `stop` was asked for a tree with or without a leader.
    fn ask_to_end(&self, pid: Option<Pid>, cx: &mut Cx<'_>) {
        match pid {
            Some(pid) => {
                cx.push(Effect::Signal { pid, signal: self.app.stop.signal });
                cx.arm(self.run, Timer::Grace, self.app.stop.grace);
            }
            None => cx.push(Effect::Sweep { run: self.run }),
        }
    }

    fn look_up(&self, by_cookie: bool, cx: &mut Cx<'_>) {
        cx.push(Effect::LookUp { run: self.run, app: self.app.clone(), by_cookie });
    }

    fn spawn(&self, phase: &mut Phase, cx: &mut Cx<'_>) {
        *phase = Phase::Spawning;
        cx.push(Effect::Spawn { run: self.run, app: self.app.clone() });
    }

    /// First the look-up, where it can find anything; the rest of the start follows its answer.
    fn begin(&mut self, phase: &mut Phase, action: &Option<String>, cx: &mut Cx<'_>) {
        let first = !std::mem::replace(&mut self.looked, true);
        if self.app.matcher.is_some() || first {
            *phase = Phase::Looking;
            self.look_up(first, cx);
        } else {
            self.run_hooks(phase, action, cx);
        }
    }

    fn run_hooks(&self, phase: &mut Phase, action: &Option<String>, cx: &mut Cx<'_>) {
        if self.app.hooks.prelaunch.is_empty() && action.is_none() {
            return self.spawn(phase, cx);
        }
        *phase = Phase::Hooks;
        cx.push(Effect::RunHooks { run: self.run, app: self.app.clone(), action: action.clone() });
    }

    /// Alive: ready at once, or once the probe says so.
    fn alive(&self, pid: Pid, adopted: bool, cx: &mut Cx<'_>) -> State {
        let report = match adopted {
            true => Report::Adopted { run: self.run, pid },
            false => Report::Launched { run: self.run, pid },
        };
        cx.push(Effect::Report(report));
        let Some(ready) = &self.app.ready else {
            return State::running(Some(pid), adopted, cx.now, 0);
        };
        cx.arm(self.run, Timer::ReadyWithin, ready.within);
        self.probe(ProbeKind::Ready, cx);
        State::starting(Some(pid), Phase::Probing { adopted, said: String::new() }, None)
    }

    fn probe(&self, kind: ProbeKind, cx: &mut Cx<'_>) {
        cx.push(Effect::Probe { run: self.run, app: self.app.clone(), kind });
    }

    fn arm_health(&self, cx: &mut Cx<'_>) {
        if let Some(health) = &self.app.health {
            cx.arm(self.run, Timer::Health, health.every);
        }
    }

    fn arm_memory(&self, cx: &mut Cx<'_>) {
        if self.app.max_rss.is_some() {
            cx.arm(self.run, Timer::Memory, MEMORY_POLL);
        }
    }

    fn disarm_watch(&self, cx: &mut Cx<'_>) {
        if self.app.health.is_some() {
            cx.push(Effect::CancelProbe);
        }
        cx.push(Effect::Disarm(Timer::Health));
        cx.push(Effect::Disarm(Timer::Memory));
    }

    /// Told for every transition, whatever its cause.
    fn report_transition(&mut self, from: &State, to: &State, cx: &mut Cx<'_>) {
        cx.push(Effect::Report(Report::Entered { run: self.run, from: from.name(), to: to.name(), pid: to.pid() }));
    }

    /// The change itself; what it means for a live tree is for the states.
    fn take(&mut self, app: &Arc<App>) {
        self.app = app.clone();
    }

    /// After the sweep: record the end, ask the policy, go where it says.
    fn conclude(
        &mut self,
        (pid, exit, lived, peak): (Option<Pid>, &Exit, Option<Duration>, Option<u64>),
        cx: &mut Cx<'_>,
    ) -> Outcome<State> {
        let verdict = restart::decide(&self.app.policy, &mut self.history, exit, (cx.now, lived), cx.chance);
        self.last_exit = Some(exit.clone());
        cx.push(Effect::Report(Report::Crashed { run: self.run, pid, exit: exit.clone(), lived, peak, verdict }));
        match verdict {
            Verdict::AtOnce => {
                self.restarts += 1;
                Transition(State::starting(None, Phase::New, None))
            }
            Verdict::After { attempt, wait } => Transition(State::backoff(attempt, cx.now + wait)),
            Verdict::GiveUp => Transition(State::gave_up(exit.clone())),
            Verdict::Stay if *exit == Exit::Clean && self.app.policy.restart == restart::Restart::Always => {
                Transition(State::stopped(Why::Closed))
            }
            Verdict::Stay => Transition(State::stopped(Why::Done)),
        }
    }
}

impl State {
    pub fn name(&self) -> StateName {
        match self {
            State::Stopped { .. } => StateName::Stopped,
            State::Starting { .. } => StateName::Starting,
            State::Running { .. } => StateName::Running,
            State::Crashed { .. } => StateName::Crashed,
            State::Backoff { .. } => StateName::Backoff,
            State::Stopping { .. } => StateName::Stopping,
            State::GaveUp { .. } => StateName::GaveUp,
        }
    }

    /// The tree's leader, while it is alive.
    pub fn pid(&self) -> Option<Pid> {
        match self {
            State::Starting { pid, .. } | State::Running { pid, .. } | State::Stopping { pid, .. } => *pid,
            _ => None,
        }
    }

    /// It is coming up: who is started `after` it waits.
    pub fn on_its_way(&self) -> bool {
        match self {
            State::Starting { .. } | State::Crashed { .. } | State::Backoff { .. } => true,
            State::Stopping { then, .. } => !matches!(then, Then::Stopped(_)),
            _ => false,
        }
    }

    /// Nothing of it is alive, and nothing will be without being asked.
    pub fn at_rest(&self) -> bool {
        matches!(self, State::Stopped { .. } | State::GaveUp { .. })
    }

    /// What the name of the state leaves open, in words.
    pub fn detail(&self) -> String {
        match self {
            State::Stopped { why } => why.words().into(),
            State::Starting { phase, .. } => match phase {
                Phase::Waiting => "waiting for others".into(),
                Phase::Hooks => "hooks".into(),
                Phase::Probing { said, .. } if said.is_empty() => "not ready yet".into(),
                Phase::Probing { said, .. } => format!("not ready yet: {said}"),
                Phase::Clearing => "clearing up".into(),
                Phase::New | Phase::Resuming(_) | Phase::Looking | Phase::LookingAgain | Phase::Spawning => {
                    String::new()
                }
            },
            State::Backoff { attempt, .. } => format!("retry {attempt}"),
            State::Stopping { then: Then::Start { .. }, .. } => "to start again".into(),
            State::Crashed { exit, .. } | State::GaveUp { exit } => exit.to_string(),
            State::Stopping { then: Then::Crashed { exit, .. }, .. } => exit.to_string(),
            State::Running { .. } | State::Stopping { .. } => String::new(),
        }
    }
}

#[state_machine(
    initial = "State::stopped(Why::NotStarted)",
    after_transition = "Self::report_transition",
    state(derive(Debug, Clone, PartialEq)),
    superstate(derive(Debug))
)]
impl Machine {
    #[state(superstate = "down")]
    fn stopped(&mut self, why: &mut Why, event: &Event) -> Outcome<State> {
        match event {
            Event::Resumed(kept) => self.resume(kept, why).map_or(Handled, Transition),
            Event::StopAsked(reason) => {
                *why = *reason;
                Handled
            }
            Event::Changed(app, change) => {
                self.take(app);
                match (*why, change) {
                    (Why::Done, Change::Restart(_)) => Transition(State::starting(None, Phase::New, None)),
                    _ => Handled,
                }
            }
            _ => Super,
        }
    }

    #[state(superstate = "up", entry_action = "enter_starting", exit_action = "leave_starting")]
    fn starting(
        &mut self,
        pid: &mut Option<Pid>,
        phase: &mut Phase,
        action: &mut Option<String>,
        event: &Event,
        context: &mut Cx<'_>,
    ) -> Outcome<State> {
        if let Phase::Resuming(posture) = phase
            && self.asked_meanwhile(posture, event)
        {
            return Handled;
        }
        match (event, &mut *phase) {
            (Event::Found { run, pid }, Phase::Resuming(posture)) if self.current(*run) => {
                let posture = posture.clone();
                Transition(self.resumed(*pid, &posture, context))
            }
            (Event::NotFound { run } | Event::Remains { run }, Phase::Resuming(posture)) if self.current(*run) => {
                Transition(Self::not_resumed(posture, Exit::Unknown, None, context.now))
            }
            (Event::Exited { run, exit, peak }, Phase::Resuming(posture)) if self.current(*run) => {
                Transition(Self::not_resumed(posture, exit.clone(), *peak, context.now))
            }
            (Event::Unblocked, Phase::Waiting) => {
                self.begin(phase, action, context);
                Handled
            }
            (Event::NotFound { run }, Phase::Looking) if self.current(*run) => {
                self.run_hooks(phase, action, context);
                Handled
            }
            (Event::Remains { run }, Phase::Looking | Phase::LookingAgain) if self.current(*run) => {
                *phase = Phase::Clearing;
                context.push(Effect::Sweep { run: self.run });
                Handled
            }
            (Event::TreeEmpty { run }, Phase::Clearing) if self.current(*run) => {
                self.run_hooks(phase, action, context);
                Handled
            }
            // Whom it is started after has died meanwhile, and those that are waited for in hooks may be up sooner.
            (Event::HooksDone { run }, Phase::Hooks) if self.current(*run) && context.blocked => {
                *phase = Phase::Waiting;
                Handled
            }
            (Event::HooksDone { run }, Phase::Hooks) if self.current(*run) => {
                if self.app.matcher.is_some() {
                    *phase = Phase::LookingAgain;
                    self.look_up(false, context);
                } else {
                    self.spawn(phase, context);
                }
                Handled
            }
            (Event::HookFailed { run, why }, Phase::Hooks) if self.current(*run) => {
                Transition(State::crashed(None, Exit::HookFailed(why.clone()), None, None, 0))
            }
            (Event::NotFound { run }, Phase::LookingAgain) if self.current(*run) => {
                self.spawn(phase, context);
                Handled
            }
            (Event::Found { run, pid }, Phase::Looking | Phase::LookingAgain) if self.current(*run) => {
                Transition(self.alive(*pid, true, context))
            }
            (Event::Spawned { run, pid }, Phase::Spawning) if self.current(*run) => {
                Transition(self.alive(*pid, false, context))
            }
            (Event::SpawnFailed { run, why }, Phase::Spawning) if self.current(*run) => {
                Transition(State::crashed(None, Exit::SpawnFailed(why.clone()), None, None, 0))
            }
            (Event::ProbePassed { run }, Phase::Probing { adopted, .. }) if self.current(*run) => {
                Transition(State::running(*pid, *adopted, context.now, 0))
            }
            (Event::ProbeFailed { run, why }, Phase::Probing { said, .. }) if self.current(*run) => {
                said.clone_from(why);
                context.arm(self.run, Timer::ReadyPoll, READY_POLL);
                Handled
            }
            (Event::Fired { run, timer: Timer::ReadyPoll }, Phase::Probing { .. }) if self.current(*run) => {
                self.probe(ProbeKind::Ready, context);
                Handled
            }
            (Event::Fired { run, timer: Timer::ReadyWithin }, Phase::Probing { said, .. }) if self.current(*run) => {
                let exit = Exit::NotReady(std::mem::take(said));
                Transition(State::stopping(*pid, Then::Crashed { exit, lived: None }))
            }
            (Event::Exited { run, exit, peak }, Phase::Probing { .. }) if self.current(*run) => {
                Transition(State::crashed(*pid, exit.clone(), None, *peak, 0))
            }
            _ => Super,
        }
    }

    #[action]
    fn enter_starting(&mut self, phase: &mut Phase, action: &mut Option<String>, context: &mut Cx<'_>) {
        match phase {
            Phase::New => {}
            Phase::Resuming(_) => {
                self.looked = true;
                return self.look_up(true, context);
            }
            _ => return, // the same run goes on
        }
        self.run += 1;
        if context.blocked {
            *phase = Phase::Waiting;
        } else {
            self.begin(phase, action, context);
        }
    }

    #[action]
    fn leave_starting(&mut self, phase: &mut Phase, context: &mut Cx<'_>) {
        match phase {
            Phase::Hooks => context.push(Effect::CancelHooks),
            Phase::Probing { .. } => {
                context.push(Effect::CancelProbe);
                context.push(Effect::Disarm(Timer::ReadyWithin));
                context.push(Effect::Disarm(Timer::ReadyPoll));
            }
            _ => {}
        }
    }

    #[state(superstate = "up", entry_action = "enter_running", exit_action = "leave_running")]
    #[expect(unused_variables, reason = "the arguments are the state's data: statig reads them off the signature")]
    fn running(
        &mut self,
        pid: &mut Option<Pid>,
        adopted: &mut bool,
        since: &mut Duration,
        failures: &mut u32,
        event: &Event,
        context: &mut Cx<'_>,
    ) -> Outcome<State> {
        let lived = Some(context.now.saturating_sub(*since));
        match event {
            Event::Exited { run, exit, peak } if self.current(*run) => {
                Transition(State::crashed(*pid, exit.clone(), lived, *peak, 0))
            }
            Event::Fired { run, timer: Timer::Health } if self.current(*run) => {
                self.probe(ProbeKind::Health, context);
                Handled
            }
            Event::ProbePassed { run } if self.current(*run) => {
                *failures = 0;
                self.arm_health(context);
                Handled
            }
            Event::ProbeFailed { run, why } if self.current(*run) => {
                let Some(health) = &self.app.health else { return Handled };
                if lived >= Some(health.grace) {
                    *failures += 1;
                }
                if *failures >= health.failures {
                    let exit = Exit::Unhealthy(why.clone());
                    return Transition(State::stopping(*pid, Then::Crashed { exit, lived }));
                }
                self.arm_health(context);
                Handled
            }
            Event::Fired { run, timer: Timer::Memory } if self.current(*run) => {
                context.push(Effect::Measure { run: self.run });
                Handled
            }
            Event::Measured { run, bytes } if self.current(*run) => {
                if self.app.max_rss.is_some_and(|most| *bytes > most) {
                    let exit = Exit::TooMuchMemory(*bytes);
                    return Transition(State::stopping(*pid, Then::Crashed { exit, lived }));
                }
                self.arm_memory(context);
                Handled
            }
            Event::Changed(app, Change::None | Change::Live(_) | Change::NextStart(_)) => {
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
    fn enter_running(&mut self, since: &mut Duration, context: &mut Cx<'_>) {
        self.arm_health(context);
        self.arm_memory(context);
        let resumed = *since < context.now;
        if !resumed && !self.app.hooks.postlaunch.is_empty() {
            context.push(Effect::RunPostlaunch { run: self.run, app: self.app.clone() });
        }
    }

    #[action]
    fn leave_running(&mut self, context: &mut Cx<'_>) {
        self.disarm_watch(context);
        if !self.app.hooks.postlaunch.is_empty() {
            context.push(Effect::CancelHooks);
        }
    }

    /// The leader is gone. First the look-up, where a pattern can find a successor (a launcher that
    /// forked away); then the sweep of what outlived it.
    #[state(superstate = "down", entry_action = "enter_crashed", exit_action = "leave_crashed")]
    fn crashed(
        &mut self,
        pid: &mut Option<Pid>,
        exit: &mut Exit,
        lived: &mut Option<Duration>,
        peak: &mut Option<u64>,
        looks: &mut u32,
        event: &Event,
        context: &mut Cx<'_>,
    ) -> Outcome<State> {
        match event {
            Event::Remains { run } if self.current(*run) && *exit == Exit::Clean && *looks < LOOKS => {
                *looks += 1;
                context.arm(self.run, Timer::LookAgain, LOOK_AGAIN);
                Handled
            }
            Event::Fired { run, timer: Timer::LookAgain } if self.current(*run) => {
                self.look_up(false, context);
                Handled
            }
            Event::Found { run, pid } if self.current(*run) => Transition(self.alive(*pid, true, context)),
            Event::NotFound { run } | Event::Remains { run } if self.current(*run) => {
                context.push(Effect::Sweep { run: self.run });
                Handled
            }
            Event::TreeEmpty { run } if self.current(*run) => self.conclude((*pid, exit, *lived, *peak), context),
            Event::StopAsked(why) => Transition(State::stopping(None, Then::Stopped(*why))),
            Event::StartAsked | Event::RestartAsked => Transition(State::stopping(None, Then::Start { action: None })),
            Event::ActionAsked(name) => Transition(State::stopping(None, Then::Start { action: Some(name.clone()) })),
            Event::Changed(app, _) => {
                self.take(app);
                Handled
            }
            _ => Super,
        }
    }

    #[action]
    fn enter_crashed(&mut self, pid: &mut Option<Pid>, context: &mut Cx<'_>) {
        if pid.is_some() && self.app.matcher.is_some() {
            self.look_up(false, context);
        } else {
            context.push(Effect::Sweep { run: self.run });
        }
    }

    #[action]
    fn leave_crashed(looks: &mut u32, context: &mut Cx<'_>) {
        if *looks > 0 {
            context.push(Effect::Disarm(Timer::LookAgain));
        }
    }

    #[state(superstate = "down", entry_action = "enter_backoff", exit_action = "leave_backoff")]
    #[expect(unused_variables, reason = "the arguments are the state's data: statig reads them off the signature")]
    fn backoff(&mut self, attempt: &mut u32, until: &mut Duration, event: &Event) -> Outcome<State> {
        match event {
            Event::Fired { run, timer: Timer::Retry } if self.current(*run) => {
                self.restarts += 1;
                Transition(State::starting(None, Phase::New, None))
            }
            Event::Changed(app, change) => {
                self.take(app);
                match change {
                    Change::Restart(_) | Change::NextStart(_) => {
                        self.history.forget();
                        Transition(State::starting(None, Phase::New, None))
                    }
                    _ => Handled,
                }
            }
            _ => Super,
        }
    }

    #[action]
    fn enter_backoff(&mut self, until: &mut Duration, context: &mut Cx<'_>) {
        let after = until.saturating_sub(context.now);
        context.arm(self.run, Timer::Retry, after);
    }

    #[action]
    fn leave_backoff(context: &mut Cx<'_>) {
        context.push(Effect::Disarm(Timer::Retry));
    }

    #[state(superstate = "up", entry_action = "enter_stopping", exit_action = "leave_stopping")]
    fn stopping(
        &mut self,
        pid: &mut Option<Pid>,
        then: &mut Then,
        event: &Event,
        context: &mut Cx<'_>,
    ) -> Outcome<State> {
        match event {
            Event::Exited { run, .. } if self.current(*run) => {
                *pid = None;
                context.push(Effect::StopRest { run: self.run });
                Handled
            }
            Event::Fired { run, timer: Timer::Grace } if self.current(*run) => {
                context.push(Effect::Sweep { run: self.run });
                Handled
            }
            Event::TreeEmpty { run } if self.current(*run) => {
                if !matches!(then, Then::Crashed { .. }) {
                    self.last_exit = Some(Exit::StoppedByUs);
                }
                Transition(match then.clone() {
                    Then::Stopped(why) => State::stopped(why),
                    Then::Start { action } => State::starting(None, Phase::New, action),
                    Then::Crashed { exit, lived } => State::crashed(None, exit, lived, None, 0),
                })
            }
            Event::StopAsked(why) => {
                *then = Then::Stopped(*why);
                Handled
            }
            Event::StartAsked => {
                if let Then::Stopped(_) = then {
                    *then = Then::Start { action: None };
                }
                Handled
            }
            // A stop beats a restart.
            Event::RestartAsked | Event::ActionAsked(_) if matches!(then, Then::Stopped(_)) => Handled,
            Event::RestartAsked => {
                *then = Then::Start { action: None };
                Handled
            }
            Event::ActionAsked(name) => {
                *then = Then::Start { action: Some(name.clone()) };
                Handled
            }
            Event::Changed(app, _) => {
                self.take(app);
                Handled
            }
            _ => Super,
        }
    }

    #[action]
    fn enter_stopping(&mut self, pid: &mut Option<Pid>, context: &mut Cx<'_>) {
        self.ask_to_end(*pid, context);
    }

    #[action]
    fn leave_stopping(context: &mut Cx<'_>) {
        context.push(Effect::Disarm(Timer::Grace));
    }

    #[state(superstate = "down", entry_action = "enter_gave_up")]
    #[expect(unused_variables, reason = "the argument is the state's data: statig reads it off the signature")]
    fn gave_up(&mut self, exit: &mut Exit, event: &Event) -> Outcome<State> {
        match event {
            Event::Changed(app, _) => {
                self.take(app);
                self.history.forget();
                Transition(State::starting(None, Phase::New, None))
            }
            _ => Super,
        }
    }

    #[action]
    fn enter_gave_up(&mut self, context: &mut Cx<'_>) {
        if let OnGiveUp::EndSession { code } = self.app.policy.on_give_up {
            context.push(Effect::EndSession { code });
        }
    }

    /// Something of the app is, or may be, alive.
    #[superstate(superstate = "any")]
    fn up(&mut self, pid: &mut Option<Pid>, event: &Event) -> Outcome<State> {
        let start = |action| Then::Start { action };
        match event {
            Event::StartAsked => Handled,
            Event::StopAsked(why) => Transition(State::stopping(*pid, Then::Stopped(*why))),
            Event::RestartAsked => {
                self.history.forget();
                Transition(State::stopping(*pid, start(None)))
            }
            Event::ActionAsked(name) => {
                self.history.forget();
                Transition(State::stopping(*pid, start(Some(name.clone()))))
            }
            Event::Changed(app, Change::Restart(_)) => {
                self.take(app);
                self.history.forget();
                Transition(State::stopping(*pid, start(None)))
            }
            Event::Changed(app, _) => {
                self.take(app);
                Handled
            }
            _ => Super,
        }
    }

    /// Nothing of it is alive, or only remains that are being swept.
    #[superstate(superstate = "any")]
    fn down(&mut self, event: &Event) -> Outcome<State> {
        match event {
            Event::StartAsked | Event::RestartAsked => {
                self.history.forget();
                Transition(State::starting(None, Phase::New, None))
            }
            Event::ActionAsked(name) => {
                self.history.forget();
                Transition(State::starting(None, Phase::New, Some(name.clone())))
            }
            Event::StopAsked(why) => Transition(State::stopped(*why)),
            _ => Super,
        }
    }

    /// Every event is named here, so that a new one does not compile until it is placed. What arrives
    /// here came too late, or means nothing in this state.
    #[superstate]
    fn any(event: &Event) -> Outcome<State> {
        match event {
            Event::StartAsked
            | Event::StopAsked(_)
            | Event::RestartAsked
            | Event::ActionAsked(_)
            | Event::Changed(..)
            | Event::Resumed(_)
            | Event::Unblocked
            | Event::HooksDone { .. }
            | Event::HookFailed { .. }
            | Event::Found { .. }
            | Event::NotFound { .. }
            | Event::Remains { .. }
            | Event::Spawned { .. }
            | Event::SpawnFailed { .. }
            | Event::ProbePassed { .. }
            | Event::ProbeFailed { .. }
            | Event::Exited { .. }
            | Event::TreeEmpty { .. }
            | Event::Measured { .. }
            | Event::Fired { .. } => Handled,
        }
    }
}

#[cfg(test)]
mod tests;
