//! The explored world: a guard, its supervisor, the apps, the disk and the people around them. Knows what can happen
//! next, and lets it happen.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use kasm_void::model::app::App;
use kasm_void::model::guard::{ToGuard, ToSupervisor};
use kasm_void::model::ledger::Inherited;
use kasm_void::model::manifest::workspace::Workspace;
use kasm_void::model::protocol::Verb;
use kasm_void::model::signal::TERM;
use kasm_void::model::tree::Pid;

use crate::container::{Container, EntryPoint};
use crate::guarding::Guarding;
use crate::jobs::{Errand, Job};
use crate::kernel::{KILL, Kernel, Program, leads};
use crate::promises::Promises;
use crate::supervising::{Fuse, Supervising};
use crate::upgrading::Version;
use crate::walk::Explored;

/// What stays the same in one exploration.
#[derive(Debug)]
pub struct Story {
    /// The versions of each app, by number. An edit switches to the next one.
    pub apps: Vec<[Arc<App>; 2]>,
    pub workspace: Arc<Workspace>,
    /// Apps that ignore every signal but KILL, by number.
    pub deaf: Vec<bool>,
    /// Helpers that hide close their output too. Nobody finds those who did not see them before.
    pub silent: bool,
    /// The session is in a container whose PID 1 starts this. `None`: PID 1 is somebody else.
    pub entry_point: Option<EntryPoint>,
    /// What the world does, besides what follows from it.
    pub happens: &'static [Happening],
    /// Those happen one after the other, and each once.
    pub in_order: bool,
    pub bugs: &'static [Bug],
}

/// Something that may happen at any moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    SupervisorKilled,
    SupervisorFrozen,
    GuardKilled,
    /// TERM to the guard.
    SessionTold,
    /// TERM to the supervisor.
    SupervisorTold,
    /// `kasm-void drain`.
    DrainAsked,
    /// TERM to PID 1.
    ContainerTold,
    /// The entry point ends by itself, or a daemon that is not ours.
    OthersEnd,
    /// `start`, `stop` and `restart` of any app.
    Asked,
    /// `kasm-void upgrade` to a good binary, or to one that does not come up.
    Upgraded,
    /// A leader crashes, or exits with 0.
    LeaderDies,
    /// A leader falls ill, and gets well: its probes fail and pass.
    Illness,
    /// A hook fails, or a program cannot be started.
    StartFails,
    /// A job ends, and its answer is taken later, whatever happens before.
    AnswersLate,
    /// A leader forks a helper, with its marks or hidden.
    Forks,
    /// A manifest is edited, or removed and written again.
    Edited,
    /// The container is stopped without warning and started again on the same disk.
    Restarted,
}

/// A mistake that was made once, put back to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// The guard takes a reset of the line for its end, and loses what the supervisor had said before.
    MessagesLostOnReset,
    /// The guard is not told of a drain.
    DrainNotTold,
    /// The guard is told of a drain at the end of a turn, when apps have been asked to stop already.
    DrainToldLate,
    /// A session is not told apart from the one before on the same disk.
    SessionsAlike,
    /// A supervisor goes on with the drain that it finds on the disk.
    DrainOnDisk,
    /// What was saved of an app is not read.
    NothingInherited,
    /// Processes are not recognised by the marks that an earlier supervisor gave them.
    NoMarks,
    /// The answer of a hook or a probe counts for whatever run is current when it is taken.
    AnswersOfAnyRun,
    /// Nobody is told that a program could not be started.
    SpawnFailureNotTold,
    /// It is not saved that the session is staged.
    StagedNotSaved,
    /// Only the first supervisor after an upgrade is started from the new binary.
    UpgradeForgotten,
    /// A new binary that does not come up is waited for.
    HungBinaryNotKilled,
    /// The steps of `prestop` are not run.
    PrestopSkipped,
    /// The steps of `poststop` are not run.
    PoststopSkipped,
    /// It is not saved what follows the steps of `poststop`.
    PoststopNotSaved,
    /// An app that follows another one only waits for its start.
    FollowNotRead,
    /// PID 1 passes a request to stop on to its entry point at once, as other inits do.
    CommandAskedFirst,
    /// PID 1 takes a drain that has failed for one that was not needed.
    FailedDrainIsNoSession,
    /// PID 1 takes the end of any child for that of its entry point.
    AnyChildIsTheCommand,
    /// PID 1 collects its own children only.
    OrphansNotCollected,
    /// PID 1 does not hurry when it is told to stop a second time.
    SecondStopIgnored,
}

