//! Commands of steps and probes. The loop starts them; here they are waited for, and killed when they take too
//! long or nobody waits any more.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{HookRunner, not_within};
use crate::host::proc::Pid;
use crate::model::app::App;
use crate::model::exit::Exit;
use crate::model::supervisor::AppId;

/// What only the loop does, because it alone starts and signals processes.
pub enum Request {
    /// Start it in the app's environment.
    Command { app: Arc<App>, id: AppId, run: u64, argv: Vec<String>, started: oneshot::Sender<Started> },
    /// Nobody waits for it any more.
    KillCommand(Pid),
    /// Signal an app's leader, which could not be asked to end in another way.
    Signal { leader: Pid, signal: i32 },
}

/// The command's pid and how it will end, or why it could not be started.
pub type Started = Result<(Pid, oneshot::Receiver<Exit>), String>;

impl HookRunner {
    /// Runs a command to its end.
    ///
    /// # Errors
    /// It could not be started, did not exit 0, or took longer than `within`.
    pub(super) async fn command(&self, argv: &[String], within: Duration) -> Result<(), String> {
        let supervisor_ends = || "the supervisor is ending".to_string();
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

/// Has the command killed unless it has ended.
struct KillOnDrop<'a> {
    pid: Option<Pid>,
    requests: &'a mpsc::UnboundedSender<Request>,
}

impl Drop for KillOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            let _ = self.requests.send(Request::KillCommand(pid)); // when the loop has ended, it has killed it
        }
    }
}
