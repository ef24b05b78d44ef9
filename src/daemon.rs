//! Acts: the only loop. One input, then all its effects, then the next; what there is to tell is told when
//! the turn's work is done. No `if` about apps: what is to be done is decided in `model::supervisor`.

pub mod control;
pub mod display;
pub mod files;
pub mod hooks;
pub mod logs;
pub mod probes;
pub mod process;
pub mod report;
pub mod state;
pub mod timers;
pub mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Resource, Rlimit};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, LocalSet};

use crate::host::journal::{self, Journal};
use crate::host::layout::StateFolder;
use crate::host::link::{Heard, Line, ToGuard, ToSupervisor};
use crate::host::{load, proc, sys};
use crate::http::Server;
use crate::model::app::App;
use crate::model::loading::check::{Checked, Checker, Surroundings, WORKSPACE};
use crate::model::loading::problem::Problem;
use crate::model::loading::source::Source;
use crate::model::machine::{Effect as AppEffect, Event, ProbeKind, Report};
use crate::model::manifest::{Log, Workspace};
use crate::model::protocol::{Identity, Outcome, PlanReport, Refusal, StateName};
use crate::model::supervisor::{AppId, AskId, Effect, Input, Supervisor};
use control::Ask;
use hooks::{Hands, Request};
use logs::Logs;
use process::{Found, Processes};
use report::Reports;
use state::{Copies, Ledger};
use timers::Timers;

/// What `kasm-void run` was told.
pub struct Options {
    /// Manifest folders; later ones win by file name.
    pub folders: Vec<PathBuf>,
    pub state: PathBuf,
    pub log_format: journal::Format,
    /// Also write the supervisor's log into daily files here.
    pub log_dir: Option<PathBuf>,
}

