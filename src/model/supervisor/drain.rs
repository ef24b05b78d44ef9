//! Ends a session: stops all apps in the reverse order of their start, and kills them when the time for that is over.

use std::fmt;
use std::time::Duration;

use super::apps::Slot;
use super::{AppId, Effect, Supervisor, Turn};
use crate::model::app::App;
use crate::model::guard::{OVER_BUDGET, ToGuard};
use crate::model::machine::{AppEffect, AppEvent, StopReason};

/// After the kill, processes have this long to be gone. The guard waits a little longer before it kills everything
/// itself.
const AFTER_THE_KILL: Duration = Duration::from_millis(400);
const _: () = assert!(AFTER_THE_KILL.as_millis() < OVER_BUDGET.as_millis());

/// A drain in progress.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Drain {
    /// The code to exit with.
    pub code: u8,
    hurried: bool,
}

/// Why the session is drained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DrainCause {
    /// The supervisor received this signal.
    Signal(&'static str),
    /// `kasm-void drain`.
    Request,
    /// The guard was told to end the session.
    Guard,
    /// This app gave up, and its `on_give_up` ends the session.
    GaveUp(String),
    /// An earlier supervisor had begun the drain.
    Resumed,
}

impl fmt::Display for DrainCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DrainCause::Signal(signal) => write!(f, "{signal} received"),
            DrainCause::Request => f.write_str("asked to drain"),
            DrainCause::Guard => f.write_str("the guard was told to end the session"),
            DrainCause::GaveUp(app) => write!(f, "{app} has given up, and `on_give_up` ends the session"),
            DrainCause::Resumed => f.write_str("an earlier supervisor had begun to drain"),
        }
    }
}

impl Supervisor {
    pub(super) fn begin_drain(&mut self, code: u8, cause: DrainCause, turn: &mut Turn<'_>) {
        if self.drain.is_some() {
            return;
        }
        self.drain = Some(Drain { code, hurried: false });
        // First of all: from the moment that anyone can see a drain, it must survive the death of this supervisor.
        turn.push(Effect::TellGuard(ToGuard::Draining(code)));
        turn.push(Effect::DrainBegun(cause));
        turn.push(Effect::ArmBudget(self.workspace.stop_budget));
        self.disown_all(turn);
        for id in self.next_to_stop() {
            self.dispatch(id, AppEvent::StopAsked(StopReason::Draining), turn);
        }
        self.exit_if_down(turn);
    }

    /// The apps to stop next: not down, not asked to stop yet, and not needed by an app that is still up. An app is
    /// needed if it is named in `after` and alive. One that is about to start, again or for the first time, is not: a
    /// session that ends starts nothing.
    pub(super) fn next_to_stop(&self) -> Vec<AppId> {
        let next = self.apps.busy().filter(|(_, slot)| self.may_stop(slot));
        next.map(|(id, _)| id).collect()
    }

    /// Which of the apps named in `after` of an app that is down now may be stopped.
    pub(super) fn freed_by(&self, app: &App) -> Vec<AppId> {
        let named = app.after.iter().filter_map(|after| self.apps.id(&after.app));
        named.filter(|id| self.apps.get(*id).is_some_and(|slot| self.may_stop(slot))).collect()
    }

    pub(super) fn may_stop(&self, slot: &Slot) -> bool {
        let state = slot.state();
        let is_needed = || self.apps.followers(&slot.app().name).any(|other| self.apps.is_busy(other));
        let stays = state.is_led() && is_needed();
        !state.at_rest() && !state.stop_asked() && !stays
    }

    /// All that is left is killed.
    pub(super) fn hurried(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| drain.hurried)
    }

    pub(super) fn exit_if_down(&self, turn: &mut Turn<'_>) {
        if let Some(drain) = &self.drain
            && self.apps.all_at_rest()
        {
            turn.push(Effect::Exit(drain.code));
        }
    }

    /// Asks every app to stop now and kills every tree. A process that is stuck in the kernel outlives even that, so
    /// the second call exits without waiting for it.
    pub(super) fn hurry(&mut self, why: String, turn: &mut Turn<'_>) {
        let Some(drain) = &mut self.drain else { return };
        turn.push(Effect::DrainHurried(why));
        if std::mem::replace(&mut drain.hurried, true) {
            return turn.push(Effect::Exit(drain.code));
        }
        turn.push(Effect::ArmBudget(AFTER_THE_KILL));
        let up: Vec<AppId> = self.apps.busy().map(|(id, _)| id).collect();
        for id in up {
            self.dispatch(id, AppEvent::StopAsked(StopReason::Draining), turn);
            if let Some(slot) = self.apps.get(id) {
                turn.push(Effect::App(id, AppEffect::Sweep { run: slot.machine.run }));
            }
        }
        self.exit_if_down(turn);
    }
}
