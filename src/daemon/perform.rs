//! Performs the effects of the supervisor, one after the other. Their results come back as inputs.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::Daemon;
use super::hooks::Request;
use super::logs::{OutputPipe, Speaker};
use super::process::NewProcess;
use super::report::Tail;
use crate::host::clock::from_now;
use crate::model::app::App;
use crate::model::guard::ToGuard;
use crate::model::machine::{AppEffect, AppEvent, Found, Report};
use crate::model::manifest::{log::Log, workspace::Workspace};
use crate::model::supervisor::{AppId, Effect, Input, Leave};

/// An app to start.
pub(super) struct Start {
    id: AppId,
    run: u64,
    app: Arc<App>,
}

/// Whether programs may still be started together if this effect comes between them: it concerns no process.
fn keeps_starts_together(effect: &Effect) -> bool {
    use AppEffect::{Arm, Disarm, Report, Spawn};
    matches!(effect, Effect::App(_, Spawn { .. } | Report(_) | Arm { .. } | Disarm(_)))
}

impl Daemon {
    pub(super) fn perform(&mut self, effect: Effect) {
        if !keeps_starts_together(&effect) {
            self.start_programs();
        }
        match effect {
            Effect::App(id, effect) => self.perform_for(id, effect),
            Effect::Appeared(id, app) | Effect::Changed(id, app) => self.attach_log(id, &app.name, &app.log),
            Effect::Vanished(id, name) => {
                self.jobs.forget(id);
                self.logs.detach(&name);
                self.reports.forget(&name);
                self.ledger.gone(&name);
                self.processes.vanished(id);
                self.processes.tell_guard(&ToGuard::Release(name), None);
            }
            Effect::Stage(workspace) => self.stage(workspace),
            Effect::Answer(id, answer) => self.answers.give(id, answer),
            Effect::Applied { ask, plan, problems } => {
                self.reports.applied(&plan, &problems);
                self.answers.applied(ask, *plan);
            }
            Effect::Save => self.save(),
            Effect::TellGuard(message) => self.processes.tell_guard(&message, None),
            Effect::DrainBegun(cause) => {
                self.stop_watching();
                self.reports.drain_begun(&cause);
                self.answers.drain_begun();
            }
            Effect::DrainHurried(why) => self.reports.drain_hurried(&why),
            Effect::ArmBudget(after) => self.ending.budget = Some(from_now(after)),
            Effect::Leave(leave) => {
                self.stop_watching();
                if let Leave::ForUpgrade(binary) = &leave {
                    tracing::info!(event = "supervisor.upgrading", binary, "making way for {binary}");
                    let opened = self.ending.binary.as_ref().map(AsFd::as_fd);
                    self.processes.tell_guard(&ToGuard::Upgrade(binary.clone()), opened);
                }
                self.ending.leaves = Some(leave);
            }
            Effect::Exit(code) => {
                self.ending.exit = Some(code);
                self.answers.drained();
            }
        }
    }

    fn perform_for(&mut self, id: AppId, effect: AppEffect) {
        match effect {
            AppEffect::LookUp { run, app, by_marks } => {
                let (found, ended) = self.processes.look_up(id, run, &app, by_marks);
                let another_pipe = match found {
                    Found::Leader(pid) => self.logs.adopted(&app.name, pid),
                    Found::Nothing if ended.is_none() => false,
                    Found::Remains | Found::Nothing if by_marks => {
                        self.logs.remains(&app.name, &self.processes.members(id))
                    }
                    Found::Remains | Found::Nothing => false,
                };
                if another_pipe {
                    self.make_pipe_known(id, &app.name);
                }
                found.events(run, ended).into_iter().for_each(|event| self.happened(id, event));
            }
            AppEffect::Spawn { run, app } => self.starts.push(Start { id, run, app }),
            AppEffect::RunHooks { run, app, action } => self.jobs.run_hooks(id, run, app, action),
            AppEffect::RunPostlaunch { run, app } => self.jobs.run_postlaunch(id, run, app),
            AppEffect::RunPrestop { run, app } => self.jobs.run_prestop(id, run, app),
            AppEffect::RunPoststop { run, app, exit } => self.jobs.run_poststop((id, run, app), &exit),
            AppEffect::CancelHooks => self.jobs.cancel_hooks(id),
            AppEffect::Probe { run, app, kind } => self.jobs.probe(id, run, app, kind),
            AppEffect::FindTraces { run, app } => self.jobs.find_traces(id, run, app),
            AppEffect::CancelProbe => self.jobs.cancel_probe(id),
            AppEffect::Measure { run } => {
                self.processes.forget_table();
                let bytes = self.processes.memory(id);
                self.happened(id, AppEvent::Measured { run, bytes });
            }
            AppEffect::Signal { pid, signal } => self.processes.signal(pid, signal),
            AppEffect::CloseBrowser { run, pid, app } => self.jobs.close_browser((id, run, app), pid),
            AppEffect::StopRest { run } => self.clear(id, run, libc::SIGTERM),
            AppEffect::Sweep { run } => self.clear(id, run, libc::SIGKILL),
            AppEffect::Arm { run, timer, after } => self.timers.arm(id, timer, run, from_now(after)),
            AppEffect::Disarm(timer) => self.timers.disarm(id, timer),
            AppEffect::EndSession { code } => {
                tracing::error!(event = "session.ending", code, "an app whose end ends the session has given up");
            }
            AppEffect::Report(report) => self.report(id, report),
        }
    }

