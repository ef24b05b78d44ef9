//! Measures the guard proxy: `cargo bench --bench proxy`. Compares it with a direct connection and with the proxies that
//! Debian packages (tinyproxy, squid), in the same run, in turns. Programs that are not installed are left out.
//!
//! Clients, proxies and servers share the machine and its loopback, so compare the ratios to the direct connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kasm_void::cdp::{Browser, Incoming};
use serde_json::json;

const ROUNDS: usize = 5;
/// Bytes of one download.
const DOWNLOAD: usize = 512 << 20;
const TUNNELS: usize = 1_000;
const LATENCIES: usize = 300;
const PARTS: usize = 200;
const LOADS: usize = 7;
const PATIENCE: Duration = Duration::from_secs(30);

fn main() {
    let servers = Servers::start();
    let folder = tempfile::tempdir().unwrap();
    let ways: Vec<Way> = [
        Some(Way::direct()),
        Way::through("kasm-void", |port| ours(port, &servers)),
        Way::through("tinyproxy", |port| tinyproxy(port, folder.path())),
        Way::through("squid", |port| squid(port, folder.path())),
    ]
    .into_iter()
    .flatten()
    .collect();

    println!(
        "| | tunnel MB/s | open a tunnel, p50 | p99 | GET, p50 | p99 | KiB PSS | with {TUNNELS} tunnels | {PARTS} parts in Chromium |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut measured: Vec<Measured> = ways.iter().map(|_| Measured::default()).collect();
    for _ in 0..ROUNDS {
        for (way, measured) in ways.iter().zip(&mut measured) {
            measured.throughput.push(throughput(way, servers.flood));
            measured.opening.extend(openings(way, servers.echo));
            measured.getting.extend(gettings(way, servers.pages));
        }
    }
    let mut browsers: Vec<_> = ways.iter().map(|way| Chromium::start(way.port)).collect();
    for _ in 0..LOADS {
        for (browser, measured) in browsers.iter_mut().zip(&mut measured) {
            measured.loading.extend(browser.as_mut().map(|browser| browser.load(servers.pages)));
        }
    }
    drop(browsers);
    for (way, mut measured) in ways.iter().zip(measured) {
        let memory = way.memory();
        let with = way.server.as_ref().map(|_| way.memory_with_tunnels(servers.echo));
        println!(
            "| {} | {:.0} | {:.2} ms | {:.2} ms | {:.2} ms | {:.2} ms | {} | {} | {} |",
            way.name,
            at(&mut measured.throughput, 50),
            at(&mut measured.opening, 50),
            at(&mut measured.opening, 99),
            at(&mut measured.getting, 50),
            at(&mut measured.getting, 99),
            memory.map_or("–".into(), |memory| memory.to_string()),
            with.flatten().map_or("–".into(), |memory| memory.to_string()),
            if measured.loading.is_empty() { "–".into() } else { format!("{:.0} ms", at(&mut measured.loading, 50)) },
        );
    }
}

#[derive(Default)]
struct Measured {
    throughput: Vec<f64>,
    opening: Vec<f64>,
    getting: Vec<f64>,
    loading: Vec<f64>,
}

/// The value below which this many percent are.
fn at(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() * percent / 100).min(values.len() - 1)]
}

/// A program that is killed when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A way to the servers: directly, or through a proxy.
struct Way {
    name: &'static str,
    /// The proxy's port.
    port: Option<u16>,
    server: Option<Running>,
}

impl Way {
    fn direct() -> Self {
        Way { name: "direct", port: None, server: None }
    }

    fn through(name: &'static str, command: impl Fn(u16) -> Command) -> Option<Self> {
        let port = free_port();
        let started = command(port).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let server = started.map(Running).inspect_err(|_| println!("{name} is not installed")).ok()?;
        if !listens(port) {
            println!("{name} does not start");
            return None;
        }
        Some(Way { name, port: Some(port), server: Some(server) })
    }

    /// A connection to a server of this machine.
    fn connect(&self, server: u16) -> TcpStream {
        let Some(port) = self.port else { return TcpStream::connect(("127.0.0.1", server)).unwrap() };
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        write!(stream, "CONNECT 127.0.0.1:{server} HTTP/1.1\r\nHost: 127.0.0.1:{server}\r\n\r\n").unwrap();
        let head = head(&mut stream);
        assert!(head.contains(" 200"), "{}: {head}", self.name);
        stream
    }

