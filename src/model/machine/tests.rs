//! The machine explored: every state it can reach, every event in it; and what must hold under any story.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::model::manifest::backoff::{Backoff, GiveUp};
use crate::model::manifest::hook::{Hook, OnFailure, Step};
use crate::model::manifest::matches::Matcher;
use crate::model::manifest::pattern::{Case, Pattern};
use crate::model::manifest::probe::{Health, Ready, Target};
use crate::model::manifest::restart::{OnClose, Restart};

type Driven = statig::blocking::InitializedStateMachine<Machine>;

/// An app that uses everything: pattern, hooks, both probes, a memory limit.
fn full() -> App {
    let secs = Duration::from_secs;
    let mut app = bare();
    let probe = Target::Path { path: "/ready".into() };
    app.matcher = Some(Matcher {
        cmdline: Pattern::new("^/usr/bin/web", Case::Sensitive).unwrap(),
        exclude: None,
        same_folder: None,
    });
    let step = Step::MakeDir { path: "/tmp/web".into() };
    app.hooks.prelaunch = vec![Hook { step, timeout: secs(30), on_failure: OnFailure::Fail }];
    app.hooks.postlaunch = app.hooks.prelaunch.clone();
    app.ready = Some(Ready { probe: probe.clone(), within: secs(30) });
    app.health = Some(Health { probe, every: secs(10), timeout: secs(5), failures: 1, grace: Duration::ZERO });
    app.max_rss = Some(100 << 20);
    app.policy.backoff =
        Backoff { jitter: 0.0, give_up: GiveUp::After { times: 3, within: secs(60) }, ..Backoff::default() };
    app
}

/// The smallest app there is.
fn bare() -> App {
    App::new("web", &["/usr/bin/web"])
}

fn driven(app: App) -> Driven {
    let mut effects = Vec::new();
    let mut cx = Cx { now: Duration::ZERO, chance: 0.0, blocked: false, effects: &mut effects };
    Machine::new(Arc::new(app)).uninitialized_state_machine().init_with_context(&mut cx)
}

fn tell(machine: &mut Driven, now: Duration, event: &Event) -> Vec<Effect> {
    let mut effects = Vec::new();
    machine.handle_with_context(event, &mut Cx { now, chance: 0.0, blocked: false, effects: &mut effects });
    effects
}

/// Every kind of event, told to a machine in its run `run`.
fn events(run: u64, app: &Arc<App>) -> Vec<(&'static str, Event)> {
    let why = || "it said no".to_string();
    let timers = [
        ("Fired(Retry)", Timer::Retry),
        ("Fired(ReadyPoll)", Timer::ReadyPoll),
        ("Fired(ReadyWithin)", Timer::ReadyWithin),
        ("Fired(Health)", Timer::Health),
        ("Fired(Memory)", Timer::Memory),
        ("Fired(Grace)", Timer::Grace),
        ("Fired(LookAgain)", Timer::LookAgain),
    ];
    let mut all = vec![
        ("StartAsked", Event::StartAsked),
        ("StopAsked", Event::StopAsked(Why::Held)),
        ("RestartAsked", Event::RestartAsked),
        ("ActionAsked", Event::ActionAsked("reload".into())),
        ("Changed(live)", Event::Changed(app.clone(), Change::Live(vec!["backoff"]))),
        ("Changed(next start)", Event::Changed(app.clone(), Change::NextStart(vec!["prelaunch"]))),
        ("Changed(restart)", Event::Changed(app.clone(), Change::Restart(vec!["args"]))),
        ("Resumed(up)", Event::Resumed(Box::new(kept_up(app)))),
        ("Unblocked", Event::Unblocked),
        ("HooksDone", Event::HooksDone { run }),
        ("HookFailed", Event::HookFailed { run, why: why() }),
        ("Found", Event::Found { run, pid: 77 }),
        ("NotFound", Event::NotFound { run }),
        ("Remains", Event::Remains { run }),
        ("Spawned", Event::Spawned { run, pid: 78 }),
        ("SpawnFailed", Event::SpawnFailed { run, why: why() }),
        ("ProbePassed", Event::ProbePassed { run }),
        ("ProbeFailed", Event::ProbeFailed { run, why: why() }),
        ("Exited(clean)", Event::Exited { run, exit: Exit::Clean, peak: None }),
        ("Exited(signal)", Event::Exited { run, exit: Exit::Signal(9), peak: None }),
        ("TreeEmpty", Event::TreeEmpty { run }),
        ("Measured(little)", Event::Measured { run, bytes: 1 }),
        ("Measured(much)", Event::Measured { run, bytes: 1 << 40 }),
    ];
    all.extend(timers.map(|(name, timer)| (name, Event::Fired { run, timer })));
    all
}

