//! Two routes and no third: `POST /open` and `GET /healthz`. Owns the order of the checks and every word of the
//! replies; opens nothing itself.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::audit::Line;
use super::navigate::Navigator;
use super::rate::{self, Gauge};
use super::token::Token;
use super::verdict::{Outcome, Verdict};
use crate::http::{self, Gate, Limits, Peer, Server, network};
use crate::model::url;

/// Callers give up after 10 s: all they are told, they are told before.
pub const ANSWERED: Duration = Duration::from_millis(7500);
/// Longest body; the longest URL that may be opened fits twice.
const BODY_BYTES: usize = 4096;
/// Names a request in its reply and in the audit line.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const LIMITS: Limits =
    Limits { head: Duration::from_secs(3), body: Duration::from_secs(2), body_bytes: BODY_BYTES, ..Limits::NETWORK };

struct Door {
    navigator: Arc<Navigator>,
    token: Token,
    gauge: Mutex<Gauge>,
    opened: Instant,
}

/// A request that has come in.
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

/// Serves both routes to all who connect.
pub fn serve(listener: TcpListener, navigator: Arc<Navigator>, token: Token) -> Server {
    token.warn_when_missing();
    let gauge = Mutex::new(Gauge::new(rate::ADDRESS, rate::ALL));
    let door = Arc::new(Door { navigator, token, gauge, opened: Instant::now() });
    let router = Router::new().route("/open", post(open)).route("/healthz", get(healthz)).with_state(door.clone());
    http::serve_gated(listener, door, router, LIMITS)
}

impl Gate for Door {
    /// All that can be said of a request without its body.
    fn admit(&self, parts: &mut Parts) -> Option<Response> {
        let arrival = Arrival::now();
        let refusal = match route(parts) {
            Some(Route::Healthz) => None,
            Some(Route::Open) => self.refuse(&parts.headers, peer(parts)),
            None => Some(Refusal::NOT_FOUND),
        };
        if let Some(refusal) = refusal {
            return Some(refusal.tell(parts.extensions.get(), &arrival));
        }
        parts.extensions.insert(arrival);
        None
    }

    fn reject(&self, parts: &Parts, http::Error(status, error): http::Error) -> Response {
        let arrival = parts.extensions.get().cloned().unwrap_or_else(Arrival::now);
        let refusal = Refusal { status, error: error.into(), ..Refusal::UNREADABLE };
        refusal.tell(parts.extensions.get(), &arrival)
    }
}

impl Door {
    fn refuse(&self, headers: &HeaderMap, peer: IpAddr) -> Option<Refusal> {
        let (mut gauge, peer) = (self.gauge.lock().unwrap_or_else(PoisonError::into_inner), network(peer));
        if let Err(seconds) = gauge.admit(self.opened.elapsed(), peer) {
            return Some(Refusal { retry_after: Some(seconds), ..Refusal::TOO_MANY });
        }
        let sent = headers.get(header::AUTHORIZATION);
        if !sent.is_some_and(|sent| self.token.is_in(sent.as_bytes())) {
            return Some(Refusal::UNAUTHORIZED);
        }
        gauge.know(peer);
        (!has_proper_length(headers)).then_some(Refusal::LENGTH)
    }
}

enum Route {
    Open,
    Healthz,
}

/// Exactly these: no other method, no query, no other way to write them.
fn route(parts: &Parts) -> Option<Route> {
    let plain = parts.uri.authority().is_none() && parts.uri.query().is_none();
    match (plain, &parts.method, parts.uri.path()) {
        (true, &Method::POST, "/open") => Some(Route::Open),
        (true, &Method::GET, "/healthz") => Some(Route::Healthz),
        _ => None,
    }
}

fn peer(parts: &Parts) -> IpAddr {
    match parts.extensions.get() {
        Some(Peer::Tcp(address)) => address.ip(),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn has_proper_length(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    !headers.contains_key(header::TRANSFER_ENCODING) && length.is_some_and(|length| (1..=BODY_BYTES).contains(&length))
}

async fn healthz(Extension(peer): Extension<Peer>, Extension(arrival): Extension<Arrival>) -> Response {
    Line { peer: Some(&peer), request: &arrival.id, ..Line::default() }.write_healthz(arrival.ms());
    reply(StatusCode::OK, &arrival, r#"{"ok":true}"#.into())
}

async fn open(
    State(door): State<Arc<Door>>,
    Extension(peer): Extension<Peer>,
    Extension(arrival): Extension<Arrival>,
    body: Bytes,
) -> Response {
    // On its own: what is opened for a caller who has left in between is written down as well.
    let answered = tokio::spawn(async move { door.answer(&body, &peer, &arrival).await });
    answered.await.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

impl Door {
    async fn answer(&self, body: &[u8], peer: &Peer, arrival: &Arrival) -> Response {
        let Ok(wanted) = serde_json::from_slice::<Value>(body) else {
            return Refusal::JSON.tell(Some(peer), arrival);
        };
        let raw = wanted["url"].as_str().unwrap_or_default();
        let host = url::host(raw);
        let verdict = self.open(raw, arrival).await;
        let (status, ms) = (verdict.outcome.status(), arrival.ms());
        let line = Line { peer: Some(peer), request: &arrival.id, host: host.as_deref(), also: &verdict.also };
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

/// What is said of a request that is not even looked at as one to open a page.
struct Refusal {
    status: StatusCode,
    error: Cow<'static, str>,
    verdict: &'static str,
    retry_after: Option<u64>,
}

impl Refusal {
    const NOT_FOUND: Refusal = Refusal::new(StatusCode::NOT_FOUND, "not found", "not_found");
    const UNAUTHORIZED: Refusal = Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized", "unauthorized");
    const TOO_MANY: Refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too many requests", "too_many");
    const LENGTH: Refusal = Refusal::new(StatusCode::BAD_REQUEST, "invalid body length", "invalid_length");
    const JSON: Refusal = Refusal::new(StatusCode::BAD_REQUEST, "invalid json", "invalid_json");
    /// In words of the server.
    const UNREADABLE: Refusal = Refusal::new(StatusCode::BAD_REQUEST, "", "unreadable");

    const fn new(status: StatusCode, error: &'static str, verdict: &'static str) -> Self {
        Refusal { status, error: Cow::Borrowed(error), verdict, retry_after: None }
    }

    /// The caller, and those who read what is written down.
    fn tell(&self, peer: Option<&Peer>, arrival: &Arrival) -> Response {
        let line = Line { peer, request: &arrival.id, ..Line::default() };
        line.write(self.verdict, self.status.as_u16(), arrival.ms());
        let mut response = reply(self.status, arrival, json!({ "error": self.error }).to_string());
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

fn reply(status: StatusCode, arrival: &Arrival, body: String) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, [(REQUEST_ID, arrival.id.as_str())], body).into_response()
}
