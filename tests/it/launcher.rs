//! The launcher with a real Chromium and our own pages: every row of its table of verdicts. The launcher runs inside the
//! test, because only there may it open pages of this machine.

mod internet;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kasm_void::cdp::{self, Browser, Incoming};
use kasm_void::http::bind;
use kasm_void::launcher::http::Service;
use kasm_void::launcher::navigate::Navigator;
use kasm_void::launcher::token::Token;
use kasm_void::launcher::verdict::{Also, Outcome, Verdict};
use kasm_void::model::url::{Policy, Reason};
use kasm_void::model::visit::{Tab, Waits};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::desktop::{self, BROWSER, alone, cdp_port, on_display, window};
use crate::harness::{DEADLINE, send, until, until_ok};

/// A server of pages by path. It records which paths were requested.
#[derive(Clone)]
struct Pages {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

/// A server's whole answer; the connection is closed after it. `When` waits until the test provides the text.
#[derive(Clone)]
enum Answer {
    Says(String),
    When(Arc<Mutex<Option<String>>>),
}

fn page(title: &str, body: &str) -> Answer {
    says("200 OK", "Content-Type: text/html", &format!("<!doctype html><title>{title}</title>{body}"))
}

fn redirect(to: &str) -> Answer {
    says("302 Found", &format!("Location: {to}"), "")
}

fn says(status: &str, header: &str, body: &str) -> Answer {
    Answer::Says(format!(
        "HTTP/1.1 {status}\r\n{header}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    ))
}

/// The text of an answer, for a server that sends it later.
fn text(answer: Answer) -> String {
    match answer {
        Answer::Says(text) => text,
        Answer::When(_) => unreachable!("it is told later already"),
    }
}

/// Script that registers a service worker and reports when it controls the whole site.
const REGISTER: &str = "<script>navigator.serviceWorker.register('/worker.js'); \
    navigator.serviceWorker.ready.then(() => new Image().src = '/worker-ready')</script>";

impl Pages {
    fn serving(pages: &[(&str, Answer)]) -> Self {
        Self::at("127.0.0.1:0", pages).expect("a free port")
    }

    fn at(address: &str, pages: &[(&str, Answer)]) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let served = Pages { port: listener.local_addr()?.port(), asked: Arc::default() };
        let pages: BTreeMap<String, Answer> = pages.iter().map(|(path, page)| ((*path).into(), page.clone())).collect();
        let (pages, asked) = (Arc::new(pages), served.asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (pages, asked) = (pages.clone(), asked.clone());
                std::thread::spawn(move || answer(stream, &pages, &asked));
            }
        });
        Ok(served)
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("nobody panicked").clone()
    }

    fn wait_asked(&self, path: &str) {
        until(&format!("{path} is asked for"), || self.asked().iter().any(|asked| asked == path).then_some(()));
    }
}

