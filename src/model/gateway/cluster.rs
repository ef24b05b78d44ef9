//! The gateway's view of the cluster: Services and Deployments, grouped by the label that names their workspace.
//! Fed with the events of watches; each watch may start over, and is then compared with what was known.

use std::collections::{BTreeMap, BTreeSet};

use super::settings::{Endpoint, TokenSource};
use super::view::{ClusterHealth, WorkspaceStatus};

/// The number of a watch: one kind of object in one namespace.
pub type WatchNumber = usize;

/// Where an object is in the cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectId {
    /// The namespace.
    pub namespace: String,
    /// The name in it.
    pub name: String,
}

/// The parts of a Service or a Deployment that the gateway uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterObject {
    /// Where it is.
    pub id: ObjectId,
    /// The workspace that it belongs to, from its label.
    pub workspace: String,
    /// The Secret with the launcher's token, if it names one.
    pub token: Option<SecretKey>,
    /// Its kind, and the facts of that kind.
    pub facts: ObjectFacts,
}

/// A key of a Secret in the object's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretKey {
    /// The Secret's name.
    pub secret: String,
    /// The key in it.
    pub key: String,
}

/// The facts of each kind of object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectFacts {
    /// A Service.
    Service {
        /// The launcher's address; `None` if the Service leads out of the cluster.
        launcher: Option<Endpoint>,
        /// The address of the metrics, if the Service has a port for them.
        metrics: Option<Endpoint>,
    },
    /// A Deployment.
    Deployment {
        /// `spec.replicas`
        wanted: u32,
        /// `status.replicas`
        pods: u32,
        /// `status.readyReplicas`
        ready: u32,
        /// Why the cluster cannot start it; empty if it can.
        trouble: String,
    },
}

/// An event of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// The watch starts over: what is not applied again before `Listed` is gone.
    Listing,
    /// Everything was listed.
    Listed,
    /// An object is there, or has changed.
    Applied(ClusterObject),
    /// An object is gone.
    Deleted(ObjectId),
    /// The watch is broken, and starting over has failed too.
    Lost {
        /// Why, in words.
        reason: String,
        /// When, in milliseconds since 1970.
        at_ms: u64,
    },
}

/// All objects of the cluster, by watch.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    watches: Vec<Watched>,
    /// The objects of each workspace.
    members: BTreeMap<String, BTreeSet<(WatchNumber, ObjectId)>>,
}

#[derive(Debug, Clone, Default)]
struct Watched {
    objects: BTreeMap<ObjectId, ClusterObject>,
    /// The objects that were seen since the watch has started over; `None` while it does not.
    seen: Option<BTreeSet<ObjectId>>,
    /// It has listed everything at least once.
    complete: bool,
    lost: Option<(u64, String)>,
}

/// One workspace, as far as the cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterWorkspace {
    /// As the Deployment says; `Unknown` without one.
    pub status: WorkspaceStatus,
    /// A sentence; may be empty.
    pub reason: String,
    /// The launcher's address, from the Service.
    pub launcher: Option<Endpoint>,
    /// The address of the metrics, from the Service.
    pub metrics: Option<Endpoint>,
    /// Where the launcher's token is.
    pub token: TokenSource,
    /// The Deployment to scale.
    pub deployment: Option<ObjectId>,
}

impl Cluster {
    /// A cluster that is seen through this many watches.
    pub fn new(watches: usize) -> Self {
        Cluster { watches: vec![Watched::default(); watches], members: BTreeMap::new() }
    }

