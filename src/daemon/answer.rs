//! Answers requests from the control socket, at once or when the supervisor says so. Adds what only the machine
//! knows, such as memory and processes, to the supervisor's answer.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::control::{self, Ask};
use super::manifests::Purpose;
use super::{Daemon, clock};
use crate::host::trust;
use crate::model::app::AppId;
use crate::model::ledger::VERSION;
use crate::model::protocol::{Answer, Identity, Inspection, PlanReport, Readiness, Refusal, Snapshot, StateName};
use crate::model::spelling::counted;
use crate::model::supervisor::{AppRequest, AskId, DrainCause, Input, Observed};

/// How long the measured memory and CPU time of the apps is given to further clients, unless something has happened. Measuring
/// a browser's memory takes many milliseconds, in which no app is restarted.
const FRESH: Duration = Duration::from_millis(500);

/// Requests that have not been answered yet.
#[derive(Default)]
pub struct Answers {
    /// The last measures, and when the first of them was taken.
    measures: Option<(Instant, Measures)>,
    pending: HashMap<AskId, oneshot::Sender<Answer>>,
    reloads: HashMap<AskId, oneshot::Sender<PlanReport>>,
    last: AskId,
    /// Requests that wait for a drain to begin.
    to_drain: Vec<oneshot::Sender<()>>,
    /// Requests that wait for a drain to end.
    draining: Vec<oneshot::Sender<()>>,
}

/// Memory in bytes and CPU time in milliseconds, by app.
type Measures = HashMap<AppId, (u64, u64)>;

impl Answers {
    /// Call this when something has happened: older measures are not given to anyone.
    pub fn outdated(&mut self) {
        self.measures = None;
    }

    /// Answers one request; its client may have disconnected.
    pub fn give(&mut self, id: AskId, answer: Answer) {
        if let Some(reply) = self.pending.remove(&id) {
            let _ = reply.send(answer);
        }
    }

    /// Answers the request, if any, that had the manifests applied; its client may have disconnected.
    pub fn applied(&mut self, ask: Option<AskId>, plan: PlanReport) {
        if let Some(reply) = ask.and_then(|id| self.reloads.remove(&id)) {
            let _ = reply.send(plan);
        }
    }

    /// Answers those who wait for a drain to begin. Call it once the guard knows of the drain.
    pub fn drain_begun(&mut self) {
        for reply in self.to_drain.drain(..) {
            let _ = reply.send(()); // its client may have disconnected
        }
    }

    /// Answers those who wait for the drain to end.
    pub fn drained(&mut self) {
        for reply in self.draining.drain(..) {
            let _ = reply.send(()); // its client may have disconnected
        }
    }

    fn next_id(&mut self) -> AskId {
        self.last += 1;
        self.last
    }

    /// Removes and returns the requests whose client has disconnected.
    fn take_disconnected(&mut self) -> Vec<AskId> {
        self.pending.extract_if(|_, reply| reply.is_closed()).map(|(id, _)| id).collect()
    }
}

impl Daemon {
    /// Handles one request. A send fails only if the client has disconnected, so its result is ignored.
    pub(super) fn take_ask(&mut self, ask: Ask) {
        match ask {
            Ask::Apps(reply) => drop(reply.send(self.snapshot())),
            Ask::Readiness(reply) => {
                let (snapshot, workspace) = (self.snapshot(), self.supervisor.workspace().clone());
                self.jobs.ask_session(workspace, move |unmet| drop(reply.send(Readiness::of(&snapshot, unmet))));
            }
            Ask::Verb { app, verb, wait, reply } => {
                let disconnected = self.answers.take_disconnected();
                self.inputs.extend(disconnected.into_iter().map(Input::Forgotten));
                tracing::info!(event = "app.asked", app, verb = %verb, "asked to {verb} {app}");
                let id = self.answers.next_id();
                self.answers.pending.insert(id, reply);
                self.inputs.push_back(Input::Asked(AppRequest { id, app, verb, wait }));
            }
            Ask::Command { app, reply } => {
                let known = self.supervisor.id(&app).and_then(|id| self.supervisor.app(id));
                let _ = reply.send(known.map(|app| app.command_line()));
            }
            Ask::Inspect { app, reply } => drop(reply.send(self.inspect(&app))),
            Ask::Crashes { app, reply } => {
                let known = self.supervisor.id(&app).is_some();
                let _ = reply.send(known.then(|| self.reports.crashes(&app)));
            }
            Ask::Logs { app, lines, reply } => self.send_logs(app, lines, reply),
            Ask::Plan(reply) => self.manifests.read(Purpose::Plan(reply)),
            Ask::Reload(reply) => {
                let id = self.answers.next_id();
                self.answers.reloads.insert(id, reply);
                self.manifests.read(Purpose::Apply(Some(id)));
            }
            Ask::Supervisor(reply) => drop(reply.send(self.identity())),
            Ask::Upgrade { binary, reply } => match trust::program(Path::new(&binary)) {
                Ok(opened) => {
                    self.ending.binary = Some(opened);
                    let ask = self.answers.next_id();
                    self.answers.pending.insert(ask, reply);
                    self.inputs.push_back(Input::UpgradeAsked { ask, binary });
                }
                Err(why) => {
                    let (message, refusal) = (format!("cannot upgrade: {why}"), Some(Refusal::WrongState));
                    let _ = reply.send(Answer { app: String::new(), done: false, message, refusal });
                }
            },
            Ask::BeginDrain(reply) => {
                self.answers.to_drain.push(reply);
                self.inputs.push_back(Input::DrainAsked { code: 0, cause: DrainCause::Request });
            }
            Ask::Drain(reply) => {
                self.answers.draining.push(reply);
                self.inputs.push_back(Input::DrainAsked { code: 0, cause: DrainCause::Request });
            }
        }
    }

