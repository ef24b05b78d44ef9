//! The supervisor in the explored world: feeds the real `model::supervisor` and carries out its effects one by one, as
//! `src/daemon` does. It may be killed between any two.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use kasm_void::model::app::{App, AppId};
use kasm_void::model::guard::{ChildExit, Guard, Hello, ToGuard, ToSupervisor};
use kasm_void::model::ledger::{Inherited, Line, VERSION};
use kasm_void::model::loading::check::Checked;
use kasm_void::model::signal::TERM;
use kasm_void::model::supervisor::{
    AppEffect, AppEvent, AppRequest, DrainCause, Effect, Input, Leave, Observed, ProbeKind, Supervisor, Timer,
};
use kasm_void::model::tree::Pid;

use crate::hands::Hands;
use crate::jobs::{Answer, Errand, Job};
use crate::kernel::{KILL, Kernel, Program, name, number_of};
use crate::promises::states;
use crate::upgrading::Version;
use crate::world::{Asked, Bug, Step, World};

#[derive(Clone, Hash)]
pub struct Supervising {
    pub pid: Pid,
    pub version: Version,
    pub frozen: bool,
    /// Signals that it has not taken yet.
    pub signals: BTreeSet<i32>,
    /// `None` until the guard has handed over the session.
    pub looping: Option<Looping>,
}

#[derive(Clone, Hash)]
pub struct Looping {
    pub supervisor: Supervisor,
    pub hands: Hands,
    timers: BTreeMap<(AppId, Timer), (Duration, u64)>,
    /// Hooks, probes and stage steps under way.
    pub jobs: BTreeSet<Job>,
    /// Jobs that have ended, and whose answers lie in the queue of the loop.
    pub answers: VecDeque<Answer>,
    /// Apps whose last health probe has failed.
    pub unwell: BTreeSet<AppId>,
    budget: Option<Duration>,
    /// The guard's pid, as long as it is not known to be dead.
    guard: Option<Pid>,
    deaths: u32,
    /// The edits that it has read.
    edits: u32,
    /// Lines for the next write of the ledger.
    pending: Vec<Line>,
    /// Messages to the guard that are said too late. See [`Bug::DrainToldLate`].
    late: Vec<ToGuard>,
    exit: Option<u8>,
    leaves: Option<Leave>,
}

impl Looping {
    /// Nothing is taken in any more.
    fn has_ended(&self) -> bool {
        self.exit.is_some() || self.leaves.is_some()
    }

    /// The run of this app.
    pub fn run(&self, app: AppId) -> Option<u64> {
        let name = self.supervisor.name(app)?;
        let snapshot = self.supervisor.snapshot(Duration::ZERO, |_, _, _| Observed::default());
        snapshot.apps.into_iter().find(|status| status.name == name).map(|status| status.run)
    }

    /// Whether it makes a difference that the time of this timer passes. A health probe of an app that is well changes
    /// nothing, and without this the world would never come to rest.
    fn counts(&self, app: AppId, timer: Timer, kernel: &Kernel) -> bool {
        let leader = self.hands.number(app).and_then(|number| kernel.leader(number));
        timer != Timer::Health || self.is_unwell(app) || leader.is_some_and(|leader| leader.ill)
    }
}

/// Why a supervisor does not get to the end of its turn.
pub enum Cut {
    Killed,
    Wrong(String),
}

impl From<String> for Cut {
    fn from(promise: String) -> Cut {
        Cut::Wrong(promise)
    }
}

/// Burns down step by step; the supervisor is killed when it is out.
#[derive(Debug, Clone, Default)]
pub struct Fuse {
    pub left: Option<usize>,
    pub burnt: usize,
}

impl Supervising {
    pub fn new(pid: Pid, version: Version) -> Supervising {
        Supervising { pid, version, frozen: false, signals: BTreeSet::new(), looping: None }
    }

    /// It takes requests.
    pub fn is_looping(&self) -> bool {
        self.looping.as_ref().is_some_and(|looping| !looping.has_ended())
    }

