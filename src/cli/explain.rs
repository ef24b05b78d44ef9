//! `explain`: shows what the reference of manifests says about a field, a hook or a probe target.

use super::VerbEnd;
use super::print::{DIM, say, say_json};
use crate::host::terminal;
use crate::model::reference::{self, BlockKind, Explanation, ReferenceEntry, cells, kind, without_links};

/// Most columns of text. Longer lines are hard to read.
const WIDTH: usize = 100;
/// Fewest columns that are worth wrapping for.
const NARROWEST: usize = 40;

pub fn explain(path: &str, json: bool) -> anyhow::Result<VerbEnd> {
    let explanation = reference::explain(path).map_err(anyhow::Error::msg)?;
    if json {
        say_json(&as_json(&explanation))?;
    } else {
        let width = terminal::width().map_or(WIDTH, |width| width.clamp(NARROWEST, WIDTH));
        say(&text(&explanation, width))?;
    }
    Ok(VerbEnd::Done)
}

fn as_json(explanation: &Explanation) -> serde_json::Value {
    let entry = |entry: &ReferenceEntry| {
        serde_json::json!({
            "path": entry.path(),
            "written": entry.written,
            "meaning": without_links(entry.meaning),
            "default": entry.default,
            "change": entry.change,
        })
    };
    serde_json::json!({
        "instead": explanation.translation(),
        "entry": explanation.entry.as_ref().map(entry),
        "text": explanation.text,
        "fields": explanation.fields.iter().map(entry).collect::<Vec<_>>(),
    })
}

fn text(explanation: &Explanation, width: usize) -> String {
    let Explanation { instead: _, entry, text, fields } = explanation;
    let mut blocks: Vec<String> = explanation.translation().into_iter().collect();
    if let Some(entry) = entry {
        let title = match entry.parent {
            "hooks" | "probes" => entry.written.to_string(),
            _ => entry.path(),
        };
        let mut lines = vec![title];
        lines.extend(wrapped(&without_links(entry.meaning), width - 2).into_iter().map(|line| format!("  {line}")));
        let default = if entry.parent == "hooks" { "time limit" } else { "default" };
        let told = entry.default.filter(|value| *value != "see below");
        lines.extend(told.map(|value| format!("  {DIM}{default}:{DIM:#} {}", without_links(value))));
        lines.extend(entry.change.map(|when| format!("  {DIM}change:{DIM:#} {when}")));
        blocks.push(lines.join("\n"));
    }
    blocks.extend(text.iter().map(|text| match kind(text) {
        BlockKind::Prose => wrapped(text, width).join("\n"),
        BlockKind::Lines => text.clone(),
        BlockKind::Example => indented(text),
        BlockKind::Table => table(text, width),
    }));
    if !fields.is_empty() {
        let widest = fields.iter().map(|field| field.name.len()).max().unwrap_or(0);
        let (indent, room) = (widest + 4, width.saturating_sub(widest + 4).max(NARROWEST / 2));
        let line = |field: &ReferenceEntry| {
            let summary = wrapped(&field.summary(), room).join(&format!("\n{:indent$}", ""));
            format!("  {:widest$}  {summary}", field.name)
        };
        blocks.push(fields.iter().map(line).collect::<Vec<_>>().join("\n"));
    }
    blocks.join("\n\n")
}

/// The lines of an example, without the marks around it.
fn indented(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with("```"));
    lines.map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

/// A table of two columns: below each first cell, what the second one says about it.
fn table(text: &str, width: usize) -> String {
    let rows = text.lines().skip(2).map(cells).map(|row| {
        let meaning = row.iter().skip(1).flat_map(|cell| wrapped(cell, width - 6)).map(|line| format!("      {line}"));
        let name = row.first().map(|name| format!("  {name}"));
        name.into_iter().chain(meaning).collect::<Vec<_>>().join("\n")
    });
    rows.collect::<Vec<_>>().join("\n")
}

/// A text in lines of at most `width` columns, broken at spaces.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().map_or(0, |line| line.chars().count());
        if line > 0 && line + 1 + word.chars().count() > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(path: &str) -> String {
        anstream::adapter::strip_str(&text(&reference::explain(path).unwrap(), WIDTH)).to_string()
    }

    #[test]
    fn a_field_is_shown_with_its_default_and_its_change() {
        assert_eq!(
            shown("cwd"),
            "cwd\n  the working folder, an absolute path\n  default: the home folder; `/` if there is none\n  change: restart"
        );
        assert!(shown("Remove").contains("time limit: 30 s"), "{}", shown("Remove"));
    }

    #[test]
    fn another_supervisors_name_says_what_to_write() {
        let cwd = shown("working_dir");
        assert!(
            cwd.starts_with("there is no field `working_dir`: write `cwd: \"/path\"`\n\ncwd\n  the working"),
            "{cwd}"
        );
    }

    #[test]
    fn a_table_is_shown_row_by_row() {
        let shown = shown("env_files");
        assert!(shown.contains("\n  `NAME=`\n      sets it to the empty text\n  `NAME`\n      passes on"), "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() <= WIDTH), "{shown}");
    }

    #[test]
    fn a_setting_lists_its_fields() {
        let stop = shown("stop");
        assert!(stop.contains("\n  signal    the signal to send\n"), "{stop}");
        assert!(stop.lines().all(|line| line.chars().count() <= WIDTH || line.starts_with("  ")), "{stop}");
    }
}
