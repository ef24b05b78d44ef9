//! The control socket: turns HTTP requests into questions to the loop, and answers into JSON. Owns the routes, the
//! status codes and the waiting. Holds no state and makes no decisions about apps.

mod arguments;
mod ask;
mod stream;

use std::io;
use std::path::Path;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{FromRef, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use axum::{Extension, Json, Router};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::timeout;

use crate::http::{self, Closing, Error, ListenerLimits, Peer, Pieces, Server};
use crate::model::metrics;
use crate::model::protocol::{
    Answer, AppStatus, CommandLine, Crash, HEAD_BYTES, Identity, Inspection, Method, PlanReport, Refusal, Route,
    Snapshot, StateName, Verb,
};
use crate::model::signal::signal_number;
pub use ask::{Ask, LogStream};

use arguments::{Asked, Named, Reading, Waiting};
use ask::LoopHandle;
use stream::follow_on;

/// Opens the control socket, replacing a dead one. The caller must hold the lock of the state folder.
pub fn start(socket: &Path, asks: mpsc::Sender<Ask>, events: broadcast::Sender<Arc<str>>) -> io::Result<Server> {
    let listener = http::bind_unix(socket)?;
    Ok(http::serve(listener, router(asks, events), ListenerLimits::LOCAL))
}

/// Serves only metrics and the two probes, over the network.
pub async fn start_metrics(address: &str, asks: mpsc::Sender<Ask>) -> io::Result<Server> {
    let shared = Shared { asks: LoopHandle(asks), events: broadcast::channel(1).0 };
    let router = with_fallbacks(serving(Route::is_public)).with_state(shared);
    Ok(http::serve(TcpListener::bind(address).await?, router, ListenerLimits::NETWORK))
}

/// The state that all handlers share.
#[derive(Clone)]
struct Shared {
    asks: LoopHandle,
    events: broadcast::Sender<Arc<str>>,
}

impl FromRef<Shared> for LoopHandle {
    fn from_ref(shared: &Shared) -> LoopHandle {
        shared.asks.clone()
    }
}

fn router(asks: mpsc::Sender<Ask>, events: broadcast::Sender<Arc<str>>) -> Router {
    let shared = Shared { asks: LoopHandle(asks), events };
    with_fallbacks(serving(|_| true)).layer(middleware::from_fn(only_ours)).with_state(shared)
}

/// The routes for which `served` is true, each with its handler.
fn serving(served: impl Fn(Route) -> bool) -> Router<Shared> {
    let routes = Route::ALL.iter().copied().filter(|route| served(*route));
    routes.fold(Router::new(), |router, route| {
        let method = match route.info().method {
            Method::Get => MethodFilter::GET,
            Method::Post => MethodFilter::POST,
        };
        router.route(route.info().path, handler(route, method))
    })
}

fn handler(route: Route, method: MethodFilter) -> MethodRouter<Shared> {
    match route {
        Route::Apps => on(method, apps),
        Route::App => on(method, app),
        Route::Start => plainly(method, Verb::Start),
        Route::Stop => plainly(method, Verb::Stop),
        Route::Restart => plainly(method, Verb::Restart),
        Route::Action => on(method, do_action),
        Route::Signal => on(method, send_signal),
        Route::Logs => on(method, logs),
        Route::Crashes => on(method, crashes),
        Route::Command => on(method, command),
        Route::Inspect => on(method, inspect),
        Route::Events => on(method, events_of_all),
        Route::Plan => on(method, plan),
        Route::Reload => on(method, reload),
        Route::Drain => on(method, drain),
        Route::Supervisor => on(method, supervisor),
        Route::Upgrade => on(method, upgrade),
        Route::Live => on(method, async || Json(serde_json::json!({ "live": true }))),
        Route::Ready => on(method, readyz),
        Route::Metrics => on(method, metrics_text),
    }
}

fn with_fallbacks(router: Router<Shared>) -> Router<Shared> {
    router
        .fallback(async |request: Request| {
            let (path, listing) = (request.uri().path(), Route::listing());
            Error::new(StatusCode::NOT_FOUND, format!("there is nothing at {path}: {listing}"))
        })
        .method_not_allowed_fallback(async |request: Request| {
            let (method, path, listing) = (request.method(), request.uri().path(), Route::listing());
            Error::new(StatusCode::METHOD_NOT_ALLOWED, format!("{path} does not take {method}: {listing}"))
        })
}

/// Rejects other users. The socket's mode already keeps them out; this check also holds if the mode was changed.
async fn only_ours(request: Request, next: Next) -> Response {
    let ours = rustix::process::getuid().as_raw();
    match request.extensions().get::<Peer>() {
        Some(Peer::Unix { uid }) if *uid == ours || *uid == 0 => next.run(request).await,
        _ => {
            let why = format!("only user {ours} and root may control this supervisor");
            Error::new(StatusCode::FORBIDDEN, why).into_response()
        }
    }
}

async fn apps(State(asks): State<LoopHandle>) -> Result<Json<Snapshot>, Error> {
    asks.ask(Ask::Apps).await.map(Json)
}

async fn app(State(asks): State<LoopHandle>, Named(name): Named<String>) -> Result<Json<AppStatus>, Error> {
    let snapshot = asks.ask(Ask::Apps).await?;
    match snapshot.apps.into_iter().find(|app| app.name == name) {
        Some(app) => Ok(Json(app)),
        None => Err(asks.no_such_app(&name).await),
    }
}

async fn crashes(State(asks): State<LoopHandle>, Named(app): Named<String>) -> Result<Json<Vec<Crash>>, Error> {
    match asks.ask(|reply| Ask::Crashes { app: app.clone(), reply }).await? {
        Some(crashes) => Ok(Json(crashes)),
        None => Err(asks.no_such_app(&app).await),
    }
}

async fn command(State(asks): State<LoopHandle>, Named(app): Named<String>) -> Result<Json<CommandLine>, Error> {
    match asks.ask(|reply| Ask::Command { app: app.clone(), reply }).await? {
        Some(command) => Ok(Json(command)),
        None => Err(asks.no_such_app(&app).await),
    }
}

async fn inspect(State(asks): State<LoopHandle>, Named(app): Named<String>) -> Result<Json<Inspection>, Error> {
    match asks.ask(|reply| Ask::Inspect { app: app.clone(), reply }).await? {
        Some(inspection) => Ok(Json(inspection)),
        None => Err(asks.no_such_app(&app).await),
    }
}

async fn plan(State(asks): State<LoopHandle>) -> Result<Json<PlanReport>, Error> {
    asks.ask(Ask::Plan).await.map(Json)
}

/// The handler of a verb without an argument.
fn plainly(method: MethodFilter, verb: Verb) -> MethodRouter<Shared> {
    on(method, move |State(asks): State<LoopHandle>, Named(app): Named<String>, Asked(waiting): Asked<Waiting>| {
        change(asks, app, verb.clone(), waiting)
    })
}

async fn do_action(
    State(asks): State<LoopHandle>,
    Named((app, action)): Named<(String, String)>,
    Asked(waiting): Asked<Waiting>,
) -> Result<Response, Error> {
    change(asks, app, Verb::Do(action), waiting).await
}

async fn send_signal(
    State(asks): State<LoopHandle>,
    Named((app, signal)): Named<(String, String)>,
    Asked(waiting): Asked<Waiting>,
) -> Result<Response, Error> {
    let number = signal_number(&signal).map_err(|why| Error::new(StatusCode::BAD_REQUEST, why))?;
    change(asks, app, Verb::Signal(number), waiting).await
}

async fn change(
    asks: LoopHandle,
    app: String,
    verb: Verb,
    Waiting { wait, timeout: limit }: Waiting,
) -> Result<Response, Error> {
    let question = |reply| Ask::Verb { app: app.clone(), verb: verb.clone(), wait, reply };
    match timeout(limit.0, asks.ask(question)).await {
        Ok(answer) => Ok(told(answer?)),
        Err(_) => {
            let now = asks.ask(Ask::Apps).await?;
            let state =
                now.apps.iter().find(|status| status.name == app).map_or("gone".into(), AppStatus::state_in_words);
            let message = format!("the {verb} of `{app}` takes longer than {limit} and continues: `{app}` is {state}");
            Ok(told(Answer { app, done: false, message, refusal: Some(Refusal::TimedOut) }))
        }
    }
}

async fn reload(
    State(asks): State<LoopHandle>,
    Asked(Waiting { wait, timeout: limit }): Asked<Waiting>,
) -> Result<Response, Error> {
    if !wait {
        let (reply, _unheard) = oneshot::channel();
        asks.send(Ask::Reload(reply)).await?;
        return Ok(told(of_all("reading the manifests again", None)));
    }
    match timeout(limit.0, asks.ask(Ask::Reload)).await {
        Ok(plan) => Ok(Json(plan?).into_response()),
        Err(_) => {
            Err(Error(StatusCode::GATEWAY_TIMEOUT, format!("the reload is not done within {limit}; it continues")))
        }
    }
}

async fn drain(
    State(asks): State<LoopHandle>,
    Asked(Waiting { wait, timeout: limit }): Asked<Waiting>,
) -> Result<Response, Error> {
    if !wait {
        asks.ask(Ask::BeginDrain).await?;
        return Ok(told(of_all("stopping every app; the supervisor ends after that", None)));
    }
    match timeout(limit.0, asks.ask(Ask::Drain)).await {
        Ok(drained) => {
            drained?;
            Ok(told(of_all("every app is down; the supervisor ends", None)))
        }
        Err(_) => {
            let now = asks.ask(Ask::Apps).await?;
            let up = now.apps_outside(&[StateName::Stopped, StateName::GaveUp]);
            let message = format!("not everything is down within {limit}: {}; the drain continues", up.join(", "));
            Ok(told(of_all(message, Some(Refusal::TimedOut))))
        }
    }
}

async fn supervisor(State(asks): State<LoopHandle>) -> Result<Json<Identity>, Error> {
    Ok(Json(asks.ask(Ask::Supervisor).await?))
}

async fn upgrade(State(asks): State<LoopHandle>, Named(binary): Named<String>) -> Result<Response, Error> {
    Ok(told(asks.ask(|reply| Ask::Upgrade { binary, reply }).await?))
}

/// An answer that concerns no single app.
fn of_all(message: impl Into<String>, refusal: Option<Refusal>) -> Answer {
    Answer { app: String::new(), done: refusal.is_none(), message: message.into(), refusal }
}

fn told(answer: Answer) -> Response {
    let status = answer.refusal.map_or(200, Refusal::status);
    (StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), Json(answer)).into_response()
}

