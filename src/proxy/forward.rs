//! Passes requests for `http:` URLs on, over kept-alive connections that the dialer opened. Bodies are streamed both ways.

use std::error::Error as _;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version, header};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_service::Service;

use super::dial::Dialer;
use super::next;
use crate::model::proxy::denial::Denial;
use crate::model::proxy::headers::ends_here;
use crate::model::proxy::request::{ProxyRequest, read};
use crate::model::url::JudgedUrl;

/// Time limit for a server to begin its answer. Pages that wait for news hold a request for minutes.
const BEGUN: Duration = Duration::from_secs(5 * 60);
/// How long an unused connection to a server is kept.
const KEPT: Duration = Duration::from_secs(15);
/// How many unused connections are kept for one server.
const KEPT_EACH: usize = 6;

/// Passes requests on.
pub struct Forwarder {
    client: Client<Connector, Incoming>,
    /// For the next proxy, if it asks for a login.
    login: Option<HeaderValue>,
}

impl Forwarder {
    pub fn new(dialer: Arc<Dialer>) -> Self {
        let login = dialer.upstream().and_then(next::authorization);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEPT)
            .pool_max_idle_per_host(KEPT_EACH)
            .http1_preserve_header_case(true)
            .http1_max_headers(256)
            .set_host(false)
            .build(Connector(dialer));
        Forwarder { client, login }
    }

    /// Passes a request on to the host that was judged, and returns the server's answer.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn forward(
        &self,
        parts: Parts,
        body: Incoming,
        target: &JudgedUrl,
        path: &str,
    ) -> Result<Response<Body>, Denial> {
        let request = self.outgoing(parts, body, target, path).map_err(Denial::Broken)?;
        let answered = timeout(BEGUN, self.client.request(request)).await.map_err(|_| Denial::Late)?;
        let response = answered.map_err(|error| denial(&error))?;
        self.judge_status(response.status())?;
        let (mut parts, body) = response.into_parts();
        parts.headers = passed_on(&parts.headers);
        parts.version = Version::HTTP_11;
        Ok(Response::from_parts(parts, Body::new(body)))
    }

    /// A browser would take these answers for the proxy's own: it would ask a person for a login, or change the protocol.
    fn judge_status(&self, status: StatusCode) -> Result<(), Denial> {
        match (status, self.login.is_some()) {
            (StatusCode::PROXY_AUTHENTICATION_REQUIRED, true) => Err(Denial::Upstream("it refuses the login".into())),
            (StatusCode::PROXY_AUTHENTICATION_REQUIRED, false) => {
                Err(Denial::Broken("it asks for the login of a proxy".into()))
            }
            (StatusCode::SWITCHING_PROTOCOLS, _) => Err(Denial::Broken("it changes the protocol unasked".into())),
            _ => Ok(()),
        }
    }

    fn outgoing(
        &self,
        mut parts: Parts,
        body: Incoming,
        target: &JudgedUrl,
        path: &str,
    ) -> Result<Request<Incoming>, String> {
        let authority = match target.port() {
            80 => target.host().to_owned(),
            port => format!("{}:{port}", target.host()),
        };
        parts.uri = Uri::builder()
            .scheme("http")
            .authority(authority.as_str())
            .path_and_query(path)
            .build()
            .map_err(|error| error.to_string())?;
        parts.version = Version::HTTP_11;
        parts.headers = passed_on(&parts.headers);
        let host = HeaderValue::try_from(authority).map_err(|error| error.to_string())?;
        parts.headers.insert(header::HOST, host);
        if let Some(login) = &self.login {
            parts.headers.insert(header::PROXY_AUTHORIZATION, login.clone());
        }
        Ok(Request::from_parts(parts, body))
    }
}

/// The headers without those that are for one hop.
fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let connections: Vec<&str> =
        headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok()).collect();
    let goes_on = |(name, _): &(&header::HeaderName, &HeaderValue)| !ends_here(name.as_str(), &connections);
    headers.iter().filter(goes_on).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The dialer's own denial, if the connection failed; otherwise what the server did.
fn denial(error: &hyper_util::client::legacy::Error) -> Denial {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(DialFailed(denial)) = error.downcast_ref() {
            return denial.clone();
        }
        cause = error.source();
    }
    let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    Denial::Broken(cause)
}

/// Opens the pool's connections: judges the host and its addresses.
#[derive(Clone)]
struct Connector(Arc<Dialer>);

impl Service<Uri> for Connector {
    type Response = TokioIo<ToServer>;
    type Error = DialFailed;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialFailed>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialFailed>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialer = self.0.clone();
        Box::pin(async move {
            let proxied = dialer.upstream().is_some();
            let stream = dial(&dialer, &uri).await.map_err(DialFailed)?;
            Ok(TokioIo::new(ToServer { stream, proxied }))
        })
    }
}

/// Judges once more, so that no connection of the pool can be opened to a host that was not judged.
async fn dial(dialer: &Dialer, uri: &Uri) -> Result<TcpStream, Denial> {
    match read("GET", &uri.to_string()) {
        Ok(ProxyRequest::Forward { origin, .. }) => dialer.connect(&dialer.judge(&origin)?).await,
        Ok(_) => Err(Denial::Broken("the request is of another kind".into())),
        Err(malformed) => Err(Denial::Malformed(malformed)),
    }
}

/// A denial on its way through the pool.
#[derive(Debug)]
struct DialFailed(Denial);

impl std::fmt::Display for DialFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.text())
    }
}

impl std::error::Error for DialFailed {}

/// A connection to a server, or to the next proxy.
struct ToServer {
    stream: TcpStream,
    /// The next proxy gets whole URLs.
    proxied: bool,
}

impl Connection for ToServer {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.proxied)
    }
}

impl AsyncRead for ToServer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for ToServer {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
