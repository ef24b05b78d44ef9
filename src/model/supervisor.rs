//! The pure root: owns every app's machine, starts and stops them in order, applies manifests, answers
//! requests. `handle(now, input)` in, effects out; the daemon performs them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use statig::blocking::{InitializedStateMachine, IntoStateMachineExt as _};

use crate::model::app::App;
pub use crate::model::app::AppId;
use crate::model::exit::Exit;
use crate::model::loading::check::Checked;
use crate::model::machine::{Cx, Effect as AppEffect, Event, Kept, Machine, State, Then, Why};
use crate::model::manifest::workspace::Workspace;
use crate::model::plan::{self, Step};
use crate::model::protocol::{AppStatus, Outcome, PlanReport, Refusal, Snapshot, StateName, Verb};
use crate::model::signal::signal_name;
use crate::model::spelling::closest;

/// Stands for one request that wants an answer.
pub type AskId = u64;

/// What was killed has this long to be gone. The guard waits a little longer before it kills everything itself.
const AFTER_THE_KILL: Duration = Duration::from_millis(400);
const _: () = assert!(AFTER_THE_KILL.as_millis() < super::guard::OVER_BUDGET.as_millis());

#[derive(Debug)]
pub enum Input {
    /// The manifests were read and checked.
    Loaded(Box<Checked>),
    /// The `stage` steps are done, well or not.
    Staged,
    Happened(AppId, Event),
    Asked {
        id: AskId,
        app: String,
        verb: Verb,
        wait: bool,
    },
    /// Whoever asked is gone.
    Forgotten(AskId),
    /// Stop everything, then exit with this code.
    DrainAsked {
        code: u8,
    },
    /// The stop budget is used up, or somebody is impatient: kill what is left.
    Hurried,
}

#[derive(Debug, PartialEq)]
pub enum Effect {
    App(AppId, AppEffect),
    /// A name the daemon has not heard of.
    Appeared(AppId, Arc<App>),
    /// Its manifest changed; what is live takes effect.
    Changed(AppId, Arc<App>),
    /// Its manifest is gone and so is its tree.
    Vanished(AppId, String),
    /// Run the steps of `workspace.ron`'s `stage`.
    Stage(Arc<Workspace>),
    Answer(AskId, Outcome),
    /// Ask for `Hurried` after this.
    ArmBudget(Duration),
    /// Everything is down: exit with this code.
    Exit(u8),
}

/// What outlives a supervisor.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Legacy {
    pub apps: BTreeMap<String, Kept>,
    pub session: Session,
}

/// What outlives a supervisor beside its apps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Session {
    pub staged: bool,
    /// It was stopping everything, to exit with this code.
    pub draining: Option<u8>,
}

pub struct Supervisor {
    names: BTreeMap<String, AppId>,
    slots: BTreeMap<AppId, Slot>,
    workspace: Arc<Workspace>,
    problems: Vec<String>,
    staging: Staging,
    waits: Vec<Wait>,
    drain: Option<u8>,
    hurried: bool,
    next_id: u32,
    /// What an earlier supervisor knew of apps that have not appeared yet.
    inherited: BTreeMap<String, Kept>,
    /// Inherited apps that have no manifest any more, as they were while they had one.
    last_known: BTreeMap<String, Arc<App>>,
    /// An earlier supervisor was stopping everything, to exit with this code.
    interrupted_drain: Option<u8>,
    /// Apps that have moved since they were last asked for.
    touched: BTreeSet<AppId>,
}

struct Slot {
    machine: InitializedStateMachine<Machine>,
    stale: Option<String>,
    /// Its manifest is gone; the slot goes when the tree has.
    removed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Staging {
    NotLoaded,
    Running,
    Done,
}

/// A request that is answered when its goal is reached, or cannot be any more.
struct Wait {
    id: AskId,
    app: AppId,
    goal: Goal,
}

#[derive(Debug, Clone, Copy)]
enum Goal {
    /// Running in a run later than this.
    Up { after: u64 },
    /// Down; it was asked in this run.
    Down { run: u64 },
}

impl Default for Supervisor {
    fn default() -> Self {
        Supervisor {
            names: BTreeMap::new(),
            slots: BTreeMap::new(),
            workspace: Arc::default(),
            problems: Vec::new(),
            staging: Staging::NotLoaded,
            waits: Vec::new(),
            drain: None,
            hurried: false,
            next_id: 0,
            inherited: BTreeMap::new(),
            last_known: BTreeMap::new(),
            interrupted_drain: None,
            touched: BTreeSet::new(),
        }
    }
}

impl Slot {
    fn state(&self) -> &State {
        self.machine.state()
    }