/// What a supervisor kept in mind of this app, which was running.
fn kept_up(app: &Arc<App>) -> Kept {
    let mut machine = Machine::new(app.clone());
    machine.run = 7;
    machine.kept(&State::running(Some(70), false, Duration::from_secs(1), 0))
}

/// A state as the table tells it apart: what it says of data that does not decide is left out.
fn row(state: &State) -> String {
    match state {
        State::Starting { phase, .. } => {
            let phase = match phase {
                Phase::Probing { .. } => "Probing".to_string(),
                Phase::Resuming(_) => "Resuming".to_string(),
                other => format!("{other:?}"),
            };
            format!("Starting: {phase}")
        }
        State::Stopping { then, .. } => {
            let then = match then {
                Then::Stopped(_) => "Stopped",
                Then::Start { .. } => "Starting",
                Then::Crashed { .. } => "Crashed",
            };
            format!("Stopping: then {then}")
        }
        other => other.name().to_string(),
    }
}

fn effect_name(effect: &Effect) -> Option<String> {
    let name = match effect {
        Effect::Report(Report::Crashed { .. }) => "Report(Crashed)".into(),
        Effect::Report(_) => return None,
        Effect::Arm { timer, .. } => format!("Arm({timer:?})"),
        Effect::Disarm(_) => return None,
        other => {
            let text = format!("{other:?}");
            text.split([' ', '{', '(']).next().unwrap_or_default().to_string()
        }
    };
    Some(name)
}

/// After its first failure, of which it may have this many.
fn failed_of(times: u32) -> Driven {
    let mut app = full();
    app.policy.backoff.give_up = GiveUp::After { times, within: Duration::from_secs(60) };
    let mut machine = driven(app);
    let why = || "no".to_string();
    let end = [
        Event::StartAsked,
        Event::NotFound { run: 1 },
        Event::HookFailed { run: 1, why: why() },
        Event::TreeEmpty { run: 1 },
    ];
    for event in &end {
        tell(&mut machine, Duration::ZERO, event);
    }
    machine
}

/// Breadth first over everything the machine can be told, from the beginning.
fn explore() -> BTreeMap<String, BTreeMap<&'static str, (String, Vec<String>)>> {
    let spec = Arc::new(full());
    let (mut table, mut queue) = (BTreeMap::new(), vec![driven(full())]);
    let mut waiting = driven(full());
    let mut cx = Cx { now: Duration::ZERO, chance: 0.0, blocked: true, effects: &mut Vec::new() };
    waiting.handle_with_context(&Event::StartAsked, &mut cx);
    queue.push(waiting);
    queue.extend([failed_of(1), failed_of(2)]);
    while let Some(machine) = queue.pop() {
        let from = row(machine.state());
        if table.contains_key(&from) {
            continue;
        }
        let mut cells = BTreeMap::new();
        for (name, event) in events(machine.inner().run, &spec) {
            let mut next = machine.clone();
            let effects = tell(&mut next, Duration::from_secs(60), &event);
            cells.insert(name, (row(next.state()), effects.iter().filter_map(effect_name).collect()));
            queue.insert(0, next);
        }
        table.insert(from, cells);
    }
    table
}

fn document() -> String {
    let table = explore();
    let mut text = String::from(include_str!("preface.md"));
    for (from, cells) in &table {
        let _ = writeln!(text, "\n### {from}\n\n| event | next | effects |\n|---|---|---|");
        for (event, (to, effects)) in cells {
            if to == from && effects.is_empty() {
                continue;
            }
            let to = if to == from { "(stays)" } else { to };
            let _ = writeln!(text, "| {event} | {to} | {} |", effects.join(", "));
        }
        let ignored: Vec<&str> = cells
            .iter()
            .filter(|(_, (to, effects))| to == from && effects.is_empty())
            .map(|(event, _)| *event)
            .collect();
        let _ = writeln!(text, "\nWithout effect: {}.", ignored.join(", "));
    }
    text
}

#[test]
fn the_table_in_the_docs_is_the_machine() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/machine.md");
    let document = document();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(file, &document).unwrap();
    }
    let written = std::fs::read_to_string(file).unwrap_or_default();
    assert!(written == document, "docs/machine.md is not what the machine does: BLESS=1 cargo test writes it anew");
}

