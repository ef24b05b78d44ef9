//! The reference of manifests, from its one source: `docs/manifest.md`. Finds what the page says about a field, a hook or
//! a probe target, for `explain` and for editors.

mod page;

use crate::model::spelling::closest;
use crate::model::synonyms::synonym;
pub use page::{BlockKind, cells, kind, without_links};
use page::{blocks, linked_section, paragraph_with, rows, section};

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
    /// The owner of its name: `""` for a field of the app, a field such as `stop`, or `hooks`, `probes`,
    /// `workspace`.
    pub parent: &'static str,
    /// The name of the field, or of the variant for a hook or a target.
    pub name: &'static str,
    /// As the page writes it: the name, or for a hook `Run(argv: …)`.
    pub written: &'static str,
    /// Its meaning, in Markdown.
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

/// The page's text about one field, hook or probe target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The name that was asked for, if it is another supervisor's name for this field, and what to write instead.
    pub instead: Option<(String, &'static str)>,
    /// The row; `None` for `App` and `workspace` themselves.
    pub entry: Option<ReferenceEntry>,
    /// The text that its row refers to: Markdown paragraphs, examples and tables, without links.
    pub text: Vec<String>,
    /// Its fields.
    pub fields: Vec<ReferenceEntry>,
}

impl Explanation {
    /// The first line of an explanation of another supervisor's name.
    pub fn translation(&self) -> Option<String> {
        self.instead.as_ref().map(|(name, advice)| format!("there is no field `{name}`: {advice}"))
    }
}

/// Every row, in the order of the page.
pub fn entries() -> Vec<ReferenceEntry> {
    SECTIONS.iter().flat_map(|(heading, parent)| rows(section(heading), parent)).collect()
}

/// What the page says about `path`: a field such as `stop.grace`, a type such as `Stop`, a hook, a probe target,
/// `workspace.stage`, or nothing for the list of an app's fields. A name that other supervisors use is translated.
///
/// # Errors
/// There is no such thing; says what may be meant.
pub fn explain(path: &str) -> Result<Explanation, String> {
    let entries = entries();
    let path = simplified(path);
    let synonym = synonym(&path).filter(|_| !entries.iter().any(|entry| entry.name == path));
    let (path, instead) = match synonym {
        Some(synonym) => (synonym.field.to_string(), Some((path, synonym.advice))),
        None => (path, None),
    };
    let own_section = |path: &str| SECTIONS.iter().find(|(_, parent)| *parent == path);
    let entry = match own_section(&path) {
        Some(_) => entries.iter().copied().find(|entry| entry.path() == path && !path.is_empty()),
        None => Some(found(&entries, &path)?),
    };
    let path = entry.map_or(path, |entry| entry.path());
    let section = own_section(&path).map(|(heading, parent)| (section(heading), *parent));
    let (text, fields) = match (section, entry) {
        // Its table is told as the list of its fields.
        (Some((text, parent)), _) => (
            blocks(text).into_iter().filter(|block| kind(block) != BlockKind::Table).collect(),
            entries.iter().copied().filter(|entry| entry.parent == parent).collect(),
        ),
        (None, Some(entry)) => (linked_section(entry.meaning).map_or_else(|| of_type(entry.name), blocks), Vec::new()),
        (None, None) => Default::default(),
    };
    Ok(Explanation { instead, entry, text, fields })
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
    // `User` and `Nice` are known from unit files of systemd.
    let in_capitals = || entries.iter().find(|entry| entry.path().eq_ignore_ascii_case(path));
    if let Some(entry) = exact.or_else(in_capitals) {
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
    paragraph_with(&start)
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
    fn a_name_of_another_supervisor_is_translated() {
        for (name, field) in [
            ("depends_on", "after"),
            ("WorkingDirectory", "cwd"),
            ("ExecStop", "prestop"),
            ("environment", "env"),
            ("App.env_file", "env_files"),
            ("memory", "limits.max_rss"),
        ] {
            let explanation = explain(name).unwrap();
            assert_eq!(explanation.entry.unwrap().path(), field, "{name}");
            let translation = explanation.translation().unwrap();
            assert!(translation.starts_with("there is no field `") && translation.contains("`: write `"), "{name}");
        }
        // These are fields.
        for (name, field) in [("User", "user"), ("nice", "limits.nice"), ("autostart", "workspace.autostart")] {
            let explanation = explain(name).unwrap();
            assert_eq!((explanation.entry.unwrap().path().as_str(), explanation.instead), (field, None), "{name}");
        }
    }

    #[test]
    fn a_field_brings_the_section_that_its_row_refers_to() {
        let env_files = explain("env_files").unwrap().text;
        assert!(env_files[0].starts_with("`EnvFile("), "{env_files:?}");
        assert!(env_files.iter().any(|block| kind(block) == BlockKind::Table && block.contains("| `NAME=` |")));
        assert!(explain("user").unwrap().text[0].starts_with("With `user`"));
        assert!(explain("args_kept").unwrap().text[0].starts_with("```"));
        assert!(explain("Stage").unwrap().text.iter().any(|block| kind(block) == BlockKind::Lines));
    }

    #[test]
    fn every_link_to_a_place_below_leads_to_text() {
        for entry in entries().iter().filter(|entry| entry.meaning.contains("[below]")) {
            assert!(linked_section(entry.meaning).is_some(), "{}", entry.path());
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
            assert!(!rows(section(heading), parent).is_empty(), "{heading}");
        }
    }
}
