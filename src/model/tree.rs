//! Decides which processes belong to which app, which one leads it, and which belong to no app.
//!
//! Pure: it takes a process table, what is known from earlier scans ([`Lineage`]) and a way to inspect a single process
//! ([`Look`]). A process belongs to an app if one of these rules applies. They are tried in this order:
//!
//! 1. It is a known child or a watched process of the app, or it was part of the tree at an earlier scan.
//! 2. It descends from such a process, or is in a session or process group that one of them created. Sessions and
//!    groups are remembered after their leaders are gone, until they are empty.
//! 3. Its environment carries the marks of the app and of this session.
//! 4. Its output goes into the app's pipe.
//! 5. It was reparented to us just when the app lost a process, or when there was no other app.
//!
//! The environment comes third because a program may overwrite it (to set a process title), clear it, or deny us access
//! to it. The first two rules do not depend on it.

mod clearing;
mod lineage;
mod marks;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::rc::Rc;

use crate::model::app::AppId;
use crate::model::manifest::matches::{FolderFlag, Matcher};

pub use clearing::{AfterLook, Clearing, Clearings};
pub use lineage::Lineage;
pub use marks::{Marks, Place};

/// Process id.
pub type Pid = i32;

/// One line of the process table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Process {
    /// Its own pid.
    pub pid: Pid,
    /// The pid of its parent; 0 if the kernel does not say.
    pub parent: Pid,
    /// The pid of the process that founded its session.
    pub session: Pid,
    /// The pid of the process that founded its process group.
    pub group: Pid,
    /// Start time in clock ticks since boot. Together with the pid it identifies a process uniquely.
    pub started: u64,
    /// Dead, but not yet collected by its parent.
    pub zombie: bool,
    /// We have permission to signal it.
    pub signallable: bool,
}

/// All visible processes at one moment, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// Oldest first. A parent need not come before its children.
    pub processes: Vec<Process>,
    /// No process was skipped for lack of a file descriptor.
    pub complete: bool,
}

impl Table {
    /// Adds children that the table does not show, for example because `/proc` is mounted with `hidepid`. It is only
    /// known that they exist and that `parent` has to collect them.
    pub fn add_unseen(&mut self, parent: Pid, children: &[Pid]) {
        let seen: HashSet<Pid> = self.processes.iter().map(|process| process.pid).collect();
        let unseen = children.iter().filter(|pid| !seen.contains(pid));
        self.processes.extend(unseen.map(|pid| Process {
            pid: *pid,
            parent,
            session: 0,
            group: 0,
            started: 0,
            zombie: false,
            signallable: true,
        }));
    }
}

/// Facts that need an inspection of one process. Called only if the answer matters.
pub trait Look {
    /// The marks in its environment. Empty if the environment cannot be read.
    fn marks(&self, pid: Pid) -> Rc<Marks>;
    /// Its arguments, joined by single spaces.
    fn command_line(&self, pid: Pid) -> Rc<str>;
    /// Its arguments name this folder, in any spelling.
    fn names_folder(&self, pid: Pid, folder: &FolderFlag) -> bool;
    /// The app whose pipe receives its output.
    fn output(&self, pid: Pid) -> Option<AppId>;
    /// It runs a kasm-void program: a guard, a supervisor, or a client with an app's name in its arguments.
    fn is_kasm_void(&self, pid: Pid) -> bool;
    /// It is exiting right now, so its arguments and environment may have been incomplete.
    fn is_ending(&self, pid: Pid) -> bool;
    /// It is in another mount namespace, so it belongs to another container.
    fn is_elsewhere(&self, pid: Pid) -> bool;
}

/// The owner of a process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The app.
    App(AppId),
    /// A hook or probe command of the app. Part of its tree, but never adopted as the app itself.
    Hook(AppId),
    /// Several apps lost a process when this one was orphaned. The trees of all of them count as non-empty while it
    /// lives.
    OneOf(Rc<BTreeSet<AppId>>),
}

