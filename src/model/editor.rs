//! Help for editors while a manifest is written: the meaning of a field, the words that fit, the place of an app's
//! manifest. Everything comes from the reference and the texts; nothing is read here.

mod place;

use std::ops::Range;

use crate::model::loading::source::Source;
use crate::model::manifest::name::WORKSPACE;
use crate::model::reference::{self, Explanation, ReferenceEntry, without_links};

pub use place::{OpenBracket, TextPlace, Within, place};

/// A word that fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suggestion {
    /// What is inserted in place of the word at the cursor.
    pub text: String,
    /// A short description; may be empty.
    pub about: String,
}

/// Fields whose value is one of a few words. The test reads each with the real parser.
const CHOICES: &[(&str, &[&str])] = &[
    ("restart", &["Always", "OnFailure", "Never"]),
    ("on_close", &["Restart", "Hold"]),
    ("on_give_up", &["Hold", "EndSession(code: 1)"]),
    ("give_up", &["Never", "After(times: 10, within: \"10m\")"]),
    ("kind", &["Chromium", "Electron", "X11"]),
    ("on_failure", &["Fail", "Continue"]),
    ("until", &["Running", "Started", "Succeeded"]),
    ("follow", &["true", "false"]),
    ("forward", &["true", "false"]),
    ("timestamps", &["true", "false"]),
    ("if_present", &["true", "false"]),
    ("own", &["true", "false"]),
    ("pty", &["true", "false"]),
    ("enabled", &["true", "false"]),
    ("autostart", &["true", "false"]),
];

/// Fields that hold a type of their own, with its name.
const TYPES: &[(&str, &str)] = &[
    ("matches", "Match"),
    ("ready", "Ready"),
    ("health", "Health"),
    ("backoff", "Backoff"),
    ("stop", "Stop"),
    ("log", "Log"),
    ("limits", "Limits"),
    ("rlimits", "Rlimits"),
    ("icon", "Icon"),
];

const HOOKS: [&str; 5] = ["prelaunch", "postlaunch", "prestop", "poststop", "stage"];
const TARGETS: [&str; 2] = ["probe", "what"];

/// The reference's text about the word at this byte, in Markdown, and the range of that word.
pub fn hover(text: &str, at: usize) -> Option<(Range<usize>, String)> {
    let place = place(text, at);
    if place.within == Within::Comment {
        return None;
    }
    let word = &text[place.word.clone()];
    let explanation = match (place.within, place.is_field) {
        (Within::Code, true) => field_of(&place.open, word),
        (Within::Code, false) => reference::explain(word).ok().filter(|_| !word.is_empty()),
        _ => None,
    };
    let explanation = explanation.or_else(|| enclosing(&place.open))?;
    Some((place.word, markdown(&explanation)))
}

/// The explanation of a field of the innermost type, or else of a type around it.
fn field_of(open: &[OpenBracket], field: &str) -> Option<Explanation> {
    let found = match owner(open)?.as_str() {
        "App" => reference::explain(field),
        owner => reference::explain(&format!("{owner}.{field}")),
    };
    found.ok().or_else(|| enclosing(&open[..open.len() - 1]))
}

/// The explanation of the innermost field that is known.
fn enclosing(open: &[OpenBracket]) -> Option<Explanation> {
    let (inner, outer) = open.split_last()?;
    match &inner.field {
        Some(field) if inner.bracket == '(' => field_of(open, field),
        _ => enclosing(outer),
    }
}

/// The type that the innermost parenthesis belongs to.
fn owner(open: &[OpenBracket]) -> Option<String> {
    let inner = open.last().filter(|inner| inner.bracket == '(')?;
    if !inner.name.is_empty() {
        return Some(inner.name.clone());
    }
    // `stop: (signal: …)` leaves the name out.
    let field = open[..open.len() - 1].last()?.field.as_deref()?;
    TYPES.iter().find(|(name, _)| *name == field).map(|(_, of_type)| of_type.to_string())
}

fn markdown(explanation: &Explanation) -> String {
    let Explanation { instead: _, entry, text, fields } = explanation;
    let mut blocks: Vec<String> = explanation.translation().into_iter().collect();
    if let Some(entry) = entry {
        blocks.push(format!("**`{}`**: {}", entry.written, without_links(entry.meaning)));
        let name = if entry.parent == "hooks" { "Time limit" } else { "Default" };
        let default = entry.default.map(|value| format!("{name}: {}", without_links(value)));
        let change = entry.change.map(|when| format!("Change: {when}"));
        blocks.extend([default, change].into_iter().flatten().reduce(|one, other| format!("{one}. {other}")));
    }
    blocks.extend(text.iter().cloned());
    let fields: Vec<String> = fields.iter().map(|field| format!("- `{}`: {}", field.name, field.summary())).collect();
    blocks.push(fields.join("\n"));
    blocks.retain(|block| !block.is_empty());
    blocks.join("\n\n")
}

