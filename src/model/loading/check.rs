//! Check: turns the texts of all manifests into checked apps, and reports all problems of all files at once, each with
//! its place and how to fix it.
//!
//! Remembers the result for each text, so that a reload only checks what has changed. Also remembers each app's last
//! good version, so that a broken file changes nothing.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::model::app::App;
use crate::model::loading::locator::Locator;
use crate::model::loading::overlay;
use crate::model::loading::parse::{self, Read};
use crate::model::loading::problem::Problem;
use crate::model::loading::resolve;
use crate::model::loading::source::Source;
use crate::model::loading::surroundings::Surroundings;
use crate::model::manifest::env_files::SeenFile;
use crate::model::manifest::fields::Whole;
use crate::model::manifest::name;
pub use crate::model::manifest::name::WORKSPACE;
use crate::model::manifest::workspace::Workspace;

mod together;

/// The result of a check. A new version of an app is in it only if the app has no error.
#[derive(Debug, Default, Clone)]
pub struct Checked {
    /// Apps by name. For a broken manifest this is the last good version, if there was one.
    pub apps: BTreeMap<String, Arc<App>>,
    /// Apps whose manifest is broken now, with the first error.
    pub stale: BTreeMap<String, Problem>,
    /// The session's own settings, in their last good version.
    pub workspace: Arc<Workspace>,
    /// If true, an app that is not here has no manifest. Otherwise its manifest may only be unreadable.
    pub complete: bool,
    /// All problems, ordered by file and place.
    pub problems: Vec<Problem>,
    /// The env files that the manifests name, whether they exist or not.
    pub env_files: BTreeSet<String>,
    /// An env file could not be read for a reason that passes without a change event. Check again later.
    pub look_again: bool,
}

/// Checks manifests again and again, and remembers what was good.
#[derive(Default)]
pub struct Checker {
    known: BTreeMap<String, Known>,
    /// `None` if there never was a good version.
    workspace: Option<Arc<Workspace>>,
}

