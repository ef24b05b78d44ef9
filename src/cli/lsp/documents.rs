//! The manifests of the language server: the texts in the editor over the files on the disk, and what `check` says about
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use url::Url;

use crate::daemon::Environment;
use crate::host::load::{self, Loaded};
use crate::model::loading::check::Checker;
use crate::model::loading::problem::{Problem, Severity};
use crate::model::loading::source::Source;

/// How the editor counts the columns of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Utf8,
    Utf16,
}

impl Encoding {
    pub fn name(self) -> &'static str {
        match self {
            Encoding::Utf8 => "utf-8",
            Encoding::Utf16 => "utf-16",
        }
    }

    fn length(self, text: &str) -> usize {
        match self {
            Encoding::Utf8 => text.len(),
            Encoding::Utf16 => text.encode_utf16().count(),
        }
    }
}

/// A manifest that is open in the editor.
pub struct Document {
    pub text: String,
    path: PathBuf,
    /// The path without links, if the file exists already.
    real_path: PathBuf,
    encoding: Encoding,
}

/// The folders that are checked together.
type Session = Vec<PathBuf>;

/// All open manifests.
pub struct Documents {
    folders: Session,
    encoding: Encoding,
    environment: Environment,
    /// By URI.
    open: BTreeMap<String, Document>,
    sessions: BTreeMap<Session, Checking>,
    changed: BTreeSet<Session>,
    /// The URIs of documents whose problems the editor still shows.
    closed: Vec<String>,
}

/// The manifests of one session. While somebody types, only the text that has changed is checked again.
struct Checking {
    /// As they were read, but with the editor's text for each open file.
    loaded: Loaded,
    checker: Checker,
    /// The file of each source, by its path without links.
    files: BTreeMap<PathBuf, String>,
    /// The folders were read after the last check.
    is_new: bool,
}

impl Documents {
    pub fn new(folders: Vec<PathBuf>, encoding: Encoding) -> Documents {
        Documents {
            folders,
            encoding,
            environment: Environment::inherited(),
            open: BTreeMap::new(),
            sessions: BTreeMap::new(),
            changed: BTreeSet::new(),
            closed: Vec::new(),
        }
    }

    pub fn get(&self, uri: &str) -> Option<&Document> {
        self.open.get(uri)
    }

    /// Opens a document; what is no manifest is ignored.
    pub fn open(&mut self, uri: &str, text: &str) {
        let path = Url::parse(uri).ok().and_then(|url| url.to_file_path().ok());
        let Some(path) = path.filter(|path| path.extension().is_some_and(|end| end == "ron")) else { return };
        let real_path = path.canonicalize().unwrap_or_else(|_| path.clone());
        self.open.insert(uri.into(), Document { text: text.into(), path, real_path, encoding: self.encoding });
        self.touch(uri);
    }

    pub fn change(&mut self, uri: &str, text: &str) {
        if let Some(document) = self.open.get_mut(uri) {
            document.text = text.into();
        }
        self.touch(uri);
    }

    /// Closes a document: from now on its file counts, and its problems are no longer shown.
    pub fn close(&mut self, uri: &str) {
        self.closed.extend(self.open.remove(uri).map(|_| uri.to_owned()));
        self.read_again();
    }

    /// Reads the folders again: something was saved.
    pub fn read_again(&mut self) {
        for (folders, checking) in &mut self.sessions {
            checking.read(folders);
        }
        self.changed = self.open.values().map(|document| self.session(&document.path)).collect();
    }

    fn touch(&mut self, uri: &str) {
        let session = self.open.get(uri).map(|document| self.session(&document.path));
        self.changed.extend(session);
    }

    /// The folders of the session, if the file is in one of them; else its own.
    fn session(&self, file: &Path) -> Session {
        let own = file.parent().unwrap_or(Path::new("/"));
        let is_own = |folder: &PathBuf| folder.canonicalize().ok() == own.canonicalize().ok();
        if self.folders.iter().any(is_own) { self.folders.clone() } else { vec![own.into()] }
    }

    /// The problems of every open document of a session that has changed, by URI. None for a document that was closed.
    pub fn new_diagnostics(&mut self) -> Vec<(String, Vec<Value>)> {
        let closed = std::mem::take(&mut self.closed).into_iter().filter(|uri| !self.open.contains_key(uri));
        let closed: Vec<_> = closed.map(|uri| (uri, Vec::new())).collect();
        let changed = std::mem::take(&mut self.changed);
        closed.into_iter().chain(changed.into_iter().flat_map(|session| self.check(session))).collect()
    }

    fn check(&mut self, session: Session) -> Vec<(String, Vec<Value>)> {
        let open: Vec<(&String, &Document)> =
            self.open.iter().filter(|(_, document)| self.session(&document.path) == session).collect();
        let checking = self.sessions.entry(session).or_insert_with_key(Checking::of);
        let files: Vec<(&String, String)> =
            open.into_iter().map(|(uri, document)| (uri, checking.put(document))).collect();
        let problems = checking.check(&self.environment);
        let of = |file: &str| {
            let problems = problems.iter().filter(|problem| problem.file == file);
            problems.map(|problem| diagnostic(problem, self.encoding)).collect()
        };
        files.into_iter().map(|(uri, file)| (uri.clone(), of(&file))).collect()
    }

