//! The table of apps: the machine of each app, and what else the session knows about the app.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::AppId;
use crate::model::app::App;
use crate::model::machine::{AppMachine, State};
use crate::model::manifest::after::After;

#[derive(Clone, Default, Hash)]
pub struct Apps {
    names: BTreeMap<String, AppId>,
    slots: BTreeMap<AppId, Slot>,
    /// The apps that have, or may have, live processes.
    busy: BTreeSet<AppId>,
    /// The apps that name another one in `after`, by the other one's name.
    followers: BTreeMap<String, BTreeSet<AppId>>,
    next: u32,
}

#[derive(Clone, Hash)]
pub struct Slot {
    pub machine: AppMachine,
    /// The problem with the manifest on disk, while an earlier version of it is in use.
    pub stale: Option<String>,
    /// The manifest is gone. The slot is removed once the tree is gone.
    pub removed: bool,
    /// The next supervisor would look for a live process of this app, by what was saved last.
    pub is_sought: bool,
    /// The version whose `after` is in the table of followers.
    followed: Arc<App>,
}

impl Slot {
    pub fn state(&self) -> &State {
        self.machine.state()
    }

    pub fn app(&self) -> &Arc<App> {
        &self.machine.app
    }
}

impl Apps {
    pub fn add(&mut self, app: Arc<App>) -> AppId {
        let id = AppId(self.next);
        self.next += 1;
        self.names.insert(app.name.clone(), id);
        self.follow(id, &app);
        let followed = app.clone();
        self.slots.insert(
            id,
            Slot { machine: AppMachine::new(app), stale: None, removed: false, is_sought: false, followed },
        );
        id
    }

    /// Returns its name.
    pub fn remove(&mut self, id: AppId) -> Option<String> {
        let slot = self.slots.remove(&id)?;
        self.busy.remove(&id);
        self.unfollow(id, &slot.followed);
        let name = slot.app().name.clone();
        self.names.remove(&name);
        Some(name)
    }

    /// Call this after an event: the app may be busy now, or have another manifest.
    pub fn update(&mut self, id: AppId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        match slot.state().at_rest() {
            true => self.busy.remove(&id),
            false => self.busy.insert(id),
        };
        let app = slot.app().clone();
        if !Arc::ptr_eq(&app, &slot.followed) {
            let before = std::mem::replace(&mut slot.followed, app.clone());
            self.unfollow(id, &before);
            self.follow(id, &app);
        }
    }

    fn follow(&mut self, id: AppId, app: &App) {
        for After { app: other, .. } in &app.after {
            self.followers.entry(other.clone()).or_default().insert(id);
        }
    }

    fn unfollow(&mut self, id: AppId, app: &App) {
        for After { app: other, .. } in &app.after {
            if let Some(followers) = self.followers.get_mut(other) {
                followers.remove(&id);
                if followers.is_empty() {
                    self.followers.remove(other);
                }
            }
        }
    }

    pub fn id(&self, name: &str) -> Option<AppId> {
        self.names.get(name).copied()
    }

    pub fn get(&self, id: AppId) -> Option<&Slot> {
        self.slots.get(&id)
    }

    pub fn get_mut(&mut self, id: AppId) -> Option<&mut Slot> {
        self.slots.get_mut(&id)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.slots.values_mut()
    }

    pub fn ids(&self) -> Vec<AppId> {
        self.slots.keys().copied().collect()
    }

    /// The apps that have a manifest, by name.
    pub fn known(&self) -> BTreeMap<String, Arc<App>> {
        let slots = self.slots.values().filter(|slot| !slot.removed);
        slots.map(|slot| (slot.app().name.clone(), slot.app().clone())).collect()
    }

    pub fn by_name(&self) -> impl Iterator<Item = (&str, AppId, &Slot)> {
        self.names.iter().filter_map(|(name, id)| Some((name.as_str(), *id, self.slots.get(id)?)))
    }

    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.names.keys().map(String::as_str)
    }

    /// The apps that have, or may have, live processes.
    pub fn busy(&self) -> impl Iterator<Item = (AppId, &Slot)> {
        self.busy.iter().filter_map(|id| Some((*id, self.slots.get(id)?)))
    }

    pub fn is_busy(&self, id: AppId) -> bool {
        self.busy.contains(&id)
    }

    /// Whether no app has live processes.
    pub fn all_at_rest(&self) -> bool {
        self.busy.is_empty()
    }

    /// The apps that name this one in `after`.
    pub fn followers(&self, name: &str) -> impl Iterator<Item = AppId> {
        self.followers.get(name).into_iter().flatten().copied()
    }
}