    fn app(&self) -> &Arc<App> {
        &self.machine.inner().app
    }
}

impl Supervisor {
    /// One input, all its effects. `chance` is a random number in 0..1.
    pub fn handle(&mut self, now: Duration, chance: f64, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Loaded(checked) => self.apply(now, chance, *checked, effects),
            Input::Staged => {
                self.staging = Staging::Done;
                let ids: Vec<AppId> = self.slots.keys().copied().collect();
                for id in ids {
                    self.start_if_wanted(now, chance, id, effects);
                }
            }
            Input::Happened(id, event) => self.dispatch(now, chance, id, event, effects),
            Input::Asked { id, app, verb, wait } => self.ask(now, chance, (id, &app, verb, wait), effects),
            Input::Forgotten(id) => self.waits.retain(|wait| wait.id != id),
            Input::DrainAsked { code } => self.begin_drain(now, chance, code, effects),
            Input::Hurried => self.hurry(now, effects),
        }
    }

    /// Goes on where an earlier supervisor was; before the first manifests are loaded.
    pub fn inherit(&mut self, legacy: Legacy) {
        self.inherited = legacy.apps;
        self.interrupted_drain = legacy.session.draining;
        if legacy.session.staged {
            self.staging = Staging::Done;
        }
    }

    /// Names of the inherited apps nothing was heard of yet.
    pub fn inherited_names(&self) -> impl Iterator<Item = &str> {
        self.inherited.keys().map(String::as_str)
    }

    /// How inherited apps that have no manifest any more are to be stopped, and where their output goes till then.
    pub fn last_known(&mut self, apps: BTreeMap<String, Arc<App>>) {
        self.last_known = apps;
    }

    /// The drain to go on with, once what is left of it has been found.
    pub fn inherited_drain(&mut self) -> Option<u8> {
        self.interrupted_drain.take()
    }

    /// What of the apps that have moved since the last call is to outlive this supervisor.
    pub fn moved_apps(&mut self) -> Vec<(AppId, &str, Kept)> {
        let touched = std::mem::take(&mut self.touched);
        let kept = touched.into_iter().filter_map(|id| {
            let machine = &self.slots.get(&id)?.machine;
            Some((id, machine.inner().app.name.as_str(), machine.inner().kept(machine.state())))
        });
        kept.collect()
    }

    /// The same for what is no app's.
    pub fn session(&self) -> Session {
        Session { staged: self.staging == Staging::Done, draining: self.drain }
    }

    pub fn snapshot(&self, now: Duration) -> Snapshot {
        let apps = self.names.iter().filter_map(|(name, id)| Some(status(name, self.slots.get(id)?, now))).collect();
        let staging = self.staging != Staging::Done;
        Snapshot { apps, problems: self.problems.clone(), draining: self.drain.is_some(), staging }
    }

    /// What applying these manifests would do. Apps that an earlier supervisor ran go on: that is no start.
    pub fn plan(&self, checked: &Checked) -> PlanReport {
        let mut report = plan::report(&self.known(), checked);
        report.steps.retain(|step| step.sign != '+' || !self.inherited.contains_key(&step.app));
        report
    }

    pub fn id(&self, name: &str) -> Option<AppId> {
        self.names.get(name).copied()
    }

    pub fn name(&self, id: AppId) -> Option<&str> {
        Some(self.slots.get(&id)?.app().name.as_str())
    }

    pub fn app(&self, id: AppId) -> Option<&Arc<App>> {
        self.slots.get(&id).map(Slot::app)
    }

    pub fn workspace(&self) -> &Arc<Workspace> {
        &self.workspace
    }

    fn known(&self) -> BTreeMap<String, Arc<App>> {
        let live = self.slots.values().filter(|slot| !slot.removed);
        live.map(|slot| (slot.app().name.clone(), slot.app().clone())).collect()
    }