/// The words that fit at this byte, and the bytes they replace. `own` is the name of the app, `sources` are the manifests
/// of the session, `env` the names in the environment.
pub fn complete<'a>(
    own: &str,
    text: &str,
    at: usize,
    sources: &[Source],
    env: impl Iterator<Item = &'a str>,
) -> (Range<usize>, Vec<Suggestion>) {
    let place = place(text, at);
    match place.within {
        Within::Comment => (at..at, Vec::new()),
        Within::Text => {
            let before = &text[place.word.start..at];
            if let Some(dollar) = before.rfind("${").filter(|dollar| !before[*dollar..].contains('}')) {
                let written = vars(text).into_iter().chain(
                    sources
                        .iter()
                        .filter(|source| source.name == WORKSPACE)
                        .flat_map(|source| source.text.as_deref().map(vars).unwrap_or_default()),
                );
                let mut names: Vec<String> = written.chain(env.map(String::from)).collect();
                names.sort();
                names.dedup();
                let suggestions = names.into_iter().map(|text| Suggestion { text, about: String::new() });
                return (place.word.start + dollar + 2..at, suggestions.collect());
            }
            let named = names_app(&place.open);
            let others = |source: &&Source| source.name != WORKSPACE && source.name != own;
            let apps = sources.iter().filter(|source| named && others(source));
            let about = |source: &Source| source.file.clone();
            let suggestions = apps.map(|source| Suggestion { text: source.name.clone(), about: about(source) });
            (place.word, suggestions.collect())
        }
        Within::Code => {
            let suggestions = match place.open.last() {
                None => {
                    ["App()", "Workspace()"].map(|text| Suggestion { text: text.into(), about: String::new() }).into()
                }
                Some(inner) if inner.bracket == '(' && (inner.field.is_none() || place.is_field) => fields(&place.open),
                Some(_) => values(&place.open),
            };
            (place.word, suggestions)
        }
    }
}

/// The fields that can still be written here.
fn fields(open: &[OpenBracket]) -> Vec<Suggestion> {
    let Some(owner) = owner(open) else { return Vec::new() };
    let path = match owner.as_str() {
        "App" => String::new(),
        owner => owner.to_string(),
    };
    let Ok(explanation) = reference::explain(&path) else { return Vec::new() };
    let suggestion = |entry: &ReferenceEntry| Suggestion { text: format!("{}: ", entry.name), about: entry.summary() };
    let mut found: Vec<Suggestion> = explanation.fields.iter().map(suggestion).collect();
    if found.is_empty() {
        // A hook, a target, or a probe: its fields are in the way it is written.
        let written = explanation.text.first().map(String::as_str).filter(|text| text.starts_with('`'));
        let written = written.or(explanation.entry.as_ref().map(|entry| entry.written)).unwrap_or_default();
        found = names_in(written)
            .into_iter()
            .map(|name| Suggestion { text: format!("{name}: "), about: String::new() })
            .collect();
        if explanation.entry.is_some_and(|entry| entry.parent == "hooks") {
            found.push(Suggestion { text: "on_failure: ".into(), about: "what to do if it fails".into() });
        }
    }
    let written = open.last().map(|inner| inner.written.as_slice()).unwrap_or_default();
    found.retain(|one| !written.iter().any(|name| one.text.trim_end_matches(": ") == name));
    found
}

/// The names of fields in `Run(argv: …, timeout: …)`.
fn names_in(written: &str) -> Vec<String> {
    let Some((_, fields)) = written.split_once('(') else { return Vec::new() };
    let mut names = Vec::new();
    let (mut depth, mut quoted, mut start) = (0, false, 0);
    for (at, c) in fields.char_indices() {
        match c {
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => break,
            ')' | ']' | '}' => depth -= 1,
            ':' if depth == 0 => names.push(fields[start..at].trim().to_string()),
            ',' if depth == 0 => start = at + 1,
            _ => {}
        }
    }
    names
}

