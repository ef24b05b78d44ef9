//! The gateway and its cluster. The API server is a stand-in that breaks in every way that real ones do; the same stories on
//! a real API server are in image/kubernetes/gateway/try.sh.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};

use super::{CALLER, Does, Events, Gateway, StandIn, bearer, request, says, secret};
use crate::harness::{Session, until};

const LABEL: &str = "kasm-void.kbve.com/workspace";

/// A stand-in for the API server: lists, watches, Secrets by name, and the scale subresource.
#[derive(Clone)]
pub struct ApiServer {
    port: u16,
    shared: Arc<(Mutex<World>, Condvar)>,
}

#[derive(Default)]
pub struct World {
    version: u64,
    /// By the plural of the kind, and by name.
    objects: BTreeMap<(&'static str, String), Value>,
    /// Every event since the beginning, with its version.
    events: Vec<(u64, &'static str, Value)>,
    /// Closes every connection.
    pub away: bool,
    /// Watches that began before this version are told that it is gone.
    gone: u64,
    pub patches: Vec<(String, Value)>,
    /// How often Secrets were read.
    secrets_read: usize,
}

impl ApiServer {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let server = ApiServer { port: listener.local_addr().expect("its address").port(), shared: Arc::default() };
        let serving = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = serving.clone();
                std::thread::spawn(move || server.serve(stream));
            }
        });
        server
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.shared.0.lock().expect("nobody panicked")
    }

    pub fn change(&self, change: impl FnOnce(&mut World)) {
        change(&mut self.world());
        self.shared.1.notify_all();
    }

    fn put(&self, plural: &'static str, name: &str, mut object: Value) {
        self.change(|world| {
            world.version += 1;
            object["metadata"]["namespace"] = "kasm".into();
            object["metadata"]["name"] = name.into();
            object["metadata"]["resourceVersion"] = world.version.to_string().into();
            let known = world.objects.insert((plural, name.into()), object.clone()).is_some();
            let event = json!({ "type": if known { "MODIFIED" } else { "ADDED" }, "object": object });
            world.events.push((world.version, plural, event));
        });
    }

    pub fn delete(&self, plural: &'static str, name: &str) {
        self.change(|world| {
            world.version += 1;
            let mut object = world.objects.remove(&(plural, name.into())).expect("it is there");
            object["metadata"]["resourceVersion"] = world.version.to_string().into();
            world.events.push((world.version, plural, json!({ "type": "DELETED", "object": object })));
        });
    }

    /// A workspace whose launcher listens at this port of this machine.
    pub fn workspace(&self, name: &str, port: u16, (wanted, ready): (u32, u32)) {
        self.service(name, port);
        self.deployment(name, (wanted, ready));
    }

    fn service(&self, name: &str, port: u16) {
        let spec = json!({ "clusterIP": "127.0.0.1", "ports": [{ "name": "nav-shim", "port": port }] });
        self.put("services", name, json!({ "metadata": { "labels": { LABEL: name } }, "spec": spec }));
    }

    pub fn deployment(&self, name: &str, (wanted, ready): (u32, u32)) {
        let annotations = json!({ "kasm-void.kbve.com/token-secret": "vnc/password" });
        let spec = json!({ "replicas": wanted, "selector": {}, "template": {} });
        let status = json!({ "replicas": wanted, "readyReplicas": ready });
        let metadata = json!({ "labels": { LABEL: name }, "annotations": annotations });
        self.put("deployments", name, json!({ "metadata": metadata, "spec": spec, "status": status }));
    }

    pub fn secret(&self, token: &str) {
        use base64::Engine;
        let encoded = base64::engine::general_purpose::STANDARD.encode(token);
        self.put("secrets", "vnc", json!({ "metadata": {}, "data": { "password": encoded } }));
    }

    fn serve(&self, mut stream: TcpStream) {
        let request = request(&mut stream);
        let mut words = request.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default().to_owned());
        if self.world().away {
            return;
        }
        let body = request.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        let (place, query) = path.split_once('?').unwrap_or((&path, ""));
        let plural = ["services", "deployments", "secrets"].into_iter().find(|plural| place.contains(plural));
        let Some(plural) = plural else { return self.say(stream, 404, &json!({ "kind": "Status", "code": 404 })) };
        let after = place.split(plural).nth(1).unwrap_or_default();
        match (method, after.trim_start_matches('/')) {
            ("GET", "") if query.contains("watch=true") => self.watch(stream, plural, query),
            ("GET", "") => self.list(stream, plural),
            ("GET", name) => {
                let found = self.world().objects.get(&(plural, name.to_owned())).cloned();
                self.world().secrets_read += usize::from(plural == "secrets");
                match found {
                    Some(object) => self.say(stream, 200, &object),
                    None => self.say(stream, 404, &status(404, &format!("{plural} \"{name}\" not found"))),
                }
            }
            ("PATCH", name) => {
                let name = name.trim_end_matches("/scale").to_owned();
                let patch: Value = serde_json::from_str(&body).expect("a patch");
                let wanted = patch["spec"]["replicas"].as_u64().expect("replicas") as u32;
                self.world().patches.push((name.clone(), patch));
                self.deployment(&name, (wanted, 0));
                let scale = json!({ "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": { "name": name }, "spec": { "replicas": wanted } });
                self.say(stream, 200, &scale);
            }
            _ => self.say(stream, 405, &status(405, "no")),
        }
    }

    fn say(&self, mut stream: TcpStream, code: u16, body: &Value) {
        let text = says(code, &body.to_string()).replacen("\r\n", "\r\nContent-Type: application/json\r\n", 1);
        let _ = stream.write_all(text.as_bytes());
    }

    fn list(&self, stream: TcpStream, plural: &str) {
        let world = self.world();
        let items: Vec<Value> =
            world.objects.iter().filter(|((of, _), _)| *of == plural).map(|(_, object)| object.clone()).collect();
        let version = world.version.max(1).to_string();
        drop(world);
        let list =
            json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": version }, "items": items });
        self.say(stream, 200, &list);
    }

    /// Sends events until the client goes, the server is away, or the version is gone.
    fn watch(&self, mut stream: TcpStream, plural: &str, query: &str) {
        let from = query.split('&').find_map(|part| part.strip_prefix("resourceVersion="));
        let mut seen: u64 = from.and_then(|version| version.parse().ok()).expect("a version");
        let began = seen;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";
        let _ = stream.write_all(head.as_bytes());
        let mut world = self.world();
        loop {
            if world.away {
                return;
            }
            if began < world.gone {
                let gone = json!({ "type": "ERROR", "object": status(410, "too old resource version") });
                let _ = stream.write_all(format!("{gone}\n").as_bytes());
                return;
            }
            for (version, of, event) in world.events.iter().filter(|(version, ..)| *version > seen) {
                if *of == plural && stream.write_all(format!("{event}\n").as_bytes()).is_err() {
                    return;
                }
                let _ = version;
            }
            seen = world.version.max(seen);
            let waited = self.shared.1.wait_timeout(world, Duration::from_millis(200));
            world = waited.expect("nobody panicked").0;
        }
    }
}

