//! The supervisor's event loop. It takes one input, lets the supervisor decide, performs all the effects, and only
//! then takes the next input. Reports are written at the end of a turn, when its work is done. The loop makes no
//! decisions about apps: `model::supervisor` does.

mod answer;
pub(crate) mod control;
mod display;
mod files;
mod hooks;
mod jobs;
pub(crate) mod logs;
mod manifests;
mod offline;
mod perform;
mod probes;
mod process;
mod report;
mod startup;
pub mod state;
mod timers;
mod watch;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::host::handover::Handover;
use crate::host::journal::{self, Journal};
use crate::host::layout;
use crate::host::link::Link;
use crate::host::load::Loaded;
use crate::host::marks;
use crate::host::privacy::{self, OomScore};
use crate::host::{proc, sys};
use crate::http::Server;
use crate::model::guard::{Hello, ToGuard};
use crate::model::machine::AppEvent;
use crate::model::supervisor::{DrainCause, Input, Leave, Supervisor};
use answer::Answers;
use control::Ask;
use hooks::Request;
use jobs::Jobs;
use logs::Logs;
use manifests::{Manifests, Purpose, Reading};
use perform::Start;
use process::{OwnLimits, Processes};
use report::Reports;
use startup::Welcome;
use state::{Folder, Ledger};
use timers::Timers;

pub use manifests::Environment;
pub use offline::{check, plan};

/// The options of `kasm-void run`.
pub struct RunOptions {
    /// Manifest folders. If two hold the same file name, the later folder wins.
    pub folders: Vec<PathBuf>,
    /// The state folder.
    pub state: PathBuf,
    /// The format of the supervisor's log on stdout.
    pub log_format: journal::Format,
    /// Also write the supervisor's log into daily files here.
    pub log_dir: Option<PathBuf>,
}

/// Places in the descriptor table from the start, 8 bytes each: enough for thousands of apps.
const DESCRIPTORS: u64 = 4096;

/// Runs the supervisor until it is told to drain. The guard is at the other end of `line`. Returns the code of
/// `on_give_up`, or 0.
pub fn run(options: RunOptions, line: Link) -> anyhow::Result<ExitCode> {
    let oom_score = OomScore::open().ok();
    privacy::hide();
    let _ = rustix::thread::set_name(marks::SUPERVISOR_NAME); // cannot fail: it is short, and the thread is our own
    let (welcome, lock) = Welcome::hear(line)?;
    let state = layout::resolved(&options.state);
    sys::share_one_heap();
    proc::keep_spare();
    sys::survive_file_size_limit();
    let open_files = sys::raise_open_files();
    sys::reserve_descriptors(DESCRIPTORS);
    let journal = Journal::start(options.log_format, options.log_dir.as_deref())?;
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().max_blocking_threads(64).on_thread_park(startup::slim_down_if_over);
    let runtime = runtime.build()?;
    let limits = OwnLimits { open_files, oom_score };
    let deaths = welcome.hello.deaths;
    let folder = Folder::new(&state, lock);
    let (code, signal, pipes, lock) = LocalSet::new().block_on(&runtime, async {
        let (mut daemon, inbox) = Daemon::new(folder, options.folders, welcome, limits)?;
        let code = daemon.run(inbox).await?;
        let becomes_guard = daemon.ending.leaves == Some(Leave::ToBecomeGuard);
        if becomes_guard {
            sys::raise_open_files(); // it may have been lowered since, and without a free one the session would end here
        }
        let pipes = becomes_guard.then(|| daemon.logs.descriptors());
        anyhow::Ok((code, daemon.ending.signal, pipes, daemon.folder.into_lock()))
    })?;
    // We still hold the lock, so the socket is ours. The next supervisor binds its own.
    let _ = std::fs::remove_file(layout::control_socket(&state));
    // Blocking steps that hang on a dead disk must not delay the exit.
    runtime.shutdown_timeout(Duration::from_millis(100));
    drop(journal);
    if let Some(pipes) = pipes {
        let error = Handover { lock, pipes, deaths, open_files, signal }.exec();
        anyhow::bail!("the guard has died, and its supervisor cannot take its place: {error}");
    }
    drop(lock);
    Ok(ExitCode::from(code))
}