    /// Takes one event. Returns the workspaces that may look different now.
    pub fn handle(&mut self, watch: WatchNumber, event: WatchEvent) -> BTreeSet<String> {
        let mut touched = BTreeSet::new();
        match event {
            WatchEvent::Listing => self.watches[watch].seen = Some(BTreeSet::new()),
            WatchEvent::Listed => {
                let watched = &mut self.watches[watch];
                (watched.complete, watched.lost) = (true, None);
                let seen = watched.seen.take().unwrap_or_default();
                let gone: Vec<_> = watched.objects.keys().filter(|id| !seen.contains(id)).cloned().collect();
                for id in gone {
                    self.remove(watch, &id, &mut touched);
                }
            }
            WatchEvent::Applied(object) => {
                let id = object.id.clone();
                if let Some(seen) = &mut self.watches[watch].seen {
                    seen.insert(id.clone());
                }
                if self.watches[watch].objects.get(&id) != Some(&object) {
                    self.remove(watch, &id, &mut touched); // its label may name another workspace now
                    touched.insert(object.workspace.clone());
                    self.members.entry(object.workspace.clone()).or_default().insert((watch, id.clone()));
                    self.watches[watch].objects.insert(id, object);
                }
            }
            WatchEvent::Deleted(id) => self.remove(watch, &id, &mut touched),
            WatchEvent::Lost { reason, at_ms } => {
                let lost = &mut self.watches[watch].lost;
                let since = lost.as_ref().map_or(at_ms, |(since, _)| *since);
                *lost = Some((since, reason));
            }
        }
        touched
    }

    fn remove(&mut self, watch: WatchNumber, id: &ObjectId, touched: &mut BTreeSet<String>) {
        let Some(object) = self.watches[watch].objects.remove(id) else { return };
        if let Some(members) = self.members.get_mut(&object.workspace) {
            members.remove(&(watch, id.clone()));
            if members.is_empty() {
                self.members.remove(&object.workspace);
            }
        }
        touched.insert(object.workspace);
    }

    /// The workspace with this name, if an object carries it. All its objects are in one namespace, so that a token never
    /// leaves its own: the first namespace with the name, in the order of the settings, has it.
    pub fn workspace(&self, name: &str) -> Option<ClusterWorkspace> {
        let members = self.members.get(name)?;
        let home = &members.first()?.1.namespace;
        let elsewhere = members.iter().map(|(_, id)| &id.namespace).find(|namespace| *namespace != home);
        let inside = members.iter().filter(|(_, id)| id.namespace == *home);
        let objects: Vec<&ClusterObject> =
            inside.filter_map(|(watch, id)| self.watches[*watch].objects.get(id)).collect();
        let services = objects.iter().filter(|one| matches!(one.facts, ObjectFacts::Service { .. }));
        let deployments = objects.iter().filter(|one| matches!(one.facts, ObjectFacts::Deployment { .. }));
        let (services, deployments) = (first(services), first(deployments));
        let (service, deployment) = (services.first(), deployments.first());
        let (status, why) = match deployment.map(|one| &one.facts) {
            Some(ObjectFacts::Deployment { wanted, pods, ready, trouble }) => status(*wanted, *pods, *ready, trouble),
            _ => (WorkspaceStatus::Unknown, String::new()),
        };
        let elsewhere =
            elsewhere.map(|other| format!("the namespace {other} has its name too; the one in {home} is used"));
        let doubts = [doubled("Services", &services), doubled("Deployments", &deployments), elsewhere];
        let missing = match service.map(|one| &one.facts) {
            None => Some("no Service carries its name, so no page can be opened".to_owned()),
            Some(ObjectFacts::Service { launcher: None, .. }) => {
                Some("its Service leads out of the cluster (ExternalName), so no page can be opened".to_owned())
            }
            Some(_) => None,
        };
        let sentences: Vec<String> =
            [Some(why).filter(|why| !why.is_empty()), missing].into_iter().chain(doubts).flatten().collect();
        let (launcher, metrics) = match service.map(|one| &one.facts) {
            Some(ObjectFacts::Service { launcher, metrics }) => (launcher.clone(), metrics.clone()),
            _ => (None, None),
        };
        let named = deployment.into_iter().chain(service).find_map(|one| Some((one, one.token.as_ref()?)));
        let token = named.map_or(TokenSource::None, |(one, SecretKey { secret, key })| TokenSource::Secret {
            namespace: one.id.namespace.clone(),
            name: secret.clone(),
            key: key.clone(),
        });
        let deployment = deployment.map(|one| one.id.clone());
        Some(ClusterWorkspace { status, reason: sentences.join("; "), launcher, metrics, token, deployment })
    }

