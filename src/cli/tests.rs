//! The real client and the real server on a real socket, with a loop in between that answers from a script.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use clap::error::ErrorKind;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::timeout;

use super::client::{NoAnswer, NoSupervisor};
use super::*;
use crate::daemon::control::{self, Ask as Asked, LogStream};
use crate::http::Server;
use crate::model::exit::Exit;
use crate::model::protocol::{
    Answer, AppStatus, CommandLine, Crash, Identity, PlanReport, PlanStep, Readiness, Refusal, Route, Snapshot,
    StateName,
};

const DEADLINE: Duration = Duration::from_secs(30);
const MINUTE: Waiting = Waiting { wait: true, timeout: Span::secs(60) };

/// A supervisor without apps of its own.
struct Fake {
    folder: tempfile::TempDir,
    events: broadcast::Sender<Arc<str>>,
    output: broadcast::Sender<Bytes>,
    /// What was asked for, in words.
    asked: mpsc::UnboundedReceiver<String>,
    server: Server,
}

pub fn app(name: &str, state: StateName) -> AppStatus {
    AppStatus::of(name, state)
}

impl Fake {
    fn with(apps: Vec<AppStatus>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (events, output) = (broadcast::channel(8).0, broadcast::channel(8).0);
        let (asks, mut inbox) = mpsc::channel(8);
        let (note, asked) = mpsc::unbounded_channel();
        let server = control::start(&folder.path().join("control.sock"), asks, events.clone()).unwrap();
        let snapshot = Snapshot { apps, ..Snapshot::default() };
        let follow = output.clone();
        tokio::spawn(async move {
            let mut never_answered = Vec::new();
            while let Some(ask) = inbox.recv().await {
                let _ = note.send(in_words(&ask)); // the test may not listen
                if let Asked::Verb { app, reply, .. } = ask {
                    match verdict(&snapshot, &app) {
                        Some(answer) => drop(reply.send(answer)),
                        None => never_answered.push(reply),
                    }
                } else {
                    answer(&snapshot, &follow, ask);
                }
            }
        });
        Fake { folder, events, output, asked, server }
    }

    fn client(&self) -> Client {
        Client::new(self.folder.path())
    }

