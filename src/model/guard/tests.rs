//! Tests the guard's promises with generated supervisors. Each one is started, signalled and killed at any moment, and
//! behaves in one of the ways seen in practice.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::ending::HURRY;
use super::*;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// How a supervisor behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Behaviour {
    /// Takes over after the first time, and drains within the second.
    Good { ready: u64, drain: u64 },
    /// Exits with this status before it is ready.
    Refuses { after: u64, status: i32 },
    /// Reads nothing, sends nothing and ignores signals.
    Frozen,
    /// Takes over, then hangs.
    FreezesLater { ready: u64 },
    /// Takes over, then dies as soon as it is asked to drain.
    DiesWhileDraining { ready: u64 },
    /// Reports that it is finished but does not exit.
    NeverLeaves { ready: u64, drain: u64 },
    /// The binary does not exist.
    NotThere,
}

fn behaviour() -> impl Strategy<Value = Behaviour> {
    let good = || (0..300_u64, 0..3000_u64);
    prop_oneof![
        4 => good().prop_map(|(ready, drain)| Behaviour::Good { ready, drain }),
        2 => (0..50_u64, prop_oneof![Just(0), Just(1 << 8), Just(101 << 8), Just(9), Just(11)])
            .prop_map(|(after, status)| Behaviour::Refuses { after, status }),
        1 => Just(Behaviour::Frozen),
        1 => (0..300_u64).prop_map(|ready| Behaviour::FreezesLater { ready }),
        1 => (0..300_u64).prop_map(|ready| Behaviour::DiesWhileDraining { ready }),
        1 => good().prop_map(|(ready, drain)| Behaviour::NeverLeaves { ready, drain }),
        1 => Just(Behaviour::NotThere),
    ]
}

/// Something that happens to a session.
#[derive(Debug, Clone, Copy)]
enum Act {
    Signal(i32),
    KillSupervisor,
    FreezeSupervisor,
    /// The supervisor was asked to upgrade to another binary.
    Upgrade,
    /// A client, not the guard, asked the supervisor to drain.
    Drain,
    /// A child of the guard exits.
    Child,
    /// The supervisor hands over a pipe.
    Pipe(u8),
}

fn act() -> impl Strategy<Value = (u64, Act)> {
    let act = prop_oneof![
        3 => prop_oneof![Just(HUP), Just(INT), Just(QUIT), Just(TERM), Just(10), Just(12)].prop_map(Act::Signal),
        3 => Just(Act::KillSupervisor),
        1 => Just(Act::FreezeSupervisor),
        2 => Just(Act::Upgrade),
        1 => Just(Act::Drain),
        3 => Just(Act::Child),
        2 => (0..4_u8).prop_map(Act::Pipe),
    ];
    (0..1500_u64, act)
}

/// One simulated supervisor.
#[derive(Debug, Clone)]
struct Running {
    behaviour: Behaviour,
    frozen: bool,
    /// The messages it has received.
    heard: Vec<ToSupervisor>,
    began: Duration,
    ready: bool,
    /// When its drain is done.
    drained: Option<Duration>,
    upgrading: bool,
    finished: bool,
}

/// The simulated world of the guard: carries out its effects and checks the invariants.
struct World {
    now: Duration,
    guard: Guard,
    behaviours: Vec<Behaviour>,
    started: usize,
    /// The binary of each start.
    /// What each supervisor was started from, by number.
    binaries: Vec<Option<u32>>,
    held: BTreeSet<u32>,
    supervisor: Option<Running>,
    /// The guard's descendants other than the supervisor, and whether they obey TERM.
    rest: Vec<bool>,
    /// Exits that were not yet reported to a supervisor that took over.
    missed: Vec<i32>,
    pipes: BTreeMap<String, ()>,
    told_to_end: Option<Duration>,
    finished: Option<u8>,
    /// A supervisor has taken over.
    begun: bool,
    forgotten: bool,
    exit: Option<u8>,
    next_pid: i32,
}

impl World {
    fn new(behaviours: Vec<Behaviour>, rest: Vec<bool>) -> World {
        let mut world = World {
            now: Duration::ZERO,
            guard: Guard::default(),
            behaviours,
            started: 0,
            binaries: Vec::new(),
            held: BTreeSet::new(),
            supervisor: None,
            rest,
            missed: Vec::new(),
            pipes: BTreeMap::new(),
            told_to_end: None,
            finished: None,
            begun: false,
            forgotten: false,
            exit: None,
            next_pid: 100,
        };
        world.tell(GuardInput::Began);
        world
    }

