//! Explores the machine: every reachable state with every event, and the invariants that hold for any history.

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

/// An app that uses every feature: pattern, hooks, both probes, a memory limit.
fn full() -> App {
    let secs = Duration::from_secs;
    let mut app = bare();
    let probe = Target::Path { path: "/ready".into() };
    app.matcher = Some(Matcher {
        cmdline: Pattern::new("^/usr/bin/web", Case::Sensitive).unwrap(),
        exclude: None,
        same_folder: None,
        successor: Duration::from_secs(1),
    });
    let step = Step::MakeDir { path: "/tmp/web".into() };
    app.hooks.prelaunch = vec![Hook { step, timeout: secs(30), on_failure: OnFailure::Fail }];
    app.hooks.postlaunch = app.hooks.prelaunch.clone();
    app.hooks.prestop = app.hooks.prelaunch.clone();
    app.hooks.poststop = app.hooks.prelaunch.clone();
    app.ready = Some(Ready { probe: probe.clone(), within: secs(30) });
    app.health = Some(Health { probe, every: secs(10), timeout: secs(5), failures: 1, grace: Duration::ZERO });
    app.max_rss = Some(100 << 20);
    app.policy.on_close = OnClose::Hold;
    app.policy.backoff =
        Backoff { jitter: 0.0, give_up: GiveUp::After { times: 3, within: secs(60) }, ..Backoff::default() };
    app
}

/// A person has closed the window.
const CLOSED: Traces = Traces { display: true, idle: Some(Duration::from_secs(1)), lock: false };

/// The smallest possible app.
fn bare() -> App {
    App::new("web", &["/usr/bin/web"])
}

fn driven(app: App) -> AppMachine {
    AppMachine::new(Arc::new(app))
}

fn tell(machine: &mut AppMachine, now: Duration, event: &AppEvent) -> Vec<AppEffect> {
    let mut effects = Vec::new();
    machine.handle(
        event,
        &mut Context { now, chance: 0.0, blocked: false, followed: false, hurried: false, effects: &mut effects },
    );
    effects
}

/// Every kind of event, for a machine in run `run`.
fn events(run: u64, app: &Arc<App>) -> Vec<(&'static str, AppEvent)> {
    let why = || "it said no".to_string();
    let timers = [
        ("Fired(Retry)", Timer::Retry),
        ("Fired(ReadyPoll)", Timer::ReadyPoll),
        ("Fired(ReadyWithin)", Timer::ReadyWithin),
        ("Fired(Health)", Timer::Health),
        ("Fired(Memory)", Timer::Memory),
        ("Fired(Grace)", Timer::Grace),
        ("Fired(LookAgain)", Timer::LookAgain),
        ("Fired(Insist)", Timer::Insist),
        ("Fired(Helpers)", Timer::Helpers),
    ];
    let mut all = vec![
        ("StartAsked", AppEvent::StartAsked),
        ("StopAsked", AppEvent::StopAsked(StopReason::Held)),
        ("RestartAsked", AppEvent::RestartAsked),
        ("ActionAsked", AppEvent::ActionAsked("reload".into())),
        ("SignalAsked", AppEvent::SignalAsked(1)),
        ("DependencyEnded", AppEvent::DependencyEnded),
        ("DependencyLost", AppEvent::DependencyLost),
        ("FollowersEnded", AppEvent::FollowersEnded),
        ("TracesFound(a person)", AppEvent::TracesFound { run, traces: CLOSED }),
        ("TracesFound(no display)", AppEvent::TracesFound { run, traces: Traces { display: false, ..CLOSED } }),
        ("Changed(live)", AppEvent::Changed(app.clone(), Change::Live(vec!["backoff"]))),
        ("Changed(next start)", AppEvent::Changed(app.clone(), Change::NextStart(vec!["prelaunch"]))),
        ("Changed(restart)", AppEvent::Changed(app.clone(), Change::Restart(vec!["args"]))),
        ("Resumed(up)", AppEvent::Resumed(Box::new(kept_up(app)))),
        ("Unblocked", AppEvent::Unblocked),
        ("HooksDone", AppEvent::HooksDone { run }),
        ("HookFailed", AppEvent::HookFailed { run, why: why() }),
        ("Found", AppEvent::Found { run, pid: 77 }),
        ("NotFound", AppEvent::NotFound { run }),
        ("Remains", AppEvent::Remains { run }),
        ("EndedBefore", AppEvent::EndedBefore { run, exit: Exit::Signal(9), peak: None }),
        ("Spawned", AppEvent::Spawned { run, pid: 78 }),
        ("SpawnFailed", AppEvent::SpawnFailed { run, why: why() }),
        ("ProbePassed", AppEvent::ProbePassed { run }),
        ("ProbeFailed", AppEvent::ProbeFailed { run, why: why() }),
        ("Exited(clean)", AppEvent::Exited { run, exit: Exit::Clean, peak: None }),
        ("Exited(signal)", AppEvent::Exited { run, exit: Exit::Signal(9), peak: None }),
        ("TreeEmpty", AppEvent::TreeEmpty { run }),
        ("Measured(little)", AppEvent::Measured { run, bytes: 1 }),
        ("Measured(much)", AppEvent::Measured { run, bytes: 1 << 40 }),
    ];
    all.extend(timers.map(|(name, timer)| (name, AppEvent::Fired { run, timer })));
    all
}

/// The saved state of this app, which was running.
fn kept_up(app: &Arc<App>) -> SavedApp {
    let mut machine = Machine::new(app.clone());
    machine.run = 7;
    machine.saved(&State::running(70, false, Duration::from_secs(1), 0))
}

