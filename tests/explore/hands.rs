//! The supervisor's hands: starts processes, learns how they end, looks for them and clears what is left of them, on the
//! explored machine. Which process belongs to which app is decided by the real `model::tree`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kasm_void::model::app::AppId;
use kasm_void::model::exit::{self, Clues, Exit, ExitRecord};
use kasm_void::model::guard::ChildExit;
use kasm_void::model::ledger::{Inherited, Leader};
use kasm_void::model::supervisor::{AppEvent, Found};
use kasm_void::model::tree::{self, AfterLook, Clearings, Lineage, Owner, Pid, Process, Trees, Wanted};

use crate::kernel::{Kernel, name, place};

#[derive(Debug, Clone, Hash)]
pub struct Hands {
    own: Pid,
    lineage: Lineage,
    /// The number of each app that has appeared.
    apps: BTreeMap<AppId, usize>,
    /// Our children, with the run they lead.
    children: BTreeMap<Pid, (AppId, u64)>,
    watched: BTreeMap<Pid, Watched>,
    /// What the guard has told of exits, until everything has been looked for.
    told: Option<Vec<ChildExit>>,
    inherited: BTreeMap<String, Leader>,
    sessions: BTreeMap<String, (Pid, u64)>,
    clearings: Clearings,
    pub happened: VecDeque<(AppId, AppEvent)>,
}

#[derive(Debug, Clone, Hash)]
struct Watched {
    app: AppId,
    started: u64,
    /// Its parent when it was first watched.
    parent: Pid,
    leads: Option<u64>,
}

impl Hands {
    pub fn new(own: Pid, guard: Pid, told: Vec<ChildExit>, inherited: &Inherited) -> Hands {
        Hands {
            own,
            lineage: Lineage::new(place(), vec![own, guard]),
            apps: BTreeMap::new(),
            children: BTreeMap::new(),
            watched: BTreeMap::new(),
            told: Some(told),
            inherited: inherited.leaders.clone(),
            sessions: inherited.sessions.clone(),
            clearings: Clearings::default(),
            happened: VecDeque::new(),
        }
    }

    pub fn appeared(&mut self, id: AppId, number: usize) {
        self.apps.insert(id, number);
        if self.lineage.named(id, &name(number))
            && let Some((pid, started)) = self.sessions.remove(&name(number))
        {
            self.lineage.led(id, pid, started);
        }
    }

    /// The number of this app. `None` if it is not known.
    pub fn number(&self, id: AppId) -> Option<usize> {
        self.apps.get(&id).copied()
    }

    pub fn vanished(&mut self, id: AppId) {
        self.lineage.forgotten(id);
    }

    /// All manifests are applied: nothing else is looked up by what the guard told.
    pub fn taken_over(&mut self) {
        self.told = None;
    }

    pub fn started(&mut self, pid: Pid, id: AppId, run: u64) {
        self.children.insert(pid, (id, run));
        self.lineage.started(pid, Owner::App(id));
    }

    /// Whether there is a dead child to collect, or a watched process whose end we would notice.
    pub fn is_woken(&self, kernel: &Kernel, guard: Option<Pid>) -> bool {
        self.dead_child(kernel).is_some() || self.ended_watched(kernel, guard).is_some()
    }

    pub fn dead_child(&self, kernel: &Kernel) -> Option<ExitRecord> {
        let dead = kernel.children(self.own).find_map(|child| Some((child.process.pid, child.status?)));
        dead.map(|(pid, status)| ExitRecord { pid, status, peak: 0 })
    }

    pub fn is_leader(&self, pid: Pid) -> bool {
        self.children.contains_key(&pid)
    }

    /// Its end will be noticed.
    pub fn knows(&self, pid: Pid) -> bool {
        self.children.contains_key(&pid) || self.watched.contains_key(&pid)
    }