    fn tell(&mut self, input: GuardInput) {
        if self.exit.is_some() {
            return;
        }
        let effects = self.guard.handle(self.now, input);
        self.deliver();
        for effect in effects {
            self.perform(effect);
        }
        self.held.retain(|number| self.guard.needs(*number));
    }

    fn deliver(&mut self) {
        while let Some(running) = self.supervisor.as_mut().filter(|running| !running.frozen)
            && let Some(message) = self.guard.unsent()
        {
            running.heard.push(message);
            self.guard.sent();
        }
    }

    fn perform(&mut self, effect: GuardEffect) {
        assert_eq!(self.exit, None, "{effect:?} after the end");
        match effect {
            GuardEffect::Start(binary) => self.start(binary),
            GuardEffect::Forward(signal) => {
                let running = self.supervisor.as_mut().expect("a supervisor to signal");
                assert!(running.ready, "a supervisor that is not ready would die of {signal}");
                if signal != HUP && !running.frozen {
                    self.ask_to_drain();
                }
            }
            GuardEffect::KillSupervisor => self.supervisor_ends(9),
            GuardEffect::TerminateAll => self.rest.retain(|obeys| !obeys),
            GuardEffect::KillAll => {
                self.rest.clear();
                if self.supervisor.is_some() {
                    self.supervisor_ends(9);
                }
            }
            GuardEffect::Collect(_) | GuardEffect::KeepLock | GuardEffect::Warn(_) => {}
            GuardEffect::Hold(app) => drop(self.pipes.insert(app, ())),
            GuardEffect::HoldBinary(number) => assert!(self.held.insert(number), "two binaries of one number"),
            GuardEffect::Release(app) => drop(self.pipes.remove(&app)),
            GuardEffect::Forget => self.forgotten = true,
            GuardEffect::Exit(code) => {
                assert_eq!(
                    self.forgotten, self.begun,
                    "the next session would inherit from this one, or lose another's"
                );
                assert!(self.supervisor.is_none(), "exited beside a supervisor");
                assert!(self.rest.is_empty(), "exited beside {} processes", self.rest.len());
                self.exit = Some(code);
            }
        }
    }

    fn start(&mut self, binary: Option<Binary>) {
        let binary = binary.map(|binary| binary.number);
        assert!(binary.is_none_or(|number| self.held.contains(&number)), "its descriptor is gone");
        assert!(self.supervisor.is_none(), "two supervisors");
        assert_eq!(self.finished, None, "started again after the session was over");
        let behaviour = self.behaviours[self.started % self.behaviours.len()];
        self.started += 1;
        self.binaries.push(binary);
        if behaviour == Behaviour::NotThere {
            return self.tell(GuardInput::NotStarted("no such file".into()));
        }
        self.supervisor = Some(Running {
            behaviour,
            frozen: behaviour == Behaviour::Frozen,
            heard: Vec::new(),
            began: self.now,
            ready: false,
            drained: None,
            upgrading: false,
            finished: false,
        });
        self.tell(GuardInput::Started);
    }

    fn ask_to_drain(&mut self) {
        let now = self.now;
        let Some(running) = self.supervisor.as_mut().filter(|running| running.ready) else { return };
        if running.drained.is_some() || running.frozen {
            return;
        }
        let drain = match running.behaviour {
            Behaviour::Good { drain, .. } | Behaviour::NeverLeaves { drain, .. } => drain,
            _ => 0,
        };
        running.drained = Some(now + ms(drain));
        let dies = matches!(running.behaviour, Behaviour::DiesWhileDraining { .. });
        self.told_to_end.get_or_insert(now);
        self.tell(GuardInput::Heard(ToGuard::Draining(0)));
        if dies {
            self.supervisor_ends(101 << 8);
        }
    }

    fn supervisor_ends(&mut self, status: i32) {
        let Some(running) = self.supervisor.take() else { return };
        if running.finished {
            self.finished = Some(0);
        }
        self.tell(GuardInput::LineClosed);
        self.tell(GuardInput::SupervisorExited(status));
    }