/// Whether an earlier result still holds for the same text.
type IsSettled = fn(&Known, &Surroundings<'_>) -> bool;

struct Known {
    /// Hash of the text and of everything it was interpolated with.
    hash: u64,
    latest: Option<Arc<App>>,
    problems: Vec<Problem>,
    good: Option<Arc<App>>,
}

impl Known {
    /// Whether another check of the same text would find the same. A problem can go away without a change of the text,
    /// for example when a missing program is installed.
    fn is_current(&self, around: &Surroundings<'_>) -> bool {
        let is_same = |(path, seen): (&String, &SeenFile)| SeenFile::of(&(around.read)(path)) == *seen;
        self.problems.is_empty() && self.env_files().all(is_same)
    }

    fn env_files(&self) -> impl Iterator<Item = (&String, &SeenFile)> {
        self.latest.iter().flat_map(|app| &app.env_files)
    }

    fn is_wrong(&self) -> bool {
        self.problems.iter().any(Problem::is_error)
    }
}

impl Checker {
    /// `sources` has one file for each name, and all layers of `workspace.ron` in order. `complete` means that a file
    /// that is not among the sources is deleted, not just unreadable.
    pub fn check(&mut self, sources: &[Source], complete: bool, around: &Surroundings<'_>) -> Checked {
        self.run(sources, complete, around, Known::is_current)
    }

    /// Like [`Checker::check`], but only files whose text has changed are checked again. For an editor, while somebody types.
    pub fn check_texts(&mut self, sources: &[Source], complete: bool, around: &Surroundings<'_>) -> Checked {
        self.run(sources, complete, around, |_, _| true)
    }

    fn run(&mut self, sources: &[Source], complete: bool, around: &Surroundings<'_>, is_settled: IsSettled) -> Checked {
        let apps: Vec<&Source> = sources.iter().filter(|source| source.name != WORKSPACE).collect();
        let problems = self.take_workspace(sources, complete, around);
        if self.workspace.is_none() {
            return withheld(&apps, problems);
        }
        let session = hash(&(format!("{:?}", self.workspace), around.env, around.home));
        for source in &apps {
            self.check_one(source, session, around, is_settled);
        }
        let names: BTreeSet<&str> = apps.iter().map(|source| source.name.as_str()).collect();
        self.known.retain(|name, _| !complete || names.contains(name.as_str()));
        let together = together::check(&self.known, &apps);
        Checked { complete, ..self.conclude(problems, together) }
    }

    /// Takes over last good versions from an earlier checker. They are used for manifests that are broken now and were
    /// never good here. A copy that has an error of its own is skipped.
    pub fn remember(&mut self, copies: &[Source], around: &Surroundings<'_>) {
        if self.workspace.is_none() {
            let copy = copies.iter().rfind(|source| source.name == WORKSPACE);
            self.workspace = copy.and_then(|source| overlay::workspace(&[source], around).value).map(Arc::new);
        }
        for source in copies.iter().filter(|source| source.name != WORKSPACE) {
            let (latest, problems) = app(source, self.workspace.as_deref().unwrap_or(&Workspace::default()), around);
            let unknown = Known { hash: 0, latest: None, problems: Vec::new(), good: None };
            let known = self.known.entry(source.name.clone()).or_insert(unknown);
            if known.good.is_none() && !problems.iter().any(Problem::is_error) {
                known.good = latest.map(Arc::new);
            }
        }
    }

    /// The session's own manifest, or its last good version. That version is also used if the file is gone, because
    /// otherwise it is unknown which variables are secret.
    fn take_workspace(&mut self, sources: &[Source], complete: bool, around: &Surroundings<'_>) -> Vec<Problem> {
        let layers: Vec<&Source> = sources.iter().filter(|source| source.name == WORKSPACE).collect();
        if layers.is_empty() {
            let known = self.workspace.get_or_insert_default();
            let was_there = **known != Workspace::default() && complete;
            return was_there.then(gone).into_iter().collect();
        }
        let layered = overlay::workspace(&layers, around);
        if let Some(workspace) = layered.value {
            self.workspace = Some(Arc::new(workspace));
        }
        layered.problems
    }

    /// Checks one file by itself, unless nothing that it depends on has changed.
    fn check_one(&mut self, source: &Source, session: u64, around: &Surroundings<'_>, is_settled: IsSettled) {
        let hash = hash(&(session, &source.file, &source.text));
        if self.known.get(&source.name).is_some_and(|known| known.hash == hash && is_settled(known, around)) {
            return;
        }
        let (latest, problems) = app(source, self.workspace.as_deref().unwrap_or(&Workspace::default()), around);
        let good = self.known.remove(&source.name).and_then(|known| known.good);
        self.known.insert(source.name.clone(), Known { hash, latest: latest.map(Arc::new), problems, good });
    }

    fn conclude(&mut self, mut problems: Vec<Problem>, mut together: together::ProblemsByApp) -> Checked {
        let mut checked = Checked { workspace: self.workspace.clone().unwrap_or_default(), ..Checked::default() };
        for (name, known) in &mut self.known {
            let mut all = known.problems.clone();
            all.extend(together.remove(name).unwrap_or_default());
            match all.iter().find(|problem| problem.is_error()) {
                Some(error) => {
                    checked.stale.insert(name.clone(), error.clone());
                }
                None => known.good.clone_from(&known.latest),
            }
            if let Some(good) = &known.good {
                checked.apps.insert(name.clone(), good.clone());
            }
            problems.extend(all);
            checked.env_files.extend(known.env_files().map(|(path, _)| path.clone()));
            checked.look_again |= known.env_files().any(|(_, seen)| seen.may_pass);
        }
        problems.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        checked.problems = problems;
        checked
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// While the session's own manifest is broken and there is no good version of it, it is unknown which variables are
/// secret, so no app is started.
fn withheld(apps: &[&Source], problems: Vec<Problem>) -> Checked {
    let first = problems.iter().find(|problem| problem.is_error());
    let stale = apps.iter().filter_map(|source| Some((source.name.clone(), first?.clone()))).collect();
    Checked { stale, problems, ..Checked::default() }
}

fn gone() -> Problem {
    Problem::whole("workspace.ron", "the session's own manifest is gone; its last version stays in use")
        .help("put it back, or drain the session and start it again")
        .warning()
}

/// The app from its own file alone, and all problems of that file.
fn app(source: &Source, workspace: &Workspace, around: &Surroundings<'_>) -> (Option<App>, Vec<Problem>) {
    if let Some(problem) = bad_name(source) {
        return (None, vec![problem]);
    }
    let Read { value, mut problems } = match source.read() {
        Ok(text) => parse::read(&source.file, text),
        Err(problems) => return (None, problems),
    };
    let Some(written) = value else { return (None, problems) };
    let is_whole = problems.is_empty();
    let locator = Locator::new(source).after(problems.len());
    let whole = if is_whole { Whole::Yes } else { Whole::No };
    let (app, found) = resolve::app(&source.name, (written, whole), workspace, &locator, around);
    problems.extend(found);
    (Some(app).filter(|_| is_whole), problems)
}

fn bad_name(source: &Source) -> Option<Problem> {
    let message = format!("`{}` cannot be the name of an app", source.name);
    let problem = Problem::whole(&source.file, message).help(format!("rename the file: {}", name::RULE));
    Some(problem).filter(|_| !name::is_allowed(&source.name))
}

#[cfg(test)]
mod shipped;
#[cfg(test)]
mod tests;
