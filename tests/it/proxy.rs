//! The guard proxy, asked by clients that send raw bytes. Servers are on loopback, so each story lists them as private hosts
//! on purpose. What pages try against it is in `launcher::internet`.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use kasm_void::model::protocol::StateName;
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{DEADLINE, Session, binary, send, until};

/// The real binary, listening on loopback.
pub struct Proxy {
    session: Session,
    pub port: u16,
    process: Child,
}

impl Proxy {
    /// Starts a proxy that may reach these hosts on purpose.
    pub fn allowing(private: &str) -> Self {
        Self::with(Session::new().env("URL_POLICY_PRIVATE", private))
    }

    /// Starts a proxy with a session's environment variables.
    pub fn with(session: Session) -> Self {
        Self::at(free_port(), session)
    }

    fn at(port: u16, session: Session) -> Self {
        let session = session.env("PROXY_PORT", &port.to_string());
        let mut command = session.command(binary());
        let log = fs::File::create(session.data().join("log")).expect("a log");
        command.arg("proxy").stdout(log).stderr(Stdio::inherit());
        let process = command.spawn().expect("the built binary");
        until("the proxy listens", || TcpStream::connect(("127.0.0.1", port)).ok().map(drop));
        Proxy { session, port, process }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the proxy accepts");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream
    }

    /// Sends bytes and reads until the other end closes.
    fn says(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes.as_ref()).expect("the proxy reads");
        String::from_utf8_lossy(&to_the_end(&mut stream)).into_owned()
    }

    fn get(&self, url: &str, headers: &str) -> String {
        let host = url.split('/').nth(2).unwrap_or("x");
        self.says(format!("GET {url} HTTP/1.1\r\nHost: {host}\r\n{headers}Connection: close\r\n\r\n"))
    }

    /// Asks for a tunnel. Returns it with the head of the answer.
    pub fn tunnel(&self, authority: &str) -> (TcpStream, String) {
        let mut stream = self.connect();
        let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("the proxy reads");
        let head = head(&mut stream);
        (stream, head)
    }

    pub fn log(&self) -> Vec<Value> {
        let text = self.session.lines("log");
        text.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    /// The audit lines of an event.
    pub fn told(&self, event: &str) -> Vec<Value> {
        self.log().into_iter().filter(|line| line["event"] == event).collect()
    }

    /// What `check-url` says of these URLs under the same policy, without a name server: `allowed` or a rule.
    pub fn check_urls(&self, urls: &[&str]) -> Vec<String> {
        let output = self.session.cli(&[&["check-url", "--no-resolve", "--json"], urls].concat());
        let said = output.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        said.map(|said: Value| said["reason"].as_str().unwrap_or("allowed").to_owned()).collect()
    }

    /// What `check-url` says of a URL whose name is looked up.
    pub fn check_resolved(&self, url: &str) -> String {
        let output = self.session.cli(&["check-url", "--json", url]);
        let said: Value = serde_json::from_str(&output.stdout).expect("JSON");
        said["reason"].as_str().unwrap_or("allowed").to_owned()
    }

    /// The rule by which the proxy refuses a request, or why it could not be served; `allowed` if it was served.
    pub fn rule(&self, method: &str, target: &str) -> String {
        let request = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).expect("the proxy reads");
        let head = head(&mut stream);
        let rule = head.split("details=\"").nth(1).and_then(|rest| rest.split('"').next());
        match rule {
            Some(rule) => rule.to_owned(),
            None if status(&head).starts_with('4') => "malformed".to_owned(), // not even a request
            None => "allowed".to_owned(),
        }
    }

    fn metric(&self, name: &str) -> u64 {
        let text = self.says("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let line =
            text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} is not in {text}"));
        line.rsplit(' ').next().and_then(|value| value.trim().parse().ok()).expect("a number")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the proxy's log ---\n{}", self.session.lines("log").join("\n"));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// If the server closes before it has read everything, the connection is reset; bytes received before that count.
fn to_the_end(stream: &mut TcpStream) -> Vec<u8> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return bytes,
            Ok(read) => bytes.extend(&piece[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return bytes,
            Err(error) => panic!("the other end leaves the connection open: {error}"),
        }
    }
}

