//! The reference of manifests, from its one source: `docs/manifest.md`. Finds what the page says about a field, a hook or
//! a probe target, for `explain` and for editors.

use std::ops::Range;

use crate::model::spelling::closest;

/// The page. Its tables are read as they are written.
const PAGE: &str = include_str!("../../docs/manifest.md");

/// Headings of tables, and the path of the fields in them. `""` is the app itself.
const SECTIONS: [(&str, &str); 12] = [
    ("Fields of `App`", ""),
    ("After", "after"),
    ("Match", "matches"),
    ("Backoff", "backoff"),
    ("Stop", "stop"),
    ("Log", "log"),
    ("Limits", "limits"),
    ("Rlimits", "rlimits"),
    ("Icon", "icon"),
    ("Hooks", "hooks"),
    ("Probes", "probes"),
    ("Fields of `Workspace`", "workspace"),
];

/// Fields that hold a list of values of one type, and its name.
const LISTS: [(&str, &str); 2] = [("env_files", "EnvFile"), ("warnings", "Warning")];

/// One row of the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReferenceEntry {
    /// What its name is a part of: `""` for a field of the app, a field such as `stop`, or `hooks`, `probes`,
    /// `workspace`.
    pub parent: &'static str,
    /// The name of the field, or of the variant for a hook or a target.
    pub name: &'static str,
    /// As the page writes it: the name, or for a hook `Run(argv: …)`.
    pub written: &'static str,
    /// What it means, in Markdown.
    pub meaning: &'static str,
    /// The value if it is not written, or the time limit of a hook.
    pub default: Option<&'static str>,
    /// When a change takes effect.
    pub change: Option<&'static str>,
}

impl ReferenceEntry {
    /// As in a manifest: `stop.grace`, or `Run` for a hook.
    pub fn path(&self) -> String {
        match self.parent {
            "" | "hooks" | "probes" => self.name.into(),
            parent => format!("{parent}.{}", self.name),
        }
    }

    /// The first clause of its meaning.
    pub fn summary(&self) -> String {
        let plain = without_links(self.meaning);
        let end = [". ", ": ", "; "].iter().filter_map(|mark| plain.find(mark)).min();
        plain[..end.unwrap_or(plain.len())].to_string()
    }
}

/// What the page says about one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The row; `None` for `App` and `workspace` themselves.
    pub entry: Option<ReferenceEntry>,
    /// The text below the heading of its own, in Markdown paragraphs without links.
    pub text: Vec<String>,
    /// Its fields.
    pub fields: Vec<ReferenceEntry>,
}

/// Every row, in the order of the page.
pub fn entries() -> Vec<ReferenceEntry> {
    SECTIONS.iter().flat_map(|(heading, parent)| rows(&PAGE[section(heading)], parent)).collect()
}

/// What the page says about `path`: a field such as `stop.grace`, a type such as `Stop`, a hook, a probe target,
/// `workspace.stage`, or nothing for the list of an app's fields.
///
/// # Errors
/// There is no such thing; says what may be meant.
pub fn explain(path: &str) -> Result<Explanation, String> {
    let entries = entries();
    let path = simplified(path);
    let fields = |parent: &str| entries.iter().copied().filter(|entry| entry.parent == parent).collect::<Vec<_>>();
    if let Some((heading, parent)) = SECTIONS.iter().find(|(_, parent)| *parent == path) {
        let entry = entries.iter().copied().find(|entry| entry.path() == path && !parent.is_empty());
        return Ok(Explanation { entry, text: paragraphs(&PAGE[section(heading)]), fields: fields(parent) });
    }
    let entry = found(&entries, &path)?;
    let own = SECTIONS.iter().find(|(_, parent)| *parent == entry.path() && !parent.is_empty());
    Ok(match own {
        Some((heading, parent)) => {
            Explanation { entry: Some(entry), text: paragraphs(&PAGE[section(heading)]), fields: fields(parent) }
        }
        None => Explanation { entry: Some(entry), text: of_type(entry.name), fields: Vec::new() },
    })
}

