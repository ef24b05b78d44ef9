//! Conducts hooks and probes: one step after the other, each within its time, with what its failure means.
//! The only room that calls others: `files`, `display` and `probes` do the work, and the loop runs commands.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout, timeout_at};

use super::display::{self, Screen};
use super::timers::from_now;
use super::{files, probes, process};
use crate::host::proc::Pid;
use crate::model::app::App;
use crate::model::exit::Exit;
use crate::model::manifest::hook::{Hook, OnFailure, Step};
use crate::model::manifest::probe::Target;
use crate::model::supervisor::AppId;

/// A step that knows its own limit says more about what was missing than we could: it goes first.
const SLACK: Duration = Duration::from_millis(200);
/// Between two looks at something that cannot tell us when it changes.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What only the loop can do for a hook.
pub enum Request {
    /// Start this command in the app's environment.
    Command { app: Arc<App>, id: AppId, run: u64, argv: Vec<String>, started: oneshot::Sender<Started> },
    /// Nobody waits for it any more.
    KillCommand(Pid),
}

/// The command's pid and its end, or why it could not be started.
pub type Started = Result<(Pid, oneshot::Receiver<Exit>), String>;

/// Carries out the steps of one app in one run. Dropping a step's future cancels it.
#[derive(Clone)]
pub struct Hands {
    pub app: Arc<App>,
    pub id: AppId,
    pub run: u64,
    pub screen: Screen,
    pub hostname: Arc<str>,
    pub home: PathBuf,
    pub requests: mpsc::UnboundedSender<Request>,
}

impl Hands {
    /// The steps of a start: the action's, where one was asked for, then `prelaunch`.
    pub async fn before_start(&self, action: Option<String>) -> Result<(), String> {
        if let Some(name) = action {
            let steps = self.app.hooks.actions.get(&name).map_or(&[][..], Vec::as_slice);
            self.run(&format!("actions.{name}"), steps).await?;
        }
        self.run("prelaunch", &self.app.hooks.prelaunch).await
    }

    /// Runs all steps in order. The error is the first failure that counts.
    pub async fn run(&self, list: &str, hooks: &[Hook]) -> Result<(), String> {
        let app = &self.app.name;
        for (i, hook) in hooks.iter().enumerate() {
            let (name, limit) = (hook.step.name(), hook.timeout);
            let said = timeout(limit + SLACK, self.step(hook)).await.unwrap_or_else(|_| Err(not_within(limit)));
            match said {
                Ok(done) if done.is_empty() => {}
                Ok(done) => tracing::info!(event = "hook.done", app, hook = name, "{app}: {done}"),
                Err(why) if hook.on_failure == OnFailure::Continue => tracing::warn!(
                    event = "hook.failed",
                    app,
                    hook = name,
                    reason = why,
                    "{app}: {name} (`{list}[{i}]`) failed, going on: {why}"
                ),
                Err(why) => return Err(format!("{name} (`{list}[{i}]`): {why}")),
            }
        }
        Ok(())
    }

    async fn step(&self, hook: &Hook) -> Result<String, String> {
        match &hook.step {
            Step::WaitFor { what } => self.wait_for(what, hook.timeout).await.map(|()| String::new()),
            Step::Run { argv, if_present } => {
                if *if_present && !process::present(&self.app, &argv[0]) {
                    return Ok(String::new());
                }
                self.command(argv, hook.timeout).await.map(|()| String::new())
            }
            Step::Maximize { enabled: false, .. } => Ok(String::new()),
            Step::Maximize { class, enabled: true } => display::maximize(&self.screen, class, hook.timeout).await,
            Step::MakeDir { .. }
            | Step::Copy { .. }
            | Step::Stage { .. }
            | Step::Remove { .. }
            | Step::ClearDir { .. }
            | Step::ClearLocks { .. }
            | Step::SeedJson { .. } => self.file_step(hook.step.clone()).await,
        }
    }

    /// On a thread of its own: a slow disk must not hold up the loop.
    async fn file_step(&self, step: Step) -> Result<String, String> {
        let (app, hostname) = (self.app.clone(), self.hostname.clone());
        let home = self.home.clone();
        let cancelled = Cancelled::default();
        let told = cancelled.0.clone();
        let done = tokio::task::spawn_blocking(move || {
            let of_app = |pid| process::belongs(&app, pid);
            let cancelled = || told.load(Ordering::Relaxed);
            let program = Path::new(app.program.argv.first().map_or("", String::as_str));
            let hostname = hostname.to_string();
            let around = files::Around { hostname, home, program, of_app: &of_app, cancelled: &cancelled };
            files::perform(&step, &around)
        });
        done.await.unwrap_or_else(|panic| Err(format!("internal error: {panic}")))
    }

    async fn wait_for(&self, what: &Target, within: Duration) -> Result<(), String> {
        match what {
            Target::Display => display::wait_up(&self.screen, within).await,
            Target::Window { class } => display::wait_window(&self.screen, class, within).await,
            _ => {
                let deadline = from_now(within);
                let mut said = format!("{what} was not there");
                let looking = async {
                    while let Err(why) = self.probe(what, within).await {
                        said = why;
                        sleep(LOOK_AGAIN).await;
                    }
                };
                let there = timeout_at(deadline.into(), looking).await;
                there.map_err(|_| format!("{}: {said}", not_within(within)))
            }
        }
    }

    /// Asks once.
    pub async fn probe(&self, target: &Target, within: Duration) -> Result<(), String> {
        match target {
            Target::Display => display::is_up(&self.screen, within).await,
            Target::Window { class } => display::window_exists(&self.screen, class, within).await,
            Target::Tcp { address } => probes::tcp(address, within).await,
            Target::Http { url } => probes::http(url, within).await,
            Target::UnixSocket { path } => probes::unix_socket(path, within).await,
            Target::Path { path } => probes::path(path, within).await,
            Target::Command { argv } => self.command(argv, within).await,
        }
    }

    /// Runs a command to its end. Whoever drops this kills it.
    async fn command(&self, argv: &[String], within: Duration) -> Result<(), String> {
        let (started, reply) = oneshot::channel();
        let request =
            Request::Command { app: self.app.clone(), id: self.id, run: self.run, argv: argv.to_vec(), started };
        let gone = || "the supervisor is ending".to_string();
        self.requests.send(request).map_err(|_| gone())?;
        let (pid, ended) = reply.await.map_err(|_| gone())??;
        let mut leash = Leash { pid: Some(pid), requests: &self.requests };
        let exit = timeout(within, ended).await;
        let exit = exit.map_err(|_| format!("`{}` {}", argv.join(" "), not_within(within)))?.map_err(|_| gone())?;
        leash.pid = None;
        match exit {
            Exit::Clean => Ok(()),
            other => Err(format!("`{}`: {other}", argv.join(" "))),
        }
    }
}

/// Tells a blocking step that nobody waits for it any more.
#[derive(Default)]
struct Cancelled(Arc<AtomicBool>);

impl Drop for Cancelled {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Kills the command that is still at its end when the wait for it is given up.
struct Leash<'a> {
    pid: Option<Pid>,
    requests: &'a mpsc::UnboundedSender<Request>,
}

impl Drop for Leash<'_> {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            let _ = self.requests.send(Request::KillCommand(pid)); // without a loop there is nobody to kill it
        }
    }
}

fn not_within(limit: Duration) -> String {
    format!("not done within {}", humantime::format_duration(limit))
}