    /// Lets the supervisor act on its own.
    fn step_supervisor(&mut self) {
        let now = self.now;
        let Some(running) = self.supervisor.as_mut().filter(|running| !running.frozen) else { return };
        let age = now.saturating_sub(running.began);
        match running.behaviour {
            Behaviour::Refuses { after, status } if age >= ms(after) => return self.supervisor_ends(status),
            Behaviour::Good { ready, .. }
            | Behaviour::FreezesLater { ready }
            | Behaviour::DiesWhileDraining { ready }
            | Behaviour::NeverLeaves { ready, .. }
                if !running.ready && age >= ms(ready) && running.heard.contains(&ToSupervisor::Go) =>
            {
                self.supervisor_takes_over();
            }
            _ => {}
        }
        let Some(running) = &mut self.supervisor else { return };
        if running.upgrading {
            return self.supervisor_ends(0);
        }
        if running.drained.is_some_and(|drained| drained <= now) && !running.finished {
            running.finished = true;
            let leaves = matches!(running.behaviour, Behaviour::Good { .. });
            self.rest.clear();
            self.tell(GuardInput::Heard(ToGuard::Finished(0)));
            if leaves {
                self.supervisor_ends(0);
            }
        }
    }

    fn supervisor_takes_over(&mut self) {
        let running = self.supervisor.as_mut().expect("just looked");
        running.ready = true;
        self.begun = true;
        let heard = std::mem::take(&mut running.heard);
        assert!(matches!(&heard[0], ToSupervisor::Hello(_)), "{heard:?}");
        let pipes: Vec<String> = heard
            .iter()
            .filter_map(|message| if let ToSupervisor::Pipe(app) = message { Some(app.clone()) } else { None })
            .collect();
        assert_eq!(pipes, self.pipes.keys().cloned().collect::<Vec<_>>(), "every pipe is passed, once");
        let told =
            |pid: &i32| heard.iter().any(|message| matches!(message, ToSupervisor::Exited(exit) if exit.pid == *pid));
        assert!(self.missed.iter().all(told), "{:?} are not all in {heard:?}", self.missed);
        self.missed.clear();
        let told = matches!(&heard[0], ToSupervisor::Hello(Hello { draining: Some(_), .. }));
        let draining = told || heard.contains(&ToSupervisor::End);
        let freezes = matches!(running.behaviour, Behaviour::FreezesLater { .. });
        self.tell(GuardInput::Heard(ToGuard::StopBudget(ms(4000))));
        self.tell(GuardInput::Heard(ToGuard::Ready));
        if let Some(running) = &mut self.supervisor {
            running.frozen = freezes;
        }
        if draining {
            self.ask_to_drain();
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Signal(signal) => {
                if matches!(signal, INT | QUIT | TERM) {
                    self.told_to_end.get_or_insert(self.now);
                }
                self.tell(GuardInput::Signalled(signal));
            }
            Act::KillSupervisor => self.supervisor_ends(9),
            Act::FreezeSupervisor => self.supervisor.iter_mut().for_each(|running| running.frozen = true),
            Act::Upgrade => {
                if let Some(running) =
                    self.supervisor.as_mut().filter(|it| it.ready && !it.frozen && it.drained.is_none())
                {
                    running.upgrading = true;
                    self.tell(GuardInput::Heard(ToGuard::Upgrade("/new".into())));
                }
            }
            Act::Drain => self.ask_to_drain(),
            Act::Child => {
                self.next_pid += 1;
                self.missed.push(self.next_pid);
                self.tell(GuardInput::ChildExited(ChildExit { pid: self.next_pid, started: 1, status: 0, peak: 0 }));
            }
            Act::Pipe(number) => {
                if self.supervisor.as_ref().is_some_and(|running| running.ready && !running.frozen) {
                    self.tell(GuardInput::Heard(ToGuard::Hold(format!("app{number}"))));
                }
            }
        }
    }

