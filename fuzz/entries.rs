//! The functions through which untrusted bytes enter, with their invariants. Each entry panics if an invariant is
//! broken. The fuzz targets and `tests/it/fuzz.rs` call the same functions. To add an entry, add a line to `ENTRIES`, a
//! file to `fuzz_targets/` and a folder to `corpus/`.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Version, header};
use axum::response::IntoResponse;
use kasm_void::cdp::shorten::Strings;
use kasm_void::cdp::{self, Fault, Incoming};
use kasm_void::daemon::state;
use kasm_void::http::{BoxedAnswer, Listen, ListenerLimits, Peer, Streaming, StreamingRequest, serve, serve_streams};
use kasm_void::launcher::verdict::{Outcome, Verdict};
use kasm_void::launcher::wire;
use kasm_void::model::accounts;
use kasm_void::model::loading::check::Checker;
use kasm_void::model::loading::dotenv::{Mistake, Variables};
use kasm_void::model::loading::interpolate;
use kasm_void::model::loading::parse::{self, FileForm, MOST_PROBLEMS, parse, without_mark};
use kasm_void::model::loading::problem::Problem;
use kasm_void::model::loading::source::Source;
use kasm_void::model::loading::surroundings::{FileKind, Surroundings};
use kasm_void::model::manifest::Manifest;
use kasm_void::model::manifest::fields::Insert;
use kasm_void::model::manifest::workspace::WorkspaceForm;
use kasm_void::model::proxy::denial::Denial;
use kasm_void::model::proxy::request::{ProxyRequest, WantedHost, read};
use kasm_void::model::url::{self, JudgedUrl, LONGEST, PORTS, Policy, Refused};
use ron::extensions::Extensions;
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

pub type Entry = fn(&[u8]);

/// The names are the same as those of the targets and of the folders in `corpus/`.
pub const ENTRIES: &[(&str, Entry)] = &[
    ("manifest", manifest),
    ("workspace", workspace),
    ("interpolation", interpolation),
    ("env_file", env_file),
    ("requests", requests),
    ("url", url),
    ("proxy", proxy),
    ("state", state),
    ("cdp", cdp),
];

/// Reads and checks one app's manifest.
pub fn manifest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    read_as_ron_does::<Manifest>(text);
    check("fuzz", text);
}

/// Reads and checks the session's manifest.
pub fn workspace(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    read_as_ron_does::<WorkspaceForm>(text);
    check("workspace", text);
}

/// We accept everything that RON accepts, and read the same value. The exception is a key that is written twice: RON
/// silently drops one of them. Every refusal has a reason.
fn read_as_ron_does<T: FileForm + Serialize + Debug>(text: &str) {
    let plain = ron::Options::default().with_default_extension(Extensions::IMPLICIT_SOME).with_recursion_limit(64);
    match (parse::<T>("fuzz.ron", text), plain.from_str::<T>(without_mark(text))) {
        (Ok(ours), Ok(theirs)) => {
            // Compared as text, because NaN is not equal to itself.
            assert_eq!(format!("{ours:?}"), format!("{theirs:?}"), "read as something else than RON does");
            written_and_read_again(&ours);
        }
        (Ok(ours), Err(error)) => panic!("accepted what RON refuses ({error}): {ours:?}"),
        (Err(problems), theirs) => {
            assert!(!problems.is_empty(), "refused without a reason");
            problems.iter().for_each(|problem| is_placed(problem, text));
            let doubled = problems.iter().all(|problem| problem.message.contains("is written twice"));
            let refused = theirs.is_err() || doubled || text.len() > parse::MOST_BYTES;
            assert!(refused, "refused what RON accepts: {problems:?}");
        }
    }
}

fn written_and_read_again<T: FileForm + Serialize + Debug>(value: &T) {
    let written = ron::to_string(value).expect("what was read can be written");
    let again = parse::<T>("again.ron", &written);
    let again = again.unwrap_or_else(|problems| panic!("cannot be read again: {problems:?}: {written}"));
    assert_eq!(format!("{again:?}"), format!("{value:?}"), "written as {written}");
}

