//! The requests that the browser holds for us, and the look-ups that decide about them. Owns the budget for look-ups:
//! it limits the names that the frames of a page can look up, so that they never delay the page's own next document.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::event::SessionId;
use crate::model::url::JudgedUrl;

/// The most look-ups for frames that run at the same time.
pub const LOOKUPS: usize = 32;
/// The most requests of frames that wait for a look-up. Further ones are dropped.
pub const WAITING: usize = 256;

/// A request that the browser holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeldRequest {
    pub session: SessionId,
    pub id: String,
}

/// The subject of a look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    Request {
        request: HeldRequest,
        target: JudgedUrl,
        main: bool,
    },
    /// A document that is already shown.
    Page {
        target: JudgedUrl,
        loader: String,
    },
}

#[derive(Debug, Clone, Default)]
pub struct Held {
    requests: BTreeSet<HeldRequest>,
    lookups: BTreeMap<u64, Subject>,
    waiting: VecDeque<Subject>,
    last: u64,
}

impl Held {
    /// Remembers a request. Returns false if it is already held.
    pub fn hold(&mut self, request: HeldRequest) -> bool {
        self.requests.insert(request)
    }

    /// Forgets a request that is about to be answered. Returns false if it is not held.
    pub fn let_go(&mut self, request: &HeldRequest) -> bool {
        self.requests.remove(request)
    }

    /// Forgets the requests of a session. The browser has dropped them too.
    pub fn forget(&mut self, session: &str) {
        self.requests.retain(|request| request.session != session);
        self.waiting
            .retain(|subject| !matches!(subject, Subject::Request { request, .. } if request.session == session));
    }

    /// Takes all held requests, to drop them.
    pub fn take(&mut self) -> BTreeSet<HeldRequest> {
        self.waiting.clear();
        self.lookups.clear();
        std::mem::take(&mut self.requests)
    }

    /// Forgets what a newer main document makes obsolete. Returns the look-ups to cancel and the requests to drop.
    pub fn supersede_main(&mut self) -> (Vec<u64>, Vec<HeldRequest>) {
        let running = self.lookups.extract_if(.., |_, subject| !counts(subject));
        let (lookups, running): (Vec<u64>, Vec<Subject>) = running.unzip();
        let (waiting, frames) = self.waiting.drain(..).partition(|subject| !counts(subject));
        self.waiting = frames;
        let main = running.into_iter().chain::<VecDeque<_>>(waiting).filter_map(|subject| match subject {
            Subject::Request { request, .. } => Some(request),
            Subject::Page { .. } => None,
        });
        (lookups, main.collect())
    }

    /// Queues a look-up. Returns false if the budget of the page's frames is used up.
    pub fn plan(&mut self, subject: Subject) -> bool {
        if counts(&subject) && self.waiting.iter().filter(|waiting| counts(waiting)).count() >= WAITING {
            return false;
        }
        self.waiting.push_back(subject);
        true
    }

    /// The next look-up to start, if there is one and the budget allows it.
    pub fn next(&mut self) -> Option<(u64, &JudgedUrl)> {
        let busy = self.lookups.values().filter(|subject| counts(subject)).count() >= LOOKUPS;
        let at = self.waiting.iter().position(|subject| !busy || !counts(subject))?;
        let subject = self.waiting.remove(at)?;
        self.last += 1;
        let subject = self.lookups.entry(self.last).or_insert(subject);
        Some((self.last, target(subject)))
    }

    /// Removes a finished look-up and returns its subject.
    pub fn ended(&mut self, lookup: u64) -> Option<Subject> {
        self.lookups.remove(&lookup)
    }
}

/// Whether a look-up counts against the budget. A main document does not, because a page has only one at a time.
fn counts(subject: &Subject) -> bool {
    matches!(subject, Subject::Request { main: false, .. })
}

fn target(subject: &Subject) -> &JudgedUrl {
    match subject {
        Subject::Request { target, .. } | Subject::Page { target, .. } => target,
    }
}