    /// The proxy's memory with its children, in KiB.
    fn memory(&self) -> Option<u64> {
        let pid = self.server.as_ref()?.0.id();
        Some(tree(pid).into_iter().filter_map(pss).sum())
    }

    fn memory_with_tunnels(&self, echo: u16) -> Option<u64> {
        let mut open = Vec::new();
        for _ in 0..TUNNELS {
            let mut tunnel = self.connect(echo);
            let mut byte = [0];
            tunnel.write_all(b"x").and_then(|()| tunnel.read_exact(&mut byte)).ok()?;
            open.push(tunnel);
        }
        self.memory()
    }
}

fn tree(pid: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let below = children.split_whitespace().filter_map(|child| child.parse().ok()).flat_map(tree);
    std::iter::once(pid).chain(below).collect()
}

fn pss(pid: u32) -> Option<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    rollup.lines().find(|line| line.starts_with("Pss:"))?.split_whitespace().nth(1)?.parse().ok()
}

/// Loopback is private, so it is allowed on purpose.
fn ours(port: u16, servers: &Servers) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kasm-void"));
    let hosts = [servers.flood, servers.echo, servers.pages].map(|port| format!("127.0.0.1:{port}")).join(" ");
    command.args(["proxy", "--port", &port.to_string(), "--private", &hosts]);
    command
}

fn tinyproxy(port: u16, folder: &Path) -> Command {
    let file = folder.join("tinyproxy.conf");
    std::fs::write(&file, format!("Port {port}\nListen 127.0.0.1\nTimeout 600\nMaxClients 2000\nLogLevel Critical\n"))
        .unwrap();
    let mut command = Command::new("tinyproxy");
    command.arg("-d").arg("-c").arg(file);
    command
}

fn squid(port: u16, folder: &Path) -> Command {
    let (file, here) = (folder.join("squid.conf"), folder.display());
    let text = format!(
        "http_port 127.0.0.1:{port}\nhttp_access allow all\ncache deny all\naccess_log none\ncache_log /dev/null\n\
         pid_filename none\ncoredump_dir {here}\nshutdown_lifetime 0 seconds\nmax_filedescriptors 8192\n\
         pinger_enable off\nnetdb_filename none\n"
    );
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new("squid");
    command.arg("-N").arg("-f").arg(file);
    command
}

/// The servers that are asked.
struct Servers {
    /// Sends [`DOWNLOAD`] bytes to every connection.
    flood: u16,
    /// Sends back what it gets.
    echo: u16,
    /// Answers every GET, on connections that stay open.
    pages: u16,
}

impl Servers {
    fn start() -> Self {
        let flood = serve(|mut stream| {
            let piece = vec![7; 256 << 10];
            for _ in 0..DOWNLOAD / piece.len() {
                if stream.write_all(&piece).is_err() {
                    return;
                }
            }
        });
        let echo = serve(|mut stream| {
            let mut reads = stream.try_clone().unwrap();
            let _ = std::io::copy(&mut reads, &mut stream); // the client may leave
        });
        Servers { flood, echo, pages: serve(answer) }
    }
}

fn serve(handle: fn(TcpStream)) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            stream.set_nodelay(true).unwrap();
            std::thread::Builder::new().stack_size(64 << 10).spawn(move || handle(stream)).unwrap();
        }
    });
    port
}

/// `/` has [`PARTS`] images of 4 KiB.
fn answer(stream: TcpStream) {
    let mut head = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if head.read_line(&mut line).is_err() || line.is_empty() {
            return;
        }
        let (path, mut rest) = (line.split(' ').nth(1).unwrap_or("/").to_owned(), String::new());
        while head.read_line(&mut rest).is_ok_and(|read| read > 2) {}
        let is_page = path.rsplit('/').next().is_some_and(|last| last.starts_with("page"));
        let (kind, body) = match is_page {
            true => ("text/html", (0..PARTS).map(|part| format!("<img src=/part/{part}>")).collect::<String>()),
            false => ("image/png", "x".repeat(4096)),
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nCache-Control: no-store\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        if stream.write_all(format!("{head}{body}").as_bytes()).is_err() {
            return;
        }
    }
}

