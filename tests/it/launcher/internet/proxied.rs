//! The browser behind the guard proxy, with the shipped flags: whatever a page, a person or a name server tries, no private
//! host receives a packet, and public pages work as before.

mod ways;

use std::collections::{BTreeMap, BTreeSet};
use std::net::UdpSocket;

use kasm_void::model::loading::check::Checker;
use kasm_void::model::loading::source::Source;
use kasm_void::model::loading::surroundings::{FileKind, Surroundings};

use super::*;
use crate::harness::Session;
use crate::proxy::{Proxy, listener_at};
use ways::{Trace, Way};

const MANIFEST: &str = include_str!("../../../../manifests/cloakbrowser.ron");
const VECTORS: &str = include_str!("../../../../src/model/url/vectors.txt");

/// The fixed flags of the shipped browser, for a proxy at this port.
fn shipped_flags(port: u16) -> Vec<String> {
    let env = BTreeMap::from([("PROXY_PORT".to_owned(), port.to_string())]);
    let around = Surroundings {
        env: &env,
        home: Some("/home/me"),
        look: &|_| FileKind::Program,
        read: &|_| Ok(None),
        run_as: &|_, _| Err("nobody".into()),
        uid: 0,
    };
    let source = Source {
        name: "browser".into(),
        file: "browser.ron".into(),
        folder: "/manifests".into(),
        text: Ok(MANIFEST.into()),
    };
    let checked = Checker::default().check(&[source], true, &around);
    let app = checked.apps.get("browser").unwrap_or_else(|| panic!("{:?}", checked.problems));
    let flags = app.program.argv[1..].iter().take_while(|word| *word != "--no-sandbox");
    let flags: Vec<String> = flags.cloned().collect();
    assert!(flags.iter().any(|flag| flag.starts_with("--proxy-server=")), "{flags:?}");
    flags
}

/// Flags of the tests: without the browser's own protection, which would hide whether ours works, and with every feature
/// that a secure page has.
const BARE: [&str; 4] = [
    "--disable-features=LocalNetworkAccessChecks,LocalNetworkAccessChecksWebRTC,HttpsUpgrades,HttpsFirstBalancedModeAutoEnable",
    "--unsafely-treat-insecure-origin-as-secure=http://site.example.com",
    "--disable-popup-blocking",
    "--autoplay-policy=no-user-gesture-required",
];

fn browser_behind(proxy: &Proxy) -> Chromium {
    let flags = shipped_flags(proxy.port);
    let all: Vec<&str> = flags.iter().map(String::as_str).chain(BARE).collect();
    Chromium::start_with(&all, "about:blank")
}

/// Listeners at private addresses and at loopback, for TCP and UDP, that count who comes.
struct Canaries(Arc<Mutex<Vec<String>>>);

impl Canaries {
    fn new() -> Self {
        let canaries = Canaries(Arc::default());
        for host in PRIVATE {
            for port in [80, 443, 3478, 8080, 8443] {
                canaries.watch_tcp(SocketAddr::from((host, port)));
                canaries.watch_udp(SocketAddr::from((host, port)));
            }
        }
        for port in [80, 8080] {
            canaries.watch_tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        }
        canaries
    }

    fn watch_tcp(&self, address: SocketAddr) {
        let listener = TcpListener::bind(address).expect("a private address");
        let seen = self.0.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut line = String::new();
                let _ = BufReader::new(stream).read_line(&mut line); // it may not say anything
                seen.lock().expect("nobody panicked").push(format!("tcp {address} {line}"));
            }
        });
    }

    fn watch_udp(&self, address: SocketAddr) {
        let socket = UdpSocket::bind(address).expect("a private address");
        let seen = self.0.clone();
        std::thread::spawn(move || {
            let mut packet = [0; 2048];
            while socket.recv_from(&mut packet).is_ok() {
                seen.lock().expect("nobody panicked").push(format!("udp {address}"));
            }
        });
    }

    fn seen(&self) -> Vec<String> {
        self.0.lock().expect("nobody panicked").clone()
    }
}

/// The hosts that the proxy has refused.
fn refused(proxy: &Proxy) -> BTreeSet<String> {
    proxy.told("proxy.refused").iter().filter_map(|line| Some(line["host"].as_str()?.to_owned())).collect()
}

/// Closes all tabs but an empty one.
fn close_tabs(stage: &Stage) {
    let old: Vec<String> = stage.tabs().into_iter().map(|tab| tab.id).collect();
    let port = stage.browser;
    stage.run(async move {
        let mut browser = connected(port).await;
        browser.call(None, "Target.createTarget", json!({ "url": "about:blank" })).await.expect("a tab");
        for tab in old {
            let _ = browser.call(None, "Target.closeTarget", json!({ "targetId": tab })).await; // it may be gone
        }
    });
}

