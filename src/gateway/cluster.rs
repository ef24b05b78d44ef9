//! The cluster: watches Services and Deployments, reads Secrets by name, and scales Deployments. `model::gateway::cluster`
//! puts together what is seen.

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use futures_util::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Secret, Service};
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep, sleep_until};

use super::board::Board;
use crate::model::gateway::cluster::{ClusterObject, ObjectFacts, ObjectId, SecretKey, WatchEvent, WatchNumber};
use crate::model::gateway::is_workspace_name;
use crate::model::gateway::list::ListInput;
use crate::model::gateway::settings::{Endpoint, KubernetesSettings};
use crate::model::plain;

/// The annotation that names the Secret with the launcher's token, as `NAME` or `NAME/KEY`.
const TOKEN: &str = "kasm-void.kbve.com/token-secret";
/// The key of a Secret that is named without one.
const KEY: &str = "password";
/// The launcher's port in a Service, by name, else by number.
const LAUNCHER: (&[&str], u16) = (&["nav-shim", "launcher"], 9998);
const METRICS: (&[&str], u16) = (&["metrics"], 9102);

/// A watch is renewed after this many seconds. A connection that has died without a word is noticed five seconds later.
const WATCH_SECONDS: u32 = 60;
/// A watch that is silent for so long is followed by a small request, to see whether the server still answers.
const BEAT: Duration = Duration::from_secs(10);
/// Between attempts to start a watch again: the first is at once, and the longest pause follows many failures.
const PAUSES: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
];
/// Time limit for one request to the API server.
const ANSWERED: Duration = Duration::from_secs(5);

/// The client of one cluster.
pub struct ClusterClient {
    client: Client,
    namespaces: Vec<String>,
    settings: KubernetesSettings,
}

impl ClusterClient {
    /// Finds the cluster: the one of `KUBECONFIG`, else the one that this pod runs in, else the one of `~/.kube/config`.
    pub async fn new(settings: KubernetesSettings) -> anyhow::Result<Self> {
        let in_pod = std::env::var_os("KUBECONFIG").is_none() && std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        // Their texts already have the texts of their causes.
        let found = if in_pod {
            // By address, because a static binary cannot use the C library's resolver.
            Config::incluster_env().map_err(|error| error.to_string())
        } else {
            Config::infer().await.map_err(|error| error.to_string())
        };
        let mut config = found
            .map_err(anyhow::Error::msg)
            .context("cannot find a cluster: run in a pod with a service account, or set KUBECONFIG")?;
        config.connect_timeout = Some(ANSWERED);
        let namespaces = match settings.namespaces.is_empty() {
            true => vec![config.default_namespace.clone()],
            false => settings.namespaces.clone(),
        };
        let client = Client::try_from(config).context("cannot use the cluster's address or credentials")?;
        Ok(ClusterClient { client, namespaces, settings })
    }

    /// How many watches see the cluster.
    pub fn watches(&self) -> usize {
        2 * self.namespaces.len()
    }

    /// The folder with the workspaces' tokens, if they are not in Secrets.
    pub fn token_folder(&self) -> Option<&Path> {
        self.settings.tokens.as_deref()
    }

    /// Starts all watches, in the background and for ever.
    pub fn watch(&self, board: &Arc<Board>) {
        for (at, namespace) in self.namespaces.iter().enumerate() {
            let services: Api<Service> = Api::namespaced(self.client.clone(), namespace);
            let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), namespace);
            let label = self.settings.label.clone();
            let (api, read, number) = (services, service, 2 * at);
            tokio::spawn(Follower { api, label: label.clone(), read, number, board: board.clone(), failures: 0 }.run());
            let (api, read, number) = (deployments, deployment, 2 * at + 1);
            tokio::spawn(Follower { api, label, read, number, board: board.clone(), failures: 0 }.run());
        }
    }

    /// The text at a key of a Secret.
    pub async fn secret(&self, namespace: &str, name: &str, key: &str) -> Result<String, String> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let found = in_time(secrets.get(name)).await.map_err(|why| format!("cannot read the Secret {name}: {why}"))?;
        let value = found.data.as_ref().and_then(|data| data.get(key));
        let value = value.ok_or_else(|| format!("the Secret {name} has no key `{key}`"))?;
        let text = std::str::from_utf8(&value.0).map(str::trim).unwrap_or_default();
        match text.is_empty() {
            true => Err(format!("the key `{key}` of the Secret {name} holds no token")),
            false => Ok(text.to_owned()),
        }
    }

    /// Scales a Deployment through its scale subresource.
    pub async fn scale(&self, deployment: &ObjectId, replicas: u32) -> Result<(), String> {
        let ObjectId { namespace, name } = deployment;
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), namespace);
        let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
        let params = PatchParams::default();
        let scaled = in_time(deployments.patch_scale(name, &params, &patch)).await;
        scaled.map(drop).map_err(|why| format!("cannot scale the Deployment {namespace}/{name}: {why}"))
    }
}

