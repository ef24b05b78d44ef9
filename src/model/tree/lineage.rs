//! The memory of the trees between two scans of the process table.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::rc::Rc;

use super::{Marks, Owner, Pid, Place, Process, Trees};
use crate::model::app::AppId;

/// Remembers the owners of known processes, sessions and groups. Must be notified of every start and every exit.
#[derive(Debug, Clone, Hash)]
pub struct Lineage {
    place: Place,
    /// The supervisor, then its guard. Never part of a tree.
    ourselves: Vec<Pid>,
    names: BTreeMap<String, AppId>,
    /// Processes whose exit will be reported: uncollected children and watched processes.
    held: BTreeMap<Pid, Owner>,
    /// How many of them each app has.
    counts: BTreeMap<AppId, usize>,
    /// Those of them that lead an app.
    leaders: BTreeSet<Pid>,
    /// Members at the last scan, with their start times.
    members: BTreeMap<Pid, (u64, Owner)>,
    bonds: BTreeMap<Bond, Founder>,
    bonds_of: BTreeMap<AppId, Vec<Bond>>,
    /// Apps that have lost a process since the last scan, and whether that was the leader.
    bereaved: BTreeMap<AppId, bool>,
    /// Apps whose tree may have members that do not descend from us.
    scattered: BTreeSet<AppId>,
    /// Orphans that belonged to no app at an earlier scan, with their start times. A later exit cannot explain them.
    strays: BTreeMap<Pid, u64>,
}

/// A session or group, which ties processes together without descent. The kernel does not reuse its id until the last
/// member is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Bond {
    Session(Pid),
    Group(Pid),
}

impl Bond {
    fn id(self) -> Pid {
        match self {
            Bond::Session(id) | Bond::Group(id) => id,
        }
    }

    fn founded_by(pid: Pid) -> [Bond; 2] {
        [Bond::Session(pid), Bond::Group(pid)]
    }

    fn of(process: &Process) -> [Bond; 2] {
        [Bond::Session(process.session), Bond::Group(process.group)]
    }
}

/// The process that created a session or group.
#[derive(Debug, Clone, Hash)]
struct Founder {
    owner: Owner,
    identity: Identity,
}

/// How to distinguish the founder from a later process with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Identity {
    /// Our child. It keeps its pid until we collect it.
    Child,
    Since(u64),
    /// It was our child. Any process with its pid now is another one.
    Collected,
}

impl Founder {
    /// This process has the founder's pid, but is another one.
    fn is_another(&self, process: &Process) -> bool {
        match self.identity {
            Identity::Child => false,
            Identity::Since(started) => process.started != started,
            Identity::Collected => true,
        }
    }
}

impl Lineage {
    /// `ourselves`: the supervisor and, if there is one, its guard.
    pub fn new(place: Place, ourselves: Vec<Pid>) -> Self {
        Lineage {
            place,
            ourselves,
            names: BTreeMap::new(),
            held: BTreeMap::new(),
            counts: BTreeMap::new(),
            leaders: BTreeSet::new(),
            members: BTreeMap::new(),
            bonds: BTreeMap::new(),
            bonds_of: BTreeMap::new(),
            bereaved: BTreeMap::new(),
            scattered: BTreeSet::new(),
            strays: BTreeMap::new(),
        }
    }

    /// The session whose processes these are.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The supervisor and its guard: processes that belong to nobody.
    pub fn ourselves(&self) -> &[Pid] {
        &self.ourselves
    }

    /// The guard is gone. Another process may have its pid.
    pub fn unguarded(&mut self, guard: Pid) {
        self.ourselves.retain(|pid| *pid != guard);
    }

    pub(super) fn held(&self) -> impl Iterator<Item = Pid> {
        self.held.keys().copied()
    }

    /// From now on, processes whose marks name this app belong to it. Returns whether the app is new.
    pub fn named(&mut self, app: AppId, name: &str) -> bool {
        self.names.get(name) != Some(&app) && self.names.insert(name.into(), app) != Some(app)
    }

    /// The app is gone, and so is its tree.
    pub fn forgotten(&mut self, app: AppId) {
        self.emptied(app);
        self.names.retain(|_, named| *named != app);
    }

