//! Finds which modules of `src` use which, and the cycles among them. Understands only paths: `use` trees, and paths that
//! begin with `crate`, `super`, `self` or the name of a child module.

use std::collections::{BTreeMap, BTreeSet};

/// The modules that each module uses, by module path (`model::machine`). The crate's root is `""`.
pub type Graph = BTreeMap<String, BTreeSet<String>>;

/// Builds the graph from modules and their source. Edges from a module to its parents are left out, because a file and
/// its folder count as one.
pub fn graph(modules: &BTreeMap<String, String>) -> Graph {
    let edges = |(module, text): (&String, &String)| {
        let used = paths(text).into_iter().filter_map(|path| resolve(modules, module, &path));
        (module.clone(), used.filter(|used| used != module && !lies_in(module, used)).collect())
    };
    modules.iter().map(edges).collect()
}

/// The cycles: sets of modules that use one another, each sorted.
pub fn cycles(graph: &Graph) -> Vec<BTreeSet<String>> {
    let reached: BTreeMap<&String, BTreeSet<&String>> = graph.keys().map(|from| (from, reach(graph, from))).collect();
    let circle = |from: &String| -> BTreeSet<String> {
        let back = |to: &&&String| reached.get(**to).is_some_and(|reached| reached.contains(from));
        reached[from].iter().filter(back).map(|to| (*to).clone()).collect()
    };
    let mut found: Vec<BTreeSet<String>> = graph.keys().map(circle).filter(|circle| !circle.is_empty()).collect();
    found.sort();
    found.dedup();
    found
}

fn reach<'a>(graph: &'a Graph, from: &String) -> BTreeSet<&'a String> {
    let (mut reached, mut ahead) = (BTreeSet::new(), vec![from]);
    while let Some(module) = ahead.pop() {
        for used in graph.get(module).into_iter().flatten() {
            if reached.insert(used) {
                ahead.push(used);
            }
        }
    }
    reached
}

fn lies_in(module: &str, outer: &str) -> bool {
    outer.is_empty() || module.strip_prefix(outer).is_some_and(|rest| rest.starts_with("::"))
}

/// The module that a path leads to, relative to `module`.
fn resolve(modules: &BTreeMap<String, String>, module: &str, path: &str) -> Option<String> {
    let mut place: Vec<&str> = module.split("::").filter(|part| !part.is_empty()).collect();
    let mut parts = path.split("::").peekable();
    match parts.peek().copied()? {
        "crate" => place.clear(),
        "self" | "super" => {}
        first => {
            let below = [module, first].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("::");
            modules.get(&below)?;
        }
    }
    for part in parts {
        match part {
            "crate" | "self" => {}
            "super" => drop(place.pop()),
            name => place.push(name),
        }
    }
    // The longest prefix that is a module; the rest is an item in it.
    (1..=place.len()).rev().map(|length| place[..length].join("::")).find(|name| modules.contains_key(name))
}

/// All paths in a source text, with `use` trees expanded.
fn paths(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("::") {
        let begin = rest[..at].rfind(|c: char| !is_name(c)).map_or(0, |before| before + 1);
        let (tree, behind) = take_tree(&rest[begin..]);
        written_out("", tree, &mut found);
        rest = behind;
    }
    found
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Splits a path, including its braces, from the text after it.
fn take_tree(text: &str) -> (&str, &str) {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        let within = depth > 0 && !matches!(c, ';');
        match c {
            '{' if text[..at].ends_with("::") || depth > 0 => depth += 1,
            '}' if depth > 0 => {
                depth -= 1;
                if depth == 0 {
                    return text.split_at(at + 1);
                }
            }
            c if is_name(c) || c == ':' || within => {}
            _ => return text.split_at(at.max(1)),
        }
    }
    (text, "")
}

fn written_out(before: &str, tree: &str, found: &mut Vec<String>) {
    match tree.split_once('{') {
        Some((path, inner)) => {
            let before = format!("{before}{}", path.trim());
            let inner = inner.strip_suffix('}').unwrap_or(inner);
            branches(inner).into_iter().for_each(|branch| written_out(&before, branch, found));
        }
        None => {
            let path = tree.split(" as ").next().unwrap_or_default();
            found.push(format!("{before}{}", path.trim().trim_end_matches(':')));
        }
    }
}

/// Splits at commas outside of nested braces.
fn branches(text: &str) -> Vec<&str> {
    let (mut found, mut depth, mut from) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    found.push(&text[from..]);
    found
}

#[test]
fn a_cycle_is_found_through_every_kind_of_path() {
    let modules = |texts: &[(&str, &str)]| -> BTreeMap<String, String> {
        texts.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect()
    };
    let circle = |texts: &[(&str, &str)]| {
        let found = cycles(&graph(&modules(texts)));
        found.iter().map(|circle| circle.iter().cloned().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
    };
    let there = ("a", "use crate::b::Thing;\nfn x() {}");
    for back in [
        "use crate::a::Other;",
        "use super::a;",
        "use super::{c, a::{Other, more}};",
        "fn y() -> super::a::Other {}",
        "use crate::{\n    a as first,\n    c,\n};",
        "pub use self::super::a::Other as Another;",
    ] {
        assert_eq!(circle(&[there, ("b", back), ("c", "")]), ["a b"], "{back}");
    }
    assert_eq!(circle(&[there, ("b", "use crate::c::X;"), ("c", "use super::a::Y;")]), ["a b c"]);
    let none: [&str; 0] = [];
    assert_eq!(circle(&[there, ("b", "use std::a::Other; // a::Other"), ("c", "use crate::a;")]), none);
    assert_eq!(
        circle(&[("a", "mod b; use b::X; fn z() { b::x() }"), ("a::b", "use super::Y;")]),
        none,
        "a folder is one"
    );
    assert_eq!(circle(&[("a", "b::x()"), ("a::b", "use crate::c;"), ("c", "use crate::a::b;")]), ["a::b c"]);
}
