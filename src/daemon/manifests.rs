//! The manifest folders: when they are read, what the checker is told of the machine, and the copies of good
//! versions. What a manifest means, and which copy of it counts, is the model's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::state::Copies;
use crate::host::home;
use crate::host::load::{self, Loaded};
use crate::model::app::App;
use crate::model::loading::absence::Absences;
use crate::model::loading::check::{Checked, Checker, WORKSPACE};
use crate::model::loading::source::Source;
use crate::model::loading::surroundings::Surroundings;
use crate::model::protocol::PlanReport;
use crate::model::supervisor::AskId;

/// How long after manifests that could not be read are tried again, where nothing will tell of a change.
const REREAD: Duration = Duration::from_secs(2);

/// The environment that manifests may name. Variables that are not UTF-8 are passed on to apps, but no manifest can
/// name them.
#[derive(Clone)]
pub struct Environment {
    pub variables: Arc<BTreeMap<String, String>>,
    /// `/` when the user has none.
    pub home: Arc<str>,
    has_home: bool,
}

impl Environment {
    /// What this process was started with.
    pub fn inherited() -> Self {
        let utf8 = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let variables: BTreeMap<String, String> = std::env::vars_os().filter_map(utf8).collect();
        let own = home::folder(variables.get("HOME").map(String::as_str));
        let home = own.as_deref().unwrap_or("/").into();
        Environment { variables: Arc::new(variables), home, has_home: own.is_some() }
    }

    fn around(&self) -> Surroundings<'_> {
        Surroundings { env: &self.variables, home: self.has_home.then_some(&*self.home), look: &load::look }
    }
}

/// What the folders were read for.
pub enum Purpose {
    /// On this request, or because something changed.
    Apply(Option<AskId>),
    Plan(oneshot::Sender<PlanReport>),
}

pub type Reading = (Loaded, Purpose);

pub struct Manifests {
    pub folders: Vec<PathBuf>,
    checker: Checker,
    copies: Copies,
    environment: Environment,
    /// Manifests that may only be away for a moment; its times count from `origin`.
    absences: Absences,
    origin: Instant,
    /// When the folders are read again: because they could not be read, or because something is away.
    reread: Option<Instant>,
    readings: mpsc::UnboundedSender<Reading>,
}

impl Manifests {
    pub fn new(
        folders: Vec<PathBuf>,
        state: &Path,
        environment: Environment,
        readings: mpsc::UnboundedSender<Reading>,
    ) -> Self {
        Manifests {
            folders,
            checker: Checker::default(),
            copies: Copies::open(state),
            environment,
            absences: Absences::default(),
            origin: Instant::now(),
            reread: None,
            readings,
        }
    }

    /// Reads the folders in place; for the first turn alone, when there is nothing yet to hold up.
    pub fn load(&self) -> Loaded {
        load::load(&self.folders)
    }

    /// Reads the folders on another thread; the reading comes back to the loop.
    pub fn read(&self, purpose: Purpose) {
        let (folders, readings) = (self.folders.clone(), self.readings.clone());
        tokio::task::spawn_blocking(move || readings.send((load::load(&folders), purpose)));
    }

    pub fn check(&mut self, loaded: &Loaded) -> Checked {
        check(&mut self.checker, loaded, loaded.complete, &self.environment)
    }

    /// As [`Manifests::check`], for manifests that are about to be applied: good versions are kept, what could not be
    /// read is read again, and what is away for a moment is not called deleted, unless somebody `asked` for it.
    pub fn take(&mut self, loaded: &Loaded, asked: bool) -> Checked {
        let names = loaded.effective().map(|source| source.name.as_str());
        let back = match (loaded.complete, asked) {
            (false, _) => None,
            (true, true) => {
                self.absences.settle(names);
                None
            }
            (true, false) => self.absences.look(self.origin.elapsed(), names).map(|at| self.origin + at),
        };
        let unread = loaded.look_again.then(|| Instant::now() + REREAD);
        self.reread = back.into_iter().chain(unread).min();
        let checked = check(&mut self.checker, loaded, loaded.complete && back.is_none(), &self.environment);
        self.keep_copies(loaded, &checked);
        checked
    }

    /// When the folders are to be read again, whatever happens.
    pub fn next(&self) -> Option<Instant> {
        self.reread
    }

    pub fn reread_if_due(&mut self, now: Instant) {
        if self.reread.take_if(|due| *due <= now).is_some() {
            self.read(Purpose::Apply(None));
        }
    }

    /// Teaches the checker what an earlier supervisor knew of manifests that are broken now. Returns the apps of
    /// manifests that were deleted meanwhile, as they were.
    pub fn recall<'a>(
        &mut self,
        loaded: &Loaded,
        inherited: impl Iterator<Item = &'a str>,
    ) -> BTreeMap<String, Arc<App>> {
        let named: BTreeSet<&str> = loaded.sources.iter().map(|source| source.name.as_str()).collect();
        let gone = inherited.filter(|name| !named.contains(name)).filter_map(|name| self.copy_of(name));
        let mut session: Vec<Source> =
            loaded.sources.iter().filter(|source| source.name == WORKSPACE).cloned().collect();
        if session.is_empty() {
            session.extend(self.copy_of(WORKSPACE));
        }
        let gone: Vec<Source> = gone.chain(session.iter().cloned()).collect();
        let checked = self.check(loaded);
        let has_good = |source: &&Source| source.name != WORKSPACE && checked.apps.contains_key(&source.name);
        let copy = |source: &Source| {
            let text = Ok(self.copies.of(&source.name)?);
            Some(Source { text, ..source.clone() })
        };
        let mut copies: Vec<Source> = loaded.effective().filter(|source| !has_good(source)).filter_map(copy).collect();
        copies.extend(session.into_iter().filter(|_| !named.contains(WORKSPACE)));
        self.checker.remember(&copies, &self.environment.around());
        Checker::default().check(&gone, true, &self.environment.around()).apps
    }

    fn copy_of(&self, name: &str) -> Option<Source> {
        let file = self.copies.file(name).display().to_string();
        Some(Source { name: name.into(), file, text: Ok(self.copies.of(name)?) })
    }

    fn keep_copies(&mut self, loaded: &Loaded, checked: &Checked) {
        let broken = |source: &Source| {
            let told = checked.problems.iter().any(|problem| problem.is_error() && problem.file == source.file);
            told || checked.stale.contains_key(&source.name)
        };
        // The session's own manifest stays in use when it is gone, so its copy stays too.
        let (mut good, mut others) = (Vec::new(), BTreeSet::from([WORKSPACE]));
        for source in loaded.effective() {
            match &source.text {
                Ok(text) if !broken(source) => good.push((source.name.as_str(), text.as_str())),
                _ => drop(others.insert(source.name.as_str())),
            }
        }
        self.copies.keep(&good, &others, checked.complete);
    }

    /// The copies are gone: they are written again when the folders have been read.
    pub fn write_copies_again(&mut self) {
        self.copies.write_again();
        self.read(Purpose::Apply(None));
    }

    /// The session is over, or was another one: what was good in it is nothing to continue from.
    pub fn forget_copies(&self) {
        self.copies.forget();
    }
}

/// Checks what was read, and adds what could not be read. `complete`: what was not read has no manifest.
pub fn check(checker: &mut Checker, loaded: &Loaded, complete: bool, environment: &Environment) -> Checked {
    let mut checked = checker.check(&loaded.sources, complete, &environment.around());
    checked.problems.splice(0..0, loaded.problems.iter().cloned());
    checked
}
