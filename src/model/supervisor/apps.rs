//! The table of apps: the machine of each app, and what else the session knows about the app.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::AppId;
use crate::model::app::App;
use crate::model::machine::{AppMachine, State};

#[derive(Default)]
pub struct Apps {
    names: BTreeMap<String, AppId>,
    slots: BTreeMap<AppId, Slot>,
    next: u32,
}

pub struct Slot {
    pub machine: AppMachine,
    /// The problem with the manifest on disk, while an earlier version of it is in use.
    pub stale: Option<String>,
    /// The manifest is gone. The slot is removed once the tree is gone.
    pub removed: bool,
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
        self.slots.insert(id, Slot { machine: AppMachine::new(app), stale: None, removed: false });
        id
    }

    /// Returns its name.
    pub fn remove(&mut self, id: AppId) -> Option<String> {
        let name = self.slots.remove(&id)?.app().name.clone();
        self.names.remove(&name);
        Some(name)
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

    pub fn iter(&self) -> impl Iterator<Item = (AppId, &Slot)> {
        self.slots.iter().map(|(id, slot)| (*id, slot))
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
    pub fn not_at_rest(&self) -> impl Iterator<Item = (AppId, &Slot)> + Clone {
        self.slots.iter().filter(|(_, slot)| !slot.state().at_rest()).map(|(id, slot)| (*id, slot))
    }
}