    /// New manifests: one step after the other, all at this moment.
    fn apply(&mut self, now: Duration, chance: f64, checked: Checked, effects: &mut Vec<Effect>) {
        let steps = plan::plan(&self.known(), &checked);
        self.workspace = checked.workspace.clone();
        self.problems = checked.problems.iter().map(ToString::to_string).collect();
        if self.staging == Staging::NotLoaded {
            let nothing_to_stage = self.workspace.stage.is_empty();
            self.staging = if nothing_to_stage { Staging::Done } else { Staging::Running };
            if !nothing_to_stage {
                effects.push(Effect::Stage(self.workspace.clone()));
            }
        }
        // First everybody is known, then they start: an app may name one that comes later in the alphabet.
        let to_start: Vec<AppId> =
            steps.into_iter().filter_map(|step| self.take_step(now, chance, step, effects)).collect();
        self.take_leave(now, chance, &checked, effects);
        for id in to_start {
            self.start_if_wanted(now, chance, id, effects);
        }
        for slot in self.slots.values_mut() {
            slot.stale = checked.stale.get(&slot.machine.inner().app.name).map(ToString::to_string);
        }
    }

    /// Apps an earlier supervisor ran, whose manifests went while nobody looked, are stopped as if they had gone
    /// now. What is only broken may be mended: it is left alone until then.
    fn take_leave(&mut self, now: Duration, chance: f64, checked: &Checked, effects: &mut Vec<Effect>) {
        if !checked.complete {
            return;
        }
        let gone: Vec<String> =
            self.inherited.keys().filter(|name| !checked.stale.contains_key(*name)).cloned().collect();
        for name in gone {
            let app = match self.last_known.remove(&name) {
                Some(app) => App { enabled: false, ..(*app).clone() },
                None => App::without_manifest(&name),
            };
            let id = self.appear(now, chance, Arc::new(app), effects);
            self.remove(now, chance, id, effects);
        }
    }