    async fn raw(&self, request: &str) -> UnixStream {
        let mut stream = UnixStream::connect(self.folder.path().join("control.sock")).await.unwrap();
        stream.write_all(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        stream
    }

    async fn next_ask(&mut self) -> String {
        timeout(DEADLINE, self.asked.recv()).await.expect("the loop was asked nothing").unwrap()
    }
}

fn in_words(ask: &Asked) -> String {
    match ask {
        Asked::Verb { app, verb, wait, .. } => format!("{verb} {app} wait={wait}"),
        Asked::Apps(_) => "apps".into(),
        Asked::Readiness(_) => "readiness".into(),
        Asked::Crashes { app, .. } => format!("crashes {app}"),
        Asked::Command { app, .. } => format!("command {app}"),
        Asked::Inspect { app, .. } => format!("inspect {app}"),
        Asked::Logs { app, lines, .. } => format!("logs {app} {lines}"),
        Asked::Plan(_) => "plan".into(),
        Asked::Reload(_) => "reload".into(),
        Asked::BeginDrain(_) => "begin to drain".into(),
        Asked::Drain(_) => "drain".into(),
        Asked::Supervisor(_) => "supervisor".into(),
        Asked::Upgrade { binary, .. } => format!("upgrade {binary}"),
    }
}

/// Apps in `Starting` never get where they were asked to go.
fn verdict(snapshot: &Snapshot, app: &str) -> Option<Answer> {
    let (done, message, refusal) = match snapshot.apps.iter().find(|status| status.name == app) {
        Some(status) if status.state == StateName::Starting => return None,
        Some(status) if status.state == StateName::Stopping => (false, "it is stopping", Some(Refusal::WrongState)),
        Some(_) => (true, "as you say", None),
        None => (false, "no such app", Some(Refusal::NoSuchApp)),
    };
    Some(Answer { app: app.into(), done, message: message.into(), refusal })
}

fn answer(snapshot: &Snapshot, output: &broadcast::Sender<Bytes>, ask: Asked) {
    let known = |app: &str| snapshot.apps.iter().any(|status| status.name == app);
    let report = || PlanReport {
        steps: vec![PlanStep { sign: '+', app: "new".into(), text: "start".into() }],
        ..PlanReport::default()
    };
    match ask {
        Asked::Apps(reply) => drop(reply.send(snapshot.clone())),
        Asked::Readiness(reply) => drop(reply.send(Readiness::of(snapshot, None))),
        Asked::Crashes { app, reply } => drop(reply.send(known(&app).then(|| vec![crash()]))),
        Asked::Command { app, reply } => drop(reply.send(known(&app).then(command_line))),
        Asked::Inspect { reply, .. } => drop(reply.send(None)),
        Asked::Logs { app, reply, .. } => {
            let stream = || LogStream { head: b"one\ntwo\n".to_vec(), follow: Some(output.subscribe()) };
            drop(reply.send(known(&app).then(stream)));
        }
        Asked::Plan(reply) | Asked::Reload(reply) => drop(reply.send(report())),
        Asked::BeginDrain(reply) | Asked::Drain(reply) => drop(reply.send(())),
        Asked::Supervisor(reply) => drop(reply.send(Identity::default())),
        Asked::Upgrade { binary, reply } => {
            let message = format!("making way for {binary}");
            drop(reply.send(Answer { app: String::new(), done: true, message, refusal: None }));
        }
        Asked::Verb { .. } => unreachable!("answered by its verdict"),
    }
}

/// Of an app that there is no use in running again.
fn command_line() -> CommandLine {
    CommandLine {
        argv: vec!["/usr/bin/x".into()],
        last: Vec::new(),
        again: None,
        env: Default::default(),
        env_hidden: Default::default(),
    }
}

pub fn crash() -> Crash {
    Crash {
        at: "2026-01-02T03:04:05Z".into(),
        run: 3,
        pid: Some(12),
        exit: Exit::Signal(11),
        reason: Exit::Signal(11).to_string(),
        uptime_ms: Some(61_000),
        peak_memory_bytes: Some(5 << 20),
        tail: vec!["last words".into()],
        hint: None,
    }
}

async fn error_of<T: std::fmt::Debug>(answer: impl Future<Output = anyhow::Result<T>>) -> String {
    format!("{:#}", answer.await.unwrap_err())
}

#[tokio::test]
async fn the_snapshot_arrives_as_the_loop_gave_it() {
    let fake = Fake::with(vec![app("a", StateName::Running), app("b", StateName::Stopped)]);
    let snapshot: Snapshot = fake.client().get("/v1/apps").await.unwrap();
    assert_eq!(snapshot.apps, [app("a", StateName::Running), app("b", StateName::Stopped)]);
    let one: AppStatus = fake.client().get("/v1/apps/b").await.unwrap();
    assert_eq!(one.state, StateName::Stopped);
    let crashes: Vec<Crash> = fake.client().get("/v1/apps/a/crashes").await.unwrap();
    assert_eq!(crashes, [crash()]);
}

#[tokio::test]
async fn a_mistyped_app_is_told_its_likely_name() {
    let fake = Fake::with(vec![app("discord", StateName::Running)]);
    for path in ["/v1/apps/dicsord", "/v1/apps/dicsord/crashes", "/v1/apps/dicsord/logs"] {
        let error = error_of(fake.client().get::<Value>(path)).await;
        assert_eq!(error, "no app is called `dicsord`: did you mean `discord`?");
    }
}

#[tokio::test]
async fn wrong_paths_methods_and_queries_are_told_the_way_out() {
    let fake = Fake::with(vec![app("a", StateName::Running)]);
    let client = fake.client();
    let nowhere = error_of(client.get::<Value>("/v1/app")).await;
    assert!(nowhere.contains("nothing at /v1/app") && nowhere.contains("/v1/apps"), "{nowhere}");
    let wrong_method = error_of(client.post::<Value>("/v1/apps", Span::secs(9))).await;
    assert!(wrong_method.contains("does not take POST"), "{wrong_method}");
    let wrong_query = error_of(client.get::<Value>("/v1/apps/a/logs?line=3")).await;
    assert!(wrong_query.contains("`line`"), "{wrong_query}");
    let wrong_name = error_of(client.get::<Value>("/v1/apps/%ff")).await;
    assert!(wrong_name.contains("UTF-8"), "{wrong_name}");
    let wrong_signal = error_of(client.post::<Value>("/v1/apps/a/signal/NOPE", Span::secs(9))).await;
    assert!(wrong_signal.contains("`NOPE` is not a signal"), "{wrong_signal}");
}

#[tokio::test]
async fn each_verb_reaches_the_loop_as_it_was_said() {
    let mut fake = Fake::with(vec![app("a b/c", StateName::Running)]);
    let client = fake.client();
    let no_wait = Waiting { wait: false, ..MINUTE };
    let named = || Which::Named(vec!["a b/c".into()]);
    assert_eq!(change::each(&client, named(), Route::Start, MINUTE, true).await.unwrap(), VerbEnd::Done);
    assert_eq!(change::each(&client, named(), Route::Stop, no_wait, true).await.unwrap(), VerbEnd::Done);
    assert_eq!(change::one(&client, "a b/c", (Route::Action, "clear/all"), MINUTE, true).await.unwrap(), VerbEnd::Done);
    assert_eq!(change::one(&client, "a b/c", (Route::Signal, "SIGUSR1"), MINUTE, true).await.unwrap(), VerbEnd::Done);
    assert_eq!(change::reload(&client, MINUTE, true).await.unwrap(), VerbEnd::Done);
    assert_eq!(change::reload(&client, no_wait, true).await.unwrap(), VerbEnd::Done);
    assert_eq!(change::drain(&client, MINUTE, true).await.unwrap(), VerbEnd::Done);
    for expected in [
        "start a b/c wait=true",
        "stop a b/c wait=false",
        "do clear/all a b/c wait=true",
        "signal 10 a b/c wait=true",
        "reload",
        "reload",
        "drain",
    ] {
        assert_eq!(fake.next_ask().await, expected);
    }
}

#[tokio::test]
async fn what_is_down_is_started_to_be_shown() {
    let mut fake = Fake::with(vec![app("a", StateName::Stopped)]);
    assert_eq!(icons::show(&fake.client(), "a", &[], MINUTE, true).await.unwrap(), VerbEnd::Done);
    assert_eq!([fake.next_ask().await, fake.next_ask().await], ["apps", "start a wait=true"]);
}

#[tokio::test]
async fn what_is_up_is_shown_without_a_start() {
    let mut fake = Fake::with(vec![app("a", StateName::Running)]);
    assert_eq!(icons::show(&fake.client(), "a", &[], MINUTE, true).await.unwrap(), VerbEnd::Done);
    assert_eq!([fake.next_ask().await, fake.next_ask().await], ["apps", "command a"]);
    let refused = icons::show(&fake.client(), "a", &["x".into()], MINUTE, true).await.unwrap_err();
    assert_eq!(refused.to_string(), "cannot pass arguments to `a`, which is running: its icon has no `again`");
}

#[tokio::test]
async fn all_means_every_app() {
    let mut fake = Fake::with(vec![app("a", StateName::Running), app("b", StateName::Running)]);
    assert_eq!(change::each(&fake.client(), Which::All, Route::Restart, MINUTE, true).await.unwrap(), VerbEnd::Done);
    let mut asked = [fake.next_ask().await, fake.next_ask().await, fake.next_ask().await];
    asked.sort();
    assert_eq!(asked, ["apps", "restart a wait=true", "restart b wait=true"]);
}

#[tokio::test]
async fn a_refusal_among_several_is_a_refusal() {
    let fake = Fake::with(vec![app("a", StateName::Running), app("b", StateName::Stopping)]);
    let which = Which::Named(vec!["b".into(), "a".into()]);
    assert_eq!(change::each(&fake.client(), which, Route::Start, MINUTE, true).await.unwrap(), VerbEnd::Refused);
}

#[tokio::test]
async fn a_wait_that_takes_too_long_says_where_the_app_is() {
    let mut slow = app("slow", StateName::Starting);
    slow.detail = "waiting for display".into();
    let fake = Fake::with(vec![slow]);
    let waiting = Waiting { wait: true, timeout: Span::millis(20) };
    let answer = fake.client().change("/v1/apps/slow/start", waiting).await.unwrap();
    assert_eq!(answer.refusal, Some(Refusal::TimedOut));
    assert_eq!(
        answer.message,
        "the start of `slow` takes longer than 20ms and continues: `slow` is Starting (waiting for display)"
    );
}

#[tokio::test]
async fn a_reload_or_drain_that_takes_too_long_is_told_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let (asks, mut inbox) = mpsc::channel(8);
    let _server = control::start(&folder.path().join("control.sock"), asks, broadcast::channel(8).0).unwrap();
    tokio::spawn(async move {
        let mut never_answered = Vec::new();
        let snapshot = Snapshot { apps: vec![app("a", StateName::Stopping)], ..Snapshot::default() };
        while let Some(ask) = inbox.recv().await {
            match ask {
                Asked::Apps(reply) => drop(reply.send(snapshot.clone())),
                other => never_answered.push(other),
            }
        }
    });
    let (client, soon) = (Client::new(folder.path()), Waiting { wait: true, timeout: Span::millis(20) });
    assert!(change::reload(&client, soon, true).await.unwrap_err().is::<NoAnswer>());
    assert_eq!(change::drain(&client, soon, true).await.unwrap(), VerbEnd::TimedOut);
    let answer = client.change("/v1/drain", soon).await.unwrap();
    assert_eq!(answer.message, "not everything is down within 20ms: a is Stopping; the drain continues");
}

