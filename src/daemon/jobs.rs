//! Jobs: the hooks and probes in progress, at most one of each per app. Owns their tasks and turns their results
//! into inputs of the loop. The steps themselves are in `hooks`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::display::Screen;
use super::hooks::{HookRunner, Request};
use super::manifests::Environment;
use crate::host::proc::Pid;
use crate::model::app::App;
use crate::model::exit::Exit;
use crate::model::machine::{AppEvent, ProbeKind};
use crate::model::manifest::workspace::Workspace;
use crate::model::supervisor::{AppId, Input};

pub struct Jobs {
    running: HashMap<AppId, Running>,
    environment: Environment,
    hostname: Arc<str>,
    /// Receives the results of jobs.
    inputs: mpsc::UnboundedSender<Input>,
    /// Receives the commands that the loop starts for jobs.
    commands: mpsc::UnboundedSender<Request>,
}

/// The jobs in progress for one app.
#[derive(Default)]
struct Running {
    hooks: Option<AbortHandle>,
    probe: Option<AbortHandle>,
}

impl Jobs {
    pub fn new(
        environment: Environment,
        inputs: mpsc::UnboundedSender<Input>,
        commands: mpsc::UnboundedSender<Request>,
    ) -> Self {
        let hostname = rustix::system::uname().nodename().to_string_lossy().into();
        Jobs { running: HashMap::new(), environment, hostname, inputs, commands }
    }

    /// Runs the action's steps, if an action is named, then `prelaunch`.
    pub fn run_hooks(&mut self, id: AppId, run: u64, app: Arc<App>, action: Option<String>) {
        let (runner, inputs) = (self.hook_runner(id, run, app), self.inputs.clone());
        let task = tokio::task::spawn_local(async move {
            let event = match runner.before_start(action).await {
                Ok(()) => AppEvent::HooksDone { run },
                Err(why) => AppEvent::HookFailed { run, why },
            };
            let _ = inputs.send(Input::Happened(id, event)); // the loop may have ended
        });
        abort(self.running.entry(id).or_default().hooks.replace(task.abort_handle()));
    }

    pub fn run_postlaunch(&mut self, id: AppId, run: u64, app: Arc<App>) {
        let runner = self.hook_runner(id, run, app);
        let task = tokio::task::spawn_local(async move {
            let app = runner.app.clone();
            if let Err(why) = runner.run("postlaunch", &app.hooks.postlaunch).await {
                tracing::warn!(event = "hook.failed", app = app.name, reason = why, "{}: {why}", app.name);
            }
        });
        abort(self.running.entry(id).or_default().hooks.replace(task.abort_handle()));
    }

    pub fn run_prestop(&mut self, id: AppId, run: u64, app: Arc<App>) {
        let runner = self.hook_runner(id, run, app.clone());
        self.run_around_a_stop(runner, async move |runner| runner.run("prestop", &app.hooks.prestop).await);
    }

    /// The steps learn how the run ended from their environment.
    pub fn run_poststop(&mut self, (id, run, app): (AppId, u64, Arc<App>), exit: &Exit) {
        let mut told = (*app).clone();
        told.program.env.extend(exit.environment());
        let runner = self.hook_runner(id, run, Arc::new(told));
        self.run_around_a_stop(runner, async move |runner| runner.run("poststop", &app.hooks.poststop).await);
    }

    /// The stop goes on even if a step fails.
    fn run_around_a_stop(
        &mut self,
        runner: HookRunner,
        steps: impl AsyncFnOnce(&HookRunner) -> Result<(), String> + 'static,
    ) {
        let (id, run, inputs) = (runner.id, runner.run, self.inputs.clone());
        let task = tokio::task::spawn_local(async move {
            if let Err(why) = steps(&runner).await {
                let app = &runner.app.name;
                tracing::warn!(event = "hook.failed", app, reason = why, "{app}: {why}");
            }
            let _ = inputs.send(Input::Happened(id, AppEvent::HooksDone { run })); // the loop may have ended
        });
        abort(self.running.entry(id).or_default().hooks.replace(task.abort_handle()));
    }

    /// Asks a browser to close. If that fails, the browser gets its stop signal instead.
    pub fn close_browser(&mut self, (id, run, app): (AppId, u64, Arc<App>), leader: Pid) {
        let Some(port) = app.stop.devtools else { return };
        let (name, signal) = (app.name.clone(), app.stop.signal);
        let (runner, commands) = (self.hook_runner(id, run, app), self.commands.clone());
        let task = tokio::task::spawn_local(async move {
            if let Err(why) = runner.close_browser(port).await {
                tracing::warn!(
                    event = "stop.signalled",
                    app = name,
                    reason = why,
                    "{name}: cannot be asked to close, so it is signalled: {why}"
                );
                let _ = commands.send(Request::Signal { leader, signal }); // the loop may have ended
            }
        });
        abort(self.running.entry(id).or_default().hooks.replace(task.abort_handle()));
    }