/// Runs the supervisor, whose guard is at the other end of `line`, until it is asked to drain; the code is that
/// of `on_give_up`, or 0.
pub fn run(options: Options, line: Line) -> anyhow::Result<ExitCode> {
    // Executed by way of /proc/self/exe, and `exe` is no name for anybody.
    let _ = rustix::thread::set_name(c"kasm-void");
    let welcome = Welcome::hear(line)?;
    let state = StateFolder::given(&options.state, welcome.lock)?;
    sys::share_one_heap();
    proc::keep_spare();
    sys::survive_file_size_limit();
    let journal = Journal::start(options.log_format, options.log_dir.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(64).build()?;
    let code = LocalSet::new().block_on(&runtime, async {
        let mut daemon = Daemon::new(&state.path, options.folders, welcome.guard, welcome.news)?;
        daemon.run().await
    })?;
    // The lock is still ours, so the socket is too; a supervisor that comes after us replaces it.
    let _ = std::fs::remove_file(state.path.join("control.sock"));
    // Blocking steps that hang on a dead disk must not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(100));
    drop(journal);
    Ok(ExitCode::from(code))
}

/// What a guard tells a new supervisor first.
struct Welcome {
    guard: process::Guard,
    lock: OwnedFd,
    news: News,
}

/// What became of the supervisors before this one.
#[derive(Debug, Clone, Default)]
struct News {
    deaths: u32,
    cause: String,
}

impl Welcome {
    fn hear(line: Line) -> anyhow::Result<Welcome> {
        let (mut greeting, mut told) = (None, Vec::new());
        loop {
            line.wait(10);
            match (line.hear().context("cannot hear the guard")?, greeting) {
                (Heard::Message(ToSupervisor::Hello { deaths, cause }, Some(lock)), None) => {
                    greeting = Some((lock, News { deaths, cause }));
                }
                (Heard::Message(ToSupervisor::Ended(passing), _), known) => {
                    told.push(passing);
                    greeting = known;
                }
                (Heard::Message(ToSupervisor::Go, _), Some((lock, news))) => {
                    return Ok(Welcome { guard: process::Guard::new(line, told), lock, news });
                }
                (heard, _) => anyhow::bail!("the guard did not hand over the state folder: {heard:?}"),
            }
        }
    }
}

/// All problems of all manifests in these folders, as a supervisor started here would find them.
pub fn check(folders: &[PathBuf]) -> Vec<Problem> {
    offline(folders).problems
}

/// What a supervisor started here, with nothing running yet, would do.
pub fn plan(folders: &[PathBuf]) -> PlanReport {
    Supervisor::default().plan(&offline(folders))
}

fn offline(folders: &[PathBuf]) -> Checked {
    let environment = utf8_environment();
    check_loaded(&mut Checker::default(), &load::load(folders), &environment, &home_of(&environment))
}

fn check_loaded(
    checker: &mut Checker,
    loaded: &load::Loaded,
    environment: &BTreeMap<String, String>,
    home: &str,
) -> Checked {
    let executable = |file: &str| process::executable(Path::new(file));
    let mut checked = checker.check(
        &loaded.sources,
        loaded.complete,
        &Surroundings { env: environment, home, executable: &executable },
    );
    checked.problems.splice(0..0, loaded.problems.iter().cloned());
    checked
}

/// How long after manifests that could not be read are tried again, where nothing will tell of a change.
const REREAD: Duration = Duration::from_secs(2);

/// What the loop is told by tasks of its own.
enum Note {
    Happened(AppId, Event),
    Staged,
    /// The manifest folders were read, for this purpose.
    Read(load::Loaded, Purpose),
}

enum Purpose {
    Apply(Option<oneshot::Sender<PlanReport>>),
    Plan(oneshot::Sender<PlanReport>),
}

struct Daemon {
    news: News,
    folders: Vec<PathBuf>,
    supervisor: Supervisor,
    checker: Checker,
    copies: Copies,
    environment: BTreeMap<String, String>,
    home: String,
    hostname: Arc<str>,
    processes: Processes,
    ledger: Ledger,
    timers: Timers,
    budget: Option<Instant>,
    /// When the manifests are read again because they could not be.
    reread: Option<Instant>,
    logs: Logs,
    reports: Reports,
    tasks: HashMap<AppId, Tasks>,
    queue: VecDeque<Input>,
    answers: HashMap<AskId, oneshot::Sender<Outcome>>,
    asked: AskId,
    drained: Vec<oneshot::Sender<()>>,
    exit: Option<u8>,
    /// The next supervisor is to go on from here: this one ends, and stops nothing.
    makes_way: bool,
    notes: mpsc::UnboundedSender<Note>,
    requests: mpsc::UnboundedSender<Request>,
    servers: Vec<Server>,
    asks: mpsc::Sender<Ask>,
    inbox: Option<Inbox>,
}

/// The ends of the channels that the loop reads.
struct Inbox {
    notes: mpsc::UnboundedReceiver<Note>,
    requests: mpsc::UnboundedReceiver<Request>,
    asks: mpsc::Receiver<Ask>,
}

/// What is under way for one app.
#[derive(Default)]
struct Tasks {
    hooks: Option<AbortHandle>,
    probe: Option<AbortHandle>,
}

impl Daemon {
    fn new(state: &Path, folders: Vec<PathBuf>, guard: process::Guard, news: News) -> anyhow::Result<Self> {
        let environment = utf8_environment();
        let home = home_of(&environment);
        let (ledger, inherited, refused) = Ledger::open(state);
        if let Some(why) = refused {
            tracing::error!(event = "state.refused", "{why}");
        }
        let processes = Processes::new(state, Path::new(&home), raise_open_files(), guard, inherited.leaders)
            .context("cannot supervise processes")?;
        let copies = Copies::open(state);
        let mut supervisor = Supervisor::default();
        supervisor.inherit(inherited.legacy);
        let (notes, notes_end) = mpsc::unbounded_channel();
        let (requests, requests_end) = mpsc::unbounded_channel();
        let (asks, asks_end) = mpsc::channel(64);
        let reports = Reports::with_crashes(inherited.crashes);
        let control = control::start(&state.join("control.sock"), asks.clone(), reports.events())
            .with_context(|| format!("cannot open the control socket in {}", state.display()))?;
        Ok(Daemon {
            news,
            folders,
            supervisor,
            checker: Checker::default(),
            copies,
            hostname: rustix::system::uname().nodename().to_string_lossy().into(),
            environment,
            home,
            processes,
            ledger,
            timers: Timers::default(),
            budget: None,
            reread: None,
            logs: Logs::new(state),
            reports,
            tasks: HashMap::new(),
            queue: VecDeque::new(),
            answers: HashMap::new(),
            asked: 0,
            drained: Vec::new(),
            exit: None,
            makes_way: false,
            notes,
            requests,
            servers: vec![control],
            asks,
            inbox: Some(Inbox { notes: notes_end, requests: requests_end, asks: asks_end }),
        })
    }

    async fn run(&mut self) -> anyhow::Result<u8> {
        let mut inbox = self.inbox.take().context("the loop runs once")?;
        let mut signals = Signals::new()?;
        let watched = sys::async_fd(self.processes.wakes()?, Interest::READABLE)?;
        let guard = self.processes.guard_wakes()?.map(|fd| sys::async_fd(fd, Interest::READABLE)).transpose()?;
        let mut watch = watch::start(self.folders.clone());
        self.begin();
        self.serve_metrics().await;
        while self.exit.is_none() && !self.makes_way {
            let next = self.next_moment();
            tokio::select! {
                biased;
                _ = signals.child.recv() => {}
                ready = watched.readable() => ready?.clear_ready(),
                ready = readable(guard.as_ref()), if self.processes.guard().is_some() => ready?.clear_ready(),
                () = wait_until(next) => {}
                Some(request) = inbox.requests.recv() => self.serve(request),
                Some(note) = inbox.notes.recv() => self.take_note(note),
                Some(ask) = inbox.asks.recv() => self.take_ask(ask),
                () = watch.changed() => self.read_manifests(Purpose::Apply(None)),
                _ = signals.reload.recv() => self.read_manifests(Purpose::Apply(None)),
                _ = signals.terminate.recv() => self.drain_or_hurry("SIGTERM"),
                _ = signals.interrupt.recv() => self.drain_or_hurry("SIGINT"),
            }
            self.work();
        }
        for server in self.servers.drain(..) {
            server.close(Duration::from_millis(500)).await;
        }
        self.logs.flush(Duration::from_secs(1)).await;
        let code = self.exit.unwrap_or(0);
        if !self.makes_way {
            self.ledger.close();
            self.copies.close();
            self.processes.tell_guard(&ToGuard::Finished(code));
        }
        Ok(code)
    }

    /// The first turn: takes over what an earlier supervisor has left, and starts the rest.
    fn begin(&mut self) {
        if !self.news.cause.is_empty() {
            let News { deaths, cause } = &self.news;
            tracing::warn!(
                event = "supervisor.restarted",
                deaths,
                reason = cause,
                "the supervisor goes on after: {cause}"
            );
        }
        let draining = self.supervisor.inherited_drain();
        let loaded = load::load(&self.folders);
        self.remember(&loaded);
        self.apply(loaded, None);
        self.work();
        if let Some(code) = draining {
            self.queue.push_back(Input::DrainAsked { code });
            self.work();
        }
        self.processes.taken_over();
        self.processes.tell_guard(&ToGuard::Ready);
        sys::slim_down();
    }

    async fn serve_metrics(&mut self) {
        let Some(address) = self.supervisor.workspace().metrics.clone().filter(|address| !address.is_empty()) else {
            return;
        };
        match control::start_metrics(&address, self.asks.clone()).await {
            Ok(server) => self.servers.push(server),
            Err(error) => {
                let error = error.to_string();
                tracing::error!(
                    event = "metrics.failed",
                    error,
                    "metrics cannot be served at {address}: {error} (workspace.ron, `metrics`)"
                );
            }
        }
    }

    /// One turn: everything that has happened, and all that follows from it.
    fn work(&mut self) {
        self.processes.forget_table();
        self.processes.reap(|ended| self.ledger.ended(ended));
        self.processes.hear_guard();
        self.processes.watched_ended();
        let now = Instant::now();
        self.processes.give_up_waiting(now);
        while let Some((app, timer, run)) = self.timers.fire(now) {
            self.queue.push_back(Input::Happened(app, Event::Fired { run, timer }));
        }
        if self.budget.is_some_and(|budget| budget <= now) {
            self.budget = None;
            tracing::warn!(event = "drain.hurried", "the stop budget is used up: killing what is left");
            self.queue.push_back(Input::Hurried);
        }
        if self.reread.take_if(|due| *due <= now).is_some() {
            self.read_manifests(Purpose::Apply(None));
        }
        let mut effects = Vec::new();
        loop {
            while let Some((app, event)) = self.processes.happened() {
                self.queue.push_back(Input::Happened(app, event));
            }
            let Some(input) = self.queue.pop_front() else { break };
            self.supervisor.handle(clock(), fastrand::f64(), input, &mut effects);
            for effect in effects.drain(..) {
                self.perform(effect);
            }
        }
        for (app, crash) in self.reports.tell() {
            self.ledger.crash(&app, &crash);
        }
        self.write_down();
    }

    /// Where everything is now, for the next supervisor. Behind the turn's work, which may be a respawn.
    fn write_down(&mut self) {
        for (_, name, kept) in self.supervisor.moved_apps() {
            let leader = kept.posture.pid().and_then(|pid| self.processes.leader(pid));
            self.ledger.app(name, leader, kept);
        }
        self.ledger.session(self.supervisor.session());
        self.ledger.write();
    }

    fn next_moment(&self) -> Option<Instant> {
        self.timers.next().into_iter().chain(self.budget).chain(self.reread).chain(self.processes.next()).min()
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::App(id, effect) => self.perform_for(id, effect),
            Effect::Appeared(_, app) | Effect::Changed(_, app) => self.attach_log(&app.name, &app.manifest.log),
            Effect::Vanished(id, name) => {
                self.tasks.remove(&id);
                self.logs.detach(&name);
                self.reports.forget(&name);
                self.ledger.gone(&name);
                self.processes.tell_guard(&ToGuard::Release(name));
            }
            Effect::Stage(workspace) => self.stage(workspace),
            Effect::Answer(id, outcome) => {
                if let Some(reply) = self.answers.remove(&id) {
                    let _ = reply.send(outcome); // whoever asked may have left
                }
            }
            Effect::ArmBudget(after) => self.budget = Some(Instant::now() + after),
            Effect::Exit(code) => {
                self.exit = Some(code);
                for reply in self.drained.drain(..) {
                    let _ = reply.send(()); // as above
                }
            }
        }
    }

    fn perform_for(&mut self, id: AppId, effect: AppEffect) {
        match effect {
            AppEffect::LookUp { run, app, by_cookie } => {
                let event = match self.processes.look_up(id, run, &app, by_cookie) {
                    Found::Leader(pid) => Event::Found { run, pid },
                    Found::Ended(exit, peak) => Event::Exited { run, exit, peak: Some(peak) },
                    Found::Remains => Event::Remains { run },
                    Found::Nothing => Event::NotFound { run },
                };
                self.queue.push_back(Input::Happened(id, event));
            }
            AppEffect::Spawn { run, app } => self.spawn(id, run, &app),
            AppEffect::RunHooks { run, app, action } => self.run_hooks(id, run, app, action),
            AppEffect::RunPostlaunch { run, app } => self.run_postlaunch(id, run, app),
            AppEffect::CancelHooks => abort(self.tasks.entry(id).or_default().hooks.take()),
            AppEffect::Probe { run, app, kind } => self.probe(id, run, app, kind),
            AppEffect::CancelProbe => abort(self.tasks.entry(id).or_default().probe.take()),
            AppEffect::Measure { run } => {
                let name = self.supervisor.name(id).unwrap_or_default().to_string();
                let bytes = self.processes.measure(id, &name);
                self.queue.push_back(Input::Happened(id, Event::Measured { run, bytes }));
            }
            AppEffect::Signal { pid, signal } => self.processes.signal(pid, signal),
            AppEffect::StopRest { run } => self.clear(id, run, libc::SIGTERM),
            AppEffect::Sweep { run } => self.clear(id, run, libc::SIGKILL),
            AppEffect::Arm { run, timer, after } => self.timers.arm(id, timer, run, Instant::now() + after),
            AppEffect::Disarm(timer) => self.timers.disarm(id, timer),
            AppEffect::EndSession { code } => {
                tracing::error!(event = "session.ending", code, "an app whose end ends the session has given up");
            }
            AppEffect::Report(report) => self.report(id, report),
        }
    }

    fn clear(&mut self, id: AppId, run: u64, signal: i32) {
        let Some(name) = self.supervisor.name(id) else { return };
        self.processes.clear(id, run, name, signal);
    }

    fn report(&mut self, id: AppId, report: Report) {
        let Some(app) = self.supervisor.app(id) else { return };
        let mut tail = Vec::new();
        if let Report::Crashed { run, exit, .. } = &report {
            tail = self.logs.tail(&app.name, app.manifest.log.tail as usize);
            // Whoever reads the log alone wants to know; an app that says nothing has no log to say it in.
            if exit.unexpected() && !tail.is_empty() {
                self.logs.note(&app.name, &format!("run {run} ended: {exit}"));
            }
        }
        self.reports.take(&app.name, report, tail);
    }

    fn spawn(&mut self, id: AppId, run: u64, app: &App) {
        // What kept its output from being captured once, a lack of descriptors say, may be over.
        let pipe = self.logs.pipe(&app.name).or_else(|| {
            self.attach_log(&app.name, &app.manifest.log);
            self.logs.pipe(&app.name)
        });
        let spawned = match pipe {
            Some(pipe) => self.processes.spawn(id, run, app, pipe.as_fd()),
            None => Err("no pipe for its output".into()),
        };
        let event = match spawned {
            Ok(pid) => Event::Spawned { run, pid },
            Err(why) => Event::SpawnFailed { run, why },
        };
        self.queue.push_back(Input::Happened(id, event));
    }

    fn attach_log(&self, name: &str, log: &Log) {
        match self.logs.attach(name, log) {
            Ok(()) => self.processes.tell_guard(&ToGuard::Hold(name.into())),
            Err(error) => {
                tracing::error!(event = "log.trouble", app = name, error = %error, "{name}: its output cannot be captured: {error}");
            }
        }
    }

    fn hands(&self, id: AppId, run: u64, app: Arc<App>) -> Hands {
        let variable =
            |name: &str| app.env.get(name).or_else(|| self.environment.get(name)).filter(|value| !value.is_empty());
        let screen = display::Screen {
            display: variable("DISPLAY").cloned(),
            authority: variable("XAUTHORITY")
                .map(PathBuf::from)
                .or_else(|| Some(Path::new(&self.home).join(".Xauthority"))),
        };
        Hands {
            id,
            run,
            screen,
            hostname: self.hostname.clone(),
            home: PathBuf::from(&self.home),
            requests: self.requests.clone(),
            app,
        }
    }

    fn run_hooks(&mut self, id: AppId, run: u64, app: Arc<App>, action: Option<String>) {
        let (hands, notes) = (self.hands(id, run, app), self.notes.clone());
        let task = tokio::task::spawn_local(async move {
            let event = match hands.before_start(action).await {
                Ok(()) => Event::HooksDone { run },
                Err(why) => Event::HookFailed { run, why },
            };
            let _ = notes.send(Note::Happened(id, event)); // the loop may have ended
        });
        let tasks = self.tasks.entry(id).or_default();
        abort(tasks.hooks.replace(task.abort_handle()));
    }

    fn run_postlaunch(&mut self, id: AppId, run: u64, app: Arc<App>) {
        let hands = self.hands(id, run, app);
        let task = tokio::task::spawn_local(async move {
            let app = hands.app.clone();
            if let Err(why) = hands.run("postlaunch", &app.manifest.postlaunch).await {
                tracing::warn!(event = "hook.failed", app = app.name, reason = why, "{}: {why}", app.name);
            }
        });
        let tasks = self.tasks.entry(id).or_default();
        abort(tasks.hooks.replace(task.abort_handle()));
    }

    fn probe(&mut self, id: AppId, run: u64, app: Arc<App>, kind: ProbeKind) {
        let manifest = &app.manifest;
        let asked = match kind {
            ProbeKind::Ready => manifest.ready.as_ref().map(|ready| (ready.probe.clone(), ready.within.0)),
            ProbeKind::Health => manifest.health.as_ref().map(|health| (health.probe.clone(), health.timeout.0)),
        };
        let Some((target, within)) = asked else { return };
        let (hands, notes) = (self.hands(id, run, app), self.notes.clone());
        let task = tokio::task::spawn_local(async move {
            let event = match hands.probe(&target, within).await {
                Ok(()) => Event::ProbePassed { run },
                Err(why) => Event::ProbeFailed { run, why },
            };
            let _ = notes.send(Note::Happened(id, event)); // the loop may have ended
        });
        let tasks = self.tasks.entry(id).or_default();
        abort(tasks.probe.replace(task.abort_handle()));
    }

    /// The session's own steps run like an app's hooks, under the name `workspace`.
    fn stage(&mut self, workspace: Arc<Workspace>) {
        let app = Arc::new(App::of_workspace(&workspace));
        self.attach_log(&app.name, &app.manifest.log);
        let (hands, notes) = (self.hands(AppId::WORKSPACE, 0, app), self.notes.clone());
        tokio::task::spawn_local(async move {
            if let Err(why) = hands.run("stage", &workspace.stage).await {
                tracing::error!(
                    event = "stage.failed",
                    reason = why,
                    "workspace.ron: {why}; the apps are started all the same"
                );
            }
            let _ = notes.send(Note::Staged); // the loop may have ended
        });
    }

    fn serve(&mut self, request: Request) {
        match request {
            Request::Command { app, id, run, argv, started } => {
                let reply = match self.logs.pipe(&app.name) {
                    Some(pipe) => self.processes.spawn_hook(id, (run, &app), &argv, pipe.as_fd()),
                    None => Err("no pipe for its output".into()),
                };
                if let Err(Ok((pid, _))) = started.send(reply) {
                    self.processes.kill_hook(pid); // cancelled while it was being started
                }
            }
            Request::KillCommand(pid) => self.processes.kill_hook(pid),
        }
    }

    fn take_note(&mut self, note: Note) {
        match note {
            Note::Happened(id, event) => self.queue.push_back(Input::Happened(id, event)),
            Note::Staged => self.queue.push_back(Input::Staged),
            Note::Read(loaded, Purpose::Apply(reply)) => self.apply(loaded, reply),
            Note::Read(loaded, Purpose::Plan(reply)) => {
                let checked = self.check(&loaded);
                let _ = reply.send(self.supervisor.plan(&checked)); // whoever asked may have left
            }
        }
    }

    fn read_manifests(&self, purpose: Purpose) {
        let (folders, notes) = (self.folders.clone(), self.notes.clone());
        tokio::task::spawn_blocking(move || notes.send(Note::Read(load::load(&folders), purpose)));
    }

    fn check(&mut self, loaded: &load::Loaded) -> Checked {
        check_loaded(&mut self.checker, loaded, &self.environment, &self.home)
    }

    /// What an earlier supervisor knew of manifests that are broken now, or gone.
    fn remember(&mut self, loaded: &load::Loaded) {
        let named: BTreeSet<&str> = loaded.sources.iter().map(|source| source.name.as_str()).collect();
        let gone = self.supervisor.inherited_names().filter(|name| !named.contains(name));
        let gone = gone.filter_map(|name| {
            let file = self.copies.file(name).display().to_string();
            Some(Source { name: name.into(), file, text: Ok(self.copies.of(name)?) })
        });
        let session = loaded.sources.iter().filter(|source| source.name == WORKSPACE).cloned();
        let gone: Vec<Source> = gone.chain(session).collect();
        let checked = self.check(loaded);
        let has_good = |source: &&Source| source.name != WORKSPACE && checked.apps.contains_key(&source.name);
        let copy = |source: &Source| {
            let text = Ok(self.copies.of(&source.name)?);
            Some(Source { text, ..source.clone() })
        };
        let copies: Vec<Source> = loaded.sources.iter().filter(|source| !has_good(source)).filter_map(copy).collect();
        let executable = |file: &str| process::executable(Path::new(file));
        let around = Surroundings { env: &self.environment, home: &self.home, executable: &executable };
        self.checker.remember(&copies, &around);
        self.supervisor.last_known(Checker::default().check(&gone, true, &around).apps);
    }

    fn keep_copies(&mut self, loaded: &load::Loaded, checked: &Checked) {
        let broken = |source: &Source| {
            let told = checked.problems.iter().any(|problem| problem.is_error() && problem.file == source.file);
            told || checked.stale.contains_key(&source.name)
        };
        let (mut good, mut others) = (Vec::new(), BTreeSet::new());
        for source in &loaded.sources {
            match &source.text {
                Ok(text) if !broken(source) => good.push((source.name.as_str(), text.as_str())),
                _ => drop(others.insert(source.name.as_str())),
            }
        }
        self.copies.keep(&good, &others, checked.complete);
    }

    fn apply(&mut self, loaded: load::Loaded, reply: Option<oneshot::Sender<PlanReport>>) {
        self.reread = loaded.look_again.then(|| Instant::now() + REREAD);
        let checked = self.check(&loaded);
        self.keep_copies(&loaded, &checked);
        let plan = self.supervisor.plan(&checked);
        self.reports.take_plan(&plan, &checked.problems);
        self.queue.push_back(Input::Loaded(Box::new(checked)));
        if let Some(reply) = reply {
            self.work();
            let _ = reply.send(plan); // whoever asked may have left
        }
    }

    fn take_ask(&mut self, ask: Ask) {
        match ask {
            Ask::Apps(reply) => {
                let mut snapshot = self.supervisor.snapshot(clock());
                if self.processes.guard().is_none() {
                    snapshot.problems.push(process::UNGUARDED.into());
                }
                for app in &mut snapshot.apps {
                    app.memory_bytes = app.pid.map(|pid| self.processes.resident_with_descendants(pid));
                    let log = self.logs.stats(&app.name);
                    if app.state == StateName::Stopping
                        && let Some(id) = self.supervisor.id(&app.name)
                    {
                        add_holdouts(&mut app.detail, &self.processes.holding_up(id, app.pid));
                    }
                    app.log_trouble = log.trouble.map(|why| format!("{why} ({} lines dropped)", log.dropped_lines));
                }
                let _ = reply.send(snapshot); // whoever asked may have left; so below
            }
            Ask::Verb { app, verb, wait, reply } => {
                self.forget_the_gone();
                self.asked += 1;
                self.answers.insert(self.asked, reply);
                tracing::info!(event = "app.asked", app, verb = %verb, "asked to {verb} {app}");
                self.queue.push_back(Input::Asked { id: self.asked, app, verb, wait });
            }
            Ask::Command { app, reply } => {
                let known = self.supervisor.id(&app).and_then(|id| self.supervisor.app(id));
                let _ = reply.send(known.map(|app| app.command_line()));
            }
            Ask::Crashes { app, reply } => {
                let known = self.supervisor.id(&app).is_some();
                let _ = reply.send(known.then(|| self.reports.crashes(&app)));
            }
            Ask::Logs { app, lines, reply } => self.send_logs(app, lines, reply),
            Ask::Plan(reply) => self.read_manifests(Purpose::Plan(reply)),
            Ask::Reload(reply) => self.read_manifests(Purpose::Apply(Some(reply))),
            Ask::Supervisor(reply) => {
                let _ = reply.send(self.identity()); // as above
            }
            Ask::Upgrade { binary, reply } => {
                let _ = reply.send(self.upgrade(binary)); // as above
            }
            Ask::Drain(reply) => {
                self.drained.push(reply);
                self.queue.push_back(Input::DrainAsked { code: 0 });
            }
        }
    }

    fn identity(&self) -> Identity {
        Identity {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            guard: self.processes.guard(),
            deaths: self.news.deaths,
            after: Some(self.news.cause.clone()).filter(|cause| !cause.is_empty()),
            ledger: state::VERSION,
            folders: self.folders.iter().map(|folder| folder.display().to_string()).collect(),
            troubles: self.processes.troubles().into_iter().chain(self.ledger.trouble()).collect(),
        }
    }

    fn upgrade(&mut self, binary: String) -> Outcome {
        let refuse =
            |message: String| Outcome { app: String::new(), done: false, message, refusal: Some(Refusal::WrongState) };
        if self.processes.guard().is_none() {
            return refuse(format!("cannot go on with {binary}: {}", process::UNGUARDED));
        }
        if self.supervisor.session().draining.is_some() {
            return refuse(format!("cannot go on with {binary}: the session is ending"));
        }
        tracing::info!(event = "supervisor.upgrading", binary, "making way for {binary}");
        self.processes.tell_guard(&ToGuard::Upgrade(binary.clone()));
        self.makes_way = true;
        Outcome { app: String::new(), done: true, message: format!("making way for {binary}"), refusal: None }
    }

    fn send_logs(&self, app: String, lines: usize, reply: oneshot::Sender<Option<control::LogStream>>) {
        if self.supervisor.id(&app).is_none() {
            let _ = reply.send(None);
            return;
        }
        let logs = self.logs.clone();
        tokio::task::spawn_local(async move {
            let follow = logs.follow(&app);
            let head = logs.lines(&app, lines).await;
            let _ = reply.send(Some(control::LogStream { head, follow }));
        });
    }

    /// Requests whose client has left are not waited for any more.
    fn forget_the_gone(&mut self) {
        let gone: Vec<AskId> = self.answers.iter().filter(|(_, reply)| reply.is_closed()).map(|(id, _)| *id).collect();
        for id in gone {
            self.answers.remove(&id);
            self.queue.push_back(Input::Forgotten(id));
        }
    }

    fn drain_or_hurry(&mut self, signal: &str) {
        let draining = self.supervisor.snapshot(clock()).draining;
        let input = match draining {
            false => {
                tracing::info!(event = "drain.begun", "{signal}: stopping everything");
                Input::DrainAsked { code: 0 }
            }
            true => {
                tracing::warn!(event = "drain.hurried", "{signal} again: killing what is left");
                Input::Hurried
            }
        };
        self.queue.push_back(input);
    }
}