impl Owner {
    /// Whether this owner is, or may be, the app.
    pub fn is(&self, app: AppId) -> bool {
        match self {
            Owner::App(owner) | Owner::Hook(owner) => *owner == app,
            Owner::OneOf(owners) => owners.contains(&app),
        }
    }

    fn apps(&self) -> Vec<AppId> {
        match self {
            Owner::App(app) | Owner::Hook(app) => vec![*app],
            Owner::OneOf(apps) => apps.iter().copied().collect(),
        }
    }
}

/// The app to find a leader for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The app.
    pub app: AppId,
    /// The app's name, as in its marks.
    pub name: &'a str,
    /// The app's `matches`.
    pub matcher: Option<&'a Matcher>,
    /// Also accept a process that an earlier supervisor started as the app, by the marks in its environment.
    pub by_marks: bool,
}

/// The processes that listen at one address of this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listeners {
    /// Processes that have a listening socket open.
    pub pids: Vec<Pid>,
    /// Users who made the sockets that no process we may inspect has open.
    pub hidden: Vec<u32>,
}

/// A process table sorted into trees.
#[derive(Debug)]
pub struct Trees {
    table: Table,
    index: Index,
    owners: HashMap<Pid, Owner>,
    by_app: HashMap<AppId, Vec<usize>>,
    /// Processes we hold. Even as zombies they count as alive until we have collected them.
    held: HashSet<Pid>,
    ourselves: Vec<Pid>,
    /// Processes that were left to the supervisor and have ended since, and that it has not collected.
    ended: Vec<Pid>,
}

/// Indexes into the table: the children of each parent, and the members of each session or group.
#[derive(Debug, Default)]
struct Index {
    by_pid: HashMap<Pid, usize>,
    children: HashMap<Pid, Vec<usize>>,
    sessions: HashMap<Pid, Vec<usize>>,
    groups: HashMap<Pid, Vec<usize>>,
}

impl Index {
    fn of(table: &Table) -> Self {
        let mut index = Index::default();
        for (at, process) in table.processes.iter().enumerate() {
            index.by_pid.insert(process.pid, at);
            index.children.entry(process.parent).or_default().push(at);
            index.sessions.entry(process.session).or_default().push(at);
            index.groups.entry(process.group).or_default().push(at);
        }
        index
    }
}

/// Sorts all processes of the table into trees.
pub fn sort(table: Table, lineage: &Lineage, look: &dyn Look) -> Trees {
    let mut trees = Trees {
        index: Index::of(&table),
        owners: HashMap::with_capacity(table.processes.len()),
        by_app: HashMap::new(),
        held: lineage.held().collect(),
        ourselves: lineage.ourselves().to_vec(),
        ended: Vec::new(),
        table,
    };
    trees.claim_all(|_, process| lineage.owner(process));
    trees.claim_all(|trees, process| lineage.owner_by_bond(process, |pid| trees.process(pid)));
    trees.claim_all(|_, process| match process.zombie {
        true => None,
        false => lineage.owner_by_marks(&look.marks(process.pid)),
    });
    trees.claim_all(|_, process| match process.zombie {
        true => None,
        false => look.output(process.pid).map(Owner::App),
    });
    trees.claim_all(|trees, process| match process.zombie || !trees.was_left_to_us(process) {
        true => None,
        false => lineage.owner_by_arrival(process),
    });
    let has_ended = |process: &&Process| {
        let known = trees.owners.contains_key(&process.pid);
        // Not those of the guard: a guard that is stopped collects nothing.
        trees.ourselves.first() == Some(&process.parent)
            && !trees.held.contains(&process.pid)
            && (process.zombie || !known && look.is_ending(process.pid))
    };
    trees.ended = trees.table.processes.iter().filter(has_ended).map(|process| process.pid).collect();
    trees
}

