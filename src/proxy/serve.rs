//! Answers the proxy's clients: reads what a request is, has its host judged, and opens a tunnel, passes the request on,
//! or answers with a refusal.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Method, Response, StatusCode, header};
use axum::response::IntoResponse;
use hyper::body::Body as _;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::audit::Audit;
use super::dial::Dialer;
use super::forward::Forwarder;
use super::tunnel::{self, Direction, SILENT};
use crate::http::{
    BoxedAnswer, Closing, HeldPermit, Listen, ListenerLimits, Server, Streaming, StreamingRequest, serve_streams,
};
use crate::model::metrics::CONTENT_TYPE;
use crate::model::proxy::denial::{CONTENT_SECURITY_POLICY, Denial};
use crate::model::proxy::request::{Malformed, OwnPage, ProxyRequest, WantedHost, read};
use crate::model::url::{self, JudgedUrl};

/// How many clients may be connected, tunnels included. A browser opens at most 99 to one proxy, and as many for
/// WebSockets as pages want.
const CONNECTIONS: u32 = 2048;
/// How many of them may be tunnels. A tunnel is never idle in the sense of the listener, and the probe of `/healthz` needs
/// room: without an answer the proxy would be restarted, and all tunnels with it.
const TUNNELS: usize = CONNECTIONS as usize - 64;

const LIMITS: ListenerLimits = ListenerLimits {
    connections: CONNECTIONS,
    // All clients are of this machine. At the limit, one that is idle makes room.
    per_address: Some(CONNECTIONS),
    head: Duration::from_secs(60),
    head_bytes: 128 << 10, // large cookies
    headers: 200,
    stalled: SILENT, // a video that is paused is not read
    ..ListenerLimits::LOCAL
};

/// Serves a proxy on `listener`, in the background.
pub fn serve(listener: impl Listen, dialer: Arc<Dialer>) -> Server {
    serve_with(listener, dialer, TUNNELS)
}

fn serve_with(listener: impl Listen, dialer: Arc<Dialer>, tunnels: usize) -> Server {
    let forwarder = Forwarder::new(dialer.clone());
    let free = Arc::new(Semaphore::new(tunnels));
    serve_streams(listener, Arc::new(Proxy { dialer, forwarder, free, audit: Arc::default() }), LIMITS)
}

struct Proxy {
    dialer: Arc<Dialer>,
    forwarder: Forwarder,
    /// A permit for each tunnel that may still be opened.
    free: Arc<Semaphore>,
    audit: Arc<Audit>,
}

impl Streaming for Proxy {
    fn answer(self: Arc<Self>, request: StreamingRequest) -> BoxedAnswer {
        Box::pin(async move { self.answered(request).await })
    }
}

impl Proxy {
    async fn answered(&self, request: StreamingRequest) -> Option<Response<Body>> {
        let began = Instant::now();
        let (method, target) = (request.method().clone(), request.uri().to_string());
        let for_people = wants_a_page(&request);
        let (origin, answer) = match read(method.as_str(), &target) {
            Ok(ProxyRequest::Own(page)) => return Some(self.own(page)),
            Ok(ProxyRequest::Tunnel(origin)) if !request.body().is_end_stream() => {
                (Some(origin), Err(Denial::Malformed(Malformed::TunnelBody)))
            }
            Ok(ProxyRequest::Tunnel(origin)) => {
                let answer = self.tunnel(request, &origin).await;
                (Some(origin), answer)
            }
            Ok(ProxyRequest::Forward { origin, path }) => {
                let answer = self.forward(request, &origin, &path).await;
                (Some(origin), answer)
            }
            Err(malformed) => (None, Err(Denial::Malformed(malformed))),
        };
        match answer {
            Ok(response) => Some(response),
            Err(denial) => {
                self.audit.deny(&denial, origin.as_ref(), method.as_str(), began);
                denial.is_answered(for_people).then(|| refusal(&denial, origin.as_ref(), for_people, &method))
            }
        }
    }

