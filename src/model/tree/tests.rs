//! A simulated kernel with apps that fork, hide and die, and a supervisor that scans it now and then. For any history,
//! every live process is found to belong to its own app, and is adopted only when that is right.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::manifest::pattern::{Case, Pattern};

const SUPERVISOR: Pid = 3;
const GUARD: Pid = 2;
const APPS: u32 = 3;

fn place() -> Place {
    Place { state: "/tmp/state".into(), namespace: 7, folder: (1, 100) }
}

fn name(app: AppId) -> String {
    format!("app{}", app.0)
}

fn marks_of(app: AppId, leader: Pid, hook: bool, place: &Place) -> Marks {
    Marks {
        app: Some(name(app)),
        state: Some(place.state.clone()),
        place: Some(place.text()),
        leader: Some(leader),
        hook,
    }
}

#[derive(Debug, Clone)]
struct Sim {
    process: Process,
    marks: Marks,
    output: Option<AppId>,
    command_line: String,
    kasm_void: bool,
    elsewhere: bool,
    /// The true owner.
    truth: Option<AppId>,
    /// This supervisor cannot know the owner, though an earlier one might have.
    unknowable: bool,
}

struct World {
    processes: Vec<Sim>,
    next: Pid,
    clock: u64,
    lineage: Lineage,
    leaders: BTreeMap<AppId, Pid>,
}

impl Look for World {
    fn marks(&self, pid: Pid) -> Rc<Marks> {
        Rc::new(self.sim(pid).map(|sim| sim.marks.clone()).unwrap_or_default())
    }

    fn command_line(&self, pid: Pid) -> Rc<str> {
        self.sim(pid).map(|sim| sim.command_line.as_str()).unwrap_or_default().into()
    }

    fn names_folder(&self, _: Pid, _: &FolderFlag) -> bool {
        true
    }

    fn output(&self, pid: Pid) -> Option<AppId> {
        self.sim(pid)?.output
    }

    fn is_kasm_void(&self, pid: Pid) -> bool {
        self.sim(pid).is_some_and(|sim| sim.kasm_void)
    }

    fn is_ending(&self, _: Pid) -> bool {
        false
    }

    fn is_elsewhere(&self, pid: Pid) -> bool {
        self.sim(pid).is_some_and(|sim| sim.elsewhere)
    }
}

/// `usize` picks a process, modulo the number of processes.
#[derive(Debug, Clone)]
enum Step {
    Start(u32),
    Hook(u32),
    Fork(usize),
    NewSession(usize),
    NewGroup(usize),
    ClearEnvironment(usize),
    CloseOutput(usize),
    BecomeAnotherUser(usize),
    Exit(usize),
    ExitTogether(Vec<usize>),
    Collect(usize),
    Look,
    LookAtSome(u64),
    Restart,
    ByHand { app: u32, kasm_void: bool, elsewhere: bool, marked: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..APPS).prop_map(Step::Start),
        1 => (0..APPS).prop_map(Step::Hook),
        8 => any::<usize>().prop_map(Step::Fork),
        3 => any::<usize>().prop_map(Step::NewSession),
        2 => any::<usize>().prop_map(Step::NewGroup),
        4 => any::<usize>().prop_map(Step::ClearEnvironment),
        3 => any::<usize>().prop_map(Step::CloseOutput),
        1 => any::<usize>().prop_map(Step::BecomeAnotherUser),
        5 => any::<usize>().prop_map(Step::Exit),
        2 => prop::collection::vec(any::<usize>(), 2..5).prop_map(Step::ExitTogether),
        2 => any::<usize>().prop_map(Step::Collect),
        1 => Just(Step::Look),
        1 => any::<u64>().prop_map(Step::LookAtSome),
        1 => Just(Step::Restart),
        2 => (0..APPS, any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(app, kasm_void, elsewhere, marked)| Step::ByHand { app, kasm_void, elsewhere, marked }),
    ];
    prop::collection::vec(step, 1..120)
}

