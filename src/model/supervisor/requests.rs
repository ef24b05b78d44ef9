//! Client requests to one app: whether a request can be carried out, and when it is done.

use std::time::Duration;

use super::apps::Slot;
use super::{AppEffect, AppId, AskId, Effect, Supervisor, Turn};
use crate::model::app::App;
use crate::model::exit::Exit;
use crate::model::machine::{AppEvent, Pid, State, StopReason, Timer};
use crate::model::protocol::{Answer, Refusal, StateName, Verb};
use crate::model::signal::signal_name;
use crate::model::spelling;

/// How long an app without a ready probe must have been up before a client is told that it runs. Most programs that
/// cannot work, and most short jobs, have ended by then, and the client is told that instead.
const SETTLED: Duration = Duration::from_millis(500);

/// A client's request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppRequest {
    /// Names the request in its answer.
    pub id: AskId,
    /// The app's name, as the client wrote it.
    pub app: String,
    /// What to do.
    pub verb: Verb,
    /// Answer once the request is done, instead of at once.
    pub wait: bool,
}

/// A request that is answered once its goal is reached, or can no longer be reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wait {
    pub id: AskId,
    pub app: AppId,
    goal: Goal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Goal {
    /// The app is running and has settled, in a later run than this one.
    Up { after: u64 },
    /// The app is down. The request came during this run.
    Down { run: u64 },
}

/// How a request is carried out.
enum Task {
    Signal { id: AppId, pid: Pid, signal: i32 },
    Change { id: AppId, event: AppEvent, goal: Goal },
}

type Refused = (Refusal, String);

impl Supervisor {
    pub(super) fn ask(&mut self, request: AppRequest, turn: &mut Turn<'_>) {
        let AppRequest { id: ask, app: name, verb, wait } = request;
        let give = |turn: &mut Turn<'_>, refusal: Option<Refusal>, message| {
            let answer = Answer { app: name.clone(), done: refusal.is_none(), message, refusal };
            turn.push(Effect::Answer(ask, answer));
        };
        match self.task(&name, &verb) {
            Err((refusal, message)) => give(turn, Some(refusal), message),
            Ok(Task::Signal { id, pid, signal }) => {
                self.dispatch(id, AppEvent::SignalAsked(signal), turn);
                give(turn, None, format!("sent signal {} to `{name}` (pid {pid})", signal_text(signal)));
            }
            Ok(Task::Change { id, event, goal }) => {
                self.waits.push(Wait { id: ask, app: id, goal });
                self.dispatch(id, event, turn);
                self.answer(id, turn);
                if !wait && let Some(at) = self.waits.iter().position(|wait| wait.id == ask) {
                    self.waits.swap_remove(at);
                    let state = self.apps.get(id).map_or(StateName::Stopped, |slot| slot.state().name());
                    give(turn, None, format!("{verb} of `{name}` is under way ({state})"));
                }
            }
        }
    }

    /// How to carry out the request, or why it cannot be done.
    fn task(&self, name: &str, verb: &Verb) -> Result<Task, Refused> {
        let id = self.id(name).ok_or_else(|| (Refusal::NoSuchApp, self.no_such_app(name)))?;
        let slot = self.apps.get(id).ok_or_else(|| (Refusal::NoSuchApp, self.no_such_app(name)))?;
        if slot.removed && *verb != Verb::Stop {
            let message = format!("cannot {verb} `{name}`: its manifest is gone, and it is being stopped");
            return Err((Refusal::NoSuchApp, message));
        }
        if self.drain.is_some() && *verb != Verb::Stop {
            return Err((Refusal::WrongState, format!("cannot {verb} `{name}`: the session is ending")));
        }
        let (state, run) = (slot.state(), slot.machine.run);
        let change = |event, goal| Ok(Task::Change { id, event, goal });
        match verb {
            Verb::Start => change(
                AppEvent::StartAsked,
                Goal::Up { after: if state.is_up() { run.saturating_sub(1) } else { run } },
            ),
            Verb::Stop => change(AppEvent::StopAsked(StopReason::Held), Goal::Down { run }),
            Verb::Restart | Verb::Do(_) if state.stop_asked() => {
                let message =
                    format!("`{name}` is being stopped by another request, which goes first; start it when it is down");
                Err((Refusal::Overtaken, message))
            }
            Verb::Restart => change(AppEvent::RestartAsked, Goal::Up { after: run }),
            Verb::Do(action) if slot.app().hooks.actions.contains_key(action) => {
                change(AppEvent::ActionAsked(action.clone()), Goal::Up { after: run })
            }
            Verb::Do(action) => Err((Refusal::NoSuchAction, no_such_action(slot.app(), action))),
            Verb::Signal(signal) => match state.pid() {
                Some(pid) => Ok(Task::Signal { id, pid, signal: *signal }),
                None => {
                    let message = format!("`{name}` is {}: there is no process to signal", state.name());
                    Err((Refusal::WrongState, message))
                }
            },
        }
    }

    /// Answers the requests whose goal this app has reached, or can no longer reach.
    pub(super) fn answer(&mut self, id: AppId, turn: &mut Turn<'_>) {
        if self.waits.is_empty() {
            return;
        }
        let Some(slot) = self.apps.get(id) else { return };
        let in_vain = self.waits_in_vain(id);
        let unsettled = unsettled(slot, turn.now);
        if let Some(after) = unsettled.filter(|_| self.waits.iter().any(|wait| wait.app == id)) {
            let timer = AppEffect::Arm { run: slot.machine.run, timer: Timer::Settled, after };
            turn.push(Effect::App(id, timer));
        }
        self.waits.retain(|wait| {
            let is_due = wait.app == id && !(unsettled.is_some() && matches!(wait.goal, Goal::Up { .. }));
            let answer = if is_due { reached(slot, wait.goal, in_vain.as_deref()) } else { None };
            let Some((refusal, message)) = answer else { return true };
            let answer = Answer { app: slot.app().name.clone(), done: refusal.is_none(), message, refusal };
            turn.push(Effect::Answer(wait.id, answer));
            false
        });
    }

    fn no_such_app(&self, name: &str) -> String {
        spelling::no_such_app(name, self.apps.names())
    }
}

