//! The gateway's server. Owns the order of the checks: the route, the caller, its rate, the request. What is answered is
//! decided by `model::gateway`.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::audit::{Arrived, Audited};
use super::board::Board;
use super::callers::{Caller, Callers, Unauthorized};
use super::cluster::ClusterClient;
use super::counts::Counts;
use super::events;
use super::forward::WorkspaceClient;
use super::page;
use super::token_store::TokenStore;
use crate::host::sync::lock;
use crate::http::{self, Closing, Gate, ListenerLimits, Peer, Pieces, Server, network};
use crate::launcher::audit::Strangers;
use crate::model::gateway::launch::{self, Forwarded, LaunchFault, LaunchReply};
use crate::model::gateway::list::{Cursor, Reachable};
use crate::model::gateway::openapi;
use crate::model::gateway::route::{GatewayRoute, Routed};
use crate::model::metrics;
use crate::model::rate::{self, Rate, RateLimiter};
use crate::model::url::Policy;

/// Longest body in bytes: twice the longest URL that may be opened.
const BODY_BYTES: usize = 4096;
/// The header with the request's id, which is also in the audit line.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// How many addresses of callers are remembered.
const KNOWN: usize = 4096;

/// Pages stay connected, and many may come through one proxy.
const LIMITS: ListenerLimits = ListenerLimits {
    connections: 1024,
    per_address: Some(768),
    reserved: 128,
    body_bytes: BODY_BYTES,
    ..ListenerLimits::NETWORK
};

/// The state that all requests share.
pub struct Gateway {
    board: Arc<Board>,
    forwarder: Arc<WorkspaceClient>,
    tokens: TokenStore,
    cluster: Option<Arc<ClusterClient>>,
    callers: Arc<Callers>,
    policy: Policy,
    limits: Mutex<CallerLimits>,
    counts: Counts,
    began: Instant,
}

/// The rate limits of each caller and each stranger.
struct CallerLimits {
    strangers: RateLimiter<IpAddr>,
    callers: RateLimiter<Caller>,
    /// Addresses from which a caller was let in.
    known: HashSet<IpAddr>,
    told: Strangers,
}

/// The result of the checks, for the answer.
#[derive(Clone)]
struct Admitted {
    arrived: Arrived,
    route: GatewayRoute,
    workspace: String,
    /// `None` for routes that everybody may use.
    caller: Option<Caller>,
}

impl Gateway {
    pub fn new(
        board: Arc<Board>,
        forwarder: Arc<WorkspaceClient>,
        tokens: TokenStore,
        cluster: Option<Arc<ClusterClient>>,
        callers: Arc<Callers>,
        policy: Policy,
        requests_per_second: u32,
    ) -> Arc<Self> {
        let per_second = f64::from(requests_per_second);
        let each = Rate { burst: 5.0 * per_second, per_second };
        let all = Rate { burst: 50.0 * per_second, per_second: 10.0 * per_second };
        let limits = CallerLimits {
            strangers: RateLimiter::new(rate::ADDRESS, rate::ALL),
            callers: RateLimiter::new(each, all),
            known: HashSet::new(),
            told: Strangers::default(),
        };
        let (limits, counts, began) = (Mutex::new(limits), Counts::default(), Instant::now());
        Arc::new(Gateway { board, forwarder, tokens, cluster, callers, policy, limits, counts, began })
    }
}

/// Serves all routes on `listener`, in the background.
pub fn serve(listener: TcpListener, gateway: Arc<Gateway>) -> Server {
    let router = Router::new().fallback(answer).with_state(gateway.clone());
    http::serve_gated(listener, gateway, router, LIMITS)
}

impl Gate for Gateway {
    fn knows(&self, peer: &Peer) -> bool {
        lock(&self.limits).known.contains(&network(address(Some(peer))))
    }

    /// Makes all checks that do not need the body.
    fn admit(&self, parts: &mut Parts) -> Option<Response> {
        let arrived = Arrived::now();
        match self.check(parts, &arrived) {
            Ok(admitted) => {
                parts.extensions.insert(admitted);
                None
            }
            Err(refusal) => Some(self.refuse(&refusal, parts.extensions.get(), &arrived)),
        }
    }

    fn reject(&self, parts: &Parts, http::Error(status, error): http::Error) -> Response {
        let admitted: Option<&Admitted> = parts.extensions.get();
        let arrived = admitted.map_or_else(Arrived::now, |admitted| admitted.arrived.clone());
        let refusal = Refused { status, error, verdict: "unreadable", more: None };
        self.refuse(&refusal, parts.extensions.get(), &arrived)
    }
}

/// A request that is refused before it is answered.
struct Refused {
    status: StatusCode,
    error: String,
    verdict: &'static str,
    /// A header that says what would help.
    more: Option<(HeaderName, HeaderValue)>,
}

impl Refused {
    fn new(status: StatusCode, error: impl Into<String>, verdict: &'static str) -> Self {
        Refused { status, error: error.into(), verdict, more: None }
    }
}