    pub fn jobs(&self) -> impl Iterator<Item = Job> {
        let looping = self.looping.iter().filter(|looping| !looping.has_ended());
        looping.flat_map(|looping| looping.jobs.iter().copied())
    }

    pub fn next_moment(&self, kernel: &Kernel) -> Option<Duration> {
        let looping = self.looping.as_ref()?;
        let timers = looping.timers.iter().filter(|((app, timer), _)| looping.counts(*app, *timer, kernel));
        timers.map(|(_, (due, _))| *due).chain(looping.budget).min()
    }
}

impl World {
    /// One thing is done. A supervisor that is killed after so many things does not get further than this.
    fn burn(&mut self) -> Result<(), Cut> {
        self.fuse.burnt += 1;
        if self.fuse.left.is_some_and(|left| self.fuse.burnt >= left) { Err(Cut::Killed) } else { Ok(()) }
    }

    /// How many things the supervisor does in this step.
    pub fn length_of(mut self, step: &Step) -> usize {
        self.fuse = Fuse::default();
        let _ = self.take_as_supervisor(step); // what is wrong is found when the step is taken
        self.fuse.burnt
    }

    /// Whether the supervisor starts a program in this step.
    pub fn spawns_in(mut self, step: &Step) -> bool {
        let before = self.kernel.all().count();
        let _ = self.take_as_supervisor(step); // what is wrong is found when the step is taken
        self.kernel.all().count() > before
    }

    pub fn killed_while(&mut self, step: &Step, at: usize) -> Result<(), String> {
        self.fuse = Fuse { left: Some(at), burnt: 0 };
        let cut = self.take_as_supervisor(step);
        self.fuse = Fuse::default();
        match cut {
            Err(Cut::Wrong(promise)) => Err(promise),
            Err(Cut::Killed) | Ok(()) => {
                if let Step::Asked(number, _) = step {
                    self.promises.asked_in_vain(*number);
                }
                self.supervisor_dies(KILL);
                Ok(())
            }
        }
    }

    /// The supervisor takes this step to its end.
    pub fn supervisor_steps(&mut self, step: &Step) -> Result<(), String> {
        self.fuse = Fuse::default();
        match self.take_as_supervisor(step) {
            Err(Cut::Wrong(promise)) => Err(promise),
            Err(Cut::Killed) | Ok(()) => Ok(()),
        }
    }

    fn take_as_supervisor(&mut self, step: &Step) -> Result<(), Cut> {
        match step {
            Step::SupervisorActs => self.acts(),
            Step::ClientActs => self.client_acts(),
            Step::JobEnds(job) => self.job_ends(*job, true),
            Step::JobFails(job) => self.job_ends(*job, false),
            Step::JobEndsLate(job) => self.job_ends_late(*job),
            Step::SpawnFails(step) => {
                self.spawn_fails = true;
                let taken = self.take_as_supervisor(step);
                self.spawn_fails = false;
                taken
            }
            Step::DrainAsked => self.turn(vec![Input::DrainAsked { code: 0, cause: DrainCause::Request }]),
            Step::UpgradeAsked(version) => {
                // A supervisor whose guard has just died becomes the guard instead.
                self.guard.iter().for_each(|_| self.promises.upgrade_asked(*version));
                self.turn(vec![Input::UpgradeAsked { ask: UPGRADE, binary: version.path() }])
            }
            Step::Asked(number, asked) => {
                self.promises.asked(*number, *asked);
                let (id, app) = (ask_id(*number, *asked), name(*number));
                self.turn(vec![Input::Asked(AppRequest { id, app, verb: asked.verb(), wait: true })])
            }
            _ => Ok(()),
        }
    }

    pub fn supervisor_has_work(&self) -> bool {
        let Some(supervisor) = &self.supervisor else { return false };
        let Some(looping) = &supervisor.looping else {
            return supervisor.version != Version::Hangs && self.is_briefed();
        };
        looping.has_ended()
            || self.is_woken(looping)
            || looping.edits != self.disk.edits
            || !looping.answers.is_empty()
            || !supervisor.signals.is_empty()
    }

    /// It has what it needs to begin, or knows that it will not get that.
    fn is_briefed(&self) -> bool {
        self.guard.is_none() || self.line.down.contains(&ToSupervisor::Go)
    }

