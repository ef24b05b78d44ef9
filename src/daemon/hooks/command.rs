//! Commands of steps and probes. The loop starts them. This file waits for them, and has them killed when they take
//! too long or are cancelled.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{HookRunner, not_within};
use crate::host::proc::Pid;
use crate::model::app::App;
use crate::model::exit::Exit;
use crate::model::supervisor::AppId;
use crate::model::tree::Listeners;

/// Requests to the loop, because only the loop starts and signals processes, and knows whose they are.
pub enum Request {
    /// Start it in the app's environment.
    Command { app: Arc<App>, id: AppId, run: u64, argv: Vec<String>, started: oneshot::Sender<Started> },
    /// Kill a command that was cancelled or took too long.
    KillCommand(Pid),
    /// Signal an app's leader that could not be asked to close in another way.
    Signal { leader: Pid, signal: i32 },
    /// Say whether a process of the app listens there.
    Listens { id: AppId, at: Listeners, answer: oneshot::Sender<bool> },
}

/// The command's pid and a receiver for its exit, or why it could not be started.
pub type Started = Result<(Pid, oneshot::Receiver<Exit>), String>;

impl HookRunner {
    /// Runs a command to its end.
    ///
    /// # Errors
    /// The command could not be started, did not exit with 0, or took longer than `within`.
    pub(super) async fn command(&self, argv: &[String], within: Duration) -> Result<(), String> {
        let (started, reply) = oneshot::channel();
        let request =
            Request::Command { app: self.app.clone(), id: self.id, run: self.run, argv: argv.to_vec(), started };
        self.requests.send(request).map_err(|_| supervisor_ends())?;
        let (pid, ended) = reply.await.map_err(|_| supervisor_ends())??;
        let mut running = KillOnDrop { pid: Some(pid), requests: &self.requests };
        let exit = timeout(within, ended).await;
        let exit = exit.map_err(|_| format!("`{}` {}", argv.join(" "), not_within(within)))?;
        let exit = exit.map_err(|_| supervisor_ends())?;
        running.pid = None;
        match exit {
            Exit::Clean => Ok(()),
            other => Err(format!("`{}`: {other}", argv.join(" "))),
        }
    }
}

/// Why a request gets no answer.
pub(super) fn supervisor_ends() -> String {
    "the supervisor is ending".into()
}

/// When dropped, has the command killed unless it has already exited.
struct KillOnDrop<'a> {
    pid: Option<Pid>,
    requests: &'a mpsc::UnboundedSender<Request>,
}

impl Drop for KillOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            let _ = self.requests.send(Request::KillCommand(pid)); // a loop that has ended has killed the command already
        }
    }
}
