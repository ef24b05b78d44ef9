//! The pure core of the supervisor: owns the machines of all apps and sends them events. It takes one input and returns
//! all its effects. The daemon performs the effects, and their results come back as inputs.
//!
//! Each submodule has one concern: `after` (how apps depend on one another), `apply` (manifests), `inherit` (what an earlier supervisor left), `requests`,
//! `drain`, `handover` (to another process), `snapshot` (what clients see) and `apps` (the table of machines). This file dispatches the
//! inputs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::app::App;
pub use crate::model::app::AppId;
use crate::model::guard::ToGuard;
use crate::model::loading::check::Checked;
use crate::model::loading::problem::Problem;
pub use crate::model::machine::{AppEffect, AppEvent, Found, ProbeKind, Timer, Traces};
use crate::model::machine::{Context, SavedApp, StopReason};
use crate::model::manifest::workspace::Workspace;
use crate::model::protocol::{Answer, PlanReport, StateName};

mod after;
mod apply;
mod apps;
mod drain;
mod handover;
mod inherit;
mod requests;
mod snapshot;
use apps::Apps;
use drain::Drain;
pub use drain::DrainCause;
pub use handover::Leave;
use inherit::Inheritance;
pub use requests::AppRequest;
use requests::Wait;
pub use snapshot::Observed;

/// Identifies a request that waits for an answer.
pub type AskId = u64;

/// An input of the supervisor.
#[derive(Debug)]
#[expect(missing_docs, reason = "the text of each variant names its fields")]
pub enum Input {
    /// The manifests were read and checked, because of this request or because a file changed.
    Loaded { checked: Box<Checked>, ask: Option<AskId> },
    /// The `stage` steps are done, successfully or not.
    Staged,
    /// Something has happened to this app.
    Happened(AppId, AppEvent),
    /// A client asks for something.
    Asked(AppRequest),
    /// Another binary is to take over, for this request.
    UpgradeAsked { ask: AskId, binary: String },
    /// The guard has died. May come more than once.
    GuardLost,
    /// The client of this request has disconnected.
    Forgotten(AskId),
    /// Stop everything, then exit with this code.
    DrainAsked { code: u8, cause: DrainCause },
    /// The supervisor received a signal that ends the session. The first one drains, the second one hurries the drain.
    EndSignalled(&'static str),
    /// The time of [`Effect::ArmBudget`] is over.
    BudgetSpent,
}

/// A task for the daemon. Tasks are performed in order.
#[derive(Debug, PartialEq)]
#[expect(missing_docs, reason = "the text of each variant names its fields")]
pub enum Effect {
    /// A task for one app.
    App(AppId, AppEffect),
    /// A new app appeared.
    Appeared(AppId, Arc<App>),
    /// The manifest changed; live settings take effect now.
    Changed(AppId, Arc<App>),
    /// The manifest and the tree of this app are gone.
    Vanished(AppId, String),
    /// Run the steps of `workspace.ron`'s `stage`.
    Stage(Arc<Workspace>),
    /// Answer this request. Happens once for each request.
    Answer(AskId, Answer),
    /// The manifests were applied: the resulting changes, and the problems found.
    Applied { ask: Option<AskId>, plan: Box<PlanReport>, problems: Vec<Problem> },
    /// Save what has changed. What follows in the list may rely on it: the next supervisor knows of each app before
    /// there is a process of it.
    Save,
    /// Send this message to the guard. What follows in the list may rely on it: the guard knows of a drain before
    /// anybody else can.
    TellGuard(ToGuard),
    /// All apps are being stopped.
    DrainBegun(DrainCause),
    /// All remaining processes are being killed, for this reason.
    DrainHurried(String),
    /// Send [`Input::BudgetSpent`] after this.
    ArmBudget(Duration),
    /// End this process without stopping the apps. The last one counts.
    Leave(Leave),
    /// All apps are down: forget the saved state, tell the guard that the session is over, and exit with this code.
    Exit(u8),
}

/// The data that outlives a supervisor.
#[derive(Debug, Clone, PartialEq, Hash, Default)]
pub struct SavedSession {
    /// By the app's name.
    pub apps: BTreeMap<String, SavedApp>,
    /// The state of the session itself.
    pub session: SessionState,
}

/// The data of the session itself that outlives a supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct SessionState {
    /// The `stage` steps are done; they run once in a session.
    pub staged: bool,
    /// A drain was in progress that ends with this exit code.
    pub draining: Option<u8>,
}

