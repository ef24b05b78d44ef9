//! What the people around the explored session were promised, and whether it is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kasm_void::model::exit::{Clues, Exit};
use kasm_void::model::guard::Binary;
use kasm_void::model::protocol::StateName;
use kasm_void::model::supervisor::Observed;
use kasm_void::model::tree::Pid;

use crate::kernel::{Program, Running, leads, name};
use crate::upgrading::Version;
use crate::world::{Asked, Disk, World};

#[derive(Debug, Clone, Default, Hash)]
pub struct Promises {
    told: Option<Told>,
    /// Apps whose stop was answered, until somebody asks for a start. By number.
    held: BTreeSet<usize>,
    /// Apps of which nobody can know whether the last request was carried out.
    unsure: BTreeSet<usize>,
    /// Requests that wait for an answer.
    asked: BTreeSet<(usize, Asked)>,
    /// Apps that have been asked to stop or to restart, or whose manifest has changed: they may be signalled.
    stirred: BTreeSet<usize>,
    /// Apps whose leader has ended by itself: those that follow them may be signalled.
    ended: BTreeSet<usize>,
    /// Apps that wait until then, or for ever, unless somebody asks for a start or edits the manifest.
    waiting: BTreeMap<usize, Option<Duration>>,
    /// Apps whose manifest has changed, and no supervisor has read it since.
    unread: BTreeSet<usize>,
    /// The guard has heard that a supervisor has taken over.
    begun: bool,
    /// A supervisor has stopped every app and said so.
    finished: bool,
    /// Somebody has asked for the end, with or without an answer.
    end_asked: bool,
    /// How the last run of an app ended that nobody had stirred.
    died: BTreeMap<usize, i32>,
    /// The run for which the hooks of an app have succeeded last.
    prepared: BTreeMap<usize, u64>,
    /// The run for which the `prestop` steps of an app have ended last.
    prestopped: BTreeMap<usize, u64>,
    /// The run of an app that was started last, if that can be known.
    launched: BTreeMap<usize, u64>,
    /// The run for which the `poststop` steps of an app have ended last, and whether a supervisor has saved since that
    /// they have.
    poststopped: BTreeMap<usize, (u64, bool)>,
    /// All that is left is killed, and nobody waits for anything any more.
    hurried: bool,
    /// Leaders that have answered a ready probe.
    ready: BTreeSet<Pid>,
    /// The `stage` steps have ended.
    staged: bool,
    /// An app was started.
    started: bool,
    /// The binary of the supervisor that came up last.
    version: Version,
    /// The upgrade that was asked for, and whether it was accepted, as long as nothing else has happened.
    upgrade: Option<(Version, bool)>,
}

/// The session was told to end.
#[derive(Debug, Clone, Copy, Hash)]
struct Told {
    at: Duration,
    /// By a supervisor that still runs.
    same_supervisor: bool,
}

/// The session ends this long after its stop budget, at the latest.
const AND_A_SECOND: Duration = Duration::from_secs(1);

impl Promises {
    pub fn is_told(&self) -> bool {
        self.told.is_some()
    }

    /// The guard has taken a signal, or a supervisor has begun to drain.
    pub fn told(&mut self, now: Duration) {
        self.told.get_or_insert(Told { at: now, same_supervisor: true });
    }

    pub fn begun(&mut self, begun: bool) {
        self.begun = begun;
    }

    pub fn end_asked(&mut self) {
        self.end_asked = true;
    }

