//! The list, seen by clients that read at any pace.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::model::gateway::cluster::{ClusterObject, ObjectFacts};

/// What a client has put together from its pieces, as a page does it.
#[derive(Default)]
struct Page {
    cursor: Cursor,
    workspaces: BTreeMap<String, Value>,
    cluster: Value,
}

impl Page {
    /// Reads one piece. Returns whether there was one.
    fn read(&mut self, list: &WorkspaceList) -> bool {
        let Some((cursor, piece)) = list.next(&self.cursor) else { return false };
        let piece: Value = serde_json::from_str(&piece).expect("JSON");
        if piece["reset"] == true {
            self.workspaces.clear();
        }
        for name in piece["removed"].as_array().unwrap() {
            self.workspaces.remove(name.as_str().unwrap());
        }
        let changed = piece["changed"].as_array().unwrap();
        assert!(changed.len() <= PIECE);
        for workspace in changed {
            self.workspaces.insert(workspace["name"].as_str().unwrap().into(), workspace.clone());
        }
        (self.cursor, self.cluster) = (cursor, piece["cluster"].clone());
        true
    }

    fn read_all(&mut self, list: &WorkspaceList) {
        for _ in 0..100_000 {
            if !self.read(list) {
                return;
            }
        }
        panic!("it never ends");
    }

    fn assert_agrees(&self, list: &WorkspaceList) {
        let whole = document(list, |_| {});
        let all: Vec<&Value> = self.workspaces.values().collect();
        assert_eq!(all, whole["workspaces"].as_array().unwrap().iter().collect::<Vec<_>>());
        assert_eq!(self.cluster, whole["cluster"]);
    }
}