impl Trees {
    /// Assigns an owner to processes without one. The owner also gets all descendants of the process.
    fn claim_all(&mut self, owner: impl Fn(&Trees, &Process) -> Option<Owner>) {
        for at in 0..self.table.processes.len() {
            let process = self.table.processes[at];
            let open = !self.owners.contains_key(&process.pid) && !self.ourselves.contains(&process.pid);
            if open && let Some(owner) = owner(self, &process) {
                self.claim(at, &owner);
            }
        }
    }

    fn claim(&mut self, at: usize, owner: &Owner) {
        let mut queue = VecDeque::from([at]);
        while let Some(at) = queue.pop_front() {
            let process = self.table.processes[at];
            if self.ourselves.contains(&process.pid) || self.owners.contains_key(&process.pid) {
                continue;
            }
            self.owners.insert(process.pid, owner.clone());
            for app in owner.apps() {
                self.by_app.entry(app).or_default().push(at);
            }
            queue.extend(self.index.children.get(&process.pid).into_iter().flatten());
            if process.session == process.pid {
                queue.extend(self.index.sessions.get(&process.pid).into_iter().flatten());
            }
            if process.group == process.pid {
                queue.extend(self.index.groups.get(&process.pid).into_iter().flatten());
            }
        }
    }

    /// Whether the table is complete. If it is not, no tree may be reported as empty.
    fn complete(&self) -> bool {
        self.table.complete
    }

    /// Whether nothing of the app can be missing in the table. What a process had forked before it ended may be: the table
    /// is not read in one moment. Once that process is collected, another look tells.
    pub fn shows_all_of(&self, app: AppId) -> bool {
        let may_be_its = |pid: &Pid| self.owners.get(pid).is_none_or(|owner| owner.is(app));
        self.complete() && !self.ended.iter().any(may_be_its)
    }

    /// The owner of a process, if it has one.
    pub fn owner(&self, pid: Pid) -> Option<&Owner> {
        self.owners.get(&pid)
    }