    /// A supervisor has taken over, and the guard knows.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    pub fn finished(&mut self) {
        self.finished = true;
    }

    pub fn supervisor_started(&mut self) {
        self.told.iter_mut().for_each(|told| told.same_supervisor = false);
    }

    /// Its clients are told so, and do not know what became of their requests.
    pub fn supervisor_is_gone(&mut self) {
        self.poststopped.retain(|_, (_, saved)| *saved); // the next supervisor does not know, and runs them again
        let waiting = std::mem::take(&mut self.asked);
        waiting.into_iter().for_each(|(number, _)| self.asked_in_vain(number));
    }

    pub fn asked_in_vain(&mut self, number: usize) {
        self.unsure.insert(number);
        self.held.remove(&number);
    }

    pub fn prepared(&mut self, number: usize, run: u64) {
        self.prepared.insert(number, run);
    }

    pub fn answered_ready(&mut self, leader: Pid) {
        self.ready.insert(leader);
    }

    /// A session begins, or goes on with whatever `kasm-void` is installed.
    pub fn installed(&mut self) {
        self.version = Version::Installed;
    }

    pub fn came_up(&mut self, version: Option<Version>) {
        self.version = version.unwrap_or_default();
    }

    /// No supervisor of this binary has come up last.
    pub fn is_new(&self, binary: &Binary) -> bool {
        self.version != Version::of(binary)
    }

    pub fn upgrade_asked(&mut self, to: Version) {
        self.upgrade = Some((to, false));
    }

    pub fn upgrade_answered(&mut self, done: bool) {
        self.upgrade = self.upgrade.map(|(to, _)| (to, done));
    }

    /// Something has happened that an upgrade may give way to.
    pub fn disturbed(&mut self) {
        self.upgrade = None;
    }

    pub fn started(&mut self, number: usize, run: u64) {
        self.started = true;
        self.launched.insert(number, run);
    }

    pub fn prestopped(&mut self, number: usize, run: u64) {
        self.prestopped.insert(number, run);
    }

    pub fn poststopped(&mut self, number: usize, run: u64) -> Result<(), String> {
        if self.poststopped.get(&number) == Some(&(run, true)) {
            return Err(format!("the poststop steps of {} run twice for one end", name(number)));
        }
        self.poststopped.insert(number, (run, false));
        Ok(())
    }

    /// The supervisor has written down what it knows.
    pub fn poststops_are_saved(&mut self) {
        self.poststopped.values_mut().for_each(|(_, saved)| *saved = true);
    }

    pub fn has_poststopped(&self, number: usize, run: u64) -> bool {
        self.poststopped.get(&number).is_some_and(|(its, _)| *its == run)
    }

    /// A leader has ended, and its supervisor had died before it could save that it has started it.
    pub fn never_known(&mut self, number: usize) {
        self.launched.remove(&number);
    }

    pub fn hurried(&mut self) {
        self.hurried = true;
    }

    pub fn staged(&mut self) {
        self.staged = true;
    }

    /// Apps rely on what was staged, so it is not staged again under them.
    pub fn may_stage(&self) -> Result<(), String> {
        match self.started {
            true => Err("the session is staged again although its apps were started".into()),
            false => Ok(()),
        }
    }

    /// What the guard knew of exits is lost, and since when the session was told to end.
    pub fn guard_died(&mut self, now: Duration) {
        self.died.clear();
        self.told.iter_mut().for_each(|told| told.at = now);
    }

    /// Guard and supervisor are dead: there is nobody who could keep a promise about the end. If they had finished, the
    /// next one begins anew.
    pub fn nobody_is_left(&mut self, disk: &Disk) {
        self.end_asked = false;
        if self.told.take().is_some() {
            self.stirred.extend(0..disk.manifests.len());
            self.waiting.clear(); // a drain stops what waits, and the next supervisor starts it
        }
        self.died.clear();
        if disk.ledger.is_none() {
            self.another_session();
        }
    }

    pub fn another_session(&mut self) {
        *self = Promises::default();
    }

    pub fn asked(&mut self, number: usize, asked: Asked) {
        self.asked.insert((number, asked));
        self.held.remove(&number);
        self.waiting.remove(&number);
        self.died.remove(&number);
        if asked != Asked::Start {
            self.stirred.insert(number);
        }
    }

    pub fn edited(&mut self, number: usize) {
        self.stirred.insert(number);
        self.unread.insert(number);
    }

    /// The supervisor has read the manifests.
    pub fn read(&mut self) {
        let read = std::mem::take(&mut self.unread);
        self.waiting.retain(|number, _| !read.contains(number));
    }

    /// A leader has ended by itself. A later supervisor can know how only if the process was `known` before.
    pub fn died(&mut self, number: usize, status: i32, known: bool) {
        self.ended.insert(number);
        match known {
            true => drop(self.died.insert(number, status)),
            false => drop(self.died.remove(&number)),
        }
    }

    /// The supervisor has saved these states.
    pub fn saved(&mut self, states: Vec<(usize, Seen)>) {
        for (number, seen) in states {
            if seen.waits.is_some() {
                self.waiting.extend(seen.waits.map(|until| (number, until)));
            }
        }
    }

    pub fn answered(&mut self, (number, asked): (usize, Asked), done: bool) {
        self.asked.remove(&(number, asked));
        match (asked, done) {
            (Asked::Stop, true) => {
                self.unsure.remove(&number);
                self.held.insert(number);
            }
            (_, true) => drop(self.unsure.remove(&number)),
            (_, false) => drop(self.unsure.insert(number)),
        }
    }

    pub fn is_asked(&self, number: usize, asked: Asked) -> bool {
        self.asked.contains(&(number, asked))
    }

    /// The manifest is gone, and a hold with it, if the supervisor sees that.
    pub fn removed(&mut self, number: usize) {
        if self.held.remove(&number) {
            self.unsure.insert(number);
        }
    }

    /// Whether a supervisor may start this app now.
    pub fn may_spawn(&self, world: &World, number: usize, run: u64, draining: bool) -> Result<(), String> {
        let (name, app) = (name(number), &world.story.apps[number][0]);
        if !app.hooks.prelaunch.is_empty() && self.prepared.get(&number) != Some(&run) {
            return Err(format!("{name} is started before its hooks have succeeded"));
        }
        if !world.story.workspace.stage.is_empty() && !self.staged {
            return Err(format!("{name} is started before the session is staged"));
        }
        if world.kernel.of_app(number).next().is_some() {
            return Err(format!("two live trees of {name}"));
        }
        if self.owes_poststop(world, number) {
            return Err(format!("{name} is started again before its poststop steps have run"));
        }
        if draining {
            return Err(format!("{name} is started while the session is drained"));
        }
        if self.told.is_some_and(|told| !told.same_supervisor) {
            return Err(format!("{name} is started again after the session was told to end"));
        }
        if self.held.contains(&number) {
            return Err(format!("{name} is started although it is held"));
        }
        match self.waiting.get(&number) {
            Some(None) => Err(format!("{name} is started although it was given up")),
            Some(Some(until)) if *until > world.now => Err(format!("{name} is started before its wait is over")),
            _ => Ok(()),
        }
    }

    /// The steps of `poststop` have not run since this app was started.
    fn owes_poststop(&self, world: &World, number: usize) -> bool {
        let launched = self.launched.get(&number).filter(|_| !self.hurried);
        !world.story.apps[number][0].hooks.poststop.is_empty()
            && launched.is_some_and(|run| !self.has_poststopped(number, *run))
    }

    /// Whether a supervisor may ask this leader to end now: its `prestop` steps have run, and no app follows it any more.
    pub fn may_be_asked_to_end(&self, world: &World, leader: Pid) -> Result<(), String> {
        let Some(Program::App { number, run: Some(run), .. }) = world.kernel.get(leader).map(|leader| leader.program)
        else {
            return Ok(());
        };
        if self.hurried {
            return Ok(());
        }
        let app = &world.story.apps[number][0];
        if !app.hooks.prestop.is_empty() && self.prestopped.get(&number) != Some(&run) {
            return Err(format!("{} is asked to end before its prestop steps have run", app.name));
        }
        let mut followers = (0..world.story.apps.len()).filter(|other| followed(world, *other).any(|it| it == number));
        match followers.find(|other| world.kernel.of_app(*other).next().is_some()) {
            Some(other) => Err(format!("{} is asked to end before {}, which follows it", app.name, name(other))),
            None => Ok(()),
        }
    }

    /// Nobody signals an app for no reason: apps outlive their supervisor.
    pub fn may_be_signalled(&self, world: &World) -> Result<(), String> {
        if self.told.is_some() {
            return Ok(());
        }
        let asked = |running: &&Running| running.asked && !running.was_ill && leads(running.program);
        for running in world.kernel.alive().filter(asked) {
            if let Program::App { number, .. } = running.program
                && !self.stirred.contains(&number)
                && !followed(world, number).any(|other| self.stirred.contains(&other) || self.ended.contains(&other))
            {
                return Err(format!("{} is stopped for no reason", name(number)));
            }
        }
        Ok(())
    }

    /// What holds at any moment.
    pub fn kept(&self, world: &World) -> Result<(), String> {
        if let Some(told) = self.told.filter(|_| world.exit.is_none()) {
            let bound = told.at + world.story.workspace.stop_budget + AND_A_SECOND;
            if world.now > bound {
                return Err("the session was told to end, and is still there after the stop budget and a second".into());
            }
        }
        for (number, state) in states(world) {
            if state.at_rest && world.kernel.of_app(number).next().is_some() {
                return Err(format!("{} is called stopped, and a process of it is alive", name(number)));
            }
            if state.at_rest && self.owes_poststop(world, number) {
                return Err(format!("{} is called stopped, and its poststop steps have not run", name(number)));
            }
            let answered = state.pid.is_some_and(|pid| self.ready.contains(&pid));
            if state.name == StateName::Running && world.story.apps[number][0].ready.is_some() && !answered {
                return Err(format!("{} is called running, and no probe of it has passed", name(number)));
            }
        }
        Ok(())
    }

    /// What holds when nothing more happens.
    pub fn kept_at_rest(&self, world: &World) -> Result<(), String> {
        if self.told.is_some() {
            return Err("the session was told to end, and does not".into());
        }
        if let Some((number, asked)) = self.asked.first() {
            return Err(format!("a request ({asked:?} {}) is never answered", name(*number)));
        }
        let version = world.supervisor.as_ref().map(|supervisor| supervisor.version);
        if version != Some(self.version) {
            return Err(format!("the supervisor is {version:?}, and {:?} came up last", self.version));
        }
        if self.upgrade == Some((Version::Newer, true)) && self.version != Version::Newer {
            return Err("an upgrade was accepted, and the supervisor is the old one".into());
        }
        let states = states(world);
        for number in 0..world.story.apps.len() {
            let seen = states.iter().find(|(its, _)| *its == number).map(|(_, seen)| seen);
            let state = seen.map(|seen| seen.name);
            let leaders = world.kernel.of_app(number).filter(|running| leads(running.program)).count();
            let ill = world.kernel.leader(number).is_some_and(|leader| leader.ill);
            let up = (state, leaders, ill) == (Some(StateName::Running), 1, false);
            let is_up =
                |other: &usize| states.iter().any(|(its, seen)| its == other && seen.name == StateName::Running);
            let waits = followed(world, number).any(|other| !is_up(&other));
            let up = if waits { (state, leaders) == (Some(StateName::Starting), 0) } else { up };
            let down = matches!(state, None | Some(StateName::Stopped | StateName::GaveUp))
                && world.kernel.of_app(number).next().is_none();
            let described = world.disk.manifests[number].is_some();
            let gave_up = self.waiting.get(&number) == Some(&None) && state == Some(StateName::GaveUp);
            let kept = match (described, self.unsure.contains(&number), self.held.contains(&number) || gave_up) {
                (false, ..) => down && state.is_none(),
                (true, true, _) => up || down,
                (true, false, true) => down,
                (true, false, false) => up,
            };
            let stirred = |number: usize| self.stirred.contains(&number) || self.ended.contains(&number);
            let stirred = self.stirred.contains(&number) || followed(world, number).any(stirred);
            if let Some(status) = self.died.get(&number).filter(|_| !stirred)
                && let Some(seen) = seen
                && seen.last_exit != Some(Exit::of(*status, Clues::default()))
            {
                return Err(format!(
                    "{} ended with {status}, and is said to have ended with {:?}",
                    name(number),
                    seen.last_exit
                ));
            }
            if !kept {
                let wanted = if self.held.contains(&number) || !described { "down" } else { "up" };
                return Err(format!(
                    "{} should be {wanted}: {state:?} with {leaders} leaders{}",
                    name(number),
                    if ill { ", ill" } else { "" }
                ));
            }
        }
        Ok(())
    }

    /// What holds when the session has ended. `left`: what the guard could find and has not ended. An app whose parent was
    /// a guard that was killed is found by supervisors alone.
    pub fn ended(&self, world: &World, left: &[Pid]) -> Result<(), String> {
        if !self.end_asked {
            return Err("the session has ended, and nobody has asked for that".into());
        }
        if self.begun && world.disk.ledger.is_some() {
            return Err("the next session would inherit from this one".into());
        }
        let ours = |running: &&Running| running.program.is_app() || running.program == Program::Supervisor;
        let mut alive = world.kernel.alive().filter(ours);
        let left = alive.find(|running| self.finished || left.contains(&running.process.pid));
        left.map_or(Ok(()), |left| Err(format!("the session has ended, and {:?} is alive", left.program)))
    }
}