#[tokio::test]
async fn a_state_folder_too_deep_for_a_socket_is_said_to_be() {
    let folder = tempfile::tempdir().unwrap().path().join("deep".repeat(30));
    let error = error_of(Client::new(&folder).get::<Value>("/v1/apps")).await;
    assert!(error.contains("shorter state folder"), "{error}");
}

#[tokio::test]
async fn a_client_who_leaves_is_waited_for_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let (asks, mut inbox) = mpsc::channel(8);
    let socket = folder.path().join("control.sock");
    let _server = control::start(&socket, asks, broadcast::channel(8).0).unwrap();
    let mut stream = UnixStream::connect(&socket).await.unwrap();
    stream.write_all(b"POST /v1/apps/a/start HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let Some(Asked::Verb { mut reply, .. }) = inbox.recv().await else { panic!("another question was asked") };
    drop(stream);
    timeout(DEADLINE, reply.closed()).await.expect("the wait goes on without its client");
}

#[tokio::test]
async fn readiness_names_who_is_not_ready() {
    let fake =
        Fake::with(vec![app("a", StateName::Running), app("b", StateName::Backoff), app("c", StateName::Stopped)]);
    let (status, answer) = fake.client().probe("/readyz").await.unwrap();
    assert_eq!(status, 503);
    assert_eq!(answer, json!({"ready": false, "draining": false, "staging": false, "waiting": ["b is Backoff"]}));
    assert_eq!(health::health(&fake.client(), true, true).await.unwrap(), VerbEnd::Refused);
    assert_eq!(health::health(&fake.client(), false, true).await.unwrap(), VerbEnd::Done);

    let fake = Fake::with(vec![app("a", StateName::Running), app("c", StateName::Stopped)]);
    assert_eq!(health::health(&fake.client(), true, true).await.unwrap(), VerbEnd::Done);
}