impl World {
    fn new() -> Self {
        let mut world = World {
            processes: Vec::new(),
            next: 10,
            clock: 100,
            lineage: Lineage::new(place(), vec![SUPERVISOR, GUARD]),
            leaders: BTreeMap::new(),
        };
        for (pid, parent) in [(1, 0), (GUARD, 1), (SUPERVISOR, GUARD)] {
            let process = Process { pid, parent, session: 1, group: 1, started: 1, zombie: false, signallable: true };
            world.processes.push(world.outsider(process));
        }
        world.name_apps();
        world
    }

    fn name_apps(&mut self) {
        for app in (0..APPS).map(AppId) {
            self.lineage.named(app, &name(app));
        }
    }

    fn outsider(&self, process: Process) -> Sim {
        Sim {
            process,
            marks: Marks::default(),
            output: None,
            command_line: "kasm-void run /app0 /app1 /app2".into(),
            kasm_void: true,
            elsewhere: false,
            truth: None,
            unknowable: false,
        }
    }

    fn sim(&self, pid: Pid) -> Option<&Sim> {
        self.processes.iter().find(|sim| sim.process.pid == pid)
    }

    fn sim_mut(&mut self, pid: Pid) -> &mut Sim {
        self.processes.iter_mut().find(|sim| sim.process.pid == pid).expect("a process")
    }

