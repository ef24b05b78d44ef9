//! The state that an earlier supervisor of the session left. It is kept here until the first manifests are loaded.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{DrainCause, SavedSession, Staging, Supervisor, Turn};
use crate::model::app::App;
use crate::model::loading::check::Checked;
use crate::model::machine::SavedApp;

#[derive(Debug, Clone, Default, PartialEq, Hash)]
pub struct Inheritance {
    /// Apps whose manifest has not been loaded yet.
    pub apps: BTreeMap<String, SavedApp>,
    /// Those of them whose manifest was deleted, with their last manifest.
    last_known: BTreeMap<String, Arc<App>>,
    /// A drain was in progress that ends with this exit code.
    drain: Option<u8>,
}

impl Supervisor {
    /// Takes over the state of an earlier supervisor. Call this before the first manifests are loaded. `draining` is
    /// what the guard says: whether the session is ending, and with which exit code. The saved state does not count for
    /// that: it may be older than the request, or from a session that the guard has never seen.
    pub fn inherit(&mut self, saved: SavedSession, draining: Option<u8>) {
        self.inheritance = Inheritance { apps: saved.apps, drain: draining, ..Inheritance::default() };
        if saved.session.staged {
            self.staging = Staging::Done;
        }
    }

    /// Names of the inherited apps whose manifest has not been loaded yet.
    pub fn inherited_names(&self) -> impl Iterator<Item = &str> {
        self.inheritance.apps.keys().map(String::as_str)
    }

    /// Sets the last manifests of inherited apps whose manifest was deleted. They say how to stop these apps, and where
    /// their output goes until then.
    pub fn last_known(&mut self, apps: BTreeMap<String, Arc<App>>) {
        self.inheritance.last_known = apps;
    }

    /// Goes on with the drain of an earlier supervisor, once its apps are known.
    pub(super) fn resume_drain(&mut self, turn: &mut Turn<'_>) {
        if let Some(code) = self.inheritance.drain.take() {
            self.begin_drain(code, DrainCause::Resumed, turn);
        }
    }

    /// An earlier supervisor was draining, and this one has not resumed the drain yet.
    pub(super) fn will_drain(&self) -> bool {
        self.inheritance.drain.is_some()
    }

    /// Inherited apps whose manifests were deleted while no supervisor was running are stopped as if the manifests
    /// had been deleted now. An app whose manifest is only broken is left alone.
    pub(super) fn stop_the_disowned(&mut self, checked: &Checked, turn: &mut Turn<'_>) {
        if !checked.complete {
            return;
        }
        let gone = self.inheritance.apps.keys().filter(|name| !checked.stale.contains_key(*name)).cloned().collect();
        self.disown(gone, turn);
    }

    /// No app may outlive a drain, even if its manifest is broken or deleted.
    pub(super) fn disown_all(&mut self, turn: &mut Turn<'_>) {
        let all = self.inheritance.apps.keys().cloned().collect();
        self.disown(all, turn);
    }

    fn disown(&mut self, names: Vec<String>, turn: &mut Turn<'_>) {
        for name in names {
            let app = match self.inheritance.last_known.remove(&name) {
                Some(app) => App { enabled: false, ..(*app).clone() },
                None => App::without_manifest(&name),
            };
            let id = self.appear(Arc::new(app), turn);
            self.remove(id, turn);
        }
    }
}