/// Reads a head byte by byte, so that what comes behind it stays in the stream.
fn head(stream: &mut TcpStream) -> String {
    let (mut bytes, mut byte) = (Vec::new(), [0]);
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap_or_else(|error| {
            panic!("{error} after {:?}", String::from_utf8_lossy(&bytes));
        });
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).expect("UTF-8")
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or("none")
}

/// A server that handles each connection with `handle`.
fn server(handle: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    let handle = Arc::new(handle);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let handle = handle.clone();
            thread::spawn(move || handle(stream));
        }
    });
    port
}

/// A server that answers every request on a connection with the head that it got.
fn mirror() -> (u16, mpsc::Receiver<()>) {
    let (tell, told) = mpsc::channel();
    let port = server(move |mut stream| {
        let _ = tell.send(());
        let mut byte = [0];
        while stream.peek(&mut byte).is_ok_and(|read| read > 0) {
            let got = head(&mut stream);
            let answer = format!(
                "HTTP/1.1 200 OK\r\nX-Mine: Kept\r\nX-Hop: dropped\r\nConnection: X-Hop\r\nContent-Length: {}\r\n\r\n{got}",
                got.len()
            );
            if stream.write_all(answer.as_bytes()).is_err() {
                return; // the client has left
            }
        }
    });
    (port, told)
}

/// A server at this address that never answers, and what it was sent.
pub fn listener_at(address: &str) -> Arc<Mutex<String>> {
    let listener = TcpListener::bind(address).expect("an address of this machine");
    let heard = Arc::new(Mutex::new(String::new()));
    let hearing = heard.clone();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let hearing = hearing.clone();
            thread::spawn(move || {
                let mut piece = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut piece) {
                    hearing.lock().expect("nobody panicked").push_str(&String::from_utf8_lossy(&piece[..read]));
                }
            });
        }
    });
    heard
}

/// A server that sends every byte back.
fn echo() -> u16 {
    server(|mut stream| {
        let mut reads = stream.try_clone().expect("a second handle");
        let _ = std::io::copy(&mut reads, &mut stream); // the client may leave
        let _ = stream.shutdown(std::net::Shutdown::Write);
    })
}

