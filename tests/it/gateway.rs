//! The gateway: the real binary between callers and workspaces. The workspaces are real launchers, or a stand-in that gets
//! everything wrong that a server can get wrong.

mod cluster;
mod page;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{DEADLINE, Output, Session, binary, until};

/// The token of a caller, and the one of a workspace.
const CALLER: &str = "caller-0123456789abcdef";
const WORKSPACE: &str = "workspace-0123456789";

/// The real binary, listening on loopback.
struct Gateway {
    session: Session,
    port: u16,
    process: Child,
}

/// A response, read to its end.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_default().into()
    }
}

impl Gateway {
    /// Starts with workspaces by address, all with the same token.
    fn with(workspaces: &[(&str, u16)]) -> Self {
        Self::with_settings(&fixed(workspaces))
    }

    /// Starts with these fields of the settings. `{DATA}` in them is the session's folder.
    fn with_settings(fields: &str) -> Self {
        Self::in_session(Session::new(), fields)
    }

    fn in_session(session: Session, fields: &str) -> Self {
        let port = free_port();
        secret(session.data().join("tokens"), &format!("ada {CALLER}\n"));
        secret(session.data().join("token"), WORKSPACE);
        let data = session.data().display().to_string();
        let fields = fields.replace("{DATA}", &data);
        let text = format!("Gateway(listen: \"127.0.0.1:{port}\", tokens: \"{data}/tokens\", {fields})");
        fs::write(session.data().join("gateway.ron"), text).expect("settings");
        let process = Self::spawn(&session);
        let gateway = Gateway { session, port, process };
        until("the gateway listens", || TcpStream::connect(("127.0.0.1", port)).ok().map(drop));
        gateway
    }