/// The values that fit.
fn values(open: &[OpenBracket]) -> Vec<Suggestion> {
    let field = open.iter().rev().find_map(|open| open.field.as_deref()).unwrap_or_default();
    let in_actions = open.iter().any(|open| open.field.as_deref() == Some("actions"));
    let in_list = open.last().is_some_and(|inner| inner.bracket == '[');
    let of = |parent: &str| reference::explain(parent).map(|found| found.fields).unwrap_or_default();
    if in_list && field == "after" {
        return vec![Suggestion { text: "After(app: \"\", until: Running)".into(), about: String::new() }];
    }
    let written = |entry: &ReferenceEntry| Suggestion { text: entry.written.into(), about: entry.summary() };
    let is_session = open.first().is_some_and(|outer| outer.name == "Workspace");
    if in_list && (HOOKS.contains(&field) || in_actions) {
        return of("hooks").iter().map(written).collect();
    }
    if TARGETS.contains(&field) || (is_session && field == "ready" && in_list) {
        return of("probes").iter().map(written).collect();
    }
    if let Some((_, of_type)) = TYPES.iter().find(|(name, _)| *name == field && !in_list) {
        return vec![Suggestion { text: format!("{of_type}()"), about: String::new() }];
    }
    let choices = CHOICES.iter().find(|(name, _)| *name == field).map(|(_, choices)| *choices).unwrap_or_default();
    choices.iter().map(|text| Suggestion { text: text.to_string(), about: String::new() }).collect()
}