fn check(name: &str, text: &str) {
    let around = Surroundings {
        env: &BTreeMap::from([("NAME".to_string(), "value".to_string()), ("EMPTY".to_string(), String::new())]),
        home: Some("/home/me"),
        look: &|file| if file.contains("missing") { FileKind::Nothing } else { FileKind::Program },
        read: &|file| Ok((!file.contains("missing")).then(|| format!("FILE={}\n", file.len()))),
        run_as: &|user, group| accounts::run_as("me:x:1000:1000::/home/me:/bin/sh", "me:x:1000:", user, group),
        uid: 1000,
    };
    let file = format!("{name}.ron");
    let source = |text: &str| Source {
        name: name.into(),
        file: file.clone(),
        folder: "/manifests".into(),
        text: Ok(text.into()),
    };
    let mut checker = Checker::default();
    let checked = checker.check(&[source(text)], true, &around);
    checked.problems.iter().for_each(|problem| is_placed(problem, text));
    assert!(checked.problems.len() <= 2 * MOST_PROBLEMS, "{} problems of one file", checked.problems.len());
    if name == "fuzz" {
        let wrong = checked.problems.iter().any(Problem::is_error);
        assert_ne!(wrong, checked.apps.contains_key(name), "an app that is wrong, or right and not there");
    }
    let again = checker.check(&[source(text)], true, &around);
    assert_eq!(checked.problems, again.problems, "another look at the same text tells something else");
}

/// The position of a problem exists in the text.
fn is_placed(problem: &Problem, text: &str) {
    let lines = without_mark(text).split('\n').count();
    assert!(!problem.message.is_empty(), "{problem:?}");
    assert!(problem.line <= lines, "line {} of {lines}: {problem:?}", problem.line);
    assert!(problem.column <= problem.source.chars().count() + 1, "{problem:?}");
    assert!(problem.source.get(problem.mark.clone()).is_some(), "{problem:?}");
    assert!(!problem.to_string().is_empty());
}

/// Interpolates a text with variables.
pub fn interpolation(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut asked = Vec::new();
    let mut look_up = |name: &str| {
        asked.push(name.to_string());
        match name.as_bytes()[0] {
            b'E' => Ok(Some(String::new())),
            b'U' => Ok(None),
            b'X' => Err(format!("`{name}` cannot be looked up")),
            _ => Ok(Some(name.repeat(3))),
        }
    };
    match interpolate::interpolate(text, Some("/home/me/"), Insert::AsIs, &mut look_up) {
        Ok(filled) => {
            assert!(filled.len() <= interpolate::MOST_BYTES, "{} bytes", filled.len());
            let plain = !text.contains('$') && !text.starts_with('~');
            assert!(!plain || filled == text, "{text:?} became {filled:?}");
        }
        Err(failed) => {
            assert!(text.get(failed.span.clone()).is_some(), "{failed:?} of {text:?}");
            assert!(!failed.message.is_empty());
            assert!(text.contains('$') || text.len() > interpolate::MOST_BYTES, "{failed:?} of {text:?}");
        }
    }
    let is_name = |name: &String| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    assert!(asked.iter().all(is_name), "{asked:?}");
}

/// Reads an env file. A message never repeats what may be a secret.
pub fn env_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let inherited = |name: &str| (!name.starts_with('U')).then(|| name.repeat(3));
    let mut variables = Variables::new(&inherited);
    let read = variables.read(text);
    let values = variables.into_values();
    let is_name = |name: &String| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    assert!(values.keys().all(|name| !name.is_empty() && is_name(name)), "{values:?}");
    assert!(!values.values().any(|value| value.contains('\0')), "{values:?}");
    match read {
        Ok(()) => {
            // What was read can be written down and read again, unless it needs more than an escaped quote.
            let is_plain = !values.values().any(|value| value.contains(['\\', '\r']));
            let line = |(name, value): (&String, &String)| format!("{name}='{}'\n", value.replace('\'', "\\'"));
            let written: String = values.iter().map(line).collect();
            let mut again = Variables::new(&inherited);
            if is_plain {
                assert_eq!(again.read(&written), Ok(()), "{written:?}");
                assert_eq!(again.into_values(), values, "{written:?}");
            }
        }
        Err(Mistake { line, message, .. }) => {
            assert!((1..=text.matches('\n').count() + 1).contains(&line), "line {line} of {text:?}");
            assert!(!message.is_empty());
        }
    }
    // Behind a file that is right, this is the mistake. Otherwise an open quote of the file may reach into it.
    for hidden in ["\nLAST='s3cr3t", "\nLAST=\"s3cr3t"] {
        let told = Variables::new(&inherited).read(&format!("{text}{hidden}")).err().map(|mistake| mistake.message);
        assert!(text.contains("s3cr3t") || !told.is_some_and(|told| told.contains("s3cr3t")), "{text:?}");
    }
}

