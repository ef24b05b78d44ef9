//! The machine under an explored session: its processes, who has to collect whom, and what signals do.

use std::collections::BTreeMap;
use std::rc::Rc;

use kasm_void::model::app::AppId;
use kasm_void::model::manifest::matches::FolderFlag;
use kasm_void::model::signal::TERM;
use kasm_void::model::tree::{Look, Marks, Pid, Place, Process, Table};

pub const KILL: i32 = 9;

/// The wait status of an entry point that has obeyed TERM.
const OBEYED: i32 = 3 << 8;

/// Adopts and collects what nobody else does: PID 1 of the container.
pub const OUTSIDE: Pid = 1;

#[derive(Debug, Clone, Hash)]
pub struct Kernel {
    processes: BTreeMap<Pid, Running>,
    last: Pid,
    /// Whether the marks in an environment can be read.
    marks: bool,
}

#[derive(Debug, Clone, Hash)]
pub struct Running {
    pub process: Process,
    pub program: Program,
    /// The wait status, once it is dead.
    pub status: Option<i32>,
    /// It has got a signal that it obeys, and has not ended yet.
    pub asked: bool,
    /// Probes of it fail.
    pub ill: bool,
    /// It has been ill, so it may be stopped for that even if it is well now.
    pub was_ill: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Program {
    Guard,
    Supervisor,
    /// A process of the app with this number.
    App {
        number: usize,
        /// It was started by a supervisor as this run. `None`: a helper that another process of the app has forked.
        run: Option<u64>,
        /// It has cleared its environment.
        hidden: bool,
        /// It has closed its output too.
        silent: bool,
    },
    /// PID 1 of the container, if the story has one.
    Init,
    /// The entry point that PID 1 was told to start.
    EntryPoint,
    /// A daemon that has nothing to do with the session.
    Stranger,
    /// `kasm-void drain`
    Client,
}

impl Program {
    pub fn is_app(self) -> bool {
        matches!(self, Program::App { .. })
    }

    /// It collects its children when it is its turn. Other programs do that at once.
    fn reaps(self) -> bool {
        matches!(self, Program::Guard | Program::Supervisor | Program::Init)
    }
}

impl Kernel {
    pub fn new(marks: bool) -> Kernel {
        Kernel { processes: BTreeMap::new(), last: 100, marks }
    }

    pub fn get(&self, pid: Pid) -> Option<&Running> {
        self.processes.get(&pid)
    }

    pub fn all(&self) -> impl Iterator<Item = &Running> {
        self.processes.values()
    }

    pub fn alive(&self) -> impl Iterator<Item = &Running> {
        self.all().filter(|running| running.status.is_none())
    }

    /// Live processes of the app with this number.
    pub fn of_app(&self, number: usize) -> impl Iterator<Item = &Running> {
        self.alive().filter(move |running| matches!(running.program, Program::App { number: its, .. } if its == number))
    }

    /// The live process of this app that a supervisor has started.
    pub fn leader(&self, number: usize) -> Option<&Running> {
        self.of_app(number).find(|running| leads(running.program))
    }

    pub fn falls_ill(&mut self, pid: Pid) {
        self.processes.entry(pid).and_modify(|running| (running.ill, running.was_ill) = (true, true));
    }

    pub fn gets_well(&mut self, pid: Pid) {
        self.processes.entry(pid).and_modify(|running| running.ill = false);
    }

    /// Children of this process, dead or alive.
    pub fn children(&self, parent: Pid) -> impl Iterator<Item = &Running> {
        self.all().filter(move |running| running.process.parent == parent)
    }

    /// Starts a process as a child. `leads`: in a session of its own.
    pub fn start(&mut self, parent: Pid, program: Program, leads: bool) -> Pid {
        self.last += 1;
        let pid = self.last;
        let (session, group) = match self.get(parent).filter(|_| !leads) {
            Some(parent) => (parent.process.session, parent.process.group),
            None => (pid, pid),
        };
        let started = pid as u64;
        let process = Process { pid, parent, session, group, started, zombie: false, signallable: true };
        self.insert(process, program);
        pid
    }

    /// PID 1 is a program that we explore.
    pub fn begin_with_init(&mut self) {
        let (pid, zombie, signallable) = (OUTSIDE, false, true);
        let process = Process { pid, parent: 0, session: pid, group: pid, started: 0, zombie, signallable };
        self.insert(process, Program::Init);
    }

    fn insert(&mut self, process: Process, program: Program) {
        let running = Running { process, program, status: None, asked: false, ill: false, was_ill: false };
        self.processes.insert(process.pid, running);
    }

    /// The supervisor executes itself as the guard.
    pub fn becomes_guard(&mut self, pid: Pid) {
        self.processes.entry(pid).and_modify(|running| running.program = Program::Guard);
    }

    pub fn dies(&mut self, pid: Pid, status: i32) {
        let Some(running) = self.processes.get_mut(&pid).filter(|running| running.status.is_none()) else { return };
        (running.status, running.process.zombie, running.asked) = (Some(status), true, false);
        let parent = running.process.parent;
        let reaper = self.reaper(parent);
        let orphans: Vec<Pid> = self.children(pid).map(|child| child.process.pid).collect();
        for orphan in orphans {
            self.processes.entry(orphan).and_modify(|child| child.process.parent = reaper);
            self.collect_unless_ours(orphan);
        }
        self.collect_unless_ours(pid);
    }

