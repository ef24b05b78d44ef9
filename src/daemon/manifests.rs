//! The manifest folders: when they are read, what the checker is told about the machine, and the copies of good
//! versions. The model decides what a manifest means and which copy of it is used.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::state::Copies;
use super::watch::{self, Watch};
use crate::host::accounts;
use crate::host::home;
use crate::host::load::{self, Loaded};
use crate::model::app::App;
use crate::model::loading::absence::Absences;
use crate::model::loading::check::{Checked, Checker};
use crate::model::loading::copies::{self, Recalled};
use crate::model::loading::source::effective;
use crate::model::loading::surroundings::Surroundings;
use crate::model::protocol::PlanReport;
use crate::model::supervisor::AskId;

/// The time before unreadable manifests are read again, when no change event will come.
const REREAD: Duration = Duration::from_secs(2);

/// The environment that manifests may refer to. Variables that are not UTF-8 are passed on to apps, but a manifest
/// cannot name them.
#[derive(Clone)]
pub struct Environment {
    /// By name.
    pub variables: Arc<BTreeMap<String, String>>,
    /// The home folder, or `/` if the user has none.
    pub home: Arc<str>,
    has_home: bool,
}

impl Environment {
    /// The environment of this process.
    pub fn inherited() -> Self {
        let utf8 = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let variables: BTreeMap<String, String> = std::env::vars_os().filter_map(utf8).collect();
        let own = home::folder(variables.get("HOME").map(String::as_str));
        let home = own.as_deref().unwrap_or("/").into();
        Environment { variables: Arc::new(variables), home, has_home: own.is_some() }
    }

    /// The checker's view of this machine.
    pub fn around(&self) -> Surroundings<'_> {
        let home = self.has_home.then_some(&*self.home);
        Surroundings {
            env: &self.variables,
            home,
            look: &load::look,
            read: &load::env_file,
            run_as: &accounts::run_as,
            uid: rustix::process::geteuid().as_raw(),
        }
    }
}

/// Why the folders are read.
pub enum Purpose {
    /// To apply them, for this request or because something changed.
    Apply(Option<AskId>),
    Plan(oneshot::Sender<PlanReport>),
}

pub type Reading = (Loaded, Purpose);

pub struct Manifests {
    pub folders: Vec<PathBuf>,
    /// The file of each app's manifest, as it was read last.
    files: BTreeMap<String, String>,
    /// The env files that the manifests name.
    env_files: BTreeSet<PathBuf>,
    checker: Checker,
    copies: Copies,
    environment: Environment,
    /// Manifests that may only be missing for a moment. Its times count from `origin`.
    absences: Absences,
    origin: Instant,
    /// When to read the folders again, because they could not be read or a manifest is missing.
    reread: Option<Instant>,
    /// `None` before the first turn, and while the session or this supervisor ends.
    watch: Option<Watch>,
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
            files: BTreeMap::new(),
            env_files: BTreeSet::new(),
            checker: Checker::default(),
            copies: Copies::open(state),
            environment,
            absences: Absences::default(),
            origin: Instant::now(),
            reread: None,
            watch: None,
            readings,
        }
    }

    /// Watches the folders from now on. Must be called within the runtime.
    pub fn watch(&mut self) {
        self.watch = Some(watch::start(self.folders.clone()));
    }

    /// Watches the env files that the manifests name, if it watches at all.
    pub fn watch_env_files(&self) {
        if let Some(watch) = &self.watch {
            watch.also(&self.env_files);
        }
    }

    pub fn unwatch(&mut self) {
        self.watch = None;
    }

    /// Returns once something may have changed since the last call. Cancel-safe.
    pub async fn changed(&mut self) {
        match &mut self.watch {
            Some(watch) => watch.changed().await,
            None => std::future::pending().await,
        }
    }

    /// Reads the folders on this thread. Only for the first turn, when there is nothing to block yet.
    pub fn load(&self) -> Loaded {
        load::load(&self.folders)
    }

    /// Reads the folders on another thread. The result comes back to the loop.
    pub fn read(&self, purpose: Purpose) {
        let (folders, readings) = (self.folders.clone(), self.readings.clone());
        tokio::task::spawn_blocking(move || readings.send((load::load(&folders), purpose)));
    }

    pub fn check(&mut self, loaded: &Loaded) -> Checked {
        check(&mut self.checker, loaded, loaded.complete, &self.environment)
    }

    /// Like [`Manifests::check`], for manifests that will be applied. Keeps copies of good versions and schedules
    /// another read of what could not be read. Unless the read was `asked` for, a manifest that is missing for a moment
    /// does not count as deleted.
    pub fn take(&mut self, loaded: &Loaded, asked: bool) -> Checked {
        let names = effective(&loaded.sources).map(|source| source.name.as_str());
        let back = self.absences.read(self.origin.elapsed(), (loaded.complete, asked), names);
        let checked = check(&mut self.checker, loaded, loaded.complete && back.is_none(), &self.environment);
        let unread = (loaded.look_again || checked.look_again).then(|| Instant::now() + REREAD);
        self.reread = back.map(|at| self.origin + at).into_iter().chain(unread).min();
        self.env_files = checked.env_files.iter().map(PathBuf::from).collect();
        let copies::Keep { good, unchanged } = copies::keep(&loaded.sources, &checked);
        self.copies.keep(&good, &unchanged, checked.complete);
        self.files = effective(&loaded.sources).map(|source| (source.name.clone(), source.file.clone())).collect();
        checked
    }

    /// The file of an app's manifest. `None` if it is deleted.
    pub fn file(&self, app: &str) -> Option<&str> {
        self.files.get(app).map(String::as_str)
    }

    /// When to read the folders again.
    pub fn next(&self) -> Option<Instant> {
        self.reread
    }

    pub fn reread_if_due(&mut self, now: Instant) {
        if self.reread.take_if(|due| *due <= now).is_some() {
            self.read(Purpose::Apply(None));
        }
    }

    /// Gives the checker the last good copies of manifests that are broken now. Returns the apps of manifests that were
    /// deleted while no supervisor was running, in their last version.
    pub fn recall<'a>(
        &mut self,
        loaded: &Loaded,
        inherited: impl Iterator<Item = &'a str>,
    ) -> BTreeMap<String, Arc<App>> {
        let checked = self.check(loaded);
        let kept = self.copies.read();
        let Recalled { broken, gone } =
            copies::recall(&loaded.sources, &checked, inherited, |name| kept.get(name).cloned());
        self.checker.remember(&broken, &self.environment.around());
        // These are only stopped. For that no env file is needed, and a relative one would not be found from a copy.
        let without = Surroundings { read: &|_| Ok(Some(String::new())), ..self.environment.around() };
        Checker::default().check(&gone, true, &without).apps
    }

    /// Writes the copies again, if they were deleted.
    pub fn restore_copies(&mut self) {
        if self.copies.were_removed() {
            self.copies.write_again();
            self.read(Purpose::Apply(None));
        }
    }

    /// Deletes the copies. The session is over, or the copies belong to another session.
    pub fn forget_copies(&self) {
        self.copies.forget();
    }
}

/// Checks what was read, and adds the problems of reading. With `complete`, an app without a source has no manifest.
pub(super) fn check(checker: &mut Checker, loaded: &Loaded, complete: bool, environment: &Environment) -> Checked {
    let mut checked = checker.check(&loaded.sources, complete, &environment.around());
    checked.problems.splice(0..0, loaded.problems.iter().cloned());
    checked
}
