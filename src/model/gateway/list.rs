//! The list of workspaces as its clients see it: a state machine fed with what the watches and probes have seen. Each
//! change has a version. A client is only a cursor: it is told what has changed since, however slowly it reads, so that
//! nothing is ever queued for it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use super::apps;
use super::cluster::{Cluster, ClusterWorkspace, ObjectId, WatchEvent, WatchNumber};
use super::settings::{Endpoint, FixedWorkspace, TokenSource};
use super::view::{AppView, ClusterHealth, WorkspaceStatus, WorkspaceView};

/// The most workspaces in one piece for a client.
const PIECE: usize = 64;
/// How many removals are remembered. A client that is further behind gets the whole list.
const REMEMBERED: usize = 1024;

/// An input of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListInput {
    /// A watch has seen something.
    Watched(WatchNumber, WatchEvent),
    /// A workspace was asked how it is.
    Probed {
        /// Its name.
        workspace: String,
        /// Its answer.
        answer: ProbeAnswer,
    },
}

/// The answer of a workspace to a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeAnswer {
    /// The text of its metrics.
    Metrics(String),
    /// It serves no metrics, but its launcher answers.
    Healthy,
    /// Why it did not answer.
    Silent(String),
}

/// Everything that is needed to reach a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reachable {
    /// The launcher's address.
    pub launcher: Option<Endpoint>,
    /// The address of the metrics.
    pub metrics: Option<Endpoint>,
    /// Where the launcher's token is.
    pub token: TokenSource,
    /// The Deployment to scale.
    pub deployment: Option<ObjectId>,
    /// It is known to be down, so that nobody needs to wait for an answer.
    pub down: bool,
}

/// Where a client is in the list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Cursor {
    /// It has nothing.
    #[default]
    Start,
    /// It has the whole list up to a name, as of a version or later.
    Within {
        /// The version of the list when the client began.
        version: u64,
        /// The last name that it has.
        name: String,
    },
    /// It has everything up to a version.
    At(u64),
}

/// The list of workspaces.
#[derive(Debug, Clone)]
pub struct WorkspaceList {
    fixed: BTreeMap<String, FixedWorkspace>,
    /// `None` without Kubernetes.
    cluster: Option<Cluster>,
    probed: BTreeMap<String, Probed>,
    shown: BTreeMap<String, Shown>,
    version: u64,
    /// The last change of each workspace that is shown.
    changes: BTreeMap<u64, String>,
    removals: BTreeMap<u64, String>,
    /// Removals up to this version are forgotten.
    forgotten: u64,
    health: Option<ClusterHealth>,
}

#[derive(Debug, Clone)]
struct Shown {
    version: u64,
    view: WorkspaceView,
    json: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Probed {
    silent: Option<String>,
    apps: Option<Vec<AppView>>,
}

impl WorkspaceList {
    /// The workspaces that settings name, and those of a cluster that is seen through this many watches.
    pub fn new(fixed: BTreeMap<String, FixedWorkspace>, watches: Option<usize>) -> Self {
        let names: BTreeSet<String> = fixed.keys().cloned().collect();
        let cluster = watches.map(Cluster::new);
        let health = cluster.as_ref().map(Cluster::health);
        let mut list = WorkspaceList {
            fixed,
            cluster,
            probed: BTreeMap::new(),
            shown: BTreeMap::new(),
            version: 0,
            changes: BTreeMap::new(),
            removals: BTreeMap::new(),
            forgotten: 0,
            health,
        };
        list.refresh(names);
        list
    }

    /// Learns something. Returns whether clients see a difference.
    pub fn handle(&mut self, input: ListInput) -> bool {
        let before = self.version;
        match input {
            ListInput::Watched(watch, event) => {
                let Some(cluster) = &mut self.cluster else { return false };
                let touched = cluster.handle(watch, event);
                let health = Some(cluster.health());
                if self.health != health {
                    self.health = health;
                    self.version += 1;
                }
                self.refresh(touched);
            }
            ListInput::Probed { workspace, answer } => {
                let apps = |probed: Option<&Probed>| probed.and_then(|probed| probed.apps.clone());
                let probed = match answer {
                    ProbeAnswer::Metrics(text) => Probed { silent: None, apps: Some(apps::read(&text)) },
                    ProbeAnswer::Healthy => Probed::default(),
                    // What its apps did last is better than nothing, beside the word that it is unreachable.
                    ProbeAnswer::Silent(why) => Probed { silent: Some(why), apps: apps(self.probed.get(&workspace)) },
                };
                self.probed.insert(workspace.clone(), probed);
                self.refresh([workspace].into());
            }
        }
        self.version != before
    }