/// Handles one request per connection.
fn answer(mut stream: TcpStream, pages: &BTreeMap<String, Answer>, asked: &Mutex<Vec<String>>) {
    let mut head = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut line = String::new();
    if head.read_line(&mut line).is_err() || line.is_empty() {
        return; // a speculative connection of the browser
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    while head.read_line(&mut line).is_ok_and(|read| read > 2) {}
    if path != "/favicon.ico" {
        asked.lock().expect("nobody panicked").push(path.clone());
    }
    let text = match pages.get(&path) {
        Some(Answer::Says(text)) => text.clone(),
        Some(Answer::When(told)) => match told_or_gone(&stream, told) {
            Some(text) => text,
            None => return asked.lock().expect("nobody panicked").push(format!("gone {path}")),
        },
        None => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into(),
    };
    let _ = stream.write_all(text.as_bytes()); // the browser may have disconnected
    asked.lock().expect("nobody panicked").push(format!("answered {path}"));
}

/// Waits for the text that the test provides; `None` if the browser disconnects first.
fn told_or_gone(stream: &TcpStream, told: &Mutex<Option<String>>) -> Option<String> {
    stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    until("the test lets the server answer", || match told.lock().ok()?.clone() {
        Some(text) => Some(Some(text)),
        None if stream.peek(&mut [0]).is_ok_and(|read| read == 0) => Some(None),
        None => None,
    })
}

/// A headless Chromium with its own profile.
struct Chromium {
    port: u16,
    profile: tempfile::TempDir,
    process: Child,
}

impl Chromium {
    fn start(start_url: &str) -> Self {
        Self::start_with(&[], start_url)
    }

    fn start_with(flags: &[&str], start_url: &str) -> Self {
        let profile = tempfile::tempdir().expect("a profile");
        let port = free_port();
        let process = Self::spawn(port, profile.path().into(), flags, start_url);
        let chromium = Chromium { port, profile, process };
        chromium.wait_ready();
        chromium
    }

    fn spawn(port: u16, profile: PathBuf, flags: &[&str], start_url: &str) -> Child {
        let mut command = Command::new("chromium");
        command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]);
        command.args(flags).arg(format!("--user-data-dir={}", profile.display())).env("HOME", &profile);
        command.args([&format!("--remote-debugging-port={port}"), "--remote-debugging-address=127.0.0.1", start_url]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("chromium")
    }

    fn wait_ready(&self) {
        until("the browser listens", || TcpStream::connect(("127.0.0.1", self.port)).ok().map(drop));
    }

    /// Starts another browser on the same port, as after a crash.
    fn restart(&mut self, start_url: &str) {
        let _ = self.process.kill();
        self.process.wait().expect("a reaped browser");
        until("its port is free", || TcpListener::bind(("127.0.0.1", self.port)).ok().map(drop));
        self.process = Self::spawn(self.port, self.profile.path().into(), &[], start_url);
        self.wait_ready();
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        send(self.process.id() as i32, Signal::CONT);
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// Longer than the product's waits: on a busy machine, a healthy tab may answer later than the product waits, and a page
/// may do harm later than the product watches.
const WAITS: Waits = Waits { waking: Duration::from_secs(5), watched: DEADLINE };

/// A launcher in front of a browser, with pages to open.
struct Stage {
    handle: Handle,
    navigator: Arc<Navigator>,
    browser: u16,
    /// The longest wait for a verdict.
    patience: Duration,
}

impl Stage {
    fn new(browser: u16, allowed: &[u16]) -> Self {
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            tell.send(runtime.handle().clone()).expect("the test waits");
            runtime.block_on(std::future::pending::<()>())
        });
        let policy = allowed.iter().fold(Policy::default(), |policy, port| policy.also_loopback(*port));
        let navigator = Navigator::with_waits(browser, policy, WAITS);
        Stage { handle: told.recv().expect("a runtime"), navigator, browser, patience: Duration::from_secs(20) }
    }

    fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        let answer = self.begin(future);
        answer.recv_timeout(DEADLINE).expect("an answer in time")
    }

    fn begin<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> mpsc::Receiver<T> {
        let (tell, told) = mpsc::channel();
        self.handle.spawn(async move { tell.send(future.await) });
        told
    }

    fn begin_open(&self, url: &str) -> mpsc::Receiver<Verdict> {
        let (navigator, url, patience) = (self.navigator.clone(), url.to_owned(), self.patience);
        self.begin(async move {
            match navigator.judge(&url).await {
                Ok(target) => navigator.open(target, tokio::time::Instant::now() + patience).await,
                Err(refused) => Outcome::Refused(refused).into(),
            }
        })
    }

    /// Starts the whole launcher in front of this browser. Returns its port.
    fn serve(&self, token: &'static str) -> u16 {
        let (navigator, port) = (self.navigator.clone(), free_port());
        let token = Token::new(move |name| (name == "URL_LAUNCHER_TOKEN").then(|| token.into()));
        self.run(async move {
            let listener = bind(([127, 0, 0, 1], port).into()).expect("a free port");
            std::mem::forget(Service::new(navigator, token).serve(listener)); // serve until the test ends
        });
        port
    }

    /// Opens a page in a healthy browser. Retries, because on a busy machine the browser may be too slow for the launcher.
    fn open(&self, url: &str) -> Verdict {
        until_ok(&format!("the browser answers, and {url} gets a verdict"), || {
            let verdict = self.open_once(url);
            if verdict.outcome == Outcome::Browser(cdp::Fault::Mute) {
                Err(format!("{verdict:?}"))
            } else {
                Ok(verdict)
            }
        })
    }

    fn open_once(&self, url: &str) -> Verdict {
        self.begin_open(url).recv_timeout(DEADLINE).expect("a verdict in time")
    }

    /// Opens a page that must be shown, with no other effect.
    fn shows(&self, url: &str) {
        let verdict = self.open(url);
        assert!(
            matches!(verdict.outcome, Outcome::Committed { .. }) && verdict.also.is_empty(),
            "{url}: {verdict:?} {:?}",
            self.tabs()
        );
    }

    /// Opens another tab in front of all others.
    fn new_tab(&self, url: &str) {
        let (port, url) = (self.browser, url.to_owned());
        self.run(async move {
            let mut browser = connected(port).await;
            browser.call(None, "Target.createTarget", json!({ "url": url })).await.expect("a tab");
        });
    }

    fn tabs(&self) -> Vec<Tab> {
        until_ok("the browser lists its tabs", || {
            let port = self.browser;
            let tabs = self.run(async move { Browser::connect(port).await?.tabs().await });
            tabs.map_err(|fault| fault.to_string())
        })
    }

    fn wait_tab(&self, url: &str) -> Tab {
        until_ok(&format!("a tab with {url}; there are"), || {
            let tabs = self.tabs();
            tabs.iter().find(|tab| tab.url == url).cloned().ok_or_else(|| format!("{tabs:?}"))
        })
    }

    /// Crashes a tab's renderer and waits until the browser notices.
    fn crash(&self, tab: &str) {
        let (port, tab) = (self.browser, tab.to_owned());
        self.run(async move {
            let (mut browser, session) = attached(port, &tab).await;
            for method in ["Inspector.enable", "Page.crash"] {
                browser.send(Some(&session), method, json!({})).await.expect("a command");
            }
            let crashed =
                |said: &Incoming| matches!(said, Incoming::Event(event) if event.method == "Inspector.targetCrashed");
            while !crashed(&browser.next().await.expect("what the browser says")) {}
        });
    }

    /// Sends commands to a tab, as a person with developer tools would.
    fn tell(&self, tab: &str, commands: &[(&'static str, Value)]) {
        let (port, tab, commands) = (self.browser, tab.to_owned(), commands.to_vec());
        self.run(async move {
            let (mut browser, session) = attached(port, &tab).await;
            for (method, params) in commands {
                browser.send(Some(&session), method, params).await.expect("a command");
            }
            let _ = browser
                .call(
                    Some(&session),
                    "Target.setAutoAttach",
                    json!({"autoAttach": false, "waitForDebuggerOnStart": false}),
                )
                .await;
        });
    }
}

/// Connects to a browser that is healthy but may be slow.
async fn connected(port: u16) -> Browser {
    loop {
        match Browser::connect(port).await {
            Err(cdp::Fault::Mute) => {} // the caller has a deadline
            answer => return answer.expect("a browser"),
        }
    }
}

/// Opens a session with a tab, as developer tools do.
async fn attached(port: u16, tab: &str) -> (Browser, String) {
    let mut browser = connected(port).await;
    let attach = json!({ "targetId": tab, "flatten": true });
    let session = browser.call(None, "Target.attachToTarget", attach).await.expect("a session");
    let session = session["sessionId"].as_str().expect("its name").to_owned();
    (browser, session)
}

fn reason(verdict: &Verdict) -> Option<Reason> {
    match &verdict.outcome {
        Outcome::Refused(refused) => Some(refused.reason),
        _ => None,
    }
}

#[test]
fn a_page_is_shown_or_the_caller_learns_why_not() {
    alone("launcher::a_page_is_shown_or_the_caller_learns_why_not", || {
        let pages = Pages::serving(&[
            ("/start", page("start", "")),
            ("/", page("first", "")),
            ("/hop", redirect("/")),
            ("/round", redirect("/round")),
            ("/empty", says("204 No Content", "X: y", "")),
            ("/sign-in", says("401 Unauthorized", "WWW-Authenticate: Basic realm=x", "")),
            ("/file", says("200 OK", "Content-Type: application/zip\r\nContent-Disposition: attachment", "zip")),
            ("/frame", says("200 OK", "Content-Type: text/html\r\nX-Frame-Options: DENY", "framed")),
        ]);
        let nobody = free_port();
        let chromium = Chromium::start(&pages.url("/start"));
        let stage = Stage::new(chromium.port, &[pages.port, nobody]);
        let (first, frame) = (pages.url("/"), stage.wait_tab(&pages.url("/start")).id);

        stage.shows(&first);
        assert_eq!(stage.open(&format!("{first}#there")).outcome, Outcome::SameDocument { frame: frame.clone() });
        stage.shows(&pages.url("/hop"));
        stage.wait_tab(&first);
        assert_eq!(stage.open(&pages.url("/file")).outcome, Outcome::Download { frame });
        assert_eq!(stage.open(&pages.url("/empty")).outcome, Outcome::Aborted);
        stage.wait_tab(&first);
        assert_eq!(stage.open(&pages.url("/sign-in")).outcome.word(), "sign_in");
        stage.shows(&first);
        let failed = |text: &str| Outcome::Failed(text.into());
        assert_eq!(stage.open(&pages.url("/round")).outcome, failed("net::ERR_TOO_MANY_REDIRECTS"));
        assert_eq!(stage.open(&format!("http://127.0.0.1:{nobody}/")).outcome, failed("net::ERR_CONNECTION_REFUSED"));
        assert_eq!(reason(&stage.open("file:///etc/passwd")), Some(Reason::Scheme));
        let unresolved = stage.open("http://example.com/").outcome;
        assert_eq!((unresolved.status().as_u16(), unresolved.word()), (502, "failed"), "{unresolved:?}");
        assert_eq!(stage.tabs().len(), 1, "the same tab for all of them");
    });
}

#[test]
fn no_hop_leaves_the_machine_unjudged() {
    alone("launcher::no_hop_leaves_the_machine_unjudged", || {
        let forbidden = Pages::serving(&[("/secret", page("secret", ""))]);
        // Without our own network namespace, nothing listens there, and only the verdicts are checked.
        let metadata = Pages::at("169.254.169.254:8080", &[("/", page("metadata", ""))]).ok();
        let secret = forbidden.url("/secret");
        let late = Arc::new(Mutex::new(None));
        let worker = format!(
            "addEventListener('fetch', event => event.request.url.endsWith('/by-worker') \
             && event.respondWith(Response.redirect('{secret}?worker')))"
        );
        let pages = Pages::serving(&[
            ("/", page("harmless", "")),
            ("/loopback", redirect(&secret)),
            ("/short", redirect(&format!("http://127.1:{}/secret", forbidden.port))),
            ("/name", redirect(&format!("http://localhost:{}/secret", forbidden.port))),
            ("/metadata", redirect("http://169.254.169.254:8080/")),
            ("/twice", redirect("/metadata")),
            ("/file", redirect("file:///etc/passwd")),
            (
                "/framed",
                page(
                    "framed",
                    &format!("<iframe src='{secret}?framed'></iframe><script>new Image().src='/framed-shown'</script>"),
                ),
            ),
            ("/script", page("script", &format!("<script>location = '{secret}?script'</script>"))),
            ("/meta", page("meta", &format!("<meta http-equiv=refresh content='0;url={secret}?meta'>"))),
            (
                "/apart",
                page(
                    "apart",
                    "<body><script>const frame = document.createElement('iframe'); \
                     frame.src = `http://localhost:${location.port}/inside`; document.body.append(frame)</script>",
                ),
            ),
            (
                "/inside",
                page(
                    "inside",
                    &format!(
                        "<script>location = '{secret}?inside'; setTimeout(() => new Image().src = '/inside-stays', 500)</script>"
                    ),
                ),
            ),
            // A frame name that is not valid Unicode; the browser reports it anyway.
            (
                "/half",
                page(
                    "half",
                    &format!(
                        "<body><script>const frame = document.createElement('iframe'); frame.name = '\\ud800'; \
                         frame.src = '/'; frame.onload = () => {{ location = '{secret}?half'; \
                         setTimeout(() => new Image().src = '/stays', 500) }}; document.body.append(frame)</script>"
                    ),
                ),
            ),
            ("/late", Answer::When(late.clone())),
            ("/worker", page("worker", REGISTER)),
            ("/worker.js", says("200 OK", "Content-Type: text/javascript", &worker)),
        ]);
        let chromium = Chromium::start("about:blank");
        let mut stage = Stage::new(chromium.port, &[pages.port]);
        stage.shows(&pages.url("/"));

        for (path, rule) in [
            ("/loopback", Reason::Port),
            ("/short", Reason::Port),
            ("/name", Reason::Port),
            ("/metadata", Reason::PrivateAddress),
            ("/twice", Reason::PrivateAddress),
        ] {
            let verdict = stage.open(&pages.url(path));
            assert_eq!(reason(&verdict), Some(rule), "{path}: {verdict:?}");
            stage.wait_tab(&pages.url("/"));
        }
        let file = stage.open(&pages.url("/file")).outcome;
        assert!(matches!(&file, Outcome::Failed(text) if text == "net::ERR_UNSAFE_REDIRECT"), "{file:?}");

        stage.shows(&pages.url("/framed"));
        pages.wait_asked("/framed-shown");
        stage.shows(&pages.url("/apart"));
        pages.wait_asked("/inside-stays");
        for path in ["/script", "/meta", "/half"] {
            stage.shows(&pages.url(path));
            stage.wait_tab(&pages.url(path));
        }

        pages.wait_asked("/stays");

        stage.shows(&pages.url("/worker"));
        pages.wait_asked("/worker-ready");
        let verdict = stage.open(&pages.url("/by-worker"));
        assert_eq!(reason(&verdict), Some(Reason::Port), "{verdict:?}");

        stage.shows(&pages.url("/"));
        let tab = stage.wait_tab(&pages.url("/")).id;
        stage.patience = Duration::from_secs(2);
        assert_eq!(stage.open(&pages.url("/late")).outcome, Outcome::Pending);
        *late.lock().expect("nobody panicked") = Some(text(redirect(&secret)));
        pages.wait_asked("answered /late");
        // The page may still navigate away, which would lose a command; so repeat it.
        let still_here = json!({ "expression": "new Image().src = '/still-here?' + Math.random()" });
        until("the page from before is there and alive", || {
            stage.tell(&tab, &[("Runtime.evaluate", still_here.clone())]);
            pages.asked().iter().any(|asked| asked.starts_with("/still-here")).then_some(())
        });

        assert_eq!(forbidden.asked(), [""; 0]);
        assert_eq!(metadata.map(|metadata| metadata.asked()).unwrap_or_default(), [""; 0]);
    });
}

#[test]
fn no_page_ends_the_guard_by_what_it_sends() {
    alone("launcher::no_page_ends_the_guard_by_what_it_sends", || {
        let forbidden = Pages::serving(&[("/secret", page("secret", ""))]);
        let secret = forbidden.url("/secret");
        let leave = |path: &str| {
            format!(
                "setTimeout(() => {{ location = '{secret}'; setTimeout(() => new Image().src = '{path}', 500) }}, 800)"
            )
        };
        let named = format!(
            "<body><script>const frame = document.createElement('iframe'); frame.name = 'x'.repeat(20 << 20); \
             frame.src = '/'; document.body.append(frame); {}</script>",
            leave("/named-stays")
        );
        let posted = format!(
            "<body><script>for (let i = 0; i < 3; i++) {{ const frame = document.createElement('iframe'); frame.name = 'f' + i; \
             document.body.append(frame); const form = document.createElement('form'); form.method = 'post'; \
             form.action = '/'; form.target = 'f' + i; const text = document.createElement('input'); text.type = 'hidden'; text.name = 'x'; \
             text.value = 'x'.repeat(20 << 20); form.append(text); document.body.append(form); form.submit() }} {}</script>",
            leave("/posted-stays")
        );
        let pages = Pages::serving(&[
            ("/", page("harmless", "")),
            ("/named", page("named", &named)),
            ("/posted", page("posted", &posted)),
        ]);
        let chromium = Chromium::start("about:blank");
        let stage = Stage::new(chromium.port, &[pages.port]);

        for path in ["/named", "/posted"] {
            stage.shows(&pages.url(path));
            pages.wait_asked(&format!("{path}-stays"));
            // The browser may still be busy with the page's messages; then its tab is replaced.
            let verdict = stage.open(&pages.url("/"));
            assert!(matches!(verdict.outcome, Outcome::Committed { .. }), "{path}: {verdict:?}");
        }
        assert_eq!(forbidden.asked(), [""; 0]);
    });
}

#[test]
fn no_page_takes_the_browser_from_the_next_caller() {
    alone("launcher::no_page_takes_the_browser_from_the_next_caller", || {
        let grown = "<body><script>for (let i = 0; i < 5; i++) { const frame = document.createElement('iframe'); \
             frame.src = '/'; frame.onload = () => { frame.contentWindow.history.replaceState(0, '', '/?' + 'x'.repeat(2e6)); \
             new Image().src = '/grown-' + i }; document.body.append(frame) }</script>";
        let pages = Pages::serving(&[("/", page("harmless", "")), ("/grown", page("grown", grown))]);
        let chromium = Chromium::start("about:blank");
        let stage = Stage::new(chromium.port, &[pages.port]);
        stage.shows(&pages.url("/grown"));
        (0..5).for_each(|frame| pages.wait_asked(&format!("/grown-{frame}")));
        stage.new_tab(&pages.url("/"));
        // A new launcher knows no tab yet and has to find one.
        let verdict = Stage::new(chromium.port, &[pages.port]).open_once(&pages.url("/"));
        assert!(matches!(verdict.outcome, Outcome::Committed { .. }), "{verdict:?}");
    });
}

/// A relay between the launcher and the browser that can be cut.
#[derive(Clone)]
struct Relay {
    port: u16,
    /// Whether bytes are passed on. If not, connections are accepted and stay silent.
    open: Arc<Mutex<bool>>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    fn to(browser: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let relay = Relay { port, open: Arc::new(Mutex::new(true)), streams: Arc::default() };
        let relayed = relay.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                relayed.streams.lock().expect("nobody panicked").push(stream.try_clone().expect("a second handle"));
                if *relayed.open.lock().expect("nobody panicked") {
                    let browser = TcpStream::connect(("127.0.0.1", browser)).expect("the browser");
                    for (mut from, mut to) in [
                        (stream.try_clone().expect("a handle"), browser.try_clone().expect("a handle")),
                        (browser, stream),
                    ] {
                        std::thread::spawn(move || {
                            let _ = std::io::copy(&mut from, &mut to);
                            let _ = to.shutdown(std::net::Shutdown::Both);
                        });
                    }
                }
            }
        });
        relay
    }

    /// Closes all connections. New ones stay silent until the relay is opened.
    fn cut(&self) {
        *self.open.lock().expect("nobody panicked") = false;
        for stream in self.streams.lock().expect("nobody panicked").drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    fn open(&self) {
        *self.open.lock().expect("nobody panicked") = true;
    }
}

