//! The launcher's two routes: `POST /open` and `GET /healthz`. Owns the order of the checks and the texts of the
//! replies. The navigator opens the pages. On a Unix socket, our own user needs no token: that user can drive the browser
//! anyway.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::audit::{AuditLine, Strangers};
use super::navigate::Navigator;
use super::token::Token;
use super::verdict::{Outcome, Verdict};
use crate::http::{self, Gate, Listen, ListenerLimits, Peer, Server, network};
use crate::model::rate::{self, RateLimiter};
use crate::model::url;

/// Time limit for a reply to `/open`. Callers give up after 10 s.
pub const ANSWERED: Duration = Duration::from_millis(7500);
/// Longest body in bytes: twice the longest URL that may be opened.
const BODY_BYTES: usize = 4096;
/// The header with the request's id, which is also in the audit line.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const LIMITS: ListenerLimits = ListenerLimits {
    head: Duration::from_secs(3),
    body: Duration::from_secs(2),
    body_bytes: BODY_BYTES,
    ..ListenerLimits::NETWORK
};

/// The state that all requests share.
struct Launcher {
    navigator: Arc<Navigator>,
    token: Token,
    limiter: Mutex<RateLimiter>,
    strangers: Mutex<Strangers>,
    began: Instant,
}

/// When a request arrived, and its id.
#[derive(Clone)]
struct Arrival {
    at: Instant,
    id: String,
}

impl Arrival {
    fn now() -> Self {
        Arrival { at: Instant::now(), id: format!("{:016x}", fastrand::u64(..)) }
    }

    fn ms(&self) -> u64 {
        self.at.elapsed().as_millis() as u64
    }
}

/// Both routes, for any number of listeners.
pub struct Service(Arc<Launcher>);

impl Service {
    /// Opens pages through `navigator`, for callers with the token.
    pub fn new(navigator: Arc<Navigator>, token: Token) -> Self {
        token.warn_when_missing();
        let limiter = Mutex::new(RateLimiter::new(rate::ADDRESS, rate::ALL));
        Service(Arc::new(Launcher { navigator, token, limiter, strangers: Mutex::default(), began: Instant::now() }))
    }

    /// Serves both routes on `listener`, in the background.
    pub fn serve(&self, listener: impl Listen) -> Server {
        let router =
            Router::new().route("/open", post(open)).route("/healthz", get(healthz)).with_state(self.0.clone());
        http::serve_gated(listener, self.0.clone(), router, LIMITS)
    }
}

impl Gate for Launcher {
    fn knows(&self, peer: &Peer) -> bool {
        self.limiter().knows(&network(address(Some(peer))))
    }

    /// Makes all checks that do not need the body.
    fn admit(&self, parts: &mut Parts) -> Option<Response> {
        let arrival = Arrival::now();
        let refusal = match route(parts) {
            Some(Route::Healthz) => None,
            Some(Route::Open) => self.refuse(&parts.headers, parts.extensions.get()),
            None => Some(Refusal::NOT_FOUND),
        };
        if let Some(refusal) = refusal {
            return Some(self.tell(refusal, parts.extensions.get(), &arrival));
        }
        parts.extensions.insert(arrival);
        None
    }

    fn reject(&self, parts: &Parts, http::Error(status, error): http::Error) -> Response {
        let admitted: Option<&Arrival> = parts.extensions.get();
        let of_a_stranger = admitted.is_none() || !matches!(route(parts), Some(Route::Open)); // other routes need no token
        let arrival = admitted.cloned().unwrap_or_else(Arrival::now);
        let refusal = Refusal { status, error: error.into(), of_a_stranger, ..Refusal::UNREADABLE };
        self.tell(refusal, parts.extensions.get(), &arrival)
    }
}

impl Launcher {
    /// The token is checked before the rate limit is charged. Otherwise strangers could use up the callers' share.
    fn refuse(&self, headers: &HeaderMap, peer: Option<&Peer>) -> Option<Refusal> {
        // Browsers add these headers to requests from web pages, which must not use the launcher.
        if headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site") {
            return Some(Refusal::WEB_PAGE);
        }
        let sent = headers.get(header::AUTHORIZATION);
        let admitted = is_our_user(peer) || sent.is_some_and(|sent| self.token.is_in(sent.as_bytes()));
        if let Err(seconds) = self.limiter().admit(self.began.elapsed(), network(address(peer)), admitted) {
            return Some(Refusal { retry_after: Some(seconds), ..Refusal::TOO_MANY });
        }
        match admitted {
            false => Some(Refusal::UNAUTHORIZED),
            true => (!has_proper_length(headers)).then_some(Refusal::LENGTH),
        }
    }

    /// Replies to the client, and logs the refusal. Refusals of strangers are not all logged.
    fn tell(&self, refusal: Refusal, peer: Option<&Peer>, arrival: &Arrival) -> Response {
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        let more = match refusal.of_a_stranger {
            true => strangers.count(self.began.elapsed(), peer, refusal.verdict),
            false => Some(0),
        };
        drop(strangers);
        if let Some(more) = more {
            let line = AuditLine { peer, request: &arrival.id, more, ..AuditLine::default() };
            line.write(refusal.verdict, refusal.status.as_u16(), arrival.ms());
        }
        refusal.reply(arrival)
    }

    fn limiter(&self) -> MutexGuard<'_, RateLimiter> {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Route {
    Open,
    Healthz,
}