/// A state as the table shows it, without data that does not influence transitions.
fn row(state: &State) -> String {
    let text = format!("{state:?}");
    let leaf = text.split([' ', '{']).next().unwrap_or_default();
    match state {
        State::Stopping { then, .. } => format!("Stopping: then {}", follows(then)),
        State::StoppingFollowers { then, .. } | State::Prestop { then, .. } => {
            format!("Stopping: {leaf}, then {}", follows(then))
        }
        State::Poststop { then } if !matches!(then, Then::Crashed(_)) => {
            format!("Stopping: {leaf}, then {}", follows(then))
        }
        State::Succeeding { end, .. } | State::Sweeping { end } if end.exit == Exit::Clean => {
            format!("Crashed: {leaf} after exit code 0")
        }
        other if other.name().to_string() == leaf => leaf.into(),
        other => format!("{}: {leaf}", other.name()),
    }
}

fn follows(then: &Then) -> &'static str {
    match then {
        Then::Stopped(_) => "Stopped",
        Then::Start { .. } => "Starting",
        Then::Crashed(_) => "Crashed",
    }
}

fn effect_name(effect: &AppEffect) -> Option<String> {
    let name = match effect {
        AppEffect::Report(Report::Crashed { .. }) => "Report(Crashed)".into(),
        AppEffect::Report(_) => return None,
        AppEffect::Arm { timer, .. } => format!("Arm({timer:?})"),
        AppEffect::Disarm(_) => return None,
        other => {
            let text = format!("{other:?}");
            text.split([' ', '{', '(']).next().unwrap_or_default().to_string()
        }
    };
    Some(name)
}

/// After the first failure of an app that may fail this often.
fn failed_of(times: u32) -> AppMachine {
    let mut app = full();
    app.policy.backoff.give_up = GiveUp::After { times, within: Duration::from_secs(60) };
    let mut machine = driven(app);
    let why = || "no".to_string();
    let end = [
        AppEvent::StartAsked,
        AppEvent::NotFound { run: 1 },
        AppEvent::HookFailed { run: 1, why: why() },
        AppEvent::TreeEmpty { run: 1 },
    ];
    for event in &end {
        tell(&mut machine, Duration::ZERO, event);
    }
    machine
}

