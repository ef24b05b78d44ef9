//! The page, in a real Chromium. The workspaces are stand-ins, so that every state can be shown.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_websockets::{ClientBuilder, Limits, MaybeTlsStream, Message, WebSocketStream};

use super::cluster::{ApiServer, gateway};
use super::{CALLER, Gateway, StandIn, says};
use crate::harness::{DEADLINE, Session, until, until_ok};

/// A Chromium without a display, with one page.
struct Chromium {
    process: Child,
    runtime: Runtime,
    /// Not the product's client, which shortens long texts, such as pictures.
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    last: u64,
    page: String,
    _session: Session,
}

/// Notes every fault of the page from its very beginning.
const WITNESS: &str = "window.faults = []; \
    addEventListener('error', event => faults.push('error: ' + event.message)); \
    addEventListener('unhandledrejection', event => faults.push('rejected: ' + event.reason)); \
    document.addEventListener('securitypolicyviolation', event => faults.push('refused: ' + event.violatedDirective));";

fn program() -> PathBuf {
    let names = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"];
    let named = std::env::var_os("CHROMIUM_BIN").filter(|name| !name.is_empty()).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let found = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    named.or_else(|| found.into_iter().find(|path| path.is_file())).expect("Chromium, which tests/setup.sh installs")
}

