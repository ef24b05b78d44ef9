//! How apps depend on one another through `after`: who has to wait, who is stopped because the app that it follows is no
//! longer up, and what people are told of it.

use super::apps::Slot;
use super::{AppId, Supervisor};
use crate::model::exit::Exit;
use crate::model::machine::{AppEvent, State, StopReason};
use crate::model::manifest::after::{After, Until};

impl Supervisor {
    /// The event for this app that follows from the states of others, if any.
    pub(super) fn consequence(&self, id: AppId) -> Option<AppEvent> {
        match self.apps.get(id)?.state() {
            State::Waiting { .. } => (!self.blocked(id)).then_some(AppEvent::Unblocked),
            State::StoppingFollowers { .. } => (!self.followed(id)).then_some(AppEvent::FollowersEnded),
            State::Probing { .. } | State::Running { .. } => self.lost(id).then_some(AppEvent::DependencyLost),
            _ => None,
        }
    }

    /// The apps for which something may follow from a change of this one: itself, those that name it in `after`, and
    /// those that it names.
    pub(super) fn concerned(&self, id: AppId) -> Vec<AppId> {
        let Some(slot) = self.apps.get(id) else { return Vec::new() };
        let named = slot.app().after.iter().filter_map(|after| self.apps.id(&after.app));
        [id].into_iter().chain(self.apps.followers(&slot.app().name)).chain(named).collect()
    }

    /// This app must not start now.
    pub(super) fn blocked(&self, id: AppId) -> bool {
        let Some(slot) = self.apps.get(id) else { return false };
        slot.app().after.iter().any(|after| !self.holds(after)) || self.is_job_of_a_follower(id)
    }

    /// An app that follows the success of this one is not down yet. Its job must not run again beside it.
    fn is_job_of_a_follower(&self, id: AppId) -> bool {
        self.followers_of(id, |after| after.until == Until::Succeeded).next().is_some()
    }

    /// An app that follows this one is not down yet.
    pub(super) fn followed(&self, id: AppId) -> bool {
        !self.hurried() && self.followers_of(id, |_| true).next().is_some()
    }

    /// The names of the apps that follow this one and have, or may have, processes.
    fn followers_of(&self, id: AppId, kind: impl Fn(&After) -> bool) -> impl Iterator<Item = &str> {
        let name = self.name(id).unwrap_or_default();
        let follows = move |slot: &&Slot| {
            slot.app().after.iter().any(|after| after.follow && after.app == name && kind(after))
                && slot.state().may_have_processes()
        };
        self.apps
            .followers(name)
            .filter_map(|other| self.apps.get(other))
            .filter(follows)
            .map(|slot| slot.app().name.as_str())
    }

    /// An app that this one follows is not as `after` demands. One that an earlier supervisor left, and that is still
    /// looked for, is presumed to be as it was.
    fn lost(&self, id: AppId) -> bool {
        let Some(slot) = self.apps.get(id) else { return false };
        let known = |after: &After| {
            let other = self.apps.id(&after.app).and_then(|id| self.apps.get(id));
            other.is_some_and(|other| !matches!(other.state(), State::Resuming { .. } | State::Looking { .. }))
        };
        slot.app().after.iter().any(|after| after.follow && known(after) && !self.holds(after))
    }

    /// Whether this app need not be waited for any longer. No app without a manifest can be as a condition demands.
    fn holds(&self, after: &After) -> bool {
        let Some(slot) = self.apps.id(&after.app).and_then(|id| self.apps.get(id)) else {
            return after.until == Until::Settled;
        };
        match after.until {
            Until::Settled => !slot.state().on_its_way() && !self.is_about_to_start(slot),
            Until::Running => matches!(slot.state(), State::Running { .. }),
            Until::Started => matches!(slot.state(), State::Probing { .. } | State::Running { .. }),
            Until::Succeeded => {
                matches!(slot.state(), State::Stopped { .. }) && slot.machine.last_exit == Some(Exit::Clean)
            }
        }
    }

    /// The app was just loaded, together with the one that waits for it.
    fn is_about_to_start(&self, slot: &Slot) -> bool {
        matches!(slot.state(), State::Stopped { why: StopReason::NotStarted, .. })
            && slot.app().enabled
            && self.workspace.autostart
            && self.drain.is_none()
    }

    /// As text: the apps that a starting or stopping app waits for.
    pub(super) fn waits_for(&self, id: AppId) -> Option<String> {
        let slot = self.apps.get(id)?;
        match slot.state() {
            State::Waiting { .. } => {
                let missing = || slot.app().after.iter().filter(|after| !self.holds(after));
                let one = missing().find_map(|after| self.is_in_vain(after)).or_else(|| missing().next().map(wanted));
                Some(one.unwrap_or_else(|| format!("waiting for {} to stop", list(self.followers_of(id, |_| true)))))
            }
            State::StoppingFollowers { .. } => {
                Some(format!("waiting for {} to stop", list(self.followers_of(id, |_| true))))
            }
            _ => None,
        }
    }

    /// Why the app waits for something that will not happen by itself, and the way out; `None` if it may happen.
    pub(super) fn waits_in_vain(&self, id: AppId) -> Option<String> {
        let slot = self.apps.get(id).filter(|slot| matches!(slot.state(), State::Waiting { .. }))?;
        slot.app().after.iter().filter(|after| !self.holds(after)).find_map(|after| self.is_in_vain(after))
    }

    fn is_in_vain(&self, after: &After) -> Option<String> {
        let (wanted, name) = (wanted(after), &after.app);
        let Some(slot) = self.apps.id(name).and_then(|id| self.apps.get(id)) else {
            return Some(format!("{wanted}, which has no manifest"));
        };
        let way_out = format!("`kasm-void start {name}`");
        match slot.state() {
            State::Stopped { .. } if self.is_about_to_start(slot) => None,
            State::Stopped { why: StopReason::Done, .. } if after.until == Until::Succeeded => {
                let exit = slot.machine.last_exit.clone().unwrap_or(Exit::Unknown);
                Some(format!("{wanted}, but it ended: {exit}; see `kasm-void why {name}`, then {way_out}"))
            }
            State::Stopped { why, .. } => Some(format!("{wanted}, which is stopped ({}); {way_out}", why.text())),
            State::GaveUp { .. } => {
                Some(format!("{wanted}, which gave up; see `kasm-void why {name}`, then {way_out}"))
            }
            _ => None,
        }
    }
}

/// What an app waits for, as text.
fn wanted(after: &After) -> String {
    let name = &after.app;
    match after.until {
        Until::Settled => format!("waiting for {name}"),
        Until::Running => format!("waiting for {name} to be Running"),
        Until::Started => format!("waiting for {name} to be started"),
        Until::Succeeded => format!("waiting for {name} to succeed"),
    }
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}