    fn happened(&mut self, id: AppId, event: AppEvent) {
        self.inputs.push_back(Input::Happened(id, event));
    }

    fn clear(&mut self, id: AppId, run: u64, signal: i32) {
        let Some(name) = self.supervisor.name(id) else { return };
        self.processes.clear(id, run, name, signal);
    }

    fn report(&mut self, id: AppId, report: Report) {
        let Some(app) = self.supervisor.app(id) else { return };
        let mut tail = Tail { forward: app.log.forward, ..Tail::default() };
        if let Report::Crashed { run, end, .. } = &report {
            let speaker = if end.exit.is_of_a_hook() { Speaker::Commands } else { Speaker::App };
            tail.lines = self.logs.tail(&app.name, app.log.tail, speaker);
            if let Some(note) = end.exit.note(*run, !tail.lines.is_empty()) {
                self.logs.note(&app.name, &note);
            }
        }
        self.reports.take(&app.name, report, tail);
    }

    /// Starts the programs that were put off until they can be started together.
    pub(super) fn start_programs(&mut self) {
        let (mut ready, mut pipes) = (Vec::new(), Vec::new());
        for start in std::mem::take(&mut self.starts) {
            match self.output_for(&start) {
                Some(pipe) => {
                    ready.push(start);
                    pipes.push(pipe);
                }
                None => {
                    let why = "no pipe for its output".into();
                    self.happened(start.id, AppEvent::SpawnFailed { run: start.run, why });
                }
            }
        }
        let programs: Vec<_> =
            ready.iter().zip(&pipes).map(|(start, pipe)| NewProcess::of(&start.app, start.run, pipe.as_fd())).collect();
        let ids: Vec<_> = ready.iter().map(|start| start.id).collect();
        for (Start { id, run, .. }, spawned) in ready.iter().zip(self.processes.spawn(&ids, &programs)) {
            let event = match spawned {
                Ok(pid) => AppEvent::Spawned { run: *run, pid },
                Err(why) => AppEvent::SpawnFailed { run: *run, why },
            };
            self.happened(*id, event);
        }
    }

    /// The pipe for the output of a new run.
    fn output_for(&mut self, Start { id, app, .. }: &Start) -> Option<Arc<OutputPipe>> {
        // If the output could not be captured earlier, for example for lack of descriptors, try again.
        self.logs.begin_run(&app.name).or_else(|| {
            self.attach_log(*id, &app.name, &app.log);
            self.logs.begin_run(&app.name)
        })
    }

    fn attach_log(&mut self, id: AppId, name: &str, log: &Log) {
        if let Err(error) = self.logs.attach(name, log) {
            tracing::error!(event = "log.trouble", app = name, error = %error, "{name}: its output cannot be captured: {error}");
        }
        self.make_pipe_known(id, name);
    }

    /// Registers the app's output pipe. The guard keeps it open across supervisors, and a process that holds it counts
    /// as one of the app's.
    fn make_pipe_known(&mut self, id: AppId, name: &str) {
        let pipe = self.logs.pipe(name);
        let fd = pipe.as_ref().map(AsFd::as_fd);
        if fd.is_some() {
            self.processes.tell_guard(&ToGuard::Hold(name.into()), fd);
        }
        self.processes.appeared(id, name, fd);
    }

    fn stage(&mut self, workspace: Arc<Workspace>) {
        let app = App::of_workspace(&workspace);
        self.attach_log(AppId::WORKSPACE, &app.name, &app.log);
        self.jobs.stage(app, workspace);
    }

    /// Starts or kills the command of a hook.
    pub(super) fn take_command(&mut self, request: Request) {
        match request {
            Request::Command { app, id, run, argv, started } => {
                let reply = match self.logs.command_pipe(&app.name, run) {
                    Ok(pipe) => self.processes.spawn_hook(id, (run, &app), &argv, pipe.as_fd()),
                    Err(error) => Err(format!("no pipe for its output: {error}")),
                };
                if let Err(Ok((pid, _))) = started.send(reply) {
                    self.processes.kill_hook(pid); // cancelled while it was being started
                }
            }
            Request::KillCommand(pid) => self.processes.kill_hook(pid),
            Request::Signal { leader, signal } => self.processes.signal(leader, signal),
            Request::Listens { id, at, answer } => {
                let _ = answer.send(self.processes.listens(id, &at)); // the probe may have been cancelled
            }
        }
    }
}