    pub fn cancel_hooks(&mut self, id: AppId) {
        abort(self.running.entry(id).or_default().hooks.take());
    }

    /// Runs the probe once.
    pub fn probe(&mut self, id: AppId, run: u64, app: Arc<App>, kind: ProbeKind) {
        let asked = match kind {
            ProbeKind::Ready => app.ready.as_ref().map(|ready| (ready.probe.clone(), ready.within)),
            ProbeKind::Health => app.health.as_ref().map(|health| (health.probe.clone(), health.timeout)),
        };
        let Some((target, within)) = asked else { return };
        let (runner, inputs) = (self.hook_runner(id, run, app), self.inputs.clone());
        let task = tokio::task::spawn_local(async move {
            let event = match runner.probe(&target, within).await {
                Ok(()) => AppEvent::ProbePassed { run },
                Err(why) => AppEvent::ProbeFailed { run, why },
            };
            let _ = inputs.send(Input::Happened(id, event)); // the loop may have ended
        });
        abort(self.running.entry(id).or_default().probe.replace(task.abort_handle()));
    }

    /// Looks for traces of what ended the app.
    pub fn find_traces(&mut self, id: AppId, run: u64, app: Arc<App>) {
        let (runner, inputs) = (self.hook_runner(id, run, app), self.inputs.clone());
        let task = tokio::task::spawn_local(async move {
            let traces = runner.find_traces().await;
            let _ = inputs.send(Input::Happened(id, AppEvent::TracesFound { run, traces })); // the loop may have ended
        });
        abort(self.running.entry(id).or_default().probe.replace(task.abort_handle()));
    }

    pub fn cancel_probe(&mut self, id: AppId) {
        abort(self.running.entry(id).or_default().probe.take());
    }

    /// Runs the workspace's own steps like an app's hooks, under the name `workspace`.
    pub fn stage(&mut self, app: App, workspace: Arc<Workspace>) {
        let (runner, inputs) = (self.hook_runner(AppId::WORKSPACE, 0, Arc::new(app)), self.inputs.clone());
        tokio::task::spawn_local(async move {
            if let Err(why) = runner.run("stage", &workspace.stage).await {
                tracing::error!(
                    event = "stage.failed",
                    reason = why,
                    "workspace.ron: {why}; the apps are started anyway"
                );
            }
            let _ = inputs.send(Input::Staged); // the loop may have ended
        });
    }

    /// Checks everything in the workspace's `ready` and passes the unmet conditions to `answer`, or `None` if
    /// `ready` is empty.
    pub fn ask_session(&self, workspace: Arc<Workspace>, answer: impl FnOnce(Option<Vec<String>>) + 'static) {
        const WITHIN: Duration = Duration::from_secs(2);
        if workspace.ready.is_empty() {
            return answer(None);
        }
        let runner = self.hook_runner(AppId::WORKSPACE, 0, Arc::new(App::of_workspace(&workspace)));
        tokio::task::spawn_local(async move {
            let mut unmet = Vec::new();
            for target in &workspace.ready {
                if let Err(why) = runner.probe(target, WITHIN).await {
                    unmet.push(format!("{target}: {why}"));
                }
            }
            answer(Some(unmet));
        });
    }

    /// Forgets an app that is gone. None of its jobs is in progress.
    pub fn forget(&mut self, id: AppId) {
        self.running.remove(&id);
    }

    fn hook_runner(&self, id: AppId, run: u64, app: Arc<App>) -> HookRunner {
        let inherited = &self.environment.variables;
        let variable =
            |name: &str| app.program.env.get(name).or_else(|| inherited.get(name)).filter(|value| !value.is_empty());
        let home = Path::new(&*self.environment.home);
        let authority = variable("XAUTHORITY").map(PathBuf::from);
        let screen = Screen {
            display: variable("DISPLAY").cloned(),
            authority: authority.or_else(|| Some(home.join(".Xauthority"))),
        };
        HookRunner {
            id,
            run,
            screen,
            hostname: self.hostname.clone(),
            home: home.into(),
            requests: self.commands.clone(),
            app,
        }
    }
}

fn abort(task: Option<AbortHandle>) {
    if let Some(task) = task {
        task.abort();
    }
}