    fn is_woken(&self, looping: &Looping) -> bool {
        let due = |moment: &Duration| *moment <= self.now;
        let lost = looping.guard.is_some() && self.guard.is_none();
        lost || !self.line.down.is_empty()
            || looping.hands.is_woken(&self.kernel, looping.guard)
            || looping
                .timers
                .iter()
                .any(|((app, timer), (moment, _))| due(moment) && looping.counts(*app, *timer, &self.kernel))
            || looping.budget.as_ref().is_some_and(due)
    }

    /// What the loop would take next, in its order.
    fn acts(&mut self) -> Result<(), Cut> {
        let Some(supervisor) = &self.supervisor else { return Ok(()) };
        let Some(looping) = &supervisor.looping else { return self.boot() };
        if looping.has_ended() {
            return self.leave();
        }
        if self.is_woken(looping) {
            return self.turn(Vec::new());
        }
        let edits = self.disk.edits;
        if let Some(answer) = self.take_answer()? {
            return self.turn(vec![answer]);
        }
        if std::mem::replace(&mut self.looping()?.edits, edits) != edits {
            let checked = Box::new(self.checked());
            return self.turn(vec![Input::Loaded { checked, ask: None }]);
        }
        let signal = self.supervisor.as_mut().and_then(|supervisor| supervisor.signals.pop_first());
        signal.map_or(Ok(()), |_| self.turn(vec![Input::EndSignalled("SIGTERM")]))
    }

    fn checked(&mut self) -> Checked {
        self.promises.read();
        let versions = self.disk.manifests.iter().enumerate();
        let apps = versions.filter_map(|(number, version)| Some(self.story.apps[number][(*version)?].clone()));
        let follows = !self.has_bug(Bug::FollowNotRead);
        let apps = apps.map(|app| (app.name.clone(), if follows { app } else { unfollowing(&app) })).collect();
        Checked { apps, workspace: self.story.workspace.clone(), complete: true, ..Checked::default() }
    }

    /// Takes over what the guard hands over and what an earlier supervisor left, and takes the first turn.
    fn boot(&mut self) -> Result<(), Cut> {
        let Some(pid) = self.supervisor.as_ref().map(|supervisor| supervisor.pid) else { return Ok(()) };
        let fails = self.supervisor.as_ref().is_some_and(|supervisor| supervisor.version == Version::Fails);
        let Some((hello, told)) = self.welcome().filter(|_| !fails) else {
            self.supervisor_dies(1 << 8);
            return Ok(());
        };
        self.burn()?;
        let inherited = self.open_ledger();
        self.burn()?;
        let guard = self.guard.as_ref().map(|guarding| guarding.pid);
        let hands = Hands::new(pid, guard.unwrap_or_default(), told, &inherited);
        let mut supervisor = Supervisor::default();
        let draining = match self.has_bug(Bug::DrainOnDisk) {
            true => hello.draining.or(inherited.session.session.draining),
            false => hello.draining,
        };
        let saved = if self.has_bug(Bug::NothingInherited) { Default::default() } else { inherited.session };
        supervisor.inherit(saved, draining);
        supervisor.last_known(self.last_known(&supervisor));
        if let Some(booting) = &mut self.supervisor {
            booting.looping = Some(Looping {
                supervisor,
                hands,
                timers: BTreeMap::new(),
                jobs: BTreeSet::new(),
                answers: VecDeque::new(),
                unwell: BTreeSet::new(),
                budget: None,
                guard,
                deaths: hello.deaths,
                edits: self.disk.edits,
                pending: Vec::new(),
                late: Vec::new(),
                exit: None,
                leaves: None,
            });
        }
        let checked = Box::new(self.checked());
        self.turn(vec![Input::Loaded { checked, ask: None }])?;
        self.looping()?.hands.taken_over();
        self.promises.came_up(self.supervisor.as_ref().map(|supervisor| supervisor.version));
        self.say(ToGuard::Ready)
    }