async fn readyz(State(asks): State<LoopHandle>) -> Result<Response, Error> {
    let readiness = asks.ask(Ask::Readiness).await?;
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, Json(readiness)).into_response())
}

async fn metrics_text(State(asks): State<LoopHandle>) -> Result<Response, Error> {
    let snapshot = asks.ask(Ask::Apps).await?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::text(&snapshot)).into_response())
}

/// The most lines that a client can ask for; a larger number is lowered to this.
const MOST_LINES: usize = 100_000;

async fn logs(
    State(asks): State<LoopHandle>,
    Extension(closing): Extension<Closing>,
    Named(app): Named<String>,
    Asked(Reading { follow, lines }): Asked<Reading>,
) -> Result<Response, Error> {
    let lines = lines.min(MOST_LINES);
    let Some(stream) = asks.ask(|reply| Ask::Logs { app: app.clone(), lines, reply }).await? else {
        return Err(asks.no_such_app(&app).await);
    };
    let head = Bytes::from(stream.head);
    let length = head.len().to_string();
    let body = match stream.follow.filter(|_| follow) {
        Some(receiver) => Body::new(Pieces::new(async { Some((head, follow_on(receiver, closing))) })),
        None => Body::from(head),
    };
    let headers = [(header::CONTENT_TYPE.as_str(), "text/plain; charset=utf-8".into()), (HEAD_BYTES, length)];
    Ok((headers, body).into_response())
}

async fn events_of_all(State(shared): State<Shared>, Extension(closing): Extension<Closing>) -> Response {
    let body = Body::new(follow_on(shared.events.subscribe(), closing));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn who_is_not_known_to_be_us_controls_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asks, mut inbox) = mpsc::channel(1);
        let _server = http::serve(listener, router(asks, broadcast::channel(1).0), ListenerLimits::NETWORK);
        let mut stranger = TcpStream::connect(address).await.unwrap();
        let drain = "POST /v1/drain?wait=false HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stranger.write_all(drain.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stranger.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        assert!(inbox.try_recv().is_err(), "a stranger reached the loop");
    }
}