    /// Everything that is needed to reach a workspace, if there is one with this name.
    pub fn reachable(&self, name: &str) -> Option<Reachable> {
        if let Some(FixedWorkspace { launcher, metrics, token }) = self.fixed.get(name) {
            let (launcher, token) = (Some(launcher.clone()), token.clone());
            return Some(Reachable { launcher, metrics: metrics.clone(), token, deployment: None, down: false });
        }
        let cluster = self.cluster.as_ref()?;
        let ClusterWorkspace { status, launcher, metrics, token, deployment, .. } = cluster.workspace(name)?;
        // What the last known state says may be wrong by now.
        let down = status == WorkspaceStatus::Stopped && cluster.health() == ClusterHealth::Live;
        Some(Reachable { launcher, metrics, token, deployment, down })
    }

    /// The names of the workspaces that are worth asking how they are: all of them, or only those that were not asked yet.
    pub fn to_probe(&self, all: bool) -> Vec<String> {
        let worth = |view: &WorkspaceView| view.status.may_answer() && (all || view.reachable.is_none());
        self.shown.values().filter(|shown| worth(&shown.view)).map(|shown| shown.view.name.clone()).collect()
    }

    /// All workspaces, ordered by name.
    pub fn views(&self) -> impl Iterator<Item = &WorkspaceView> {
        self.shown.values().map(|shown| &shown.view)
    }

    /// `None` without Kubernetes.
    pub fn health(&self) -> Option<&ClusterHealth> {
        self.health.as_ref()
    }