    /// Advances time in small steps, never beyond the moment that the guard asked for.
    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end && self.exit.is_none() {
            let step = self.now + ms(10);
            self.now =
                self.guard.next_moment().map_or(step, |due| due.clamp(self.now, step)).max(self.now + ms(1)).min(end);
            self.step_supervisor();
            self.tell(GuardInput::TimePassed);
            if self.supervisor.is_none() && self.rest.is_empty() {
                self.tell(GuardInput::NoChildren);
            }
            if let Some(told) = self.told_to_end {
                // The longer of the two budgets that a supervisor may report.
                let bound = told + ms(20_000) + ms(1_000) + ms(20);
                assert!(
                    self.exit.is_some() || self.now <= bound,
                    "told to end at {told:?}, still there at {:?}: {:?}",
                    self.now,
                    self.guard
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// There are never two supervisors, nothing is lost between them, and nothing starts after the end (the world
    /// checks all this). A session that is asked to end ends in time, whatever its supervisors do.
    #[test]
    fn a_session_that_is_told_to_end_ends(
        behaviours in prop::collection::vec(behaviour(), 1..6),
        rest in prop::collection::vec(any::<bool>(), 0..4),
        acts in prop::collection::vec(act(), 0..12),
    ) {
        let mut world = World::new(behaviours, rest);
        for (wait, act) in acts {
            world.pass(ms(wait));
            world.act(act);
        }
        if world.exit.is_none() {
            world.act(Act::Signal(TERM));
            world.pass(ms(25_000));
        }
        prop_assert!(world.exit.is_some());
    }

    /// The guard ends only on a request, after a supervisor has finished, or if the session could not begin.
    #[test]
    fn nothing_else_ends_the_guard(
        behaviours in prop::collection::vec(behaviour(), 0..6),
        acts in prop::collection::vec(act(), 0..12),
    ) {
        let first = vec![Behaviour::Good { ready: 0, drain: 0 }];
        let mut world = World::new(first.into_iter().chain(behaviours).collect(), vec![true]);
        world.pass(ms(20));
        for (wait, act) in acts {
            if matches!(act, Act::Signal(INT | QUIT | TERM) | Act::Drain) {
                continue;
            }
            world.pass(ms(wait));
            world.act(act);
        }
        world.pass(ms(30_000));
        prop_assert_eq!(world.exit, None);
    }

    /// After a second request the session ends soon, however often the supervisor is killed.
    #[test]
    fn a_second_request_makes_the_end_short(behaviours in prop::collection::vec(behaviour(), 1..4), wait in 0..2000_u64) {
        let mut world = World::new(behaviours, vec![false]);
        world.pass(ms(wait));
        world.act(Act::Signal(TERM));
        world.act(Act::Signal(INT));
        world.pass(HURRY + ms(500));
        prop_assert!(world.exit.is_some(), "{:?}", world.guard);
    }
}

#[test]
fn a_stop_after_a_death_starts_nothing_again() {
    let mut world = World::new(vec![Behaviour::Good { ready: 10, drain: 200 }], vec![true]);
    world.pass(ms(50));
    world.act(Act::KillSupervisor);
    world.pass(ms(50));
    world.act(Act::Signal(TERM));
    world.pass(ms(400));
    assert_eq!((world.exit, world.started), (Some(0), 2));
}

#[test]
fn a_supervisor_killed_while_it_drains_is_replaced_by_one_that_drains_on() {
    let mut world = World::new(vec![Behaviour::Good { ready: 10, drain: 200 }], vec![true]);
    world.pass(ms(50));
    world.act(Act::Signal(TERM));
    world.pass(ms(100));
    world.act(Act::KillSupervisor);
    world.pass(ms(20));
    assert!(world.supervisor.as_ref().is_some_and(|running| running.drained.is_some()));
    world.pass(ms(400));
    assert_eq!((world.exit, world.started), (Some(0), 2));
}

#[test]
fn an_upgrade_that_fails_goes_back_to_the_old_binary() {
    for failure in [Behaviour::Refuses { after: 0, status: 70 << 8 }, Behaviour::Frozen, Behaviour::NotThere] {
        let good = Behaviour::Good { ready: 10, drain: 10 };
        let mut world = World::new(vec![good, failure, good], Vec::new());
        world.pass(ms(50));
        world.act(Act::Upgrade);
        world.pass(TAKE_OVER + ms(100));
        assert_eq!((world.binaries, world.held), (vec![None, Some(1), None], BTreeSet::new()), "{failure:?}");
        assert!(world.supervisor.is_some_and(|running| running.ready), "{failure:?}");
    }
}

#[test]
fn a_binary_that_was_upgraded_to_and_is_gone_gives_way_to_the_guards_own() {
    let good = Behaviour::Good { ready: 10, drain: 10 };
    let mut world = World::new(vec![good, good, Behaviour::NotThere, good], Vec::new());
    world.pass(ms(50));
    world.act(Act::Upgrade);
    world.pass(ms(50));
    world.act(Act::KillSupervisor);
    world.pass(ms(50));
    assert_eq!(world.binaries, [None, Some(1), Some(1), None]);
}

/// A person writes the next version over the file of the last one.
#[test]
fn an_upgrade_that_fails_goes_back_to_the_file_that_was_there_before_under_the_same_path() {
    let (good, fails) = (Behaviour::Good { ready: 10, drain: 10 }, Behaviour::Refuses { after: 0, status: 1 << 8 });
    let mut world = World::new(vec![good, good, fails, good], Vec::new());
    for _ in 0..2 {
        world.pass(ms(50));
        world.act(Act::Upgrade);
    }
    world.pass(ms(200));
    assert_eq!((world.binaries, world.held), (vec![None, Some(1), Some(2), Some(1)], BTreeSet::from([1])));
}

#[test]
fn a_supervisor_that_is_not_ready_is_told_of_the_end_by_a_message_and_not_by_a_signal() {
    let mut world = World::new(vec![Behaviour::Good { ready: 100, drain: 50 }], vec![true]);
    world.pass(ms(10));
    world.act(Act::Signal(TERM)); // a signal before it is ready would fail the test
    let heard = world.supervisor.as_ref().map(|running| running.heard.clone()).unwrap_or_default();
    assert_eq!(heard.last(), Some(&ToSupervisor::End));
    world.pass(ms(400));
    assert_eq!((world.exit, world.started), (Some(0), 1));
}

#[test]
fn a_session_that_cannot_begin_ends_with_the_supervisors_code() {
    let mut world = World::new(vec![Behaviour::Refuses { after: 5, status: 2 << 8 }], vec![false]);
    world.pass(ms(300));
    assert_eq!((world.exit, world.started), (Some(2), 1));
}

#[test]
fn early_deaths_are_waited_for_longer_and_longer() {
    let refuses = Behaviour::Refuses { after: 0, status: 1 << 8 };
    let mut world =
        World::new(vec![Behaviour::Good { ready: 0, drain: 0 }, refuses, refuses, refuses, refuses], Vec::new());
    world.pass(ms(1500));
    world.act(Act::KillSupervisor);
    let mut starts = Vec::new();
    while world.started < 5 {
        let before = world.started;
        world.pass(ms(10));
        if world.started > before {
            starts.push(world.now);
        }
    }
    let gaps: Vec<Duration> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // The first two starts come at once.
    assert!(gaps.len() == 2 && gaps[0] >= FIRST_WAIT && gaps[1] >= 2 * FIRST_WAIT, "{gaps:?}");
}

#[test]
fn a_budget_of_for_ever_does_not_overflow() {
    let mut guard = Guard::default();
    guard.handle(ms(0), GuardInput::Began);
    guard.handle(ms(1), GuardInput::Heard(ToGuard::StopBudget(Duration::MAX)));
    guard.handle(ms(2), GuardInput::Heard(ToGuard::Ready));
    assert_eq!(guard.handle(ms(3), GuardInput::Signalled(TERM)), [GuardEffect::Forward(TERM)]);
    assert_eq!(guard.next_moment(), Some(Duration::MAX));
}

#[test]
fn children_that_end_after_the_session_are_collected() {
    let mut guard = Guard::default();
    guard.handle(Duration::ZERO, GuardInput::Began);
    let ended = guard.handle(Duration::ZERO, GuardInput::SupervisorExited(3 << 8));
    let late = |pid| GuardInput::ChildExited(ChildExit { pid, started: 1, status: 0, peak: 0 });
    let over = Duration::from_secs(60);
    let told = [ended, guard.handle(over, late(7))].concat();
    assert!(told.iter().any(|effect| matches!(effect, GuardEffect::Exit(3))), "{told:?}");
    assert_eq!(guard.handle(over, late(8)), [GuardEffect::Collect(8)]);
}
