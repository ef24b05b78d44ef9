//! The documentation against the product: every command that it shows is understood, every link leads somewhere, and
//! the tutorial works as it is written.

mod commands;
mod links;
mod tutorial;

use std::fs;
use std::path::Path;

/// A text for people, by its path below the root of the repository.
struct Page {
    path: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README.md and everything in docs/.
fn pages() -> Vec<Page> {
    let docs = fs::read_dir(root().join("docs")).expect("docs").flatten();
    let names = docs.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.ends_with(".md"));
    let mut paths: Vec<String> = names.map(|name| format!("docs/{name}")).collect();
    paths.extend(["README.md".into(), "CHANGELOG.md".into()]);
    paths.sort();
    let read = |path: String| Page { text: fs::read_to_string(root().join(&path)).expect("a page"), path };
    paths.into_iter().map(read).collect()
}

/// A fenced block of code.
struct Block<'a> {
    language: &'a str,
    /// The line of the page on which its first line stands, counted from 1.
    line: usize,
    /// The line before the fence.
    note: &'a str,
    lines: Vec<&'a str>,
}

fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut open: Option<Block<'_>> = None;
    let mut before = "";
    for (at, line) in text.lines().enumerate() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(language), None) => {
                open = Some(Block { language, line: at + 2, note: before, lines: Vec::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.lines.push(line),
            (None, None) => {}
        }
        before = line;
    }
    assert!(open.is_none(), "a block of code is not closed");
    blocks
}

/// The text without blocks of code.
fn prose(text: &str) -> String {
    let mut inside = false;
    let outside = |line: &&str| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    };
    text.lines().filter(outside).collect::<Vec<_>>().join("\n")
}