    /// The version of the last change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The whole list as one JSON document, in parts: the one that follows for a client at this cursor, and where it is
    /// then. `None` at the end. A client that reads slowly sees later parts as they are then.
    pub fn document(&self, cursor: &Cursor) -> Option<(Cursor, String)> {
        let (version, from, before) = match cursor {
            Cursor::Start => {
                let head = format!(r#"{{"cluster":{},"workspaces":["#, self.health_json());
                (self.version, Bound::Unbounded, head)
            }
            Cursor::Within { version, name } => (*version, Bound::Excluded(name), ",".into()),
            Cursor::At(_) => return None,
        };
        let (next, part) = self.part(version, from);
        let before = if part.is_empty() { before.trim_end_matches(',') } else { &before };
        let after = if matches!(next, Cursor::At(_)) { "]}" } else { "" };
        Some((next, format!("{before}{}{after}", part.join(","))))
    }

    /// The next update for a client at this cursor, and the cursor after it. `None` if the client is up to date.
    pub fn next(&self, cursor: &Cursor) -> Option<(Cursor, String)> {
        match cursor {
            Cursor::At(version) if *version == self.version => None,
            Cursor::At(version) if *version >= self.forgotten => Some(self.changes_since(*version)),
            Cursor::Within { version, name } => Some(self.page(*version, Bound::Excluded(name))),
            Cursor::Start | Cursor::At(_) => Some(self.page(self.version, Bound::Unbounded)),
        }
    }

    /// A part of the whole list. The client gets the changes since `version` when it has all parts.
    fn page(&self, version: u64, from: Bound<&String>) -> (Cursor, String) {
        let reset = matches!(from, Bound::Unbounded);
        let (cursor, changed) = self.part(version, from);
        let more = !matches!(cursor, Cursor::At(_));
        (cursor, self.piece(reset, more, &changed, &[]))
    }

    /// The next workspaces of the whole list as JSON, and where a client is when it has them.
    fn part(&self, version: u64, from: Bound<&String>) -> (Cursor, Vec<&str>) {
        let mut rest = self.shown.range::<String, _>((from, Bound::Unbounded));
        let part: Vec<(&String, &Shown)> = rest.by_ref().take(PIECE).collect();
        let cursor = match (rest.next(), part.last()) {
            (Some(_), Some((name, _))) => Cursor::Within { version, name: (*name).clone() },
            _ => Cursor::At(version),
        };
        (cursor, part.iter().map(|(_, shown)| &*shown.json).collect())
    }

    fn changes_since(&self, version: u64) -> (Cursor, String) {
        let since = (Bound::Excluded(version), Bound::Unbounded);
        let mut happened: Vec<(u64, &String, bool)> =
            self.changes.range(since).take(PIECE + 1).map(|(version, name)| (*version, name, true)).collect();
        happened.extend(self.removals.range(since).take(PIECE + 1).map(|(version, name)| (*version, name, false)));
        happened.sort_unstable();
        let whole = happened.len() <= PIECE;
        happened.truncate(PIECE);
        // Without workspaces, only the health has changed, which every piece has.
        let cursor = match happened.last() {
            Some((last, ..)) if !whole => Cursor::At(*last),
            _ => Cursor::At(self.version),
        };
        let names = |there: bool| happened.iter().filter(move |(_, _, is)| *is == there).map(|(_, name, _)| *name);
        let changed: Vec<&str> = names(true).filter_map(|name| Some(&*self.shown.get(name)?.json)).collect();
        let removed: Vec<&String> = names(false).collect();
        (cursor, self.piece(false, !whole, &changed, &removed))
    }

    fn piece(&self, reset: bool, more: bool, changed: &[&str], removed: &[&String]) -> String {
        let (health, changed) = (self.health_json(), changed.join(","));
        let removed = serde_json::to_string(removed).unwrap_or_default(); // texts can always be written
        format!(r#"{{"reset":{reset},"more":{more},"cluster":{health},"changed":[{changed}],"removed":{removed}}}"#)
    }

    fn health_json(&self) -> String {
        serde_json::to_string(&self.health).unwrap_or_default()
    }

    /// Makes these workspaces look as they are now.
    fn refresh(&mut self, names: BTreeSet<String>) {
        for name in names {
            let view = self.view(&name);
            if view.as_ref().is_some_and(|view| view.reachable.is_none()) {
                self.probed.remove(&name); // an answer from before a stop says nothing about the next start
            }
            match (view, self.shown.get(&name)) {
                (Some(view), Some(shown)) if shown.view == view => {}
                (Some(view), _) => self.show(name, view),
                (None, Some(_)) => self.hide(name),
                (None, None) => drop(self.probed.remove(&name)), // it has gone while it was asked
            }
        }
    }

    fn show(&mut self, name: String, view: WorkspaceView) {
        self.version += 1;
        let json = serde_json::to_string(&view).unwrap_or_default().into(); // a view can always be written
        let shown = Shown { version: self.version, view, json };
        if let Some(before) = self.shown.insert(name.clone(), shown) {
            self.changes.remove(&before.version);
        }
        self.changes.insert(self.version, name);
    }

    fn hide(&mut self, name: String) {
        self.version += 1;
        self.probed.remove(&name);
        if let Some(before) = self.shown.remove(&name) {
            self.changes.remove(&before.version);
        }
        self.removals.insert(self.version, name);
        while self.removals.len() > REMEMBERED {
            if let Some((version, _)) = self.removals.pop_first() {
                self.forgotten = version;
            }
        }
    }

    fn view(&self, name: &str) -> Option<WorkspaceView> {
        let probed = self.probed.get(name);
        let reachable = probed.map(|probed| probed.silent.is_none());
        let apps = probed.and_then(|probed| probed.apps.clone());
        let silent = probed.and_then(|probed| probed.silent.clone());
        let by_probe = || match &silent {
            None if probed.is_some() => (WorkspaceStatus::Ready, String::new()),
            None => (WorkspaceStatus::Unknown, String::new()),
            Some(why) => (WorkspaceStatus::Unreachable, why.clone()),
        };
        if self.fixed.contains_key(name) {
            let (status, reason) = by_probe();
            return Some(WorkspaceView { name: name.into(), status, reason, reachable, scalable: false, apps });
        }
        let ClusterWorkspace { status, reason, deployment, .. } = self.cluster.as_ref()?.workspace(name)?;
        let scalable = deployment.is_some();
        let (status, reason) = match status {
            WorkspaceStatus::Unknown => by_probe(),
            WorkspaceStatus::Ready if silent.is_some() => by_probe(),
            status => (status, reason),
        };
        // A workspace that is down has no apps, and was not asked.
        let (reachable, apps) = if status.may_answer() { (reachable, apps) } else { (None, None) };
        Some(WorkspaceView { name: name.into(), status, reason, reachable, scalable, apps })
    }
}

#[cfg(test)]
mod tests;