#[test]
fn a_lost_guard_clears_the_screen_before_anything_else_is_opened() {
    alone("launcher::a_lost_guard_clears_the_screen_before_anything_else_is_opened", || {
        let busy = "<script>setTimeout(() => { new Image().src = '/is-busy'; setTimeout(() => { for (;;); }, 300) }, 0)</script>";
        let pages = Pages::serving(&[("/", page("harmless", "")), ("/busy", page("busy", busy))]);
        let chromium = Chromium::start("about:blank");
        let relay = Relay::to(chromium.port);
        let mut stage = Stage::new(relay.port, &[pages.port]);
        let direct = Stage::new(chromium.port, &[]);
        stage.shows(&pages.url("/"));
        stage.patience = Duration::from_secs(1);
        relay.cut();
        let meanwhile = stage.open_once(&pages.url("/"));
        assert_eq!(meanwhile.outcome, Outcome::Browser(cdp::Fault::Unguarded), "the page has nobody's guard");
        relay.open();
        direct.wait_tab("about:blank");

        // A tab whose page computes for ever is closed instead.
        stage.patience = Duration::from_secs(20);
        stage.shows(&pages.url("/busy"));
        pages.wait_asked("/is-busy");
        relay.cut();
        relay.open();
        until("the busy page is gone", || direct.tabs().iter().all(|tab| tab.url != pages.url("/busy")).then_some(()));
        let verdict = stage.open(&pages.url("/"));
        assert!(matches!(verdict.outcome, Outcome::Committed { .. }), "{verdict:?}");
    });
}