    /// Like the kernel, does not reuse a number that is still a pid, a session or a group. Pids wrap around quickly
    /// here, but not twice between two scans.
    fn free_pid(&mut self) -> Pid {
        loop {
            self.next += 1;
            if self.next > 12 + 2 * self.processes.len() as Pid {
                self.next = 10;
                self.look();
            }
            let taken = |sim: &Sim| {
                let process = sim.process;
                [process.pid, process.session, process.group].contains(&self.next)
            };
            if !self.processes.iter().any(taken) {
                return self.next;
            }
        }
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// A live process other than PID 1, the guard and the supervisor.
    fn pick(&self, at: usize) -> Option<Pid> {
        let alive: Vec<Pid> =
            self.processes[3..].iter().filter(|sim| !sim.process.zombie).map(|sim| sim.process.pid).collect();
        (!alive.is_empty()).then(|| alive[at % alive.len()])
    }

    fn sorted(&self) -> Trees {
        let processes = self.processes.iter().map(|sim| sim.process).collect();
        sort(Table { processes, complete: true }, &self.lineage, self)
    }

    /// A scan as the daemon does it. Every live process must be found in the right tree.
    fn look(&mut self) -> Trees {
        let trees = self.sorted();
        self.lineage.learn(&trees);
        for sim in self.processes.iter().filter(|sim| !sim.process.zombie && !sim.unknowable) {
            let owner = trees.owner(sim.process.pid);
            match sim.truth {
                Some(app) => assert!(owner.is_some_and(|owner| owner.is(app)), "{sim:?} was given to {owner:?}"),
                None => assert_eq!(owner, None, "{sim:?}"),
            }
        }
        for app in (0..APPS).map(AppId) {
            let held: Vec<Owner> =
                self.lineage.held().filter_map(|pid| self.lineage.owner(&self.sim(pid)?.process)).collect();
            assert_eq!(self.lineage.holds_any_of(app), held.iter().any(|owner| owner.is(app)), "{app:?}: {held:?}");
        }
        trees
    }

    fn spawn(&mut self, app: AppId, hook: bool) -> Pid {
        let (pid, started) = (self.free_pid(), self.tick());
        let process =
            Process { pid, parent: SUPERVISOR, session: pid, group: pid, started, zombie: false, signallable: true };
        self.processes.push(Sim {
            process,
            marks: marks_of(app, pid, hook, &place()),
            output: Some(app),
            command_line: format!("/{} --started", name(app)),
            kasm_void: false,
            elsewhere: false,
            truth: Some(app),
            unknowable: false,
        });
        self.lineage.started(pid, if hook { Owner::Hook(app) } else { Owner::App(app) });
        pid
    }

    /// Does what a supervisor does for an app that is down: adopts it, sweeps its remains, or starts it.
    fn start(&mut self, app: AppId) {
        if self.leaders.contains_key(&app) {
            return;
        }
        let mut trees = self.look();
        let matcher = Matcher {
            cmdline: Pattern::new(&format!("/{}", name(app)), Case::Sensitive).unwrap(),
            exclude: None,
            same_folder: None,
            successor: Matcher::SUCCESSOR,
        };
        let wanted = Wanted { app, name: &name(app), matcher: Some(&matcher), by_marks: false };
        if let Some(found) = trees.leader(wanted, &self.lineage, self).copied() {
            let sim = self.sim(found.pid).unwrap();
            assert!(!sim.kasm_void && !sim.elsewhere && !sim.marks.hook, "adopted {sim:?}");
            assert!(sim.truth.is_none_or(|truth| truth == app), "adopted another app's {sim:?}");
            self.lineage.watched(&found, Owner::App(app), true);
            trees.adopted(app, found.pid);
            self.leaders.insert(app, found.pid);
            self.inherit_truth(found.pid, app);
            self.look();
            return;
        }
        let members: Vec<Process> = trees.members(app).copied().collect();
        if members.is_empty() {
            self.lineage.emptied(app);
            let pid = self.spawn(app, false);
            self.leaders.insert(app, pid);
        }
        for process in members.into_iter().filter(|process| process.signallable) {
            self.exit(process.pid);
        }
    }

    /// The adopted process belongs to the app from now on, with its descendants and the members of its session.
    fn inherit_truth(&mut self, pid: Pid, app: AppId) {
        self.sim_mut(pid).truth = Some(app);
        let bound = |process: Process| [process.parent, process.session, process.group].contains(&pid);
        let others = self.processes.iter().filter(|sim| sim.truth != Some(app) && bound(sim.process));
        let others: Vec<Pid> = others.map(|sim| sim.process.pid).collect();
        others.into_iter().for_each(|pid| self.inherit_truth(pid, app));
    }

    /// The process ends. Its children go to the nearest reaper; zombies that come to us are collected at once.
    fn exit(&mut self, pid: Pid) {
        let Some(dying) = self.sim(pid).filter(|sim| !sim.process.zombie).cloned() else { return };
        let reaper = self.reaper(dying.process.parent);
        for sim in self.processes.iter_mut().filter(|sim| sim.process.parent == pid) {
            sim.process.parent = reaper;
        }
        self.sim_mut(pid).process.zombie = true;
        if [1, GUARD, SUPERVISOR].contains(&dying.process.parent) {
            self.collect(pid);
        }
        // Zombies that were reparented to us are collected too.
        let left: Vec<Pid> =
            self.processes.iter().filter(|sim| sim.process.zombie).map(|sim| sim.process.pid).collect();
        for pid in left {
            if self.sim(pid).is_some_and(|sim| [1, GUARD, SUPERVISOR].contains(&sim.process.parent)) {
                self.collect(pid);
            }
        }
    }

    /// The nearest ancestor that adopts orphans.
    fn reaper(&self, from: Pid) -> Pid {
        match self.sim(from) {
            Some(sim) if ![1, GUARD, SUPERVISOR].contains(&from) => self.reaper(sim.process.parent),
            _ => from,
        }
    }

    fn collect(&mut self, pid: Pid) {
        self.processes.retain(|sim| sim.process.pid != pid);
        self.lineage.ended(pid);
        self.leaders.retain(|_, leader| *leader != pid);
    }

    /// Only descent ties a child of this process to its app, and no scan has seen the child yet. Its app can only be
    /// known after the parent's exit if there was a scan before; `status` does one.
    fn would_lose_track(&self, pid: Pid) -> bool {
        let held = self.lineage.held().any(|held| held == pid);
        let left_to_init = self.reaper(pid) == 1;
        (!held || left_to_init)
            && self.processes.iter().any(|sim| {
                sim.process.parent == pid && sim.marks.app.is_none() && self.lineage.owner(&sim.process).is_none()
            })
    }

    fn exit_together(&mut self, pids: &[Pid]) {
        if pids.iter().any(|pid| self.would_lose_track(*pid)) {
            self.look();
        }
        // Processes in the middle of a tree die first, as happens when a whole session is killed.
        let mut pids = pids.to_vec();
        pids.sort_by_key(|pid| self.lineage.held().any(|held| held == *pid));
        pids.iter().for_each(|pid| self.exit(*pid));
        self.look();
    }

    /// The supervisor dies, and the next one knows only the leaders.
    fn restart(&mut self) {
        for sim in self.processes.iter_mut().filter(|sim| sim.process.parent == SUPERVISOR) {
            sim.process.parent = GUARD;
        }
        self.lineage = Lineage::new(place(), vec![SUPERVISOR, GUARD]);
        self.name_apps();
        for (app, pid) in self.leaders.clone() {
            let process = self.sim(pid).expect("a leader that lives").process;
            self.lineage.watched(&process, Owner::App(app), true);
        }
        let trees = self.sorted();
        let strays: Vec<Pid> = trees.strays().iter().map(|process| process.pid).collect();
        let lives = |sim: &&Sim| !sim.process.zombie && sim.truth.is_some();
        let lost: Vec<Pid> = self.processes.iter().filter(lives).map(|sim| sim.process.pid).collect();
        for pid in lost.into_iter().filter(|pid| trees.owner(*pid).is_none()) {
            // A process that was started by hand and adopted is reparented to init, not to us.
            assert!(strays.contains(&pid) || self.reaper(pid) == 1, "neither an app's nor listed: {:?}", self.sim(pid));
            self.sim_mut(pid).unknowable = true;
        }
        self.look();
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Start(app) => self.start(AppId(app)),
            Step::Hook(app) => drop(self.spawn(AppId(app), true)),
            Step::Fork(at) => {
                let Some(parent) = self.pick(at) else { return };
                let (pid, started) = (self.free_pid(), self.tick());
                let mut child = self.sim(parent).unwrap().clone();
                child.process = Process { pid, parent, started, ..child.process };
                self.processes.push(child);
            }
            Step::Exit(at) => {
                if let Some(pid) = self.pick(at) {
                    self.exit_together(&[pid]);
                }
            }
            Step::ExitTogether(all) => {
                let pids: Vec<Pid> = all.into_iter().filter_map(|at| self.pick(at)).collect();
                self.exit_together(&pids);
            }
            Step::Collect(at) => {
                let zombies: Vec<Pid> =
                    self.processes.iter().filter(|sim| sim.process.zombie).map(|sim| sim.process.pid).collect();
                if !zombies.is_empty() {
                    self.collect(zombies[at % zombies.len()]);
                }
            }
            Step::Look => drop(self.look()),
            Step::LookAtSome(which) => {
                let seen = |sim: &&Sim| sim.process.pid < 4 || which >> (sim.process.pid % 64) & 1 == 1;
                let processes = self.processes.iter().filter(seen).map(|sim| sim.process).collect();
                let trees = sort(Table { processes, complete: false }, &self.lineage, self);
                self.lineage.learn(&trees);
            }
            Step::Restart => self.restart(),
            Step::ByHand { app, kasm_void, elsewhere, marked } => {
                let (pid, started) = (self.free_pid(), self.tick());
                let process =
                    Process { pid, parent: 1, session: pid, group: pid, started, zombie: false, signallable: true };
                let other = Place { namespace: 8, folder: (2, 5), ..place() };
                let marks = if marked { marks_of(AppId(app), pid, false, &other) } else { Marks::default() };
                self.processes.push(Sim {
                    marks,
                    command_line: format!("/{}", name(AppId(app))),
                    kasm_void,
                    elsewhere: elsewhere || marked,
                    ..self.outsider(process)
                });
            }
            step => self.change(step),
        }
    }

