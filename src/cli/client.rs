//! The client of the control socket. Distinguishes between "no supervisor", "refused" and "timed out". Prints nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use axum::body::Bytes;
use axum::http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use crate::host::layout;
use crate::model::manifest::quantity::Span;
use crate::model::protocol::{Answer, HEAD_BYTES, Identity, Refusal, Route};

/// No supervisor listens on the control socket.
#[derive(Debug, thiserror::Error)]
#[error("no supervisor is running (no socket at {}): start one with `kasm-void run`, or name the folder of the session in `--state`", .0.display())]
pub struct NoSupervisor(pub PathBuf);

/// A request was not answered in time; the text is for people.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoAnswer(pub String);

/// Time limit for plain requests.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much longer the client waits than the timeout that it sends to the supervisor.
const MARGIN: Duration = Duration::from_secs(5);

/// How long to wait for the next supervisor in a session without a guard.
const SUCCESSION: Duration = Duration::from_secs(1);
/// Between two attempts to reach the next supervisor.
const LOOK: Duration = Duration::from_millis(20);

/// Whether to wait for a change, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Wait until it is done.
    pub wait: bool,
    /// Do not wait longer than this.
    pub timeout: Span,
}

/// Sends requests to the supervisor of one state folder. Each request opens its own connection.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

/// A response body that is read as it arrives. A lost connection ends it without an error.
pub struct Stream {
    response: hyper::Response<Incoming>,
    /// Bytes of output that existed when the stream was opened.
    head: usize,
    /// Bytes that were read past the head.
    rest: Option<Bytes>,
}

impl Stream {
    /// The next piece, or `None` at the end.
    pub async fn next(&mut self) -> Option<Bytes> {
        if let Some(rest) = self.rest.take() {
            return Some(rest);
        }
        loop {
            let frame = self.response.frame().await?.ok()?;
            if let Ok(piece) = frame.into_data() {
                return Some(piece);
            }
        }
    }

    /// The output that existed when the stream was opened.
    pub async fn head(&mut self) -> Vec<u8> {
        let mut head = Vec::new();
        while head.len() < self.head {
            let Some(mut piece) = self.next().await else { break };
            let more = (self.head - head.len()).min(piece.len());
            head.extend_from_slice(&piece.split_to(more));
            self.rest = Some(piece).filter(|rest| !rest.is_empty());
        }
        head
    }
}

impl Client {
    /// A client for the supervisor of this state folder. Connects at each request.
    pub fn new(state: &Path) -> Self {
        Client { socket: layout::control_socket(state) }
    }

    /// The supervisor's state folder.
    pub fn state(&self) -> &Path {
        self.socket.parent().unwrap_or(Path::new("/"))
    }