#[test]
fn dialogs_hold_nobody_up() {
    alone("launcher::dialogs_hold_nobody_up", || {
        let pages = Pages::serving(&[
            ("/", page("harmless", "")),
            ("/alert", page("alert", "<script>alert(1); confirm(2) || (new Image().src = '/after-alert')</script>")),
            (
                "/stay",
                page(
                    "stay",
                    "<body onclick='new Image().src = `/clicked`' style='height:100vh'><script>addEventListener('beforeunload', event => event.preventDefault())</script>",
                ),
            ),
            ("/ask", page("ask", "<script>setTimeout(() => { new Image().src = '/asking'; alert(1) }, 0)</script>")),
        ]);
        let chromium = Chromium::start("about:blank");
        let stage = Stage::new(chromium.port, &[pages.port]);

        let verdict = stage.open(&pages.url("/alert"));
        assert!(matches!(verdict.outcome, Outcome::Committed { .. }), "{verdict:?}");
        pages.wait_asked("/after-alert");

        stage.shows(&pages.url("/stay"));
        let tab = stage.wait_tab(&pages.url("/stay")).id;
        let mouse = |kind: &str| json!({ "type": kind, "x": 50, "y": 50, "button": "left", "clickCount": 1 });
        stage.tell(
            &tab,
            &[
                ("Input.dispatchMouseEvent", mouse("mousePressed")),
                ("Input.dispatchMouseEvent", mouse("mouseReleased")),
            ],
        );
        pages.wait_asked("/clicked");
        let verdict = stage.open(&pages.url("/"));
        assert!(matches!(verdict.outcome, Outcome::Committed { .. }), "{verdict:?}");
        assert_eq!(verdict.also, [Also::DialogAccepted]);
        stage.wait_tab(&pages.url("/"));

        // A dialog that was open before this launcher started.
        drop(stage);
        let stage = Stage::new(chromium.port, &[pages.port]);
        let tab = stage.wait_tab(&pages.url("/")).id;
        stage.tell(&tab, &[("Page.navigate", json!({ "url": pages.url("/ask") }))]);
        pages.wait_asked("/asking");
        let verdict = stage.open(&pages.url("/"));
        assert!(matches!(verdict.outcome, Outcome::Committed { .. }), "{verdict:?}");
        stage.wait_tab(&pages.url("/"));
    });
}

