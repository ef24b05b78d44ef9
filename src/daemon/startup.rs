//! Start-up: hears the guard, opens what the loop needs and takes its first turn. Decides nothing about apps.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::process::{Resource, Rlimit};
use tokio::sync::mpsc;

use super::answer::Answers;
use super::control;
use super::jobs::Jobs;
use super::logs::Logs;
use super::manifests::{Environment, Manifests, Purpose};
use super::process::{self, Processes};
use super::report::Reports;
use super::state::Ledger;
use super::timers::Timers;
use super::{Daemon, Ending, Inbox};
use crate::host::link::{Heard, Line, ToGuard, ToSupervisor};
use crate::host::sys;
use crate::model::supervisor::{Input, Supervisor};

/// What the guard tells a new supervisor first.
pub struct Welcome {
    pub guard: process::Guard,
    /// The lock of the state folder.
    pub lock: OwnedFd,
    pub predecessors: Predecessors,
}

/// The supervisors of this session that died before this one.
#[derive(Debug, Clone, Default)]
pub struct Predecessors {
    pub deaths: u32,
    /// How the last one ended; empty for the first supervisor of a session.
    pub cause: String,
}

impl Welcome {
    /// Waits until the guard has handed everything over.
    pub fn hear(line: Line) -> anyhow::Result<Welcome> {
        let (mut greeting, mut told) = (None, Vec::new());
        loop {
            line.wait(10);
            match (line.hear().context("cannot hear the guard")?, greeting) {
                (Heard::Message(ToSupervisor::Hello { deaths, cause }, Some(lock)), None) => {
                    greeting = Some((lock, Predecessors { deaths, cause }));
                }
                (Heard::Message(ToSupervisor::Ended(passing), _), known) => {
                    told.push(passing);
                    greeting = known;
                }
                (Heard::Message(ToSupervisor::Go, _), Some((lock, predecessors))) => {
                    return Ok(Welcome { guard: process::Guard::new(line, told), lock, predecessors });
                }
                (heard, _) => anyhow::bail!("the guard did not hand over the state folder: {heard:?}"),
            }
        }
    }
}

impl Daemon {
    /// Opens what the loop needs, and gives the ends of the channels that it reads.
    pub(super) fn new(
        state: &Path,
        folders: Vec<PathBuf>,
        guard: process::Guard,
        predecessors: Predecessors,
    ) -> anyhow::Result<(Self, Inbox)> {
        let environment = Environment::inherited();
        let (ledger, inherited, refused) = Ledger::open(state);
        if let Some(why) = refused {
            tracing::error!(event = "state.refused", "{why}");
        }
        let home = Path::new(&*environment.home);
        let processes = Processes::new(state, home, raise_open_files(), guard, inherited.leaders)
            .context("cannot supervise processes")?;
        let mut supervisor = Supervisor::default();
        supervisor.inherit(inherited.legacy);
        let (inputs_sender, inputs) = mpsc::unbounded_channel();
        let (commands_sender, commands) = mpsc::unbounded_channel();
        let (readings_sender, readings) = mpsc::unbounded_channel();
        let (asks_sender, asks) = mpsc::channel(64);
        let reports = Reports::with_crashes(inherited.crashes);
        let control = control::start(&state.join("control.sock"), asks_sender.clone(), reports.events())
            .with_context(|| format!("cannot open the control socket in {}", state.display()))?;
        let daemon = Daemon {
            supervisor,
            inputs: VecDeque::new(),
            predecessors,
            jobs: Jobs::new(environment.clone(), inputs_sender, commands_sender),
            manifests: Manifests::new(folders, state, environment, readings_sender),
            processes,
            ledger,
            timers: Timers::default(),
            logs: Logs::new(state),
            reports,
            answers: Answers::default(),
            ending: Ending::default(),
        };
        Ok((daemon, Inbox { inputs, commands, readings, asks, asks_sender, servers: vec![control] }))
    }

    /// The first turn: takes over what an earlier supervisor left, and starts the rest.
    pub(super) fn begin(&mut self) {
        if !self.predecessors.cause.is_empty() {
            let Predecessors { deaths, cause } = &self.predecessors;
            tracing::warn!(
                event = "supervisor.restarted",
                deaths,
                reason = cause,
                "the supervisor goes on after: {cause}"
            );
        }
        let draining = self.supervisor.inherited_drain();
        let loaded = self.manifests.load();
        let gone = self.manifests.recall(&loaded, self.supervisor.inherited_names());
        self.supervisor.last_known(gone);
        self.take_reading(loaded, Purpose::Apply(None));
        self.turn();
        if let Some(code) = draining {
            self.inputs.push_back(Input::DrainAsked { code });
            self.turn();
        }
        self.processes.taken_over();
        self.processes.tell_guard(&ToGuard::Ready);
        sys::slim_down();
    }
}

/// Raises the soft limit of open files: a thousand apps need more than the usual one. Returns the old limit, which
/// apps get back, because a program that uses `select` breaks above 1024.
fn raise_open_files() -> Option<u64> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(Resource::Nofile, raised).ok().and(limit.current)
}