    fn change(&mut self, step: Step) {
        let (Step::NewSession(at)
        | Step::NewGroup(at)
        | Step::ClearEnvironment(at)
        | Step::CloseOutput(at)
        | Step::BecomeAnotherUser(at)) = step
        else {
            return;
        };
        let Some(pid) = self.pick(at) else { return };
        let in_own_group = self.processes.iter().any(|sim| sim.process.group == pid);
        let sim = self.sim_mut(pid);
        match step {
            Step::NewSession(_) if !in_own_group => (sim.process.session, sim.process.group) = (pid, pid),
            Step::NewGroup(_) if sim.process.session != pid => sim.process.group = pid,
            Step::ClearEnvironment(_) => sim.marks = Marks::default(),
            Step::CloseOutput(_) => sim.output = None,
            Step::BecomeAnotherUser(_) => {
                (sim.process.signallable, sim.marks, sim.output) = (false, Marks::default(), None);
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// An app never has two live trees, and a tree is never wrongly reported as empty. Both follow from finding every
    /// process in the right tree at every scan.
    #[test]
    fn every_process_is_found_to_be_its_own_apps(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        world.look();
    }
}

#[test]
fn a_recycled_pid_is_nobodys() {
    let mut world = World::new();
    world.take(Step::Start(0));
    let leader = world.leaders[&AppId(0)];
    let known = world.sim(leader).unwrap().process;
    let again = Process { started: known.started + 50, parent: 1, session: 1, group: 1, ..known };
    let mut lineage = Lineage::new(place(), vec![SUPERVISOR, GUARD]);
    lineage.led(AppId(0), known.pid, known.started);
    let stranger = Process { pid: 99, session: known.pid, group: known.pid, ..again };
    for (process, owner) in [(known, Some(Owner::App(AppId(0)))), (again, None)] {
        let process = Process { session: known.pid, group: known.pid, ..process };
        let table = Table { processes: vec![process, stranger], complete: true };
        let trees = sort(table, &lineage, &World::new());
        assert_eq!(trees.owner(known.pid), owner.as_ref(), "{process:?}");
        assert_eq!(trees.owner(99), owner.as_ref(), "in its session: {process:?}");
    }
}

#[test]
fn an_app_listens_if_a_process_of_its_tree_does_or_may() {
    let (us, theirs, third) = (1000, 33, 34);
    let mut world = World::new();
    let (app, other) = (AppId(0), AppId(1));
    let (leader, others) = (world.spawn(app, false), world.spawn(other, false));
    let trees = world.look();
    let listens = |pids: &[Pid], hidden: &[u32], member: Option<u32>| {
        let at = Listeners { pids: pids.to_vec(), hidden: hidden.to_vec() };
        trees.listens(app, &at, us, |pid| member.filter(|_| pid == leader))
    };
    assert!(listens(&[others, leader], &[], None), "it shares the socket");
    assert!(!listens(&[others], &[], Some(us)) && !listens(&[], &[], Some(us)));
    // What nobody may look into.
    assert!(listens(&[], &[theirs], Some(theirs)), "a process of the app may have made it");
    assert!(listens(&[], &[us], Some(theirs)), "made before the process changed its user");
    assert!(!listens(&[], &[theirs], None), "every process of the app was looked into");
    assert!(!listens(&[], &[theirs], Some(third)) && !listens(&[], &[theirs], Some(us)));
}

#[test]
fn what_a_process_forked_before_it_ended_may_be_missing_until_it_is_collected() {
    let (app, other) = (AppId(0), AppId(1));
    let mut world = World::new();
    let leader = world.spawn(app, false);
    let leader = world.sim(leader).unwrap().process;
    let mut lineage = Lineage::new(place(), vec![SUPERVISOR, GUARD]);
    lineage.led(app, leader.pid, leader.started);
    let helper = Process { pid: 98, parent: SUPERVISOR, ..leader };
    let shown = |last: Process| {
        let table = Table { processes: vec![leader, last], complete: true };
        let trees = sort(table, &lineage, &World::new());
        [app, other].map(|app| trees.shows_all_of(app))
    };
    let of_nobody = Process { session: 98, group: 98, ..helper };
    assert_eq!(shown(helper), [true, true]);
    assert_eq!(shown(Process { zombie: true, ..helper }), [false, true], "of the app");
    assert_eq!(shown(Process { zombie: true, ..of_nobody }), [false, false], "of any app");
    for parent in [1, GUARD] {
        assert_eq!(shown(Process { zombie: true, parent, ..of_nobody }), [true, true], "not ours to collect");
    }
}