pub(crate) struct Daemon {
    supervisor: Supervisor,
    /// Inputs of this turn.
    inputs: VecDeque<Input>,
    /// Apps to start next, all together.
    starts: Vec<Start>,
    /// The guard's report about the supervisors before this one.
    hello: Hello,
    jobs: Jobs,
    manifests: Manifests,
    processes: Processes,
    folder: Folder,
    ledger: Ledger,
    timers: Timers,
    logs: Logs,
    reports: Reports,
    answers: Answers,
    ending: Ending,
}

/// How and when the loop ends.
#[derive(Default)]
struct Ending {
    /// When the stop budget runs out.
    budget: Option<Instant>,
    /// The exit code, once every app is down.
    exit: Option<u8>,
    /// Set when this process ends without stopping apps, because another supervisor takes over.
    leaves: Option<Leave>,
    /// The binary of the upgrade that was asked for, opened when it was judged.
    binary: Option<OwnedFd>,
    /// A signal that ends the session and came too late to be taken as an input.
    signal: Option<i32>,
}

/// The loop's queues: all that it reads besides signals, timers and processes.
pub(crate) struct Inbox {
    /// Results of hooks and probes.
    inputs: mpsc::UnboundedReceiver<Input>,
    /// Commands that hooks want started or killed.
    commands: mpsc::UnboundedReceiver<Request>,
    /// Manifest folders that have been read.
    readings: mpsc::UnboundedReceiver<Reading>,
    /// Requests from the control socket.
    asks: mpsc::Receiver<Ask>,
    asks_sender: mpsc::Sender<Ask>,
    control: Option<Server>,
    servers: Vec<Server>,
}

impl Daemon {
    async fn run(&mut self, mut inbox: Inbox) -> anyhow::Result<u8> {
        let mut signals = Signals::new()?;
        let watched = sys::async_fd(self.processes.wakes()?, Interest::READABLE)?;
        let guard = self.processes.guard_wakes()?.map(|fd| sys::async_fd(fd, Interest::READABLE)).transpose()?;
        self.manifests.watch();
        let folder = self.folder.wakes()?.map(|fd| sys::async_fd(fd, Interest::READABLE)).transpose()?;
        self.begin();
        self.manifests.watch_env_files();
        self.serve_metrics(&mut inbox).await;
        while self.ending.exit.is_none() && self.ending.leaves.is_none() {
            let next = self.next_moment();
            tokio::select! {
                biased;
                _ = signals.child.recv() => {}
                ready = watched.readable() => ready?.clear_ready(),
                ready = readable(guard.as_ref()), if self.processes.guard().is_some() => ready?.clear_ready(),
                ready = readable(folder.as_ref()), if folder.is_some() => {
                    ready?.clear_ready();
                    self.folder.changed();
                }
                () = wait_until(next) => {}
                Some(command) = inbox.commands.recv() => self.take_command(command),
                Some(input) = inbox.inputs.recv() => self.inputs.push_back(input),
                Some((loaded, purpose)) = inbox.readings.recv() => self.take_reading(loaded, purpose),
                Some(ask) = inbox.asks.recv() => self.take_ask(ask),
                () = self.manifests.changed() => self.manifests.read(Purpose::Apply(None)),
                _ = signals.reload.recv() => self.manifests.read(Purpose::Apply(None)),
                _ = signals.terminate.recv() => self.inputs.push_back(Input::EndSignalled("SIGTERM")),
                _ = signals.interrupt.recv() => self.inputs.push_back(Input::EndSignalled("SIGINT")),
                _ = signals.quit.recv() => self.inputs.push_back(Input::EndSignalled("SIGQUIT")),
            }
            self.turn();
            self.tend_folder(&mut inbox);
            self.manifests.watch_env_files();
        }
        let code = self.ending.exit.unwrap_or(0);
        if self.ending.leaves.is_none() {
            self.ledger.close();
            self.manifests.forget_copies();
            // Before anything that may take long: the guard does not wait much longer.
            self.processes.tell_guard(&ToGuard::Finished(code), None);
        }
        for server in inbox.control.take().into_iter().chain(inbox.servers.drain(..)) {
            server.close(Duration::from_millis(500)).await;
        }
        self.logs.flush(Duration::from_secs(1)).await;
        if self.ending.leaves.is_some() {
            self.ending.signal = signals.left().await;
        }
        Ok(code)
    }

    /// Removes all watches. Otherwise, the exit would wait for the kernel to do it, for 5 to 20 ms.
    fn stop_watching(&mut self) {
        self.manifests.unwatch();
        self.folder.unwatch();
    }

