//! The launcher's two routes, attacked by clients that send raw bytes. No browser runs here: requests that get that far
//! are told so.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde_json::Value;

use crate::harness::{DEADLINE, Output, Session, send, until};

const TOKEN: &str = "s3cret-token";

/// The real binary, listening on loopback.
struct Launcher {
    session: Session,
    port: u16,
    process: Child,
}

impl Launcher {
    fn start() -> Self {
        Self::with(Session::new().env("URL_LAUNCHER_TOKEN", TOKEN))
    }

    /// Starts the launcher with a session's environment variables.
    fn with(session: Session) -> Self {
        Self::facing(free_port(), session)
    }

    /// The port where it looks for a browser.
    fn facing(browser: u16, session: Session) -> Self {
        let port = free_port();
        let session = session.env("NAV_SHIM_PORT", &port.to_string()).env("CDP_PORT", &browser.to_string());
        let mut command = session.command(crate::harness::binary());
        let log = fs::File::create(session.data().join("log")).expect("a log");
        command.args(["nav-shim", "--listen", "127.0.0.1"]).stdout(log).stderr(Stdio::inherit());
        let process = command.spawn().expect("the built binary");
        let launcher = Launcher { session, port, process };
        until("the launcher listens", || TcpStream::connect(("127.0.0.1", port)).ok().map(drop));
        launcher
    }

    fn connect(&self) -> TcpStream {
        self.connect_from(Ipv4Addr::LOCALHOST)
    }

