//! Tests of whole sessions in a simulated world that performs effects at once: hooks succeed, programs start and obey
//! stops, unless a test says otherwise.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::model::exit::Exit;
use crate::model::machine::{Report, SavedState, Timer, Traces};
use crate::model::manifest::after::{After, Until};
use crate::model::manifest::backoff::{Backoff, GiveUp};
use crate::model::manifest::hook::{Hook, OnFailure, Step};
use crate::model::manifest::probe::{Ready, Target};
use crate::model::manifest::restart::{OnClose, OnGiveUp, Restart};
use crate::model::protocol::{AppStatus, Refusal, Verb};

struct World {
    supervisor: Supervisor,
    now: Duration,
    queue: VecDeque<Input>,
    /// Each live leader with its run.
    alive: BTreeMap<AppId, (i32, u64)>,
    next_pid: i32,
    timers: BTreeMap<(AppId, Timer), (Duration, u64)>,
    /// The actions in order: `+web` is a spawn, `-web` a request to stop.
    log: Vec<String>,
    answers: BTreeMap<AskId, Answer>,
    exit: Option<u8>,
    leave: Option<Leave>,
    /// Apps that are not ready until the test says so.
    slow: BTreeSet<String>,
    /// Apps that ignore the stop signal.
    stubborn: BTreeSet<String>,
    /// Hooks finish when the test says so.
    held_hooks: bool,
    /// Processes survive even KILL.
    unkillable: bool,
    /// The saved state of each app.
    kept: BTreeMap<String, SavedApp>,
    /// Apps alive since an earlier supervisor that this one has not found yet.
    unclaimed: BTreeMap<String, i32>,
    /// Apps whose display is gone.
    dark: BTreeSet<String>,
}

impl World {
    fn new() -> Self {
        World {
            supervisor: Supervisor::default(),
            now: Duration::ZERO,
            queue: VecDeque::new(),
            alive: BTreeMap::new(),
            next_pid: 100,
            timers: BTreeMap::new(),
            log: Vec::new(),
            answers: BTreeMap::new(),
            exit: None,
            leave: None,
            slow: BTreeSet::new(),
            stubborn: BTreeSet::new(),
            held_hooks: false,
            unkillable: false,
            kept: BTreeMap::new(),
            unclaimed: BTreeMap::new(),
            dark: BTreeSet::new(),
        }
    }

    /// The supervisor dies, and the next one loads these manifests.
    fn succeed(&mut self, apps: &[App]) {
        self.die_and_inherit();
        self.load(apps);
    }

    /// The supervisor dies, and the next one finds no manifests.
    fn succeed_blindly(&mut self) {
        self.die_and_inherit();
        self.give(Input::Loaded { checked: Box::default(), ask: None });
    }

    fn die_and_inherit(&mut self) {
        self.die_and_inherit_with(self.supervisor.session().draining);
    }

    fn die_and_inherit_with(&mut self, draining: Option<u8>) {
        let name = |id: &AppId| self.supervisor.name(*id).unwrap_or_default().to_string();
        self.unclaimed.extend(self.alive.iter().map(|(id, (pid, _))| (name(id), *pid)));
        self.alive.clear();
        self.timers.clear();
        self.queue.clear();
        let session = self.supervisor.session();
        self.supervisor = Supervisor::default();
        self.supervisor.inherit(SavedSession { apps: self.kept.clone(), session }, draining);
    }

    fn with(apps: &[App]) -> Self {
        let mut world = World::new();
        world.load(apps);
        world
    }

    fn load(&mut self, apps: &[App]) {
        self.load_with(Workspace::default(), apps);
    }

    fn load_with(&mut self, workspace: Workspace, apps: &[App]) {
        let apps = apps.iter().map(|app| (app.name.clone(), Arc::new(app.clone()))).collect();
        let checked = Checked { apps, workspace: Arc::new(workspace), complete: true, ..Checked::default() };
        self.give(Input::Loaded { checked: Box::new(checked), ask: None });
    }

    fn give(&mut self, input: Input) {
        self.queue.push_back(input);
        while let Some(input) = self.queue.pop_front() {
            let mut effects = Vec::new();
            self.supervisor.handle(self.now, 0.5, input, &mut effects);
            effects.into_iter().for_each(|effect| self.perform(effect));
        }
        for (name, kept) in self.supervisor.moved_apps() {
            self.kept.insert(name.into(), kept);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::App(id, effect) => self.perform_for(id, effect),
            Effect::Answer(id, answer) => {
                assert!(self.answers.insert(id, answer).is_none(), "two answers to one request");
            }
            Effect::Exit(code) => {
                assert!(self.unkillable || self.alive.is_empty(), "exit with {:?} alive", self.alive);
                self.exit = Some(code);
            }
            Effect::Leave(leave) => self.leave = Some(leave),
            Effect::Stage(_) => self.log.push("stage".into()),
            Effect::Vanished(_, name) => {
                self.kept.remove(&name);
            }
            Effect::Appeared(..)
            | Effect::Changed(..)
            | Effect::ArmBudget(_)
            | Effect::TellGuard(_)
            | Effect::Save
            | Effect::Applied { .. }
            | Effect::DrainBegun(_)
            | Effect::DrainHurried(_) => {}
        }
    }