#[tokio::test]
async fn without_a_supervisor_the_way_to_start_one_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let error = Client::new(folder.path()).get::<Value>("/v1/apps").await.unwrap_err();
    assert!(error.is::<NoSupervisor>());
    assert!(error.to_string().contains("start one with `kasm-void run`"), "{error}");
}

#[tokio::test]
async fn a_dead_socket_is_no_supervisor_and_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let client = Client::new(folder.path());
    assert!(client.get::<Value>("/livez").await.unwrap_err().is::<NoSupervisor>());

    let _server = control::start(&socket, mpsc::channel(1).0, broadcast::channel(1).0).unwrap();
    assert_eq!(client.get::<Value>("/livez").await.unwrap(), json!({"live": true}));
    let mode = std::os::unix::fs::PermissionsExt::mode(&socket.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_hangs_is_not_waited_for_without_end() {
    let folder = tempfile::tempdir().unwrap();
    let listener = tokio::net::UnixListener::bind(folder.path().join("control.sock")).unwrap();
    let error = Client::new(folder.path()).get::<Value>("/v1/apps").await.unwrap_err();
    assert!(error.is::<NoAnswer>(), "{error}");
    drop(listener);
}

#[tokio::test]
async fn an_ending_loop_is_said_to_be_ending() {
    let folder = tempfile::tempdir().unwrap();
    let _server = control::start(&folder.path().join("control.sock"), mpsc::channel(1).0, broadcast::channel(1).0);
    let error = error_of(Client::new(folder.path()).get::<Value>("/v1/apps")).await;
    assert!(error.contains("shutting down"), "{error}");
}

async fn pass_pieces(client: &Client, path: &str, told: mpsc::UnboundedSender<Vec<u8>>) {
    let mut stream = client.open(path).await.unwrap();
    while let Some(piece) = stream.next().await {
        let _ = told.send(piece.to_vec()); // the story may be over
    }
}

#[tokio::test]
async fn events_come_one_a_line_as_they_happen() {
    let fake = Fake::with(Vec::new());
    let (client, events) = (fake.client(), fake.events.clone());
    let (told, mut lines) = mpsc::unbounded_channel();
    tokio::spawn(async move { pass_pieces(&client, "/v1/events", told).await });
    while events.receiver_count() == 0 {
        tokio::task::yield_now().await;
    }
    for event in [r#"{"event":"a"}"#, r#"{"event":"b"}"#] {
        events.send(event.into()).unwrap();
        let line = timeout(DEADLINE, lines.recv()).await.unwrap().unwrap();
        assert_eq!(line, format!("{event}\n").as_bytes());
    }
}

#[tokio::test]
async fn a_slow_reader_of_events_is_told_how_many_it_missed() {
    let fake = Fake::with(Vec::new());
    let mut reader = fake.raw("GET /v1/events").await;
    while fake.events.receiver_count() == 0 {
        tokio::task::yield_now().await;
    }
    // The server gets no turn in between, as when the client's socket is full.
    for i in 0..20 {
        fake.events.send(format!("{{\"event\":\"{i}\"}}").into()).unwrap();
    }
    let mut text = String::new();
    while !text.contains("{\"event\":\"19\"}") {
        let mut piece = [0; 4096];
        let count = timeout(DEADLINE, reader.read(&mut piece)).await.unwrap().unwrap();
        assert!(count > 0, "the stream ended: {text}");
        text.push_str(&String::from_utf8_lossy(&piece[..count]));
    }
    assert!(text.contains("{\"event\":\"dropped\",\"n\":12}\n{\"event\":\"12\"}\n"), "{text}");
}

#[tokio::test]
async fn logs_begin_with_the_past_and_follow_when_asked() {
    let mut fake = Fake::with(vec![app("a", StateName::Running)]);
    let mut past = fake.client().open("/v1/apps/a/logs?lines=7").await.unwrap();
    assert_eq!(past.head().await, b"one\ntwo\n");
    assert_eq!(past.next().await, None);
    assert_eq!(fake.next_ask().await, "logs a 7");

    let (client, output) = (fake.client(), fake.output.clone());
    let (told, mut pieces) = mpsc::unbounded_channel();
    tokio::spawn(async move { pass_pieces(&client, "/v1/apps/a/logs?follow=true", told).await });
    assert_eq!(timeout(DEADLINE, pieces.recv()).await.unwrap().unwrap(), b"one\ntwo\n");
    output.send(Bytes::from_static(b"three\n")).unwrap();
    assert_eq!(timeout(DEADLINE, pieces.recv()).await.unwrap().unwrap(), b"three\n");
}

#[tokio::test]
async fn followers_do_not_hold_up_the_end() {
    let fake = Fake::with(Vec::new());
    let client = fake.client();
    let (sent, headers) = oneshot::channel();
    let following = tokio::spawn(async move {
        let mut stream = client.open("/v1/events").await.unwrap();
        stream.next().await.unwrap();
        sent.send(()).unwrap();
        while stream.next().await.is_some() {}
    });
    while fake.events.receiver_count() == 0 {
        tokio::task::yield_now().await;
    }
    fake.events.send("{}".into()).unwrap();
    headers.await.unwrap();
    timeout(DEADLINE, fake.server.close(DEADLINE * 2)).await.expect("a follower holds up the end");
    following.await.unwrap();
}

#[tokio::test]
async fn metrics_say_what_they_are() {
    let fake = Fake::with(vec![app("a", StateName::Running)]);
    let mut stream = fake.raw("GET /metrics").await;
    let mut text = String::new();
    while !text.ends_with("# EOF\n") {
        let mut piece = [0; 4096];
        let count = timeout(DEADLINE, stream.read(&mut piece)).await.unwrap().unwrap();
        assert!(count > 0, "the answer ended: {text}");
        text.push_str(&String::from_utf8_lossy(&piece[..count]));
    }
    assert!(text.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{text}");
    assert!(text.contains("kasm_void_app_up{app=\"a\"} 1"), "{text}");
}

#[tokio::test]
async fn the_network_gets_metrics_and_nothing_else() {
    let (asks, mut inbox) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Some(ask) = inbox.recv().await {
            answer(&Snapshot::default(), &broadcast::channel(1).0, ask);
        }
    });
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let _server = control::start_metrics(&address, asks).await.unwrap();
    for (path, status) in [("/metrics", "200"), ("/livez", "200"), ("/v1/apps", "404")] {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        timeout(DEADLINE, stream.read_to_string(&mut text)).await.unwrap().unwrap();
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {text}");
    }
}