    /// We started this process, as our child and as the leader of its own session.
    pub fn started(&mut self, pid: Pid, owner: Owner) {
        for bond in Bond::founded_by(pid) {
            self.remember(bond, &owner, Identity::Child);
        }
        if let Owner::App(_) = owner {
            self.leaders.insert(pid);
        }
        self.hold(pid, owner);
    }

    /// We did not start this process, but its exit will be reported from now on.
    pub fn watched(&mut self, process: &Process, owner: Owner, leads: bool) {
        self.remember_bonds(process, &owner);
        if leads {
            self.leaders.insert(process.pid);
        }
        self.hold(process.pid, owner);
    }

    fn hold(&mut self, pid: Pid, owner: Owner) {
        self.release(pid);
        for app in owner.apps() {
            *self.counts.entry(app).or_default() += 1;
        }
        self.held.insert(pid, owner);
    }

    fn release(&mut self, pid: Pid) -> Option<Owner> {
        let owner = self.held.remove(&pid)?;
        for app in owner.apps() {
            if let Some(count) = self.counts.get_mut(&app) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&app);
                }
            }
        }
        Some(owner)
    }

    /// An earlier supervisor knew this process as the app's leader. Its session may not be empty even if it is gone.
    pub fn led(&mut self, app: AppId, leader: Pid, started: u64) {
        self.members.insert(leader, (started, Owner::App(app)));
        for bond in Bond::founded_by(leader) {
            self.remember(bond, &Owner::App(app), Identity::Since(started));
        }
    }

    /// Until its tree is empty, the app may have processes that do not descend from us: an earlier supervisor may have
    /// started them, or we watch one.
    pub fn scattered(&mut self, app: AppId) {
        self.scattered.insert(app);
    }

    /// A quick check for the usual case. Whatever outlives a leader that we started becomes our child. So if we know all of
    /// our children, and none belongs to the app, nothing of it is left. `orphans` reads the children that we do not hold;
    /// `None` if they cannot be read.
    pub fn surely_empty<'a>(&self, app: AppId, orphans: impl FnOnce() -> Option<&'a [Pid]>) -> bool {
        let anothers = |pid: &Pid| match self.members.get(pid) {
            Some((_, owner)) => !owner.is(app),
            None => self.strays.contains_key(pid),
        };
        !self.scattered.contains(&app)
            && !self.holds_any_of(app)
            && orphans().is_some_and(|orphans| orphans.iter().all(anothers))
    }

    /// Whether it leads an app already.
    pub(super) fn leads(&self, pid: Pid) -> bool {
        self.leaders.contains(&pid)
    }

    /// Whether the exit of this process will be reported.
    pub fn holds(&self, pid: Pid) -> bool {
        self.held.contains_key(&pid)
    }

    /// Whether the exit of any process of the app will be reported.
    pub fn holds_any_of(&self, app: AppId) -> bool {
        self.counts.contains_key(&app)
    }

    /// A process has ended and can no longer be found. Its children are orphaned at this moment.
    pub fn ended(&mut self, pid: Pid) {
        self.members.remove(&pid);
        self.strays.remove(&pid);
        let Some(owner) = self.release(pid) else { return };
        for bond in Bond::founded_by(pid) {
            match self.bonds.get_mut(&bond) {
                Some(founder) if founder.identity == Identity::Child => founder.identity = Identity::Collected,
                _ => {}
            }
        }
        let leader = self.leaders.remove(&pid);
        for app in owner.apps() {
            *self.bereaved.entry(app).or_default() |= leader;
        }
    }

    /// Nothing of the app's tree is left.
    pub fn emptied(&mut self, app: AppId) {
        for bond in self.bonds_of.remove(&app).unwrap_or_default() {
            if self.bonds.get(&bond).is_some_and(|founder| founder.owner.is(app)) {
                self.bonds.remove(&bond);
            }
        }
        self.bereaved.remove(&app);
        self.scattered.remove(&app);
    }

    /// Takes in the result of a scan. An incomplete scan makes it forget nothing.
    pub fn learn(&mut self, trees: &Trees) {
        for (process, owner) in trees.owned() {
            if !self.held.contains_key(&process.pid) {
                self.members.insert(process.pid, (process.started, owner.clone()));
                self.remember_bonds(process, owner);
            }
        }
        if !trees.complete() {
            return;
        }
        self.forget_the_gone(trees);
        self.strays = trees.strays().into_iter().map(|process| (process.pid, process.started)).collect();
        self.bereaved.clear();
    }

    fn forget_the_gone(&mut self, trees: &Trees) {
        let there = |pid: &Pid, started: u64| trees.process(*pid).is_some_and(|process| process.started == started);
        self.members.retain(|pid, (started, _)| there(pid, *started));
        let used: HashSet<Bond> = trees.processes().flat_map(Bond::of).collect();
        let held = &self.held;
        self.bonds.retain(|bond, founder| {
            let used_again = trees.process(bond.id()).is_some_and(|process| founder.is_another(process));
            !used_again && (used.contains(bond) || held.contains_key(&bond.id()))
        });
        let bonds = &self.bonds;
        self.bonds_of.values_mut().for_each(|of_app| of_app.retain(|bond| bonds.contains_key(bond)));
    }

    fn remember_bonds(&mut self, process: &Process, owner: &Owner) {
        for bond in Bond::of(process).into_iter().filter(|bond| bond.id() == process.pid) {
            self.remember(bond, owner, Identity::Since(process.started));
        }
    }

    fn remember(&mut self, bond: Bond, owner: &Owner, identity: Identity) {
        self.bonds.insert(bond, Founder { owner: owner.clone(), identity });
        for app in owner.apps() {
            let of_app = self.bonds_of.entry(app).or_default();
            if !of_app.contains(&bond) {
                of_app.push(bond);
            }
        }
    }

    /// The owner by what is known about the process itself.
    pub(super) fn owner(&self, process: &Process) -> Option<Owner> {
        let member = self.members.get(&process.pid).filter(|(started, _)| *started == process.started);
        self.held.get(&process.pid).or(member.map(|(_, owner)| owner)).cloned()
    }

    /// The owner by its session or group. `with_pid` finds the process that has a pid now.
    pub(super) fn owner_by_bond<'t>(
        &self,
        process: &Process,
        with_pid: impl Fn(Pid) -> Option<&'t Process>,
    ) -> Option<Owner> {
        Bond::of(process).into_iter().find_map(|bond| {
            let founder = self.bonds.get(&bond)?;
            let used_again = with_pid(bond.id()).is_some_and(|now| founder.is_another(now));
            (!used_again).then(|| founder.owner.clone())
        })
    }

    /// The owner by the marks in its environment.
    pub(super) fn owner_by_marks(&self, marks: &Marks) -> Option<Owner> {
        let app = *self.names.get(marks.app.as_deref()?)?;
        let owner = if marks.hook { Owner::Hook(app) } else { Owner::App(app) };
        self.place.owns(marks).then_some(owner)
    }

    /// The owner of an orphan that was just reparented to us: an app that has lost a process since the last scan, or
    /// the only app there is.
    pub(super) fn owner_by_arrival(&self, process: &Process) -> Option<Owner> {
        // If the guard is PID 1, processes that have nothing to do with us are reparented to it too.
        if self.strays.get(&process.pid) == Some(&process.started) || process.parent == 1 {
            return None;
        }
        let lost = |leader: bool| self.bereaved.iter().filter(move |(_, was)| **was == leader).map(|(app, _)| *app);
        let mut apps: BTreeSet<AppId> = lost(true).collect();
        if apps.is_empty() {
            apps = lost(false).collect();
        }
        // An orphan of the guard may come from an app of an earlier supervisor. An orphan of ours comes from our apps.
        if apps.is_empty() && Some(&process.parent) == self.ourselves.first() {
            apps = self.held.values().flat_map(Owner::apps).collect();
            if apps.len() > 1 {
                return None;
            }
        }
        match apps.len() {
            0 => None,
            1 => apps.first().map(|app| Owner::App(*app)),
            _ => Some(Owner::OneOf(Rc::new(apps))),
        }
    }
}