/// The context of one input: the time, and the list that collects effects.
struct Turn<'a> {
    now: Duration,
    /// A random number in 0..1.
    chance: f64,
    effects: &'a mut Vec<Effect>,
}

impl Turn<'_> {
    fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }
}

/// The state of the supervisor.
#[derive(Clone, Default, Hash)]
pub struct Supervisor {
    apps: Apps,
    workspace: Arc<Workspace>,
    /// Problems of the manifests, one line each.
    problems: Vec<String>,
    staging: Staging,
    waits: Vec<Wait>,
    /// The stop budget that the guard knows.
    told_budget: Option<Duration>,
    drain: Option<Drain>,
    /// The guard has died.
    unguarded: bool,
    inheritance: Inheritance,
    /// Apps that have changed since the last call of `moved_apps`.
    touched: BTreeSet<AppId>,
}

/// The next step for an app within one input.
enum Next {
    /// This has happened to it.
    Happens(AppEvent),
    /// An app that it depends on, or that depends on it, has changed.
    Concerns,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Staging {
    #[default]
    NotLoaded,
    Running,
    Done,
}

impl Supervisor {
    /// Handles one input at the time `now`. `chance` is a random number in 0..1.
    pub fn handle(&mut self, now: Duration, chance: f64, input: Input, effects: &mut Vec<Effect>) {
        let turn = &mut Turn { now, chance, effects };
        match input {
            Input::Loaded { checked, ask } => self.apply(*checked, ask, turn),
            Input::Staged => {
                self.staging = Staging::Done;
                self.apps.ids().into_iter().for_each(|id| self.start_if_wanted(id, turn));
            }
            Input::Happened(id, event) => self.dispatch(id, event, turn),
            Input::Asked(request) => self.ask(request, turn),
            Input::UpgradeAsked { ask, binary } => self.upgrade(ask, binary, turn),
            Input::GuardLost => self.guard_lost(turn),
            Input::Forgotten(id) => self.waits.retain(|wait| wait.id != id),
            Input::DrainAsked { code, cause } => self.begin_drain(code, cause, turn),
            Input::EndSignalled(signal) if self.drain.is_some() => self.hurry(format!("{signal} again"), turn),
            Input::EndSignalled(signal) => self.begin_drain(0, DrainCause::Signal(signal), turn),
            Input::BudgetSpent => self.hurry("the stop budget is used up".into(), turn),
        }
    }

    /// The data to save of each app that has changed since the last call.
    pub fn moved_apps(&mut self) -> Vec<(&str, SavedApp)> {
        let touched = std::mem::take(&mut self.touched);
        let saved: Vec<(AppId, SavedApp)> =
            touched.into_iter().filter_map(|id| Some((id, self.apps.get(id)?.machine.saved()))).collect();
        for (id, saved) in &saved {
            self.apps.get_mut(*id).into_iter().for_each(|slot| slot.is_sought = saved.state.is_sought());
        }
        saved.into_iter().filter_map(|(id, saved)| Some((self.name(id)?, saved))).collect()
    }

    /// The data to save of the session itself.
    pub fn session(&self) -> SessionState {
        SessionState { staged: self.staging == Staging::Done, draining: self.drain.as_ref().map(|drain| drain.code) }
    }

    /// The id of the app with this name, if there is one.
    pub fn id(&self, name: &str) -> Option<AppId> {
        self.apps.id(name)
    }

    /// The app in its version in use.
    pub fn app(&self, id: AppId) -> Option<&Arc<App>> {
        self.apps.get(id).map(|slot| slot.app())
    }

    /// The app's name.
    pub fn name(&self, id: AppId) -> Option<&str> {
        self.app(id).map(|app| app.name.as_str())
    }

    /// The session's own settings, in their last good version.
    pub fn workspace(&self) -> &Arc<Workspace> {
        &self.workspace
    }

    /// Starts an app that is not held down, unless its manifest or the session forbids it.
    fn start_if_wanted(&mut self, id: AppId, turn: &mut Turn<'_>) {
        let Some(slot) = self.apps.get(id) else { return };
        let Some(reason) = slot.state().stop_reason() else { return };
        let held = match reason {
            StopReason::Held | StopReason::Closed | StopReason::Done | StopReason::Draining => true,
            StopReason::NotStarted | StopReason::Disabled | StopReason::Removed => false,
        };
        if held || slot.removed || self.drain.is_some() || self.will_drain() || self.staging != Staging::Done {
            return;
        }
        let event = match (slot.app().enabled, self.workspace.autostart) {
            (false, _) => AppEvent::StopAsked(StopReason::Disabled),
            (true, false) => AppEvent::StopAsked(StopReason::NotStarted),
            (true, true) => AppEvent::StartAsked,
        };
        self.dispatch(id, event, turn);
    }