#[test]
fn requests_are_passed_on_without_what_is_for_one_hop() {
    let (port, connections) = mirror();
    let proxy = Proxy::allowing(&format!("localhost:{port}"));
    let mut stream = proxy.connect();
    for at in ["first", "second"] {
        let request = format!(
            "GET http://LOCALHOST:{port}/{at}?a=b#c HTTP/1.1\r\nHost: other.example.com\r\nX-Case: Kept\r\nCookie: a=b\r\n\
             X-Hop: dropped\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic c2VjcmV0\r\nConnection: X-Hop\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("the proxy reads");
        let answer = head(&mut stream);
        assert_eq!(status(&answer), "200");
        assert!(answer.contains("X-Mine: Kept\r\n") && !answer.contains("X-Hop"), "{answer}");
        let seen = head(&mut stream);
        assert!(seen.starts_with(&format!("GET /{at}?a=b HTTP/1.1\r\n")), "{seen}");
        assert!(seen.to_lowercase().contains(&format!("host: localhost:{port}\r\n")), "{seen}");
        assert!(seen.contains("X-Case: Kept\r\n") && seen.contains("Cookie: a=b\r\n"), "{seen}");
        for gone in ["other.example.com", "X-Hop", "Proxy-", "c2VjcmV0"] {
            assert!(!seen.contains(gone), "{gone} is passed on: {seen}");
        }
    }
    assert_eq!(connections.try_iter().count(), 1, "the connection to the server is not used again");
    assert_eq!(proxy.metric("kasm_void_proxy_requests_total{kind=\"forward\"}"), 2);
}

#[test]
fn bodies_are_streamed_both_ways() {
    let port = server(|mut stream| {
        let got = head(&mut stream);
        let length =
            got.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
        let length: usize = length.and_then(|length| length.parse().ok()).expect("a length");
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").expect("a head");
        let (mut left, mut piece) = (length, [0; 1000]);
        while left > 0 {
            let read = stream.read(&mut piece).expect("the body");
            assert!(read > 0, "{left} bytes are missing");
            left -= read;
            // Each piece is answered before the next one is sent: nobody waits for the whole body.
            stream.write_all(format!("{read:x}\r\n").as_bytes()).expect("a chunk");
            stream.write_all(&piece[..read]).and_then(|()| stream.write_all(b"\r\n")).expect("a chunk");
        }
        stream.write_all(b"0\r\n\r\n").expect("the end");
    });
    let proxy = Proxy::allowing(&format!("127.0.0.1:{port}"));
    let mut stream = proxy.connect();
    let body: Vec<u8> = (0..3_000_000u32).map(|at| (at % 251) as u8).collect();
    let request = format!(
        "POST http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("the proxy reads");
    stream.write_all(&body[..1000]).expect("the proxy reads");
    assert_eq!(status(&head(&mut stream)), "200", "the answer begins while the body is being sent");
    let mut writes = stream.try_clone().expect("a second handle");
    let rest = body[1000..].to_vec();
    let sending = thread::spawn(move || writes.write_all(&rest).expect("the proxy reads"));
    let chunks = to_the_end(&mut stream);
    sending.join().expect("all was sent");
    let mut got: Vec<u8> = Vec::new();
    let mut rest = &chunks[..];
    loop {
        let end = rest.windows(2).position(|pair| pair == b"\r\n").expect("a chunk");
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).expect("hex"), 16).expect("hex");
        got.extend(&rest[end + 2..end + 2 + length]);
        rest = &rest[end + 4 + length..];
        if length == 0 {
            break;
        }
    }
    assert!(got == body, "{} bytes came back", got.len());
}

#[test]
fn a_tunnel_carries_anything_and_closes_with_its_ends() {
    let port = echo();
    let proxy = Proxy::allowing(&format!("localhost:{port}"));
    let (mut tunnel, answer) = proxy.tunnel(&format!("localhost:{port}"));
    assert_eq!(status(&answer), "200");
    assert!(!answer.to_lowercase().contains("content-length"), "{answer}");
    assert_eq!(proxy.metric("kasm_void_proxy_tunnels"), 1);
    let bytes: Vec<u8> = (0..2_000_000u32).map(|at| (at % 253) as u8).collect();
    let (mut writes, sent) = (tunnel.try_clone().expect("a second handle"), bytes.clone());
    let sending = thread::spawn(move || {
        writes.write_all(&sent).expect("the tunnel takes it");
        writes.shutdown(std::net::Shutdown::Write).expect("the end");
    });
    assert!(to_the_end(&mut tunnel) == bytes);
    sending.join().expect("all was sent");
    until("the tunnel is closed", || (proxy.metric("kasm_void_proxy_tunnels") == 0).then_some(()));
    assert_eq!(proxy.metric("kasm_void_proxy_tunnel_bytes_total{direction=\"received\"}"), 2_000_000);
}