/// A path without what a person or an error message may add: indices, the name of the app's own type, and types in place
/// of fields.
fn simplified(path: &str) -> String {
    let mut names: Vec<String> = Vec::new();
    for name in path.split('.').filter(|name| !name.is_empty()) {
        names.push(name.split('[').next().unwrap_or(name).to_string());
    }
    if names.first().is_some_and(|first| first == "App") {
        names.remove(0);
    }
    if let Some(first) = names.first_mut() {
        let of_type = SECTIONS.iter().find(|(heading, _)| heading == first).map(|(_, parent)| parent.to_string());
        let types = [("Workspace", "workspace"), ("Ready", "ready"), ("Health", "health")];
        let elements = LISTS.map(|(field, written)| (written, field));
        let other =
            types.iter().chain(&elements).find(|(written, _)| written == first).map(|(_, field)| field.to_string());
        *first = of_type.or(other).unwrap_or_else(|| first.clone());
    }
    names.join(".")
}

fn found(entries: &[ReferenceEntry], path: &str) -> Result<ReferenceEntry, String> {
    let exact = entries.iter().find(|entry| entry.path() == path);
    if let Some(entry) = exact {
        return Ok(*entry);
    }
    // A field within a hook, a target or a probe is told with the whole of it.
    if let Some((whole, field)) = path.rsplit_once('.')
        && let Some(entry) = entries.iter().find(|entry| entry.path() == whole)
        && mentions(entry, field)
    {
        return Ok(*entry);
    }
    let named: Vec<&ReferenceEntry> = entries.iter().filter(|entry| entry.name == path).collect();
    match named[..] {
        [entry] => return Ok(*entry),
        [] => {}
        _ => {
            let all: Vec<String> = named.iter().map(|entry| format!("`{}`", entry.path())).collect();
            return Err(format!("more than one thing is called `{path}`: {}", all.join(", ")));
        }
    }
    let holders: Vec<&ReferenceEntry> = entries.iter().filter(|entry| mentions(entry, path)).collect();
    if let [entry] = holders[..] {
        return Ok(*entry);
    }
    // `comand` is the field `command`, not the target `Command`.
    let is_type = |path: &str| path.starts_with(char::is_uppercase);
    let paths: Vec<String> =
        entries.iter().map(ReferenceEntry::path).filter(|known| is_type(known) == is_type(path)).collect();
    Err(match (holders.is_empty(), closest(path, paths.iter().map(String::as_str))) {
        (false, _) => {
            let all: Vec<String> = holders.iter().map(|entry| format!("`{}`", entry.path())).collect();
            format!("`{path}` is a part of {}: name one of them", all.join(", "))
        }
        (true, Some(near)) => format!("no field is called `{path}`: did you mean `{near}`?"),
        (true, None) => format!("no field is called `{path}`: `kasm-void explain` lists all"),
    })
}

/// Whether the way it is written names this field.
fn mentions(entry: &ReferenceEntry, field: &str) -> bool {
    let field = format!("{field}:");
    let code =
        |text: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').any(|word| word == field);
    code(entry.written) || of_type(entry.name).first().is_some_and(|text| code(text))
}

/// The paragraph that begins with the type of this field, as in `` `Ready(probe: …)`: … ``.
fn of_type(name: &str) -> Vec<String> {
    let mut letters = name.chars();
    let Some(first) = letters.next() else { return Vec::new() };
    let of_list = LISTS.iter().find(|(field, _)| *field == name).map(|(_, written)| written.to_string());
    let written = of_list.unwrap_or_else(|| format!("{}{}", first.to_uppercase(), letters.as_str()));
    let start = format!("`{written}(");
    paragraphs(PAGE).into_iter().filter(|text| text.starts_with(&start)).collect()
}