#[test]
fn every_state_can_be_reached_and_stopped() {
    let table = explore();
    for name in ["Stopped", "Running", "Crashed", "Backoff", "GaveUp"] {
        assert!(table.contains_key(name), "{name} was never reached");
    }
    for (from, cells) in &table {
        let (to, _) = &cells["StopAsked"];
        // While it is being looked for, the stop is kept in mind.
        let known = ["Stopped", "Stopping: then Stopped", "Starting: Resuming"].contains(&to.as_str());
        assert!(known && (to != "Starting: Resuming" || to == from), "stop in {from} leads to {to}");
    }
}

/// The world as the machine sees it: performs effects at once or later, as the story goes.
struct World {
    machine: Driven,
    now: Duration,
    alive: Option<Pid>,
    spawns: usize,
    armed: BTreeSet<Timer>,
    /// Answers the daemon owes: a look-up, hooks, a probe, a sweep.
    owed: Vec<Event>,
    hooks: bool,
}

impl World {
    fn new(app: App) -> Self {
        World {
            machine: driven(app),
            now: Duration::ZERO,
            alive: None,
            spawns: 0,
            armed: BTreeSet::new(),
            owed: Vec::new(),
            hooks: false,
        }
    }

    fn tell(&mut self, event: Event) {
        for effect in tell(&mut self.machine, self.now, &event) {
            self.perform(effect);
        }
        self.check();
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::LookUp { run, .. } => self.owed.push(Event::NotFound { run }),
            Effect::RunHooks { run, .. } => {
                self.hooks = true;
                self.owed.push(Event::HooksDone { run });
            }
            Effect::CancelHooks => self.hooks = false,
            Effect::Spawn { run, .. } => {
                assert_eq!(self.alive, None, "a second tree was spawned");
                self.spawns += 1;
                let pid = 100 + self.spawns as Pid;
                self.alive = Some(pid);
                self.owed.push(Event::Spawned { run, pid });
            }
            Effect::Probe { run, .. } => self.owed.push(Event::ProbePassed { run }),
            Effect::Measure { run, .. } => self.owed.push(Event::Measured { run, bytes: 1 }),
            Effect::Sweep { run } => {
                if self.alive.take().is_some() {
                    self.owed.push(Event::Exited { run, exit: Exit::Signal(9), peak: None });
                }
                self.owed.push(Event::TreeEmpty { run });
            }
            Effect::StopRest { run } => self.owed.push(Event::TreeEmpty { run }),
            Effect::Arm { timer, .. } => {
                self.armed.insert(timer);
            }
            Effect::Disarm(timer) => {
                self.armed.remove(&timer);
            }
            Effect::RunPostlaunch { .. }
            | Effect::CancelProbe
            | Effect::Signal { .. }
            | Effect::EndSession { .. }
            | Effect::Report(_) => {}
        }
    }

    /// What must hold between any two events.
    fn check(&self) {
        match self.machine.state() {
            State::Backoff { .. } => assert!(self.armed.contains(&Timer::Retry), "a retry without a timer"),
            State::Stopping { pid: Some(_), .. } => {
                assert!(self.armed.contains(&Timer::Grace) || !self.owed.is_empty(), "a stop that may never end");
            }
            State::Starting { phase: Phase::Probing { .. }, .. } => assert!(self.armed.contains(&Timer::ReadyWithin)),
            State::Stopped { .. } | State::GaveUp { .. } => assert_eq!(self.alive, None, "alive, and nobody minds"),
            _ => {}
        }
    }

    fn step(&mut self, choice: u8) {
        let run = self.machine.inner().run;
        self.now += Duration::from_millis(u64::from(choice) * 40);
        match choice % 12 {
            0 => self.tell(Event::StartAsked),
            1 => self.tell(Event::StopAsked(Why::Held)),
            2 => self.tell(Event::RestartAsked),
            3 => self.tell(Event::ActionAsked("reload".into())),
            4 => {
                let app = self.machine.inner().app.clone();
                self.tell(Event::Changed(app, Change::Restart(vec!["args"])));
            }
            5 if self.alive.take().is_some() => {
                // A probe or spawn that is still owed is answered before the end is noticed.
                self.settle_spawn();
                self.tell(Event::Exited { run, exit: Exit::Signal(11), peak: None });
            }
            6 | 7 => {
                if let Some(timer) = self.armed.pop_first() {
                    if timer == Timer::Grace || timer == Timer::Retry || timer == Timer::ReadyWithin {
                        self.owed.retain(|event| !matches!(event, Event::ProbePassed { .. }));
                    }
                    self.tell(Event::Fired { run, timer });
                }
            }
            _ if !self.owed.is_empty() => {
                let event = self.owed.remove(0);
                self.tell(event);
            }
            _ => {}
        }
    }

    /// Spawning is one act of the daemon: its answer comes before anything else.
    fn settle_spawn(&mut self) {
        while let Some(at) = self.owed.iter().position(|event| matches!(event, Event::Spawned { .. })) {
            let event = self.owed.remove(at);
            self.tell(event);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn never_two_trees_and_never_stuck(story in proptest::collection::vec(any::<u8>(), 0..200), everything: bool) {
        let mut world = World::new(if everything { full() } else { bare() });
        for choice in story {
            world.settle_spawn();
            world.step(choice);
            world.settle_spawn();
        }
        stop_ends(&mut world);
    }

    #[test]
    fn anything_told_in_any_order_is_survived(story in proptest::collection::vec((0usize..30, 0u64..3), 0..100)) {
        let spec = Arc::new(full());
        let mut machine = driven(full());
        for (which, late) in story {
            let run = machine.inner().run.saturating_sub(late);
            let (_, event) = events(run, &spec).swap_remove(which);
            tell(&mut machine, Duration::from_secs(1), &event);
        }
    }
}

/// Whatever came before, a stop ends in `Stopped` when the daemon answers what it owes.
fn stop_ends(world: &mut World) {
    world.tell(Event::StopAsked(Why::Held));
    for _ in 0..20 {
        world.settle_spawn();
        if world.owed.is_empty() && world.alive.is_some() {
            let run = world.machine.inner().run;
            world.tell(Event::Fired { run, timer: Timer::Grace });
        }
        if let Some(event) = (!world.owed.is_empty()).then(|| world.owed.remove(0)) {
            world.tell(event);
        }
    }
    assert!(matches!(world.machine.state(), State::Stopped { why: Why::Held }), "{:?}", world.machine.state());
}

/// The app is told these events, one after the other; its state after each.
fn story(app: App, events: &[(u64, Event)]) -> Vec<String> {
    let mut machine = driven(app);
    events
        .iter()
        .map(|(seconds, event)| {
            tell(&mut machine, Duration::from_secs(*seconds), event);
            row(machine.state())
        })
        .collect()
}

fn exited(run: u64, exit: Exit) -> Event {
    Event::Exited { run, exit, peak: None }
}

#[test]
fn a_stable_app_that_dies_is_started_again_in_the_same_breath() {
    let mut machine = driven(bare());
    tell(&mut machine, Duration::ZERO, &Event::StartAsked);
    tell(&mut machine, Duration::ZERO, &Event::NotFound { run: 1 });
    tell(&mut machine, Duration::ZERO, &Event::Spawned { run: 1, pid: 7 });
    tell(&mut machine, Duration::from_secs(60), &exited(1, Exit::Signal(9)));
    let effects = tell(&mut machine, Duration::from_secs(60), &Event::TreeEmpty { run: 1 });
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Spawn { run: 2, .. })), "{effects:?}");
    assert_eq!(machine.inner().restarts, 1);
}