fn no_such_action(app: &App, action: &str) -> String {
    let names = app.hooks.actions.keys().map(String::as_str);
    let way_out = spelling::way_out(action, names, ("it has", "its manifest has no `actions`"));
    format!("`{}` has no action `{action}`: {way_out}", app.name)
}

fn signal_text(signal: i32) -> String {
    signal_name(signal).map_or_else(|| signal.to_string(), |name| format!("SIG{name}"))
}

/// How much longer the app must be up before a client is told that it runs. `None` if it has settled, or is not running.
fn unsettled(slot: &Slot, now: Duration) -> Option<Duration> {
    let State::Running { since, adopted: false, .. } = slot.state() else { return None };
    // An app that ends later than this is started again at once, and no wait would see it down.
    let enough = SETTLED.min(slot.app().policy.backoff.stable_after);
    (*since + enough).checked_sub(now).filter(|left| slot.app().ready.is_none() && !left.is_zero())
}

/// The answer to a request: a refusal, if it failed, and the message. `None` if it is not done yet. `in_vain`: what the
/// app waits for, if that will not happen by itself.
fn reached(slot: &Slot, goal: Goal, in_vain: Option<&str>) -> Option<(Option<Refusal>, String)> {
    let (name, run, state) = (&slot.app().name, slot.machine.run, slot.state());
    let ended = || slot.machine.last_exit.clone().unwrap_or(Exit::Unknown);
    match (goal, state) {
        (Goal::Down { .. }, State::Stopped { .. } | State::GaveUp { .. }) => {
            Some((None, format!("`{name}` is stopped")))
        }
        (Goal::Down { run: then }, state) if state.is_up() && run > then => {
            Some((Some(Refusal::Overtaken), format!("`{name}` was stopped, and started again by another request")))
        }
        (Goal::Up { after }, State::Running { pid, .. }) if run > after => {
            Some((None, format!("`{name}` is running (pid {pid})")))
        }
        (Goal::Up { after }, State::Backoff { .. } | State::GaveUp { .. }) if run > after => {
            let message = format!("`{name}` did not come up: {}; `kasm-void why {name}` tells more", ended());
            Some((Some(Refusal::Failed), message))
        }
        (Goal::Up { after }, State::Stopped { why: StopReason::Done, .. }) if run > after => Some(match ended() {
            Exit::Clean => (None, format!("`{name}` has ended: {}", Exit::Clean)),
            exit => (Some(Refusal::Failed), format!("`{name}` has ended: {exit}; `kasm-void why {name}` tells more")),
        }),
        (Goal::Up { after }, State::Waiting { .. }) if run > after => {
            in_vain.map(|why| (Some(Refusal::Failed), format!("`{name}` starts later: {why}")))
        }
        (Goal::Up { .. }, State::Stopped { .. }) => {
            Some((Some(Refusal::Overtaken), format!("`{name}` was stopped by another request")))
        }
        _ => None,
    }
}