#[test]
fn a_tab_that_is_no_use_is_made_one() {
    alone("launcher::a_tab_that_is_no_use_is_made_one", || {
        let pages = Pages::serving(&[
            ("/", page("harmless", "")),
            (
                "/busy",
                page(
                    "busy",
                    "<script>setTimeout(() => { const shown = new XMLHttpRequest(); shown.open('GET', '/is-busy', false); shown.send(); for (;;); }, 0)</script>",
                ),
            ),
            ("/never", Answer::When(Arc::default())),
        ]);
        let chromium = Chromium::start("about:blank");
        let stage = Stage::new(chromium.port, &[pages.port]);
        let first = pages.url("/");
        stage.shows(&first);

        let tab = stage.wait_tab(&first).id;
        stage.crash(&tab);
        let verdict = stage.open(&first);
        assert_eq!(
            verdict,
            Verdict { outcome: Outcome::Committed { frame: tab }, also: vec![Also::CrashedTabRecovered] }
        );

        stage.shows(&pages.url("/busy"));
        pages.wait_asked("/is-busy");
        let verdict = stage.open(&first);
        assert!(matches!(verdict.outcome, Outcome::Committed { .. }), "{verdict:?}");
        assert_eq!(verdict.also, [Also::HungTabReplaced]);
        until("the hung tab is gone", || (stage.tabs().len() == 1).then_some(()));

        let loading = stage.begin_open(&pages.url("/never"));
        pages.wait_asked("/never");
        let tab = stage.tabs().remove(0).id;
        let port = chromium.port;
        stage.new_tab("chrome://version/");
        stage.run(async move {
            let mut browser = connected(port).await;
            browser.call(None, "Target.closeTarget", json!({ "targetId": tab })).await.expect("it is closed");
        });
        let verdict = loading.recv_timeout(DEADLINE).expect("a verdict in time");
        assert_eq!(verdict.outcome.word(), "browser_fault", "{verdict:?}");

        let verdict = stage.open(&first);
        assert_eq!(verdict.also, [Also::NewTab], "{verdict:?}");
    });
}