    /// Everything that the guard sends up to `Go`.
    fn welcome(&mut self) -> Option<(Hello, Vec<ChildExit>)> {
        let (mut greeting, mut told) = (None, Vec::new());
        loop {
            match self.line.down.pop_front()? {
                ToSupervisor::Hello(hello) => greeting = Some(hello),
                ToSupervisor::Exited(exit) => told.push(exit),
                ToSupervisor::Pipe(_) | ToSupervisor::End => {}
                ToSupervisor::Go => return Some((greeting?, told)),
            }
        }
    }

    fn open_ledger(&mut self) -> Inherited {
        let session = match self.has_bug(Bug::SessionsAlike) {
            true => "the session".into(),
            false => format!("session {}", self.session),
        };
        let inherited = match self.disk.ledger.take() {
            None => Inherited::default(),
            Some((its, lines)) => {
                let head = Line::Head { version: VERSION, session: its };
                Inherited::below(&head, &session)
                    .map(|below| if below.another_session { below } else { lines })
                    .unwrap_or_default()
            }
        };
        let mut kept = Inherited::default();
        inherited.lines().into_iter().for_each(|line| kept.take(line));
        self.disk.ledger = Some((session, kept));
        inherited
    }

    /// The last versions of manifests that are gone.
    fn last_known(&self, supervisor: &Supervisor) -> BTreeMap<String, Arc<App>> {
        let inherited: BTreeSet<&str> = supervisor.inherited_names().collect();
        let gone = (0..self.story.apps.len()).filter(|number| self.disk.manifests[*number].is_none());
        let apps = gone.map(|number| self.story.apps[number][0].clone());
        apps.filter(|app| inherited.contains(&*app.name)).map(|app| (app.name.clone(), app)).collect()
    }

    pub fn looping(&mut self) -> Result<&mut Looping, Cut> {
        self.supervisor.as_mut().and_then(|supervisor| supervisor.looping.as_mut()).ok_or(Cut::Killed)
    }

    pub fn turn(&mut self, inputs: Vec<Input>) -> Result<(), Cut> {
        let mut inputs: VecDeque<Input> = inputs.into();
        self.reap_as_supervisor()?;
        if self.hear_guard()? {
            inputs.push_back(Input::DrainAsked { code: 0, cause: DrainCause::Guard });
        }
        self.watched_ended()?;
        if self.looping()?.guard.is_none() {
            inputs.push_back(Input::GuardLost);
        }
        let now = self.now;
        let looping = self.looping()?;
        let due: Vec<(AppId, Timer)> =
            looping.timers.iter().filter(|(_, (due, _))| *due <= now).map(|(key, _)| *key).collect();
        for (app, timer) in due {
            if let Some((_, run)) = looping.timers.remove(&(app, timer)) {
                inputs.push_back(Input::Happened(app, AppEvent::Fired { run, timer }));
            }
        }
        if looping.budget.take_if(|due| *due <= now).is_some() {
            inputs.push_back(Input::BudgetSpent);
        }
        self.decide(inputs)?;
        self.write_down()
    }

    fn decide(&mut self, mut inputs: VecDeque<Input>) -> Result<(), Cut> {
        let now = self.now;
        let mut effects = Vec::new();
        loop {
            let looping = self.looping()?;
            inputs.extend(looping.hands.happened.drain(..).map(|(app, event)| Input::Happened(app, event)));
            let Some(input) = inputs.pop_front() else { return Ok(()) };
            looping.supervisor.handle(now, 0.0, input, &mut effects);
            for effect in effects.drain(..) {
                self.perform(effect, &mut inputs)?;
            }
        }
    }

    fn reap_as_supervisor(&mut self) -> Result<(), Cut> {
        let story = self.story;
        loop {
            let (kernel, looping) = self.parts()?;
            let Some(ended) = looping.hands.dead_child(kernel) else { return Ok(()) };
            if looping.hands.is_leader(ended.pid) {
                let (pid, status, peak) = (ended.pid, ended.status, ended.peak);
                looping.pending.push(Line::Ended { pid, status, peak });
                self.write()?;
            }
            self.kernel.collect(ended.pid);
            self.burn()?;
            let (kernel, looping) = self.parts()?;
            looping.hands.child_ended(kernel, &story.deaf, ended);
        }
    }

