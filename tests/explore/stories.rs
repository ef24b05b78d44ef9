//! What is explored: which apps there are, and what happens to them.

use std::sync::Arc;
use std::time::Duration;

use kasm_void::model::app::App;
use kasm_void::model::manifest::after::{After, Until};
use kasm_void::model::manifest::backoff::GiveUp;
use kasm_void::model::manifest::hook::{Hook, OnFailure, Step};
use kasm_void::model::manifest::probe::{Health, Ready, Target};
use kasm_void::model::manifest::workspace::Workspace;

use crate::container::EntryPoint;
use crate::kernel::name;
use crate::world::{Bug, Happening, Story};

/// A story to explore.
pub struct Chapter {
    pub name: &'static str,
    /// How many things happen in it, in the usual run.
    pub depth: usize,
    pub story: &'static Story,
}

const FAULTS: &[Happening] = &[Happening::SupervisorKilled, Happening::GuardKilled, Happening::SupervisorFrozen];

pub fn stories() -> Vec<Chapter> {
    use Happening::*;
    vec![
        told("ending", 3, one(), &[FAULTS, &[SessionTold, SupervisorTold, DrainAsked]]),
        told("requests", 3, one(), &[FAULTS, &[Asked, Edited]]),
        told("crashes", 3, one(), &[FAULTS, &[LeaderDies, Forks]]),
        told("restarts", 3, one(), &[FAULTS, &[Restarted, Asked, DrainAsked]]),
        told("two apps", 2, two(), &[FAULTS, &[SessionTold, LeaderDies, Asked]]),
        told("followers", 2, followers(), &[FAULTS, &[SessionTold, LeaderDies, Asked]]),
        told("edited followers", 2, followers(), &[FAULTS, &[Asked, Edited, Restarted]]),
        told("followers that die and change", 2, followers(), &[FAULTS, &[LeaderDies, Edited]]),
        told("stop hooks", 3, stop_hooks(), &[FAULTS, &[SessionTold, LeaderDies, Asked]]),
        told("silent helpers", 3, silent(), &[&[LeaderDies, Forks, Asked, SessionTold]]),
        told("given up", 3, given_up(), &[FAULTS, &[LeaderDies, Asked]]),
        told("failing starts", 3, hooked(), &[&[SupervisorKilled, StartFails, AnswersLate, Asked]]),
        told("illness", 3, probed(), &[&[SupervisorKilled, Illness, Asked]]),
        told("staging", 3, staged(), &[&[SupervisorKilled, GuardKilled, SessionTold, Restarted]]),
        told("upgrades", 3, one(), &[FAULTS, &[Upgraded, SessionTold, LeaderDies]]),
        told("container", 2, contained(OBEYS), &[FAULTS, &[ContainerTold, OthersEnd]]),
        told("deaf entry point", 2, contained(DEAF), &[FAULTS, &[ContainerTold, OthersEnd]]),
        told("deaf", 3, deaf(), &[FAULTS, &[SessionTold, Asked, Forks]]),
    ]
}

/// Bugs, alone or together, each with a story that it spoils.
pub fn bugs() -> Vec<Chapter> {
    use Happening::*;
    let spoiled_with =
        |bugs: &'static [Bug], depth, cast, happens: &[Happening]| told_with(bugs, "bugs", depth, cast, &[happens]);
    let spoiled = |bugs, depth, happens: &[Happening]| spoiled_with(bugs, depth, one(), happens);
    let a_stop_after_a_death = Story {
        bugs: &[Bug::MessagesLostOnReset, Bug::DrainNotTold],
        happens: &[SupervisorKilled, Forks, DrainAsked],
        in_order: true,
        ..story(one())
    };
    vec![
        Chapter { name: "bugs", depth: 3, story: Box::leak(Box::new(a_stop_after_a_death)) },
        spoiled(&[Bug::DrainNotTold], 2, &[SupervisorKilled, DrainAsked]),
        spoiled(&[Bug::DrainToldLate], 2, &[SupervisorKilled, DrainAsked]),
        spoiled(&[Bug::SessionsAlike], 2, &[Asked, Restarted]),
        spoiled(&[Bug::DrainOnDisk], 3, &[SupervisorKilled, GuardKilled, DrainAsked]),
        spoiled(&[Bug::NothingInherited], 2, &[SupervisorKilled, Asked]),
        spoiled(&[Bug::NoMarks], 1, &[SupervisorKilled]),
        spoiled_with(&[Bug::AnswersOfAnyRun], 3, hooked(), &[AnswersLate, Asked]),
        spoiled_with(&[Bug::AnswersOfAnyRun], 3, probed(), &[AnswersLate, Asked]),
        spoiled_with(&[Bug::SpawnFailureNotTold], 1, hooked(), &[StartFails]),
        spoiled_with(&[Bug::StagedNotSaved], 1, staged(), &[SupervisorKilled]),
        spoiled(&[Bug::UpgradeForgotten], 2, &[Upgraded, SupervisorKilled]),
        spoiled(&[Bug::HungBinaryNotKilled], 1, &[Upgraded]),
        spoiled_with(&[Bug::CommandAskedFirst], 1, contained(OBEYS), &[ContainerTold]),
        spoiled_with(&[Bug::FailedDrainIsNoSession], 2, contained(OBEYS), &[SupervisorKilled, ContainerTold]),
        spoiled_with(&[Bug::AnyChildIsTheCommand], 1, contained(OBEYS), &[OthersEnd]),
        spoiled_with(&[Bug::OrphansNotCollected], 1, contained(OBEYS), &[OthersEnd]),
        spoiled_with(&[Bug::SecondStopIgnored], 3, contained(DEAF), &[SupervisorFrozen, ContainerTold]),
        spoiled_with(&[Bug::PrestopSkipped], 1, stop_hooks(), &[Asked]),
        spoiled_with(&[Bug::PoststopSkipped], 1, stop_hooks(), &[LeaderDies]),
        spoiled_with(&[Bug::PoststopNotSaved], 2, stop_hooks(), &[LeaderDies, SupervisorKilled]),
        spoiled_with(&[Bug::FollowNotRead], 1, followers(), &[Asked]),
    ]
}