    /// How well the cluster is known. It is away while any watch is.
    pub fn health(&self) -> ClusterHealth {
        let lost = self.watches.iter().filter_map(|watched| watched.lost.as_ref()).min();
        match lost {
            Some((since_ms, reason)) => ClusterHealth::Away { since_ms: *since_ms, reason: reason.clone() },
            None if self.watches.iter().all(|watched| watched.complete) => ClusterHealth::Live,
            None => ClusterHealth::Connecting,
        }
    }
}

/// In the order of their names, so that the same one is always used.
fn first<'a>(objects: impl Iterator<Item = &'a &'a ClusterObject>) -> Vec<&'a ClusterObject> {
    let mut objects: Vec<&ClusterObject> = objects.copied().collect();
    objects.sort_by(|a, b| a.id.cmp(&b.id));
    objects
}

fn doubled(kind: &str, objects: &[&ClusterObject]) -> Option<String> {
    let (first, others) = objects.split_first()?;
    let other = others.first()?;
    let at = |one: &ClusterObject| format!("{}/{}", one.id.namespace, one.id.name);
    Some(format!("two {kind} carry its name, {} and {}; the first is used", at(first), at(other)))
}

fn status(wanted: u32, pods: u32, ready: u32, trouble: &str) -> (WorkspaceStatus, String) {
    match (wanted, pods, ready) {
        (0, 0, _) => (WorkspaceStatus::Stopped, String::new()),
        (0, _, _) => (WorkspaceStatus::Stopping, String::new()),
        (_, _, 1..) => (WorkspaceStatus::Ready, String::new()),
        _ if !trouble.is_empty() => (WorkspaceStatus::Failed, trouble.into()),
        _ => (WorkspaceStatus::Starting, String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> ObjectId {
        ObjectId { namespace: "kasm".into(), name: name.into() }
    }

    fn service(name: &str, workspace: &str) -> WatchEvent {
        let launcher = Some(Endpoint::Tcp { host: "10.0.0.1".into(), port: 9998 });
        let facts = ObjectFacts::Service { launcher, metrics: None };
        WatchEvent::Applied(ClusterObject { id: id(name), workspace: workspace.into(), token: None, facts })
    }

    fn deployment(name: &str, workspace: &str, (wanted, pods, ready): (u32, u32, u32), trouble: &str) -> WatchEvent {
        let facts = ObjectFacts::Deployment { wanted, pods, ready, trouble: trouble.into() };
        let token = Some(SecretKey { secret: "vnc".into(), key: "password".into() });
        WatchEvent::Applied(ClusterObject { id: id(name), workspace: workspace.into(), token, facts })
    }

    fn names(touched: BTreeSet<String>) -> Vec<String> {
        touched.into_iter().collect()
    }

    #[test]
    fn a_deployment_goes_through_its_states() {
        let mut cluster = Cluster::new(2);
        cluster.handle(0, service("a-service", "a"));
        for (counts, trouble, wanted) in [
            ((0, 0, 0), "", WorkspaceStatus::Stopped),
            ((1, 0, 0), "", WorkspaceStatus::Starting),
            ((1, 1, 0), "quota", WorkspaceStatus::Failed),
            ((1, 1, 1), "quota", WorkspaceStatus::Ready),
            ((0, 1, 1), "", WorkspaceStatus::Stopping),
            ((0, 0, 0), "quota", WorkspaceStatus::Stopped),
        ] {
            assert_eq!(names(cluster.handle(1, deployment("a", "a", counts, trouble))), ["a"]);
            let seen = cluster.workspace("a").unwrap();
            assert_eq!((seen.status, seen.deployment), (wanted, Some(id("a"))), "{counts:?}");
        }
        let token = TokenSource::Secret { namespace: "kasm".into(), name: "vnc".into(), key: "password".into() };
        assert_eq!(cluster.workspace("a").unwrap().token, token);
    }

    #[test]
    fn what_is_not_listed_again_is_gone() {
        let mut cluster = Cluster::new(2);
        assert_eq!(cluster.health(), ClusterHealth::Connecting);
        for name in ["a", "b", "c"] {
            cluster.handle(0, service(name, name));
        }
        cluster.handle(0, WatchEvent::Listing);
        assert!(cluster.handle(0, service("b", "b")).is_empty(), "nothing has changed");
        assert_eq!(names(cluster.handle(0, service("c", "d"))), ["c", "d"], "it was renamed");
        assert!(cluster.workspace("a").is_some(), "not yet");
        assert_eq!(names(cluster.handle(0, WatchEvent::Listed)), ["a"]);
        let there = ["a", "b", "c", "d"].map(|name| cluster.workspace(name).is_some());
        assert_eq!(there, [false, true, false, true]);
        assert_eq!(cluster.health(), ClusterHealth::Connecting, "the other watch");
        cluster.handle(1, WatchEvent::Listing);
        cluster.handle(1, WatchEvent::Listed);
        assert_eq!(cluster.health(), ClusterHealth::Live);
    }

    #[test]
    fn a_lost_watch_keeps_what_it_knew_and_since_when() {
        let mut cluster = Cluster::new(1);
        cluster.handle(0, WatchEvent::Listing);
        cluster.handle(0, service("a", "a"));
        cluster.handle(0, WatchEvent::Listed);
        let lost = |at_ms, reason: &str| WatchEvent::Lost { reason: reason.into(), at_ms };
        cluster.handle(0, lost(5, "refused"));
        cluster.handle(0, WatchEvent::Listing);
        cluster.handle(0, lost(9, "timed out"));
        assert!(cluster.workspace("a").is_some());
        assert_eq!(cluster.health(), ClusterHealth::Away { since_ms: 5, reason: "timed out".into() });
        cluster.handle(0, WatchEvent::Listing);
        assert_eq!(names(cluster.handle(0, WatchEvent::Listed)), ["a"]);
        assert_eq!(cluster.health(), ClusterHealth::Live);
    }

    #[test]
    fn two_with_one_name_are_told_and_always_the_same_is_used() {
        let mut cluster = Cluster::new(2);
        cluster.handle(1, deployment("z", "a", (1, 1, 1), ""));
        cluster.handle(1, deployment("b", "a", (0, 0, 0), ""));
        cluster.handle(0, service("s", "a"));
        let seen = cluster.workspace("a").unwrap();
        assert_eq!(seen.status, WorkspaceStatus::Stopped);
        assert_eq!(seen.reason, "two Deployments carry its name, kasm/b and kasm/z; the first is used");
    }

    fn within(namespace: &str, event: WatchEvent) -> WatchEvent {
        let WatchEvent::Applied(mut object) = event else { panic!("{event:?}") };
        object.id.namespace = namespace.into();
        WatchEvent::Applied(object)
    }

    #[test]
    fn a_token_never_leaves_its_namespace() {
        let mut cluster = Cluster::new(4);
        cluster.handle(0, within("kasm", service("desk", "desk")));
        cluster.handle(1, within("kasm", deployment("desk", "desk", (1, 1, 1), "")));
        // Another namespace takes the name, and comes first in the alphabet.
        cluster.handle(2, within("aaa", service("desk", "desk")));
        cluster.handle(3, within("aaa", deployment("desk", "desk", (0, 0, 0), "")));
        let seen = cluster.workspace("desk").unwrap();
        assert_eq!((seen.status, seen.deployment.unwrap().namespace.as_str()), (WorkspaceStatus::Ready, "kasm"));
        assert_eq!(seen.reason, "the namespace aaa has its name too; the one in kasm is used");
        // Nor are halves in two namespaces put together.
        cluster.handle(0, WatchEvent::Deleted(id("desk")));
        let seen = cluster.workspace("desk").unwrap();
        assert_eq!((seen.launcher, seen.status), (None, WorkspaceStatus::Ready));
        assert!(seen.reason.contains("no Service carries its name"), "{}", seen.reason);
    }

    #[test]
    fn a_service_that_leads_out_of_the_cluster_is_not_followed() {
        let mut cluster = Cluster::new(2);
        let WatchEvent::Applied(mut outside) = service("s", "a") else { unreachable!() };
        outside.facts = ObjectFacts::Service { launcher: None, metrics: None };
        cluster.handle(0, WatchEvent::Applied(outside));
        let seen = cluster.workspace("a").unwrap();
        assert_eq!((seen.launcher, seen.metrics), (None, None));
        assert!(seen.reason.contains("leads out of the cluster"), "{}", seen.reason);
    }
}