/// Sends bytes to one of our servers, as any client could. The server answers or refuses them, stays within its limits,
/// and always closes the connection in the end.
pub fn requests(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let (mut client, stream) = tokio::io::duplex(1 << 10);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let server = serve(Once(Mutex::new(Some(stream))), router(seen.clone()), LIMITS);
        let conversation = tokio::time::timeout(Duration::from_secs(3600), talk(&mut client, bytes));
        let answer = conversation.await.expect("the server leaves the connection open");
        server.close(Duration::from_secs(1)).await;

        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1."), "{answer:?}");
        for request in seen.lock().expect("a handler has panicked").iter() {
            is_of_one_meaning(request);
        }
    });
}

/// Sends bytes to the proxy's own connection loop. Whatever a request says, a host that may be reached is public, and a
/// refusal repeats nothing that is not the host's.
pub fn proxy(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let (mut client, stream) = tokio::io::duplex(1 << 10);
        let broken = Arc::new(Mutex::new(None));
        let judge = Arc::new(JudgesOnly(broken.clone()));
        let server = serve_streams(Once(Mutex::new(Some(stream))), judge, LIMITS);
        let conversation = tokio::time::timeout(Duration::from_secs(3600), talk(&mut client, bytes));
        let answer = conversation.await.expect("the proxy leaves the connection open");
        server.close(Duration::from_secs(1)).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1."), "{answer:?}");
        if let Some(broken) = broken.lock().expect("a handler has panicked").take() {
            panic!("{broken}");
        }
    });
}

/// A proxy that opens no connection. Holds the first request that broke an invariant.
struct JudgesOnly(Arc<Mutex<Option<String>>>);

impl Streaming for JudgesOnly {
    fn answer(self: Arc<Self>, request: StreamingRequest) -> BoxedAnswer {
        let (method, target) = (request.method().to_string(), request.uri().to_string());
        // A panic in the server's task would be lost.
        let judged = std::panic::catch_unwind(|| proxied(&method, &target));
        if judged.is_err() {
            *self.0.lock().expect("nobody panics with it") = Some(format!("{method} {target}"));
        }
        Box::pin(async { Some("judged".into_response()) })
    }
}

fn proxied(method: &str, target: &str) {
    let (origin, path) = match read(method, target) {
        Ok(ProxyRequest::Tunnel(origin)) => (origin, "/".to_owned()),
        Ok(ProxyRequest::Forward { origin, path }) => (origin, path),
        Ok(ProxyRequest::Own(_)) => return assert!(target.starts_with('/'), "{target}"),
        Err(malformed) => return is_readable(&Denial::Malformed(malformed), None),
    };
    assert!(path.starts_with('/') && !path.contains('#'), "{path:?}");
    match origin.judge(&Policy::default()) {
        Ok(target) => {
            is_public(&target);
            assert_eq!(Policy::default().judge(&origin.url()), Ok(target), "it is judged in two ways");
        }
        Err(refused) => is_readable(&Denial::Refused(refused), Some(&origin)),
    }
}

fn is_readable(denial: &Denial, origin: Option<&WantedHost>) {
    let host = origin.and_then(|origin| url::host(&origin.url())).unwrap_or_default();
    let page = denial.page(&host);
    assert!(!page.contains("<script") && page.contains("<h1>"), "{page}");
    assert!((400..600).contains(&denial.status()) && !denial.proxy_status().contains(['\r', '\n']), "{denial:?}");
    assert!(!denial.plain().chars().any(|c| c.is_control() && c != '\n'), "{denial:?}");
}