    /// Returns whether the guard has said that the session has to end.
    fn hear_guard(&mut self) -> Result<bool, Cut> {
        let story = self.story;
        let mut ends = false;
        while let Some(message) = self.line.down.pop_front() {
            ends |= message == ToSupervisor::End;
            if let ToSupervisor::Exited(exit) = message {
                let (kernel, looping) = self.parts()?;
                looping.hands.told(kernel, &story.deaf, exit);
            }
        }
        let alive = self.guard.as_ref().map(|guarding| guarding.pid);
        let looping = self.looping()?;
        if alive.is_none()
            && let Some(guard) = looping.guard.take()
        {
            looping.hands.guard_is_gone(guard);
        }
        Ok(ends)
    }

    fn watched_ended(&mut self) -> Result<(), Cut> {
        let story = self.story;
        loop {
            let (kernel, looping) = self.parts()?;
            let Some(pid) = looping.hands.ended_watched(kernel, looping.guard) else { return Ok(()) };
            looping.hands.watched_is_gone(kernel, &story.deaf, pid, kasm_void::model::exit::Exit::Unknown);
        }
    }

    fn parts(&mut self) -> Result<(&mut crate::kernel::Kernel, &mut Looping), Cut> {
        let looping = self.supervisor.as_mut().and_then(|supervisor| supervisor.looping.as_mut()).ok_or(Cut::Killed)?;
        Ok((&mut self.kernel, looping))
    }

    fn perform(&mut self, effect: Effect, inputs: &mut VecDeque<Input>) -> Result<(), Cut> {
        match effect {
            Effect::App(id, effect) => self.perform_for(id, effect, inputs)?,
            Effect::Appeared(id, app) | Effect::Changed(id, app) => {
                let number = number_of(&app.name);
                self.looping()?.hands.appeared(id, number);
            }
            Effect::Vanished(id, name) => {
                let looping = self.looping()?;
                looping.hands.vanished(id);
                looping.pending.push(Line::Gone(name));
                looping.timers.retain(|(app, _), _| *app != id);
            }
            Effect::Stage(_) => {
                self.promises.may_stage()?;
                self.looping()?.begin(AppId::WORKSPACE, Errand::Stage, 0);
            }
            Effect::Answer(UPGRADE, outcome) => self.promises.upgrade_answered(outcome.done),
            Effect::Answer(id, outcome) => {
                let (number, asked) = asked_by(id);
                let seen = self.looping()?.edits == self.disk.edits;
                let done = outcome.done && seen && self.disk.manifests[number].is_some();
                self.promises.answered((number, asked), done);
            }
            Effect::Save => self.save()?,
            Effect::TellGuard(ToGuard::Draining(_)) if self.has_bug(Bug::DrainNotTold) => {}
            Effect::TellGuard(message) if self.has_bug(Bug::DrainToldLate) => self.looping()?.late.push(message),
            Effect::TellGuard(message) => self.say(message)?,
            Effect::DrainBegun(DrainCause::Resumed) => {} // somebody was told before, or nobody
            Effect::DrainBegun(_) => self.promises.told(self.now),
            Effect::ArmBudget(after) => self.looping()?.budget = Some(self.now + after),
            Effect::Exit(code) => self.looping()?.exit = Some(code),
            Effect::Leave(leave) => {
                if let Leave::ForUpgrade(path) = &leave {
                    self.say(ToGuard::Upgrade(path.clone()))?;
                }
                self.looping()?.leaves = Some(leave);
            }
            Effect::DrainHurried(_) => self.promises.hurried(),
            Effect::Applied { .. } => {}
        }
        Ok(())
    }

