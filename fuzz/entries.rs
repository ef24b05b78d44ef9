//! Where foreign bytes enter, and what holds whatever they are. Each entry panics when it does not. The fuzz targets
//! and the story in `tests/it/fuzz.rs` call the same functions; a new entry is a line in `ENTRIES`, a file in
//! `fuzz_targets/` and a folder in `corpus/`.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Version, header};
use kasm_void::daemon::state;
use kasm_void::http::{Limits, Listen, Peer, serve};
use kasm_void::launcher::cdp;
use kasm_void::model::check::{Checker, Surroundings};
use kasm_void::model::interpolate;
use kasm_void::model::manifest::{Manifest, Workspace};
use kasm_void::model::parse::{self, MOST_PROBLEMS, parse, without_mark};
use kasm_void::model::problem::Problem;
use kasm_void::model::source::Source;
use kasm_void::model::url::{self, Policy};
use ron::extensions::Extensions;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

pub type Entry = fn(&[u8]);

/// Names are those of the targets and of the folders in `corpus/`.
pub const ENTRIES: &[(&str, Entry)] = &[
    ("manifest", manifest),
    ("workspace", workspace),
    ("interpolation", interpolation),
    ("requests", requests),
    ("url", url),
    ("ledger", ledger),
    ("browser", browser),
];

/// One app's manifest, read and checked.
pub fn manifest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    read_as_ron_does::<Manifest>(text);
    check("fuzz", text);
}

/// The session's manifest, read and checked.
pub fn workspace(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    read_as_ron_does::<Workspace>(text);
    check("workspace", text);
}

/// We accept what RON accepts, as the same value, apart from a key that is written twice: RON drops one of them
/// without a word. What we refuse we explain.
fn read_as_ron_does<T: DeserializeOwned + Serialize + Debug>(text: &str) {
    let plain = ron::Options::default().with_default_extension(Extensions::IMPLICIT_SOME).with_recursion_limit(64);
    match (parse::<T>("fuzz.ron", text), plain.from_str::<T>(without_mark(text))) {
        (Ok(ours), Ok(theirs)) => {
            // Not by value: there is NaN in some.
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

fn written_and_read_again<T: DeserializeOwned + Serialize + Debug>(value: &T) {
    let written = ron::to_string(value).expect("what was read can be written");
    let again = parse::<T>("again.ron", &written);
    let again = again.unwrap_or_else(|problems| panic!("cannot be read again: {problems:?}: {written}"));
    assert_eq!(format!("{again:?}"), format!("{value:?}"), "written as {written}");
}

fn check(name: &str, text: &str) {
    let around = Surroundings {
        env: &BTreeMap::from([("NAME".to_string(), "value".to_string()), ("EMPTY".to_string(), String::new())]),
        home: "/home/me",
        executable: &|file| !file.contains("missing"),
    };
    let file = format!("{name}.ron");
    let source = |text: &str| Source { name: name.into(), file: file.clone(), text: Ok(text.into()) };
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

/// An editor finds what the problem points at.
fn is_placed(problem: &Problem, text: &str) {
    let lines = without_mark(text).split('\n').count();
    assert!(!problem.message.is_empty(), "{problem:?}");
    assert!(problem.line <= lines, "line {} of {lines}: {problem:?}", problem.line);
    assert!(problem.column <= problem.source.chars().count() + 1, "{problem:?}");
    assert!(problem.source.get(problem.mark.clone()).is_some(), "{problem:?}");
    assert!(!problem.to_string().is_empty());
}

/// A text with variables to fill in.
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
    match interpolate::interpolate(text, "/home/me/", &mut look_up) {
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

/// What somebody wants to be opened: what is navigated to is judged as what was asked for, leads nowhere in private,
/// and a refusal gives away nothing of the path.
pub fn url(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let policy = Policy::default();
    match policy.judge(text) {
        Ok(target) => {
            let again = policy.judge(target.url());
            assert_eq!(again.as_ref(), Ok(&target), "{text:?} is judged otherwise than {}", target.url());
            assert!(target.url().starts_with("http://") || target.url().starts_with("https://"), "{target:?}");
            assert!(url::PORTS.contains(&target.port()), "{target:?}");
            assert!(target.url().len() <= url::LONGEST && target.url().is_ascii(), "{target:?}");
            assert_eq!(url::host(text).as_deref(), Some(target.host()), "the audit line names another host");
            let private = [Ipv4Addr::LOCALHOST.into(), Ipv4Addr::new(169, 254, 169, 254).into()];
            let named = target.name().is_some();
            assert_eq!(policy.judge_addresses(&target, &private).is_err(), named, "{target:?}");
        }
        Err(refused) => {
            assert!(!refused.text.is_empty() && refused.text.len() < 400, "{refused:?}");
            // A word long enough to stand there by no accident.
            let path = text.split_once("://").and_then(|(_, rest)| rest.split_once('/'));
            let secret = path.and_then(|(host, path)| path.get(..12).filter(|secret| !host.contains(secret)));
            assert!(secret.is_none_or(|secret| !refused.text.contains(secret)), "{text:?}: {refused:?}");
        }
    }
}

/// What stands in the ledger of an earlier supervisor: taken or refused with a reason, never half.
pub fn ledger(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match state::parse(text, "boot") {
        Ok(Some(inherited)) => {
            let known = |name: &String| inherited.legacy.apps.contains_key(name);
            assert!(inherited.leaders.keys().all(known), "a leader of no app: {inherited:?}");
            // Cut anywhere it is what was written up to there: whoever wrote it was killed on the way.
            let cut = text.floor_char_boundary(text.len() / 2);
            if text[..cut].contains('\n') {
                assert!(state::parse(&text[..cut], "boot").is_ok(), "half of it is refused");
            }
        }
        Ok(None) => assert!(text.contains("boot"), "nothing is inherited for no reason"),
        Err(why) => assert!(!why.is_empty()),
    }
}

/// What a browser says: understood, passed over, or the end of the conversation with a reason.
pub fn browser(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match cdp::understood(text) {
        Ok(Some(cdp::Incoming::Reply { .. })) => assert!(text.contains("id")),
        Ok(Some(cdp::Incoming::Event(event))) => assert!(text.contains("method"), "{event:?}"),
        Ok(None) => {}
        Err(fault) => assert!(!fault.to_string().is_empty()),
    }
}

/// What a client sends to any of our servers: answered or refused, within bounds, and the end always comes.
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

const LIMITS: Limits = Limits {
    connections: 2,
    per_address: None,
    head: Duration::from_secs(1),
    body: Duration::from_secs(1),
    body_bytes: 512,
    stalled: Duration::from_secs(1),
};

/// A request as a route has seen it.
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

/// Sends everything and reads to the end, both at once: who only talks is cut off.
async fn talk(client: &mut DuplexStream, bytes: &[u8]) -> Vec<u8> {
    let (mut reads, mut writes) = tokio::io::split(client);
    let mut answer = Vec::new();
    let send = async {
        let _ = writes.write_all(bytes).await; // it may hang up on us
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
