//! The page as it is written: its sections, tables and paragraphs.

use std::ops::Range;

use super::ReferenceEntry;

/// The page. Its tables are read as they are written.
const PAGE: &str = include_str!("../../../docs/manifest.md");

/// The kind of a block of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// Words that may be wrapped anywhere.
    Prose,
    /// A list, whose lines stay as they are.
    Lines,
    /// An example, with the marks around it.
    Example,
    /// A table.
    Table,
}

/// The kind of this block of Markdown.
pub fn kind(block: &str) -> BlockKind {
    match block {
        _ if block.starts_with("```") => BlockKind::Example,
        _ if block.starts_with("- ") => BlockKind::Lines,
        _ if block.starts_with('|') => BlockKind::Table,
        _ => BlockKind::Prose,
    }
}

/// The text below a heading, up to the next one. Empty if there is none.
pub fn section(heading: &str) -> &'static str {
    section_where(|text| text == heading)
}

/// The text of the section that the first link `[below](#anchor)` of this text leads to.
pub fn linked_section(text: &str) -> Option<&'static str> {
    let (_, rest) = text.split_once("[below](#")?;
    let (anchor, _) = rest.split_once(')')?;
    Some(section_where(|heading| anchor_of(heading) == anchor)).filter(|text| !text.is_empty())
}

/// The name by which a link leads to this heading.
fn anchor_of(heading: &str) -> String {
    let letters = heading.to_lowercase();
    letters.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>().replace(' ', "-")
}

fn section_where(is_it: impl Fn(&str) -> bool) -> &'static str {
    let mut range: Option<Range<usize>> = None;
    let mut at = 0;
    for line in PAGE.split_inclusive('\n') {
        if line.starts_with("##") {
            if range.is_some() {
                break;
            }
            let heading = line.trim_start_matches('#').trim();
            range = is_it(heading).then_some(at + line.len()..at + line.len());
        }
        at += line.len();
        if let Some(range) = &mut range {
            range.end = at;
        }
    }
    range.map_or("", |range| &PAGE[range])
}

/// The rows of the first table.
pub fn rows(text: &'static str, parent: &'static str) -> Vec<ReferenceEntry> {
    let mut lines = text.lines().skip_while(|line| !line.starts_with("| "));
    let head: Vec<&str> = lines.next().map(cells).unwrap_or_default();
    let column = |names: &[&str]| head.iter().position(|name| names.contains(name));
    let (default, change) = (column(&["default", "limit"]), column(&["change"]));
    let row = |line: &'static str| {
        let cells = cells(line);
        let written = cells.first()?.trim_matches('`');
        let end = written.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(written.len());
        let cell = |at: Option<usize>| at.and_then(|at| cells.get(at)).copied();
        let name = &written[..end];
        let meaning = cells.get(1).copied()?;
        Some(ReferenceEntry { parent, name, written, meaning, default: cell(default), change: cell(change) })
    };
    lines.skip(1).take_while(|line| line.starts_with('|')).filter_map(row).collect()
}

/// The cells of a row. A bar within code belongs to the code.
pub fn cells(line: &str) -> Vec<&str> {
    let line = line.trim().trim_start_matches('|').trim_end_matches('|');
    let (mut cells, mut from, mut code) = (Vec::new(), 0, false);
    for (at, c) in line.char_indices() {
        match c {
            '`' => code = !code,
            '|' if !code => {
                cells.push(line[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    cells.push(line[from..].trim());
    cells
}

/// The paragraph that begins with this text, wherever it is on the page.
pub fn paragraph_with(start: &str) -> Vec<String> {
    blocks(PAGE).into_iter().filter(|text| text.starts_with(start)).collect()
}

/// The paragraphs, examples and tables of a text, without headings and links.
pub fn blocks(text: &str) -> Vec<String> {
    let blocks = text.split("\n\n").map(str::trim);
    let told = blocks.filter(|block| !block.is_empty() && !block.starts_with('#'));
    told.map(|block| match kind(block) {
        BlockKind::Prose => without_links(&block.replace('\n', " ")),
        BlockKind::Lines | BlockKind::Example | BlockKind::Table => without_links(block),
    })
    .collect()
}

/// A Markdown text in which only the words of its links are left.
pub fn without_links(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(open) = rest.find('[') {
        let link = rest[open..].find("](").and_then(|middle| {
            let end = rest[open + middle..].find(')')?;
            let words = &rest[open + 1..open + middle];
            (!words.contains(['[', '`'])).then_some((words, open + middle + end + 1))
        });
        match link {
            Some((words, end)) => {
                plain.push_str(&rest[..open]);
                plain.push_str(words);
                rest = &rest[end..];
            }
            None => {
                plain.push_str(&rest[..=open]);
                rest = &rest[open + 1..];
            }
        }
    }
    plain + rest
}
