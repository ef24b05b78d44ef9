//! Start-up: receives the session from the guard, opens what the loop needs, and takes the first turn. Makes no
//! decisions about apps.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::mpsc;

use super::answer::Answers;
use super::control;
use super::jobs::Jobs;
use super::logs::Logs;
use super::manifests::{Environment, Manifests, Purpose};
use super::process::{self, OwnLimits, Processes};
use super::report::Reports;
use super::state::{Folder, Ledger};
use super::timers::Timers;
use super::{Daemon, Ending, Inbox};
use crate::host::link::{Heard, Link};
use crate::host::{layout, session, sys};
use crate::model::guard::{Hello, ToGuard, ToSupervisor};
use crate::model::supervisor::Supervisor;

/// How long after the start the code that only the start needs is dropped from memory.
const SETTLED: Duration = Duration::from_secs(1);
/// Set when the start is over.
static OVER: AtomicBool = AtomicBool::new(false);

/// The first messages of the guard to a new supervisor.
pub struct Welcome {
    pub guard: process::GuardClient,
    pub hello: Hello,
    /// The output pipes that earlier supervisors made, by app.
    pub pipes: BTreeMap<String, OwnedFd>,
}

impl Welcome {
    /// Waits until the guard has handed everything over. The caller must hold the returned lock of the state folder as
    /// long as this process lives, so that no other supervisor can start on the folder if the guard dies.
    pub fn hear(line: Link) -> anyhow::Result<(Welcome, OwnedFd)> {
        let (mut greeting, mut pipes, mut exits) = (None, BTreeMap::new(), Vec::new());
        loop {
            line.wait(10);
            match (line.hear().context("cannot understand the guard")?, greeting) {
                (Heard::Message(ToSupervisor::Hello(hello), Some(lock)), None) => greeting = Some((hello, lock)),
                (Heard::Message(ToSupervisor::Go, _), Some((hello, lock))) => {
                    return Ok((Welcome { guard: process::GuardClient::new(line, exits), hello, pipes }, lock));
                }
                (Heard::Message(message, fd), known) => {
                    greeting = known;
                    match (message, fd) {
                        (ToSupervisor::Exited(exit), _) => exits.push(exit),
                        (ToSupervisor::Pipe(app), Some(pipe)) => drop(pipes.insert(app, pipe)),
                        (message, _) => anyhow::bail!("the guard sent {message:?} out of order"),
                    }
                }
                (Heard::Nothing | Heard::Closed, _) => anyhow::bail!("the guard did not hand over the session"),
            }
        }
    }
}

impl Daemon {
    /// Opens what the loop needs, and returns the receiving ends of its channels.
    pub(super) fn new(
        mut folder: Folder,
        folders: Vec<PathBuf>,
        welcome: Welcome,
        limits: OwnLimits,
    ) -> anyhow::Result<(Self, Inbox)> {
        let Welcome { guard, hello, pipes } = welcome;
        let first = hello.cause.is_empty();
        folder.prepare();
        let state = &folder.path().to_owned();
        let environment = Environment::inherited();
        let (ledger, inherited, refused) = Ledger::open(state, &session::id());
        if let Some(why) = refused {
            tracing::error!(event = "state.refused", "{why}");
        }
        let home = Path::new(&*environment.home);
        let processes = Processes::new(state, home, limits, guard, inherited.leaders, inherited.sessions)
            .context("cannot supervise processes")?;
        let mut supervisor = Supervisor::default();
        supervisor.inherit(inherited.session, hello.draining);
        let logs = Logs::new(state);
        logs.take_over(pipes);
        let (inputs_sender, inputs) = mpsc::unbounded_channel();
        let (commands_sender, commands) = mpsc::unbounded_channel();
        let (readings_sender, readings) = mpsc::unbounded_channel();
        let (asks_sender, asks) = mpsc::channel(64);
        let manifests = Manifests::new(folders, state, environment.clone(), readings_sender);
        if inherited.another_session {
            manifests.forget_copies();
        }
        let reports = Reports::with_crashes(inherited.crashes);
        let control = control::start(&layout::control_socket(state), asks_sender.clone(), reports.events())
            .with_context(|| format!("cannot open the control socket in {}", state.display()));
        let control = match control {
            Ok(control) => Some(control),
            Err(error) if first => return Err(error),
            Err(error) => {
                // The apps matter more than the control socket. It is tried again later.
                tracing::error!(event = "state.trouble", "{error:#}");
                folder.changed();
                None
            }
        };
        let daemon = Daemon {
            supervisor,
            inputs: VecDeque::new(),
            starts: Vec::new(),
            hello,
            jobs: Jobs::new(environment.clone(), inputs_sender, commands_sender),
            manifests,
            processes,
            folder,
            ledger,
            timers: Timers::default(),
            logs,
            reports,
            answers: Answers::default(),
            ending: Ending::default(),
        };
        Ok((daemon, Inbox { inputs, commands, readings, asks, asks_sender, control, servers: Vec::new() }))
    }

    /// Restores what was removed from the state folder, when it is time to look.
    pub(super) fn tend_folder(&mut self, inbox: &mut Inbox) {
        let Some(restored) = self.folder.look_if_due(Instant::now()) else { return };
        if restored.lock {
            self.processes.tell_guard(&ToGuard::Lock, Some(self.folder.lock()));
        }
        if self.ledger.was_removed() {
            self.ledger.renew();
        }
        self.manifests.restore_copies();
        if restored.socket || inbox.control.is_none() {
            let socket = layout::control_socket(self.folder.path());
            match control::start(&socket, inbox.asks_sender.clone(), self.reports.events()) {
                // Clients of the old socket stay connected.
                Ok(control) => inbox.servers.extend(inbox.control.replace(control)),
                Err(error) => {
                    tracing::error!(event = "state.trouble", "cannot open {}: {error}", socket.display());
                    self.folder.changed();
                }
            }
        }
    }

    /// Takes the first turn: takes over what an earlier supervisor left, and starts the rest.
    pub(super) fn begin(&mut self) {
        if !self.hello.cause.is_empty() {
            let Hello { deaths, cause, .. } = &self.hello;
            tracing::warn!(
                event = "supervisor.restarted",
                deaths,
                reason = cause,
                "previous supervisor: {cause}; continuing"
            );
        }
        let loaded = self.manifests.load();
        let gone = self.manifests.recall(&loaded, self.supervisor.inherited_names());
        self.supervisor.last_known(gone);
        self.take_reading(loaded, Purpose::Apply(None));
        self.processes.first_look();
        self.turn();
        self.processes.taken_over();
        self.processes.tell_guard(&ToGuard::Ready, None);
        tokio::task::spawn_local(async {
            tokio::time::sleep(SETTLED).await;
            OVER.store(true, Ordering::Relaxed);
        });
    }
}

/// Call this when the loop is about to wait. Once after the start, gives memory back. Doing so in the middle of a turn would
/// load again what the rest of the turn runs through.
pub(super) fn slim_down_if_over() {
    if OVER.swap(false, Ordering::Relaxed) {
        sys::slim_down();
    }
}