    /// Its manifest is gone: it goes when its tree has.
    fn remove(&mut self, now: Duration, chance: f64, id: AppId, effects: &mut Vec<Effect>) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.removed = true;
        self.dispatch(now, chance, id, Event::StopAsked(Why::Removed), effects);
        // One that was down already has nowhere to move to.
        if self.slots.get(&id).is_some_and(|slot| slot.state().name() == StateName::Stopped) {
            self.forget(id, effects);
        }
    }

    /// Who may have to be started now.
    fn take_step(&mut self, now: Duration, chance: f64, step: Step, effects: &mut Vec<Effect>) -> Option<AppId> {
        match step {
            Step::Appear(app) => Some(self.appear(now, chance, app, effects)),
            Step::Change(app, change) => {
                let id = self.id(&app.name)?;
                let toggled = self.slots[&id].app().enabled != app.enabled;
                effects.push(Effect::Changed(id, app.clone()));
                if toggled && !app.enabled {
                    self.dispatch(now, chance, id, Event::StopAsked(Why::Disabled), effects);
                }
                self.dispatch(now, chance, id, Event::Changed(app, change), effects);
                toggled.then_some(id)
            }
            Step::Vanish(name) => {
                let id = self.id(&name)?;
                self.remove(now, chance, id, effects);
                None
            }
        }
    }

    /// A manifest nobody knew, or one that comes back before its tree was gone.
    fn appear(&mut self, now: Duration, chance: f64, app: Arc<App>, effects: &mut Vec<Effect>) -> AppId {
        if let Some(id) = self.id(&app.name)
            && let Some(slot) = self.slots.get_mut(&id)
        {
            slot.removed = false;
            let change = plan::change(slot.app(), &app);
            effects.push(Effect::Changed(id, app.clone()));
            self.dispatch(now, chance, id, Event::Changed(app, change), effects);
            return id;
        }
        let id = AppId(self.next_id);
        self.next_id += 1;
        self.names.insert(app.name.clone(), id);
        effects.push(Effect::Appeared(id, app.clone()));
        let mut unheard = Vec::new();
        let mut cx = Cx { now, chance, blocked: false, effects: &mut unheard };
        let (name, enabled) = (app.name.clone(), app.enabled);
        let machine = Machine::new(app).uninitialized_state_machine().init_with_context(&mut cx);
        self.slots.insert(id, Slot { machine, stale: None, removed: false });
        if let Some(kept) = self.inherited.remove(&name) {
            let disabled_meanwhile = kept.enabled && !enabled;
            self.dispatch(now, chance, id, Event::Resumed(Box::new(kept)), effects);
            if disabled_meanwhile {
                self.dispatch(now, chance, id, Event::StopAsked(Why::Disabled), effects);
            }
        }
        id
    }

    /// Starts an app nobody has stopped by hand, unless its manifest or the session says no.
    fn start_if_wanted(&mut self, now: Duration, chance: f64, id: AppId, effects: &mut Vec<Effect>) {
        let Some(slot) = self.slots.get(&id) else { return };
        let (State::Stopped { why } | State::Stopping { then: Then::Stopped(why), .. }) = slot.state() else {
            return;
        };
        let by_hand = matches!(why, Why::Held | Why::Closed | Why::Done | Why::Draining);
        if by_hand || slot.removed || self.drain.is_some() || self.staging != Staging::Done {
            return;
        }
        let event = match (slot.app().enabled, self.autostart()) {
            (false, _) => Event::StopAsked(Why::Disabled),
            (true, false) => Event::StopAsked(Why::NotStarted),
            (true, true) => Event::StartAsked,
        };
        self.dispatch(now, chance, id, event, effects);
    }

    fn autostart(&self) -> bool {
        self.workspace.autostart
    }

    /// One event into one machine, and what follows from where it is then.
    fn dispatch(&mut self, now: Duration, chance: f64, id: AppId, event: Event, effects: &mut Vec<Effect>) {
        let mut queue = VecDeque::from([(id, event)]);
        while let Some((id, event)) = queue.pop_front() {
            let blocked = self.blocked(id);
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            let before = slot.state().name();
            let mut from_app = Vec::new();
            let mut cx = Cx { now, chance, blocked, effects: &mut from_app };
            slot.machine.handle_with_context(&event, &mut cx);
            self.touched.insert(id);
            let end = from_app.iter().find_map(|effect| match effect {
                AppEffect::EndSession { code } => Some(*code),
                _ => None,
            });
            effects.extend(from_app.into_iter().map(|effect| Effect::App(id, effect)));
            let after = slot.state().name();
            if before != after {
                self.moved(id, after, &mut queue, effects);
            }
            self.answer(id, effects);
            if let Some(code) = end {
                self.begin_drain(now, chance, code, effects);
            }
        }
    }

    /// An app is in another state: who waited for that?
    fn moved(&mut self, id: AppId, to: StateName, queue: &mut VecDeque<(AppId, Event)>, effects: &mut Vec<Effect>) {
        if matches!(to, StateName::Running | StateName::Stopped | StateName::GaveUp) {
            let name = self.slots[&id].app().name.clone();
            for (other, slot) in &self.slots {
                let waits = slot.app().after.contains(&name);
                if waits && matches!(slot.state(), State::Starting { .. }) && !self.blocked(*other) {
                    queue.push_back((*other, Event::Unblocked));
                }
            }
        }
        if !matches!(to, StateName::Stopped | StateName::GaveUp) {
            return;
        }
        if self.slots[&id].removed && to == StateName::Stopped {
            self.forget(id, effects);
        }
        if self.drain.is_some() {
            queue.extend(self.next_to_stop().into_iter().map(|next| (next, Event::StopAsked(Why::Draining))));
            self.exit_if_down(effects);
        }
    }

    fn forget(&mut self, id: AppId, effects: &mut Vec<Effect>) {
        self.answer(id, effects);
        self.waits.retain(|wait| wait.app != id);
        if let Some(slot) = self.slots.remove(&id) {
            let name = slot.app().name.clone();
            self.names.remove(&name);
            effects.push(Effect::Vanished(id, name));
        }
    }

    /// An app named in `after` is on its way up, and so this one waits.
    fn blocked(&self, id: AppId) -> bool {
        let Some(slot) = self.slots.get(&id) else { return false };
        let on_its_way = |name: &String| {
            let other = self.names.get(name).and_then(|id| self.slots.get(id));
            other.is_some_and(|other| other.state().on_its_way() || self.about_to_start(other))
        };
        slot.app().after.iter().any(on_its_way)
    }

    /// Loaded a moment ago, in the same breath as the app that waits for it.
    fn about_to_start(&self, slot: &Slot) -> bool {
        matches!(slot.state(), State::Stopped { why: Why::NotStarted })
            && slot.app().enabled
            && self.autostart()
            && self.drain.is_none()
    }

    fn begin_drain(&mut self, now: Duration, chance: f64, code: u8, effects: &mut Vec<Effect>) {
        if self.drain.is_some() {
            return;
        }
        self.drain = Some(code);
        effects.push(Effect::ArmBudget(self.workspace.stop_budget));
        for id in self.next_to_stop() {
            self.dispatch(now, chance, id, Event::StopAsked(Why::Draining), effects);
        }
        self.exit_if_down(effects);
    }

    /// Apps that are not down, not asked to stop yet, and that nobody who is still up was started after.
    fn next_to_stop(&self) -> Vec<AppId> {
        let up = || self.slots.iter().filter(|(_, slot)| !slot.state().at_rest());
        let needed: BTreeSet<&String> = up().flat_map(|(_, slot)| &slot.app().after).collect();
        let next = up().filter(|(_, slot)| !stop_asked(slot.state()) && !needed.contains(&slot.app().name));
        next.map(|(id, _)| *id).collect()
    }

    fn exit_if_down(&self, effects: &mut Vec<Effect>) {
        if let Some(code) = self.drain
            && self.slots.values().all(|slot| slot.state().at_rest())
        {
            effects.push(Effect::Exit(code));
        }
    }

    /// Out of patience: everybody is asked to stop now, and every tree is killed. Whoever outlives even that
    /// (a process stuck in the kernel) does not keep us: the second time is the end.
    fn hurry(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let Some(code) = self.drain else { return };
        if std::mem::replace(&mut self.hurried, true) {
            return effects.push(Effect::Exit(code));
        }
        effects.push(Effect::ArmBudget(AFTER_THE_KILL));
        let up = self.slots.iter().filter(|(_, slot)| !slot.state().at_rest());
        let ids: Vec<AppId> = up.map(|(id, _)| *id).collect();
        for id in ids {
            self.dispatch(now, 0.0, id, Event::StopAsked(Why::Draining), effects);
            if let Some(slot) = self.slots.get(&id) {
                effects.push(Effect::App(id, AppEffect::Sweep { run: slot.machine.inner().run }));
            }
        }
        self.exit_if_down(effects);
    }

    fn ask(
        &mut self,
        now: Duration,
        chance: f64,
        (ask, name, verb, wait): (AskId, &str, Verb, bool),
        effects: &mut Vec<Effect>,
    ) {
        let refuse = |refusal, message: String| {
            Effect::Answer(ask, Outcome { app: name.into(), done: false, message, refusal: Some(refusal) })
        };
        let Some(id) = self.id(name) else {
            return effects.push(refuse(Refusal::NoSuchApp, self.no_such_app(name)));
        };
        let slot = &self.slots[&id];
        if slot.removed && verb != Verb::Stop {
            let message = format!("cannot {verb} `{name}`: its manifest is gone, and it is being stopped");
            return effects.push(refuse(Refusal::NoSuchApp, message));
        }
        if self.drain.is_some() && verb != Verb::Stop {
            let message = format!("cannot {verb} `{name}`: the session is ending");
            return effects.push(refuse(Refusal::WrongState, message));
        }
        let run = slot.machine.inner().run;
        let (event, goal) = match &verb {
            Verb::Start => (Event::StartAsked, Goal::Up { after: if up(slot.state()) { run - 1 } else { run } }),
            Verb::Stop => (Event::StopAsked(Why::Held), Goal::Down { run }),
            Verb::Restart | Verb::Do(_) if stop_asked(slot.state()) => {
                let message =
                    format!("`{name}` is being stopped by another request, which goes first; start it when it is down");
                return effects.push(refuse(Refusal::Overtaken, message));
            }
            Verb::Restart => (Event::RestartAsked, Goal::Up { after: run }),
            Verb::Do(action) if slot.app().hooks.actions.contains_key(action) => {
                (Event::ActionAsked(action.clone()), Goal::Up { after: run })
            }
            Verb::Do(action) => {
                return effects.push(refuse(Refusal::NoSuchAction, no_such_action(slot.app(), action)));
            }
            Verb::Signal(signal) => {
                let Some(pid) = slot.state().pid() else {
                    let message = format!("`{name}` is {}: there is no process to signal", slot.state().name());
                    return effects.push(refuse(Refusal::WrongState, message));
                };
                effects.push(Effect::App(id, AppEffect::Signal { pid, signal: *signal }));
                let message = format!("sent signal {} to `{name}` (pid {pid})", signal_text(*signal));
                let outcome = Outcome { app: name.into(), done: true, message, refusal: None };
                return effects.push(Effect::Answer(ask, outcome));
            }
        };
        self.waits.push(Wait { id: ask, app: id, goal });
        self.dispatch(now, chance, id, event, effects);
        self.answer(id, effects);
        if !wait && let Some(at) = self.waits.iter().position(|wait| wait.id == ask) {
            self.waits.swap_remove(at);
            let state = self.slots.get(&id).map_or(StateName::Stopped, |slot| slot.state().name());
            let message = format!("{verb} of `{name}` is under way ({state})");
            effects.push(Effect::Answer(ask, Outcome { app: name.into(), done: true, message, refusal: None }));
        }
    }

    /// Answers the requests whose goal this app has reached, or cannot reach any more.
    fn answer(&mut self, id: AppId, effects: &mut Vec<Effect>) {
        if self.waits.is_empty() {
            return;
        }
        let Some(slot) = self.slots.get(&id) else { return };
        self.waits.retain(|wait| {
            let verdict = if wait.app == id { reached(slot, wait.goal) } else { None };
            let Some((refusal, message)) = verdict else { return true };
            let outcome = Outcome { app: slot.app().name.clone(), done: refusal.is_none(), message, refusal };
            effects.push(Effect::Answer(wait.id, outcome));
            false
        });
    }

    fn no_such_app(&self, name: &str) -> String {
        let names = self.names.keys().map(String::as_str);
        match closest(name, names.clone()) {
            Some(near) => format!("no app is called `{name}`: did you mean `{near}`?"),
            None if self.names.is_empty() => format!("no app is called `{name}`: there are none yet"),
            None => format!("no app is called `{name}`: there are {}", names.collect::<Vec<_>>().join(", ")),
        }
    }
}