#[derive(Debug, Clone, Hash)]
pub enum Step {
    // What follows by itself.
    GuardActs,
    SupervisorActs,
    /// PID 1.
    InitActs,
    /// The `kasm-void drain` of PID 1.
    ClientActs,
    JobEnds(Job),
    Obeys(Pid),
    TimePasses,
    Thaws,
    RunAgain,
    // What happens to it.
    KilledWhile(Box<Step>, usize),
    JobFails(Job),
    JobEndsLate(Job),
    SpawnFails(Box<Step>),
    FallsIll(Pid),
    GetsWell(Pid),
    SupervisorKilled,
    SupervisorFrozen,
    GuardKilled,
    SessionTold,
    SupervisorTold,
    DrainAsked,
    ContainerTold,
    OthersEnd(Pid, i32),
    Asked(usize, Asked),
    UpgradeAsked(Version),
    /// Somebody kills a supervisor that hangs, because no guard does.
    HungIsKilled,
    LeaderDies(Pid, i32),
    Forks(Pid, bool),
    Edited(usize),
    Removed(usize),
    Restored(usize),
    Restarted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Asked {
    Start,
    Stop,
    Restart,
}

impl Asked {
    pub fn verb(self) -> Verb {
        match self {
            Asked::Start => Verb::Start,
            Asked::Stop => Verb::Stop,
            Asked::Restart => Verb::Restart,
        }
    }
}

/// The line between guard and supervisor.
#[derive(Debug, Clone, Default, Hash)]
pub struct Line {
    pub up: VecDeque<ToGuard>,
    pub down: VecDeque<ToSupervisor>,
}

/// What lies on the disk.
#[derive(Debug, Clone, Hash)]
pub struct Disk {
    /// The ledger: the session that wrote it, and what its lines say.
    pub ledger: Option<(String, Inherited)>,
    /// The version of each app's manifest; `None` if there is none.
    pub manifests: Vec<Option<usize>>,
    /// Counts the edits.
    pub edits: u32,
}

#[derive(Clone)]
pub struct World {
    pub story: &'static Story,
    pub now: Duration,
    pub kernel: Kernel,
    /// PID 1 and what it knows, in a story that has one.
    pub container: Option<Container>,
    pub guard: Option<Guarding>,
    pub supervisor: Option<Supervising>,
    pub line: Line,
    pub disk: Disk,
    /// Counts the starts of the container.
    pub session: u32,
    pub promises: Promises,
    /// How many things may still happen.
    pub left: usize,
    /// The session has ended with this code.
    pub exit: Option<u8>,
    pub fuse: Fuse,
    /// Programs cannot be started in this step.
    pub spawn_fails: bool,
}

impl std::hash::Hash for World {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        let World { story: _, now, kernel, container, guard, supervisor, line, disk, .. } = self;
        let World { session, promises, left, exit, fuse: _, spawn_fails: _, .. } = self;
        (now, kernel, container, guard, supervisor, line, disk, session, promises, left, exit).hash(state);
    }
}

impl World {
    pub fn new(story: &'static Story, depth: usize) -> World {
        let apps = story.apps.len();
        let mut world = World {
            story,
            now: Duration::from_secs(1000),
            kernel: Kernel::new(!story.bugs.contains(&Bug::NoMarks)),
            container: None,
            guard: None,
            supervisor: None,
            line: Line::default(),
            disk: Disk { ledger: None, manifests: vec![Some(0); apps], edits: 0 },
            session: 1,
            promises: Promises::default(),
            left: depth,
            exit: None,
            fuse: Fuse::default(),
            spawn_fails: false,
        };
        world.begin_container();
        world.run().expect("a session that begins");
        world
    }

    pub fn has_bug(&self, bug: Bug) -> bool {
        self.story.bugs.contains(&bug)
    }