/// The whole list, read part by part. `between` happens after the first part.
fn document(list: &WorkspaceList, between: impl FnOnce(&mut WorkspaceList)) -> Value {
    let (mut cursor, mut text) = list.document(&Cursor::Start).expect("a first part");
    let mut list = list.clone();
    between(&mut list);
    while let Some((next, part)) = list.document(&cursor) {
        text += &part;
        cursor = next;
    }
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn deployment(number: u32, ready: u32) -> ListInput {
    let facts = ObjectFacts::Deployment { wanted: 1, pods: 1, ready, trouble: String::new() };
    let object = ClusterObject { id: id(number), workspace: format!("w{number}"), token: None, facts };
    ListInput::Watched(0, WatchEvent::Applied(object))
}

fn id(number: u32) -> ObjectId {
    ObjectId { namespace: "n".into(), name: format!("d{number}") }
}

fn deleted(number: u32) -> ListInput {
    ListInput::Watched(0, WatchEvent::Deleted(id(number)))
}

fn watched(event: WatchEvent) -> ListInput {
    ListInput::Watched(0, event)
}

#[derive(Debug, Clone)]
enum Step {
    Input(ListInput),
    Read(usize),
}

fn input() -> impl Strategy<Value = ListInput> {
    let probed = |number, answer| ListInput::Probed { workspace: format!("w{number}"), answer };
    prop_oneof![
        8 => (0..200u32, 0..2u32).prop_map(|(number, ready)| deployment(number, ready)),
        4 => (0..200u32).prop_map(deleted),
        1 => Just(watched(WatchEvent::Listing)),
        1 => Just(watched(WatchEvent::Listed)),
        1 => Just(watched(WatchEvent::Lost { reason: "away".into(), at_ms: 1 })),
        2 => (0..200u32).prop_map(move |number| probed(number, ProbeAnswer::Healthy)),
        2 => (0..200u32).prop_map(move |number| probed(number, ProbeAnswer::Silent("refused".into()))),
        2 => (0..200u32).prop_map(move |number| {
            let text = "kasm_void_app_state{app=\"a\",state=\"Backoff\"} 1\n";
            probed(number, ProbeAnswer::Metrics(text.into()))
        }),
    ]
}

proptest! {
    #[test]
    fn a_client_of_any_pace_ends_with_the_whole_list(
        steps in proptest::collection::vec(
            prop_oneof![60 => input().prop_map(Step::Input), 1 => (0..3usize).prop_map(Step::Read)], 0..600),
    ) {
        let mut list = WorkspaceList::new(BTreeMap::new(), Some(1));
        let mut pages: Vec<Page> = (0..3).map(|_| Page::default()).collect();
        for step in steps {
            match step {
                Step::Input(input) => drop(list.handle(input)),
                Step::Read(which) => drop(pages[which].read(&list)),
            }
            prop_assert!(list.changes.len() == list.shown.len(), "one change a workspace");
        }
        for page in &mut pages {
            page.read_all(&list);
            page.assert_agrees(&list);
        }
    }
}

#[test]
fn one_that_comes_and_goes_leaves_nothing_behind() {
    let mut list = WorkspaceList::new(BTreeMap::new(), Some(1));
    let (mut quick, mut slow) = (Page::default(), Page::default());
    slow.read_all(&list);
    for _ in 0..5000 {
        assert!(list.handle(deployment(1, 1)));
        assert!(list.handle(ListInput::Probed { workspace: "w1".into(), answer: ProbeAnswer::Healthy }));
        quick.read_all(&list);
        assert_eq!(quick.workspaces.len(), 1);
        assert!(list.handle(deleted(1)));
        quick.read_all(&list);
        assert!(quick.workspaces.is_empty());
    }
    assert!(list.probed.is_empty() && list.changes.is_empty() && list.removals.len() <= REMEMBERED);
    slow.read_all(&list);
    slow.assert_agrees(&list);
}

#[test]
fn a_client_that_is_far_behind_forgets_what_is_gone() {
    let mut list = WorkspaceList::new(BTreeMap::new(), Some(1));
    let mut page = Page::default();
    list.handle(deployment(0, 1));
    page.read_all(&list);
    list.handle(deleted(0));
    // More than the list remembers.
    for _ in 0..=REMEMBERED {
        list.handle(deployment(1, 1));
        list.handle(deleted(1));
    }
    page.read_all(&list);
    page.assert_agrees(&list);
}

#[test]
fn a_document_that_is_read_slowly_is_whole_whatever_happens_meanwhile() {
    for count in [0, 1, 63, 64, 65, 128, 129, 200] {
        let mut list = WorkspaceList::new(BTreeMap::new(), Some(1));
        for number in 0..count {
            list.handle(deployment(number, 1));
        }
        let read = |between: &dyn Fn(&mut WorkspaceList)| {
            document(&list, between)["workspaces"].as_array().expect("workspaces").len()
        };
        assert_eq!(read(&|_| {}), count as usize);
        let all_gone = |list: &mut WorkspaceList| {
            (0..count).for_each(|number| assert!(list.handle(deleted(number))));
        };
        assert_eq!(read(&all_gone), PIECE.min(count as usize), "what was read before stays");
    }
}

#[test]
fn an_answer_that_says_nothing_new_wakes_nobody() {
    let mut list = WorkspaceList::new(BTreeMap::new(), Some(1));
    list.handle(deployment(1, 1));
    let text = "kasm_void_app_state{app=\"a\",state=\"Backoff\"} 1\nkasm_void_app_uptime_seconds{app=\"a\"} 1.5\n";
    let metrics = |text: &str| ListInput::Probed { workspace: "w1".into(), answer: ProbeAnswer::Metrics(text.into()) };
    assert!(list.handle(metrics(text)));
    assert!(!list.handle(metrics(&text.replace("1.5", "2.5"))));
    assert!(list.handle(metrics(&text.replace("Backoff", "Running"))));
}

#[test]
fn a_workspace_that_should_answer_and_does_not_is_unreachable() {
    let mut list = WorkspaceList::new(BTreeMap::new(), Some(1));
    let status = |list: &WorkspaceList| list.views().next().unwrap().status;
    list.handle(deployment(1, 1));
    assert_eq!(status(&list), WorkspaceStatus::Ready);
    let silent = ProbeAnswer::Silent("refused".into());
    list.handle(ListInput::Probed { workspace: "w1".into(), answer: silent });
    assert_eq!(
        (status(&list), list.views().next().unwrap().reason.as_str()),
        (WorkspaceStatus::Unreachable, "refused")
    );
    list.handle(deployment(1, 0));
    assert_eq!(status(&list), WorkspaceStatus::Starting, "the cluster knows better");
}

#[test]
fn what_is_stopped_is_asked_only_while_the_cluster_is_away() {
    let mut list = WorkspaceList::new(BTreeMap::new(), Some(1));
    let facts = ObjectFacts::Deployment { wanted: 0, pods: 0, ready: 0, trouble: String::new() };
    let object = ClusterObject { id: id(1), workspace: "w1".into(), token: None, facts };
    for event in [WatchEvent::Listing, WatchEvent::Applied(object), WatchEvent::Listed] {
        list.handle(watched(event));
    }
    assert!(list.reachable("w1").unwrap().down && list.to_probe(true).is_empty());
    list.handle(watched(WatchEvent::Lost { reason: "away".into(), at_ms: 1 }));
    assert!(!list.reachable("w1").unwrap().down);
    assert_eq!(list.reachable("w2"), None);
}