    fn perform_for(&mut self, id: AppId, effect: AppEffect) {
        let name = self.supervisor.name(id).unwrap_or_default().to_string();
        let mut happened = |event| self.queue.push_back(Input::Happened(id, event));
        match effect {
            AppEffect::LookUp { run, .. } => match self.unclaimed.remove(&name) {
                None => happened(AppEvent::NotFound { run }),
                Some(pid) => {
                    happened(AppEvent::Found { run, pid });
                    self.alive.insert(id, (pid, run));
                }
            },
            AppEffect::RunHooks { run, .. } if !self.held_hooks => happened(AppEvent::HooksDone { run }),
            AppEffect::RunPrestop { run, .. } => {
                happened(AppEvent::HooksDone { run });
                self.log.push(format!("prestop({name})"));
            }
            AppEffect::RunPoststop { run, exit, .. } => {
                if !self.held_hooks {
                    happened(AppEvent::HooksDone { run });
                }
                self.log.push(format!("poststop({name}, {exit})"));
            }
            AppEffect::Spawn { run, .. } => {
                self.next_pid += 1;
                happened(AppEvent::Spawned { run, pid: self.next_pid });
                assert!(self.alive.insert(id, (self.next_pid, run)).is_none(), "two trees of {name}");
                self.log.push(format!("+{name}"));
            }
            AppEffect::Probe { run, .. } if !self.slow.contains(&name) => happened(AppEvent::ProbePassed { run }),
            AppEffect::FindTraces { run, .. } => {
                let traces = Traces { display: !self.dark.contains(&name), idle: None, lock: false };
                happened(AppEvent::TracesFound { run, traces });
            }
            AppEffect::Signal { signal: 15, .. } => {
                self.log.push(format!("-{name}"));
                if !self.unkillable && !self.stubborn.contains(&name) {
                    self.die(id, Exit::Signal(15));
                }
            }
            AppEffect::Sweep { run } if !self.unkillable => {
                self.die(id, Exit::Signal(9));
                self.queue.push_back(Input::Happened(id, AppEvent::TreeEmpty { run }));
            }
            // TERM goes to the whole tree, including a leader that was just spawned.
            AppEffect::StopRest { run } if !self.unkillable => {
                if !self.stubborn.contains(&name) {
                    self.die(id, Exit::Signal(15));
                }
                if !self.alive.contains_key(&id) {
                    self.queue.push_back(Input::Happened(id, AppEvent::TreeEmpty { run }));
                }
            }
            AppEffect::Arm { run, timer, after } => {
                self.timers.insert((id, timer), (self.now + after, run));
            }
            AppEffect::Disarm(timer) => {
                self.timers.remove(&(id, timer));
            }
            _ => {}
        }
    }

    fn die(&mut self, id: AppId, exit: Exit) {
        if let Some((_, run)) = self.alive.remove(&id) {
            self.queue.push_back(Input::Happened(id, AppEvent::Exited { run, exit, peak: None }));
        }
    }

    fn id(&self, name: &str) -> AppId {
        self.supervisor.id(name).unwrap()
    }

    fn kill(&mut self, name: &str) {
        let id = self.id(name);
        let (_, run) = self.alive.remove(&id).unwrap();
        self.give(Input::Happened(id, AppEvent::Exited { run, exit: Exit::Signal(9), peak: None }));
    }

    fn ready(&mut self, name: &str) {
        let (id, run) = (self.id(name), self.run(name));
        self.give(Input::Happened(id, AppEvent::ProbePassed { run }));
    }

    fn run(&self, name: &str) -> u64 {
        self.status(name).run
    }

    fn ask(&mut self, id: AskId, app: &str, verb: Verb) {
        self.give(Input::Asked(AppRequest { id, app: app.into(), verb, wait: true }));
    }

    /// Advances time and fires every timer that is due.
    fn pass(&mut self, span: Duration) {
        self.now += span;
        while let Some((key, (_, run))) = self.timers.iter().find(|(_, (at, _))| *at <= self.now).map(|(k, v)| (*k, *v))
        {
            self.timers.remove(&key);
            self.give(Input::Happened(key.0, AppEvent::Fired { run, timer: key.1 }));
        }
    }

    fn status(&self, name: &str) -> AppStatus {
        self.supervisor
            .snapshot(self.now, |_, _, _| Observed::default())
            .apps
            .into_iter()
            .find(|app| app.name == name)
            .unwrap()
    }

    fn state(&self, name: &str) -> StateName {
        self.status(name).state
    }

    fn told(&mut self) -> String {
        std::mem::take(&mut self.log).join(" ")
    }
}

fn app(name: &str) -> App {
    App::new(name, &["/usr/bin/x"])
}

/// A step that takes time.
fn step() -> Hook {
    Hook {
        step: Step::MakeDir { path: "/x".into() },
        timeout: Duration::from_secs(30),
        on_failure: OnFailure::default(),
    }
}

fn after(name: &str, others: &[&str]) -> App {
    let mut app = app(name);
    app.after = others.iter().map(|other| After::name(other)).collect();
    app
}

fn follower(name: &str, other: &str) -> App {
    App { after: vec![After { app: other.into(), until: Until::Running, follow: true }], ..app(name) }
}

/// A job, and a follower that waits for its success.
fn job(name: &str) -> App {
    let mut app = app(name);
    app.policy.restart = Restart::Never;
    app
}

fn after_success(name: &str, job: &str, follow: bool) -> App {
    App { after: vec![After { app: job.into(), until: Until::Succeeded, follow }], ..app(name) }
}