fn status(code: u16, message: &str) -> Value {
    let reason = if code == 410 { "Expired" } else { "NotFound" };
    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code })
}

pub fn gateway(server: &ApiServer) -> Gateway {
    gateway_with(server, "kubernetes: Kubernetes()")
}

fn gateway_with(server: &ApiServer, settings: &str) -> Gateway {
    let session = Session::new();
    let config = session.data().join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: here\nclusters: [{{ name: here, cluster: {{ server: \"http://127.0.0.1:{}\" }} }}]\n\
         users: [{{ name: me, user: {{ token: x }} }}]\ncontexts: [{{ name: here, context: {{ cluster: here, user: me, namespace: kasm }} }}]\n",
        server.port
    );
    fs::write(&config, text).expect("a kubeconfig");
    let session = session.env("KUBECONFIG", config.to_str().expect("UTF-8"));
    Gateway::in_session(session, settings)
}

/// What a page has put together from the events.
#[derive(Default)]
struct Followed {
    workspaces: BTreeMap<String, Value>,
    cluster: Value,
}

impl Followed {
    fn until(&mut self, events: &mut Events, is: impl Fn(&Followed) -> bool) {
        while !is(self) {
            let piece = events.next();
            if piece["reset"] == true {
                self.workspaces.clear();
            }
            for name in piece["removed"].as_array().expect("names") {
                self.workspaces.remove(name.as_str().expect("a name"));
            }
            for one in piece["changed"].as_array().expect("workspaces") {
                self.workspaces.insert(one["name"].as_str().expect("a name").into(), one.clone());
            }
            self.cluster = piece["cluster"].clone();
        }
    }

    fn status(&self, name: &str) -> &str {
        self.workspaces.get(name).and_then(|one| one["status"].as_str()).unwrap_or("none")
    }

    fn is_live(&self) -> bool {
        self.cluster["state"] == "live"
    }
}

#[test]
fn a_workspace_is_started_opened_and_stopped_and_every_page_sees_it() {
    let server = ApiServer::new();
    let desk = StandIn::saying(&says(200, "{}"));
    server.secret("in-the-secret-0123456789");
    server.workspace("desk", desk.port, (0, 0));
    let gateway = gateway(&server);
    let (mut events, mut page) = (gateway.events(), Followed::default());
    page.until(&mut events, |page| page.is_live() && page.status("desk") == "stopped");
    let answer = gateway.launch("desk", "https://example.com/");
    assert_eq!((answer.status, answer.error().as_str()), (502, "nav shim unreachable: the workspace is stopped"));

    let scale = |replicas: u32| {
        let body = json!({ "replicas": replicas }).to_string();
        gateway.ask("PUT", "/dashboard/kasm/scale/desk", &bearer(CALLER), &body)
    };
    assert_eq!(scale(1).json(), json!({ "success": true, "workspace": "desk", "replicas": 1 }));
    page.until(&mut events, |page| page.status("desk") == "starting");
    server.deployment("desk", (1, 1));
    page.until(&mut events, |page| page.status("desk") == "ready");
    assert_eq!(gateway.launch("desk", "https://example.com/").status, 200);
    assert!(desk.heard()[0].contains("Bearer in-the-secret-0123456789"));
    assert_eq!(scale(0).status, 200);
    page.until(&mut events, |page| page.status("desk") == "stopping" || page.status("desk") == "stopped");
    let patches: Vec<Value> = server.world().patches.iter().map(|(_, patch)| patch.clone()).collect();
    assert_eq!(patches, [json!({ "spec": { "replicas": 1 } }), json!({ "spec": { "replicas": 0 } })]);
    let line = gateway.audited("scaled");
    assert_eq!((&line["caller"], &line["workspace"], &line["replicas"]), (&json!("ada"), &json!("desk"), &json!(1)));
    server.delete("deployments", "desk");
    server.delete("services", "desk");
    page.until(&mut events, |page| page.workspaces.is_empty());
}

#[test]
fn a_secret_is_read_once_and_again_when_it_has_rotated() {
    let server = ApiServer::new();
    let desk = StandIn::new(vec![
        Does::Says(says(200, "{}")),
        Does::Says(says(200, "{}")),
        Does::Says(says(401, "no")),
        Does::Says(says(200, "{}")),
    ]);
    server.secret("the-first-0123456789");
    server.workspace("desk", desk.port, (1, 1));
    let gateway = gateway(&server);
    gateway.wait("desk", "is ready", |desk| desk["status"] == "ready");
    for _ in 0..2 {
        assert_eq!(gateway.launch("desk", "https://example.com/").status, 200);
    }
    assert_eq!(server.world().secrets_read, 1);
    server.secret("the-second-0123456789");
    assert_eq!(gateway.launch("desk", "https://example.com/").status, 200);
    assert_eq!((server.world().secrets_read, desk.heard().len()), (2, 4));
    assert!(desk.heard()[3].contains("Bearer the-second-0123456789"));
    server.delete("secrets", "vnc");
}

#[test]
fn tokens_that_are_mounted_as_files_need_no_secret() {
    let server = ApiServer::new();
    let desk = StandIn::saying(&says(200, "{}"));
    server.secret("in-the-secret-0123456789");
    server.workspace("desk", desk.port, (1, 1));
    let gateway = gateway_with(&server, "kubernetes: Kubernetes(tokens: \"{DATA}/mounted\")");
    let mounted = gateway.session.data().join("mounted");
    fs::create_dir(&mounted).expect("a folder");
    gateway.wait("desk", "is ready", |desk| desk["status"] == "ready");
    let missing = gateway.launch("desk", "https://example.com/");
    assert!(missing.error().contains("mounted/desk"), "it says which file is missing: {missing:?}");
    for token in ["mounted-first-0123456789", "mounted-second-0123456789"] {
        secret(mounted.join("desk"), token);
        assert_eq!(gateway.launch("desk", "https://example.com/").status, 200);
        assert!(desk.heard().last().expect("a request").contains(&format!("Bearer {token}")));
    }
    assert_eq!(server.world().secrets_read, 0);
}

#[test]
fn while_the_api_server_is_away_the_last_known_state_is_shown_and_still_opens_pages() {
    let server = ApiServer::new();
    let desk = StandIn::saying(&says(200, "{}"));
    server.secret("in-the-secret-0123456789");
    server.workspace("desk", desk.port, (1, 1));
    server.workspace("gone", desk.port, (1, 1));
    let gateway = gateway(&server);
    let (mut events, mut page) = (gateway.events(), Followed::default());
    page.until(&mut events, |page| page.is_live() && page.workspaces.len() == 2);
    assert_eq!(gateway.launch("desk", "https://example.com/").status, 200);
    server.change(|world| world.away = true);
    page.until(&mut events, |page| page.cluster["state"] == "away");
    assert!(page.cluster["reason"].as_str().is_some_and(|why| !why.is_empty()), "{}", page.cluster);
    assert_eq!(page.status("desk"), "ready");
    assert_eq!(gateway.launch("desk", "https://example.com/").status, 200, "its token is known");
    let answer = gateway.ask("PUT", "/dashboard/kasm/scale/desk", &bearer(CALLER), "{\"replicas\":0}");
    assert_eq!(answer.status, 502, "{answer:?}");
    // What happens meanwhile is seen afterwards.
    server.delete("deployments", "gone");
    server.delete("services", "gone");
    server.workspace("new", desk.port, (0, 0));
    server.change(|world| world.away = false);
    page.until(&mut events, |page| page.is_live() && page.status("new") == "stopped" && page.status("gone") == "none");
    assert_eq!(page.status("desk"), "ready");
    let strays: Vec<Value> = gateway.log().into_iter().filter(|line| line["event"].is_null()).collect();
    assert!(strays.is_empty(), "lines that a library has written: {strays:#?}");
}

#[test]
fn a_watch_that_is_too_old_starts_over_and_misses_nothing() {
    let server = ApiServer::new();
    server.workspace("old", 1, (0, 0));
    let gateway = gateway(&server);
    let (mut events, mut page) = (gateway.events(), Followed::default());
    page.until(&mut events, |page| page.is_live() && page.status("old") == "stopped");
    // The events are lost together with the version.
    server.change(|world| {
        world.version += 10;
        world.objects.clear();
        world.gone = world.version;
    });
    server.workspace("new", 1, (0, 0));
    page.until(&mut events, |page| page.status("old") == "none" && page.status("new") == "stopped");
    assert!(page.cluster["state"] != "away", "it was not away: {}", page.cluster);
}

#[test]
fn a_hundred_workspaces_come_and_one_comes_and_goes_fifty_times() {
    let server = ApiServer::new();
    for number in 0..100 {
        server.workspace(&format!("w{number:03}"), 1, (0, 0));
    }
    let gateway = gateway(&server);
    let (mut events, mut page) = (gateway.events(), Followed::default());
    page.until(&mut events, |page| page.is_live() && page.workspaces.len() == 100);
    for round in 0..50 {
        server.workspace("restless", 1, (round % 2, 0));
        server.delete("services", "restless");
        server.delete("deployments", "restless");
    }
    server.workspace("last", 1, (0, 0));
    page.until(&mut events, |page| page.status("last") == "stopped" && page.status("restless") == "none");
    assert_eq!(page.workspaces.len(), 101);
    until("a late page sees the same", || (gateway.workspaces().len() == 101).then_some(()));
}