const LIMITS: ListenerLimits = ListenerLimits {
    connections: 2,
    per_address: None,
    reserved: 0,
    head: Duration::from_secs(1),
    head_bytes: 8 << 10,
    headers: 32,
    body: Duration::from_secs(1),
    body_bytes: 512,
    stalled: Duration::from_secs(1),
};

/// A request as seen by a route.
struct Seen {
    version: Version,
    headers: HeaderMap,
    body: usize,
}

fn router(seen: Arc<Mutex<Vec<Seen>>>) -> Router {
    Router::new().fallback(async move |version: Version, headers: HeaderMap, body: Bytes| {
        seen.lock().expect("a handler has panicked").push(Seen { version, headers, body: body.len() });
        body
    })
}

fn is_of_one_meaning(Seen { version, headers, body }: &Seen) {
    let count = |name| headers.get_all(name).iter().count();
    assert_eq!(count(header::TRANSFER_ENCODING), 0, "{headers:?}");
    assert!(count(header::HOST) <= 1 && (*version != Version::HTTP_11 || count(header::HOST) == 1), "{headers:?}");
    assert!(*body <= LIMITS.body_bytes, "a body of {body} bytes");
}

/// Sends everything and reads to the end at the same time: a client that only sends is disconnected.
async fn talk(client: &mut DuplexStream, bytes: &[u8]) -> Vec<u8> {
    let (mut reads, mut writes) = tokio::io::split(client);
    let mut answer = Vec::new();
    let send = async {
        let _ = writes.write_all(bytes).await; // the server may close the connection
        let _ = writes.shutdown().await;
    };
    let (_, read) = tokio::join!(send, reads.read_to_end(&mut answer));
    read.expect("a pipe in memory does not fail");
    answer
}

/// A listener with one client.
struct Once(Mutex<Option<DuplexStream>>);

impl Listen for Once {
    type Stream = DuplexStream;

    async fn accept(&self) -> io::Result<(DuplexStream, Peer)> {
        let client = self.0.lock().expect("nobody panics with it").take();
        match client {
            Some(stream) => Ok((stream, Peer::Unix { uid: 0 })),
            None => std::future::pending().await,
        }
    }
}

/// Judges a URL from a user. Every parser reads an accepted URL in the same way, and the message of a refusal is safe
/// to show to anybody.
pub fn url(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let policy = Policy::default();
    match policy.judge(text) {
        Ok(target) => {
            is_public(&target);
            let again = policy.judge(target.url());
            assert_eq!(again.as_ref(), Ok(&target), "what is opened is judged otherwise than what was given: {text:?}");
            assert_eq!(url::host(target.url()), url::host(text), "{text:?}");
        }
        Err(refused) => keeps_quiet(&refused, text),
    }
}

fn is_public(target: &JudgedUrl) {
    let (url, host) = (target.url(), target.host());
    assert!(url.chars().count() <= LONGEST && url.bytes().all(|byte| byte.is_ascii_graphic()), "{url:?}");
    assert!(PORTS.contains(&target.port()), "{url}");
    let (scheme, rest) = url.split_once("://").expect("a whole URL");
    assert!(matches!(scheme, "http" | "https"), "{url}");
    let authority = rest.split(['/', '?', '#']).next().expect("split gives one");
    assert!(authority.starts_with(host) && !authority.contains('@'), "{url}");
    match (host.parse::<Ipv4Addr>(), host.strip_prefix('[')) {
        (Ok(address), _) => {
            let local = address.is_private() || address.is_loopback() || address.is_link_local();
            assert!(!local && !address.is_unspecified() && !address.is_multicast(), "{url}");
            assert_eq!(target.name(), None, "{url}");
        }
        (_, Some(address)) => {
            let address: Ipv6Addr = address.trim_end_matches(']').parse().expect("an address in brackets");
            let global = address.segments()[0] & 0xe000 == 0x2000;
            let leads_to_v4 = address.to_ipv4_mapped().is_some() || address.segments()[..2] == [0x64, 0xff9b];
            assert!(global || leads_to_v4, "{url}");
            assert_eq!(target.name(), None, "{url}");
        }
        _ => {
            let labels: Vec<&str> = host.trim_end_matches('.').split('.').collect();
            assert!(labels.len() > 1 && !labels.ends_with(&["localhost"]), "{url}");
            assert_eq!(target.name(), Some(host), "{url}");
        }
    }
}