    fn perform_for(&mut self, id: AppId, effect: AppEffect, inputs: &mut VecDeque<Input>) -> Result<(), Cut> {
        let (now, story, skipped) = (self.now, self.story, self.skips(&effect));
        let (kernel, looping) = self.parts()?;
        match effect {
            AppEffect::LookUp { run, by_marks, .. } => {
                let events = looping.hands.look_up(kernel, id, run, by_marks);
                inputs.extend(events.into_iter().map(|event| Input::Happened(id, event)));
            }
            AppEffect::Spawn { run, app } => {
                if self.spawn_fails {
                    self.burn()?;
                    let failed = AppEvent::SpawnFailed { run, why: "no such program".into() };
                    let told = !self.has_bug(Bug::SpawnFailureNotTold);
                    inputs.extend(told.then_some(Input::Happened(id, failed)));
                    return Ok(());
                }
                let pid = self.spawn(&app, run)?;
                self.burn()?;
                self.looping()?.hands.started(pid, id, run);
                inputs.push_back(Input::Happened(id, AppEvent::Spawned { run, pid }));
            }
            AppEffect::RunHooks { run, .. } => looping.begin(id, Errand::Hooks, run),
            AppEffect::RunPrestop { run, .. } | AppEffect::RunPoststop { run, .. } if skipped => {
                inputs.push_back(Input::Happened(id, AppEvent::HooksDone { run }));
            }
            AppEffect::RunPrestop { run, .. } => looping.begin(id, Errand::Prestop, run),
            AppEffect::RunPoststop { run, .. } => looping.begin(id, Errand::Poststop, run),
            AppEffect::CancelHooks => looping.cancel_hooks(id),
            AppEffect::Probe { run, kind: ProbeKind::Ready, .. } => looping.begin(id, Errand::Ready, run),
            AppEffect::Probe { run, kind: ProbeKind::Health, .. } => looping.begin(id, Errand::Health, run),
            AppEffect::FindTraces { run, .. } => looping.begin(id, Errand::Traces, run),
            AppEffect::CancelProbe => looping.cancel_probe(id),
            AppEffect::Signal { pid, signal } => {
                self.promises.may_be_asked_to_end(self, pid)?;
                let (kernel, looping) = self.parts()?;
                looping.hands.signal(kernel, &story.deaf, pid, signal);
                self.signalled()?;
            }
            AppEffect::StopRest { run } => {
                looping.hands.clear(kernel, &story.deaf, id, run, TERM);
                self.signalled()?;
            }
            AppEffect::Sweep { run } => {
                looping.hands.clear(kernel, &story.deaf, id, run, KILL);
                self.signalled()?;
            }
            AppEffect::Arm { run, timer, after } => drop(looping.timers.insert((id, timer), (now + after, run))),
            AppEffect::Disarm(timer) => drop(looping.timers.remove(&(id, timer))),
            AppEffect::RunPostlaunch { .. }
            | AppEffect::Measure { .. }
            | AppEffect::CloseBrowser { .. }
            | AppEffect::EndSession { .. }
            | AppEffect::Report(_) => {}
        }
        Ok(())
    }

    /// Steps that a bug keeps from being run.
    fn skips(&self, effect: &AppEffect) -> bool {
        match effect {
            AppEffect::RunPrestop { .. } => self.has_bug(Bug::PrestopSkipped),
            AppEffect::RunPoststop { .. } => self.has_bug(Bug::PoststopSkipped),
            _ => false,
        }
    }

    fn spawn(&mut self, app: &App, run: u64) -> Result<Pid, Cut> {
        let number = number_of(&app.name);
        let draining = self.looping()?.supervisor.session().draining.is_some();
        self.promises.may_spawn(self, number, run, draining)?;
        self.promises.started(number, run);
        let Some(own) = self.supervisor.as_ref().map(|supervisor| supervisor.pid) else { return Err(Cut::Killed) };
        Ok(self.kernel.start(own, Program::App { number, run: Some(run), hidden: false, silent: false }, true))
    }

    fn signalled(&mut self) -> Result<(), Cut> {
        self.promises.may_be_signalled(self)?;
        self.burn()
    }

    fn say(&mut self, message: ToGuard) -> Result<(), Cut> {
        if self.guard.is_some() {
            if matches!(message, ToGuard::Draining(_)) {
                self.promises.told(self.now);
            }
            self.line.up.push_back(message);
        }
        self.burn()
    }

