//! Measures the URL launcher: `cargo bench --bench launcher`. Compares it with the plain Python `http.server` that it
//! replaces and, for navigations, with talking to the browser directly. Programs that are not installed are left out.
//!
//! Clients and servers share the machine, and each request has its own connection. Refused requests to open a page are
//! refused because of the token, or because of the rate limit after it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kasm_void::cdp::{Browser, Incoming};
use kasm_void::launcher::navigate::Navigator;
use kasm_void::launcher::verdict::Outcome;
use kasm_void::model::url::Policy;
use serde_json::json;

const REQUESTS: usize = 4_000;
const CLIENTS: usize = 4;
const OPEN: usize = 1_000;
const NAVIGATIONS: usize = 40;
const PATIENCE: Duration = Duration::from_secs(30);

const SHIM: &str = r#"
import hmac, json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Shim(BaseHTTPRequestHandler):
    def reply(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def do_GET(self):
        self.reply(200, {"ok": True}) if self.path == "/healthz" else self.reply(404, {"error": "not found"})
    def do_POST(self):
        sent = self.headers.get("Authorization", "")[7:].strip()
        if not hmac.compare_digest(sent, "s3cret"):
            return self.reply(401, {"error": "unauthorized"})
        self.reply(400, {"error": "url rejected by policy"})
    def log_message(self, form, *words):
        sys.stdout.write(json.dumps({"msg": form % words}) + "\n")
class Server(ThreadingHTTPServer):
    request_queue_size = 4096
Server(("127.0.0.1", int(sys.argv[1])), Shim).serve_forever()
"#;

fn main() {
    println!("| | healthz/s | p50 | p99 | refused open/s | p50 | p99 | PSS | with {OPEN} connections |");
    println!("|---|---|---|---|---|---|---|---|---|");
    row("kasm-void", |port| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kasm-void"));
        command.args(["nav-shim", "--listen", "127.0.0.1", "--port", port]).env("URL_LAUNCHER_TOKEN", "s3cret");
        command
    });
    row("python http.server", |port| {
        let mut command = Command::new("python3");
        command.args(["-c", SHIM, port]);
        command
    });
    if let Err(why) = navigations() {
        println!("\nno navigations: {why}");
    }
}

/// A program that is killed when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn row(name: &str, command: impl Fn(&str) -> Command) {
    let port = free_port();
    let started = command(&port.to_string()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let Ok(server) = started.map(Running) else { return println!("| {name} | not installed |") };
    wait_for(port);
    let health = rate(port, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let open = "POST /open HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer guess\r\nContent-Length: 2\r\n\r\n{}";
    let refused = rate(port, open);
    let before = memory(server.0.id());
    let crowd: Vec<TcpStream> = (0..OPEN).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    assert!(ask(port, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").starts_with(b"HTTP/1."));
    let with = memory(server.0.id());
    drop(crowd);
    println!("| {name} | {health} | {refused} | {before} KiB | {with} KiB |");
}

/// Requests per second and their times, as cells of the table.
fn rate(port: u16, request: &'static str) -> String {
    let began = Instant::now();
    let clients = (0..CLIENTS).map(|_| {
        std::thread::spawn(move || {
            let one = |_| {
                let began = Instant::now();
                assert!(!ask(port, request).is_empty(), "no answer");
                began.elapsed()
            };
            (0..REQUESTS / CLIENTS).map(one).collect::<Vec<_>>()
        })
    });
    let clients: Vec<_> = clients.collect();
    let mut times: Vec<Duration> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    let per_second = times.len() as f64 / began.elapsed().as_secs_f64();
    times.sort_unstable();
    format!("{per_second:.0} | {:.2} ms | {:.2} ms", ms(times[times.len() / 2]), ms(times[times.len() * 99 / 100]))
}

fn ask(port: u16, request: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer); // a server that closes early has answered already
    answer
}

fn memory(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find(|line| line.starts_with("Pss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn wait_for(port: u16) {
    let end = Instant::now() + PATIENCE;
    while TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).is_err() {
        assert!(Instant::now() < end, "nobody listens on {port}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Opens the same local pages with and without the launcher, in turns.
fn navigations() -> Result<(), String> {
    let (pages, port, profile) = (serve_pages(), free_port(), tempfile::tempdir().unwrap());
    let mut command = Command::new("chromium");
    command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "about:blank"]);
    command.arg(format!("--remote-debugging-port={port}"));
    command.arg(format!("--user-data-dir={}", profile.path().display())).env("HOME", profile.path());
    let started = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let _chromium = started.map(Running).map_err(|error| format!("chromium: {error}"))?;
    wait_for(port);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut direct, mut ours) = (Vec::new(), Vec::new());
    for each in 0..NAVIGATIONS {
        let url = |kind: &str| format!("http://127.0.0.1:{pages}/{kind}/{each}");
        direct.push(runtime.block_on(navigate(port, &url("direct"))));
        let navigator = Navigator::new(port, Policy::default().also_loopback(pages));
        ours.push(runtime.block_on(async {
            let began = Instant::now();
            let target = navigator.judge(&url("ours")).await.unwrap();
            let verdict = navigator.open(target, tokio::time::Instant::now() + PATIENCE).await;
            assert!(matches!(verdict.outcome, Outcome::Committed { .. }), "{verdict:?}");
            began.elapsed()
        }));
        runtime.block_on(navigator.close()); // this also ends its guard
    }
    direct.sort_unstable();
    ours.sort_unstable();
    let middle = NAVIGATIONS / 2;
    println!("\nnavigation, median: directly {:.1} ms, by the launcher {:.1} ms", ms(direct[middle]), ms(ours[middle]));
    Ok(())
}

/// The minimum: connect, attach, navigate, wait for the page.
async fn navigate(port: u16, url: &str) -> Duration {
    let began = Instant::now();
    let mut browser = Browser::connect(port).await.unwrap();
    let tab = Browser::connect(port).await.expect("a browser").tabs().await.unwrap().remove(0);
    let attach = json!({ "targetId": tab.id, "flatten": true });
    let session = browser.call(None, "Target.attachToTarget", attach).await.unwrap();
    let session = session["sessionId"].as_str().unwrap();
    browser.call(Some(session), "Page.enable", json!({})).await.unwrap();
    browser.send(Some(session), "Page.navigate", json!({ "url": url })).await.unwrap();
    loop {
        if let Incoming::Event(event) = browser.next().await.unwrap()
            && event.method == "Page.frameNavigated"
        {
            return began.elapsed();
        }
    }
}

fn serve_pages() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut head = BufReader::new(stream.try_clone().unwrap());
                let mut line = String::new();
                while head.read_line(&mut line).is_ok_and(|read| read > 2) {}
                let page =
                    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
                let _ = stream.write_all(page.as_bytes()); // the browser may have disconnected
            });
        }
    });
    port
}