impl Gateway {
    fn check(&self, parts: &Parts, arrived: &Arrived) -> Result<Admitted, Refused> {
        let plain = parts.uri.authority().is_none() && parts.uri.query().is_none();
        let path = if plain { parts.uri.path() } else { "" };
        let (route, workspace) = match GatewayRoute::find(parts.method.as_str(), path) {
            Routed::To { route, workspace } => (route, workspace.to_owned()),
            Routed::OtherMethod(method) => {
                let error = format!("this path takes {method} only");
                let more = Some((header::ALLOW, HeaderValue::from_static(method)));
                return Err(Refused { more, ..Refused::new(StatusCode::METHOD_NOT_ALLOWED, error, "not_found") });
            }
            Routed::Nowhere => return Err(Refused::new(StatusCode::NOT_FOUND, "not found", "not_found")),
        };
        let caller = match route.info().protected {
            true => Some(self.let_in(&parts.headers, address(parts.extensions.get()))?),
            false => None,
        };
        Ok(Admitted { arrived: arrived.clone(), route, workspace, caller })
    }

    /// The token is checked before the rate limit is charged. Otherwise strangers could use up the callers' share.
    fn let_in(&self, headers: &HeaderMap, peer: IpAddr) -> Result<Caller, Refused> {
        // Our own page says `same-origin`. No other page may ask, whatever token it has.
        let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
        if matches!(site, Some(b"cross-site" | b"same-site")) {
            return Err(Refused::new(StatusCode::FORBIDDEN, "pages of other sites may not ask", "web_page"));
        }
        let caller = self.callers.admit(headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes));
        let (now, peer) = (self.began.elapsed(), network(peer));
        let mut limits = lock(&self.limits);
        let admitted = match &caller {
            Ok(caller) => limits.callers.admit(now, caller.clone(), true),
            Err(_) => limits.strangers.admit(now, peer, false),
        };
        if let Err(seconds) = admitted {
            let more = Some((header::RETRY_AFTER, HeaderValue::from(seconds)));
            let refused = Refused::new(StatusCode::TOO_MANY_REQUESTS, "too many requests", "too_many");
            return Err(Refused { more, ..refused });
        }
        let Unauthorized(why) = match caller {
            Ok(caller) => {
                if limits.known.len() >= KNOWN {
                    limits.known.clear();
                }
                limits.known.insert(peer);
                return Ok(caller);
            }
            Err(why) => why,
        };
        let more = Some((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
        Err(Refused { more, ..Refused::new(StatusCode::UNAUTHORIZED, why, "unauthorized") })
    }

    /// Replies, and logs the refusal. Refusals of strangers are not all logged.
    fn refuse(&self, refused: &Refused, peer: Option<&Peer>, arrived: &Arrived) -> Response {
        let Refused { status, error, verdict, more } = refused;
        self.counts.count(verdict);
        let told = lock(&self.limits).told.count(self.began.elapsed(), peer, verdict);
        if let Some(more) = told {
            Audited { peer, more, ..Audited::default() }.write(verdict, status.as_u16(), arrived);
        }
        let error = match *status {
            StatusCode::UNAUTHORIZED => json!({ "error": "unauthorized", "reason": error }),
            _ => json!({ "error": error }),
        };
        let mut response = reply(*status, arrived, &error);
        if let Some((name, value)) = more {
            response.headers_mut().insert(name, value.clone());
        }
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

fn address(peer: Option<&Peer>) -> IpAddr {
    match peer {
        Some(Peer::Tcp(address)) => address.ip(),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn reply(status: StatusCode, arrived: &Arrived, body: &Value) -> Response {
    json_reply(status, arrived, body.to_string().into())
}

fn json_reply(status: StatusCode, arrived: &Arrived, body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, [(REQUEST_ID, arrived.id.as_str())], body).into_response()
}

/// The whole list, each part made when the client has read the one before. Whole texts for slow clients would fill the
/// memory.
fn document(board: Arc<Board>, cursor: Cursor) -> Pieces {
    Pieces::new(async move {
        let (next, part) = board.with(|list| list.document(&cursor))?;
        Some((Bytes::from(part), document(board, next)))
    })
}

/// Answers every request that the gate has let pass.
async fn answer(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let (Some(peer), Some(closing), Some(admitted)) = (
        parts.extensions.get::<Peer>().copied(),
        parts.extensions.get::<Closing>().cloned(),
        parts.extensions.get::<Admitted>().cloned(),
    ) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response(); // the gate adds all three
    };
    match admitted.route {
        GatewayRoute::Page => page::response(),
        GatewayRoute::Home => {
            (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, GatewayRoute::Page.info().path)]).into_response()
        }
        GatewayRoute::Health => reply(StatusCode::OK, &admitted.arrived, &json!({ "ok": true })),
        GatewayRoute::Metrics => {
            let text = gateway.counts.text(&gateway.board);
            ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
        }
        GatewayRoute::OpenApi => reply(StatusCode::OK, &admitted.arrived, &openapi::document()),
        GatewayRoute::Workspaces => {
            gateway.board.asked();
            gateway.audit(&admitted, &peer, "listed", StatusCode::OK);
            json_reply(StatusCode::OK, &admitted.arrived, Body::new(document(gateway.board.clone(), Cursor::Start)))
        }
        GatewayRoute::Changes => {
            gateway.audit(&admitted, &peer, "watching", StatusCode::OK);
            let authorization = parts.headers.get(header::AUTHORIZATION).map(|header| header.as_bytes().to_vec());
            events::response(&gateway.board, &gateway.callers, authorization, closing)
        }
        GatewayRoute::Launch | GatewayRoute::Scale => {
            let body = collected(body).await;
            // In a task of its own, so that a request is done and logged even if its client disconnects.
            let done = tokio::spawn(async move {
                match admitted.route {
                    GatewayRoute::Launch => gateway.launch(&admitted, &peer, &body).await,
                    _ => gateway.scale(&admitted, &peer, &body).await,
                }
            });
            done.await.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
        }
    }
}

/// The whole body, which the connection has already read.
async fn collected(body: Body) -> Bytes {
    body.collect().await.map(|body| body.to_bytes()).unwrap_or_default()
}

impl Gateway {
    fn audit(&self, admitted: &Admitted, peer: &Peer, verdict: &'static str, status: StatusCode) {
        self.counts.count(verdict);
        Audited { peer: Some(peer), caller: admitted.caller.as_ref(), ..Audited::default() }.write(
            verdict,
            status.as_u16(),
            &admitted.arrived,
        );
    }

