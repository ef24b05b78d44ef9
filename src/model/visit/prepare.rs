//! The beginning of a visit: finds a responsive tab and sets up the guard before the page is requested.

use core::time::Duration;
use std::collections::BTreeSet;

use super::{ANSWER, Command, EMPTY, Fault, Navigation, OpenTab, SessionId, Stage, Tab, Time, Visit, VisitEffect};

impl Visit {
    pub(super) fn list(&mut self, now: Time) {
        self.ask(now, Stage::Listing, ANSWER, None, Command::ListTabs);
    }

    pub(super) fn create(&mut self, now: Time) {
        self.ask(now, Stage::Creating, ANSWER, None, Command::CreateTab);
    }

    pub(super) fn attach(&mut self, now: Time, tab: String) {
        self.tab.id.clone_from(&tab);
        self.ask(now, Stage::Attaching, ANSWER, None, Command::Attach { tab });
    }

    /// Chooses the tab that was used last, else one with an empty or error page, else a new one.
    pub(super) fn choose(&mut self, now: Time, tabs: &[Tab]) {
        let with = |starts: &[&str]| tabs.iter().find(|tab| starts.iter().any(|start| tab.url.starts_with(start)));
        match with(&["http:", "https:"]).or_else(|| with(&[EMPTY, "chrome://newtab/", "chrome-error:"])) {
            Some(tab) => self.attach(now, tab.id.clone()),
            None => self.create(now),
        }
    }

    pub(super) fn wake(&mut self, now: Time, session: SessionId) {
        self.tab.session = Some(session);
        self.tell_page(Command::WatchCrashes);
        self.tell_page(Command::WatchPage);
        self.ask_page(now, Stage::Waking, self.wanted.waits.waking, Command::NameMainFrame);
    }

    /// Opens the new tab before closing the old one, because a browser exits when it loses its last tab.
    pub(super) fn replace_tab(&mut self, now: Time) {
        if self.tab.hung.is_some() {
            return self.fail(Fault::Mute);
        }
        self.tab = OpenTab { hung: Some(std::mem::take(&mut self.tab.id)), ..OpenTab::default() };
        self.create(now);
    }

    pub(super) fn hold_documents(&mut self, now: Time) {
        self.tell_page(Command::WatchResponses);
        self.ask_page(now, Stage::Holding, ANSWER, Command::HoldDocuments);
    }

    pub(super) fn navigate(&mut self, now: Time) {
        if self.wanted.older {
            self.effects.push(VisitEffect::ReleaseOlder);
        }
        let hosts = BTreeSet::from([self.wanted.target.host().into()]);
        self.navigation = Navigation { hosts, ..Navigation::default() }; // forget the events of the old page
        let url = self.wanted.target.url().into();
        self.ask_page(now, Stage::Loading, Duration::MAX, Command::Navigate { url });
        self.until = self.wanted.reply_by;
    }
}