    /// Sends an event to a machine, then handles what the new state means for other apps.
    fn dispatch(&mut self, id: AppId, event: AppEvent, turn: &mut Turn<'_>) {
        let mut queue = VecDeque::from([(id, Next::Happens(event))]);
        while let Some((id, next)) = queue.pop_front() {
            let event = match next {
                Next::Happens(event) => event,
                Next::Concerns => match self.consequence(id) {
                    Some(event) => event,
                    // What it waits for may be down for good.
                    None => {
                        self.answer(id, turn);
                        continue;
                    }
                },
            };
            // A changed manifest also concerns the apps that only its last version names.
            let named_before = matches!(event, AppEvent::Changed(..)).then(|| self.concerned(id)).unwrap_or_default();
            let (blocked, followed, hurried) = (self.blocked(id), self.followed(id), self.hurried());
            let Some(slot) = self.apps.get_mut(id) else { continue };
            let (before, phase) = (slot.state().name(), std::mem::discriminant(slot.state()));
            let mut effects = Vec::new();
            let (now, chance) = (turn.now, turn.chance);
            let mut cx = Context { now, chance, blocked, followed, hurried, effects: &mut effects };
            slot.machine.handle(&event, &mut cx);
            let (after, name, unsought) = (slot.state().name(), slot.app().name.clone(), !slot.is_sought);
            let same_phase = phase == std::mem::discriminant(slot.state());
            self.apps.update(id);
            self.touched.insert(id);
            let end = effects.iter().find_map(|effect| match effect {
                AppEffect::EndSession { code } => Some(*code),
                _ => None,
            });
            if unsought && effects.iter().any(|effect| matches!(effect, AppEffect::Spawn { .. })) {
                turn.push(Effect::Save); // or the next supervisor would not know that there may be a process
            }
            turn.effects.extend(effects.into_iter().map(|effect| Effect::App(id, effect)));
            if !same_phase || matches!(event, AppEvent::Changed(..) | AppEvent::StopAsked(_)) {
                let concerned = named_before.into_iter().chain(self.concerned(id));
                queue.extend(concerned.map(|other| (other, Next::Concerns)));
            }
            if before != after {
                self.moved(id, (before, after), &mut queue, turn);
            }
            self.answer(id, turn);
            if let Some(code) = end {
                self.begin_drain(code, DrainCause::GaveUp(name), turn);
            }
        }
    }

    /// An app has changed state. This may concern other apps.
    fn moved(
        &mut self,
        id: AppId,
        (from, to): (StateName, StateName),
        queue: &mut VecDeque<(AppId, Next)>,
        turn: &mut Turn<'_>,
    ) {
        let down = matches!(to, StateName::Stopped | StateName::GaveUp);
        if from == StateName::Running {
            let followers = self.apps.followers(self.name(id).unwrap_or_default());
            queue.extend(followers.map(|other| (other, Next::Happens(AppEvent::DependencyEnded))));
        }
        let Some(slot) = self.apps.get(id) else { return };
        let (app, removed, may_stop) = (slot.app().clone(), slot.removed, self.may_stop(slot));
        if to == StateName::Stopped && removed {
            self.forget(id, turn);
        }
        if self.drain.is_some() {
            // An app that others need is stopped with them, unless it is about to be started again.
            let next = if down { self.freed_by(&app) } else { may_stop.then_some(id).into_iter().collect() };
            let stop = || Next::Happens(AppEvent::StopAsked(StopReason::Draining));
            queue.extend(next.into_iter().map(|next| (next, stop())));
        }
        if down {
            self.exit_if_down(turn);
        }
    }

    /// The app and its manifest are gone.
    fn forget(&mut self, id: AppId, turn: &mut Turn<'_>) {
        self.answer(id, turn);
        self.waits.retain(|wait| wait.app != id);
        if let Some(name) = self.apps.remove(id) {
            turn.push(Effect::Vanished(id, name));
        }
    }
}

#[cfg(test)]
mod tests;
