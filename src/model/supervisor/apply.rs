//! Applies new manifests: adds, changes and removes apps, all in one step.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{AppId, AskId, Effect, Staging, Supervisor, Turn};
use crate::model::app::App;
use crate::model::guard::ToGuard;
use crate::model::loading::check::Checked;
use crate::model::machine::{AppEvent, StopReason};
use crate::model::plan::{self, PlannedChange};
use crate::model::protocol::{PlanReport, StateName};

impl Supervisor {
    /// The changes that these manifests would bring. An app of an earlier supervisor keeps running, so it is not a start.
    pub fn plan(&self, checked: &Checked) -> PlanReport {
        let known = self.apps.known();
        self.report(&known, checked, &plan::plan(&known, checked))
    }

    fn report(&self, known: &BTreeMap<String, Arc<App>>, checked: &Checked, steps: &[PlannedChange]) -> PlanReport {
        let mut report = plan::report(known, checked, steps);
        report.steps.retain(|step| step.sign != '+' || !self.inheritance.apps.contains_key(&step.app));
        report
    }

    /// Applies new manifests, step by step, within this input.
    pub(super) fn apply(&mut self, checked: Checked, ask: Option<AskId>, turn: &mut Turn<'_>) {
        turn.push(Effect::Save); // performed when all of this is decided, and before anything is started
        let known = self.apps.known();
        let steps = plan::plan(&known, &checked);
        let plan = Box::new(self.report(&known, &checked, &steps));
        self.workspace = checked.workspace.clone();
        self.problems = checked.problems.iter().map(ToString::to_string).collect();
        self.tell_of_the_budget(turn);
        self.begin_staging(turn);
        // Add all apps before starting any: an app may depend on one that comes later in the alphabet.
        let to_start: Vec<AppId> = steps.into_iter().filter_map(|step| self.take_step(step, turn)).collect();
        self.stop_the_disowned(&checked, turn);
        to_start.into_iter().for_each(|id| self.start_if_wanted(id, turn));
        // The order in which a drain stops apps may have changed.
        if self.drain.is_some() {
            let next = self.next_to_stop();
            next.into_iter().for_each(|id| self.dispatch(id, AppEvent::StopAsked(StopReason::Draining), turn));
        }
        for slot in self.apps.iter_mut() {
            slot.stale = checked.stale.get(&slot.app().name).map(ToString::to_string);
        }
        // All apps are known before the first one is looked for: one look at the processes then serves them all.
        turn.effects.sort_by_key(|effect| !matches!(effect, Effect::Appeared(..)));
        turn.push(Effect::Applied { ask, plan, problems: checked.problems });
        self.resume_drain(turn);
    }

    /// The guard kills what is left when the budget is used up.
    fn tell_of_the_budget(&mut self, turn: &mut Turn<'_>) {
        let budget = self.workspace.stop_budget;
        if self.told_budget.replace(budget) != Some(budget) {
            turn.push(Effect::TellGuard(ToGuard::StopBudget(budget)));
        }
    }

    fn begin_staging(&mut self, turn: &mut Turn<'_>) {
        if self.staging != Staging::NotLoaded || self.will_drain() {
            return;
        }
        if self.workspace.stage.is_empty() {
            self.staging = Staging::Done;
        } else {
            self.staging = Staging::Running;
            turn.push(Effect::Stage(self.workspace.clone()));
        }
    }

    /// Carries out one step. Returns the app if it may have to be started now.
    fn take_step(&mut self, step: PlannedChange, turn: &mut Turn<'_>) -> Option<AppId> {
        match step {
            PlannedChange::Appear(app) => Some(self.appear(app, turn)),
            PlannedChange::Change(app, change) => {
                let id = self.id(&app.name)?;
                let toggled = self.app(id)?.enabled != app.enabled;
                turn.push(Effect::Changed(id, app.clone()));
                if toggled && !app.enabled {
                    self.dispatch(id, AppEvent::StopAsked(StopReason::Disabled), turn);
                }
                self.dispatch(id, AppEvent::Changed(app, change), turn);
                toggled.then_some(id)
            }
            PlannedChange::Vanish(name) => {
                let id = self.id(&name)?;
                self.remove(id, turn);
                None
            }
        }
    }

    /// A manifest is new, or came back before the app's tree was gone.
    pub(super) fn appear(&mut self, app: Arc<App>, turn: &mut Turn<'_>) -> AppId {
        if let Some(id) = self.id(&app.name)
            && let Some(slot) = self.apps.get_mut(id)
        {
            slot.removed = false;
            let change = plan::change(slot.app(), &app);
            turn.push(Effect::Changed(id, app.clone()));
            self.dispatch(id, AppEvent::Changed(app, change), turn);
            return id;
        }
        let (name, enabled) = (app.name.clone(), app.enabled);
        let id = self.apps.add(app.clone());
        turn.push(Effect::Appeared(id, app));
        if let Some(mut saved) = self.inheritance.apps.remove(&name) {
            if !self.will_drain() {
                saved.state.undo_stop(enabled);
            }
            let disabled_meanwhile = saved.enabled && !enabled;
            self.dispatch(id, AppEvent::Resumed(Box::new(saved)), turn);
            if disabled_meanwhile {
                self.dispatch(id, AppEvent::StopAsked(StopReason::Disabled), turn);
            }
        }
        id
    }

    /// The manifest is gone: stops the app, and forgets it once its tree is gone.
    pub(super) fn remove(&mut self, id: AppId, turn: &mut Turn<'_>) {
        let Some(slot) = self.apps.get_mut(id) else { return };
        slot.removed = true;
        self.dispatch(id, AppEvent::StopAsked(StopReason::Removed), turn);
        // An app that was already down does not change state, so forget it here.
        if self.apps.get(id).is_some_and(|slot| slot.state().name() == StateName::Stopped) {
            self.forget(id, turn);
        }
    }
}
