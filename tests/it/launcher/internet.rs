//! The shipped policy against a hostile internet: a network namespace with public and private addresses, a name server
//! whose answers depend on the name, and a real Chromium. Nothing in the launcher is relaxed for these stories.

mod proxied;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use super::*;
use crate::desktop::on_an_internet;

const PUBLIC: Ipv4Addr = Ipv4Addr::new(93, 184, 215, 14);
/// Hosts that must never receive a request.
const PRIVATE: [Ipv4Addr; 3] =
    [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(169, 254, 169, 254), Ipv4Addr::new(192, 168, 1, 1)];
/// URLs of these hosts, in different spellings.
const TARGETS: [&str; 9] = [
    "http://10.0.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://192.168.1.1/",
    "http://private.example.com/",
    "http://metadata.example.com/",
    "http://mixed.example.com/",
    "http://0xa.1/",
    "http://3232235777/",
    "http://[::ffff:10.0.0.1]/",
];

/// Answers A queries by the first label; other queries get an empty answer.
///
/// `site…` is public; `private…`, `metadata…` and `mixed…` are not; `mute…` is never answered; `slow…` is answered after
/// 600 ms; `flip3` is public for the first three queries and private after that.
fn serve_names() {
    let socket = UdpSocket::bind("127.0.0.1:53").expect("the port of name servers");
    std::thread::spawn(move || {
        let mut asked = HashMap::new();
        let mut query = [0; 512];
        loop {
            let (length, peer) = socket.recv_from(&mut query).expect("a question");
            let Some((name, kind)) = question(&query[..length]) else { continue };
            let times =
                if kind == 1 { asked.entry(name.clone()).and_modify(|times| *times += 1).or_insert(1) } else { &mut 0 };
            let first = name.split('.').next().unwrap_or_default();
            let family = first.trim_end_matches(char::is_numeric);
            let number: u32 = first[family.len()..].parse().unwrap_or(0);
            let addresses: &[Ipv4Addr] = match family {
                "site" | "slow" => &[PUBLIC],
                "flip" if *times <= number => &[PUBLIC],
                "private" | "flip" => &PRIVATE[..1],
                "metadata" => &PRIVATE[1..2],
                "mixed" => &[PUBLIC, PRIVATE[0]],
                _ => &[],
            };
            let reply = answer_to(&query[..length], if kind == 1 { addresses } else { &[] });
            match family {
                "mute" => {}
                "slow" => reply_later(&socket, reply, peer),
                _ => drop(socket.send_to(&reply, peer)),
            }
        }
    });
}

/// The slowness of the name server is the subject of the story.
fn reply_later(socket: &UdpSocket, reply: Vec<u8>, peer: SocketAddr) {
    let socket = socket.try_clone().expect("a second handle");
    std::thread::spawn(move || {
        std::thread::park_timeout(Duration::from_millis(600));
        let _ = socket.send_to(&reply, peer);
    });
}

fn question(query: &[u8]) -> Option<(String, u16)> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*query.get(at)?);
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at + 1..at + 1 + length)?).to_lowercase());
        at += 1 + length;
    }
    Some((labels.join("."), u16::from_be_bytes(query.get(at + 1..at + 3)?.try_into().ok()?)))
}

fn answer_to(query: &[u8], addresses: &[Ipv4Addr]) -> Vec<u8> {
    let end = 12 + query[12..].iter().position(|byte| *byte == 0).expect("a name") + 5;
    let mut reply = query[..end].to_vec();
    reply[2..4].copy_from_slice(&[0x81, 0x80]);
    reply[6..12].copy_from_slice(&[0, addresses.len() as u8, 0, 0, 0, 0]);
    for address in addresses {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]); // the queried name, type A, TTL 0
        reply.extend(address.octets());
    }
    reply
}

/// A browser without its own checks, which would hide whether ours work.
fn browser() -> Chromium {
    Chromium::start_with(
        &["--disable-features=LocalNetworkAccessChecks,HttpsUpgrades,HttpsFirstBalancedModeAutoEnable"],
        "about:blank",
    )
}

struct Internet {
    public: Pages,
    private: Vec<Pages>,
}

impl Internet {
    fn new(pages: &[(&str, Answer)]) -> Self {
        serve_names();
        let secret = [("/", page("secret", "")), ("/latest/meta-data/", page("secret", ""))];
        Internet {
            public: Pages::at("93.184.215.14:80", pages).expect("a public address"),
            private: PRIVATE.iter().map(|at| Pages::at(&format!("{at}:80"), &secret).expect("a private one")).collect(),
        }
    }

    fn asked_of_private_hosts(&self) -> Vec<String> {
        self.private.iter().flat_map(Pages::asked).collect()
    }
}