fn with_probe(mut app: App) -> App {
    let probe = Target::Path { path: "/x".into() };
    app.ready = Some(Ready { probe, within: Duration::from_secs(30) });
    app
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn apps_start_after_those_they_name_are_ready() {
    let mut world = World::new();
    world.slow.insert("display".into());
    world.load(&[after("browser", &["manager"]), with_probe(app("display")), after("manager", &["display"])]);
    assert_eq!(world.told(), "+display");
    assert_eq!(world.status("browser").detail, "waiting for manager");
    world.ready("display");
    assert_eq!(world.told(), "+manager +browser");
}

#[test]
fn an_app_whose_hooks_ran_while_its_display_died_waits_for_the_next_one() {
    let mut browser = after("browser", &["display"]);
    browser.hooks.prelaunch = vec![step()];
    let mut world = World::new();
    world.load(&[with_probe(app("display")), browser]);
    world.pass(60 * SECOND);
    world.slow.insert("display".into());
    world.held_hooks = true;
    world.kill("browser");
    world.kill("display");
    world.told();
    let (id, run) = (world.id("browser"), world.run("browser"));
    world.give(Input::Happened(id, AppEvent::HooksDone { run }));
    assert_eq!((world.told().as_str(), world.status("browser").detail.as_str()), ("", "waiting for display"));
    world.held_hooks = false;
    world.ready("display");
    assert_eq!(world.told(), "+browser");
}

#[test]
fn whoever_waits_for_an_app_that_gave_up_waits_no_longer() {
    let mut display = with_probe(app("display"));
    display.policy.backoff.give_up = GiveUp::After { times: 1, within: Duration::from_secs(60) };
    let mut world = World::new();
    world.slow.insert("display".into());
    world.load(&[display, after("browser", &["display"])]);
    world.kill("display");
    assert_eq!((world.state("display"), world.state("browser")), (StateName::GaveUp, StateName::Running));
}

#[test]
fn an_app_starts_only_after_the_success_that_it_waits_for() {
    let mut world = World::with(&[after_success("web", "migrate", false), job("migrate")]);
    assert_eq!(
        (world.told().as_str(), world.status("web").detail.as_str()),
        ("+migrate", "waiting for migrate to succeed")
    );
    ends(&mut world, "migrate", Exit::Code(1));
    assert_eq!(world.status("migrate").detail, "failed: exit code 1");
    world.ask(1, "web", Verb::Start);
    let detail = "waiting for migrate to succeed, but it ended: exit code 1; \
                  see `kasm-void why migrate`, then `kasm-void start migrate`";
    assert_eq!((world.told().as_str(), world.status("web").detail.as_str()), ("", detail));
    assert_eq!(world.answers[&1].message, format!("`web` starts later: {detail}"));
    world.ask(2, "migrate", Verb::Start);
    ends(&mut world, "migrate", Exit::Clean);
    assert_eq!(world.told(), "+migrate +web");
    // It is a condition for a start, and nothing more.
    world.ask(3, "migrate", Verb::Start);
    assert_eq!(world.state("web"), StateName::Running);
    // A success outlives the supervisor.
    ends(&mut world, "migrate", Exit::Clean);
    world.succeed(&[after_success("web", "migrate", false), job("migrate")]);
    world.pass(60 * SECOND);
    world.told();
    world.kill("web");
    assert_eq!(world.told(), "+web");
}

#[test]
fn a_job_that_is_followed_runs_again_while_its_followers_are_down() {
    let mut world = World::with(&[after_success("web", "migrate", true), job("migrate")]);
    ends(&mut world, "migrate", Exit::Clean);
    world.stubborn.insert("web".into());
    world.told();
    world.ask(1, "migrate", Verb::Restart);
    assert_eq!((world.told().as_str(), world.status("migrate").detail.as_str()), ("-web", "waiting for web to stop"));
    world.pass(60 * SECOND);
    assert_eq!(world.told(), "+migrate");
    ends(&mut world, "migrate", Exit::Clean);
    assert_eq!(world.told(), "+web");
}

#[test]
fn conditions_are_waited_for_and_a_plain_name_is_only_an_order() {
    let until = |name: &str, until| App { after: vec![After { app: "db".into(), until, follow: false }], ..app(name) };
    let mut db = with_probe(app("db"));
    db.enabled = false;
    let others = [until("plain", Until::Settled), until("ready", Until::Running), until("started", Until::Started)];
    let mut world = World::new();
    world.slow.insert("db".into());
    world.load(&[&[db][..], &others].concat());
    assert_eq!(world.told(), "+plain");
    assert_eq!(
        world.status("ready").detail,
        "waiting for db to be Running, which is stopped (disabled); `kasm-void start db`"
    );
    world.ask(1, "db", Verb::Start);
    assert_eq!(world.told(), "+db +started");
    world.ready("db");
    assert_eq!(world.told(), "+ready");
    world.kill("db");
    assert_eq!(world.told(), "", "they do not follow it");
}

#[test]
fn a_changed_condition_counts_at_once() {
    let mut db = app("db");
    db.enabled = false;
    let mut world = World::with(&[db.clone(), follower("web", "db")]);
    assert_eq!(world.told(), "");
    world.load(&[db.clone(), after("web", &["db"])]);
    assert_eq!(world.told(), "+web");
    world.load(&[db, follower("web", "db")]);
    assert_eq!((world.told().as_str(), world.state("web")), ("-web", StateName::Starting));
}

#[test]
fn followers_stop_before_the_app_they_follow_and_start_after_it() {
    let apps = [app("db"), follower("api", "db"), follower("web", "api")];
    let mut world = World::with(&apps);
    world.told();
    world.stubborn.insert("web".into());
    world.ask(1, "db", Verb::Restart);
    assert_eq!((world.told().as_str(), world.status("db").detail.as_str()), ("-web", "waiting for api to stop"));
    world.pass(60 * SECOND);
    assert_eq!(world.told(), "-api -db +db +api +web");
    world.pass(SECOND);
    assert!(world.answers[&1].done);
    world.stubborn.clear();
    world.ask(2, "db", Verb::Stop);
    assert_eq!(world.told(), "-web -api -db");
    assert_eq!(
        world.status("api").detail,
        "waiting for db to be Running, which is stopped (by hand); `kasm-void start db`"
    );
    world.ask(3, "db", Verb::Start);
    assert_eq!(world.told(), "+db +api +web");
    let mut edited = apps.clone();
    edited[0].program.argv.push("--new".into());
    world.load(&edited);
    assert_eq!(world.told(), "-web -api -db +db +api +web");
    world.give(Input::DrainAsked { code: 0, cause: DrainCause::Request });
    assert_eq!((world.told().as_str(), world.exit), ("-web -api -db", Some(0)));
}

#[test]
fn an_app_whose_last_follower_changes_its_mind_ends() {
    let mut world = World::with(&[app("db"), follower("web", "db")]);
    world.stubborn.insert("web".into());
    world.told();
    world.load(&[app("web")]);
    assert_eq!(world.told(), "-web -db", "db is removed, and web follows nobody any more");
}

#[test]
fn an_app_that_would_wait_may_have_been_started_by_a_supervisor_that_died() {
    for removed in [false, true] {
        let apps = [with_probe(app("db")), after("web", &["db"])];
        let mut world = World::with(&apps);
        world.kept.values_mut().for_each(|kept| kept.state = SavedState::Starting { action: None });
        world.slow.insert("db".into());
        world.told();
        world.succeed(&apps);
        assert_eq!((world.told().as_str(), world.state("web")), ("", StateName::Running));
        match removed {
            true => world.load(&apps[..1]),
            false => world.give(Input::DrainAsked { code: 0, cause: DrainCause::Request }),
        }
        assert!(world.told().starts_with("-web"), "removed: {removed}");
    }
}

#[test]
fn a_crash_takes_the_followers_along() {
    let apps = [app("db"), follower("web", "db")];
    let mut world = World::with(&apps);
    world.pass(60 * SECOND);
    world.told();
    world.kill("db");
    assert_eq!(world.told(), "-web +db +web");
    // The next supervisor finds that it crashed meanwhile.
    world.pass(60 * SECOND);
    let id = world.id("db");
    world.alive.remove(&id);
    world.succeed(&apps);
    assert_eq!(world.told(), "-web +db +web");
    // And restarts nobody when nothing has happened.
    world.succeed(&apps);
    assert_eq!((world.told().as_str(), world.state("web")), ("", StateName::Running));
}

#[test]
fn a_stop_in_its_order_goes_on_under_the_next_supervisor() {
    let apps = [app("db"), follower("web", "db")];
    let mut world = World::with(&apps);
    world.stubborn.insert("web".into());
    world.told();
    world.ask(1, "db", Verb::Stop);
    world.succeed(&apps);
    world.pass(60 * SECOND);
    assert_eq!(world.told(), "-web -web -db");
    assert_eq!((world.state("db"), world.state("web")), (StateName::Stopped, StateName::Starting));
}

#[test]
fn steps_around_a_stop_keep_the_order_and_the_budget() {
    let mut db = app("db");
    (db.hooks.prestop, db.hooks.poststop) = (vec![step()], vec![step()]);
    let mut world = World::with(&[db, follower("web", "db")]);
    world.pass(60 * SECOND);
    world.told();
    world.ask(1, "db", Verb::Restart);
    assert_eq!(world.told(), "-web prestop(db) -db poststop(db, stopped) +db +web");
    world.pass(60 * SECOND);
    world.kill("db");
    assert_eq!(world.told(), "-web poststop(db, killed by SIGKILL) +db +web");
    world.held_hooks = true;
    world.give(Input::DrainAsked { code: 0, cause: DrainCause::Request });
    assert_eq!((world.told().as_str(), world.exit), ("-web prestop(db) -db poststop(db, stopped)", None));
    world.give(Input::BudgetSpent);
    assert_eq!(world.exit, Some(0));
    // Nothing of them begins once the budget is used up.
    let mut db = app("db");
    (db.hooks.prestop, db.hooks.poststop) = (vec![step()], vec![step()]);
    let mut world = World::with(&[db, after("web", &["db"])]);
    world.stubborn.insert("web".into());
    world.told();
    world.give(Input::DrainAsked { code: 0, cause: DrainCause::Request });
    world.give(Input::BudgetSpent);
    assert_eq!((world.told().as_str(), world.exit), ("-web -db", Some(0)));
}

#[test]
fn a_drain_stops_in_the_opposite_order_and_exits() {
    let mut world =
        World::with(&[app("display"), after("manager", &["display"]), after("browser", &["manager"]), app("alone")]);
    world.told();
    world.give(Input::DrainAsked { code: 0, cause: DrainCause::Request });
    assert_eq!(world.told(), "-alone -browser -manager -display");
    assert_eq!(world.exit, Some(0));
}

#[test]
fn a_drain_of_nothing_exits_at_once() {
    let mut world = World::new();
    world.give(Input::DrainAsked { code: 0, cause: DrainCause::Request });
    assert_eq!(world.exit, Some(0));
}

#[test]
fn the_impatient_are_obeyed() {
    let mut world = World::with(&[app("web"), after("leaf", &["web"])]);
    world.stubborn.extend(["web".to_string(), "leaf".into()]);
    world.give(Input::DrainAsked { code: 0, cause: DrainCause::Request });
    assert_eq!(world.exit, None);
    world.give(Input::BudgetSpent);
    assert_eq!(world.exit, Some(0));
}

#[test]
fn what_cannot_even_be_killed_does_not_keep_the_session() {
    let mut world = World::with(&[app("stuck")]);
    world.unkillable = true;
    world.give(Input::DrainAsked { code: 3, cause: DrainCause::Request });
    world.give(Input::BudgetSpent);
    assert_eq!(world.exit, None);
    world.give(Input::BudgetSpent);
    assert_eq!(world.exit, Some(3));
}

#[test]
fn a_stubborn_app_is_killed_when_its_grace_is_over() {
    let mut world = World::with(&[app("web")]);
    world.stubborn.insert("web".into());
    world.ask(1, "web", Verb::Stop);
    assert_eq!(world.state("web"), StateName::Stopping);
    world.pass(5 * SECOND);
    assert_eq!(world.state("web"), StateName::Stopped);
    assert!(world.answers[&1].done);
}

#[test]
fn a_request_is_answered_when_it_is_done() {
    let mut world = World::new();
    world.slow.insert("web".into());
    world.load(&[with_probe(app("web"))]);
    world.ask(1, "web", Verb::Start);
    assert!(world.answers.is_empty(), "it is not up yet");
    world.ready("web");
    assert!(world.answers[&1].done);
    world.ask(2, "web", Verb::Start);
    assert!(world.answers[&2].done, "already running");
    world.ask(3, "web", Verb::Restart);
    world.kill("web");
    assert_eq!(world.answers[&3].refusal, Some(Refusal::Failed));
}

#[test]
fn who_starts_an_app_that_ends_at_once_is_told_how_it_ended() {
    for (restart, exit, said) in [
        (Restart::Never, Exit::Clean, Ok("`web` has ended: exit code 0")),
        (Restart::Never, Exit::Code(1), Err("`web` has ended: exit code 1; `kasm-void why web` tells more")),
        (Restart::Always, Exit::Code(1), Err("`web` did not come up: exit code 1; `kasm-void why web` tells more")),
        (Restart::Always, Exit::Clean, Err("`web` did not come up: exit code 0; `kasm-void why web` tells more")),
    ] {
        let mut web = app("web");
        web.policy.restart = restart;
        let mut world = World::new();
        world.load_with(Workspace { autostart: false, ..Workspace::default() }, &[web]);
        world.ask(1, "web", Verb::Start);
        assert!(world.answers.is_empty(), "it may end at once");
        world.now += Duration::from_millis(2);
        ends(&mut world, "web", exit);
        world.pass(3 * SECOND);
        let answer = &world.answers[&1];
        assert_eq!(if answer.done { Ok(answer.message.as_str()) } else { Err(answer.message.as_str()) }, said);
    }
}

#[test]
fn who_starts_an_app_is_told_that_it_runs_once_it_has_settled() {
    let mut world = World::new();
    world.load_with(Workspace { autostart: false, ..Workspace::default() }, &[app("web")]);
    world.ask(1, "web", Verb::Start);
    world.pass(Duration::from_millis(499));
    assert!(world.answers.is_empty());
    world.pass(Duration::from_millis(1));
    assert!(world.answers[&1].done);
    world.ask(2, "web", Verb::Start);
    assert!(world.answers[&2].done, "it has been up for long");
}

#[test]
fn a_stop_beats_a_restart_whoever_comes_first() {
    for stop_first in [true, false] {
        let mut world = World::with(&[app("web")]);
        world.stubborn.insert("web".into());
        let verbs = if stop_first { [Verb::Stop, Verb::Restart] } else { [Verb::Restart, Verb::Stop] };
        for (id, verb) in (1..).zip(verbs) {
            world.ask(id, "web", verb);
        }
        world.pass(5 * SECOND);
        assert_eq!(world.state("web"), StateName::Stopped);
        let (stop, restart) = if stop_first { (1, 2) } else { (2, 1) };
        assert!(world.answers[&stop].done);
        assert_eq!(world.answers[&restart].refusal, Some(Refusal::Overtaken));
    }
}

#[test]
fn a_request_for_nobody_names_who_was_meant() {
    let mut world = World::with(&[app("browser")]);
    world.ask(1, "browsr", Verb::Stop);
    assert_eq!(world.answers[&1].message, "no app is called `browsr`: did you mean `browser`?");
    world.ask(2, "browser", Verb::Do("reload".into()));
    assert_eq!(world.answers[&2].refusal, Some(Refusal::NoSuchAction));
    world.ask(3, "browser", Verb::Stop);
    world.ask(4, "browser", Verb::Signal(1));
    assert_eq!(world.answers[&4].refusal, Some(Refusal::WrongState));
}

#[test]
fn a_stop_by_hand_survives_reloads() {
    let mut world = World::with(&[app("web")]);
    world.ask(1, "web", Verb::Stop);
    let mut changed = app("web");
    changed.program.argv.push("--new".into());
    world.load(&[changed]);
    assert_eq!(world.state("web"), StateName::Stopped);
    world.ask(2, "web", Verb::Start);
    assert_eq!(world.supervisor.app(world.id("web")).unwrap().program.argv[1], "--new");
}

#[test]
fn a_reload_touches_only_what_changed() {
    let mut world = World::with(&[app("a"), app("b"), app("c")]);
    let before: Vec<_> = ["a", "b", "c"].map(|name| world.status(name).pid).into();
    world.told();
    let (mut live, mut restarted) = (app("a"), app("b"));
    live.policy.backoff = Backoff { first: Duration::from_secs(9), ..Backoff::default() };
    restarted.program.argv.push("--new".into());
    world.load(&[live, restarted, app("d")]);
    assert_eq!(world.told(), "-c -b +d +b");
    assert_eq!(world.status("a").pid, before[0]);
    assert_ne!(world.status("b").pid, before[1]);
    assert!(world.supervisor.id("c").is_none(), "its manifest is gone");
}

#[test]
fn a_manifest_that_comes_back_before_its_app_is_gone_finds_it_again() {
    let mut world = World::with(&[app("web")]);
    world.stubborn.insert("web".into());
    world.load(&[]);
    assert_eq!(world.state("web"), StateName::Stopping);
    world.load(&[app("web")]);
    world.pass(5 * SECOND);
    assert_eq!(world.state("web"), StateName::Running);
}

#[test]
fn an_app_that_is_down_goes_with_its_manifest() {
    let mut world = World::with(&[app("held"), App { enabled: false, ..app("disabled") }]);
    world.ask(1, "held", Verb::Stop);
    world.load(&[]);
    assert_eq!(world.supervisor.snapshot(world.now, |_, _, _| Observed::default()).apps, []);
}

#[test]
fn an_app_whose_manifest_is_gone_is_not_started_any_more() {
    let mut world = World::with(&[app("web")]);
    world.stubborn.insert("web".into());
    world.load(&[]);
    assert_eq!(world.state("web"), StateName::Stopping);
    world.ask(1, "web", Verb::Start);
    assert_eq!(world.answers[&1].refusal, Some(Refusal::NoSuchApp));
    world.pass(5 * SECOND);
    assert!(world.supervisor.id("web").is_none() && world.alive.is_empty());
}

#[test]
fn a_disabled_app_is_stopped_and_an_enabled_one_started() {
    let mut world = World::with(&[app("web")]);
    let off = App { enabled: false, ..app("web") };
    world.load(&[off]);
    assert_eq!((world.state("web"), world.status("web").detail.as_str()), (StateName::Stopped, "disabled"));
    world.load(&[app("web")]);
    assert_eq!(world.state("web"), StateName::Running);
}

#[test]
fn without_autostart_apps_wait_to_be_asked() {
    let mut world = World::new();
    world.load_with(Workspace { autostart: false, ..Workspace::default() }, &[app("web")]);
    assert_eq!((world.state("web"), world.status("web").detail.as_str()), (StateName::Stopped, "not started"));
    world.ask(1, "web", Verb::Start);
    assert_eq!(world.state("web"), StateName::Running);
}

#[test]
fn nothing_starts_before_the_session_is_staged() {
    let mut world = World::new();
    world.load_with(Workspace { stage: vec![step()], ..Workspace::default() }, &[app("web")]);
    assert_eq!(world.told(), "stage");
    world.give(Input::Staged);
    assert_eq!(world.told(), "+web");
}

#[test]
fn an_app_whose_end_ends_the_session_takes_it_down() {
    let mut vital = app("vital");
    vital.policy.backoff.give_up = GiveUp::After { times: 1, within: Duration::from_secs(60) };
    vital.policy.on_give_up = OnGiveUp::EndSession { code: 7 };
    let mut world = World::with(&[vital, app("web")]);
    world.kill("vital");
    assert_eq!(world.exit, Some(7));
}

#[test]
fn a_crash_tells_its_cause_once_and_waits_as_the_backoff_says() {
    let mut world = World::with(&[app("web")]);
    let mut effects = Vec::new();
    let id = world.id("web");
    let exited = AppEvent::Exited { run: 1, exit: Exit::Code(3), peak: Some(1) };
    world.alive.clear();
    world.supervisor.handle(world.now, 0.0, Input::Happened(id, exited), &mut effects);
    world.supervisor.handle(world.now, 0.0, Input::Happened(id, AppEvent::TreeEmpty { run: 1 }), &mut effects);
    let crashes =
        effects.iter().filter(|effect| matches!(effect, Effect::App(_, AppEffect::Report(Report::Crashed { .. }))));
    assert_eq!(crashes.count(), 1);
    let status = world.status("web");
    assert_eq!(
        (status.state, status.next_retry_ms, status.last_exit),
        (StateName::Backoff, Some(1000), Some(Exit::Code(3)))
    );
}

#[test]
fn the_next_supervisor_knows_what_this_one_knew() {
    let (mut held, mut web) = (app("held"), app("web"));
    held.about = "stopped by hand".into();
    web.policy.backoff = Backoff { stable_after: Duration::from_secs(0), ..Backoff::default() };
    let apps = [held, web, app("waits")];
    let mut world = World::with(&apps);
    world.ask(1, "held", Verb::Stop);
    world.kill("web");
    world.kill("waits");
    world.told();
    let (web, waits) = (world.status("web"), world.status("waits"));
    world.succeed(&apps);
    assert_eq!(world.told(), "", "nothing is started or stopped");
    assert_eq!(world.status("held").detail, "by hand");
    assert_eq!((world.status("web").pid, world.status("web").restarts), (web.pid, 1));
    assert_eq!(world.status("waits"), waits, "the same wait goes on");
    world.pass(2 * SECOND);
    assert_eq!(world.state("waits"), StateName::Running);
}

#[test]
fn an_app_whose_manifest_went_unwatched_is_stopped_in_peace() {
    let mut world = World::with(&[app("web"), app("other")]);
    world.told();
    world.succeed(&[app("other")]);
    assert_eq!(world.told(), "-web");
    assert!(world.supervisor.id("web").is_none() && world.kept.keys().eq(["other"]), "{:?}", world.kept);
}

#[test]
fn all_apps_are_known_before_the_first_is_looked_for() {
    let apps: BTreeMap<_, _> = ["a", "b", "c"].map(|name| (name.to_string(), Arc::new(app(name)))).into();
    let mut world = World::with(&[app("a"), app("b"), app("c")]);
    world.die_and_inherit();
    let checked = Box::new(Checked { apps, complete: true, ..Checked::default() });
    let mut effects = Vec::new();
    world.supervisor.handle(world.now, 0.5, Input::Loaded { checked, ask: None }, &mut effects);
    let is_look_up = |effect: &Effect| matches!(effect, Effect::App(_, AppEffect::LookUp { .. }));
    let look_ups = effects.iter().filter(|effect| is_look_up(effect)).count();
    let appeared = effects.iter().take_while(|effect| matches!(effect, Effect::Appeared(..))).count();
    assert_eq!((appeared, look_ups), (3, 3), "{effects:?}");
}

#[test]
fn an_app_that_others_need_is_not_started_again_while_the_session_ends() {
    let mut world = World::with(&[app("display"), after("browser", &["display"])]);
    world.stubborn.insert("browser".into());
    world.give(Input::DrainAsked { code: 0, cause: DrainCause::Request });
    world.told();
    world.kill("display");
    world.pass(60 * SECOND);
    assert!(!world.told().contains("+display"));
    assert_eq!(world.exit, Some(0));
}

#[test]
fn what_a_drain_had_stopped_is_up_again_if_the_session_goes_on() {
    let apps = [app("stopped"), app("stopping"), app("held")];
    let mut world = World::with(&apps);
    world.stubborn.insert("stopping".into());
    world.ask(1, "held", Verb::Stop);
    world.give(Input::DrainAsked { code: 0, cause: DrainCause::Request });
    world.told();
    // Guard and supervisor are killed: the next guard has never heard of a drain.
    world.die_and_inherit_with(None);
    world.load(&apps);
    world.pass(60 * SECOND);
    let states = ["stopped", "stopping", "held"].map(|name| world.state(name));
    assert_eq!(states, [StateName::Running, StateName::Running, StateName::Stopped]);
}

#[test]
fn a_manifest_that_is_back_under_the_next_supervisor_is_an_app_that_is_up() {
    let mut world = World::with(&[app("web")]);
    world.stubborn.insert("web".into());
    world.load(&[]);
    world.succeed(&[app("web")]);
    world.pass(60 * SECOND);
    assert_eq!(world.state("web"), StateName::Running);
}

#[test]
fn a_drain_goes_on_under_the_next_supervisor() {
    let mut world = World::with(&[app("web")]);
    world.stubborn.insert("web".into());
    world.give(Input::DrainAsked { code: 5, cause: DrainCause::Request });
    world.succeed(&[app("web")]);
    world.pass(5 * SECOND);
    assert_eq!(world.exit, Some(5));
}

proptest! {
    /// For any sequence of requests, manifest edits and crashes: no app ever runs twice, every request is answered, and
    /// a drain ends.
    #[test]
    fn every_session_ends_cleanly(
        followers in any::<bool>(),
        story in proptest::collection::vec((0u8..10, 0usize..4), 0..120),
    ) {
        let names = ["a", "b", "c", "d"];
        let everyone = || vec![app("a"), after("b", &["a"]), with_probe(after("c", &["b"])), app("d")];
        let everyone = || match followers {
            false => everyone(),
            true => vec![app("a"), follower("b", "a"), with_probe(follower("c", "b")), after("d", &["c"])],
        };
        let mut world = World::with(&everyone());
        let (mut asked, mut lost) = (0, 0);
        for (what, who) in story {
            let name = names[who];
            let known = world.supervisor.id(name);
            match what {
                0 | 1 if known.is_some_and(|id| world.alive.contains_key(&id)) => world.kill(name),
                2 => { asked += 1; world.ask(asked, name, Verb::Start); }
                3 => { asked += 1; world.ask(asked, name, Verb::Stop); }
                4 => { asked += 1; world.ask(asked, name, Verb::Restart); }
                5 => {
                    let mut apps = everyone();
                    apps[who].program.argv.push(format!("{asked}"));
                    world.load(&apps);
                }
                6 => {
                    let mut apps = everyone();
                    apps.remove(who);
                    apps.iter_mut().for_each(|app| app.after.retain(|other| other.app != name));
                    world.load(&apps);
                }
                7 => {
                    // The closed connection tells the client.
                    lost = asked as usize - world.answers.len();
                    world.succeed(&everyone());
                }
                8 => { if !world.stubborn.remove(name) { world.stubborn.insert(name.into()); } }
                _ => world.pass(SECOND),
            }
            for name in names {
                let Some(app) = world.supervisor.id(name).and_then(|id| world.supervisor.app(id)) else { continue };
                for followed in app.after.iter().filter(|after| after.follow) {
                    let states = (world.state(name), world.state(&followed.app));
                    prop_assert!(states.0 != StateName::Running || states.1 == states.0, "{name}: {states:?}");
                }
            }
        }
        world.give(Input::DrainAsked { code: 0, cause: DrainCause::Request });
        for _ in 0..10 {
            world.pass(10 * SECOND);
        }
        prop_assert_eq!(world.exit, Some(0));
        prop_assert_eq!(world.answers.len() + lost, asked as usize, "a request was never answered");
    }
}

fn closable(mut app: App) -> App {
    app.policy.on_close = OnClose::Hold;
    app
}

fn ends(world: &mut World, name: &str, exit: Exit) {
    let id = world.id(name);
    let (_, run) = world.alive.remove(&id).unwrap();
    world.give(Input::Happened(id, AppEvent::Exited { run, exit, peak: None }));
}

#[test]
fn a_window_that_went_with_its_display_comes_back_with_it() {
    for display_first in [true, false] {
        let mut world = World::with(&[app("display"), closable(after("browser", &["display"]))]);
        world.pass(60 * SECOND);
        let mut ended = [("display", Exit::Signal(9)), ("browser", Exit::Clean)];
        if !display_first {
            ended.reverse();
        }
        for (name, exit) in ended {
            ends(&mut world, name, exit);
        }
        assert_eq!(world.state("browser"), StateName::Running, "the display ended first: {display_first}");
    }
    let mut world = World::with(&[closable(app("browser"))]);
    world.pass(60 * SECOND);
    world.dark.insert("browser".into());
    ends(&mut world, "browser", Exit::Clean);
    assert_eq!(world.state("browser"), StateName::Running, "its display is nobody's app");
    world.pass(60 * SECOND);
    world.dark.clear();
    ends(&mut world, "browser", Exit::Clean);
    assert_eq!(
        (world.state("browser"), world.status("browser").detail.as_str()),
        (StateName::Stopped, "window closed")
    );
}

#[test]
fn what_an_earlier_supervisor_left_out_of_sight_does_not_outlive_a_drain() {
    let apps = [app("web"), app("other")];
    let mut world = World::with(&apps);
    world.told();
    world.succeed_blindly();
    assert_eq!(world.told(), "", "their manifests may only be out of sight");
    world.give(Input::EndSignalled("SIGTERM"));
    assert_eq!((world.told().as_str(), world.exit), ("-other -web", Some(0)));
}

#[test]
fn the_second_signal_hurries_the_first_ones_drain() {
    let mut world = World::with(&[app("web")]);
    world.stubborn.insert("web".into());
    world.give(Input::EndSignalled("SIGTERM"));
    assert_eq!(world.exit, None);
    world.give(Input::EndSignalled("SIGTERM"));
    assert_eq!(world.exit, Some(0));
}

#[test]
fn an_app_that_gave_up_names_the_way_back() {
    let mut web = app("web");
    web.policy.backoff.give_up = GiveUp::After { times: 1, within: 60 * SECOND };
    let mut world = World::with(&[web]);
    world.kill("web");
    assert_eq!(world.state("web"), StateName::GaveUp);
    assert!(world.status("web").detail.contains("kasm-void start web"), "{}", world.status("web").detail);
}

#[test]
fn a_supervisor_makes_way_for_another_binary_unless_the_session_ends() {
    let upgrade = |ask| Input::UpgradeAsked { ask, binary: "/new".into() };
    let mut world = World::with(&[app("web")]);
    world.give(upgrade(1));
    assert!(world.answers[&1].done);
    assert_eq!(world.leave.take(), Some(Leave::ForUpgrade("/new".into())));
    world.give(Input::DrainAsked { code: 0, cause: DrainCause::Request });
    world.give(upgrade(2));
    assert_eq!(world.answers[&2].message, "cannot upgrade to /new: the session is ending");
    assert_eq!(world.leave, None);
}

#[test]
fn a_lost_guard_is_replaced_unless_the_session_ends() {
    let mut world = World::with(&[app("web")]);
    world.give(Input::UpgradeAsked { ask: 1, binary: "/new".into() });
    world.give(Input::GuardLost);
    assert_eq!(world.leave.take(), Some(Leave::ToBecomeGuard), "nobody would start the new binary");
    world.give(Input::UpgradeAsked { ask: 2, binary: "/new".into() });
    assert_eq!(world.answers[&2].refusal, Some(Refusal::WrongState));
    let mut world = World::with(&[app("web")]);
    world.give(Input::DrainAsked { code: 0, cause: DrainCause::Request });
    world.give(Input::GuardLost);
    assert_eq!((world.leave, world.supervisor.trouble().is_some()), (None, true));
}

#[test]
fn a_display_that_is_away_for_long_gives_up_nobody() {
    // One waits for the display by name. The other one has only a step that waits for it, and fails.
    let mut named = after("named", &["display"]);
    named.policy.backoff.give_up = GiveUp::After { times: 3, within: 600 * SECOND };
    let mut steps = app("steps");
    steps.hooks.prelaunch = vec![step()];
    let mut world = World::with(&[with_probe(app("display")), named, steps]);
    world.pass(60 * SECOND);
    world.slow.insert("display".into());
    world.held_hooks = true;
    for name in ["display", "named", "steps"] {
        world.kill(name);
    }
    for second in 1..=500 {
        world.pass(SECOND);
        if second % 30 == 0 && world.status("steps").detail == "hooks" {
            let (id, run) = (world.id("steps"), world.run("steps"));
            world.give(Input::Happened(id, AppEvent::HookFailed { run, why: "no X server".into() }));
        }
        for name in ["display", "named", "steps"] {
            assert_ne!(world.state(name), StateName::GaveUp, "{name} after {second} s");
        }
    }
    assert!(world.status("display").restarts > 5, "it was tried again and again");
    assert_eq!(world.status("named").detail, "waiting for display");
    world.slow.clear();
    world.held_hooks = false;
    // The longest wait between two tries.
    for _ in 0..66 {
        world.pass(SECOND);
        for name in ["display", "steps"] {
            if world.state(name) == StateName::Starting && world.status(name).detail == "hooks" {
                let (id, run) = (world.id(name), world.run(name));
                world.give(Input::Happened(id, AppEvent::HookFailed { run, why: "no X server".into() }));
            }
        }
    }
    for name in ["display", "named", "steps"] {
        assert_eq!(world.state(name), StateName::Running, "{name}");
    }
}

#[test]
fn an_app_that_is_disabled_is_stopped_even_if_its_record_was_lost() {
    let mut world = World::with(&[app("web"), app("other")]);
    world.told();
    world.kept.clear();
    world.succeed(&[App { enabled: false, ..app("web") }, app("other")]);
    assert_eq!(world.told(), "-web");
    assert_eq!((world.state("web"), world.state("other")), (StateName::Stopped, StateName::Running));
}