#[test]
fn a_launcher_that_forked_away_is_followed_not_restarted() {
    let mut app = full();
    app.ready = None;
    app.hooks.prelaunch.clear();
    let states = story(
        app,
        &[
            (0, Event::StartAsked),
            (0, Event::NotFound { run: 1 }),
            (0, Event::Spawned { run: 1, pid: 7 }),
            (1, exited(1, Exit::Clean)),
            (1, Event::Found { run: 1, pid: 8 }),
        ],
    );
    assert_eq!(states[1..], ["Starting: Spawning", "Running", "Crashed", "Running"]);
}

/// A supervisor that keeps this in mind of the app dies; the next one is told these events.
fn succession(posture: Posture, events: &[Event]) -> (Driven, Vec<Effect>) {
    let app = Arc::new(bare());
    let mut machine = driven(bare());
    let mut kept = kept_up(&app);
    (kept.posture, kept.restarts) = (posture, 4);
    let resumed = Event::Resumed(Box::new(kept));
    let now = Duration::from_secs(60);
    let effects = std::iter::once(&resumed).chain(events).flat_map(|event| tell(&mut machine, now, event)).collect();
    (machine, effects)
}

#[test]
fn an_app_that_outlived_its_supervisor_goes_on_as_if_nothing_had_been() {
    let since = Some(Duration::from_secs(1));
    let (machine, effects) = succession(Posture::Up { pid: Some(70), since }, &[Event::Found { run: 7, pid: 70 }]);
    assert_eq!(*machine.state(), State::running(Some(70), true, Duration::from_secs(1), 0));
    assert_eq!((machine.inner().run, machine.inner().restarts), (7, 4));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Spawn { .. } | Effect::Sweep { .. })), "{effects:?}");
}