/// Pages that each try a different way to reach a target, and request `/made/…` once they have tried.
fn ways(target: &str, id: &str) -> Vec<(&'static str, Answer)> {
    let made = format!("setTimeout(() => new Image().src = '/made/{id}/' + location.pathname.split('/')[1], 300)");
    let script = |text: String| page("way", &format!("<body><script>{made}; {text}</script>"));
    let html = |text: String| page("way", &format!("{text}<script>{made}</script>"));
    let refresh = says(
        "200 OK",
        &format!("Content-Type: text/html\r\nRefresh: 0;url={target}"),
        &format!("<title>way</title><script>{made}</script>"),
    );
    let form = |method: &str| {
        script(format!(
            "const form = document.createElement('form'); form.method = '{method}'; form.action = '{target}'; \
             document.body.append(form); form.submit()"
        ))
    };
    vec![
        ("location", script(format!("location = '{target}'"))),
        ("replace", script(format!("location.replace('{target}')"))),
        ("later", script(format!("setTimeout(() => location = '{target}', 100)"))),
        ("navigation", script(format!("navigation.navigate('{target}')"))),
        ("get", form("get")),
        ("post", form("post")),
        (
            "click",
            script(format!(
                "const a = document.createElement('a'); a.href = '{target}'; document.body.append(a); a.click()"
            )),
        ),
        ("meta", html(format!("<meta http-equiv=refresh content='0;url={target}'>"))),
        ("refresh", refresh),
        ("iframe", html(format!("<iframe src='{target}'></iframe>"))),
        ("srcdoc", html(format!("<iframe srcdoc=\"<iframe src='{target}'></iframe>\"></iframe>"))),
        ("object", html(format!("<object data='{target}' type='text/html'></object>"))),
        ("embed", html(format!("<embed src='{target}' type='text/html'>"))),
        (
            "prefetch",
            script(format!(
                "const rules = document.createElement('script'); rules.type = 'speculationrules'; \
                 rules.textContent = JSON.stringify({{ prefetch: [{{ source: 'list', urls: ['{target}'] }}] }}); \
                 document.head.append(rules); setTimeout(() => location = '{target}', 200)"
            )),
        ),
    ]
}

#[test]
fn no_page_leads_the_screen_to_a_private_host() {
    on_an_internet("launcher::internet::no_page_leads_the_screen_to_a_private_host", || {
        let mut pages = vec![("/".to_owned(), page("harmless", ""))];
        let mut tried = Vec::new();
        for (number, target) in TARGETS.iter().enumerate() {
            for status in ["301 Moved", "302 Found", "307 Temporary Redirect"] {
                let path = format!("/hop/{number}/{}", &status[..3]);
                pages.push((path, says(status, &format!("Location: {target}"), "")));
            }
            // Each way is tried with a third of the targets, so that every kind of way meets every kind of target.
            let ways = ways(target, &number.to_string()).into_iter().enumerate();
            for (_, (way, answer)) in ways.filter(|(at, _)| at % 3 == number % 3) {
                pages.push((format!("/{way}/{number}"), answer));
                tried.push((format!("/{way}/{number}"), format!("/made/{number}/{way}")));
            }
        }
        let pages: Vec<(&str, Answer)> = pages.iter().map(|(path, answer)| (path.as_str(), answer.clone())).collect();
        let internet = Internet::new(&pages);
        let chromium = browser();
        let stage = Stage::new(chromium.port, &[]);
        let site = |path: &str| format!("http://site.example.com{path}");
        stage.shows(&site("/"));

        for target in TARGETS {
            assert!(reason(&stage.open(target)).is_some(), "{target}");
        }
        for (path, _) in pages.iter().filter(|(path, _)| path.starts_with("/hop")) {
            let verdict = stage.open(&site(path));
            assert!(reason(&verdict).is_some(), "{path}: {verdict:?}");
        }
        assert!(tried.len() > 40, "{} ways", tried.len());
        for (path, made) in &tried {
            let verdict = stage.open(&site(path));
            assert!(matches!(verdict.outcome, Outcome::Committed { .. }), "{path}: {verdict:?}");
            internet.public.wait_asked(made);
        }
        stage.shows(&site("/"));
        assert_eq!(internet.asked_of_private_hosts(), [""; 0]);
    });
}

#[test]
fn a_name_whose_second_answer_is_private_is_not_shown() {
    on_an_internet("launcher::internet::a_name_whose_second_answer_is_private_is_not_shown", || {
        let internet = Internet::new(&[("/", page("harmless", ""))]);
        let chromium = browser();
        let stage = Stage::new(chromium.port, &[]);
        // The launcher and the browser query in turns, so that each of them is the first to get the private answer once.
        let mut refused = 0;
        for flips in 1..=6 {
            stage.shows("http://site.example.com/");
            let before = internet.public.asked().len();
            let verdict = stage.open(&format!("http://flip{flips}.example.com/"));
            match &verdict.outcome {
                Outcome::Refused(_) if reason(&verdict) == Some(Reason::ResolvesPrivate) => refused += 1,
                Outcome::Committed { .. } => {
                    assert!(internet.public.asked().len() > before, "{flips}: the private page is shown");
                }
                outcome => panic!("{flips}: {outcome:?}"),
            }
        }
        assert!(refused > 0);
    });
}

#[test]
fn slow_and_mute_name_servers_cost_honest_pages_and_callers_nothing() {
    on_an_internet("launcher::internet::slow_and_mute_name_servers_cost_honest_pages_and_callers_nothing", || {
        let frames = |name: &str, count: usize| {
            (0..count)
                .map(|frame| format!("<iframe src='http://{name}{frame}.example.com/{name}/{frame}'></iframe>"))
                .collect::<String>()
        };
        let internet = Internet::new(&[
            ("/", page("harmless", "")),
            ("/mute", page("mute", &frames("mute", 100))),
            ("/slow", page("slow", &frames("slow", 60))),
        ]);
        let chromium = browser();
        let stage = Stage::new(chromium.port, &[]);
        stage.shows("http://site.example.com/mute");
        // Names that were not queried before.
        for caller in 1..4 {
            stage.shows(&format!("http://site{caller}.example.com/"));
        }
        stage.shows("http://site.example.com/slow");
        for frame in 0..60 {
            internet.public.wait_asked(&format!("/slow/{frame}"));
        }
    });
}