    fn inspect(&mut self, name: &str) -> Option<Inspection> {
        let id = self.supervisor.id(name)?;
        let status = self.snapshot().apps.into_iter().find(|app| app.name == name)?;
        let app = self.supervisor.app(id)?.clone();
        self.processes.forget_table();
        Some(Inspection {
            status,
            manifest: self.manifests.file(name).map(String::from),
            program: app.program.view(),
            after: app.after.iter().map(ToString::to_string).collect(),
            log: self.logs.file(name).display().to_string(),
            max_rss: app.max_rss,
            processes: self.processes.tree(id),
            crashes: self.reports.crashes(name),
        })
    }

    fn snapshot(&mut self) -> Snapshot {
        let (processes, logs) = (&mut self.processes, &self.logs);
        let now = Instant::now();
        let recent = self.answers.measures.take().filter(|(since, _)| now - *since < FRESH);
        if recent.is_none() {
            processes.forget_table();
        }
        let (since, mut measures) = recent.unwrap_or_else(|| (now, Measures::new()));
        let snapshot = self.supervisor.snapshot(clock(), |id, state, name| {
            let pid = state.pid();
            let log = logs.stats(name);
            let mut measure = || (processes.memory(id), processes.cpu(id).as_millis() as u64);
            let measured = pid.map(|_| *measures.entry(id).or_insert_with(&mut measure));
            Observed {
                memory_bytes: measured.map(|(memory, _)| memory),
                cpu_ms: measured.map(|(_, cpu)| cpu),
                log_trouble: log.trouble.map(|why| format!("{why} ({} dropped)", counted(log.dropped_lines, "line"))),
                alive: processes.holding_up(id, pid.filter(|_| state.name() == StateName::Stopping)),
            }
        });
        self.answers.measures = Some((since, measures));
        snapshot
    }

    fn identity(&mut self) -> Identity {
        let unguarded = self.supervisor.trouble().map(String::from).into_iter();
        let troubles =
            unguarded.chain(self.processes.troubles()).chain(self.folder.trouble()).chain(self.ledger.trouble());
        Identity {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            guard: self.processes.guard(),
            deaths: self.hello.deaths,
            after: Some(self.hello.cause.clone()).filter(|cause| !cause.is_empty()),
            ledger: VERSION,
            folders: self.manifests.folders.iter().map(|folder| folder.display().to_string()).collect(),
            troubles: troubles.collect(),
            strays: self.processes.strays(),
            restored: self.folder.restored(),
        }
    }

    fn send_logs(&self, app: String, lines: usize, reply: oneshot::Sender<Option<control::LogStream>>) {
        if self.supervisor.id(&app).is_none() {
            let _ = reply.send(None);
            return;
        }
        let logs = self.logs.clone();
        tokio::task::spawn_local(async move {
            let head = logs.lines(&app, lines);
            let follow = logs.follow(&app); // starts exactly where the head ends
            let _ = reply.send(Some(control::LogStream { head: head.await, follow }));
        });
    }
}