/// The message of a refusal never contains the path, query, fragment or credentials.
fn keeps_quiet(refused: &Refused, text: &str) {
    assert!(!refused.text.is_empty() && !refused.text.contains(char::is_control), "{refused:?}");
    let body = Verdict::from(Outcome::Refused(refused.clone())).body(u64::MAX);
    assert!(body.len() < 512 && serde_json::from_str::<Value>(&body).is_ok(), "{body}");
    let secretive = |url: String| {
        if text.contains("s3cr3t") {
            return; // this may be the name of the host, which the message contains
        }
        let told = Policy::default().judge(&url).err().map(|refused| refused.text).unwrap_or_default();
        assert!(!told.contains("s3cr3t"), "{url:?}: {told}");
    };
    if url::host(text).is_some() {
        ["/s3cr3t", "?s3cr3t", "#s3cr3t"].into_iter().for_each(|behind| secretive(format!("{text}{behind}")));
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        secretive(format!("{scheme}://s3cr3t:s3cr3t@{rest}"));
    }
}

/// Reads the saved state of another supervisor. It is accepted as a whole, or refused with a reason.
pub fn state(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    /// The session of the files in `corpus/`.
    const SESSION: &str = "this session";
    match state::parse(text, SESSION) {
        Ok(inherited) => {
            let known = |app: &String| inherited.session.apps.contains_key(app);
            assert!(inherited.leaders.keys().all(known), "a leader of no app: {inherited:?}");
            for (app, _) in &inherited.crashes {
                let kept = inherited.crashes.iter().filter(|(other, _)| other == app).count();
                assert!(kept <= 10, "{kept} crashes of `{app}`");
            }
            // A supervisor that was killed while writing the next line has changed nothing.
            let torn = if text.ends_with('\n') { format!("{text}{{\"App\":") } else { text.into() };
            assert_eq!(state::parse(&torn, SESSION), Ok(inherited));
        }
        Err(why) => assert!(!why.is_empty(), "refused without a reason: {text:?}"),
    }
}

/// Reads messages and the list of tabs from something that claims to be a browser.
pub fn cdp(bytes: &[u8]) {
    cdp::ids(bytes);
    let mut shortened = Vec::new();
    Strings::default().shorten(bytes, &mut shortened);
    assert!(shortened.len() <= bytes.len(), "longer than before");
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let told = |outcome: Outcome| {
        let body = Verdict::from(outcome).body(u64::MAX);
        assert!(body.len() < 512 && serde_json::from_str::<Value>(&body).is_ok(), "{body}");
    };
    let Ok(said) = serde_json::from_str::<Value>(text) else {
        return told(cdp::understood(text).err().map_or(Outcome::Pending, Outcome::Browser));
    };
    match cdp::understood(text) {
        Ok(Some(Incoming::Reply { id, result })) => {
            assert_eq!(said["id"], id, "{text:?}");
            assert_eq!(result.is_ok(), said["error"].is_null(), "{text:?}");
            if let Ok(result) = &result {
                assert!(wire::reply(result).tabs.iter().all(|tab| !tab.url.starts_with("devtools:")), "{text:?}");
            }
            if let Err(text) = result {
                told(Outcome::Browser(Fault::Refused { method: "Page.navigate".into(), text }));
            }
        }
        Ok(Some(Incoming::Event(event))) => {
            let _ = wire::event(&event); // must not panic on any event
            assert!(said["id"].is_null() && said["method"] == event.method, "{text:?}");
            assert_eq!(said["sessionId"].as_str(), event.session.as_deref(), "{text:?}");
        }
        Ok(None) => assert!(said["id"].is_null() && said["method"].is_null(), "{text:?}"),
        Err(fault) => {
            assert!(matches!(&fault, Fault::Broken(why) if !why.is_empty()), "{fault:?}");
            told(Outcome::Browser(fault));
        }
    }
    told(Outcome::Committed { frame: text.into() });
}
