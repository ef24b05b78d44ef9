//! The questions that the control socket asks the loop.

use axum::body::Bytes;
use axum::http::StatusCode;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::http::Error;
use crate::model::protocol::{Answer, CommandLine, Crash, Identity, Inspection, PlanReport, Readiness, Snapshot, Verb};
use crate::model::spelling;

/// A question to the loop. To cancel it, drop the receiving end.
pub enum Ask {
    /// With `memory_bytes` filled in.
    Apps(oneshot::Sender<Snapshot>),
    /// Answered when the `ready` conditions of the workspace have been probed.
    Readiness(oneshot::Sender<Readiness>),
    /// Answered at once or, with `wait`, when the app has reached the requested state.
    Verb {
        app: String,
        verb: Verb,
        wait: bool,
        reply: oneshot::Sender<Answer>,
    },
    /// Answered with `None` if there is no such app; the same holds below.
    Crashes {
        app: String,
        reply: oneshot::Sender<Option<Vec<Crash>>>,
    },
    Command {
        app: String,
        reply: oneshot::Sender<Option<CommandLine>>,
    },
    Inspect {
        app: String,
        reply: oneshot::Sender<Option<Inspection>>,
    },
    Logs {
        app: String,
        lines: usize,
        reply: oneshot::Sender<Option<LogStream>>,
    },
    Plan(oneshot::Sender<PlanReport>),
    Reload(oneshot::Sender<PlanReport>),
    /// Answered when the drain has begun and would continue even if this supervisor died.
    BeginDrain(oneshot::Sender<()>),
    /// Answered when every app is down.
    Drain(oneshot::Sender<()>),
    Supervisor(oneshot::Sender<Identity>),
    /// Hand over to a supervisor from this binary.
    Upgrade {
        binary: String,
        reply: oneshot::Sender<Answer>,
    },
}

/// An app's output.
pub struct LogStream {
    /// The last lines.
    pub head: Vec<u8>,
    /// The output after `head`, in whole lines. `None` if the app's output is not captured.
    pub follow: Option<broadcast::Receiver<Bytes>>,
}

/// How handlers reach the loop.
#[derive(Clone)]
pub(super) struct LoopHandle(pub(super) mpsc::Sender<Ask>);

impl LoopHandle {
    /// Asks the loop and waits for the answer, or returns the error to send.
    pub(super) async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(question(reply)).await?;
        answer.await.map_err(|_| ending())
    }

    /// Asks the loop without waiting for an answer.
    pub(super) async fn send(&self, ask: Ask) -> Result<(), Error> {
        self.0.send(ask).await.map_err(|_| ending())
    }

    /// The error for a name that no app has, with the names that come close.
    pub(super) async fn no_such_app(&self, app: &str) -> Error {
        match self.ask(Ask::Apps).await {
            Ok(snapshot) => {
                let names = snapshot.apps.iter().map(|app| app.name.as_str());
                Error::new(StatusCode::NOT_FOUND, spelling::no_such_app(app, names))
            }
            Err(error) => error,
        }
    }
}

fn ending() -> Error {
    Error::new(StatusCode::SERVICE_UNAVAILABLE, "the supervisor is shutting down")
}