/// The apps that this one follows, by number.
fn followed(world: &World, number: usize) -> impl Iterator<Item = usize> {
    let after = world.story.apps[number][0].after.iter().filter(|after| after.follow);
    after.filter_map(|after| (0..world.story.apps.len()).find(|other| name(*other) == after.app))
}

/// An app as the supervisor sees it.
pub struct Seen {
    name: StateName,
    at_rest: bool,
    pid: Option<Pid>,
    last_exit: Option<Exit>,
    /// It waits until then, or for ever.
    waits: Option<Option<Duration>>,
}

pub fn states(world: &World) -> Vec<(usize, Seen)> {
    let mut states = Vec::new();
    let looping = world.supervisor.as_ref().and_then(|supervisor| supervisor.looping.as_ref());
    let Some(looping) = looping else { return states };
    let snapshot = looping.supervisor.snapshot(world.now, |_, _, _| Observed::default());
    for status in snapshot.apps {
        let number = (0..world.story.apps.len()).find(|number| name(*number) == status.name);
        let waits = match (status.state, status.next_retry_ms) {
            (StateName::GaveUp, _) => Some(None),
            (_, after) => after.map(|after| Some(world.now + Duration::from_millis(after))),
        };
        let at_rest = matches!(status.state, StateName::Stopped | StateName::GaveUp);
        let seen = Seen { name: status.state, at_rest, pid: status.pid, last_exit: status.last_exit, waits };
        states.extend(number.map(|number| (number, seen)));
    }
    states
}