#[test]
fn a_browser_that_is_not_there_or_mute_is_told_in_time() {
    alone("launcher::a_browser_that_is_not_there_or_mute_is_told_in_time", || {
        let pages = Pages::serving(&[("/", page("harmless", ""))]);
        let absent = Stage::new(free_port(), &[pages.port]).open(&pages.url("/"));
        assert_eq!(absent.outcome, Outcome::Browser(cdp::Fault::Absent));

        let mut chromium = Chromium::start("about:blank");
        let stage = Stage::new(chromium.port, &[pages.port]);
        stage.shows(&pages.url("/"));

        let pid = chromium.process.id() as i32;
        send(pid, Signal::STOP);
        let began = Instant::now();
        assert_eq!(stage.open_once(&pages.url("/")).outcome, Outcome::Browser(cdp::Fault::Mute));
        assert!(began.elapsed() < stage.patience, "{:?}", began.elapsed());
        send(pid, Signal::CONT);
        stage.shows(&pages.url("/"));

        chromium.restart("about:blank");
        stage.shows(&pages.url("/"));
    });
}

#[test]
fn a_page_that_is_late_still_comes_unless_the_launcher_ends() {
    alone("launcher::a_page_that_is_late_still_comes_unless_the_launcher_ends", || {
        let late = Arc::new(Mutex::new(None));
        let pages = Pages::serving(&[
            ("/", page("harmless", "")),
            ("/late", Answer::When(late.clone())),
            ("/never", Answer::When(Arc::default())),
        ]);
        let chromium = Chromium::start("about:blank");
        let mut stage = Stage::new(chromium.port, &[pages.port]);
        stage.patience = Duration::from_secs(2);
        assert_eq!(stage.open(&pages.url("/late")).outcome, Outcome::Pending);
        pages.wait_asked("/late");
        *late.lock().expect("nobody panicked") = Some(text(page("late", "<script>new Image().src = '/came'</script>")));
        pages.wait_asked("/came");

        assert_eq!(stage.open(&pages.url("/never")).outcome, Outcome::Pending);
        pages.wait_asked("/never");
        let navigator = stage.navigator.clone();
        stage.run(async move { navigator.close().await });
        pages.wait_asked("gone /never");
    });
}