    /// The manifests of the document's session.
    pub fn sources(&self, document: &Document) -> &[Source] {
        let checking = self.sessions.get(&self.session(&document.path));
        checking.map(|checking| checking.loaded.sources.as_slice()).unwrap_or_default()
    }

    /// The names of the environment's variables.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.environment.variables.keys().map(String::as_str)
    }

    /// The URI of an app's manifest.
    pub fn file_of(&self, document: &Document, app: &str) -> Option<String> {
        let source = self.sources(document).iter().find(|source| source.name == app)?;
        let path = Path::new(&source.file).canonicalize().ok()?;
        Url::from_file_path(path).ok().map(String::from)
    }
}

impl Checking {
    fn of(folders: &Session) -> Checking {
        let mut checking = Checking {
            loaded: Loaded { sources: Vec::new(), problems: Vec::new(), complete: false, look_again: false },
            checker: Checker::default(),
            files: BTreeMap::new(),
            is_new: true,
        };
        checking.read(folders);
        checking
    }

    fn read(&mut self, folders: &Session) {
        self.loaded = load::load(folders);
        let real = |file: &str| Path::new(file).canonicalize().unwrap_or_else(|_| file.into());
        self.files = self.loaded.sources.iter().map(|source| (real(&source.file), source.file.clone())).collect();
        self.is_new = true;
    }

    /// Puts the text of the editor in place of the file's. Returns the name under which its problems are found.
    fn put(&mut self, document: &Document) -> String {
        let sources = &mut self.loaded.sources;
        if let Some(file) = self.files.get(&document.real_path)
            && let Some(source) = sources.iter_mut().find(|source| source.file == *file)
        {
            source.text = Ok(document.text.clone());
            return file.clone();
        }
        let name = document.app();
        let file = document.path.display().to_string();
        let folder = document.path.parent().unwrap_or(Path::new("/")).display().to_string();
        let at = sources.partition_point(|source| source.name <= name);
        sources.insert(at, Source { name, file: file.clone(), folder, text: Ok(document.text.clone()) });
        self.files.insert(document.real_path.clone(), file.clone());
        file
    }

    fn check(&mut self, environment: &Environment) -> Vec<Problem> {
        let Loaded { sources, complete, .. } = &self.loaded;
        let around = environment.around();
        match std::mem::take(&mut self.is_new) {
            true => self.checker.check(sources, *complete, &around).problems,
            false => self.checker.check_texts(sources, *complete, &around).problems,
        }
    }
}

fn diagnostic(problem: &Problem, encoding: Encoding) -> Value {
    let line = problem.line.saturating_sub(1);
    let character = |byte: usize| encoding.length(problem.source.get(..byte).unwrap_or_default());
    let help = if problem.help.is_empty() { String::new() } else { format!("\n{}", problem.help) };
    json!({
        "range": {
            "start": { "line": line, "character": character(problem.mark.start) },
            "end": { "line": line, "character": character(problem.mark.end) },
        },
        "severity": match problem.severity { Severity::Error => 1, Severity::Warning => 2 },
        "source": "kasm-void",
        "message": format!("{}{help}", problem.message),
    })
}

impl Document {
    /// The name of the app, as the file says.
    pub fn app(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The byte at a position of the protocol; the nearest one if the text has no such position.
    pub fn byte(&self, position: &Value) -> usize {
        let number = |name: &str| position[name].as_u64().and_then(|number| usize::try_from(number).ok()).unwrap_or(0);
        let (line, character) = (number("line"), number("character"));
        let start = self.text.split_inclusive('\n').take(line).map(str::len).sum::<usize>();
        let rest = self.text[start..].lines().next().unwrap_or_default();
        let mut passed = 0;
        for (at, c) in rest.char_indices() {
            if passed >= character {
                return start + at;
            }
            passed += self.encoding.length(c.encode_utf8(&mut [0; 4]));
        }
        start + rest.len()
    }

    /// A range of bytes as the protocol writes it.
    pub fn range(&self, bytes: Range<usize>) -> Value {
        json!({ "start": self.position(bytes.start), "end": self.position(bytes.end) })
    }

    fn position(&self, byte: usize) -> Value {
        let before = &self.text[..byte];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        json!({ "line": before.matches('\n').count(), "character": self.encoding.length(&before[line_start..]) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn positions_and_bytes_are_the_same_places(text in "[a\u{e9}\u{1f600}\n]{0,30}", utf8 in any::<bool>()) {
            let encoding = if utf8 { Encoding::Utf8 } else { Encoding::Utf16 };
            let document = Document { text: text.clone(), path: PathBuf::new(), real_path: PathBuf::new(), encoding };
            for (at, _) in text.char_indices() {
                prop_assert_eq!(document.byte(&document.position(at)), at);
            }
        }
    }
}
