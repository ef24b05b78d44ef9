//! The requests that the browser holds for us, and the look-ups that decide about them. Owns the budget: a page may
//! ask for many names at once, but only for so many, and never at the cost of the page's own next document.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::event::SessionId;
use crate::model::url::Target;

/// Look-ups for frames that run at a time.
pub const LOOKUPS: usize = 32;
/// Requests of frames that wait for a look-up. Those beyond are dropped.
pub const WAITING: usize = 256;

/// A request that the browser holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeldRequest {
    pub session: SessionId,
    pub id: String,
}

/// What a look-up decides about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    Request {
        request: HeldRequest,
        target: Target,
        main: bool,
    },
    /// A document that is already shown.
    Page {
        target: Target,
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
    /// Remembers a request. False when it is held already.
    pub fn hold(&mut self, request: HeldRequest) -> bool {
        self.requests.insert(request)
    }

    /// Forgets a request that is about to be answered. False when it is not held.
    pub fn let_go(&mut self, request: &HeldRequest) -> bool {
        self.requests.remove(request)
    }

    /// Forgets what a session held; the browser has forgotten it too.
    pub fn forget(&mut self, session: &str) {
        self.requests.retain(|request| request.session != session);
        self.waiting
            .retain(|subject| !matches!(subject, Subject::Request { request, .. } if request.session == session));
    }

    /// All that is held, to be dropped.
    pub fn take(&mut self) -> BTreeSet<HeldRequest> {
        self.waiting.clear();
        self.lookups.clear();
        std::mem::take(&mut self.requests)
    }

    /// Forgets what a newer main document makes pointless: look-ups to cancel, and requests to drop.
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

    /// Plans a look-up. False when the budget of the page's frames is spent.
    pub fn plan(&mut self, subject: Subject) -> bool {
        if counts(&subject) && self.waiting.iter().filter(|waiting| counts(waiting)).count() >= WAITING {
            return false;
        }
        self.waiting.push_back(subject);
        true
    }

    /// The next look-up to begin, when there is one and the budget allows it.
    pub fn next(&mut self) -> Option<(u64, &Target)> {
        let busy = self.lookups.values().filter(|subject| counts(subject)).count() >= LOOKUPS;
        let at = self.waiting.iter().position(|subject| !busy || !counts(subject))?;
        let subject = self.waiting.remove(at)?;
        self.last += 1;
        let subject = self.lookups.entry(self.last).or_insert(subject);
        Some((self.last, target(subject)))
    }

    /// What a look-up that has ended was for.
    pub fn ended(&mut self, lookup: u64) -> Option<Subject> {
        self.lookups.remove(&lookup)
    }
}

/// Whether it counts against the budget. A page has one main document at a time, so that needs none.
fn counts(subject: &Subject) -> bool {
    matches!(subject, Subject::Request { main: false, .. })
}

fn target(subject: &Subject) -> &Target {
    match subject {
        Subject::Request { target, .. } | Subject::Page { target, .. } => target,
    }
}