    /// The nearest live guard or supervisor from this process upwards, or PID 1.
    fn reaper(&self, mut pid: Pid) -> Pid {
        while let Some(running) = self.get(pid) {
            if running.status.is_none() && running.program.reaps() {
                return pid;
            }
            pid = running.process.parent;
        }
        OUTSIDE
    }

    /// Its exit is collected by a guard or a supervisor.
    pub fn is_ours(&self, pid: Pid) -> bool {
        let parent = self.get(pid).and_then(|running| self.get(running.process.parent));
        parent.is_some_and(|parent| matches!(parent.program, Program::Guard | Program::Supervisor))
    }

    fn collect_unless_ours(&mut self, pid: Pid) {
        let Some(running) = self.get(pid).filter(|running| running.status.is_some()) else { return };
        if !self.get(running.process.parent).is_some_and(|parent| parent.program.reaps()) {
            self.collect(pid);
        }
    }

    pub fn collect(&mut self, pid: Pid) {
        self.processes.remove(&pid);
    }

    /// Signals a process of an app. `deaf`: apps that ignore everything but KILL.
    pub fn signal(&mut self, pid: Pid, signal: i32, deaf: &[bool]) {
        let Some(running) = self.processes.get_mut(&pid).filter(|running| running.status.is_none()) else { return };
        let Program::App { number, .. } = running.program else { return };
        match signal {
            KILL => self.dies(pid, KILL),
            _ => running.asked |= !deaf[number],
        }
    }

    /// The entry point gets TERM.
    pub fn asks(&mut self, pid: Pid, deaf: bool) {
        self.processes.entry(pid).and_modify(|running| running.asked |= running.status.is_none() && !deaf);
    }

    /// A process ends because it was asked to.
    pub fn obeys(&mut self, pid: Pid) {
        let by_itself = self.get(pid).is_some_and(|running| running.program == Program::EntryPoint);
        self.dies(pid, if by_itself { OBEYED } else { TERM });
    }

    /// Everything alive that descends from this process.
    pub fn descendants(&self, of: Pid) -> Vec<Pid> {
        let mut found = vec![of];
        let mut at = 0;
        while let Some(parent) = found.get(at).copied() {
            found.extend(self.children(parent).map(|child| child.process.pid));
            at += 1;
        }
        found.remove(0);
        found.retain(|pid| self.get(*pid).is_some_and(|running| running.status.is_none()));
        found
    }

    pub fn table(&self) -> Table {
        Table { processes: self.all().map(|running| running.process).collect(), complete: true }
    }

    pub fn look<'a>(&'a self, apps: &'a BTreeMap<AppId, usize>) -> Details<'a> {
        Details { kernel: self, apps }
    }
}

/// Whether this process is one that an app's supervisor has started.
pub fn leads(program: Program) -> bool {
    matches!(program, Program::App { run: Some(_), .. })
}

/// The session's place, the same for all its supervisors.
pub fn place() -> Place {
    Place { state: "/state".into(), namespace: 1, folder: (1, 1) }
}

const NAMES: [&str; 2] = ["web", "helper"];

pub fn name(number: usize) -> String {
    NAMES[number].into()
}

/// The number of the app with this name.
pub fn number_of(name: &str) -> usize {
    NAMES.iter().position(|its| *its == name).unwrap_or_default()
}

/// Details of single processes.
pub struct Details<'a> {
    kernel: &'a Kernel,
    /// The number of each app that the supervisor knows.
    apps: &'a BTreeMap<AppId, usize>,
}

impl Look for Details<'_> {
    fn marks(&self, pid: Pid) -> Rc<Marks> {
        Rc::new(match self.kernel.get(pid).map(|running| running.program) {
            Some(Program::App { number, run, hidden: false, .. }) if self.kernel.marks => Marks {
                app: Some(name(number)),
                state: Some(place().state),
                place: Some(place().text()),
                leader: run.map(|_| pid),
                hook: false,
            },
            _ => Marks::default(),
        })
    }

    fn command_line(&self, _: Pid) -> Rc<str> {
        "".into()
    }

    fn names_folder(&self, _: Pid, _: &FolderFlag) -> bool {
        false
    }

    fn output(&self, pid: Pid) -> Option<AppId> {
        match self.kernel.get(pid)?.program {
            Program::App { number, silent: false, .. } => {
                self.apps.iter().find(|(_, its)| **its == number).map(|(id, _)| *id)
            }
            _ => None,
        }
    }

    fn is_kasm_void(&self, pid: Pid) -> bool {
        let ours = |program| matches!(program, Program::Guard | Program::Supervisor | Program::Init | Program::Client);
        self.kernel.get(pid).is_some_and(|running| ours(running.program))
    }

    fn is_ending(&self, _: Pid) -> bool {
        false
    }

    fn is_elsewhere(&self, _: Pid) -> bool {
        false
    }
}
