//! Counts events that anybody can cause by the million, so that they do not push everything else out of a log: one line
//! for each kind and span of time, with a count. Pure: the caller passes the time.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// How long to count the events of one kind before the next line.
const COUNTED: Duration = Duration::from_secs(10);

/// Events of the same kind are counted together.
#[derive(Debug)]
pub struct Repeats<K> {
    most: usize,
    kinds: HashMap<K, Count>,
}

#[derive(Debug)]
struct Count {
    since: Duration,
    more: u64,
}

impl Count {
    fn is_over(&self, now: Duration) -> bool {
        now >= self.since + COUNTED
    }
}

impl<K: Hash + Eq + Clone> Repeats<K> {
    /// Counts about this many kinds apart.
    pub fn new(most: usize) -> Self {
        Repeats { most, kinds: HashMap::new() }
    }

    /// Counts an event. If it gets a line, returns how many events since the last line got none; otherwise `None`. If
    /// too many kinds are counted already, the event is one of the kind `shared`.
    pub fn count(&mut self, now: Duration, kind: K, shared: K) -> Option<u64> {
        self.kinds.retain(|_, count| count.more > 0 || !count.is_over(now));
        while self.is_full_for(&kind) {
            let over = self.kinds.iter().filter(|(kind, count)| count.is_over(now) && **kind != shared);
            let Some(oldest) = over.min_by_key(|(_, count)| count.since).map(|(kind, _)| kind.clone()) else { break };
            self.kinds.remove(&oldest); // its count is lost: it has been silent for the longest time
        }
        let kind = if self.is_full_for(&kind) { shared } else { kind };
        let begins = Count { since: now, more: 0 };
        match self.kinds.get_mut(&kind) {
            Some(count) if !count.is_over(now) => {
                count.more += 1;
                None
            }
            Some(count) => Some(std::mem::replace(count, begins).more),
            None => {
                self.kinds.insert(kind, begins);
                Some(0)
            }
        }
    }

    fn is_full_for(&self, kind: &K) -> bool {
        self.kinds.len() >= self.most && !self.kinds.contains_key(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_has_a_line_for_ten_seconds_and_the_next_one_has_the_count() {
        let mut repeats = Repeats::new(64);
        let mut event = |seconds, kind| repeats.count(Duration::from_secs(seconds), kind, "");
        assert_eq!([0, 1, 9].map(|now| event(now, "a")), [Some(0), None, None]);
        assert_eq!((event(9, "b"), event(9, "c")), (Some(0), Some(0)));
        assert_eq!((event(10, "a"), event(11, "a")), (Some(2), None));
    }

    #[test]
    fn a_crowd_of_kinds_writes_few_lines() {
        let mut repeats = Repeats::new(64);
        let lines =
            (0..300_000u64).filter(|kind| repeats.count(Duration::from_micros(kind * 16), *kind, u64::MAX).is_some());
        assert!(lines.count() <= 65);
        assert!(repeats.kinds.len() <= 65);
    }

    #[test]
    fn old_kinds_make_room_for_new_ones() {
        let mut repeats = Repeats::new(2);
        let mut event = |seconds, kind| repeats.count(Duration::from_secs(seconds), kind, "shared");
        assert_eq!(
            [(0, "a"), (0, "a"), (1, "b"), (1, "b")].map(|(at, kind)| event(at, kind)),
            [Some(0), None, Some(0), None]
        );
        assert_eq!([(2, "c"), (2, "d")].map(|(at, kind)| event(at, kind)), [Some(0), None], "they share a line");
        assert_eq!([(12, "e"), (12, "e")].map(|(at, kind)| event(at, kind)), [Some(0), None], "old kinds make room");
    }
}