    fn write_down(&mut self) -> Result<(), Cut> {
        self.save()?;
        self.promises.saved(states(self));
        let late = std::mem::take(&mut self.looping()?.late);
        late.into_iter().try_for_each(|message| self.say(message))
    }

    /// Saves what has changed for the next supervisor.
    fn save(&mut self) -> Result<(), Cut> {
        let forgets = self.has_bug(Bug::PoststopNotSaved).then(|| self.promises.clone());
        let (kernel, looping) = self.parts()?;
        for (name, saved) in looping.supervisor.moved_apps() {
            let leader = saved.state.pid().and_then(|pid| looping.hands.leader(kernel, pid));
            if !forgets.as_ref().is_some_and(|it| it.has_poststopped(number_of(name), saved.run)) {
                looping.pending.push(Line::App { name: name.into(), leader, saved });
            }
        }
        let mut session = looping.supervisor.session();
        session.staged &= !self.has_bug(Bug::StagedNotSaved);
        self.looping()?.pending.push(Line::Session(session));
        self.promises.poststops_are_saved();
        self.write()
    }

    fn write(&mut self) -> Result<(), Cut> {
        let pending = std::mem::take(&mut self.looping()?.pending);
        if let Some((_, lines)) = &mut self.disk.ledger {
            pending.into_iter().for_each(|line| lines.take(line));
        }
        self.burn()
    }

    /// The loop has ended: the session is over, or this process becomes the guard. What the guard says now is not read
    /// any more.
    fn leave(&mut self) -> Result<(), Cut> {
        let looping = self.looping()?;
        let (exit, leaves, deaths) = (looping.exit, looping.leaves.take(), looping.deaths);
        match leaves {
            Some(Leave::ToBecomeGuard) => {
                let Some(Supervising { pid, version, signals, .. }) = self.supervisor.take() else { return Ok(()) };
                self.promises.supervisor_is_gone();
                self.kernel.becomes_guard(pid);
                let guard = Guard::resumed(deaths, Default::default());
                return Ok(self.begin_to_guard((pid, version), guard, signals)?);
            }
            Some(Leave::ForUpgrade(_)) => {
                self.supervisor_dies(0);
                return Ok(());
            }
            None => {}
        }
        let Some(code) = exit else { return Ok(()) };
        self.disk.ledger = None;
        self.promises.finished();
        self.session_is_drained();
        self.burn()?;
        self.say(ToGuard::Finished(code))?;
        let ends = self.guard.is_none();
        if ends {
            self.exit = Some(code);
        }
        self.supervisor_dies(i32::from(code) << 8);
        if ends {
            self.promises.ended(self, &[])?;
        }
        Ok(())
    }

    /// A supervisor that is not ready does not catch signals yet.
    pub fn signal_supervisor(&mut self, signal: i32) {
        match &mut self.supervisor {
            Some(supervisor) if supervisor.looping.is_some() => drop(supervisor.signals.insert(signal)),
            Some(_) => self.supervisor_dies(signal),
            None => {}
        }
    }

    pub fn supervisor_dies(&mut self, status: i32) {
        let Some(supervisor) = self.supervisor.take() else { return };
        if self.has_bug(Bug::MessagesLostOnReset) && !self.line.down.is_empty() {
            self.line.up.clear();
        }
        self.line.down.clear();
        self.kernel.dies(supervisor.pid, status);
        self.promises.supervisor_is_gone();
        if self.guard.is_none() && self.exit.is_none() {
            self.promises.nobody_is_left(&self.disk);
        }
    }
}

/// The app, if it only waited for those that it follows.
fn unfollowing(app: &Arc<App>) -> Arc<App> {
    let mut app = App::clone(app);
    app.after.iter_mut().for_each(|after| after.follow = false);
    Arc::new(app)
}

/// The request for an upgrade.
const UPGRADE: u64 = 1000;

fn ask_id(number: usize, asked: Asked) -> u64 {
    number as u64 * 3 + asked as u64
}

fn asked_by(id: u64) -> (usize, Asked) {
    let asked = [Asked::Start, Asked::Stop, Asked::Restart][id as usize % 3];
    (id as usize / 3, asked)
}