/// The bytes from a heading to the next one.
fn section(heading: &str) -> Range<usize> {
    let is_it = |line: &str| line.trim_start_matches('#').strip_prefix(' ') == Some(heading) && line.starts_with("##");
    let mut range = PAGE.len()..PAGE.len();
    let mut at = 0;
    for line in PAGE.split_inclusive('\n') {
        if range.start < PAGE.len() && line.starts_with("##") {
            range.end = at;
            break;
        }
        if is_it(line.trim_end()) {
            range.start = at + line.len();
        }
        at += line.len();
    }
    range
}

/// The rows of the first table.
fn rows(text: &'static str, parent: &'static str) -> Vec<ReferenceEntry> {
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
fn cells(line: &'static str) -> Vec<&'static str> {
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

/// The paragraphs and examples of a text, without tables, headings and links.
fn paragraphs(text: &str) -> Vec<String> {
    let blocks = text.split("\n\n").map(str::trim);
    let prose = blocks.filter(|block| !block.is_empty() && !block.starts_with(['|', '#']));
    prose
        .map(|block| match block.starts_with("```") || block.starts_with("- ") {
            true => without_links(block),
            false => without_links(&block.replace('\n', " ")),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> ReferenceEntry {
        explain(path).unwrap_or_else(|error| panic!("{error}")).entry.unwrap_or_else(|| panic!("{path} has no row"))
    }

    #[test]
    fn a_field_is_told_as_on_the_page() {
        let grace = entry("stop.grace");
        assert_eq!((grace.name, grace.default), ("grace", Some("`\"5s\"`")));
        assert!(grace.meaning.starts_with("how long to wait"));
        assert_eq!(entry("command").change, Some("restart"));
        assert_eq!(entry("Run").written, "Run(argv: [\"cmd\", \"arg\"], if_present: false, timeout: \"30s\")");
        assert_eq!(entry("workspace.stage").parent, "workspace");
    }

    #[test]
    fn it_is_found_however_it_is_named() {
        for (path, found) in [
            ("App.stop.grace", "stop.grace"),
            ("Stop.grace", "stop.grace"),
            ("Match.cmdline", "matches.cmdline"),
            ("Workspace.stage", "workspace.stage"),
            ("cmdline", "matches.cmdline"),
            ("args[0]", "args"),
            ("Run.argv", "Run"),
            ("ready.within", "ready"),
            ("Health.failures", "health"),
            ("failures", "health"),
            ("EnvFile.optional", "env_files"),
            ("env_files[0].path", "env_files"),
        ] {
            assert_eq!(entry(path).path(), found, "{path}");
        }
    }

    #[test]
    fn a_setting_brings_its_text_and_its_fields() {
        let stop = explain("stop").unwrap();
        assert!(stop.fields.iter().map(|field| field.name).eq(["signal", "grace", "devtools"]));
        assert!(stop.text[0].starts_with("The leader is asked to stop first."), "{:?}", stop.text);
        assert!(explain("ready").unwrap().text[0].starts_with("`Ready("));
        let app = explain("").unwrap();
        assert!(app.entry.is_none() && app.fields.len() > 20, "{app:?}");
        assert!(explain("workspace").unwrap().fields.iter().any(|field| field.name == "stage"));
        assert!(explain("hooks").unwrap().fields.iter().any(|field| field.name == "MakeDir"));
    }

    #[test]
    fn what_is_unknown_or_unclear_says_what_may_be_meant() {
        assert_eq!(explain("comand").unwrap_err(), "no field is called `comand`: did you mean `command`?");
        assert_eq!(explain("zzz").unwrap_err(), "no field is called `zzz`: `kasm-void explain` lists all");
        assert!(explain("timeout").unwrap_err().contains("name one of them"), "{}", explain("timeout").unwrap_err());
        assert!(explain("vars").is_ok());
    }

    #[test]
    fn links_leave_only_their_words() {
        assert_eq!(without_links("see [below](#stop), or `[]` and [a"), "see below, or `[]` and [a");
        assert_eq!(entry("stop").summary(), "how the app is stopped");
    }

    #[test]
    fn every_section_has_rows() {
        for (heading, parent) in SECTIONS {
            assert!(!rows(&PAGE[section(heading)], parent).is_empty(), "{heading}");
        }
    }
}