/// The names of a text's `vars`.
fn vars(text: &str) -> Vec<String> {
    let Some(start) = text.find("vars:").and_then(|at| Some(at + text[at..].find('{')? + 1)) else { return Vec::new() };
    let mut names = Vec::new();
    for (at, _) in text[start..].match_indices('"') {
        let place = place(text, start + at);
        match place.open.last() {
            Some(inner) if inner.bracket == '{' => {
                if inner.field.is_none() {
                    let name = text[start + at + 1..].split('"').next().unwrap_or_default();
                    names.push(name.to_string());
                }
            }
            _ => break,
        }
    }
    names.retain(|name| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_'));
    names
}

/// The app that the word at this byte names, in `after`.
pub fn named_app(text: &str, at: usize) -> Option<String> {
    let place = place(text, at);
    (place.within == Within::Text && names_app(&place.open)).then(|| text[place.word].to_string())
}

/// Whether a text here is the name of an app: in `after: ["x"]` or `after: [After(app: "x")]`.
fn names_app(open: &[OpenBracket]) -> bool {
    let mut fields = open.iter().rev().filter_map(|open| open.field.as_deref());
    match fields.next() {
        Some("app") => fields.next() == Some("after"),
        field => field == Some("after"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::loading::parse::parse;
    use crate::model::manifest::Manifest;

    fn split(marked: &str) -> (String, usize) {
        (marked.replacen('|', "", 1), marked.find('|').unwrap())
    }

    fn shown(marked: &str) -> String {
        let (text, at) = split(marked);
        hover(&text, at).map(|(_, text)| text).unwrap_or_default()
    }

    fn offered(marked: &str) -> Vec<String> {
        let (text, at) = split(marked);
        let source = |name: &str, text: &str| Source {
            name: name.into(),
            file: format!("{name}.ron"),
            folder: "/m".into(),
            text: Ok(text.into()),
        };
        let app = |name| source(name, "App(command: \"x\")");
        let workspace = source(WORKSPACE, r#"Workspace(vars: { "shared": "1" })"#);
        let sources = [app("display"), app("editor"), workspace];
        let (_, found) = complete("editor", &text, at, &sources, ["HOME"].into_iter());
        found.into_iter().map(|one| one.text).collect()
    }

    #[test]
    fn a_field_tells_its_meaning() {
        assert!(
            shown("App(stop: Stop(gr|ace: \"5s\"))").contains("how long to wait before the rest of the tree is killed")
        );
        assert!(
            shown("App(stop: (gr|ace: \"5s\"))").contains("how long to wait before the rest of the tree is killed")
        );
        assert!(
            shown("App(stop: Stop(grace: \"|5s\"))").contains("how long to wait before the rest of the tree is killed")
        );
        assert!(shown("App(prelaunch: [Make|Dir(path: \"x\")])").contains("makes a folder and its parents"));
        assert!(shown("App(prelaunch: [MakeDir(pa|th: \"x\")])").contains("makes a folder and its parents"));
        assert!(shown("App(env_files: [EnvFile(opt|ional: true)])").contains("A missing file is an error"));
        assert!(shown("App(depends|_on: [])").starts_with("there is no field `depends_on`: write `after: "));
        assert!(shown("App(re|start: Always)").contains("which exits lead to a restart"));
        assert!(shown("Workspace(st|age: [])").contains("hooks that run once"));
        assert!(shown("App(backoff: Backoff(give_up: After(ti|mes: 3)))").contains("early exits"));
        assert!(shown("App(ready: Ready(wi|thin: \"3s\"))").contains("class `NotReady`"));
        assert_eq!(shown("App( // com|mand\n)"), "");
    }

    #[test]
    fn fields_are_offered_that_are_not_written_yet() {
        let fields = offered("App(command: \"x\", |)");
        assert!(fields.contains(&"args: ".into()) && !fields.contains(&"command: ".into()), "{fields:?}");
        assert_eq!(offered("App(stop: Stop(signal: \"INT\", |"), ["grace: ", "devtools: "]);
        assert_eq!(offered("App(prelaunch: [MakeDir(|"), ["path: ", "on_failure: "]);
        assert_eq!(offered("App(ready: Ready(probe: Tcp(|"), ["address: ", "own: "]);
        assert_eq!(offered("App(env_files: [EnvFile(|"), ["path: ", "optional: "]);
        assert_eq!(offered("App(ready: Ready(|"), ["probe: ", "within: "]);
        assert!(offered("Workspace(|").contains(&"stage: ".into()));
        assert_eq!(offered("|"), ["App()", "Workspace()"]);
    }

    #[test]
    fn values_are_offered_that_fit() {
        assert_eq!(offered("App(restart: |"), ["Always", "OnFailure", "Never"]);
        assert_eq!(offered("App(stop: |"), ["Stop()"]);
        assert!(offered("App(prelaunch: [|").iter().any(|one| one.starts_with("WaitFor(")));
        assert!(offered("App(actions: { \"reset\": [|").iter().any(|one| one.starts_with("ClearDir(")));
        assert!(offered("App(ready: Ready(probe: |").contains(&"Display".into()));
        assert!(offered("Workspace(ready: [|").contains(&"Display".into()));
        assert_eq!(offered("App(after: [\"|\"])"), ["display"]);
        assert_eq!(offered("App(after: [After(app: \"|\")])"), ["display"]);
        assert_eq!(offered("App(after: [After(app: \"x\", until: |)])"), ["Running", "Started", "Succeeded"]);
        assert_eq!(offered("App(after: [After(app: \"x\", |)])"), ["until: ", "follow: "]);
        assert_eq!(offered("App(after: [|])"), ["After(app: \"\", until: Running)"]);
        assert_eq!(offered("App(vars: { \"own\": \"${x}\" }, cwd: \"${|\")"), ["HOME", "own", "shared"]);
        assert_eq!(offered("App(about: \"|\")"), [""; 0]);
        assert_eq!(offered("App( // |"), [""; 0]);
    }

    #[test]
    fn each_choice_is_accepted() {
        for (field, choices) in CHOICES {
            for choice in *choices {
                let text = match *field {
                    "give_up" => format!("App(command: \"x\", backoff: Backoff(give_up: {choice}))"),
                    "kind" if *choice == "X11" => {
                        format!("App(command: \"x\", prelaunch: [ClearLocks(kind: {choice})])")
                    }
                    "kind" => format!("App(command: \"x\", prelaunch: [ClearLocks(dir: \"/x\", kind: {choice})])"),
                    "on_failure" => {
                        format!("App(command: \"x\", prelaunch: [Remove(path: \"/x\", on_failure: {choice})])")
                    }
                    "if_present" => {
                        format!("App(command: \"x\", prelaunch: [Run(argv: [\"x\"], if_present: {choice})])")
                    }
                    "own" => format!("App(command: \"x\", ready: Ready(probe: Tcp(address: \"x:1\", own: {choice})))"),
                    "forward" | "timestamps" => format!("App(command: \"x\", log: Log({field}: {choice}))"),
                    "until" | "follow" => {
                        format!("App(command: \"x\", after: [After(app: \"y\", {field}: {choice})])")
                    }
                    "autostart" => continue, // a field of `Workspace`, read like `enabled`
                    field => format!("App(command: \"x\", {field}: {choice})"),
                };
                parse::<Manifest>("x.ron", &text).unwrap_or_else(|problems| panic!("{text}: {problems:?}"));
            }
        }
    }

    #[test]
    fn an_app_is_named_where_another_follows_it() {
        let (text, at) = split("App(command: \"x\", after: [\"dis|play\"])");
        assert_eq!(named_app(&text, at), Some("display".into()));
        let (text, at) = split("App(command: \"x\", after: [After(app: \"dis|play\")])");
        assert_eq!(named_app(&text, at), Some("display".into()));
        let (text, at) = split("App(command: \"dis|play\")");
        assert_eq!(named_app(&text, at), None);
    }
}