    fn own(&self, page: OwnPage) -> Response<Body> {
        match page {
            OwnPage::Health => ([(header::CONTENT_TYPE, "application/json")], r#"{"ok":true}"#).into_response(),
            OwnPage::Metrics => ([(header::CONTENT_TYPE, CONTENT_TYPE)], self.audit.metrics()).into_response(),
        }
    }

    async fn forward(
        &self,
        request: StreamingRequest,
        origin: &WantedHost,
        path: &str,
    ) -> Result<Response<Body>, Denial> {
        let target = self.dialer.judge(origin)?;
        let (parts, body) = request.into_parts();
        let response = self.forwarder.forward(parts, body, &target, path).await?;
        self.audit.count(|tally| tally.forwarded += 1);
        Ok(response)
    }

    /// Opens the connection first, so that the answer says whether it could be opened.
    async fn tunnel(&self, mut request: StreamingRequest, origin: &WantedHost) -> Result<Response<Body>, Denial> {
        let target = self.dialer.judge(origin)?;
        let place = self.free.clone().try_acquire_owned().map_err(|_| Denial::Full)?;
        let (server, first) = self.dialer.tunnel(&target).await?;
        let upgrade = hyper::upgrade::on(&mut request);
        let (mut parts, _) = request.into_parts();
        let (held, closing) = (parts.extensions.remove::<HeldPermit>(), parts.extensions.remove::<Closing>());
        let audit = self.audit.clone();
        tokio::spawn(async move {
            let _held = (held, place); // for as long as the tunnel lives
            match upgrade.await {
                Ok(client) => keep_open(TokioIo::new(client), (server, first), closing, &target, &audit).await,
                Err(error) => {
                    tracing::debug!(event = "proxy.tunnel_failed", "a client left before its tunnel began: {error}");
                }
            }
        });
        Ok(StatusCode::OK.into_response())
    }
}

/// Runs a tunnel to its end.
async fn keep_open(
    client: TokioIo<hyper::upgrade::Upgraded>,
    (server, first): (TcpStream, Vec<u8>),
    closing: Option<Closing>,
    target: &JudgedUrl,
    audit: &Audit,
) {
    audit.count(|tally| (tally.tunnels, tally.tunnels_open) = (tally.tunnels + 1, tally.tunnels_open + 1));
    let count = |direction, bytes| {
        audit.count(|tally| match direction {
            Direction::ToServer => tally.sent += bytes,
            Direction::ToClient => tally.received += bytes,
        });
    };
    let closed = async {
        match closing {
            Some(mut closing) => closing.begun().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = tunnel::copy(client, server, first, count) => if let Err(error) = ended {
            tracing::debug!(event = "proxy.tunnel_ended", host = target.host(), "a tunnel ended early: {error}");
        },
        () = closed => {}
    }
    audit.count(|tally| tally.tunnels_open -= 1);
}

/// Whether a person will read the answer: a browser asks for a page so.
fn wants_a_page(request: &StreamingRequest) -> bool {
    let accepts = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    request.method() != Method::CONNECT && accepts.is_some_and(|accept| accept.contains("text/html"))
}

/// The answer to a request that is not served.
fn refusal(denial: &Denial, origin: Option<&WantedHost>, for_people: bool, method: &Method) -> Response<Body> {
    let host = origin.and_then(|origin| url::host(&origin.url())).unwrap_or_default();
    let (kind, body) = match for_people {
        true => ("text/html; charset=utf-8", denial.page(&host)),
        false => ("text/plain; charset=utf-8", denial.plain()),
    };
    let status = StatusCode::from_u16(denial.status()).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut response = (status, if method == Method::HEAD { String::new() } else { body }).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(status) = HeaderValue::try_from(denial.proxy_status()) {
        headers.insert("proxy-status", status);
    }
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::http::bind;
    use crate::model::proxy::upstream::Upstream;
    use crate::model::url::Policy;

    /// Sends the head of a request, and returns the connection with the first line of the answer.
    async fn ask(port: u16, head: &str) -> (TcpStream, String) {
        let mut client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        client.write_all(format!("{head} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = [0; 512];
        let length = client.read(&mut answer).await.unwrap();
        let line = String::from_utf8_lossy(&answer[..length]).lines().next().unwrap_or_default().to_owned();
        (client, line)
    }

    #[tokio::test]
    async fn with_all_tunnels_open_the_proxy_still_answers_its_probe() {
        let next = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Upstream::read(&format!("http://{}", next.local_addr().unwrap())).unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = next.accept().await {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                tokio::spawn(async move { stream.read_to_end(&mut Vec::new()).await });
            }
        });
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let _server = serve_with(listener, Dialer::new(Policy::default(), Some(upstream)), 1);
        let tunnel = "CONNECT 93.184.216.34:443";
        let (first, answer) = ask(port, tunnel).await;
        assert_eq!(answer, "HTTP/1.1 200 OK");
        assert_eq!(ask(port, tunnel).await.1, "HTTP/1.1 503 Service Unavailable");
        assert_eq!(ask(port, "GET /healthz").await.1, "HTTP/1.1 200 OK");
        drop(first);
        while ask(port, tunnel).await.1 != "HTTP/1.1 200 OK" {} // the end of the first tunnel takes a moment
    }
}