    fn spawn(session: &Session) -> Child {
        let log = fs::File::options().create(true).append(true).open(session.data().join("log")).expect("a log");
        let mut command = session.command(binary());
        command.arg("gateway").arg("--config").arg(session.data().join("gateway.ron"));
        command.stdout(log).stderr(Stdio::inherit()).spawn().expect("the built binary")
    }

    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let mut stream = self.connect();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}");
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        stream.write_all(format!("{head}{length}\r\n{body}").as_bytes()).expect("the gateway reads");
        answered(&mut stream)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("a connection");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream
    }

    /// Asks as a caller who is let in.
    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &bearer(CALLER), "")
    }

    /// Asks again while it was asked too often, for example just after [`Gateway::wait`].
    fn launch(&self, workspace: &str, url: &str) -> Answer {
        let body = json!({ "url": url }).to_string();
        let path = format!("/dashboard/kasm/launch-url/{workspace}");
        until("there is an answer", || {
            Some(self.ask("POST", &path, &bearer(CALLER), &body)).filter(|answer| answer.status != 429)
        })
    }

    /// Empty also if it was asked too often.
    fn workspaces(&self) -> Vec<Value> {
        self.get("/dashboard/kasm/workspaces").json()["workspaces"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until a workspace looks so.
    fn wait(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        until(&format!("{name} {what}"), || {
            self.workspaces().into_iter().find(|one| one["name"] == name).filter(|one| is(one))
        })
    }

    fn log(&self) -> Vec<Value> {
        let lines = self.session.lines("log");
        lines.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    /// Waits for an audit line with this verdict.
    fn audited(&self, verdict: &str) -> Value {
        until(&format!("an audit line: {verdict}"), || {
            self.log().into_iter().find(|line| line["event"] == "gateway.request" && line["verdict"] == verdict)
        })
    }

    /// A client of the events. It reads as fast as it can.
    fn events(&self) -> Events {
        let mut stream = self.connect();
        let head = format!("GET /dashboard/kasm/events HTTP/1.1\r\nHost: x\r\n{}\r\n", bearer(CALLER));
        stream.write_all(head.as_bytes()).expect("the gateway reads");
        Events(BufReader::new(stream))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- the gateway's log ---\n{}", self.session.lines("log").join("\n"));
        }
    }
}

/// The stream of one client.
struct Events(BufReader<TcpStream>);

impl Events {
    /// The next piece of the list.
    fn next(&mut self) -> Value {
        let mut line = String::new();
        let end = Instant::now() + DEADLINE; // comments arrive all the time
        loop {
            assert!(Instant::now() < end, "nothing new after {DEADLINE:?}");
            line.clear();
            assert!(self.0.read_line(&mut line).expect("the stream goes on") > 0, "the stream has ended");
            if let Some(data) = line.strip_prefix("data: ") {
                return serde_json::from_str(data).expect("JSON");
            }
        }
    }

    /// Reads until a piece fits.
    fn until(&mut self, is: impl Fn(&Value) -> bool) -> Value {
        loop {
            let piece = self.next();
            if is(&piece) {
                return piece;
            }
        }
    }
}

/// Fields that name workspaces by address.
fn fixed(workspaces: &[(&str, u16)]) -> String {
    let one = |(name, port): &(&str, u16)| {
        format!("\"{name}\": Workspace(launcher: \"127.0.0.1:{port}\", token: \"{{DATA}}/token\")")
    };
    format!("workspaces: {{ {} }}", workspaces.iter().map(one).collect::<Vec<_>>().join(", "))
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

fn secret(path: PathBuf, text: &str) {
    let next = path.with_extension("next");
    fs::write(&next, text).expect("a secret");
    fs::set_permissions(&next, fs::Permissions::from_mode(0o600)).expect("its mode");
    fs::rename(next, path).expect("a rename");
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("its address").port()
}

/// Reads a response to the end of the connection.
fn answered(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => bytes.extend(&piece[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("the gateway leaves the connection open: {error}"),
        }
    }
    let whole = String::from_utf8_lossy(&bytes).into_owned();
    let (head, text) = whole.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no response: {whole}"));
    let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status: {head}"));
    let head = head.to_lowercase();
    let text = if head.contains("transfer-encoding: chunked") { unchunked(text) } else { text.into() };
    Answer { status, head, text }
}

fn unchunked(mut rest: &str) -> String {
    let mut text = String::new();
    loop {
        let (length, after) = rest.split_once("\r\n").unwrap_or_else(|| panic!("no chunk: {rest}"));
        let length = usize::from_str_radix(length, 16).expect("a length");
        if length == 0 {
            return text;
        }
        text += &after[..length];
        rest = after[length..].strip_prefix("\r\n").expect("the end of a chunk");
    }
}

/// A stand-in for a workspace's launcher. It answers each request with the next of its texts, and with the last one for ever.
struct StandIn {
    port: u16,
    /// The heads and bodies of all requests but those of probes.
    heard: Arc<Mutex<Vec<String>>>,
}

/// What the stand-in does with a request.
#[derive(Clone)]
enum Does {
    Says(String),
    /// Never answers.
    Hangs,
    /// Answers, and then replaces the token of the workspace, as a rotation would.
    Rotates(String, PathBuf, &'static str),
}

impl StandIn {
    fn new(does: Vec<Does>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let all = heard.clone();
        std::thread::spawn(move || {
            let mut does = does.into_iter().peekable();
            for mut stream in listener.incoming().flatten() {
                let request = request(&mut stream);
                if request.starts_with("GET /healthz") {
                    let _ = stream.write_all(says(200, "{}").as_bytes());
                    continue;
                }
                all.lock().expect("nobody panicked").push(request);
                let next = match does.len() {
                    1 => does.peek().cloned(),
                    _ => does.next(),
                };
                match next {
                    Some(Does::Says(text)) => drop(stream.write_all(text.as_bytes())),
                    Some(Does::Hangs) => drop(std::thread::spawn(move || stream.read(&mut [0; 1]))),
                    Some(Does::Rotates(text, path, token)) => {
                        secret(path, token);
                        let _ = stream.write_all(text.as_bytes());
                    }
                    None => {}
                }
            }
        });
        StandIn { port, heard }
    }

    fn saying(text: &str) -> Self {
        Self::new(vec![Does::Says(text.into())])
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().expect("nobody panicked").clone()
    }
}

fn says(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

/// One whole request; as much as came of one that is cut off.
fn request(stream: &mut TcpStream) -> String {
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let (mut head, mut length) = (String::new(), 0);
    while reader.read_line(&mut head).is_ok_and(|read| read > 2) {}
    for line in head.lines() {
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    let _ = reader.read_exact(&mut body);
    head + &String::from_utf8_lossy(&body)
}

#[test]
fn a_url_goes_to_the_workspace_with_its_own_token() {
    let desk = StandIn::saying(&says(200, r#"{"ok":true,"frameId":"F","outcome":"committed","ms":7}"#));
    let gateway = Gateway::with(&[("desk", desk.port)]);
    let answer = gateway.launch("desk", "HTTPS://example.com:443/a?b#c");
    let upstream = json!({ "ok": true, "frameId": "F", "outcome": "committed", "ms": 7 });
    assert_eq!(answer.json(), json!({ "success": true, "workspace": "desk", "upstream": upstream }));
    assert!(answer.head.contains("cache-control: no-store") && answer.head.contains("x-request-id:"), "{answer:?}");
    let heard = desk.heard().join("\n");
    assert!(heard.starts_with("POST /open HTTP/1.1\r\n"), "{heard}");
    assert!(heard.contains(&format!("Bearer {WORKSPACE}")) && !heard.contains(CALLER), "{heard}");
    assert!(heard.ends_with(r#"{"url":"https://example.com/a?b#c"}"#), "the URL as it was judged: {heard}");
    let line = gateway.audited("opened");
    assert_eq!(
        (&line["caller"], &line["by"], &line["workspace"], &line["host"]),
        (&json!("ada"), &json!("token"), &json!("desk"), &json!("example.com"))
    );
    let log = gateway.session.lines("log").join("\n");
    assert!(!log.contains(CALLER) && !log.contains(WORKSPACE) && !log.contains("?b"), "{log}");
}

#[test]
fn the_real_launcher_says_that_no_browser_runs() {
    let session = Session::new().env("URL_LAUNCHER_TOKEN", WORKSPACE).env("CDP_PORT", &free_port().to_string());
    let port = free_port();
    let mut command = session.command(binary());
    command.args(["nav-shim", "--listen", "127.0.0.1", "--port", &port.to_string()]).stdout(Stdio::null());
    let mut launcher = command.spawn().expect("the built binary");
    until("the launcher listens", || TcpStream::connect(("127.0.0.1", port)).ok().map(drop));
    let gateway = Gateway::with(&[("desk", port)]);
    let answer = gateway.launch("desk", "http://93.184.215.14/");
    assert_eq!(answer.status, 502);
    assert!(answer.error().starts_with(r#"nav shim 503: {"error":"cdp unreachable""#), "{answer:?}");
    gateway.wait("desk", "answers", |desk| desk["status"] == "ready" && desk["reachable"] == true);
    secret(gateway.session.data().join("token"), "not-the-one-0123456789");
    assert!(gateway.launch("desk", "http://93.184.215.14/").error().starts_with("nav shim 401: "));
    launcher.kill().expect("kill");
    launcher.wait().expect("a reaped launcher");
    gateway.wait("desk", "is missed", |desk| desk["status"] == "unreachable" && desk["reachable"] == false);
    let answer = gateway.launch("desk", "http://93.184.215.14/");
    assert_eq!((answer.status, answer.error().contains("connection refused")), (502, true), "{answer:?}");
}

#[test]
fn what_is_not_asked_properly_reaches_no_workspace() {
    let desk = StandIn::saying(&says(200, "{}"));
    let gateway = Gateway::with(&[("desk", desk.port)]);
    let path = "/dashboard/kasm/launch-url/desk";
    let good = r#"{"url":"https://example.com"}"#;
    let caller = bearer(CALLER);
    let ask = |method: &str, path: &str, headers: &str, body: &str| gateway.ask(method, path, headers, body).status;
    for (wanted, got) in [
        (401, ask("POST", path, "", good)),
        (401, ask("POST", path, &bearer("wrong-0123456789abcdef"), good)),
        (401, ask("GET", "/dashboard/kasm/workspaces", "", "")),
        (401, ask("GET", "/dashboard/kasm/events", "", "")),
        (401, ask("PUT", "/dashboard/kasm/scale/desk", "", "{\"replicas\":0}")),
        (403, ask("POST", path, &format!("{caller}Sec-Fetch-Site: cross-site\r\n"), good)),
        (404, ask("POST", "/dashboard/kasm/launch-url/desk/", &caller, good)),
        (404, ask("POST", "/dashboard/kasm/launch-url/desk?x", &caller, good)),
        (404, ask("POST", "/dashboard/kasm/launch-url/", &caller, good)),
        (404, ask("POST", "/dashboard/kasm/launch-url/other", &caller, good)),
        (405, ask("GET", path, &caller, "")),
        (400, ask("POST", "/dashboard/kasm/launch-url/d%20k", &caller, good)),
        (400, ask("POST", &format!("/dashboard/kasm/launch-url/{}", "x".repeat(64)), &caller, good)),
        (400, ask("POST", path, &caller, "{")),
        (400, ask("POST", path, &caller, "{}")),
        (400, ask("POST", path, &caller, r#"{"url":"http://10.0.0.1/"}"#)),
        (400, ask("POST", path, &caller, r#"{"url":"file:///etc/passwd"}"#)),
        (413, ask("POST", path, &caller, &format!(r#"{{"url":"{}"}}"#, "x".repeat(4096)))),
        (409, ask("PUT", "/dashboard/kasm/scale/desk", &caller, "{\"replicas\":0}")),
        (400, ask("PUT", "/dashboard/kasm/scale/desk", &caller, "{\"replicas\":2}")),
    ] {
        assert_eq!(got, wanted);
    }
    let answer = gateway.launch("desk", "http://10.0.0.1/");
    assert_eq!(answer.json()["reason"].as_str().map(|why| why.contains("not on the public internet")), Some(true));
    assert_eq!(desk.heard(), [""; 0]);
    for (path, wanted) in [("/healthz", 200), ("/metrics", 200), ("/openapi.json", 200), ("/", 307), ("/x", 404)] {
        assert_eq!(ask("GET", path, "", ""), wanted, "{path}");
    }
    let metrics = gateway.ask("GET", "/metrics", "", "").text;
    assert!(metrics.contains("kasm_void_gateway_requests_total{verdict=\"unauthorized\"} 5"), "{metrics}");
}

#[test]
fn a_workspace_that_gets_everything_wrong_costs_its_caller_only() {
    for (text, wanted) in [
        (says(503, "cdp unreachable"), "nav shim 503: cdp unreachable"),
        (says(500, &"x".repeat(100_000)), &*format!("nav shim 500: {}", "x".repeat(512))),
        // No more is read than is passed on: the rest of this answer never comes.
        (
            format!("HTTP/1.1 500 X\r\nContent-Length: 100000\r\n\r\n{}", "x".repeat(600)),
            &*format!("nav shim 500: {}", "x".repeat(512)),
        ),
        (says(302, ""), "nav shim 302: "),
        (
            "HTTP/1.1 500 X\r\nContent-Length: 100\r\n\r\nhalf".into(),
            "nav shim unreachable: it broke off in the middle of its answer",
        ),
        ("HTTP/1.1 200 OK\r\nContent-".into(), "nav shim unreachable: it closed the connection without an answer"),
        (String::new(), "nav shim unreachable: it closed the connection without an answer"),
        ("SSH-2.0-OpenSSH_9.2\r\n".into(), "nav shim unreachable: it closed the connection without an answer"),
        (says(401, "no"), "nav shim 401: no"),
    ] {
        let desk = StandIn::saying(&text);
        let answer = Gateway::with(&[("desk", desk.port)]).launch("desk", "https://example.com/");
        assert_eq!((answer.status, answer.error().as_str()), (502, wanted));
    }
}

#[test]
fn a_workspace_that_never_answers_is_given_ten_seconds_and_others_do_not_wait() {
    let (slow, quick) = (StandIn::new(vec![Does::Hangs]), StandIn::saying(&says(200, "{}")));
    let gateway = Gateway::with(&[("slow", slow.port), ("quick", quick.port)]);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let began = Instant::now();
            (gateway.launch("slow", "https://example.com/"), began.elapsed())
        });
        until("the slow one is asked", || (!slow.heard().is_empty()).then_some(()));
        assert_eq!(gateway.launch("quick", "https://example.com/").status, 200);
        assert!(!waiting.is_finished(), "the quick one has waited for the slow one");
        let (answer, took) = waiting.join().expect("an answer");
        assert_eq!((answer.status, answer.error().as_str()), (502, "nav shim timeout: no answer within 10 seconds"));
        assert!(took >= Duration::from_secs(10), "{took:?}");
    });
}

#[test]
fn a_token_that_has_rotated_is_read_again_and_tried_once_more() {
    let session = Session::new();
    let token = session.data().join("token");
    let rotates = Does::Rotates(says(401, "no"), token.clone(), "rotated-0123456789abcdef");
    let desk = StandIn::new(vec![rotates, Does::Says(says(200, "{}"))]);
    let gateway = Gateway::in_session(session, &fixed(&[("desk", desk.port)]));
    assert_eq!(gateway.launch("desk", "https://example.com/").status, 200);
    let heard = desk.heard();
    assert_eq!(heard.len(), 2);
    assert!(heard[0].contains(WORKSPACE) && heard[1].contains("rotated-0123456789abcdef"));
    // Not a third time.
    let desk = StandIn::saying(&says(401, "no"));
    let gateway = Gateway::with(&[("desk", desk.port)]);
    assert!(gateway.launch("desk", "https://example.com/").error().starts_with("nav shim 401"));
    assert_eq!(desk.heard().len(), 1, "the same token is not tried twice");
}

#[test]
fn a_caller_over_its_rate_waits_and_another_does_not() {
    let desk = StandIn::saying(&says(200, "{}"));
    let settings = format!("requests_per_second: 1, {}", fixed(&[("desk", desk.port)]));
    let gateway = Gateway::with_settings(&settings);
    let both = format!("ada {CALLER}\nbob bob-0123456789abcdef\n");
    secret(gateway.session.data().join("tokens"), &both);
    let refused = (0..20).map(|_| gateway.get("/dashboard/kasm/workspaces")).find(|answer| answer.status == 429);
    let refused = refused.expect("a request over the rate");
    assert!(refused.head.contains("retry-after: 1"), "{refused:?}");
    assert_eq!(gateway.ask("GET", "/dashboard/kasm/workspaces", &bearer("bob-0123456789abcdef"), "").status, 200);
}

#[test]
fn a_client_that_never_reads_costs_nobody_else_anything() {
    let desk = StandIn::saying(&says(200, "{}"));
    let gateway = Gateway::with(&[("desk", desk.port)]);
    // Requests whose answers nobody reads.
    let idle: Vec<TcpStream> = (0..50).map(|_| gateway.events().0.into_inner()).collect();
    let mut events = gateway.events();
    let first = events.until(|piece| piece["changed"][0]["status"] == "ready");
    assert_eq!((&first["more"], &first["cluster"]), (&json!(false), &Value::Null));
    assert_eq!(gateway.launch("desk", "https://example.com/").status, 200);
    drop(idle);
    let metrics = || gateway.ask("GET", "/metrics", "", "").text;
    until("the pages that left are forgotten", || metrics().contains("kasm_void_gateway_pages 1\n").then_some(()));
}

#[test]
fn lists_that_nobody_reads_do_not_fill_the_memory() {
    let names: Vec<String> = (0..1000).map(|number| format!("{number:0>60}")).collect();
    let workspaces: Vec<(&str, u16)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let gateway = Gateway::with_settings(&format!("requests_per_second: 1000, {}", fixed(&workspaces)));
    let list = gateway.get("/dashboard/kasm/workspaces");
    assert_eq!(list.json()["workspaces"].as_array().map(Vec::len), Some(1000), "it is read whole");
    let memory = || {
        let status = fs::read_to_string(format!("/proc/{}/status", gateway.process.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
    };
    let (before, count) = (memory(), 200);
    let head = format!("GET /dashboard/kasm/workspaces HTTP/1.1\r\nHost: x\r\n{}\r\n", bearer(CALLER));
    let readers: Vec<TcpStream> = (0..count)
        .map(|_| {
            let mut stream = gateway.connect();
            stream.write_all(head.as_bytes()).expect("the gateway reads");
            stream
        })
        .collect();
    for mut stream in &readers {
        stream.read_exact(&mut [0; 1]).expect("the answer begins");
    }
    let whole = count * list.text.len();
    let grown = memory().saturating_sub(before);
    assert!(grown < whole / 3, "{grown} bytes more for {count} answers of {} bytes", list.text.len());
}

/// Ends what a test has started, even if it fails.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_demonstration_shows_the_session_of_this_machine_and_opens_pages_in_its_own_browser() {
    let browser = TcpListener::bind("127.0.0.1:0").expect("a free port");
    browser.set_nonblocking(true).expect("it does not wait");
    let port = browser.local_addr().expect("its address").port();
    let args = format!("args: [\"-c\", \"exec sleep 1000\", \"sh\", \"--remote-debugging-port={port}\"]");
    let session = Session::new().app("browser", &format!("App(command: \"/bin/sh\", {args}, on_close: Hold)")).start();
    let mut command = session.command(binary());
    let mut demo =
        Started(command.args(["gateway", "--demo"]).stdout(Stdio::piped()).spawn().expect("the built binary"));
    let lines = BufReader::new(demo.0.stdout.take().expect("its output")).lines().map_while(Result::ok);
    let told = lines.map(|line| line.trim().to_owned()).find(|line| line.starts_with("look ")).expect("an address");
    let (address, token) = told.trim_start_matches("look").trim().split_once("#token=").expect("a token");
    let authority = address.trim_start_matches("http://").split('/').next().expect("a host and a port");
    let ask = |request: &str| {
        let mut stream = TcpStream::connect(authority).expect("a connection");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let head = format!("{request}Host: x\r\nConnection: close\r\n{}", bearer(token));
        stream.write_all(head.as_bytes()).expect("the gateway reads");
        stream
    };
    until("the app is on the page", || {
        let mut stream = ask("GET /dashboard/kasm/workspaces HTTP/1.1\r\n");
        stream.write_all(b"\r\n").expect("the gateway reads");
        let shown = answered(&mut stream).json();
        (shown["workspaces"][0]["apps"][0]["name"] == "browser").then_some(())
    });
    let body = r#"{"url":"http://93.184.215.14/"}"#;
    let mut stream = ask("POST /dashboard/kasm/launch-url/session HTTP/1.1\r\n");
    let rest = format!("Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(rest.as_bytes()).expect("the gateway reads");
    until("the session's own browser is asked", || browser.accept().ok().map(drop));
}

#[test]
fn mistakes_in_the_settings_are_told_with_their_places() {
    let session = Session::new();
    let file = session.data().join("gateway.ron");
    fs::write(&file, "Gateway(\n  listen: \"here\",\n  workspces: {},\n)").expect("settings");
    let path = file.to_str().expect("UTF-8");
    for (args, is_told) in
        [(&["gateway", "--config", path][..], false), (&["gateway", "--check", "--config", path], true)]
    {
        let Output { code, stdout, stderr } = session.cli(args);
        let told = if is_told { &stdout } else { &stderr };
        assert_eq!(code, Some(1), "{told}");
        assert!(told.contains("gateway.ron:3:3") && told.contains("did you mean `workspaces`?"), "{told}");
        // As people read it: neither colours, since this is no terminal, nor their escapes.
        assert!(!told.contains("\\u{1b}") && !told.contains('\u{1b}'), "{told}");
    }
    let missing = session.cli(&["gateway", "--config", "/no/such/file"]);
    assert!(missing.stderr.contains("cannot read the settings in /no/such/file"), "{missing:?}");
}