/// Walks all states breadth first from the initial one, with every event.
fn explore() -> BTreeMap<String, BTreeMap<&'static str, (String, Vec<String>)>> {
    let spec = Arc::new(full());
    let (mut table, mut queue) = (BTreeMap::new(), vec![(driven(full()), 0)]);
    let mut waiting = driven(full());
    let mut cx = Context {
        now: Duration::ZERO,
        chance: 0.0,
        blocked: true,
        followed: true,
        hurried: false,
        effects: &mut Vec::new(),
    };
    for event in [AppEvent::StartAsked, AppEvent::NotFound { run: 1 }] {
        waiting.handle(&event, &mut cx);
    }
    queue.push((waiting, 0));
    let mut followed = driven(full());
    for event in [AppEvent::StartAsked, AppEvent::Found { run: 1, pid: 9 }] {
        tell(&mut followed, Duration::ZERO, &event);
    }
    for request in [AppEvent::StopAsked(StopReason::Held), AppEvent::RestartAsked] {
        let mut followed = followed.clone();
        followed.handle(&request, &mut cx);
        queue.push((followed, 0));
    }
    queue.extend([(failed_of(1), 0), (failed_of(2), 0)]);
    while let Some((machine, steps)) = queue.pop() {
        let from = row(machine.state());
        if table.contains_key(&from) {
            continue;
        }
        let mut cells = BTreeMap::new();
        for (name, event) in events(machine.run, &spec) {
            let mut next = machine.clone();
            // A minute lies between two events.
            let effects = tell(&mut next, Duration::from_secs(60) * (steps + 1), &event);
            cells.insert(name, (row(next.state()), effects.iter().filter_map(effect_name).collect()));
            queue.insert(0, (next, steps + 1));
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
    assert!(written == document, "docs/machine.md is out of date: run `BLESS=1 cargo test the_table_in_the_docs`");
}

#[test]
fn every_state_can_be_reached_and_stopped() {
    let table = explore();
    for name in
        ["Stopped", "Running", "Crashed: Sweeping", "Crashed: Judging", "Backoff", "GaveUp", "Starting: Waiting"]
            .into_iter()
            .chain(["Stopping: StoppingFollowers, then Stopped", "Stopping: StoppingFollowers, then Starting"])
            .chain(["Stopping: Prestop, then Stopped", "Stopping: Poststop, then Starting", "Crashed: Poststop"])
    {
        assert!(table.contains_key(name), "{name} was never reached");
    }
    for (from, cells) in &table {
        let (to, _) = &cells["StopAsked"];
        // The stop is remembered during a look-up and while the program is being started.
        let waits = ["Starting: Resuming", "Starting: Looking", "Starting: LookingAgain", "Starting: Spawning"];
        let known = match waits.contains(&from.as_str()) {
            true => to == "Starting: Resuming",
            false => to == "Stopped" || to.starts_with("Stopping: ") && to.ends_with("then Stopped"),
        };
        assert!(known, "stop in {from} leads to {to}");
    }
}

/// A simulated world for the machine. The daemon's own actions are answered at once, before anything else happens.
/// Hooks, probes and processes answer when the test says so.
struct World {
    machine: AppMachine,
    now: Duration,
    /// A live process of the app, and whether the machine knows about it.
    leader: Option<(Pid, bool)>,
    /// Whether another process of the tree is alive. Only KILL ends it.
    helpers: Option<bool>,
    next_pid: Pid,
    armed: BTreeSet<Timer>,
    /// Answers to the daemon's latest actions.
    at_once: Vec<AppEvent>,
    /// Answers that arrive later.
    owed: Vec<AppEvent>,
}

impl World {
    fn new(app: App) -> Self {
        World {
            machine: driven(app),
            now: Duration::ZERO,
            leader: None,
            helpers: None,
            next_pid: 100,
            armed: BTreeSet::new(),
            at_once: Vec::new(),
            owed: Vec::new(),
        }
    }

    fn tell(&mut self, event: AppEvent) {
        self.at_once.push(event);
        while !self.at_once.is_empty() {
            let event = self.at_once.remove(0);
            for effect in tell(&mut self.machine, self.now, &event) {
                self.perform(effect);
            }
        }
        self.check();
    }

    fn perform(&mut self, effect: AppEffect) {
        match effect {
            AppEffect::LookUp { run, .. } => self.at_once.push(match (&mut self.leader, self.helpers) {
                (Some((pid, known)), _) => {
                    *known = true;
                    AppEvent::Found { run, pid: *pid }
                }
                (None, Some(_)) => AppEvent::Remains { run },
                (None, None) => AppEvent::NotFound { run },
            }),
            AppEffect::Spawn { run, .. } => {
                assert!(self.leader.is_none_or(|(_, known)| !known), "a second leader was spawned");
                assert_eq!(self.helpers, None, "spawned beside what is left of an earlier run");
                self.next_pid += 1;
                self.leader = Some((self.next_pid, true));
                self.at_once.push(AppEvent::Spawned { run, pid: self.next_pid });
            }
            AppEffect::Sweep { run } => {
                if self.leader.take_if(|(_, known)| *known).is_some() {
                    self.at_once.push(AppEvent::Exited { run, exit: Exit::Signal(9), peak: None });
                }
                self.helpers = None;
                self.at_once.push(AppEvent::TreeEmpty { run });
            }
            AppEffect::StopRest { run } => {
                self.helpers.take_if(|stubborn| !*stubborn);
                if self.helpers.is_none() {
                    self.at_once.push(AppEvent::TreeEmpty { run });
                }
            }
            AppEffect::RunHooks { run, .. }
            | AppEffect::RunPrestop { run, .. }
            | AppEffect::RunPoststop { run, .. } => self.owed.push(AppEvent::HooksDone { run }),
            AppEffect::Probe { run, .. } => self.owed.push(AppEvent::ProbePassed { run }),
            AppEffect::FindTraces { run, .. } => self.owed.push(AppEvent::TracesFound { run, traces: CLOSED }),
            AppEffect::Measure { run, .. } => self.owed.push(AppEvent::Measured { run, bytes: 1 }),
            AppEffect::Arm { timer, .. } => drop(self.armed.insert(timer)),
            AppEffect::Disarm(timer) => drop(self.armed.remove(&timer)),
            AppEffect::CancelHooks => self.owed.retain(|event| !matches!(event, AppEvent::HooksDone { .. })),
            AppEffect::CancelProbe => {
                let probe =
                    |event: &AppEvent| matches!(event, AppEvent::ProbePassed { .. } | AppEvent::TracesFound { .. });
                self.owed.retain(|event| !probe(event));
            }
            AppEffect::RunPostlaunch { .. }
            | AppEffect::Signal { .. }
            | AppEffect::CloseBrowser { .. }
            | AppEffect::EndSession { .. }
            | AppEffect::Report(_) => {}
        }
    }

    /// What must hold between any two events.
    fn check(&self) {
        let armed = |timer| self.armed.contains(&timer);
        match self.machine.state() {
            State::Backoff { .. } => assert!(armed(Timer::Retry), "a retry without a timer"),
            State::Stopping { .. } => assert!(armed(Timer::Grace), "a stop that may never end"),
            State::Probing { .. } => assert!(armed(Timer::ReadyWithin), "a start that may never end"),
            State::Sweeping { .. } | State::Clearing { .. } => {
                assert!(armed(Timer::Helpers), "helpers that may stay for ever");
            }
            State::Succeeding { .. } => assert!(armed(Timer::LookAgain), "a successor that is never looked for"),
            State::Stopped { .. } | State::GaveUp { .. } => {
                assert!(self.leader.is_none_or(|(_, known)| !known), "alive, and nobody minds");
                assert_eq!(self.helpers, None, "something of it is alive, and nobody minds");
            }
            _ => {}
        }
        assert_eq!(armed(Timer::Retry), matches!(self.machine.state(), State::Backoff { .. }), "a stray retry");
    }

    fn exits(&mut self, exit: Exit) {
        if self.leader.take_if(|(_, known)| *known).is_some() {
            self.tell(AppEvent::Exited { run: self.machine.run, exit, peak: None });
        }
    }

    fn fire(&mut self, timer: Timer) {
        if self.armed.remove(&timer) {
            self.tell(AppEvent::Fired { run: self.machine.run, timer });
        }
    }

    fn step(&mut self, choice: u8) {
        self.now += Duration::from_millis(u64::from(choice) * 40);
        match choice % 16 {
            0 => self.tell(AppEvent::StartAsked),
            1 => self.tell(AppEvent::StopAsked(StopReason::Held)),
            2 => self.tell(AppEvent::RestartAsked),
            3 => self.tell(AppEvent::ActionAsked("reload".into())),
            4 => {
                let app = self.machine.app.clone();
                self.tell(AppEvent::Changed(app, Change::Restart(vec!["args"])));
            }
            5 => self.exits(Exit::Signal(11)),
            6 => self.exits(Exit::Clean),
            7 if self.leader.is_some_and(|(_, known)| known) => self.helpers = Some(choice > 127),
            8 => self.tell(AppEvent::DependencyEnded),
            // A person starts it from an icon.
            9 if self.leader.is_none() && self.machine.app.matcher.is_some() => {
                self.next_pid += 1;
                self.leader = Some((self.next_pid, false));
            }
            10 | 11 => {
                if let Some(timer) = self.armed.first().copied() {
                    self.fire(timer);
                }
            }
            _ if !self.owed.is_empty() => {
                let event = self.owed.remove(0);
                self.tell(event);
            }
            _ => {}
        }
    }

    fn finish_hooks(&mut self) {
        if let Some(at) = self.owed.iter().position(|event| matches!(event, AppEvent::HooksDone { .. })) {
            let event = self.owed.remove(at);
            self.tell(event);
        }
    }

    /// After any history, a stop ends in `Stopped` within its grace.
    fn stop(&mut self) {
        self.tell(AppEvent::StopAsked(StopReason::Held));
        self.finish_hooks();
        self.fire(Timer::Grace);
        self.finish_hooks();
        let state = self.machine.state();
        assert!(matches!(state, State::Stopped { why: StopReason::Held, .. }), "{state:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn never_two_trees_and_never_stuck(story in proptest::collection::vec(any::<u8>(), 0..200), everything: bool) {
        let mut world = World::new(if everything { full() } else { bare() });
        story.into_iter().for_each(|choice| world.step(choice));
        world.stop();
    }

    #[test]
    fn anything_told_in_any_order_is_survived(story in proptest::collection::vec((any::<prop::sample::Index>(), 0u64..3), 0..100)) {
        let spec = Arc::new(full());
        let mut machine = driven(full());
        for (which, late) in story {
            let run = machine.run.saturating_sub(late);
            let mut all = events(run, &spec);
            let (_, event) = all.swap_remove(which.index(all.len()));
            let (before, current) = (machine.state().clone(), machine.run);
            let effects = tell(&mut machine, Duration::from_secs(1), &event);
            if late > 0 && event.run().is_some_and(|told| told != current) {
                prop_assert!(effects.is_empty() && *machine.state() == before, "{:?} of an earlier run", event);
            }
        }
    }
}

/// Sends these events in order, and returns the state after each.
fn story(app: App, events: &[(u64, AppEvent)]) -> Vec<String> {
    let mut machine = driven(app);
    events
        .iter()
        .map(|(seconds, event)| {
            tell(&mut machine, Duration::from_secs(*seconds), event);
            row(machine.state())
        })
        .collect()
}

fn exited(run: u64, exit: Exit) -> AppEvent {
    AppEvent::Exited { run, exit, peak: None }
}

#[test]
fn a_stable_app_that_dies_is_started_again_in_the_same_breath() {
    let mut machine = driven(bare());
    tell(&mut machine, Duration::ZERO, &AppEvent::StartAsked);
    tell(&mut machine, Duration::ZERO, &AppEvent::NotFound { run: 1 });
    tell(&mut machine, Duration::ZERO, &AppEvent::Spawned { run: 1, pid: 7 });
    tell(&mut machine, Duration::from_secs(60), &exited(1, Exit::Signal(9)));
    let effects = tell(&mut machine, Duration::from_secs(60), &AppEvent::TreeEmpty { run: 1 });
    assert!(effects.iter().any(|effect| matches!(effect, AppEffect::Spawn { run: 2, .. })), "{effects:?}");
    assert_eq!(machine.restarts, 1);
}

#[test]
fn a_launcher_that_forked_away_is_followed_not_restarted() {
    let mut app = full();
    app.ready = None;
    app.hooks.prelaunch.clear();
    let states = story(
        app,
        &[
            (0, AppEvent::StartAsked),
            (0, AppEvent::NotFound { run: 1 }),
            (0, AppEvent::Spawned { run: 1, pid: 7 }),
            (1, exited(1, Exit::Clean)),
            (1, AppEvent::Found { run: 1, pid: 8 }),
        ],
    );
    assert_eq!(states[1..], ["Starting: Spawning", "Running", "Crashed: Succeeding after exit code 0", "Running"]);
}

/// The supervisor dies with this saved state, and the next one receives these events.
fn succession(state: SavedState, events: &[AppEvent]) -> (AppMachine, Vec<AppEffect>) {
    let app = Arc::new(bare());
    let mut machine = driven(bare());
    let mut kept = kept_up(&app);
    (kept.state, kept.restarts) = (state, 4);
    let resumed = AppEvent::Resumed(Box::new(kept));
    let now = Duration::from_secs(60);
    let effects = std::iter::once(&resumed).chain(events).flat_map(|event| tell(&mut machine, now, event)).collect();
    (machine, effects)
}

#[test]
fn an_app_that_outlived_its_supervisor_goes_on_as_if_nothing_had_been() {
    let since = Some(Duration::from_secs(1));
    let (machine, effects) = succession(SavedState::Up { pid: 70, since }, &[AppEvent::Found { run: 7, pid: 70 }]);
    assert_eq!(*machine.state(), State::running(70, true, Duration::from_secs(1), 0));
    assert_eq!((machine.run, machine.restarts), (7, 4));
    assert!(
        !effects.iter().any(|effect| matches!(effect, AppEffect::Spawn { .. } | AppEffect::Sweep { .. })),
        "{effects:?}"
    );
}

#[test]
fn an_app_that_died_unwatched_is_restarted_by_its_policy() {
    let since = Some(Duration::from_secs(1));
    let exit = Exit::Code(3);
    let ended = [AppEvent::Exited { run: 7, exit: exit.clone(), peak: None }, AppEvent::TreeEmpty { run: 7 }];
    let (machine, _) = succession(SavedState::Up { pid: 70, since }, &ended);
    assert_eq!((row(machine.state()).as_str(), machine.restarts), ("Starting: Spawning", 5));
    assert_eq!(machine.last_exit, Some(exit));
}

#[test]
fn how_a_run_ended_is_known_though_the_next_one_was_never_saved() {
    let up = SavedState::Up { pid: 70, since: Some(Duration::ZERO) };
    let found = Found::Leader(71).events(7, Some((Exit::Code(3), None)));
    let (machine, effects) = succession(up, &found);
    assert_eq!((machine.state().pid(), machine.last_exit.clone()), (Some(71), Some(Exit::Code(3))));
    let told =
        |effect: &AppEffect| matches!(effect, AppEffect::Report(Report::Crashed { end, .. }) if end.pid == Some(70));
    assert!(effects.iter().any(told), "{effects:?}");
}

#[test]
fn holds_waits_and_stops_go_on_under_the_next_supervisor() {
    let until = Duration::from_secs(63);
    let (machine, effects) = succession(SavedState::Backoff { attempt: 2, since: Duration::ZERO, until }, &[]);
    assert_eq!(*machine.state(), State::backoff(2, Duration::ZERO, until));
    let retry = AppEffect::Arm { run: 7, timer: Timer::Retry, after: Duration::from_secs(3) };
    assert!(effects.contains(&retry), "{effects:?}");

    let (machine, _) = succession(SavedState::Stopped(StopReason::Held), &[]);
    assert_eq!(machine.state().stop_reason(), Some(StopReason::Held));

    let stopping = SavedState::Stopping { pid: Some(70), then: Then::Stopped(StopReason::Held) };
    let found = [AppEvent::Found { run: 7, pid: 70 }, exited(7, Exit::Signal(15)), AppEvent::TreeEmpty { run: 7 }];
    let (machine, _) = succession(stopping, &found);
    assert_eq!(machine.state().stop_reason(), Some(StopReason::Held));

    let (machine, _) =
        succession(SavedState::Starting { action: Some("reload".into()) }, &[AppEvent::NotFound { run: 7 }]);
    assert!(matches!(machine.state(), State::Hooks { action: Some(_) }), "{:?}", machine.state());
    assert_eq!(machine.run, 7);
}

#[test]
fn an_app_whose_program_was_changed_unwatched_is_started_anew() {
    let mut machine = driven(App::new("web", &["/usr/bin/web", "--new"]));
    let old = kept_up(&Arc::new(bare()));
    tell(&mut machine, Duration::ZERO, &AppEvent::Resumed(Box::new(old)));
    tell(&mut machine, Duration::ZERO, &AppEvent::Found { run: 7, pid: 70 });
    assert_eq!(row(machine.state()), "Stopping: then Starting");
}

#[test]
fn what_is_kept_reads_the_same_after_it_was_written() {
    let app = Arc::new(full());
    let end = RunEnd {
        lived: Some(Duration::from_nanos(1)),
        peak: Some(4096),
        ..RunEnd::unready(Some(3), Exit::Code(1), Duration::ZERO)
    };
    let states = [
        State::gave_up(Exit::NotReady("no".into())),
        State::backoff(3, Duration::from_millis(7), Duration::from_millis(70)),
        State::stopping(Some(3), Then::Start { action: Some("reload".into()) }),
        State::sweeping(end.clone()),
        State::stopping(None, Then::Crashed(end)),
        State::probing(3, true, "no".into()),
        State::hooks(Some("reload".into())),
    ];
    for state in states {
        let saved = Machine::new(app.clone()).saved(&state);
        let text = serde_json::to_string(&saved).unwrap();
        assert_eq!(serde_json::from_str::<SavedApp>(&text).unwrap(), saved, "{text}");
    }
}

#[test]
fn an_exit_of_an_earlier_run_hits_nobody() {
    let states = story(
        bare(),
        &[
            (0, AppEvent::StartAsked),
            (0, AppEvent::NotFound { run: 1 }),
            (0, AppEvent::Spawned { run: 1, pid: 7 }),
            (5, exited(1, Exit::Code(1))),
            (5, AppEvent::TreeEmpty { run: 1 }),
            (5, AppEvent::Spawned { run: 2, pid: 8 }),
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
                (0, AppEvent::StartAsked),
                (0, AppEvent::NotFound { run: 1 }),
                (0, AppEvent::Spawned { run: 1, pid: 7 }),
                (60, exited(1, Exit::Clean)),
                (60, AppEvent::TreeEmpty { run: 1 }),
                (60, AppEvent::TracesFound { run: 1, traces: CLOSED }),
            ],
        );
        assert_eq!(states.last().unwrap(), last);
    }
}

/// `app` ran from second 0 to second 60, and then exited with 0.
fn exited_cleanly(mut app: App) -> (AppMachine, Vec<AppEffect>) {
    app.hooks.prelaunch.clear();
    app.ready = None;
    let mut machine = driven(app);
    for event in [AppEvent::StartAsked, AppEvent::NotFound { run: 1 }, AppEvent::Spawned { run: 1, pid: 7 }] {
        tell(&mut machine, Duration::ZERO, &event);
    }
    let effects = tell(&mut machine, Duration::from_secs(60), &exited(1, Exit::Clean));
    (machine, effects)
}

fn held() -> App {
    let mut app = bare();
    app.policy.on_close = OnClose::Hold;
    app
}

#[test]
fn a_closed_window_stays_closed_only_if_a_person_may_have_closed_it() {
    let nobody_there = Traces { idle: Some(Duration::from_secs(3_600)), ..CLOSED };
    for (traces, state) in [
        (CLOSED, "Stopped"),
        (Traces { display: false, ..CLOSED }, "Starting: Spawning"),
        (Traces { lock: true, ..CLOSED }, "Starting: Spawning"),
        (nobody_there, "Starting: Spawning"),
    ] {
        let (mut machine, _) = exited_cleanly(held());
        let asked = tell(&mut machine, Duration::from_secs(60), &AppEvent::TreeEmpty { run: 1 });
        assert!(asked.iter().any(|effect| matches!(effect, AppEffect::FindTraces { .. })), "{asked:?}");
        tell(&mut machine, Duration::from_secs(60), &AppEvent::TracesFound { run: 1, traces });
        assert_eq!(row(machine.state()), state, "{traces:?}");
    }
}

#[test]
fn an_end_close_to_that_of_an_app_it_needs_is_no_closing() {
    let millis = Duration::from_millis;
    for (other_ended, state) in [
        (60_000 - 900, "Starting: Spawning"),
        (60_000 - 1_100, "Stopped"),
        (60_000 + 900, "Starting: Spawning"),
        (60_000 + 1_100, "Stopped"),
    ] {
        let mut app = held();
        app.hooks.prelaunch.clear();
        let mut machine = driven(app);
        for event in [AppEvent::StartAsked, AppEvent::NotFound { run: 1 }, AppEvent::Spawned { run: 1, pid: 7 }] {
            tell(&mut machine, Duration::ZERO, &event);
        }
        let mut story = vec![
            (60_000, exited(1, Exit::Clean)),
            (60_000, AppEvent::TreeEmpty { run: 1 }),
            (60_000, AppEvent::TracesFound { run: 1, traces: CLOSED }),
            (other_ended, AppEvent::DependencyEnded),
        ];
        story.sort_by_key(|(at, _)| *at);
        for (at, event) in story {
            tell(&mut machine, millis(at), &event);
        }
        assert_eq!(row(machine.state()), state, "the other ended at {other_ended} ms");
    }
}

#[test]
fn an_app_that_obeys_a_signal_was_not_closed_by_a_person() {
    let mut machine = driven(held());
    for event in [AppEvent::StartAsked, AppEvent::NotFound { run: 1 }, AppEvent::Spawned { run: 1, pid: 7 }] {
        tell(&mut machine, Duration::ZERO, &event);
    }
    let sent = tell(&mut machine, Duration::from_secs(60), &AppEvent::SignalAsked(15));
    assert_eq!(sent, [AppEffect::Signal { pid: 7, signal: 15 }]);
    tell(&mut machine, Duration::from_secs(60), &exited(1, Exit::Clean));
    tell(&mut machine, Duration::from_secs(60), &AppEvent::TreeEmpty { run: 1 });
    assert_eq!(row(machine.state()), "Starting: Spawning");
}

#[test]
fn a_stop_asks_then_insists_then_kills() {
    let mut app = bare();
    app.stop.signal = 2;
    let mut machine = driven(app);
    for event in [AppEvent::StartAsked, AppEvent::NotFound { run: 1 }, AppEvent::Spawned { run: 1, pid: 7 }] {
        tell(&mut machine, Duration::ZERO, &event);
    }
    let asked = tell(&mut machine, Duration::ZERO, &AppEvent::StopAsked(StopReason::Held));
    let arm = |timer, millis| AppEffect::Arm { run: 1, timer, after: Duration::from_millis(millis) };
    for effect in [AppEffect::Signal { pid: 7, signal: 2 }, arm(Timer::Insist, 2_500), arm(Timer::Grace, 5_000)] {
        assert!(asked.contains(&effect), "{asked:?}");
    }
    let insisted = tell(&mut machine, Duration::ZERO, &AppEvent::Fired { run: 1, timer: Timer::Insist });
    assert_eq!(insisted, [AppEffect::Signal { pid: 7, signal: 15 }]);
    let killed = tell(&mut machine, Duration::ZERO, &AppEvent::Fired { run: 1, timer: Timer::Grace });
    assert_eq!(killed, [AppEffect::Sweep { run: 1 }]);
}

#[test]
fn a_browser_is_asked_to_close_before_it_is_signalled() {
    let mut app = bare();
    app.stop.devtools = Some(9222);
    let mut machine = driven(app);
    for event in [AppEvent::StartAsked, AppEvent::NotFound { run: 1 }, AppEvent::Spawned { run: 1, pid: 7 }] {
        tell(&mut machine, Duration::ZERO, &event);
    }
    let asked = tell(&mut machine, Duration::ZERO, &AppEvent::StopAsked(StopReason::Held));
    assert!(asked.iter().any(|effect| matches!(effect, AppEffect::CloseBrowser { run: 1, pid: 7, .. })), "{asked:?}");
    assert!(!asked.iter().any(|effect| matches!(effect, AppEffect::Signal { .. })), "{asked:?}");
    let killed = tell(&mut machine, Duration::ZERO, &AppEvent::Fired { run: 1, timer: Timer::Grace });
    assert_eq!(killed, [AppEffect::Sweep { run: 1 }]);
}

#[test]
fn what_outlives_a_crashed_leader_is_asked_before_it_is_killed() {
    let mut app = bare();
    app.stop.grace = Duration::from_millis(300);
    let (mut machine, effects) = exited_cleanly(app);
    let arm = AppEffect::Arm { run: 1, timer: Timer::Helpers, after: Duration::from_millis(300) };
    assert!(effects.contains(&AppEffect::StopRest { run: 1 }) && effects.contains(&arm), "{effects:?}");
    let killed = tell(&mut machine, Duration::from_secs(61), &AppEvent::Fired { run: 1, timer: Timer::Helpers });
    assert_eq!(killed, [AppEffect::Sweep { run: 1 }]);
}

#[test]
fn an_updater_gets_the_time_its_manifest_gives_it() {
    let mut app = full();
    if let Some(matcher) = &mut app.matcher {
        matcher.successor = Duration::from_secs(20);
    }
    let (mut machine, _) = exited_cleanly(app);
    for second in [60, 62, 70, 79] {
        let effects = tell(&mut machine, Duration::from_secs(second), &AppEvent::Remains { run: 1 });
        assert!(matches!(effects[..], [AppEffect::Arm { timer: Timer::LookAgain, .. }]), "{second}: {effects:?}");
    }
    let mut too_late = machine.clone();
    tell(&mut too_late, Duration::from_secs(80), &AppEvent::Remains { run: 1 });
    assert_eq!(row(too_late.state()), "Crashed: Sweeping after exit code 0");
    tell(&mut machine, Duration::from_secs(79), &AppEvent::Found { run: 1, pid: 9 });
    assert_eq!(machine.state().pid(), Some(9));
    assert_eq!(machine.restarts, 0, "an update is no restart");
}

#[test]
fn a_program_that_daemonised_is_recognised() {
    let mut machine = driven(bare());
    for event in [AppEvent::StartAsked, AppEvent::NotFound { run: 1 }, AppEvent::Spawned { run: 1, pid: 7 }] {
        tell(&mut machine, Duration::ZERO, &event);
    }
    tell(&mut machine, Duration::from_millis(5), &exited(1, Exit::Clean));
    tell(&mut machine, Duration::from_millis(5), &AppEvent::Remains { run: 1 });
    let told = tell(&mut machine, Duration::from_millis(5), &AppEvent::TreeEmpty { run: 1 });
    let crash = |effect: &AppEffect| match effect {
        AppEffect::Report(Report::Crashed { end, .. }) => Some(end.daemonised),
        _ => None,
    };
    assert_eq!(told.iter().find_map(crash), Some(true), "{told:?}");
}

#[test]
fn steps_run_before_a_stop_and_after_every_end() {
    let mut app = full();
    (app.matcher, app.ready) = (None, None);
    app.hooks.prelaunch.clear();
    let start = |run| [(0, AppEvent::NotFound { run }), (0, AppEvent::Spawned { run, pid: 7 })];
    let done = |run| AppEvent::HooksDone { run };
    let mut events = vec![(0, AppEvent::StartAsked)];
    events.extend(start(1));
    events.extend([
        (60, AppEvent::RestartAsked),
        (60, done(1)),
        (61, exited(1, Exit::Signal(15))),
        (61, AppEvent::TreeEmpty { run: 1 }),
        (62, done(1)),
        (62, AppEvent::TreeEmpty { run: 1 }),
        (62, AppEvent::Spawned { run: 2, pid: 8 }),
        (90, exited(2, Exit::Signal(11))),
        (90, AppEvent::TreeEmpty { run: 2 }),
        (91, done(2)),
        (91, AppEvent::TreeEmpty { run: 2 }),
        (91, AppEvent::SpawnFailed { run: 3, why: "no".into() }),
        (91, AppEvent::TreeEmpty { run: 3 }),
    ]);
    let states = story(app, &events);
    let expected = [
        "Running",
        "Stopping: Prestop, then Starting",
        "Stopping: then Starting",
        "Stopping: then Starting",
        "Stopping: Poststop, then Starting",
        "Stopping: then Starting",
        "Starting: Spawning",
        "Running",
        "Crashed: Sweeping",
        "Crashed: Poststop",
        "Crashed: Sweeping",
        "Starting: Spawning",
        "Crashed: Sweeping",
        "Backoff",
    ];
    assert_eq!(states[2..], expected, "a program that was not started has no end");
}

#[test]
fn whoever_is_asked_to_end_before_it_is_found_ends_with_its_own_steps() {
    let found = AppEvent::Found { run: 1, pid: 7 };
    let prepared = [AppEvent::NotFound { run: 1 }, AppEvent::HooksDone { run: 1 }];
    let spawning = [&prepared[..], &[AppEvent::NotFound { run: 1 }]].concat();
    let spawned = AppEvent::Spawned { run: 1, pid: 7 };
    for (before, answer) in [(&[][..], &found), (&prepared[..], &found), (&spawning[..], &spawned)] {
        let mut machine = driven(full());
        tell(&mut machine, Duration::ZERO, &AppEvent::StartAsked);
        before.iter().for_each(|event| drop(tell(&mut machine, Duration::ZERO, event)));
        assert_eq!(tell(&mut machine, Duration::ZERO, &AppEvent::StopAsked(StopReason::Held)), [], "{answer:?}");
        let effects = tell(&mut machine, Duration::ZERO, answer);
        assert!(matches!(effects[..], [AppEffect::RunPrestop { .. }, AppEffect::Report(_)]), "{effects:?}");
        for event in [AppEvent::HooksDone { run: 1 }, exited(1, Exit::Signal(15)), AppEvent::TreeEmpty { run: 1 }] {
            tell(&mut machine, Duration::ZERO, &event);
        }
        assert_eq!(row(machine.state()), "Stopping: Poststop, then Stopped", "{answer:?}");
    }
}

#[test]
fn a_tree_that_is_said_to_be_empty_twice_does_not_cut_poststop_short() {
    let mut app = full();
    (app.matcher, app.ready) = (None, None);
    app.hooks.prelaunch.clear();
    app.hooks.prestop.clear();
    let mut machine = driven(app);
    let stop = AppEvent::StopAsked(StopReason::Held);
    let empty = AppEvent::TreeEmpty { run: 1 };
    for event in [AppEvent::StartAsked, AppEvent::NotFound { run: 1 }, AppEvent::Spawned { run: 1, pid: 7 }, stop] {
        tell(&mut machine, Duration::ZERO, &event);
    }
    // It exits while its grace ends: the timer's kill and the exit both have what is left looked for.
    for event in [AppEvent::Fired { run: 1, timer: Timer::Grace }, exited(1, Exit::Signal(15)), empty.clone(), empty] {
        tell(&mut machine, Duration::from_secs(5), &event);
    }
    assert_eq!(row(machine.state()), "Stopping: Poststop, then Stopped");
    for event in [AppEvent::HooksDone { run: 1 }, AppEvent::TreeEmpty { run: 1 }] {
        tell(&mut machine, Duration::from_secs(6), &event);
    }
    assert_eq!(row(machine.state()), "Stopped");
}

#[test]
fn a_request_after_a_crash_does_not_hide_the_crash() {
    let mut app = full();
    (app.matcher, app.ready) = (None, None);
    app.hooks.prelaunch.clear();
    let mut machine = driven(app);
    for event in [AppEvent::StartAsked, AppEvent::NotFound { run: 1 }, AppEvent::Spawned { run: 1, pid: 7 }] {
        tell(&mut machine, Duration::ZERO, &event);
    }
    tell(&mut machine, Duration::from_secs(5), &exited(1, Exit::Code(3)));
    tell(&mut machine, Duration::from_secs(5), &AppEvent::TreeEmpty { run: 1 });
    let told = tell(&mut machine, Duration::from_secs(5), &AppEvent::StopAsked(StopReason::Held));
    assert!(matches!(told[0], AppEffect::Report(Report::Crashed { next: None, .. })), "{told:?}");
    let told = tell(&mut machine, Duration::from_secs(6), &AppEvent::HooksDone { run: 1 });
    assert!(told.contains(&AppEffect::StopRest { run: 1 }), "what the steps have left ends: {told:?}");
    tell(&mut machine, Duration::from_secs(6), &AppEvent::TreeEmpty { run: 1 });
    assert_eq!(row(machine.state()), "Stopped");
}

#[test]
fn steps_that_a_dead_supervisor_had_begun_run_again() {
    let app = Arc::new(full());
    let resumed = |state: State| {
        let mut before = Machine::new(app.clone());
        (before.run, before.launched) = (7, true);
        let mut machine = driven(full());
        tell(&mut machine, Duration::ZERO, &AppEvent::Resumed(Box::new(before.saved(&state))));
        machine
    };
    let mut machine = resumed(State::prestop(70, Then::Stopped(StopReason::Held)));
    tell(&mut machine, Duration::ZERO, &AppEvent::Found { run: 7, pid: 70 });
    assert_eq!(row(machine.state()), "Stopping: Prestop, then Stopped");
    let end = RunEnd::unready(Some(70), Exit::Code(3), Duration::ZERO);
    for then in [Then::Stopped(StopReason::Held), Then::Crashed(end)] {
        let mut machine = resumed(State::poststop(then));
        for event in [AppEvent::NotFound { run: 7 }, AppEvent::NotFound { run: 7 }, AppEvent::TreeEmpty { run: 7 }] {
            tell(&mut machine, Duration::ZERO, &event);
        }
        assert!(matches!(machine.state(), State::Poststop { .. }), "{:?}", machine.state());
    }
}

#[test]
fn a_changed_backoff_applies_to_the_wait_that_is_under_way() {
    let mut app = bare();
    app.policy.backoff = Backoff { first: Duration::from_secs(60), max: Duration::from_secs(60), ..Backoff::default() };
    let mut machine = driven(app.clone());
    let failed = AppEvent::SpawnFailed { run: 1, why: "no".into() };
    for event in [AppEvent::StartAsked, AppEvent::NotFound { run: 1 }, failed, AppEvent::TreeEmpty { run: 1 }] {
        tell(&mut machine, Duration::ZERO, &event);
    }
    assert_eq!(*machine.state(), State::backoff(1, Duration::ZERO, Duration::from_secs(60)));
    let told = |machine: &mut AppMachine, at, app: &App, fields| {
        tell(machine, Duration::from_secs(at), &AppEvent::Changed(Arc::new(app.clone()), Change::Live(fields)))
    };
    app.about = "another".into();
    assert_eq!(told(&mut machine, 10, &app, vec!["about"]), []);
    app.policy.backoff.first = Duration::from_secs(15);
    let retry = |after| AppEffect::Arm { run: 1, timer: Timer::Retry, after: Duration::from_secs(after) };
    assert_eq!(told(&mut machine, 10, &app, vec!["backoff"]), [retry(5)]);
    app.policy.backoff.first = Duration::from_secs(2);
    assert_eq!(told(&mut machine, 10, &app, vec!["backoff"]), [retry(0)]);
    assert_eq!(*machine.state(), State::backoff(1, Duration::ZERO, Duration::from_secs(10)));
}

#[test]
fn an_app_that_gave_up_tries_again_only_when_something_that_matters_changed() {
    for (change, state) in [
        (Change::Live(vec!["about"]), "GaveUp"),
        (Change::Live(vec!["icon", "log"]), "GaveUp"),
        (Change::Live(vec!["about", "backoff"]), "Starting: Looking"),
        (Change::NextStart(vec!["prelaunch"]), "Starting: Looking"),
        (Change::Restart(vec!["args"]), "Starting: Looking"),
    ] {
        let mut machine = failed_of(1);
        assert_eq!(row(machine.state()), "GaveUp");
        let app = machine.app.clone();
        tell(&mut machine, Duration::from_secs(1), &AppEvent::Changed(app, change.clone()));
        assert_eq!(row(machine.state()), state, "{change:?}");
    }
}

#[test]
fn a_crash_is_reported_even_when_a_request_comes_first() {
    let (mut machine, _) = exited_cleanly(bare());
    let told = tell(&mut machine, Duration::from_secs(60), &AppEvent::StopAsked(StopReason::Held));
    let crashes = told.iter().filter(|effect| matches!(effect, AppEffect::Report(Report::Crashed { next: None, .. })));
    assert_eq!(crashes.count(), 1, "{told:?}");
}

#[test]
fn an_app_that_keeps_failing_is_reported_once() {
    let mut machine = driven(bare());
    let mut reports = 0;
    let mut at = Duration::ZERO;
    tell(&mut machine, at, &AppEvent::StartAsked);
    tell(&mut machine, at, &AppEvent::NotFound { run: 1 });
    for _ in 0..20 {
        let run = machine.run;
        let mut told = tell(&mut machine, at, &AppEvent::SpawnFailed { run, why: "no".into() });
        told.extend(tell(&mut machine, at, &AppEvent::TreeEmpty { run }));
        reports += told.iter().filter(|e| matches!(e, AppEffect::Report(Report::CrashLooping { .. }))).count();
        at += Duration::from_secs(60);
        tell(&mut machine, at, &AppEvent::Fired { run, timer: Timer::Retry });
    }
    assert_eq!((reports, machine.failures()), (1, 20));
    assert_ne!(row(machine.state()), "GaveUp", "no app is abandoned by default");
}