/// MB/s of one download through one tunnel.
fn throughput(way: &Way, flood: u16) -> f64 {
    let mut stream = way.connect(flood);
    let (mut piece, mut left) = (vec![0; 256 << 10], DOWNLOAD);
    let began = Instant::now();
    while left > 0 {
        let read = stream.read(&mut piece).unwrap();
        assert!(read > 0, "{}: {left} bytes are missing", way.name);
        left -= read;
    }
    DOWNLOAD as f64 / 1e6 / began.elapsed().as_secs_f64()
}

/// Milliseconds to open a tunnel and get one byte back.
fn openings(way: &Way, echo: u16) -> Vec<f64> {
    let one = |_| {
        let began = Instant::now();
        let (mut stream, mut byte) = (way.connect(echo), [0]);
        stream.write_all(b"x").and_then(|()| stream.read_exact(&mut byte)).unwrap();
        ms(began.elapsed())
    };
    (0..LATENCIES).map(one).collect()
}

/// Milliseconds of a GET on a connection that stays open, if the proxy lets it.
fn gettings(way: &Way, pages: u16) -> Vec<f64> {
    let connect = || {
        let stream = TcpStream::connect(("127.0.0.1", way.port.unwrap_or(pages))).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    };
    let url = if way.port.is_some() { format!("http://127.0.0.1:{pages}/x") } else { "/x".into() };
    let request = format!("GET {url} HTTP/1.1\r\nHost: 127.0.0.1:{pages}\r\n\r\n");
    let mut stream = connect();
    let one = |_| {
        let began = Instant::now();
        if get(&mut stream, &request).is_err() {
            stream = connect(); // it was closed after the answer before
            get(&mut stream, &request).unwrap();
        }
        ms(began.elapsed())
    };
    (0..LATENCIES).map(one).collect()
}

fn get(stream: &mut TcpStream, request: &str) -> std::io::Result<()> {
    stream.write_all(request.as_bytes())?;
    read_head(stream)?;
    stream.read_exact(&mut [0; 4096])
}

fn head(stream: &mut TcpStream) -> String {
    String::from_utf8(read_head(stream).unwrap()).unwrap()
}

fn read_head(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let (mut bytes, mut byte) = (Vec::new(), [0]);
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        bytes.push(byte[0]);
    }
    Ok(bytes)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits until somebody listens there.
fn listens(port: u16) -> bool {
    let end = Instant::now() + PATIENCE;
    while TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).is_err() {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// A headless browser with its own profile.
struct Chromium {
    port: u16,
    loads: usize,
    _process: Running,
    _profile: tempfile::TempDir,
}

impl Chromium {
    fn start(proxy: Option<u16>) -> Option<Self> {
        let (port, profile) = (free_port(), tempfile::tempdir().unwrap());
        let mut command = Command::new("chromium");
        command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "about:blank"]);
        command.arg(format!("--remote-debugging-port={port}")).env("HOME", profile.path());
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        if let Some(proxy) = proxy {
            command.arg(format!("--proxy-server=http://127.0.0.1:{proxy}")).arg("--proxy-bypass-list=<-loopback>");
        }
        let started = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = started.map(Running).inspect_err(|error| println!("chromium: {error}")).ok()?;
        assert!(listens(port), "chromium does not start");
        Some(Chromium { port, loads: 0, _process: process, _profile: profile })
    }

    /// Milliseconds from the navigation to the load event, all parts included.
    fn load(&mut self, pages: u16) -> f64 {
        self.loads += 1;
        let (port, url) = (self.port, format!("http://127.0.0.1:{pages}/page{}", self.loads));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut browser = Browser::connect(port).await.unwrap();
            let tab = browser.tabs().await.unwrap().remove(0);
            let session = browser.attach(&tab.id).await.unwrap();
            browser.call(Some(&session), "Page.enable", json!({})).await.unwrap();
            let began = Instant::now();
            browser.send(Some(&session), "Page.navigate", json!({ "url": url })).await.unwrap();
            loop {
                if let Incoming::Event(event) = browser.next().await.unwrap()
                    && event.method == "Page.loadEventFired"
                {
                    return ms(began.elapsed());
                }
            }
        })
    }
}