    /// A child was collected.
    pub fn child_ended(&mut self, kernel: &mut Kernel, deaf: &[bool], ended: ExitRecord) {
        self.lineage.ended(ended.pid);
        match self.children.remove(&ended.pid) {
            Some((app, run)) => {
                let exit = Exit::of(ended.status, Clues::default());
                self.happened.push_back((app, AppEvent::Exited { run, exit, peak: None }));
                self.one_less(kernel, deaf, app, ended.pid);
            }
            None => self.watched_is_gone(kernel, deaf, ended.pid, Exit::of(ended.status, Clues::default())),
        }
    }

    /// A watched process that has ended, and that the guard will not tell of.
    pub fn ended_watched(&self, kernel: &Kernel, guard: Option<Pid>) -> Option<Pid> {
        self.watched.iter().find_map(|(pid, watched)| {
            let known = kernel.get(*pid).filter(|running| running.process.started == watched.started);
            let parent = known.map(|running| running.process.parent);
            let alive = known.is_some_and(|running| running.status.is_none());
            let reported = watched.leads.is_some() && exit::is_left_to_guard(guard, parent, watched.parent);
            (!alive && parent != Some(self.own) && !reported).then_some(*pid)
        })
    }

    /// The guard has told how a process exited.
    pub fn told(&mut self, kernel: &mut Kernel, deaf: &[bool], exit: ChildExit) {
        if self.watched.get(&exit.pid).is_some_and(|watched| watched.started == exit.started) {
            return self.watched_is_gone(kernel, deaf, exit.pid, Exit::of(exit.status, Clues::default()));
        }
        if let Some(told) = &mut self.told {
            told.push(exit);
        }
    }

    pub fn guard_is_gone(&mut self, guard: Pid) {
        self.lineage.unguarded(guard);
    }

    pub fn watched_is_gone(&mut self, kernel: &mut Kernel, deaf: &[bool], pid: Pid, exit: Exit) {
        let Some(watched) = self.watched.remove(&pid) else { return };
        self.lineage.ended(pid);
        if let Some(run) = watched.leads {
            self.happened.push_back((watched.app, AppEvent::Exited { run, exit, peak: None }));
        }
        self.one_less(kernel, deaf, watched.app, pid);
    }

    fn sort(&mut self, kernel: &Kernel) -> Trees {
        let look = kernel.look(&self.apps);
        let trees = tree::sort(kernel.table(), &self.lineage, &look);
        self.lineage.learn(&trees);
        trees
    }

    fn surely_empty(&self, kernel: &Kernel, id: AppId) -> bool {
        let orphans = kernel.children(self.own).map(|child| child.process.pid);
        let orphans: Vec<Pid> = orphans.filter(|pid| !self.lineage.holds(*pid)).collect();
        self.lineage.surely_empty(id, || Some(&orphans[..]))
    }

    fn watch(&mut self, kernel: &Kernel, trees: &Trees, process: &Process, app: AppId, leads: Option<u64>) -> bool {
        if let Some(watched) = self.watched.get_mut(&process.pid) {
            watched.leads = leads.or(watched.leads);
        } else if kernel.get(process.pid).is_some() {
            self.watched.insert(process.pid, Watched { app, started: process.started, parent: process.parent, leads });
        } else {
            return false;
        }
        let owner = trees.owner(process.pid).cloned().filter(|owner| leads.is_none() && owner.is(app));
        self.lineage.watched(process, owner.unwrap_or(Owner::App(app)), leads.is_some());
        self.lineage.scattered(app);
        true
    }

    /// Looks for the app's leader, as `daemon::process` does. Returns the events that follow.
    pub fn look_up(&mut self, kernel: &Kernel, id: AppId, run: u64, by_marks: bool) -> Vec<AppEvent> {
        let Some(number) = self.apps.get(&id).copied() else { return Found::Nothing.events(run, None) };
        if by_marks {
            self.lineage.scattered(id);
        }
        let left = by_marks.then(|| self.inherited.remove(&name(number))).flatten();
        let ended = left.and_then(|left| self.end_of(left));
        let trees = self.sort(kernel);
        if let Some(left) = left.filter(|_| ended.is_none())
            && let Some(process) = kernel.get(left.pid).map(|running| running.process)
            && process.started == left.started
            && self.watch(kernel, &trees, &process, id, Some(run))
        {
            return Found::Leader(left.pid).events(run, None);
        }
        let found = self.look_around(kernel, &trees, id, run, by_marks);
        found.events(run, ended.map(|ended| (Exit::of(ended.status, Clues::default()), None)))
    }