/// Accepts exactly these two: no other method, no query, no other spelling.
fn route(parts: &Parts) -> Option<Route> {
    let plain = parts.uri.authority().is_none() && parts.uri.query().is_none();
    match (plain, &parts.method, parts.uri.path()) {
        (true, &Method::POST, "/open") => Some(Route::Open),
        (true, &Method::GET, "/healthz") => Some(Route::Healthz),
        _ => None,
    }
}

/// Whether the client is a process of our own user, or of root.
fn is_our_user(peer: Option<&Peer>) -> bool {
    matches!(peer, Some(Peer::Unix { uid }) if [0, rustix::process::getuid().as_raw()].contains(uid))
}

fn address(peer: Option<&Peer>) -> IpAddr {
    match peer {
        Some(Peer::Tcp(address)) => address.ip(),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn has_proper_length(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    !headers.contains_key(header::TRANSFER_ENCODING) && length.is_some_and(|length| (1..=BODY_BYTES).contains(&length))
}

async fn healthz(Extension(peer): Extension<Peer>, Extension(arrival): Extension<Arrival>) -> Response {
    AuditLine { peer: Some(&peer), request: &arrival.id, ..AuditLine::default() }.write_healthz(arrival.ms());
    reply(StatusCode::OK, &arrival, r#"{"ok":true}"#.into())
}

async fn open(
    State(launcher): State<Arc<Launcher>>,
    Extension(peer): Extension<Peer>,
    Extension(arrival): Extension<Arrival>,
    body: Bytes,
) -> Response {
    // In a task of its own, so that a request is logged even if its client disconnects.
    let answered = tokio::spawn(async move { launcher.answer(&body, &peer, &arrival).await });
    answered.await.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

impl Launcher {
    async fn answer(&self, body: &[u8], peer: &Peer, arrival: &Arrival) -> Response {
        let Ok(wanted) = serde_json::from_slice::<Value>(body) else {
            return self.tell(Refusal::JSON, Some(peer), arrival);
        };
        let raw = wanted["url"].as_str().unwrap_or_default();
        let host = url::host(raw);
        let verdict = self.open(raw, arrival).await;
        let (status, ms) = (verdict.outcome.status(), arrival.ms());
        let line =
            AuditLine { peer: Some(peer), request: &arrival.id, host: host.as_deref(), also: &verdict.also, more: 0 };
        line.write(verdict.outcome.word(), status.as_u16(), ms);
        let mut response = reply(status, arrival, verdict.body(ms));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }

    async fn open(&self, raw: &str, arrival: &Arrival) -> Verdict {
        match self.navigator.judge(raw).await {
            Ok(target) => self.navigator.open(target, arrival.at + ANSWERED).await,
            Err(refused) => Outcome::Refused(refused).into(),
        }
    }
}

/// The reply to a request that is refused before its URL is judged.
struct Refusal {
    status: StatusCode,
    error: Cow<'static, str>,
    verdict: &'static str,
    /// The request had no token, or the token was not checked. Its connection is closed.
    of_a_stranger: bool,
    retry_after: Option<u64>,
}

impl Refusal {
    const NOT_FOUND: Refusal = Refusal::stranger(StatusCode::NOT_FOUND, "not found", "not_found");
    const WEB_PAGE: Refusal = Refusal::stranger(StatusCode::FORBIDDEN, "web pages may not ask", "web_page");
    const UNAUTHORIZED: Refusal = Refusal::stranger(StatusCode::UNAUTHORIZED, "unauthorized", "unauthorized");
    const TOO_MANY: Refusal = Refusal::stranger(StatusCode::TOO_MANY_REQUESTS, "too many requests", "too_many");
    /// The status and the error come from the server.
    const UNREADABLE: Refusal = Refusal::stranger(StatusCode::BAD_REQUEST, "", "unreadable");
    const LENGTH: Refusal = Refusal::caller(StatusCode::BAD_REQUEST, "invalid body length", "invalid_length");
    const JSON: Refusal = Refusal::caller(StatusCode::BAD_REQUEST, "invalid json", "invalid_json");

    const fn stranger(status: StatusCode, error: &'static str, verdict: &'static str) -> Self {
        Refusal { status, error: Cow::Borrowed(error), verdict, of_a_stranger: true, retry_after: None }
    }

    const fn caller(status: StatusCode, error: &'static str, verdict: &'static str) -> Self {
        Refusal { status, error: Cow::Borrowed(error), verdict, of_a_stranger: false, retry_after: None }
    }

    fn reply(&self, arrival: &Arrival) -> Response {
        let mut response = reply(self.status, arrival, json!({ "error": self.error }).to_string());
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.of_a_stranger {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

fn reply(status: StatusCode, arrival: &Arrival, body: String) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, [(REQUEST_ID, arrival.id.as_str())], body).into_response()
}