    /// Where the guard or the supervisor stands in the way, time does not pass: each step takes none.
    fn own_steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.guard.is_some() && self.guard_has_work() {
            steps.push(Step::GuardActs);
        }
        let frozen = self.supervisor.as_ref().is_some_and(|supervisor| supervisor.frozen);
        if !frozen && self.supervisor_has_work() {
            steps.push(Step::SupervisorActs);
        }
        steps.extend(self.init_has_work().then_some(Step::InitActs));
        steps.extend(self.client_has_work().then_some(Step::ClientActs));
        steps.extend(self.jobs().map(Step::JobEnds));
        let asked = self.kernel.alive().filter(|running| running.asked);
        steps.extend(asked.map(|running| Step::Obeys(running.process.pid)));
        if steps.is_empty() && self.next_moment().is_some_and(|due| due > self.now) {
            steps.push(Step::TimePasses);
        }
        if frozen {
            steps.push(Step::Thaws);
        }
        if self.guard.is_none() && self.supervisor.as_ref().is_some_and(|it| it.version == Version::Hangs) {
            steps.push(Step::HungIsKilled);
        }
        if self.guard.is_none() && self.supervisor.is_none() && self.exit.is_none() && self.has_shell() {
            steps.push(Step::RunAgain);
        }
        steps
    }

    /// When the next deadline is due.
    fn next_moment(&self) -> Option<Duration> {
        let guard = self.guard.as_ref().and_then(|guarding| guarding.guard.next_moment());
        let frozen = self.supervisor.as_ref().is_none_or(|supervisor| supervisor.frozen);
        let supervisor = self.supervisor.as_ref().filter(|_| !frozen);
        let supervisor = supervisor.and_then(|supervisor| supervisor.next_moment(&self.kernel));
        // A frozen supervisor is only left alone for long while the session is ending.
        let waits = self.supervisor.as_ref().is_some_and(|supervisor| supervisor.frozen) && !self.promises.is_told();
        let waits = waits && !self.container_is_ending();
        guard.into_iter().chain(supervisor).chain(self.next_moment_of_the_container()).min().filter(|_| !waits)
    }

    /// What may happen to the world now.
    fn happenings(&self, own: &[Step]) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.left == 0 {
            return steps;
        }
        let next = self.story.happens.len().saturating_sub(self.left);
        for (at, happening) in self.story.happens.iter().enumerate() {
            if !self.story.in_order || at == next {
                self.add(*happening, own, &mut steps);
            }
        }
        steps
    }

    fn add(&self, happening: Happening, own: &[Step], steps: &mut Vec<Step>) {
        let supervisor = self.supervisor.as_ref();
        let looping = supervisor.is_some_and(|supervisor| supervisor.is_looping() && !supervisor.frozen);
        match happening {
            Happening::SupervisorKilled => {
                if supervisor.is_some() {
                    steps.push(Step::SupervisorKilled);
                }
                for step in own.iter().filter(|step| is_the_supervisors(step)) {
                    let length = self.clone().length_of(step);
                    steps.extend((1..length).map(|at| Step::KilledWhile(Box::new(step.clone()), at)));
                }
            }
            Happening::SupervisorFrozen => {
                steps.extend(supervisor.filter(|it| !it.frozen).map(|_| Step::SupervisorFrozen))
            }
            Happening::GuardKilled => steps.extend(self.guard.as_ref().map(|_| Step::GuardKilled)),
            Happening::SessionTold => steps.extend(self.guard.as_ref().map(|_| Step::SessionTold)),
            Happening::SupervisorTold => {
                steps.extend(supervisor.filter(|it| it.is_looping()).map(|_| Step::SupervisorTold))
            }
            Happening::ContainerTold => steps.extend(self.container.as_ref().map(|_| Step::ContainerTold)),
            Happening::OthersEnd => {
                steps.extend(self.others().flat_map(|pid| [0, 11].map(|status| Step::OthersEnd(pid, status))));
            }
            Happening::DrainAsked if looping => self.push_with_cuts(Step::DrainAsked, steps),
            Happening::Asked if looping => {
                for number in 0..self.story.apps.len() {
                    let open = |asked: &Asked| !self.promises.is_asked(number, *asked);
                    for asked in [Asked::Start, Asked::Stop, Asked::Restart].into_iter().filter(open) {
                        self.push_with_cuts(Step::Asked(number, asked), steps);
                    }
                }
            }
            Happening::Upgraded if looping => {
                Version::OTHERS.into_iter().for_each(|version| self.push_with_cuts(Step::UpgradeAsked(version), steps));
            }
            Happening::DrainAsked | Happening::Asked | Happening::Upgraded => {}
            Happening::LeaderDies => {
                steps.extend(self.leaders().flat_map(|pid| [0, 11].map(|status| Step::LeaderDies(pid, status))));
            }
            Happening::Forks => {
                steps.extend(self.leaders().flat_map(|pid| [false, true].map(|hidden| Step::Forks(pid, hidden))));
            }
            Happening::Illness => {
                let ill = |pid: Pid| self.kernel.get(pid).is_some_and(|running| running.ill);
                steps
                    .extend(self.leaders().map(|pid| if ill(pid) { Step::GetsWell(pid) } else { Step::FallsIll(pid) }));
            }
            Happening::StartFails => {
                let hooks = self.jobs().filter(|job| job.errand == Errand::Hooks);
                steps.extend(hooks.map(Step::JobFails));
                let acts = own.iter().filter(|step| is_the_supervisors(step));
                let spawning = acts.filter(|step| self.clone().spawns_in(step));
                steps.extend(spawning.map(|step| Step::SpawnFails(Box::new(step.clone()))));
            }
            Happening::AnswersLate => steps.extend(self.jobs().map(Step::JobEndsLate)),
            Happening::Edited => {
                for (number, version) in self.disk.manifests.iter().enumerate() {
                    match version {
                        Some(_) => steps.extend([Step::Edited(number), Step::Removed(number)]),
                        None => steps.push(Step::Restored(number)),
                    }
                }
            }
            Happening::Restarted => steps.push(Step::Restarted),
        }
    }

    /// The session has ended, and the container, if there is one.
    fn is_over(&self) -> bool {
        self.exit.is_some() && self.container.is_none()
    }

    fn kept_at_rest(&self) -> Result<(), String> {
        self.container_is_at_rest()?;
        if self.exit.is_none() { self.promises.kept_at_rest(self) } else { Ok(()) }
    }

    fn leaders(&self) -> impl Iterator<Item = Pid> {
        self.kernel.alive().filter(|running| leads(running.program)).map(|running| running.process.pid)
    }

    /// What is under way under a supervisor that is not frozen.
    fn jobs(&self) -> impl Iterator<Item = Job> {
        self.supervisor.iter().filter(|supervisor| !supervisor.frozen).flat_map(Supervising::jobs)
    }

    /// The step, and, if supervisors are killed in this story and there is room for both, the step cut short anywhere.
    fn push_with_cuts(&self, step: Step, steps: &mut Vec<Step>) {
        let may_be_killed = !self.story.in_order && self.story.happens.contains(&Happening::SupervisorKilled);
        if self.left > 1 && may_be_killed {
            let length = self.clone().length_of(&step);
            steps.extend((1..length).map(|at| Step::KilledWhile(Box::new(step.clone()), at)));
        }
        steps.push(step);
    }

    fn take(&mut self, step: &Step) -> Result<(), String> {
        let whole = if let Step::KilledWhile(whole, _) = step { whole } else { step };
        if matches!(whole, Step::SessionTold | Step::SupervisorTold | Step::DrainAsked) {
            self.promises.end_asked();
        }
        if cost(step) > 0 && !matches!(step, Step::UpgradeAsked(_)) {
            self.promises.disturbed();
        }
        match step {
            Step::GuardActs => self.guard_acts()?,
            Step::InitActs => self.init_acts()?,
            Step::SupervisorActs
            | Step::ClientActs
            | Step::JobEnds(_)
            | Step::JobFails(_)
            | Step::JobEndsLate(_)
            | Step::SpawnFails(_)
            | Step::DrainAsked
            | Step::UpgradeAsked(_)
            | Step::Asked(..) => self.supervisor_steps(step)?,
            Step::FallsIll(pid) => self.kernel.falls_ill(*pid),
            Step::GetsWell(pid) => self.kernel.gets_well(*pid),
            Step::Obeys(pid) => self.ends(*pid, |kernel| kernel.obeys(*pid)),
            Step::TimePasses => self.now = self.next_moment().unwrap_or(self.now),
            Step::Thaws => self.supervisor.iter_mut().for_each(|supervisor| supervisor.frozen = false),
            Step::RunAgain => self.run()?,
            Step::KilledWhile(step, at) => self.killed_while(step, *at)?,
            Step::SupervisorKilled | Step::HungIsKilled => self.supervisor_dies(KILL),
            Step::SupervisorFrozen => self.supervisor.iter_mut().for_each(|supervisor| supervisor.frozen = true),
            Step::GuardKilled => self.guard_dies(),
            Step::SessionTold => self.guard.iter_mut().for_each(|guarding| guarding.signals.extend([TERM])),
            Step::SupervisorTold => self.signal_supervisor(TERM),
            Step::ContainerTold => self.container.iter_mut().for_each(|container| container.signals.extend([TERM])),
            Step::OthersEnd(pid, status) => self.kernel.dies(*pid, *status),
            Step::LeaderDies(pid, status) => {
                if let Some(Program::App { number, .. }) = self.kernel.get(*pid).map(|running| running.program) {
                    let known = self.is_recorded(*pid) && self.kernel.is_ours(*pid);
                    self.promises.died(number, *status, known);
                }
                self.ends(*pid, |kernel| kernel.dies(*pid, *status));
            }
            Step::Forks(pid, hidden) => self.forks(*pid, *hidden),
            Step::Edited(number) => self.edit(*number, |version| version.map(|version| 1 - version)),
            Step::Removed(number) => {
                self.promises.removed(*number);
                self.edit(*number, |_| None);
            }
            Step::Restored(number) => self.edit(*number, |_| Some(0)),
            Step::Restarted => self.restarted()?,
        }
        self.promises.kept(self)?;
        self.container_is_in_time()
    }

    /// The next supervisor will know of this leader.
    fn is_recorded(&self, pid: Pid) -> bool {
        let knows = |(_, lines): &(String, Inherited)| lines.leaders.values().any(|leader| leader.pid == pid);
        self.disk.ledger.as_ref().is_some_and(knows)
    }

    /// A process ends. If it is a leader of which no supervisor has known, nobody will ever know of it.
    fn ends(&mut self, pid: Pid, end: impl FnOnce(&mut Kernel)) {
        let looping = self.supervisor.as_ref().and_then(|supervisor| supervisor.looping.as_ref());
        let known = self.is_recorded(pid) || looping.is_some_and(|looping| looping.hands.knows(pid));
        if let Some(Program::App { number, run: Some(_), .. }) = self.kernel.get(pid).map(|running| running.program)
            && !known
        {
            self.promises.never_known(number);
        }
        end(&mut self.kernel);
    }

    fn forks(&mut self, parent: Pid, hidden: bool) {
        let Some(Program::App { number, .. }) = self.kernel.get(parent).map(|running| running.program) else { return };
        let silent = hidden && self.story.silent;
        self.kernel.start(parent, Program::App { number, run: None, hidden, silent }, hidden);
    }

    fn edit(&mut self, number: usize, change: impl Fn(Option<usize>) -> Option<usize>) {
        self.promises.edited(number);
        self.disk.manifests[number] = change(self.disk.manifests[number]);
        self.disk.edits += 1;
    }

    fn restarted(&mut self) -> Result<(), String> {
        self.kernel = Kernel::new(!self.has_bug(Bug::NoMarks));
        (self.guard, self.supervisor, self.line, self.exit) = (None, None, Line::default(), None);
        self.session += 1;
        self.promises.another_session();
        self.begin_container();
        self.run()
    }
}