    fn look_around(&mut self, kernel: &Kernel, trees: &Trees, id: AppId, run: u64, by_marks: bool) -> Found {
        let name = self.apps.get(&id).map(|number| name(*number)).unwrap_or_default();
        let wanted = Wanted { app: id, name: &name, matcher: None, by_marks };
        let leader = trees.leader(wanted, &self.lineage, &kernel.look(&self.apps)).copied();
        if let Some(leader) = leader {
            if leader.parent == self.own {
                self.children.insert(leader.pid, (id, run));
                self.lineage.watched(&leader, Owner::App(id), true);
                return Found::Leader(leader.pid);
            }
            if self.watch(kernel, trees, &leader, id, Some(run)) {
                return Found::Leader(leader.pid);
            }
        }
        if self.surely_empty(kernel, id) {
            return Found::Nothing;
        }
        let members: Vec<Process> = trees.members(id).copied().collect();
        let mut alive = 0;
        for member in members {
            if self.children.contains_key(&member.pid) || self.watch(kernel, trees, &member, id, None) {
                alive += 1;
            }
        }
        if alive > 0 {
            return Found::Remains;
        }
        self.lineage.emptied(id);
        Found::Nothing
    }

    /// A leader by its pid: a live one, or one that was inherited and has not been looked for.
    pub fn leader(&self, kernel: &Kernel, pid: Pid) -> Option<(Pid, u64)> {
        let inherited = self.inherited.values().find(|leader| leader.pid == pid).map(|leader| leader.started);
        let started = inherited.or_else(|| kernel.get(pid).map(|running| running.process.started))?;
        Some((pid, started))
    }

    fn end_of(&self, left: Leader) -> Option<ExitRecord> {
        let told = self.told.iter().flatten().find(|exit| (exit.pid, exit.started) == (left.pid, left.started));
        left.ended.or(told.map(|exit| ExitRecord { pid: exit.pid, status: exit.status, peak: exit.peak }))
    }

    /// Signals what is left of the app, and reports when nothing is left.
    pub fn clear(&mut self, kernel: &mut Kernel, deaf: &[bool], id: AppId, run: u64, signal: i32) {
        let name = self.number(id).map(name).unwrap_or_default();
        if self.clearings.begin(id, &name, run, signal) {
            self.clear_members(kernel, deaf, id);
        }
    }

    fn clear_members(&mut self, kernel: &mut Kernel, deaf: &[bool], id: AppId) {
        let Some(signal) = self.clearings.get(id).map(|clearing| clearing.signal) else { return };
        let trees = self.sort(kernel);
        let members: Vec<Process> = match self.surely_empty(kernel, id) {
            true => Vec::new(),
            false => trees.members(id).copied().collect(),
        };
        let mut left = BTreeSet::new();
        for member in members {
            if self.children.contains_key(&member.pid) || self.watch(kernel, &trees, &member, id, None) {
                left.insert(member.pid);
                kernel.signal(member.pid, signal, deaf);
            }
        }
        if let AfterLook::Empty { run } = self.clearings.looked(id, left, true) {
            self.lineage.emptied(id);
            self.happened.push_back((id, AppEvent::TreeEmpty { run }));
        }
    }

    fn one_less(&mut self, kernel: &mut Kernel, deaf: &[bool], id: AppId, pid: Pid) {
        if self.clearings.ended(id, pid) {
            self.clear_members(kernel, deaf, id);
        }
    }

    /// Signals an app's leader that we know.
    pub fn signal(&self, kernel: &mut Kernel, deaf: &[bool], pid: Pid, signal: i32) {
        if self.knows(pid) {
            kernel.signal(pid, signal, deaf);
        }
    }
}