/// The help of every verb, as a page of the docs.
fn reference() -> String {
    let mut command = Cli::command().term_width(100);
    command.build();
    let mut page =
        "# Command line\n\nThe help of each verb, as `--help` prints it. A test keeps this page up to date. \
        [control.md](control.md) explains the verbs.\n"
            .to_string();
    let whole = command.clone().render_long_help().to_string();
    page.push_str(&format!("\n```text\n{}\n```\n", whole.trim_end()));
    for verb in command.get_subcommands_mut().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
        let name = verb.get_name().to_string();
        let help = verb.render_long_help().to_string();
        let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
        page.push_str(&format!("\n## kasm-void {name}\n\n```text\n{}\n```\n", lines.join("\n").trim_end()));
    }
    page
}

/// `BLESS=1 cargo test the_command_line_in_the_docs` rewrites the page.
#[test]
fn the_command_line_in_the_docs_is_this() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli.md");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(file, reference()).unwrap();
    }
    let written = std::fs::read_to_string(file).unwrap_or_default();
    assert!(written == reference(), "docs/cli.md is out of date: see above");
}

#[test]
fn manual_pages_are_written_for_every_verb() {
    let folder = tempfile::tempdir().unwrap();
    man::man(Cli::command(), Some(folder.path())).unwrap();
    let pages = std::fs::read_dir(folder.path()).unwrap().count();
    let verbs = Cli::command().get_subcommands().filter(|verb| !verb.is_hide_set()).count();
    assert!(pages > verbs, "{pages} pages for {verbs} verbs");
    let page = std::fs::read_to_string(folder.path().join("kasm-void-logs.1")).unwrap();
    assert!(page.contains("since"), "{page}");
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

fn wrong(words: &str) -> ErrorKind {
    let line = ["kasm-void"].into_iter().chain(words.split(' '));
    Cli::try_parse_from(line).err().expect(words).kind()
}

#[test]
fn wrong_usage_is_found_before_anything_is_asked() {
    assert_eq!(wrong("stop"), ErrorKind::MissingRequiredArgument);
    assert_eq!(wrong("stop a --all"), ErrorKind::ArgumentConflict);
    assert_eq!(wrong("signal a NOPE"), ErrorKind::ValueValidation);
    assert_eq!(wrong("stop a --timeout 5"), ErrorKind::ValueValidation);
    assert_eq!(wrong("stat"), ErrorKind::InvalidSubcommand);
    assert_eq!(wrong("new a xterm"), ErrorKind::UnknownArgument);
}

#[test]
fn waiting_is_the_default_and_the_last_word_counts() {
    for (words, waits) in [("stop a", true), ("stop a --no-wait", false), ("stop a --no-wait --wait", true)] {
        let cli = Cli::try_parse_from(["kasm-void"].into_iter().chain(words.split(' '))).ok().unwrap();
        let Verb::Ask(Ask::Stop(asked)) = cli.verb else { panic!("{words} is another verb") };
        assert_eq!(Waiting::from(asked.wait), Waiting { wait: waits, ..MINUTE }, "{words}");
    }
}

#[test]
fn of_several_ends_the_worst_counts() {
    assert_eq!(VerbEnd::Done.and(VerbEnd::TimedOut), VerbEnd::TimedOut);
    assert_eq!(VerbEnd::TimedOut.and(VerbEnd::Refused), VerbEnd::Refused);
    assert_eq!(VerbEnd::Refused.and(VerbEnd::Done), VerbEnd::Refused);
    assert_eq!(VerbEnd::Done.and(VerbEnd::Done), VerbEnd::Done);
}

#[test]
fn each_verb_has_its_row_in_the_docs() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/control.md")).unwrap();
    let (_, rest) = text.split_once("| verb | does |\n").expect("the table of verbs");
    let rows = rest.lines().skip(1).take_while(|line| line.starts_with("| `"));
    let code =
        rows.flat_map(|row| row.trim_start_matches("| ").split(" | ").next().unwrap().split('`').skip(1).step_by(2));
    let words = code.filter_map(|code| code.split_whitespace().next());
    let mut told: Vec<&str> = words.filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase())).collect();
    let cli = Cli::command();
    let visible = cli.get_subcommands().filter(|verb| !verb.is_hide_set());
    let mut verbs: Vec<&str> = visible.map(clap::Command::get_name).collect();
    told.sort_unstable();
    told.dedup(); // a verb with two uses names itself twice
    verbs.sort_unstable();
    assert_eq!(told, verbs);
}