#[test]
fn a_refusal_is_a_page_for_people_a_line_for_programs_and_a_line_in_the_audit() {
    let proxy = Proxy::with(Session::new());
    let page = proxy.get("http://169.254.169.254/latest/s3cr3t?s3cr3t", "Accept: text/html,*/*\r\n");
    assert_eq!(status(&page), "403");
    for part in
        ["text/html", "169.254.169.254", "private-address", "URL_POLICY_PRIVATE", "default-src 'none'", "no-store"]
    {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    let line = proxy.get("http://a.internal/", "");
    assert!(
        line.contains("text/plain") && line.contains("\r\n\r\nreserved-name: `a.internal` is below .internal"),
        "{line}"
    );
    assert!(line.contains("proxy-status: kasm-void; error=http_request_denied; details=\"reserved-name\""), "{line}");
    let (_, tunnel) = proxy.tunnel("10.0.0.1:443");
    assert_eq!(status(&tunnel), "403");
    let told = until("three audit lines", || Some(proxy.told("proxy.refused")).filter(|told| told.len() == 3));
    let fields = |field: &str| told.iter().map(|line| line[field].clone()).collect::<Vec<Value>>();
    assert_eq!(fields("host"), ["169.254.169.254", "a.internal", "10.0.0.1"]);
    assert_eq!(fields("rule"), ["private-address", "reserved-name", "private-address"]);
    assert_eq!(fields("kind"), ["GET", "GET", "CONNECT"]);
    assert_eq!(fields("level"), ["warn", "warn", "warn"]);
    assert!(!proxy.session.lines("log").concat().contains("s3cr3t"));
    assert_eq!(proxy.metric("kasm_void_proxy_refusals_total{rule=\"private-address\"}"), 2);
}

#[test]
fn a_page_that_asks_again_and_again_writes_one_line() {
    let proxy = Proxy::with(Session::new());
    let mut stream = proxy.connect();
    for _ in 0..500 {
        stream.write_all(b"GET http://10.0.0.1/ HTTP/1.1\r\nHost: x\r\n\r\n").expect("the proxy reads");
        assert_eq!(status(&head(&mut stream)), "403");
        let mut body = [0; 228];
        stream.read_exact(&mut body).expect("the line");
    }
    assert_eq!(proxy.metric("kasm_void_proxy_refusals_total{rule=\"private-address\"}"), 500);
    until("the refusal is logged", || (proxy.told("proxy.refused").len() == 1).then_some(()));
}

#[test]
fn what_is_no_request_for_a_proxy_is_told_what_this_is() {
    let proxy = Proxy::with(Session::new());
    for (line, expected) in [
        ("GET / HTTP/1.1", "400"),
        ("GET /metrics?x HTTP/1.1", "400"),
        ("OPTIONS * HTTP/1.1", "400"),
        ("GET https://example.com/ HTTP/1.1", "400"),
        ("GET ftp://example.com/ HTTP/1.1", "400"),
        ("CONNECT example.com HTTP/1.1", "400"),
        ("CONNECT / HTTP/1.1", "400"),
        ("CONNECT example.com:443 HTTP/1.1\r\nContent-Length: 3", "400"),
        ("CONNECT example.com:443 HTTP/1.1\r\nTransfer-Encoding: chunked", "400"),
        ("CONNECT 10.0.0.1:443 HTTP/1.1\r\nContent-Length: 0", "403"),
        ("GET http://a:b@example.com/ HTTP/1.1", "403"),
        ("CONNECT [::ffff:10.0.0.1]:443 HTTP/1.1", "403"),
        ("GET http://example.com:22/ HTTP/1.1", "403"),
        ("\x16\x03\x01\x02\x00\x01", "400"),
        ("GET http://10.0.0.1/ HTTP/1.1\r\nHost: y", "400"),
        ("GET /healthz HTTP/1.1", "200"),
    ] {
        let answer = proxy.says(format!("{line}\r\nHost: x\r\nConnection: close\r\n\r\n"));
        assert_eq!(status(&answer), expected, "{line:?}: {answer}");
    }
}

#[test]
fn a_server_that_is_not_there_is_an_answer() {
    let gone = free_port();
    let mute = server(|mut stream| drop(head(&mut stream)));
    let proxy = Proxy::allowing(&format!("127.0.0.1:{gone} 127.0.0.1:{mute} no-such-name.example:80"));
    let answer = proxy.get(&format!("http://127.0.0.1:{gone}/"), "");
    assert!(
        status(&answer) == "502" && answer.contains("unreachable: no connection could be opened: 127.0.0.1"),
        "{answer}"
    );
    assert!(answer.contains("error=connection_refused"), "{answer}");
    assert_eq!(status(&proxy.tunnel(&format!("127.0.0.1:{gone}")).1), "502");
    let answer = proxy.get(&format!("http://127.0.0.1:{mute}/"), "");
    assert!(status(&answer) == "502" && answer.contains("broken"), "{answer}");
    // A browser shows its own error page then: with ours, the site would count as shown.
    assert_eq!(proxy.get(&format!("http://127.0.0.1:{gone}/"), "Accept: text/html\r\n"), "");
    let answer = proxy.get("http://no-such-name.example/", "");
    assert!(
        status(&answer) == "502" && answer.contains("unresolved") && answer.contains("error=dns_error"),
        "{answer}"
    );
    let told = until("the failures are logged", || Some(proxy.told("proxy.failed")).filter(|told| told.len() >= 3));
    assert!(told.iter().all(|line| line["level"] == "info"), "{told:?}");
}

#[test]
fn no_server_speaks_for_the_proxy() {
    for status_line in [
        "407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x",
        "101 Switching Protocols\r\nUpgrade: x",
    ] {
        let port = server(move |mut stream| {
            head(&mut stream);
            let _ = write!(stream, "HTTP/1.1 {status_line}\r\nContent-Length: 0\r\n\r\n"); // the proxy may have left
        });
        let proxy = Proxy::allowing(&format!("127.0.0.1:{port}"));
        let answer = proxy.get(&format!("http://127.0.0.1:{port}/"), "");
        assert!(status(&answer) == "502" && !answer.contains("realm") && !answer.contains("Upgrade"), "{answer}");
    }
}

#[test]
fn no_port_of_the_workspace_is_reached_by_any_name() {
    let (devtools, asked) = mirror();
    let session = Session::new()
        .env("URL_POLICY_PRIVATE", &format!("localhost:{devtools} 127.0.0.1:{devtools} 127.0.0.2:{devtools}"))
        .env("URL_POLICY_OWN_PORTS", &format!("9998 0.0.0.0:{devtools}"));
    let proxy = Proxy::with(session);
    for host in ["localhost", "127.0.0.1", "127.0.0.2"] {
        for port in [devtools, proxy.port] {
            let answer = proxy.get(&format!("http://{host}:{port}/"), "");
            assert_eq!(status(&answer), "403", "{host}:{port}: {answer}");
            assert_eq!(status(&proxy.tunnel(&format!("{host}:{port}")).1), "403", "{host}:{port}");
        }
    }
    assert_eq!(asked.try_iter().count(), 0);
    assert!(proxy.told("proxy.refused").iter().all(|line| line["rule"] == "own-port" || line["rule"] == "port"));
    assert_eq!(proxy.told("proxy.private_hosts").len(), 1, "hosts on purpose are said at the start");
}

#[test]
fn connections_lead_through_the_next_proxy_after_they_were_judged() {
    let (port, _) = mirror();
    let next = Proxy::allowing(&format!("localhost:{port}"));
    let session = Session::new()
        .env("URL_POLICY_PRIVATE", &format!("localhost:{port} other.example:80"))
        .env("PROXY_UPSTREAM", &format!("http://me:s3cr3t@127.0.0.1:{}", next.port));
    let proxy = Proxy::with(session);
    let answer = proxy.get(&format!("http://localhost:{port}/a"), "");
    assert!(status(&answer) == "200" && answer.contains("GET /a HTTP/1.1"), "{answer}");
    let (mut tunnel, answer) = proxy.tunnel(&format!("localhost:{port}"));
    assert_eq!(status(&answer), "200");
    tunnel.write_all(b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n").expect("the tunnel takes it");
    assert_eq!(status(&head(&mut tunnel)), "200");
    drop(tunnel);
    assert_eq!(next.metric("kasm_void_proxy_requests_total{kind=\"tunnel\"}"), 1);
    assert_eq!(next.metric("kasm_void_proxy_requests_total{kind=\"forward\"}"), 1);
    // What is refused here does not even get to the next proxy.
    assert_eq!(status(&proxy.tunnel("10.0.0.1:443").1), "403");
    assert_eq!(next.told("proxy.refused").len(), 0);
    drop(next);
    let (_, answer) = proxy.tunnel(&format!("localhost:{port}"));
    assert_eq!(status(&answer), "502", "{answer}");
    let told = until("the failure is logged", || Some(proxy.told("proxy.failed")).filter(|told| !told.is_empty()));
    assert_eq!(told[0]["rule"], "upstream");
    assert!(!proxy.session.lines("log").concat().contains("s3cr3t"));
}

#[test]
fn a_next_proxy_that_is_this_one_is_refused_at_once() {
    let port = free_port();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let session = Session::new()
            .env("URL_POLICY_PRIVATE", "127.0.0.1:80")
            .env("PROXY_UPSTREAM", &format!("http://{host}:{port}"));
        let proxy = Proxy::at(port, session);
        let answer = proxy.get("http://127.0.0.1/", "");
        assert!(status(&answer) == "502" && answer.contains("PROXY_UPSTREAM has to name another"), "{host}: {answer}");
        assert_eq!(status(&proxy.tunnel("127.0.0.1:80").1), "502", "{host}");
        let told = until("the failure is logged", || Some(proxy.told("proxy.failed")).filter(|told| !told.is_empty()));
        assert_eq!(told.len(), 1, "it did not ask itself: {told:?}");
    }
}

#[test]
fn it_stops_at_once_whatever_is_open() {
    let port = echo();
    let mut proxy = Proxy::allowing(&format!("127.0.0.1:{port}"));
    let (mut tunnel, _) = proxy.tunnel(&format!("127.0.0.1:{port}"));
    let _idle = proxy.connect();
    send(proxy.process.id() as i32, Signal::TERM);
    let status = until("the proxy ends", || proxy.process.try_wait().expect("wait"));
    assert!(status.success(), "{status}");
    assert!(to_the_end(&mut tunnel).is_empty());
    assert_eq!(proxy.told("proxy.ended").len(), 1);
}

#[test]
fn wrong_settings_are_told_with_their_option() {
    for (option, variable, word, said) in [
        ("--private", "URL_POLICY_PRIVATE", "grafana:http", "`http` is not a port"),
        ("--own-ports", "URL_POLICY_OWN_PORTS", "9222 cdp", "`cdp` is not a port"),
        ("--upstream", "PROXY_UPSTREAM", "socks5://s3cr3t", "only an http: proxy"),
    ] {
        let output = Session::new().env(variable, word).cli(&["proxy"]);
        assert_eq!(output.code, Some(2), "{output:?}");
        assert!(output.stderr.contains(option) && output.stderr.contains(said), "{output:?}");
    }
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("its address").port().to_string();
    let output = Session::new().cli(&["proxy", "--port", &port]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("PROXY_PORT"), "{output:?}");
}

/// The shipped manifest of the proxy, for the built binary.
fn shipped(text: &str) -> String {
    text.replace("\"/usr/local/bin/kasm-void\"", &format!("{:?}", binary().to_str().expect("UTF-8")))
}

const PROXY: &str = include_str!("../../manifests/proxy.ron");

#[test]
fn a_switched_off_proxy_and_private_hosts_are_said_loudly() {
    let session = |name: &str, value: &str| {
        let session = Session::new().env("PROXY_PORT", &free_port().to_string()).env(name, value);
        session.app("proxy", &shipped(PROXY)).start()
    };
    for (name, value, state, said) in [
        ("LAUNCH_PROXY", "1", StateName::Running, None),
        ("LAUNCH_PROXY", "off", StateName::Stopped, Some("the browser reaches private hosts: LAUNCH_PROXY is off")),
        ("URL_POLICY_PRIVATE", "grafana.internal", StateName::Running, Some("(URL_POLICY_PRIVATE): grafana.internal")),
    ] {
        let session = session(name, value);
        session.wait_state("proxy", state);
        let (status, doctor) = (session.ok(&["status"]), session.ok(&["doctor"]));
        match said {
            Some(said) => assert!(status.contains(said) && doctor.contains(said), "{name}={value}: {status}\n{doctor}"),
            None => assert!(!status.contains("warning") && !doctor.contains("warning"), "{status}\n{doctor}"),
        }
    }
}
