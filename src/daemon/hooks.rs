//! Runs hooks: one step after the other, each within its time limit. Decides what a failure means. The only part of
//! the daemon that calls others: `files` and `display` do the work, `targets` runs probes, and the loop starts the
//! commands, because only the loop starts processes.

mod browser;
mod command;
mod targets;
mod traces;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::display::{self, Screen};
use super::{files, process};
use crate::model::app::App;
use crate::model::manifest::hook::{Hook, OnFailure, Step};
use crate::model::manifest::pattern::Pattern;
use crate::model::supervisor::AppId;

pub use command::Request;

/// Extra time for a step with its own limit: its own error says more about what was missing than ours.
const SLACK: Duration = Duration::from_millis(200);

/// Runs the steps and probes of one app in one run. To cancel, drop the future.
#[derive(Clone)]
pub struct HookRunner {
    pub app: Arc<App>,
    pub id: AppId,
    pub run: u64,
    pub screen: Screen,
    /// This host's name, as browsers write it into their locks.
    pub hostname: Arc<str>,
    pub home: PathBuf,
    pub requests: mpsc::UnboundedSender<Request>,
}

impl HookRunner {
    /// Runs the steps of a start: those of the action, if one was requested, then `prelaunch`.
    ///
    /// # Errors
    /// The first failure that fails the start, with the step's place in the manifest. The same holds for
    /// [`Self::run`].
    pub async fn before_start(&self, action: Option<String>) -> Result<(), String> {
        if let Some(name) = action {
            let steps = self.app.hooks.actions.get(&name).map_or(&[][..], Vec::as_slice);
            self.run(&format!("actions.{name}"), steps).await?;
        }
        self.run("prelaunch", &self.app.hooks.prelaunch).await
    }

    /// Runs all steps of one list, in order. `list` is the name of the manifest field.
    pub async fn run(&self, list: &str, hooks: &[Hook]) -> Result<(), String> {
        let app = &self.app.name;
        for (i, hook) in hooks.iter().enumerate() {
            let (name, limit) = (hook.step.name(), hook.timeout);
            let done = timeout(limit + SLACK, self.perform(hook)).await.unwrap_or_else(|_| Err(not_within(limit)));
            match done {
                Ok(done) => report(app, name, &done),
                Err(why) if hook.on_failure == OnFailure::Continue => tracing::warn!(
                    event = "hook.failed",
                    app,
                    hook = name,
                    reason = why,
                    "{app}: {name} (`{list}[{i}]`) failed, continuing: {why}"
                ),
                Err(why) => return Err(format!("{name} (`{list}[{i}]`): {why}")),
            }
        }
        Ok(())
    }

    /// Runs one step. Returns what was done, empty if there was nothing to do.
    async fn perform(&self, hook: &Hook) -> Result<String, String> {
        let nothing_to_tell = |()| String::new();
        match &hook.step {
            Step::WaitFor { what } => self.wait_for(what, hook.timeout).await.map(nothing_to_tell),
            Step::Run { argv, if_present: true } if !process::present(&self.app, &argv[0]) => Ok(String::new()),
            Step::Run { argv, .. } => self.command(argv, hook.timeout).await.map(nothing_to_tell),
            Step::Maximize { enabled: false, .. } => Ok(String::new()),
            Step::Maximize { class, enabled: true } => self.maximize(class, hook.timeout).await.map(nothing_to_tell),
            Step::MakeDir { .. }
            | Step::Copy { .. }
            | Step::Stage { .. }
            | Step::Remove { .. }
            | Step::ClearDir { .. }
            | Step::ClearLocks { .. }
            | Step::SeedJson { .. } => self.change_files(hook.step.clone()).await,
        }
    }

    async fn maximize(&self, class: &Pattern, within: Duration) -> Result<(), String> {
        let app = self.app.name.clone();
        let progress = move |done: &str| report(&app, "Maximize", done);
        display::maximize(&self.screen, class, within, progress).await
    }

    /// Runs a file step on its own thread: a slow disk must not block the loop.
    async fn change_files(&self, step: Step) -> Result<String, String> {
        let (app, hostname, home) = (self.app.clone(), self.hostname.clone(), self.home.clone());
        let display = self.screen.display.clone();
        let cancelled = Cancelled::default();
        let flag = cancelled.0.clone();
        let done = tokio::task::spawn_blocking(move || {
            process::as_user_of(&app, |own_home| {
                let around = files::Around {
                    hostname: &hostname,
                    home: own_home.unwrap_or(&home),
                    display: display.as_deref(),
                    program: Path::new(app.program.argv.first().map_or("", String::as_str)),
                    of_app: &|pid| process::belongs(&app, pid),
                    cancelled: &|| flag.load(Ordering::Relaxed),
                };
                files::perform(&step, &around)
            })
        });
        done.await.unwrap_or_else(|panic| Err(format!("internal error: {panic}")))
    }
}

fn report(app: &str, hook: &str, done: &str) {
    if !done.is_empty() {
        tracing::info!(event = "hook.done", app, hook, "{app}: {done}");
    }
}

/// Tells a blocking step that it was cancelled.
#[derive(Default)]
struct Cancelled(Arc<AtomicBool>);

impl Drop for Cancelled {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn not_within(limit: Duration) -> String {
    format!("not done within {}", humantime::format_duration(limit))
}