fn no_such_action(app: &App, action: &str) -> String {
    let names: Vec<&str> = app.hooks.actions.keys().map(String::as_str).collect();
    let way_out = match closest(action, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if names.is_empty() => "its manifest has no `actions`".into(),
        None => format!("it has {}", names.join(", ")),
    };
    format!("`{}` has no action `{action}`: {way_out}", app.name)
}

/// An operator, the manifest or the drain wants it down, and it is not yet.
fn stop_asked(state: &State) -> bool {
    matches!(state, State::Stopping { then: Then::Stopped(_), .. })
}

fn up(state: &State) -> bool {
    matches!(state, State::Starting { .. } | State::Running { .. })
}

fn signal_text(signal: i32) -> String {
    signal_name(signal).map_or_else(|| signal.to_string(), |name| format!("SIG{name}"))
}

/// `None`: not yet. Else the refusal, if it went wrong, and the sentence.
fn reached(slot: &Slot, goal: Goal) -> Option<(Option<Refusal>, String)> {
    let (name, run) = (&slot.app().name, slot.machine.inner().run);
    let ended = || slot.machine.inner().last_exit.clone().unwrap_or(Exit::Unknown);
    match (goal, slot.state()) {
        (Goal::Down { .. }, State::Stopped { .. } | State::GaveUp { .. }) => {
            Some((None, format!("`{name}` is stopped")))
        }
        (Goal::Down { run: then }, State::Starting { .. } | State::Running { .. }) if run > then => {
            Some((Some(Refusal::Overtaken), format!("`{name}` was stopped, and started again by another request")))
        }
        (Goal::Up { after }, State::Running { pid, .. }) if run > after => {
            let pid = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
            Some((None, format!("`{name}` is running{pid}")))
        }
        (Goal::Up { after }, State::Backoff { .. } | State::GaveUp { .. }) if run > after => {
            let message = format!("`{name}` did not come up: {}; `kasm-void why {name}` tells more", ended());
            Some((Some(Refusal::Failed), message))
        }
        (Goal::Up { after }, State::Stopped { why: Why::Done }) if run > after => {
            let refusal = (ended() != Exit::Clean).then_some(Refusal::Failed);
            Some((refusal, format!("`{name}` ran to its end: {}", ended())))
        }
        (Goal::Up { .. }, State::Stopped { .. }) => {
            Some((Some(Refusal::Overtaken), format!("`{name}` was stopped by another request")))
        }
        _ => None,
    }
}

fn status(name: &str, slot: &Slot, now: Duration) -> AppStatus {
    let (machine, state) = (slot.machine.inner(), slot.state());
    let milliseconds = |span: Duration| span.as_millis() as u64;
    AppStatus {
        name: name.into(),
        about: machine.app.about.clone(),
        state: state.name(),
        detail: state.detail(),
        pid: state.pid(),
        adopted: matches!(state, State::Running { adopted: true, .. }),
        run: machine.run,
        uptime_ms: match state {
            State::Running { since, .. } => Some(milliseconds(now.saturating_sub(*since))),
            _ => None,
        },
        restarts: machine.restarts,
        last_exit: machine.last_exit.clone(),
        next_retry_ms: match state {
            State::Backoff { until, .. } => Some(milliseconds(until.saturating_sub(now))),
            _ => None,
        },
        memory_bytes: None,
        stale: slot.stale.clone(),
        log_trouble: None,
        actions: machine.app.hooks.actions.keys().cloned().collect(),
    }
}

#[cfg(test)]
mod tests;