fn host_of(number: usize) -> String {
    format!("private{number}.example.com")
}

#[test]
fn no_way_of_a_page_reaches_a_private_host_through_the_proxy() {
    on_an_internet("launcher::internet::proxied::no_way_of_a_page_reaches_a_private_host_through_the_proxy", || {
        serve_names();
        let all: Vec<(usize, Way)> =
            (0..ways::count()).map(|number| (number, ways::ways(&host_of(number)).swap_remove(number))).collect();
        assert!(all.len() > 100, "{} ways", all.len());
        let mut pages: BTreeMap<String, Answer> = BTreeMap::from([("/".to_owned(), page("harmless", ""))]);
        for (_, way) in &all {
            pages.insert(format!("/{}", way.name), way.page.clone());
            pages.extend(way.others.iter().map(|(path, answer)| ((*path).to_owned(), answer.clone())));
        }
        let listed: Vec<(&str, Answer)> = pages.iter().map(|(path, answer)| (path.as_str(), answer.clone())).collect();
        let public = Pages::at("93.184.215.14:80", &listed).expect("a public address");
        let canaries = Canaries::new();
        let proxy = Proxy::with(Session::new());
        let chromium = browser_behind(&proxy);
        let stage = Stage::new(chromium.port, &[]);

        let (front, background): (Vec<_>, Vec<_>) = all.iter().partition(|(_, way)| way.in_front);
        for batch in background.chunks(8).chain(front.chunks(1)) {
            for (_, way) in batch {
                stage.new_tab(&format!("http://site.example.com/{}", way.name));
            }
            until_ok("these ways are tried, and refused", || {
                let (asked, refused) = (public.asked(), refused(&proxy));
                let is_tried = |(number, way): &&&(usize, Way)| {
                    let refused = way.trace == Trace::MayAsk || refused.contains(&host_of(*number));
                    refused && asked.contains(&format!("/{}", way.name))
                };
                let missing: Vec<&str> = batch.iter().filter(|way| !is_tried(way)).map(|(_, way)| way.name).collect();
                if missing.is_empty() { Ok(()) } else { Err(format!("but not {missing:?}")) }
            });
            close_tabs(&stage);
        }
        assert_eq!(canaries.seen(), [""; 0]);
    });
}

#[test]
fn what_people_type_is_judged_in_every_spelling() {
    on_an_internet("launcher::internet::proxied::what_people_type_is_judged_in_every_spelling", || {
        serve_names();
        let public = Pages::at("93.184.215.14:80", &[("/", page("harmless", ""))]).expect("a public address");
        let canaries = Canaries::new();
        let proxy = Proxy::with(Session::new());
        let chromium = browser_behind(&proxy);
        let stage = Stage::new(chromium.port, &[]);
        let more = [
            "http://127.0.0.1:8080/",
            "http://localhost/",
            "http://0/",
            "http://[::1]:8080/",
            "http://10.0.0.1:8080/",
            "http://2852039166/latest/",
            "http://0251.0376.0251.0376/",
            "http://１６９．254。169．254/",
            "http://metadata.google.internal/",
            "http://kubernetes.default/",
            "http://router/",
        ];
        for url in TARGETS.into_iter().chain(more) {
            let shown = typed(&stage, url);
            assert!(shown.contains("This page is not opened here") && shown.contains("Rule:"), "{url}: {shown}");
        }
        // Nobody can be shown a page for https: the browser asks for a tunnel, and shows its own error page.
        for url in ["https://10.0.0.1/", "https://private.example.com/", "https://localhost:8443/"] {
            let shown = typed(&stage, url);
            assert!(!shown.contains("secret"), "{url}: {shown}");
        }
        // The DevTools and the proxy itself.
        for port in [chromium.port, proxy.port] {
            for path in ["json/version", "metrics", "healthz"] {
                let shown = typed(&stage, &format!("http://127.0.0.1:{port}/{path}"));
                assert!(shown.contains("This page is not opened here"), "{port}: {shown}");
            }
        }
        assert!(typed(&stage, "http://site.example.com/").is_empty());
        public.wait_asked("/");
        assert_eq!(canaries.seen(), [""; 0]);
    });
}

/// Opens a URL as a person does, and returns the text that is shown in the end.
fn typed(stage: &Stage, url: &str) -> String {
    let (port, url) = (stage.browser, url.to_owned());
    stage.run(async move {
        let mut browser = connected(port).await;
        let tabs = browser.tabs().await.expect("tabs");
        let session = browser.attach(&tabs[0].id).await.expect("a session");
        let params = json!({ "url": url, "transitionType": "typed" });
        browser.call(Some(&session), "Page.navigate", params).await.expect("an answer");
        let read = json!({ "expression": "document.readyState == 'complete' && document.body ? document.body.innerText : null" });
        loop {
            let answer = browser.call(Some(&session), "Runtime.evaluate", read.clone()).await.unwrap_or_default();
            if let Some(text) = answer["result"]["value"].as_str() {
                return text.to_owned();
            }
        }
    })
}