struct Cast {
    apps: Vec<App>,
    deaf: Vec<bool>,
    silent: bool,
    /// The session has `stage` steps.
    staged: bool,
    /// The entry point of PID 1, if the story has one.
    entry_point: Option<EntryPoint>,
}

const OBEYS: EntryPoint = EntryPoint { deaf: false, zero_when_stopped: false };
const DEAF: EntryPoint = EntryPoint { deaf: true, zero_when_stopped: true };

fn one() -> Cast {
    let apps = vec![App::new(&name(0), &["/web"])];
    Cast { apps, deaf: vec![false], silent: false, staged: false, entry_point: None }
}

fn two() -> Cast {
    let mut second = App::new(&name(1), &["/helper"]);
    second.after = vec![After::name(&name(0))];
    Cast { apps: vec![App::new(&name(0), &["/web"]), second], deaf: vec![false, false], ..one() }
}

/// The second app follows the first one.
fn followers() -> Cast {
    let mut cast = two();
    cast.apps[1].after = vec![After { app: name(0), until: Until::Running, follow: true }];
    cast
}

/// An app with steps before and after its end.
fn stop_hooks() -> Cast {
    let mut cast = one();
    (cast.apps[0].hooks.prestop, cast.apps[0].hooks.poststop) = (vec![hook()], vec![hook()]);
    cast
}

fn deaf() -> Cast {
    Cast { deaf: vec![true], ..one() }
}

fn contained(entry_point: EntryPoint) -> Cast {
    Cast { entry_point: Some(entry_point), ..one() }
}

fn staged() -> Cast {
    Cast { staged: true, ..one() }
}

/// An app that is asked whether it is ready and healthy.
fn probed() -> Cast {
    let (mut cast, probe) = (one(), Target::Display);
    cast.apps[0].ready = Some(Ready { probe: probe.clone(), within: Duration::from_millis(150) });
    let (every, timeout) = (Duration::from_secs(5), Duration::from_secs(2));
    cast.apps[0].health = Some(Health { probe, every, timeout, failures: 2, grace: Duration::ZERO });
    cast
}

/// An app with a hook before each start.
fn hooked() -> Cast {
    let mut cast = one();
    cast.apps[0].hooks.prelaunch = vec![hook()];
    cast
}

fn hook() -> Hook {
    let step = Step::WaitFor { what: Target::Display };
    Hook { step, timeout: Duration::from_secs(10), on_failure: OnFailure::Fail }
}

fn silent() -> Cast {
    Cast { silent: true, ..one() }
}

/// An app that is given up at its first failure.
fn given_up() -> Cast {
    let mut cast = one();
    cast.apps[0].policy.backoff.give_up = GiveUp::After { times: 1, within: Duration::from_secs(60) };
    cast
}

fn told(name: &'static str, depth: usize, cast: Cast, happens: &[&[Happening]]) -> Chapter {
    told_with(&[], name, depth, cast, happens)
}

/// Stories live as long as the program: every explored state refers to its story.
fn told_with(bugs: &'static [Bug], name: &'static str, depth: usize, cast: Cast, happens: &[&[Happening]]) -> Chapter {
    let story = Story { happens: happens.concat().leak(), bugs, ..story(cast) };
    Chapter { name, depth, story: Box::leak(Box::new(story)) }
}

/// A story in which nothing happens.
fn story(Cast { apps, deaf, silent, staged, entry_point }: Cast) -> Story {
    let version = |app: &App, version: &str| {
        let mut app = app.clone();
        app.program.argv.push(version.into());
        app.policy.backoff.jitter = 0.0;
        Arc::new(app)
    };
    let apps = apps.iter().map(|app| [version(app, "1"), version(app, "2")]).collect();
    let stage = staged.then(hook).into_iter().collect();
    let workspace = Arc::new(Workspace { stage, ..Workspace::default() });
    Story { apps, workspace, deaf, silent, entry_point, happens: &[], in_order: false, bugs: &[] }
}
