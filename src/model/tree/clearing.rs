//! Trees that are being cleared: when their members are signalled, when somebody has to look at them again, and when
//! nothing is left of them.

use std::collections::{BTreeMap, BTreeSet};

use super::Pid;
use crate::model::app::AppId;

/// All trees that are being cleared, by app.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Clearings(BTreeMap<AppId, Clearing>);

/// A tree that is being cleared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Clearing {
    /// The app's name.
    pub name: String,
    run: u64,
    /// The signal that every member gets.
    pub signal: i32,
    /// Members that have not ended yet and whose end will be reported.
    left: BTreeSet<Pid>,
    /// Members that we may not signal.
    denied: BTreeSet<Pid>,
    /// Some of it could not be seen, and that was reported.
    unseen: bool,
}

/// The next step after a look at a tree that is being cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterLook {
    /// Nothing of this run is left. The tree is no longer being cleared.
    Empty {
        /// The run.
        run: u64,
    },
    /// The end of each member will be reported.
    Wait,
    /// Some of it could not be seen, so somebody has to look again soon.
    LookAgain {
        /// The first time, so people should be told.
        first: bool,
    },
}

impl Clearings {
    /// Begins to clear the tree of an app with this signal. Returns whether its members are to be signalled; if not, they
    /// have been already.
    pub fn begin(&mut self, app: AppId, name: &str, run: u64, signal: i32) -> bool {
        if self.get(app).is_some_and(|it| (it.signal, it.run) == (signal, run)) {
            return false;
        }
        let denied = self.0.remove(&app).map(|before| before.denied).unwrap_or_default();
        let clearing = Clearing { name: name.into(), run, signal, left: BTreeSet::new(), denied, unseen: false };
        self.0.insert(app, clearing);
        true
    }

    /// The app's tree, if it is being cleared.
    pub fn get(&self, app: AppId) -> Option<&Clearing> {
        self.0.get(&app)
    }

    /// Every tree that is being cleared.
    pub fn all(&self) -> impl Iterator<Item = &Clearing> {
        self.0.values()
    }

    /// Records a look at the tree. `left`: its members, whose ends will be reported from now on. `complete`: every process
    /// was seen; otherwise a member may have been missed.
    pub fn looked(&mut self, app: AppId, left: BTreeSet<Pid>, complete: bool) -> AfterLook {
        let Some(clearing) = self.0.get_mut(&app) else { return AfterLook::Wait };
        let after = match (left.is_empty(), complete) {
            (true, true) => AfterLook::Empty { run: clearing.run },
            (true, false) => AfterLook::LookAgain { first: !std::mem::replace(&mut clearing.unseen, true) },
            (false, _) => AfterLook::Wait,
        };
        clearing.left = left;
        if matches!(after, AfterLook::Empty { .. }) {
            self.0.remove(&app);
        }
        after
    }

    /// We may not signal this member. Returns whether that is new.
    pub fn denied(&mut self, app: AppId, pid: Pid) -> bool {
        self.0.get_mut(&app).is_some_and(|clearing| clearing.denied.insert(pid))
    }

    /// A process of the app has ended. Returns whether somebody has to look at the tree again: what it has forked just
    /// before may be left.
    pub fn ended(&mut self, app: AppId, pid: Pid) -> bool {
        self.0.get_mut(&app).is_some_and(|clearing| {
            clearing.left.remove(&pid);
            clearing.left.is_empty()
        })
    }

    /// The apps whose trees could not be seen at the last look.
    pub fn unseen(&self) -> Vec<AppId> {
        self.0.iter().filter(|(_, clearing)| clearing.left.is_empty()).map(|(app, _)| *app).collect()
    }
}

impl Clearing {
    /// The members that have not ended yet.
    pub fn left(&self) -> impl Iterator<Item = Pid> {
        self.left.iter().copied()
    }

    /// The members that we may not signal.
    pub fn denied(&self) -> impl Iterator<Item = Pid> {
        self.denied.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: AppId = AppId(1);
    const TERM: i32 = 15;
    const KILL: i32 = 9;

    #[test]
    fn a_tree_is_cleared_when_nothing_is_left_at_another_look() {
        let mut clearings = Clearings::default();
        assert!(clearings.begin(APP, "web", 7, TERM));
        assert_eq!(clearings.looked(APP, BTreeSet::from([10, 11]), true), AfterLook::Wait);
        assert!(!clearings.begin(APP, "web", 7, TERM), "it has been asked");
        assert!(!clearings.ended(APP, 10));
        assert!(clearings.ended(APP, 11), "11 may have forked");
        assert_eq!(clearings.looked(APP, BTreeSet::from([12]), true), AfterLook::Wait);
        assert!(clearings.begin(APP, "web", 7, KILL));
        assert_eq!(clearings.looked(APP, BTreeSet::new(), true), AfterLook::Empty { run: 7 });
        assert!(clearings.get(APP).is_none() && !clearings.ended(APP, 12));
    }

    #[test]
    fn what_could_not_be_seen_is_not_taken_for_nothing() {
        let mut clearings = Clearings::default();
        clearings.begin(APP, "web", 7, TERM);
        assert_eq!(clearings.looked(APP, BTreeSet::new(), false), AfterLook::LookAgain { first: true });
        assert_eq!(clearings.unseen(), [APP]);
        assert_eq!(clearings.looked(APP, BTreeSet::new(), false), AfterLook::LookAgain { first: false });
        assert_eq!(clearings.looked(APP, BTreeSet::new(), true), AfterLook::Empty { run: 7 });
    }

    #[test]
    fn a_denied_member_is_reported_once_however_often_it_is_signalled() {
        let mut clearings = Clearings::default();
        clearings.begin(APP, "web", 7, TERM);
        assert!(clearings.denied(APP, 10) && !clearings.denied(APP, 10));
        clearings.begin(APP, "web", 7, KILL);
        assert!(!clearings.denied(APP, 10));
    }
}