#[test]
fn a_second_answer_of_a_name_server_is_no_way_out() {
    on_an_internet("launcher::internet::proxied::a_second_answer_of_a_name_server_is_no_way_out", || {
        serve_names();
        let public = Pages::at("93.184.215.14:80", &[("/", page("harmless", ""))]).expect("a public address");
        let canaries = Canaries::new();
        let proxy = Proxy::with(Session::new());
        let chromium = browser_behind(&proxy);
        let stage = Stage::new(chromium.port, &[]);
        let mut asked = 0;
        for flips in 0..6 {
            let url = format!("http://flip{flips}.example.com/");
            let shown = typed(&stage, &url);
            match flips {
                0 => assert!(shown.contains("resolves to 10.0.0.1"), "{shown}"),
                // The name is looked up once: the address that was judged is the one that is connected to.
                _ => asked += 1,
            }
        }
        until("every page was asked for at the public address", || {
            (public.asked().iter().filter(|path| *path == "/").count() >= asked).then_some(())
        });
        assert!(typed(&stage, "http://mixed.example.com/").contains("resolves to 10.0.0.1"));
        assert_eq!(canaries.seen(), [""; 0]);
    });
}

#[test]
fn without_the_proxy_the_browser_is_offline_not_unguarded() {
    on_an_internet("launcher::internet::proxied::without_the_proxy_the_browser_is_offline_not_unguarded", || {
        serve_names();
        let public = Pages::at("93.184.215.14:80", &[("/", page("harmless", ""))]).expect("a public address");
        let canaries = Canaries::new();
        let flags = shipped_flags(free_port());
        let all: Vec<&str> = flags.iter().map(String::as_str).chain(BARE).collect();
        let chromium = Chromium::start_with(&all, "about:blank");
        let stage = Stage::new(chromium.port, &[]);
        for url in
            ["http://site.example.com/", "http://10.0.0.1/", "http://127.0.0.1:8080/", "http://private.example.com/"]
        {
            assert!(typed(&stage, url).contains("ERR_PROXY_CONNECTION_FAILED"), "{url}");
        }
        assert_eq!(public.asked(), [""; 0]);
        assert_eq!(canaries.seen(), [""; 0]);
    });
}

#[test]
fn public_pages_and_the_launcher_work_behind_the_proxy() {
    on_an_internet("launcher::internet::proxied::public_pages_and_the_launcher_work_behind_the_proxy", || {
        let parts: String =
            (0..40).map(|part| format!("<img src='http://site{part}.example.com/part/{part}'>")).collect();
        let internet = Internet::new(&[("/", page("harmless", "")), ("/whole", page("whole", &parts))]);
        let heard = listener_at("93.184.215.14:8080");
        let proxy = Proxy::with(Session::new());
        let chromium = browser_behind(&proxy);
        let stage = Stage::new(chromium.port, &[]);
        stage.shows("http://site.example.com/");
        stage.shows("http://site.example.com/whole");
        for part in 0..40 {
            internet.public.wait_asked(&format!("/part/{part}"));
        }
        let refusal = stage.open("http://private.example.com/");
        assert_eq!(reason(&refusal), Some(Reason::ResolvesPrivate));
        // A site that is down is told as such, though the browser cannot know why.
        for (url, error) in [
            ("http://site.example.com:8443/", "net::ERR_EMPTY_RESPONSE"),
            ("https://site.example.com/", "net::ERR_TUNNEL_CONNECTION_FAILED"),
        ] {
            assert_eq!(stage.open(url).outcome, Outcome::Failed(error.into()), "{url}");
        }
        // A WebSocket goes through a tunnel: its first bytes arrive at the server.
        stage.new_tab("data:text/html,<script>new WebSocket('ws://site.example.com:8080/chat')</script>");
        until("the WebSocket reaches its server", || heard.lock().ok()?.contains("GET /chat HTTP/1.1").then_some(()));
        assert_eq!(internet.asked_of_private_hosts(), [""; 0]);
    });
}

/// What a client asks a proxy for when it wants this URL.
fn asked_of_the_proxy(raw: &str) -> Option<(String, String)> {
    let url = url::Url::parse(raw).ok()?;
    let host = url.host_str()?;
    let authority = format!("{host}:{}", url.port_or_known_default()?);
    match url.scheme() {
        "http" => Some(("GET".into(), format!("http://{authority}/"))),
        "https" => Some(("CONNECT".into(), authority)),
        _ => None,
    }
}