struct Signals {
    child: Signal,
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Signals {
            child: signal(SignalKind::child())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::hangup())?,
        })
    }
}

/// Time since the machine was started, sleep included: the same for all supervisors of a session.
fn clock() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

/// What keeps a stop from its end.
fn add_holdouts(detail: &mut String, processes: &[String]) {
    /// Named one by one; more than that are counted.
    const NAMED: usize = 3;
    let Some(first) = processes.get(..processes.len().min(NAMED)).filter(|first| !first.is_empty()) else { return };
    if !detail.is_empty() {
        detail.push_str("; ");
    }
    detail.push_str("alive: ");
    detail.push_str(&first.join(", "));
    if processes.len() > NAMED {
        detail.push_str(&format!(" and {} more", processes.len() - NAMED));
    }
}

async fn readable(fd: Option<&AsyncFd<OwnedFd>>) -> std::io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
    match fd {
        Some(fd) => fd.readable().await,
        None => std::future::pending().await,
    }
}

async fn wait_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

fn abort(task: Option<AbortHandle>) {
    if let Some(task) = task {
        task.abort();
    }
}

fn home_of(environment: &BTreeMap<String, String>) -> String {
    environment.get("HOME").filter(|home| !home.is_empty()).cloned().unwrap_or_else(|| "/".into())
}

/// Variables that are not UTF-8 are passed on to the apps, but no manifest can name them.
fn utf8_environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// A thousand apps need more descriptors than the usual soft limit. Returns the old one, for the apps: a
/// program that uses `select` breaks on more than 1024.
fn raise_open_files() -> Option<u64> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(Resource::Nofile, raised).ok().and(limit.current)
}