#[test]
fn the_newest_page_wins() {
    alone("launcher::the_newest_page_wins", || {
        let late = Arc::new(Mutex::new(None));
        let pages = Pages::serving(&[("/", page("harmless", "")), ("/late", Answer::When(late.clone()))]);
        let chromium = Chromium::start("about:blank");
        let stage = Stage::new(chromium.port, &[pages.port]);
        let older = stage.begin_open(&pages.url("/late"));
        pages.wait_asked("/late");
        stage.shows(&pages.url("/"));
        assert_eq!(older.recv_timeout(DEADLINE).expect("a verdict").outcome, Outcome::Superseded);
        stage.wait_tab(&pages.url("/"));
    });
}

#[test]
fn what_is_opened_is_what_people_see() {
    alone("launcher::what_is_opened_is_what_people_see", || {
        let pages = Pages::serving(&[("/", page("shared page", "")), ("/other", page("other page", ""))]);
        let session = desktop::desktop(&[BROWSER, &["terminal"]].concat()).start();
        session.pid("chromium");
        let stage = Stage::new(cdp_port(), &[pages.port]);
        let launcher = stage.serve("s3cret").to_string();
        let open = |url: &str| {
            let mut open = session.command(crate::harness::binary());
            open.args(["open", "--launcher-port", &launcher, url]).env("URL_LAUNCHER_TOKEN", "s3cret");
            crate::harness::finish(open)
        };

        let opened = open(&pages.url("/"));
        assert_eq!((opened.code, opened.stderr.as_str()), (Some(0), ""));
        assert!(opened.stdout.starts_with(&format!("opened {} (committed", pages.url("/"))), "{opened:?}");
        window(&session, "shared page");

        stage.new_tab(&pages.url("/other"));
        window(&session, "other page");
        assert_eq!(open(&pages.url("/#again")).code, Some(0));
        window(&session, "shared page");
        assert_eq!(open("http://169.254.169.254/").code, Some(1));
        window(&session, "shared page");

        let terminal = window(&session, "xterm");
        on_display(&session, &["wmctrl", "-i", "-a", &terminal]).expect("the terminal is raised");
        wait_active(&session, "xterm");
        assert_eq!(open(&pages.url("/#behind")).code, Some(0));
        wait_active(&session, "chromium");

        // Nobody is left on an empty virtual desktop.
        on_display(&session, &["wmctrl", "-s", "1"]).expect("a request to the window manager");
        assert_eq!(open(&pages.url("/#elsewhere")).code, Some(0));
        wait_active(&session, "chromium");
        let desktops = on_display(&session, &["wmctrl", "-d"]).expect("the virtual desktops");
        assert_eq!(desktops.trim().lines().count(), 1, "{desktops}");

        // A dialog of an earlier page, in a visible window.
        stage.new_tab("data:text/html,<title>asks</title><script>alert(1)</script>");
        assert_eq!(open(&pages.url("/other")).code, Some(0));
        window(&session, "other page");
    });
}

/// Waits until the focused window has this class.
fn wait_active(session: &crate::harness::Session, class: &str) {
    until(&format!("the window in front is {class}"), || {
        let active = on_display(session, &["xprop", "-root", "_NET_ACTIVE_WINDOW"])?;
        let class_of = on_display(session, &["xprop", "-id", active.split_whitespace().last()?, "WM_CLASS"])?;
        class_of.to_lowercase().contains(class).then_some(())
    });
}