    async fn launch(&self, admitted: &Admitted, peer: &Peer, body: &[u8]) -> Response {
        let Admitted { arrived, workspace, caller, .. } = admitted;
        let (judged, host) = launch::wanted(&self.policy, body);
        let told = match self.found(workspace) {
            Err(fault) => fault.reply(),
            Ok(found) => match judged {
                Err(fault) => fault.reply(),
                Ok(target) => self.forward(workspace, &found, target.url()).await.reply(workspace),
            },
        };
        let LaunchReply { status, body, verdict } = told;
        self.counts.count(verdict);
        self.counts.launched(Duration::from_millis(arrived.ms()));
        let line = Audited { peer: Some(peer), caller: caller.as_ref(), host: host.as_deref(), ..Audited::default() };
        Audited { workspace: Some(&shown(workspace)), ..line }.write(verdict, status, arrived);
        reply(status_of(status), arrived, &body)
    }

    fn found(&self, workspace: &str) -> Result<Reachable, LaunchFault> {
        let name = launch::named(workspace)?;
        let found = self.board.with(|list| list.reachable(name));
        found.ok_or_else(|| LaunchFault::NoSuchWorkspace(name.into()))
    }

    async fn forward(&self, workspace: &str, found: &Reachable, url: &str) -> Forwarded {
        if found.down {
            return Forwarded::Down;
        }
        let Some(launcher) = &found.launcher else { return Forwarded::NotSent("it has no address".into()) };
        let token = match self.tokens.get(workspace, &found.token).await {
            Ok(token) => token,
            Err(why) => return Forwarded::NotSent(why),
        };
        let first = self.forwarder.launch(launcher, url, &token).await;
        if !first.is_unauthorized() {
            return first;
        }
        // The token may have rotated: once more with the one that is there now.
        match self.tokens.get_again(workspace, &found.token, &token).await {
            Some(token) => self.forwarder.launch(launcher, url, &token).await,
            None => first,
        }
    }

    async fn scale(&self, admitted: &Admitted, peer: &Peer, body: &[u8]) -> Response {
        let Admitted { arrived, workspace, caller, .. } = admitted;
        let wanted = wanted_size(body);
        let (status, body, verdict) = match (self.found(workspace), wanted) {
            (Err(fault), _) => {
                let LaunchReply { status, body, verdict } = fault.reply();
                (status, body, verdict)
            }
            (_, None) => (400, json!({ "error": "send {\"replicas\": 0} or {\"replicas\": 1}" }), "invalid_json"),
            (Ok(found), Some(replicas)) => match (&self.cluster, &found.deployment) {
                (Some(cluster), Some(deployment)) => match cluster.scale(deployment, replicas).await {
                    Ok(()) => (200, json!({ "success": true, "workspace": workspace, "replicas": replicas }), "scaled"),
                    Err(why) => (502, json!({ "error": why }), "not_scaled"),
                },
                _ => (409, json!({ "error": "this workspace has no Deployment that could be scaled" }), "not_scaled"),
            },
        };
        self.counts.count(verdict);
        let line = Audited { peer: Some(peer), caller: caller.as_ref(), replicas: wanted, ..Audited::default() };
        Audited { workspace: Some(&shown(workspace)), ..line }.write(verdict, status, arrived);
        reply(status_of(status), arrived, &body)
    }
}

/// 0 or 1, and nothing else.
fn wanted_size(body: &[u8]) -> Option<u32> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let size = body.as_object().filter(|body| body.len() == 1)?.get("replicas")?.as_u64()?;
    u32::try_from(size).ok().filter(|size| *size <= 1)
}

/// A name from a path, fit for a log line.
fn shown(workspace: &str) -> String {
    crate::model::plain::text(workspace).chars().take(63).collect()
}

fn status_of(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY)
}