/// The supervisor acts, and may be killed on the way.
fn is_the_supervisors(step: &Step) -> bool {
    matches!(step, Step::SupervisorActs | Step::ClientActs | Step::JobEnds(_))
}

/// What a step costs: the things that happen are limited, what follows from them is not.
fn cost(step: &Step) -> usize {
    match step {
        Step::GuardActs
        | Step::SupervisorActs
        | Step::InitActs
        | Step::ClientActs
        | Step::JobEnds(_)
        | Step::Obeys(_)
        | Step::TimePasses
        | Step::Thaws
        | Step::HungIsKilled
        | Step::RunAgain => 0,
        Step::KilledWhile(step, _) => 1 + cost(step),
        _ => 1,
    }
}

impl Explored for World {
    type Step = Step;

    fn steps(&self) -> Vec<Step> {
        let mut steps = if self.is_over() { Vec::new() } else { self.own_steps() };
        let happenings = match self.exit.filter(|_| self.is_over()) {
            Some(_) if self.left > 0 && self.story.happens.contains(&Happening::Restarted) => vec![Step::Restarted],
            Some(_) => Vec::new(),
            None => self.happenings(&steps),
        };
        steps.extend(happenings);
        steps
    }

    fn wrong(&self) -> Option<String> {
        let at_rest = !self.is_over() && self.own_steps().is_empty();
        at_rest.then(|| self.kept_at_rest().err()).flatten()
    }

    fn after(&self, step: &Step) -> Result<World, String> {
        let mut world = self.clone();
        world.left = world.left.saturating_sub(cost(step));
        world.take(step)?;
        Ok(world)
    }
}