    async fn serve_metrics(&self, inbox: &mut Inbox) {
        let Some(address) = self.supervisor.workspace().metrics.clone().filter(|address| !address.is_empty()) else {
            return;
        };
        match control::start_metrics(&address, inbox.asks_sender.clone()).await {
            Ok(server) => inbox.servers.push(server),
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

    /// One turn: handles everything that has happened and everything that follows from it.
    fn turn(&mut self) {
        self.processes.forget_table();
        self.processes.reap(|ended| self.ledger.ended(ended));
        self.processes.hear_guard();
        self.processes.watched_ended();
        if self.processes.end_asked() {
            self.inputs.push_back(Input::DrainAsked { code: 0, cause: DrainCause::Guard });
        }
        if self.processes.guard().is_none() {
            self.inputs.push_back(Input::GuardLost);
        }
        let now = Instant::now();
        self.processes.give_up_waiting(now);
        while let Some((app, timer, run)) = self.timers.fire(now) {
            self.inputs.push_back(Input::Happened(app, AppEvent::Fired { run, timer }));
        }
        if self.ending.budget.take_if(|budget| *budget <= now).is_some() {
            self.inputs.push_back(Input::BudgetSpent);
        }
        self.manifests.reread_if_due(now);
        self.decide();
        for (app, crash) in self.reports.tell() {
            self.ledger.crash(&app, &crash);
        }
        self.write_down();
    }

    /// Hands each input to the supervisor and performs its effects, until no input is left.
    fn decide(&mut self) {
        let mut effects = Vec::new();
        loop {
            while let Some((app, event)) = self.processes.happened() {
                self.inputs.push_back(Input::Happened(app, event));
            }
            if self.inputs.is_empty() {
                self.start_programs();
            }
            let Some(input) = self.inputs.pop_front() else { break };
            self.answers.outdated();
            self.supervisor.handle(clock(), fastrand::f64(), input, &mut effects);
            for effect in effects.drain(..) {
                self.perform(effect);
            }
        }
    }

    /// The current state is saved last in a turn, so that a respawn does not wait for it.
    fn write_down(&mut self) {
        self.save();
        if self.supervisor.session().draining.is_some() {
            self.answers.drain_begun();
        }
    }

    /// Saves what has changed for the next supervisor.
    fn save(&mut self) {
        for (name, saved) in self.supervisor.moved_apps() {
            let leader = saved.state.pid().and_then(|pid| self.processes.leader(pid));
            self.ledger.app(name, leader, saved);
        }
        self.ledger.session(self.supervisor.session());
        self.ledger.write();
    }

    fn next_moment(&self) -> Option<Instant> {
        let parts = [self.timers.next(), self.manifests.next(), self.processes.next()];
        let folder = [self.folder.next(), self.ledger.next(), self.ending.budget];
        parts.into_iter().chain(folder).flatten().min()
    }

    fn take_reading(&mut self, loaded: Loaded, purpose: Purpose) {
        match purpose {
            Purpose::Apply(ask) => {
                let checked = Box::new(self.manifests.take(&loaded, ask.is_some()));
                self.inputs.push_back(Input::Loaded { checked, ask });
            }
            Purpose::Plan(reply) => {
                let checked = self.manifests.check(&loaded);
                let _ = reply.send(self.supervisor.plan(&checked)); // the client may have disconnected
            }
        }
    }
}

/// Signals the supervisor ignores; their default action would end it. `kill -USR1` is a habit from other programs.
const HARMLESS: [i32; 8] = [
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGSTKFLT,
];

struct Signals {
    child: Signal,
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    reload: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        sys::ignore_signals(&HARMLESS);
        let signals = Signals {
            child: signal(SignalKind::child())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            reload: signal(SignalKind::hangup())?,
        };
        sys::note_signal_actions();
        Ok(signals)
    }

    /// A signal that ends the session and that the loop has not taken.
    async fn left(&mut self) -> Option<i32> {
        /// The runtime passes a signal on only when it looks for events.
        const A_LOOK: Duration = Duration::from_millis(1);
        tokio::select! {
            _ = self.terminate.recv() => Some(libc::SIGTERM),
            _ = self.interrupt.recv() => Some(libc::SIGINT),
            _ = self.quit.recv() => Some(libc::SIGQUIT),
            () = tokio::time::sleep(A_LOOK) => None,
        }
    }
}

/// Time since boot, including sleep. All supervisors of a session share this clock.
fn clock() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
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