    /// Connects from another loopback address, as another client.
    fn connect_from(&self, from: Ipv4Addr) -> TcpStream {
        let wanted = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        bind(&wanted, &SocketAddr::from((from, 0))).expect("an address of this machine");
        connect(&wanted, &SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))).expect("a connection");
        let stream = TcpStream::from(wanted);
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream
    }

    /// Sends bytes and reads until the other end closes.
    fn says(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes.as_ref()).expect("the launcher reads");
        to_the_end(&mut stream)
    }

    fn open(&self, body: &str) -> String {
        self.says(request(
            "POST",
            "/open",
            &format!("Authorization: Bearer {TOKEN}\r\nContent-Length: {}", body.len()),
            body,
        ))
    }

    /// Whether one of three probes is answered at once. On a busy machine, the first may wait until the launcher has
    /// accepted a crowd that arrived before it.
    fn is_healthy(&self) -> bool {
        (0..3).any(|_| {
            let began = Instant::now();
            let answer = self.says(request("GET", "/healthz", "X: y", ""));
            answer.starts_with("HTTP/1.1 200")
                && answer.ends_with(r#"{"ok":true}"#)
                && began.elapsed() < Duration::from_secs(2)
        })
    }

    /// Waits for this many audit lines.
    fn audit(&self, lines: usize) -> Vec<Value> {
        until(&format!("{lines} audit lines"), || {
            let requests = self.log().into_iter().filter(|line| line["event"] == "launcher.request");
            Some(requests.collect::<Vec<_>>()).filter(|found| found.len() >= lines)
        })
    }

    fn log(&self) -> Vec<Value> {
        let text = self.session.lines("log");
        text.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    fn cli(&self, args: &[&str]) -> Output {
        self.session.cli(args)
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n\r\n{body}")
}

/// If the server closes before it has read everything, the connection is reset; bytes received before that count.
fn to_the_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => bytes.extend(&piece[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("the launcher leaves the connection open: {error}"),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or("none")
}

fn body(answer: &str) -> Value {
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    assert!(body.len() < 512, "longer than callers keep: {body}");
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

#[test]
fn every_reply_is_as_promised() {
    let launcher = Launcher::start();
    let bearer = format!("Authorization: Bearer {TOKEN}");
    let deep = format!("{}{}", "[".repeat(2000), "]".repeat(2000));
    let sized = |length: usize| format!("{bearer}\r\nContent-Length: {length}");
    for (method, path, headers, sent, expected, error) in [
        ("GET", "/healthz", "X: y".into(), "", "200", None),
        ("GET", "/", bearer.clone(), "", "404", Some("not found")),
        ("GET", "/open", bearer.clone(), "", "404", Some("not found")),
        ("PUT", "/open", sized(2), "{}", "404", Some("not found")),
        ("OPTIONS", "/open", "Origin: http://x".into(), "", "404", Some("not found")),
        ("POST", "/open/", sized(2), "{}", "404", Some("not found")),
        ("POST", "/open?url=x", sized(2), "{}", "404", Some("not found")),
        ("POST", "/healthz", "Content-Length: 2".into(), "{}", "404", Some("not found")),
        ("GET", "/healthz/../open", "X: y".into(), "", "404", Some("not found")),
        ("POST", "/open", "Content-Length: 9999".into(), "", "401", Some("unauthorized")),
        ("POST", "/open", format!("Origin: null\r\n{}", sized(2)), "{}", "403", Some("web pages may not ask")),
        ("POST", "/open", format!("Sec-Fetch-Site: none\r\n{}", sized(2)), "{}", "403", Some("web pages may not ask")),
        (
            "POST",
            "/open",
            "Authorization: Bearer wrong\r\nTransfer-Encoding: chunked".into(),
            "0\r\n\r\n",
            "401",
            Some("unauthorized"),
        ),
        ("POST", "/open", bearer.clone(), "", "400", Some("invalid body length")),
        ("POST", "/open", sized(0), "", "400", Some("invalid body length")),
        ("POST", "/open", sized(4097), "", "400", Some("invalid body length")),
        (
            "POST",
            "/open",
            format!("{bearer}\r\nTransfer-Encoding: chunked"),
            "2\r\n{}\r\n0\r\n\r\n",
            "400",
            Some("invalid body length"),
        ),
        ("POST", "/open", sized(4), "{\"a\"", "400", Some("invalid json")),
        ("POST", "/open", sized(deep.len()), &deep, "400", Some("invalid json")),
        ("POST", "/open", sized(2), "{}", "400", Some("url rejected by policy")),
        ("POST", "/open", sized(2), "[]", "400", Some("url rejected by policy")),
        ("POST", "/open", sized(10), r#"{"url": 7}"#, "400", Some("url rejected by policy")),
        (
            "POST",
            "/open",
            format!("Authorization: bEARER  {TOKEN} \r\nContent-Length: 24"),
            r#"{"url": "http://1.1.1.1"}"#,
            "400",
            Some("invalid json"),
        ),
        (
            "POST",
            "/open",
            format!("Authorization: bEARER  {TOKEN} \r\nContent-Length: 25"),
            r#"{"url": "http://1.1.1.1"}"#,
            "503",
            Some("cdp unreachable"),
        ),
    ] {
        let answer = launcher.says(request(method, path, &headers, sent));
        let what = format!("{method} {path} {headers}: {answer}");
        assert_eq!(status(&answer), expected, "{what}");
        assert_eq!(body(&answer)["error"].as_str(), error, "{what}");
        let head = answer.to_lowercase();
        assert!(head.contains("cache-control: no-store") && head.contains("content-type: application/json"), "{what}");
        assert_eq!(head.contains("retry-after: "), expected == "503", "{what}");
    }
    let refused = body(&launcher.open(r#"{"url": "http://10.0.0.1/path?query"}"#));
    assert_eq!((&refused["code"], &refused["outcome"]), (&"private-address".into(), &"refused".into()));
    assert!(refused["reason"].as_str().is_some_and(|reason| reason.contains("10.0.0.1")), "{refused}");
}

#[test]
fn each_request_leaves_one_line_without_secrets() {
    let launcher = Launcher::start();
    launcher.open(r#"{"url": "http://user:pass@10.0.0.1/some-path?some-query#part"}"#);
    launcher.open(r#"{"url": "http://192.168.7.7/some-path?some-query"}"#);
    launcher.says(request("GET", "/some-path?some-query", &format!("Authorization: Bearer {TOKEN}"), ""));
    launcher.says(request("POST", "/open", "Authorization: Bearer some-query\r\nContent-Length: 2", "{}"));
    launcher.says(request("POST", "/open", "Host: some-path\r\nContent-Length: 2", "{}"));
    launcher.says(request(
        "POST",
        "/open",
        &format!("Authorization: Bearer {TOKEN}\r\nContent-Length: 9"),
        "some-path",
    ));
    let late = request("POST", "/open", &format!("Authorization: Bearer {TOKEN}\r\nContent-Length: 10"), "some-path");
    assert_eq!(body(&launcher.says(late))["error"], "the body did not arrive within 2 seconds");
    let lines = launcher.audit(7);
    let seen: Vec<_> =
        lines.iter().map(|line| (line["host"].as_str(), line["verdict"].as_str(), line["status"].as_u64())).collect();
    assert_eq!(
        seen,
        [
            (Some("10.0.0.1"), Some("refused"), Some(400)),
            (Some("192.168.7.7"), Some("refused"), Some(400)),
            (None, Some("not_found"), Some(404)),
            (None, Some("unauthorized"), Some(401)),
            (None, Some("unreadable"), Some(400)),
            (None, Some("invalid_json"), Some(400)),
            (None, Some("unreadable"), Some(408)),
        ]
    );
    for line in &lines {
        assert_eq!((line["peer"].as_str(), line["level"].as_str()), (Some("127.0.0.1"), Some("info")), "{line}");
        assert!(line["ts"].is_string() && line["ms"].is_u64() && line["request"].is_string(), "{line}");
    }
    let all = launcher.session.lines("log").join("\n");
    for secret in [TOKEN, "some-path", "some-query", "pass", "part"] {
        assert!(!all.contains(secret), "{secret} was written down:\n{all}");
    }
}

#[test]
fn who_does_not_wait_for_the_answer_is_written_down_too() {
    let mute = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let browser = mute.local_addr().expect("its address").port();
    let launcher = Launcher::facing(browser, Session::new().env("URL_LAUNCHER_TOKEN", TOKEN));
    let mut caller = launcher.connect();
    let open = r#"{"url": "http://1.1.1.1/"}"#;
    let headers = format!("Authorization: Bearer {TOKEN}\r\nContent-Length: {}", open.len());
    caller.write_all(request("POST", "/open", &headers, open).as_bytes()).expect("the launcher reads");
    let _asked = mute.accept().expect("the launcher asks the browser");
    drop(caller);
    let line = launcher.audit(1).remove(0);
    assert_eq!((line["host"].as_str(), line["verdict"].as_str()), (Some("1.1.1.1"), Some("mute_browser")), "{line}");
}

#[test]
fn requests_of_two_meanings_open_nothing() {
    let launcher = Launcher::start();
    let open = format!("POST /open HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n");
    for head in [
        "Content-Length: 2\r\nContent-Length: 30",
        "Content-Length: 2, 30",
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 2",
        "Transfer-Encoding: chunked, identity\r\nContent-Length: 2",
        "Transfer-Encoding : chunked\r\nContent-Length: 2",
        "Transfer-Encoding: xchunked\r\nContent-Length: 2",
        "Content-Length: +2",
        "Content-Length: -1",
        "Content-Length: 0x2",
        "Content-Length: 99999999999999999999",
        "Content-Length: 2\r\nHost: y",
        "Content-Length\0: 2",
    ] {
        let behind = "{}GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
        let answer = launcher.says(format!("{open}{head}\r\n\r\n{behind}"));
        assert_eq!(status(&answer), "400", "{head}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "what came behind was answered: {head}: {answer}");
    }
    for line in ["POST /open#x", "GET /healthz#x", "GET /healthz#", "GET #/healthz", "GET /healthz?#"] {
        let headers = format!("Host: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 0");
        let answer =
            launcher.says(format!("{line} HTTP/1.1\r\n{headers}\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_eq!((status(&answer), answer.matches("HTTP/1.1 ").count()), ("400", 1), "{line}: {answer}");
    }
    assert!(launcher.is_healthy());
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let launcher = Launcher::start();
    let health = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let missing = "GET /x HTTP/1.1\r\nHost: x\r\n\r\n";
    let answer = launcher.says(format!("{health}{missing}{health}{}", request("GET", "/y", "X: y", "")));
    let seen: Vec<&str> = answer.match_indices("HTTP/1.1 ").map(|(at, _)| &answer[at + 9..at + 12]).collect();
    assert_eq!(seen, ["200", "404"], "who asks for what is not there is not listened to any longer: {answer}");
}

#[test]
fn whoever_asks_too_often_waits_and_the_probe_does_not() {
    let launcher = Launcher::start();
    let guess = request("POST", "/open", "Authorization: Bearer guess\r\nContent-Length: 2", "{}");
    let answers: Vec<String> = (0..40).map(|_| launcher.says(&guess)).collect();
    let refused = answers.iter().filter(|answer| status(answer) == "429").collect::<Vec<_>>();
    assert!(refused.len() >= 10 && status(&answers[0]) == "401", "{}", refused.len());
    assert!(refused[0].contains("retry-after: 1\r\n"), "{}", refused[0]);
    assert_eq!(body(refused[0])["error"], "too many requests");
    assert!((0..50).all(|_| launcher.is_healthy()));

    let mut other = launcher.connect_from(Ipv4Addr::new(127, 0, 0, 2));
    other.write_all(guess.as_bytes()).expect("the launcher reads");
    assert_eq!(status(&to_the_end(&mut other)), "401", "one address pays for another");
}

#[test]
fn strangers_at_a_few_addresses_cut_off_no_caller_however_far_away() {
    let launcher = Launcher::start();
    for calls in 0..3 {
        // The client has connected, but its request has not arrived yet.
        let mut caller = launcher.connect_from(Ipv4Addr::new(127, 0, 1, calls));
        let crowd: Vec<_> =
            (0..500u32).map(|each| launcher.connect_from(Ipv4Addr::from_bits(0x7f00_0002 + each % 8))).collect();
        caller.write_all(request("GET", "/healthz", "X: y", "").as_bytes()).expect("the launcher reads");
        assert_eq!(status(&to_the_end(&mut caller)), "200", "with {} silent others", crowd.len());
    }
}

#[test]
fn strangers_at_many_addresses_cut_off_nobody_who_has_had_the_token() {
    let launcher = Launcher::start();
    let from = Ipv4Addr::new(127, 0, 1, 1);
    let ask = |caller: &mut TcpStream| {
        let open = r#"{"url": "http://10.0.0.1/"}"#;
        let headers = format!("Authorization: Bearer {TOKEN}\r\nContent-Length: {}", open.len());
        let _ = caller.write_all(request("POST", "/open", &headers, open).as_bytes());
        status(&to_the_end(caller)).to_owned()
    };
    assert_eq!(ask(&mut launcher.connect_from(from)), "400");
    let mut caller = launcher.connect_from(from);
    let _crowd: Vec<_> = (0..1000u16)
        .map(|each| launcher.connect_from(Ipv4Addr::from_bits(0x7f00_0200 + u32::from(each % 250))))
        .collect();
    assert_eq!(ask(&mut caller), "400");
}

#[test]
fn strangers_take_neither_the_rate_nor_the_audit_lines_of_callers() {
    let launcher = Launcher::start();
    let guess = request("POST", "/open", "Authorization: Bearer guess\r\nContent-Length: 2", "{}");
    let mut refused = Vec::new();
    for stranger in 0..80 {
        for _ in 0..3 {
            let mut stream = launcher.connect_from(Ipv4Addr::new(127, 0, 3, stranger));
            let _ = stream.write_all(guess.as_bytes());
            refused.push(status(&to_the_end(&mut stream)).to_owned());
        }
    }
    assert!(refused.contains(&"429".into()), "nobody was refused: {refused:?}");
    let page = request("POST", "/open", "Origin: http://x\r\nContent-Length: 2", "{}");
    assert!((0..200).all(|_| status(&launcher.says(&page)) == "403"), "a web page is charged");

    // A client that connects for the first time.
    assert_eq!(status(&launcher.open(r#"{"url": "http://10.0.0.1/"}"#)), "400");

    let missing = "GET /x HTTP/1.1\r\nHost: x\r\n\r\n";
    for _ in 0..20 {
        let answer = launcher.says(missing.repeat(1000));
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "the next request was answered as well");
    }
    assert_eq!(status(&launcher.open(r#"{"url": "http://10.0.0.2/"}"#)), "400");
    let lines = until("the last caller's line", || {
        let lines = launcher.audit(3);
        lines.iter().any(|line| line["host"] == "10.0.0.2").then_some(lines)
    });
    let of_strangers = lines.iter().filter(|line| line["host"].is_null()).count();
    assert!(of_strangers <= 70, "{of_strangers} lines of strangers");
    assert!(lines.iter().any(|line| line["host"] == "10.0.0.1"));
}

/// As many connections as this process may open, with a reserve for its other descriptors.
fn many_connections() -> usize {
    let most = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: most.maximum, ..most }); // if refused, there are fewer
    getrlimit(Resource::Nofile).current.map_or(10_000, |most| most.saturating_sub(1000).min(10_000) as usize)
}

#[test]
fn the_probe_is_answered_whatever_the_others_do() {
    let launcher = Launcher::start();
    let open =
        format!("POST /open HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 4000\r\n\r\n{{");
    let mut crowd = Vec::new();
    for (count, says) in [
        (many_connections(), ""),
        (200, "GET /heal"),
        (200, "GET /healthz HTTP/1.1\r\nHost: x\r\nX: "),
        (15, open.as_str()),
        (200, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"),
    ] {
        for each in 0..count {
            // Half of the connections come from one client, the others from many.
            let last = if each % 2 == 0 { 1 } else { (each % 200) as u8 + 2 };
            let mut stream = launcher.connect_from(Ipv4Addr::new(127, 0, 0, last));
            let _ = stream.write_all(says.as_bytes()); // the launcher may have closed the connection
            crowd.push(stream);
        }
        assert!(launcher.is_healthy(), "with {} others, the last of which said {says:?}", crowd.len());
    }
    // A client that sends slowly gains nothing over a silent one.
    for _ in 0..20 {
        for stream in crowd.iter_mut().rev().take(100) {
            let _ = stream.write_all(b"x");
        }
        assert!(launcher.is_healthy(), "while {} dribble", crowd.len());
    }
    // All of them are closed at their deadlines.
    for stream in crowd.iter_mut().step_by(200) {
        to_the_end(stream);
    }
}

#[test]
fn heads_without_measure_are_refused() {
    let launcher = Launcher::start();
    let long = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(20_000));
    let many = format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(100));
    for head in [long, many] {
        let answer = launcher.says(head);
        assert!(matches!(status(&answer), "431" | "none"), "{answer}");
    }
    let line = launcher.says(format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "y".repeat(20_000)));
    assert!(!line.starts_with("HTTP/1.1 2"), "{line}");
    assert!(launcher.is_healthy());
}

#[test]
fn without_a_token_everything_is_refused_and_said() {
    let launcher = Launcher::with(Session::new());
    for headers in ["X: y", "Authorization: Bearer ", "Authorization: Bearer x"] {
        let answer = launcher.says(request("POST", "/open", &format!("{headers}\r\nContent-Length: 2"), "{}"));
        assert_eq!(status(&answer), "401", "{answer}");
    }
    assert!(launcher.log().iter().any(|line| line["event"] == "launcher.no_token" && line["level"] == "warn"));
    assert!(launcher.is_healthy());
}

#[test]
fn a_signal_ends_it_well() {
    let mut launcher = Launcher::start();
    let _idle = launcher.connect();
    send(launcher.process.id() as i32, Signal::TERM);
    let status = until("the launcher ends", || launcher.process.try_wait().expect("wait"));
    assert_eq!(status.code(), Some(0));
    assert_eq!(launcher.log().last().map(|line| line["event"].clone()), Some("launcher.ended".into()));
}

#[test]
fn open_tells_what_became_of_it() {
    let mut launcher = Launcher::start();
    let port = launcher.port;
    let refused = launcher.cli(&["open", "http://10.1.2.3/"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""));
    assert!(refused.stderr.contains("url rejected by policy") && refused.stderr.contains("10.1.2.3"), "{refused:?}");
    let absent = launcher.cli(&["open", "http://1.1.1.1/"]);
    assert_eq!(absent.code, Some(1));
    assert!(absent.stderr.contains("the browser is not running"), "{absent:?}");
    let json: Value = serde_json::from_str(&launcher.cli(&["open", "--json", "file:///x"]).stdout).expect("JSON");
    assert_eq!(json["code"], "scheme");

    let mut stranger = launcher.session.command(crate::harness::binary());
    stranger.args(["open", "http://1.1.1.1/"]).env("URL_LAUNCHER_TOKEN", "wrong");
    let stranger = crate::harness::finish(stranger);
    assert!(stranger.code == Some(1) && stranger.stderr.contains("does not accept this token"), "{stranger:?}");

    launcher.process.kill().expect("kill");
    launcher.process.wait().expect("a reaped launcher");
    let nobody = launcher.cli(&["open", "http://1.1.1.1/"]);
    assert_eq!(nobody.code, Some(3), "{nobody:?}");
    assert!(nobody.stderr.contains(&format!("127.0.0.1:{port}")), "{nobody:?}");
}

#[test]
fn the_workspace_says_what_may_be_opened() {
    let manifest = include_str!("../../manifests/nav-shim.ron");
    let manifest = manifest.replace("/usr/local/bin/kasm-void", &crate::harness::binary().display().to_string());
    let session = Session::new()
        .env("URL_LAUNCHER_TOKEN", TOKEN)
        .env("NAV_SHIM_PORT", &free_port().to_string())
        .env("CDP_PORT", &free_port().to_string())
        .stayer("other")
        .app("other", r#"App(command: "${BIN}/other")"#)
        .app("nav-shim", &manifest.replace("/tmp/nav_shim.log", "${DATA}/nav-shim.log"))
        .workspace("Workspace()")
        .start();
    let open = |url: &str| -> Value {
        serde_json::from_str(&session.cli(&["open", "--json", url]).stdout).expect("the launcher's answer")
    };
    let (launcher, other) = (session.pid("nav-shim"), session.pid("other"));
    assert_eq!(open("http://1.1.1.1/")["outcome"], "no_browser");

    session.edit("workspace", r#"Workspace(vars: { "URL_POLICY_ALLOW": "8.8.8.8", "URL_POLICY_PORTS": "80 81" })"#);
    session.next_pid("nav-shim", launcher);
    assert_eq!(open("http://1.1.1.1/")["code"], "not-allowed");
    assert_eq!(open("http://8.8.8.8:443/")["code"], "port");
    assert_eq!(open("http://8.8.8.8:81/")["outcome"], "no_browser");
    assert_eq!(session.pid("other"), other);

    // Each request is one line on the supervisor's stdout, where a container's logs are collected.
    until("each request is written down", || {
        let written = session.supervisor_output();
        let requests = written.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let requests = requests.filter(|line| line["event"] == "launcher.request" && line["app"] == "nav-shim");
        let hosts: Vec<String> = requests.map(|line| line["host"].as_str().unwrap_or_default().into()).collect();
        (hosts == ["1.1.1.1", "1.1.1.1", "8.8.8.8", "8.8.8.8"]).then_some(())
    });
}

#[test]
fn a_taken_port_is_said_with_the_way_out() {
    let launcher = Launcher::start();
    let second = launcher.cli(&["nav-shim", "--listen", "127.0.0.1"]);
    assert_eq!(second.code, Some(1));
    assert!(second.stderr.contains("cannot listen on") && second.stderr.contains("NAV_SHIM_PORT"), "{second:?}");
}
