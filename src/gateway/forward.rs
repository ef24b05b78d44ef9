//! The client side: sends a URL to a launcher, and asks a workspace how it is. Every answer is cut, and every wait ends.

use std::io;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::model::gateway::launch::{Forwarded, UPSTREAM_BYTES};
use crate::model::gateway::list::{ProbeAnswer, Reachable};
use crate::model::gateway::settings::Endpoint;
use crate::resolver::Resolver;

/// Time limit for a launcher's answer, from the name look-up to the last byte.
const LAUNCH: Duration = Duration::from_secs(10);
/// Time limit for a workspace that is asked how it is.
const PROBE: Duration = Duration::from_secs(3);
/// The most bytes of metrics that are read.
const METRICS_BYTES: usize = 1 << 20;
/// A launcher closes a connection on which it hears nothing for three seconds.
const IDLE: Duration = Duration::from_secs(2);

/// Sends requests to workspaces, over connections that are kept for a while.
pub struct WorkspaceClient {
    client: Client<HttpConnector, Full<Bytes>>,
    resolver: Resolver,
}

impl Default for WorkspaceClient {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(PROBE));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(16)
            .build(connector);
        WorkspaceClient { client, resolver: Resolver::default() }
    }
}

impl WorkspaceClient {
    /// Sends a URL to a launcher.
    pub async fn launch(&self, launcher: &Endpoint, url: &str, token: &str) -> Forwarded {
        let body = serde_json::json!({ "url": url }).to_string();
        let request = Request::post("/open")
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)));
        let Ok(request) = request else {
            return Forwarded::NotSent("its token has characters that no header can have".into());
        };
        match timeout(LAUNCH, self.ask(launcher, request, UPSTREAM_BYTES)).await {
            Ok(Ok((status, body))) => Forwarded::Answered { status, body },
            Ok(Err(why)) => Forwarded::Broken(why),
            Err(_) => Forwarded::Late(LAUNCH.as_secs()),
        }
    }

    /// Asks a workspace how it is; `None` if it has no address.
    pub async fn probe(&self, workspace: &Reachable) -> Option<ProbeAnswer> {
        let (endpoint, path) = match (&workspace.metrics, &workspace.launcher) {
            (Some(metrics), _) => (metrics, "/metrics"),
            (None, Some(launcher)) => (launcher, "/healthz"),
            (None, None) => return None,
        };
        let request = Request::get(path).body(Full::default()).ok()?;
        let late = |_| Err(format!("no answer within {} seconds", PROBE.as_secs()));
        let answer = timeout(PROBE, self.ask(endpoint, request, METRICS_BYTES)).await.unwrap_or_else(late);
        Some(match answer {
            Ok((200, body)) if path == "/metrics" => ProbeAnswer::Metrics(String::from_utf8_lossy(&body).into_owned()),
            Ok((200, _)) => ProbeAnswer::Healthy,
            Ok((status, _)) => ProbeAnswer::Silent(format!("{endpoint} answers {status}")),
            Err(why) => ProbeAnswer::Silent(format!("{endpoint}: {why}")),
        })
    }

    /// Sends a request, and reads at most `most` bytes of the answer.
    async fn ask(
        &self,
        endpoint: &Endpoint,
        request: Request<Full<Bytes>>,
        most: usize,
    ) -> Result<(u16, Vec<u8>), String> {
        let response = match endpoint {
            Endpoint::Tcp { host, port } => self.ask_tcp(host, *port, request).await?,
            Endpoint::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| in_words(&error))?;
                let (mut sender, connection) =
                    http1::handshake(TokioIo::new(stream)).await.map_err(|error| words_of(&error))?;
                tokio::spawn(connection); // ends with the response, which also reports its errors
                let request = addressed(request, "localhost", None)?;
                sender.send_request(request).await.map_err(|error| words_of(&error))?
            }
        };
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let mut read = Vec::new();
        while read.len() < most
            && let Some(frame) = body.frame().await
        {
            let frame = frame.map_err(|_| "it broke off in the middle of its answer".to_owned())?;
            let piece = frame.data_ref().map_or(&[][..], |piece| piece);
            read.extend(&piece[..piece.len().min(most - read.len())]);
        }
        Ok((status, read))
    }

    async fn ask_tcp(
        &self,
        host: &str,
        port: u16,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, String> {
        let address = match host.parse() {
            Ok(address) => address,
            // Static binaries cannot use the C library's resolver.
            Err(_) => {
                let found = self.resolver.addresses(host).await;
                let found = found.map_err(|why| format!("{host} cannot be resolved: {why}"))?;
                *found.first().ok_or_else(|| format!("{host} has no address"))?
            }
        };
        let to = std::net::SocketAddr::new(address, port);
        let name = Endpoint::Tcp { host: host.into(), port };
        let request = addressed(request, &name.to_string(), Some(&to.to_string()))?;
        self.client.request(request).await.map_err(|error| client_words(&error))
    }
}

/// Adds the Host header, and the authority that is connected to.
fn addressed(
    request: Request<Full<Bytes>>,
    host: &str,
    authority: Option<&str>,
) -> Result<Request<Full<Bytes>>, String> {
    let wrong = || format!("{host} cannot be a host");
    let (mut parts, body) = request.into_parts();
    parts.headers.insert(header::HOST, host.parse().map_err(|_| wrong())?);
    if let Some(authority) = authority {
        let uri = format!("http://{authority}{}", parts.uri.path());
        parts.uri = uri.parse().map_err(|_| wrong())?;
    }
    debug_assert!(parts.method == Method::GET || parts.method == Method::POST);
    Ok(Request::from_parts(parts, body))
}

fn client_words(error: &legacy::Error) -> String {
    match io_cause(error) {
        Some(error) => in_words(error),
        None if error.is_connect() => "no connection within three seconds".into(),
        None => words_of(error),
    }
}

fn words_of(error: &(dyn std::error::Error + 'static)) -> String {
    match io_cause(error) {
        Some(error) => in_words(error),
        None => "it closed the connection without an answer".into(),
    }
}

fn io_cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused: nothing listens there".into(),
        io::ErrorKind::ConnectionReset => "it closed the connection without an answer".into(),
        io::ErrorKind::NotFound => "there is no such socket".into(),
        io::ErrorKind::TimedOut => "no connection within three seconds".into(),
        _ => error.to_string(),
    }
}