/// The vectors of the policy: their policies, and for each the expected verdicts by URL.
fn vectors() -> Vec<(String, Vec<(String, String)>)> {
    let mut sections = vec![(String::new(), Vec::new())];
    for line in VECTORS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if line.starts_with("policy ") {
            sections.push((line.to_owned(), Vec::new()));
        } else if let Some((verdict, rest)) = line.split_once(' ')
            && let Some((reason, url)) = rest.split_once(' ')
            && !url.contains('\\')
        {
            // Those with escapes are for the parser, which is tested by itself.
            let expected = if verdict == "allowed" { "allowed" } else { reason };
            sections.last_mut().expect("one at least").1.push((url.trim_start().to_owned(), expected.to_owned()));
        }
    }
    sections.retain(|(policy, vectors)| !vectors.is_empty() && !policy.contains('\\'));
    sections
}

#[test]
fn the_three_doors_give_the_same_answers() {
    on_an_internet("launcher::internet::proxied::the_three_doors_give_the_same_answers", || {
        serve_names();
        let mut compared = 0;
        for (policy, vectors) in vectors() {
            let variable = |key: &str| {
                let value = policy.split(' ').find_map(|part| part.strip_prefix(key)?.strip_prefix('='));
                value.unwrap_or_default().to_owned()
            };
            let variables = [
                ("URL_POLICY_PORTS", variable("ports")),
                ("URL_POLICY_REFUSE", variable("refuse")),
                ("URL_POLICY_ALLOW", variable("allow")),
                ("URL_POLICY_PUBLIC", variable("public")),
                ("URL_POLICY_PRIVATE", variable("private")),
                ("URL_POLICY_OWN_PORTS", variable("own")),
            ];
            let session = variables.iter().fold(Session::new(), |session, (name, value)| session.env(name, value));
            let proxy = Proxy::with(session);
            let words = |key: &str| {
                variable(key).split(',').filter(|word| !word.is_empty()).map(String::from).collect::<Vec<_>>()
            };
            let own: Vec<u16> = words("own").iter().filter_map(|port| port.parse().ok()).collect();
            let ours = Policy::new(&words("ports"), &words("refuse"), &words("allow"))
                .and_then(|policy| policy.with_public(&words("public"))?.with_private(&words("private")))
                .expect("a policy")
                .with_own_ports(&own);
            let stage = Stage { navigator: Navigator::with_waits(1, ours, WAITS), ..Stage::new(1, &[]) };
            let urls: Vec<&str> = vectors.iter().map(|(url, _)| url.as_str()).collect();
            let checked = proxy.check_urls(&urls);
            for ((url, expected), checked) in vectors.iter().zip(checked) {
                assert_eq!(checked, *expected, "check-url of {url} ({policy})");
                let (navigator, given) = (stage.navigator.clone(), url.clone());
                let judged = stage.run(async move { navigator.judge(&given).await });
                let launcher = judged.err().map_or("allowed".to_owned(), |refused| refused.reason.to_string());
                let is_answer = |answer: &str| answer == expected || (expected == "allowed" && looked_up(answer));
                assert!(is_answer(&launcher), "the launcher says {launcher} of {url}, not {expected} ({policy})");
                // A browser sends neither a user name nor a long path to a proxy.
                let Some((method, target)) = asked_of_the_proxy(url).filter(|_| expected != "credentials") else {
                    continue;
                };
                let answer = proxy.rule(&method, &target);
                let is_unreadable = answer == "malformed" && expected != "allowed";
                if is_unreadable {
                    continue;
                }
                assert!(is_answer(&answer), "the proxy says {answer} of {method} {target}, not {expected} ({policy})");
                compared += 1;
            }
        }
        assert!(compared > 250, "{compared} URLs");
        // Names are looked up by each.
        let (proxy, stage) = (Proxy::with(Session::new()), Stage::new(1, &[]));
        for host in ["private.example.com", "mixed.example.com", "metadata.example.com"] {
            let url = format!("http://{host}/");
            let (navigator, given) = (stage.navigator.clone(), url.clone());
            let judged = stage.run(async move { navigator.judge(&given).await });
            let launcher = judged.err().map_or("allowed".to_owned(), |refused| refused.reason.to_string());
            let answers = [launcher, proxy.rule("GET", &url), proxy.check_resolved(&url)];
            assert_eq!(answers, ["resolves-private"; 3], "{url}");
        }
    });
}

/// Whether an allowed host was looked up, and then had no address or no server here.
fn looked_up(answer: &str) -> bool {
    matches!(answer, "unresolved" | "unreachable" | "late" | "broken" | "resolves-private")
}