impl Chromium {
    /// Opens a page of the gateway.
    fn at(url: &str) -> Self {
        let session = Session::new();
        let profile = session.data().join("profile");
        let mut command = session.command(program());
        command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]);
        command
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg("--remote-debugging-port=0")
            .arg("about:blank");
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("Chromium");
        let address = until("Chromium's address", || {
            let text = fs::read_to_string(profile.join("DevToolsActivePort")).ok()?;
            let (port, path) = text.split_once('\n')?;
            Some(format!("ws://127.0.0.1:{port}{}", path.trim()))
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let connect = async |address: &str| {
            let builder = ClientBuilder::new().uri(address).expect("an address");
            builder.limits(Limits::unlimited()).connect().await.ok()
        };
        let (socket, _) = until("Chromium's DevTools", || runtime.block_on(connect(&address)));
        let mut chromium = Chromium { process, runtime, socket, last: 0, page: String::new(), _session: session };
        let target = chromium.call(None, "Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = chromium.call(None, "Target.attachToTarget", attach);
        chromium.page = attached["sessionId"].as_str().expect("a session").into();
        chromium.tell("Page.enable", json!({}));
        chromium.tell("Page.addScriptToEvaluateOnNewDocument", json!({ "source": WITNESS }));
        chromium.size(1280, 900, "light");
        chromium.tell("Page.navigate", json!({ "url": url }));
        chromium
    }

    fn call(&mut self, session: Option<&str>, method: &str, params: Value) -> Value {
        self.last += 1;
        let mut message = json!({ "id": self.last, "method": method, "params": params });
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        let (socket, id) = (&mut self.socket, self.last);
        let asked = async {
            socket.send(Message::text(message.to_string())).await.expect("Chromium reads");
            loop {
                let message = socket.next().await.expect("Chromium runs").expect("a message");
                let answer: Value = serde_json::from_str(message.as_text().unwrap_or("{}")).expect("JSON");
                if answer["id"] == id {
                    return answer;
                }
            }
        };
        let answer = self.runtime.block_on(async { timeout(DEADLINE, asked).await });
        let mut answer = answer.unwrap_or_else(|_| panic!("{method} is not answered"));
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].take()
    }

    fn tell(&mut self, method: &str, params: Value) -> Value {
        let page = self.page.clone();
        self.call(Some(&page), method, params)
    }

    fn size(&mut self, width: u32, height: u32, scheme: &str) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.tell("Emulation.setDeviceMetricsOverride", metrics);
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.tell("Emulation.setEmulatedMedia", features);
    }

    /// The value of a script.
    fn value(&mut self, script: &str) -> Value {
        self.try_value(script).unwrap_or_else(|why| panic!("{script}: {why}"))
    }

    fn try_value(&mut self, script: &str) -> Result<Value, String> {
        let asked = json!({ "expression": script, "returnByValue": true, "awaitPromise": true, "userGesture": true });
        let answer = self.tell("Runtime.evaluate", asked);
        match answer.get("exceptionDetails") {
            None => Ok(answer["result"]["value"].clone()),
            Some(thrown) => Err(thrown["exception"]["description"].to_string()),
        }
    }

    /// Waits until a script is true, also while the page is still loading. A failure shows the page's text.
    fn wait(&mut self, what: &str, script: &str) {
        until_ok(what, || match self.try_value(script) {
            Ok(Value::Bool(true)) => Ok(()),
            seen => Err(format!("{seen:?}\n{:?}", self.try_value("document.body.innerText"))),
        });
    }

    fn press(&mut self, key: &str) {
        let (text, code) = match key {
            "Enter" => ("\r", 13),
            "Tab" => ("", 9),
            "Escape" => ("", 27),
            _ => (key, u32::from(key.bytes().next().unwrap_or_default())),
        };
        let mut event = json!({ "type": "keyDown", "key": key, "windowsVirtualKeyCode": code, "code": key });
        if !text.is_empty() {
            event["text"] = text.into();
        }
        self.tell("Input.dispatchKeyEvent", event);
        self.tell("Input.dispatchKeyEvent", json!({ "type": "keyUp", "key": key, "windowsVirtualKeyCode": code }));
    }

    fn write(&mut self, text: &str) {
        self.tell("Input.insertText", json!({ "text": text }));
    }

    fn picture(&mut self, name: &str) {
        let shot = self.tell("Page.captureScreenshot", json!({ "format": "png" }));
        let bytes = STANDARD.decode(shot["data"].as_str().expect("a picture")).expect("base64");
        fs::write(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name), bytes).expect("a picture");
    }

    /// Neither the script nor the content security policy has complained.
    fn assert_sound(&mut self) {
        assert_eq!(self.value("faults"), json!([]));
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn url(gateway: &Gateway) -> String {
    format!("http://127.0.0.1:{}/", gateway.port)
}

fn card(name: &str) -> String {
    format!(
        "[...document.querySelectorAll('#list > li')].find(card => card.querySelector('h2').textContent === '{name}')"
    )
}

fn status(name: &str, text: &str) -> String {
    format!("({})?.querySelector('.status').textContent === '{text}'", card(name))
}

fn sign_in(page: &mut Chromium) {
    page.wait("the form", "!at('sign').hidden && document.activeElement === at('token')");
    page.write(CALLER);
    page.press("Enter");
    page.wait("it is signed in", "at('live').textContent === 'Live'");
}

#[test]
fn a_person_signs_in_and_opens_a_page_with_the_keyboard_alone() {
    let desk = StandIn::saying(&says(200, r#"{"ok":true,"frameId":"F","outcome":"committed","ms":212}"#));
    let gateway = Gateway::with(&[("desk", desk.port), ("hall", desk.port)]);
    let mut page = Chromium::at(&url(&gateway));
    page.wait("the form", "!at('sign').hidden && document.activeElement === at('token')");
    page.picture("gateway-sign-in.png");
    page.write("wrong-0123456789abcdef");
    page.press("Enter");
    page.wait("it says why", "at('why').textContent === 'the token is not accepted'");
    sign_in(&mut page);
    assert_eq!(page.value("location.pathname"), "/dashboard/kasm/");
    page.wait("both are ready", &format!("{} && {}", status("desk", "Ready"), status("hall", "Ready")));
    // `/` finds, and Tab leads from there to the address and the button.
    page.press("/");
    page.write("hall");
    page.wait("one is left", &format!("({}).hidden && !({}).hidden", card("desk"), card("hall")));
    for _ in 0..10 {
        if page.value("document.activeElement.id") == "url-hall" {
            break;
        }
        page.press("Tab");
    }
    assert_eq!(page.value("document.activeElement.id"), "url-hall");
    page.write("example.com");
    page.press("Enter");
    let said = format!("({}).querySelector('.said').textContent", card("hall"));
    page.wait("the verdict", &format!("{said} === 'Shown in 0.2 s'"));
    assert!(desk.heard().last().expect("a request").ends_with(r#"{"url":"https://example.com/"}"#));
    page.value("document.activeElement.value = 'http://10.0.0.1/'");
    page.press("Enter");
    page.wait("the refusal", &format!("{said}.startsWith('Refused: 10.0.0.1 is not on the public internet')"));
    page.picture("gateway-verdict.png");
    // A reload keeps the session of this tab; signing out ends it.
    page.tell("Page.reload", json!({}));
    page.wait(
        "it is signed in",
        "at('live')?.textContent === 'Live' && document.querySelectorAll('#list > li').length === 2",
    );
    page.value("at('leave').click()");
    page.wait("nothing is left", "!at('sign').hidden && document.querySelectorAll('#list > li').length === 0");
    assert_eq!(page.value("sessionStorage.length"), 0);
    page.assert_sound();
}

#[test]
fn the_page_follows_the_cluster_and_asks_before_it_stops_anything() {
    let server = ApiServer::new();
    let desk = StandIn::saying(&says(503, r#"{"error":"cdp unreachable"}"#));
    server.secret("in-the-secret-0123456789");
    server.workspace("fine", desk.port, (1, 1));
    server.workspace("stopped", desk.port, (0, 0));
    let gateway = gateway(&server);
    let mut page = Chromium::at(&format!("{}dashboard/kasm/#token={CALLER}", url(&gateway)));
    page.wait(
        "the list",
        &format!(
            "at('live').textContent === 'Live' && {} && {}",
            status("fine", "Ready"),
            status("stopped", "Stopped")
        ),
    );
    assert_eq!(page.value("location.hash"), "", "the token is not left in the address");
    // Start.
    page.value(&format!("({}).querySelector('.start').click()", card("stopped")));
    page.wait("it starts", &status("stopped", "Starting"));
    server.deployment("stopped", (1, 1));
    page.wait("it is ready", &status("stopped", "Ready"));
    // Stop: Escape and the first button keep it running.
    for keep in ["page.press", "click"] {
        page.value(&format!("({}).querySelector('.stop').click()", card("fine")));
        page.wait("it asks", "at('sure').open && at('sure-title').textContent === 'Stop fine?'");
        assert_eq!(page.value("document.activeElement.value"), "no", "the harmless answer has the focus");
        page.picture("gateway-sure.png");
        match keep {
            "click" => drop(page.value("at('sure').querySelector('[value=no]').click()")),
            _ => page.press("Escape"),
        }
        page.wait("it has closed", "!at('sure').open");
    }
    assert_eq!(server.world().patches.len(), 1, "nothing was stopped");
    page.value(&format!("({}).querySelector('.stop').click()", card("fine")));
    page.value("at('sure').querySelector('[value=yes]').click()");
    page.wait("it stops", &format!("{} || {}", status("fine", "Stopping"), status("fine", "Stopped")));
    // A workspace vanishes, another appears.
    server.delete("deployments", "fine");
    server.delete("services", "fine");
    server.workspace("another", desk.port, (1, 0));
    page.wait("it follows", &format!("!({}) && {}", card("fine"), status("another", "Starting")));
    // What a browser that is down means is said in words.
    let name = card("stopped");
    page.value(&format!(
        "({name}).querySelector('input').value = 'example.com'; ({name}).querySelector('form button').click()"
    ));
    page.wait(
        "words",
        &format!("({name}).querySelector('.said').textContent === 'Not opened: the browser is not running'"),
    );
    server.change(|world| world.away = true);
    page.wait("it says that the cluster is away", "!at('away').hidden && at('live').textContent === 'Cluster away'");
    page.picture("gateway-away.png");
    server.change(|world| world.away = false);
    page.wait("it is back", "at('away').hidden && at('live').textContent === 'Live'");
    page.assert_sound();
}

#[test]
fn a_gateway_that_is_away_keeps_the_list_and_what_was_typed() {
    let desk = StandIn::saying(&says(200, "{}"));
    let mut gateway = Gateway::with(&[("desk", desk.port)]);
    let mut page = Chromium::at(&url(&gateway));
    sign_in(&mut page);
    page.wait("the list", &status("desk", "Ready"));
    page.value("at('url-desk').focus()");
    page.write("example.com/half");
    gateway.process.kill().expect("kill");
    gateway.process.wait().expect("a reaped gateway");
    page.wait("it says so", "!at('lost').hidden && at('live').textContent === 'Offline'");
    assert_eq!(page.value(&format!("({}).querySelector('form button').disabled", card("desk"))), true);
    page.picture("gateway-offline.png");
    gateway.process = Gateway::spawn(&gateway.session);
    page.wait("it is back", "at('lost').hidden && at('live').textContent === 'Live'");
    assert_eq!(
        page.value("[at('url-desk').value, document.activeElement.id]"),
        json!(["example.com/half", "url-desk"])
    );
    page.assert_sound();
}

#[test]
fn a_tab_in_the_background_gives_its_connection_back() {
    let desk = StandIn::saying(&says(200, "{}"));
    let gateway = Gateway::with(&[("desk", desk.port)]);
    let mut page = Chromium::at(&url(&gateway));
    sign_in(&mut page);
    page.wait("the list", &status("desk", "Ready"));
    let becomes = |page: &mut Chromium, hidden: bool| {
        let property = format!("Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }})");
        page.value(&format!("{property}; document.dispatchEvent(new Event('visibilitychange'))"));
    };
    let pages = |count: u32| {
        let metrics = gateway.ask("GET", "/metrics", "", "").text;
        metrics.contains(&format!("kasm_void_gateway_pages {count}\n")).then_some(())
    };
    until("it follows", || pages(1));
    becomes(&mut page, true);
    until("its connection is free", || pages(0));
    becomes(&mut page, false);
    page.wait("it follows again", &format!("at('live').textContent === 'Live' && {}", status("desk", "Ready")));
    page.assert_sound();
}

#[test]
fn it_fits_every_screen_and_every_control_has_a_name() {
    let server = ApiServer::new();
    let desk = StandIn::saying(&says(200, "{}"));
    for (name, counts) in
        [("kasm-vpn", (1, 1)), ("stopped", (0, 0)), (&*"long-".repeat(12), (1, 0)), ("second", (1, 1))]
    {
        server.workspace(name, desk.port, counts);
    }
    let gateway = gateway(&server);
    let mut page = Chromium::at(&format!("{}dashboard/kasm/#token={CALLER}", url(&gateway)));
    page.wait("the list", "at('live').textContent === 'Live' && document.querySelectorAll('#list > li').length === 4");
    for (width, scheme) in [(360, "light"), (360, "dark"), (768, "dark"), (1280, "light"), (2560, "dark")] {
        page.size(width, 900, scheme);
        let wide = page.value("document.documentElement.scrollWidth - innerWidth");
        assert!(wide.as_i64().is_some_and(|wide| wide <= 0), "at {width} pixels it is {wide} too wide");
        // Nor is anything cut off in a card.
        let cut =
            "[...document.querySelectorAll('#list > li')].filter(card => card.scrollWidth > card.clientWidth).length";
        assert_eq!(page.value(cut), 0, "at {width} pixels");
        page.picture(&format!("gateway-{width}-{scheme}.png"));
    }
    let tree = page.tell("Accessibility.getFullAXTree", json!({}));
    let nodes = tree["nodes"].as_array().expect("nodes");
    let role = |node: &Value| node["role"]["value"].as_str().unwrap_or_default().to_owned();
    let named = |node: &Value| !node["name"]["value"].as_str().unwrap_or_default().is_empty();
    let controls: Vec<&Value> = nodes
        .iter()
        .filter(|node| {
            node["ignored"] != true
                && ["button", "textbox", "searchbox", "link", "heading"].contains(&role(node).as_str())
        })
        .collect();
    assert!(controls.len() > 12, "the controls are not found: {controls:?}");
    for control in controls {
        assert!(named(control), "a control has no name: {control}");
    }
    page.assert_sound();
}