    /// Every process of the table.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.table.processes.iter()
    }

    /// Every process that has an owner, including dead ones.
    pub fn owned(&self) -> impl Iterator<Item = (&Process, &Owner)> {
        self.processes().filter_map(|process| Some((process, self.owners.get(&process.pid)?)))
    }

    /// The process with this pid, if the table has it.
    pub fn process(&self, pid: Pid) -> Option<&Process> {
        self.index.by_pid.get(&pid).map(|at| &self.table.processes[*at])
    }

    /// All live processes of the app, and dead ones that we have not collected yet.
    pub fn members(&self, app: AppId) -> impl Iterator<Item = &Process> {
        let all = self.by_app.get(&app).into_iter().flatten().map(|at| &self.table.processes[*at]);
        all.filter(|process| !process.zombie || self.held.contains(&process.pid))
    }

    /// Whether the app listens there. A socket whose process we may not inspect is the app's only if the app has such a
    /// process: one that runs as the user who made the socket, or that has changed its user since (then the socket is
    /// ours). `hidden` tells the user of a process that we may not inspect.
    pub fn listens(&self, app: AppId, at: &Listeners, us: u32, hidden: impl Fn(Pid) -> Option<u32>) -> bool {
        let is_the_apps = |pid: &Pid| self.owner(*pid).is_some_and(|owner| owner.is(app));
        let may_have_made = |user: u32| at.hidden.contains(&user) || at.hidden.contains(&us);
        at.pids.iter().any(is_the_apps)
            || !at.hidden.is_empty() && self.members(app).any(|member| hidden(member.pid).is_some_and(may_have_made))
    }

    /// Live processes that were reparented to the guard or the supervisor and belong to no app, with their
    /// descendants.
    pub fn strays(&self) -> Vec<&Process> {
        let unowned = |process: &Process| {
            !process.zombie && !self.owners.contains_key(&process.pid) && !self.ourselves.contains(&process.pid)
        };
        let orphans = self.table.processes.iter().enumerate();
        let orphans = orphans.filter(|(_, process)| self.was_left_to_us(process));
        let mut queue: VecDeque<usize> = orphans.map(|(at, _)| at).collect();
        let mut found = Vec::new();
        while let Some(at) = queue.pop_front() {
            let process = &self.table.processes[at];
            if unowned(process) {
                found.push(process);
                queue.extend(self.index.children.get(&process.pid).into_iter().flatten());
            }
        }
        found
    }

    /// It is a child of ours or of the guard. Children that the guard had before it became the guard do not count. They
    /// are in the session in which it was started, and none of our processes ever are.
    fn was_left_to_us(&self, process: &Process) -> bool {
        let session = self.process(process.parent).map(|parent| parent.session);
        self.ourselves.contains(&process.parent) && session != Some(process.session)
    }

    /// Live processes in the session that a hook's command led, and the command's descendants. `own` is the command
    /// itself, if it has not been collected.
    pub fn with_session(&self, leader: Pid, own: bool) -> Vec<Pid> {
        let session = self.index.sessions.get(&leader).into_iter().flatten().copied();
        let own = self.index.by_pid.get(&leader).copied().filter(|_| own);
        let mut queue: VecDeque<usize> = session.chain(own).collect();
        let mut found = BTreeSet::new();
        while let Some(at) = queue.pop_front() {
            let process = &self.table.processes[at];
            if found.insert(process.pid) {
                queue.extend(self.index.children.get(&process.pid).into_iter().flatten());
            }
        }
        found.into_iter().collect()
    }

    /// The process to adopt as the app's leader: the oldest match that leads no app yet.
    pub fn leader(&self, wanted: Wanted<'_>, lineage: &Lineage, look: &dyn Look) -> Option<&Process> {
        let started_by_us = wanted.by_marks.then(|| self.spawned(wanted, lineage, look)).flatten();
        started_by_us.or_else(|| self.matching(wanted, lineage, look))
    }

    fn free(&self, process: &Process, lineage: &Lineage) -> bool {
        !process.zombie && !lineage.leads(process.pid) && !self.ourselves.contains(&process.pid)
    }

    /// Processes that an earlier supervisor started as the app.
    fn spawned(&self, wanted: Wanted<'_>, lineage: &Lineage, look: &dyn Look) -> Option<&Process> {
        self.members(wanted.app).filter(|process| self.free(process, lineage)).find(|process| {
            let marks = look.marks(process.pid);
            lineage.place().owns(&marks)
                && marks.app.as_deref() == Some(wanted.name)
                && marks.leader == Some(process.pid)
                && !marks.hook
        })
    }

    /// Processes that match the app's pattern.
    fn matching(&self, wanted: Wanted<'_>, lineage: &Lineage, look: &dyn Look) -> Option<&Process> {
        let matcher = wanted.matcher?;
        let same_folder = |pid| matcher.same_folder.as_ref().is_none_or(|folder| look.names_folder(pid, folder));
        let may_be = |process: &&Process| {
            self.free(process, lineage)
                && process.signallable
                && matcher.is(&look.command_line(process.pid))
                && same_folder(process.pid)
        };
        // Inspecting a process costs more than reading its command line, so only matches are inspected.
        self.table.processes.iter().filter(may_be).find(|process| {
            let owner_allows = match self.owners.get(&process.pid) {
                None => true,
                Some(owner) => *owner == Owner::App(wanted.app),
            };
            let marks = look.marks(process.pid);
            let marks_allow = !marks.hook
                && !lineage.place().is_anothers(&marks)
                && marks.app.as_deref().is_none_or(|app| app == wanted.name);
            let allowed = owner_allows && marks_allow;
            // This check comes last: a process that is not exiting now was not exiting during the checks above.
            allowed
                && !look.is_kasm_void(process.pid)
                && !look.is_elsewhere(process.pid)
                && !look.is_ending(process.pid)
        })
    }

    /// Records that a process was adopted as the app's leader. Its descendants belong to the app too.
    pub fn adopted(&mut self, app: AppId, pid: Pid) {
        self.held.insert(pid);
        if let Some(at) = self.index.by_pid.get(&pid) {
            self.claim(*at, &Owner::App(app));
        }
    }
}

#[cfg(test)]
mod tests;
