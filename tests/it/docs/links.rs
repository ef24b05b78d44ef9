//! Links between the pages, and the table of contents of the book.

use std::collections::BTreeSet;

use kasm_void::model::exit::Exit;
use kasm_void::model::protocol::StateName;

use super::{pages, prose, root};

/// The targets of `[text](target)` and of `![text](target)`.
fn targets(text: &str) -> Vec<String> {
    let parts = text.split("](").skip(1);
    parts.filter_map(|part| Some(part.split_once(')')?.0.to_owned())).collect()
}

/// The anchors that headings get, as on GitHub and in mdBook.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let anchor = |heading: &str| {
        let kept = heading.to_lowercase().replace(' ', "-");
        kept.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect::<String>()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut wrong = Vec::new();
    for page in pages() {
        let folder = root().join(&page.path).parent().expect("a folder").to_owned();
        for target in targets(&prose(&page.text)).iter().filter(|target| !target.contains("://")) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { root().join(&page.path) } else { folder.join(file) };
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if !path.exists() || !anchor.is_empty() && !anchors(&prose(&text)).contains(anchor) {
                wrong.push(format!("{}: {target}", page.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_page_is_in_the_book_once() {
    let contents = std::fs::read_to_string(root().join("docs/SUMMARY.md")).expect("the contents of the book");
    let mut listed = targets(&contents);
    listed.sort();
    let all = pages().into_iter().filter_map(|page| page.path.strip_prefix("docs/").map(str::to_owned));
    let mut all: Vec<String> = all.filter(|name| name != "SUMMARY.md").collect();
    all.sort();
    assert_eq!(listed, all);
    let book = std::fs::read_to_string(root().join("book.toml")).expect("the settings of the book");
    assert!(book.contains("src = \"docs\""), "{book}");
}

#[test]
fn every_state_and_every_end_is_explained() {
    let text = std::fs::read_to_string(root().join("docs/states.md")).expect("a page");
    for state in StateName::ALL {
        assert!(text.contains(&format!("| `{state}` |")), "{state}");
    }
    let why = || String::from("…");
    let ends = [
        Exit::Clean,
        Exit::Code(3),
        Exit::Signal(9),
        Exit::OutOfMemory,
        Exit::ProfileLocked,
        Exit::HookFailed(why()),
        Exit::SpawnFailed(why()),
        Exit::NotReady(why()),
        Exit::Unhealthy(why()),
        Exit::TooMuchMemory(0),
        Exit::StoppedByUs,
        Exit::Unknown,
    ];
    for end in ends {
        let words = end.to_string();
        let words = words.split([':', ',']).next().unwrap_or_default();
        let words = words.strip_suffix(" by another browser").unwrap_or(words);
        assert!(text.contains(&format!("| `{words}")), "{words}");
    }
}