async fn in_time<T>(asked: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(ANSWERED, asked).await {
        Ok(answered) => answered.map_err(|error| in_words(&error)),
        Err(_) => Err(format!("the API server has not answered within {} seconds", ANSWERED.as_secs())),
    }
}

/// A watch of one kind of object in one namespace.
struct Follower<K> {
    api: Api<K>,
    label: String,
    read: fn(&K, &str) -> Option<ClusterObject>,
    number: WatchNumber,
    board: Arc<Board>,
    /// Faults in a row.
    failures: usize,
}

impl<K> Follower<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    /// Watches for ever. After every fault the watch starts over at once; only if that fails too, the cluster is told to be
    /// away.
    async fn run(mut self) {
        loop {
            let reason = self.watch().await;
            self.failures += 1;
            if self.failures == 2 {
                let kind = K::kind(&());
                tracing::warn!(event = "gateway.cluster_away", %kind, reason, "the cluster does not answer: {reason}");
            }
            if self.failures > 1 {
                self.learn(WatchEvent::Lost { reason, at_ms: now_ms() });
            }
            let pause = PAUSES[(self.failures - 1).min(PAUSES.len() - 1)];
            sleep(pause.mul_f64(0.75 + 0.5 * fastrand::f64())).await; // many gateways must not come back in step
        }
    }

    /// Lists and watches until something fails. Returns what.
    async fn watch(&mut self) -> String {
        let config = watcher::Config::default().labels(&self.label).timeout(WATCH_SECONDS);
        let mut events = Box::pin(watcher(self.api.clone(), config));
        let mut listed = false;
        let mut beat = Instant::now() + BEAT;
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = sleep_until(beat) => {
                    // A server that hangs says nothing, like one with no news.
                    if let Err(why) = self.answers(listed).await {
                        return why;
                    }
                    beat = Instant::now() + BEAT;
                    continue;
                }
            };
            beat = Instant::now() + BEAT;
            match event {
                Some(Ok(Event::Init)) => self.learn(WatchEvent::Listing),
                Some(Ok(Event::InitApply(object) | Event::Apply(object))) => match (self.read)(&object, &self.label) {
                    Some(object) => self.learn(WatchEvent::Applied(object)),
                    None => self.learn(WatchEvent::Deleted(id(&object))),
                },
                Some(Ok(Event::Delete(object))) => self.learn(WatchEvent::Deleted(id(&object))),
                Some(Ok(Event::InitDone)) => {
                    self.learn(WatchEvent::Listed);
                    if self.failures > 1 {
                        let kind = K::kind(&());
                        tracing::info!(event = "gateway.cluster_back", %kind, "the cluster answers again");
                    }
                    (listed, self.failures) = (true, 0);
                }
                Some(Err(error)) => return reason(&error),
                None => return "the watch has ended".into(),
            }
        }
    }

    /// Whether the server still answers, while a watch is silent.
    async fn answers(&self, listed: bool) -> Result<(), String> {
        if !listed {
            return Err(format!("the API server has not answered within {} seconds", BEAT.as_secs()));
        }
        let smallest = ListParams::default().labels(&self.label).limit(1);
        in_time(self.api.list_metadata(&smallest)).await.map(drop)
    }

    fn learn(&self, event: WatchEvent) {
        self.board.learn(ListInput::Watched(self.number, event));
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn id<K: Resource>(object: &K) -> ObjectId {
    ObjectId { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
}

/// The parts of a Service that the gateway uses; `None` if its label cannot name a workspace.
fn service(object: &Service, label: &str) -> Option<ClusterObject> {
    let spec = object.spec.clone().unwrap_or_default();
    // Such a Service may name any host, such as the metadata service, and the token would be sent there.
    if spec.type_.as_deref() == Some("ExternalName") {
        return object_of(object, label, ObjectFacts::Service { launcher: None, metrics: None });
    }
    let place = id(object);
    let host = match spec.cluster_ip {
        Some(address) if !address.is_empty() && address != "None" => address,
        _ => format!("{}.{}.svc", place.name, place.namespace), // headless
    };
    let ports = spec.ports.unwrap_or_default();
    let port = |(names, number): (&[&str], u16)| {
        let by_name = ports.iter().find(|port| port.name.as_deref().is_some_and(|name| names.contains(&name)));
        let found = by_name.or_else(|| ports.iter().find(|port| port.port == i32::from(number)));
        found.and_then(|port| u16::try_from(port.port).ok())
    };
    let at = |port| Endpoint::Tcp { host: host.clone(), port };
    let launcher = Some(at(port(LAUNCHER).unwrap_or(LAUNCHER.1)));
    let facts = ObjectFacts::Service { launcher, metrics: port(METRICS).map(at) };
    object_of(object, label, facts)
}

/// The parts of a Deployment that the gateway uses; `None` if its label cannot name a workspace.
fn deployment(object: &Deployment, label: &str) -> Option<ClusterObject> {
    let count = |number: Option<i32>| number.and_then(|number| u32::try_from(number).ok());
    let wanted = object.spec.as_ref().and_then(|spec| count(spec.replicas)).unwrap_or(1);
    let status = object.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let troubles = [("ReplicaFailure", "True"), ("Progressing", "False")];
    let trouble = troubles.iter().find_map(|(kind, value)| {
        let found = conditions.iter().find(|one| one.type_ == *kind && one.status == *value)?;
        found.message.clone().or_else(|| found.reason.clone())
    });
    let trouble = trouble.map(|text| plain::text(&text).chars().take(300).collect()).unwrap_or_default();
    let (pods, ready) = (count(status.replicas).unwrap_or(0), count(status.ready_replicas).unwrap_or(0));
    object_of(object, label, ObjectFacts::Deployment { wanted, pods, ready, trouble })
}

fn object_of<K: Resource>(object: &K, label: &str, facts: ObjectFacts) -> Option<ClusterObject> {
    let workspace = object.labels().get(label).filter(|name| is_workspace_name(name))?.clone();
    let token = object.annotations().get(TOKEN).map(|named| {
        let (secret, key) = named.split_once('/').unwrap_or((named, KEY));
        SecretKey { secret: secret.into(), key: key.into() }
    });
    Some(ClusterObject { id: id(object), workspace, token, facts })
}

fn reason(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => in_words(error),
        watcher::Error::WatchError(status) => plain::text(&status.message),
        watcher::Error::NoResourceVersion => "the API server does not support watches".into(),
    }
}

fn in_words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => plain::text(&status.message),
        error => {
            let mut deepest: &dyn std::error::Error = error;
            while let Some(cause) = deepest.source() {
                deepest = cause;
            }
            let late = deepest.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut);
            match late || deepest.is::<Elapsed>() {
                true => "it took too long to answer".into(),
                false => plain::text(&deepest.to_string()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_too_slow_is_told_in_plain_words() {
        let late = io::Error::new(io::ErrorKind::TimedOut, "deadline has elapsed");
        assert_eq!(in_words(&kube::Error::Service(Box::new(late))), "it took too long to answer");
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(in_words(&kube::Error::Service(Box::new(refused))), "connection refused");
    }

    #[test]
    fn a_service_may_not_name_a_host_of_its_own() {
        let read = |spec| {
            let labels = json!({ "desk": "desk" });
            let object = json!({ "metadata": { "name": "s", "namespace": "kasm", "labels": labels }, "spec": spec });
            service(&serde_json::from_value(object).unwrap(), "desk").expect("its label names a workspace").facts
        };
        let outside =
            read(json!({ "type": "ExternalName", "externalName": "169.254.169.254", "ports": [{ "port": 80 }] }));
        assert_eq!(outside, ObjectFacts::Service { launcher: None, metrics: None });
        let at = |host: &str| Some(Endpoint::Tcp { host: host.into(), port: 9998 });
        for (spec, host) in [
            (json!({ "clusterIP": "10.96.0.7", "externalName": "169.254.169.254" }), "10.96.0.7"),
            (json!({ "clusterIP": "None" }), "s.kasm.svc"),
        ] {
            assert_eq!(read(spec), ObjectFacts::Service { launcher: at(host), metrics: None });
        }
    }
}