    /// Sends a GET request. A refusal is an error with the supervisor's message.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.within(PATIENCE, async { read(self.send(Method::GET, path).await?).await }).await
    }

    /// Like [`Client::get`], but returns the status and accepts any.
    pub async fn probe(&self, path: &str) -> anyhow::Result<(StatusCode, serde_json::Value)> {
        let answer = async {
            let response = self.send(Method::GET, path).await?;
            let status = response.status();
            Ok((status, parsed(&collected(response).await?)?))
        };
        self.within(PATIENCE, answer).await
    }

    /// Sends a POST request that may take until `limit`. A refusal is an error.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, limit: Span) -> anyhow::Result<T> {
        let path = format!("{path}?timeout={}", limit);
        self.within(limit.0.saturating_add(MARGIN), async { read(self.send(Method::POST, &path).await?).await }).await
    }

    /// Sends a POST request for a change. A refusal is an answer, not an error.
    pub async fn change(&self, path: &str, Waiting { wait, timeout }: Waiting) -> anyhow::Result<Answer> {
        let path = format!("{path}?wait={wait}&timeout={}", timeout);
        let answer = async {
            let response = self.send(Method::POST, &path).await?;
            let body = collected(response).await?;
            serde_json::from_slice(&body).or_else(|_| bail!(complaint(&body)))
        };
        self.within(timeout.0.saturating_add(MARGIN), answer).await
    }

    /// Sends a GET request, and returns its body as a stream.
    pub async fn open(&self, path: &str) -> anyhow::Result<Stream> {
        let response = self.within(PATIENCE, self.send(Method::GET, path)).await?;
        if !response.status().is_success() {
            bail!(complaint(&collected(response).await?));
        }
        let head = response.headers().get(HEAD_BYTES).and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(Stream { response, head: head.unwrap_or(0), rest: None })
    }

    /// Waits for the supervisor that follows `before`, after a stream from `before` has ended. `None` if the session
    /// has ended.
    pub async fn successor(&self, before: &Identity) -> anyhow::Result<Option<Identity>> {
        let began = Instant::now();
        loop {
            // While the guard lives, it starts another supervisor. Without a guard, one answers soon or never.
            let guarded = before.guard.is_some_and(|pid| Path::new("/proc").join(pid.to_string()).exists());
            match self.get(&Route::Supervisor.path(&[])).await {
                Ok(now) => return Ok(Some(now)),
                Err(_) if began.elapsed() < if guarded { PATIENCE } else { SUCCESSION } => sleep(LOOK).await,
                Err(error) if error.is::<NoSupervisor>() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// A supervisor that dies just now resets the connection. If nothing listens any more, that is what is said.
    async fn send(&self, method: Method, path: &str) -> anyhow::Result<hyper::Response<Incoming>> {
        match self.try_to_send(method, path).await {
            Err(error) if !error.is::<NoSupervisor>() => match UnixStream::connect(&self.socket).await {
                Err(gone) if is_gone(&gone) => Err(NoSupervisor(self.socket.clone()).into()),
                _ => Err(error),
            },
            sent => sent,
        }
    }

    async fn try_to_send(&self, method: Method, path: &str) -> anyhow::Result<hyper::Response<Incoming>> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(error))?;
        self.trust(stream.peer_cred()?.uid())?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection); // ends with the response, which also reports its errors
        let request =
            Request::builder().method(method).uri(path).header("host", "kasm-void").body(Empty::<Bytes>::new());
        let request = request.with_context(|| format!("cannot ask for {path}"))?;
        sender.send_request(request).await.context("the supervisor closed the connection")
    }

    /// In a shared folder such as /tmp, another user could have created the socket.
    fn trust(&self, uid: u32) -> anyhow::Result<()> {
        let ours = rustix::process::getuid();
        let socket = self.socket.display();
        ensure!(
            uid == ours.as_raw() || uid == 0 || ours.is_root(),
            "the supervisor at {socket} belongs to user {uid}: name your own state folder with --state"
        );
        Ok(())
    }

    fn unreachable(&self, error: io::Error) -> anyhow::Error {
        match error.kind() {
            _ if is_gone(&error) => NoSupervisor(self.socket.clone()).into(),
            io::ErrorKind::InvalidInput => anyhow::Error::new(error).context(format!(
                "{} is too long for a socket path: name a shorter state folder with --state",
                self.socket.display()
            )),
            _ => anyhow::Error::new(error).context(format!(
                "cannot reach the supervisor at {}: run this as its user, or name another state folder with --state",
                self.socket.display()
            )),
        }
    }

    async fn within<T>(&self, limit: Duration, answer: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        timeout(limit, answer).await.unwrap_or_else(|_| {
            let limit = Span(limit);
            Err(NoAnswer(format!("the supervisor has not answered within {limit}: it may hang, see its log")).into())
        })
    }
}

/// Whether the change timed out.
pub fn timed_out(answer: &Answer) -> bool {
    answer.refusal == Some(Refusal::TimedOut)
}

/// Nothing listens on the socket.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

async fn read<T: DeserializeOwned>(response: hyper::Response<Incoming>) -> anyhow::Result<T> {
    let status = response.status();
    let body = collected(response).await?;
    match status {
        StatusCode::GATEWAY_TIMEOUT => Err(NoAnswer(complaint(&body)).into()),
        _ if status.is_success() => parsed(&body),
        _ => bail!(complaint(&body)),
    }
}

async fn collected(response: hyper::Response<Incoming>) -> anyhow::Result<Bytes> {
    let body = response.into_body().collect().await;
    Ok(body.context("the supervisor closed the connection")?.to_bytes())
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> anyhow::Result<T> {
    serde_json::from_slice(body)
        .context("cannot read the supervisor's answer: it may be another version than this command")
}

fn complaint(body: &[u8]) -> String {
    let error = serde_json::from_slice::<serde_json::Value>(body).ok();
    let why = error.as_ref().and_then(|error| error["error"].as_str());
    why.map_or_else(|| format!("the supervisor refused: {}", String::from_utf8_lossy(body)), str::to_string)
}
