//! Absence: manifests that have disappeared. Editors, checkouts and syncs remove a file and write it again, or move a
//! whole folder aside. So a manifest counts as deleted only after it has been missing for a moment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a manifest must be missing before its app is stopped.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// The manifests that are missing, and since when.
#[derive(Debug, Default)]
pub struct Absences {
    there: BTreeSet<String>,
    since: BTreeMap<String, Duration>,
}

impl Absences {
    /// Takes in a read of the folders at `now`. Unless it was `complete`, it does not say what is missing. If an operator
    /// `asked` for it, what is missing counts as deleted at once. Returns when to look again if a missing manifest does
    /// not count as deleted yet.
    pub fn read<'a>(
        &mut self,
        now: Duration,
        (complete, asked): (bool, bool),
        there: impl Iterator<Item = &'a str>,
    ) -> Option<Duration> {
        match (complete, asked) {
            (false, _) => None,
            (true, true) => {
                self.settle(there);
                None
            }
            (true, false) => self.look(now, there),
        }
    }

    /// Records which manifests exist at `now`. Returns when to look again if a missing one does not count as deleted
    /// yet.
    fn look<'a>(&mut self, now: Duration, there: impl Iterator<Item = &'a str>) -> Option<Duration> {
        let there: BTreeSet<String> = there.map(str::to_owned).collect();
        for name in self.there.difference(&there) {
            self.since.entry(name.clone()).or_insert(now);
        }
        self.since.retain(|name, since| !there.contains(name) && now < *since + PATIENCE);
        self.there = there;
        self.since.values().min().map(|since| *since + PATIENCE)
    }

    fn settle<'a>(&mut self, there: impl Iterator<Item = &'a str>) {
        self.there = there.map(str::to_owned).collect();
        self.since.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STEP: Duration = Duration::from_millis(400);

    #[test]
    fn what_is_away_for_a_moment_is_not_deleted() {
        let mut absences = Absences::default();
        assert_eq!(absences.look(Duration::ZERO, ["a", "b"].into_iter()), None);
        assert_eq!(absences.look(STEP, ["b"].into_iter()), Some(STEP + PATIENCE));
        assert_eq!(absences.look(2 * STEP, ["a", "b"].into_iter()), None);
    }

    #[test]
    fn what_stays_away_is() {
        let mut absences = Absences::default();
        absences.look(Duration::ZERO, ["a", "b"].into_iter());
        absences.look(STEP, ["b"].into_iter());
        assert_eq!(absences.look(2 * STEP, std::iter::empty()), Some(STEP + PATIENCE), "one after the other");
        assert_eq!(absences.look(STEP + PATIENCE, std::iter::empty()), Some(2 * STEP + PATIENCE));
        assert_eq!(absences.look(2 * STEP + PATIENCE, std::iter::empty()), None);
    }

    #[test]
    fn what_an_operator_reloads_counts_at_once() {
        let mut absences = Absences::default();
        absences.look(Duration::ZERO, ["a"].into_iter());
        absences.settle(std::iter::empty());
        assert_eq!(absences.look(STEP, std::iter::empty()), None);
    }

    #[test]
    fn an_incomplete_read_says_nothing_about_what_is_missing() {
        let mut absences = Absences::default();
        assert_eq!(absences.read(Duration::ZERO, (true, false), ["a"].into_iter()), None);
        assert_eq!(absences.read(STEP, (false, false), std::iter::empty()), None);
        assert_eq!(absences.read(2 * STEP, (true, false), std::iter::empty()), Some(2 * STEP + PATIENCE));
        assert_eq!(absences.read(3 * STEP, (true, true), std::iter::empty()), None, "an operator asked");
        assert_eq!(absences.read(4 * STEP, (true, false), std::iter::empty()), None);
    }

    proptest! {
        /// While a missing manifest may still come back, another look is due no later than `PATIENCE` after it went.
        #[test]
        fn every_wait_ends(looks in proptest::collection::vec((0u64..900, proptest::collection::btree_set("[a-c]", 0..3)), 1..20)) {
            let (mut absences, mut now) = (Absences::default(), Duration::ZERO);
            for (pause, there) in looks {
                now += Duration::from_millis(pause);
                let next = absences.look(now, there.iter().map(String::as_str));
                prop_assert!(next.is_none_or(|next| now < next && next <= now + PATIENCE), "{next:?} at {now:?}");
            }
        }
    }
}