#[test]
fn an_app_that_died_unwatched_is_restarted_by_its_policy() {
    let since = Some(Duration::from_secs(1));
    let exit = Exit::Code(3);
    let ended = [Event::Exited { run: 7, exit: exit.clone(), peak: None }, Event::TreeEmpty { run: 7 }];
    let (machine, _) = succession(Posture::Up { pid: Some(70), since }, &ended);
    assert_eq!((row(machine.state()).as_str(), machine.inner().restarts), ("Starting: Spawning", 5));
    assert_eq!(machine.inner().last_exit, Some(exit));
}

#[test]
fn holds_waits_and_stops_go_on_under_the_next_supervisor() {
    let until = Duration::from_secs(63);
    let (machine, effects) = succession(Posture::Backoff { attempt: 2, until }, &[]);
    assert_eq!(*machine.state(), State::backoff(2, until));
    let retry = Effect::Arm { run: 7, timer: Timer::Retry, after: Duration::from_secs(3) };
    assert!(effects.contains(&retry), "{effects:?}");

    let (machine, _) = succession(Posture::Stopped(Why::Held), &[]);
    assert_eq!(*machine.state(), State::stopped(Why::Held));

    let stopping = Posture::Stopping { pid: Some(70), then: Then::Stopped(Why::Held) };
    let found = [Event::Found { run: 7, pid: 70 }, exited(7, Exit::Signal(15)), Event::TreeEmpty { run: 7 }];
    let (machine, _) = succession(stopping, &found);
    assert_eq!(*machine.state(), State::stopped(Why::Held));

    let (machine, _) = succession(Posture::Starting { action: Some("reload".into()) }, &[Event::NotFound { run: 7 }]);
    assert!(matches!(machine.state(), State::Starting { action: Some(_), .. }), "{:?}", machine.state());
    assert_eq!(machine.inner().run, 7);
}

#[test]
fn an_app_whose_program_was_changed_unwatched_is_started_anew() {
    let mut machine = driven(App::new("web", &["/usr/bin/web", "--new"]));
    let old = kept_up(&Arc::new(bare()));
    tell(&mut machine, Duration::ZERO, &Event::Resumed(Box::new(old)));
    tell(&mut machine, Duration::ZERO, &Event::Found { run: 7, pid: 70 });
    assert_eq!(row(machine.state()), "Stopping: then Starting");
}

#[test]
fn what_is_kept_reads_the_same_after_it_was_written() {
    let app = Arc::new(full());
    let states = [
        State::gave_up(Exit::NotReady("no".into())),
        State::backoff(3, Duration::from_millis(70)),
        State::stopping(Some(3), Then::Start { action: Some("reload".into()) }),
        State::crashed(Some(3), Exit::Code(1), Some(Duration::from_nanos(1)), Some(4096), 2),
        State::starting(Some(3), Phase::Probing { adopted: true, said: "no".into() }, None),
    ];
    for state in states {
        let kept = Machine::new(app.clone()).kept(&state);
        let text = serde_json::to_string(&kept).unwrap();
        assert_eq!(serde_json::from_str::<Kept>(&text).unwrap(), kept, "{text}");
    }
}

#[test]
fn an_exit_of_an_earlier_run_hits_nobody() {
    let states = story(
        bare(),
        &[
            (0, Event::StartAsked),
            (0, Event::NotFound { run: 1 }),
            (0, Event::Spawned { run: 1, pid: 7 }),
            (5, exited(1, Exit::Code(1))),
            (5, Event::TreeEmpty { run: 1 }),
            (5, Event::Spawned { run: 2, pid: 8 }),
            (6, exited(1, Exit::Code(1))),
        ],
    );
    assert_eq!(states.last().unwrap(), "Running");
}

#[test]
fn a_closed_window_comes_back_or_stays_as_the_manifest_says() {
    for (on_close, last) in [(OnClose::Restart, "Starting: Spawning"), (OnClose::Hold, "Stopped")] {
        let mut app = bare();
        app.policy.on_close = on_close;
        assert_eq!(app.policy.restart, Restart::Always);
        let states = story(
            app,
            &[
                (0, Event::StartAsked),
                (0, Event::NotFound { run: 1 }),
                (0, Event::Spawned { run: 1, pid: 7 }),
                (60, exited(1, Exit::Clean)),
                (60, Event::TreeEmpty { run: 1 }),
            ],
        );
        assert_eq!(states.last().unwrap(), last);
    }
}
