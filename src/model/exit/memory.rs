//! Tells which process the kernel killed for want of memory, and how much memory a process held at its peak.
//!
//! The kernel only counts its kills. It does not say whom it killed. So a death by SIGKILL is attributed to a kill that
//! was counted at about the same time, each kill at most once, and only if no survivor was a better victim.

use std::time::Duration;

/// A process with much memory takes this long to be gone after it was killed.
const TAKES_TO_DIE: Duration = Duration::from_secs(2);

/// The kills that no death has been attributed to.
#[derive(Debug, Default)]
pub struct Kills {
    counted: Option<u64>,
    /// When each of them was noticed.
    open: Vec<Duration>,
}

/// What makes the kernel choose a process: its memory, weighed with its `oom_score_adj`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Resident bytes; of a dead process, at its peak.
    pub resident: u64,
    pub oom_score_adj: i32,
}

impl Candidate {
    /// The kernel would have chosen this one first, whatever the size of the machine.
    fn goes_before(self, other: Candidate) -> bool {
        self.resident > other.resident && self.oom_score_adj >= other.oom_score_adj
    }
}

impl Kills {
    /// The kernel has counted so many kills by now. Those before the first call are history.
    pub fn counted(&mut self, now: Duration, total: u64) {
        let new = total.saturating_sub(self.counted.replace(total).unwrap_or(total));
        self.open.retain(|noticed| now.saturating_sub(*noticed) <= TAKES_TO_DIE);
        self.open.extend((0..new.min(1000)).map(|_| now));
    }

    /// Whether a kill may have been the end of a process that has died now.
    pub fn any_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Whether a process that has died of SIGKILL was the victim of a kill, which no other death is attributed to then.
    pub fn claim(&mut self, victim: Candidate, survivors: impl IntoIterator<Item = Candidate>) -> bool {
        if self.open.is_empty() || survivors.into_iter().any(|survivor| survivor.goes_before(victim)) {
            return false;
        }
        self.open.remove(0);
        true
    }
}

/// The peak memory of a process whose `rusage` says `measured`, in bytes. A program that we start inherits our own
/// peak in that number, so nothing is known about one that stayed below it.
pub fn peak(measured: u64, ours: u64) -> Option<u64> {
    (measured > ours).then_some(measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn process(mib: u64) -> Candidate {
        Candidate { resident: mib * MIB, oom_score_adj: 0 }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_kill_is_one_death_only() {
        let mut kills = Kills::default();
        kills.counted(at(0), 7); // before our time
        assert!(!kills.claim(process(900), []));
        kills.counted(at(10), 8);
        assert!(kills.claim(process(900), [process(5)]));
        assert!(!kills.claim(process(900), [process(5)]), "the second death was another one's doing");
    }

    #[test]
    fn a_kill_elsewhere_is_not_the_cause_of_a_later_death() {
        let mut kills = Kills::default();
        kills.counted(at(0), 0);
        kills.counted(at(10), 1);
        kills.counted(at(60), 1);
        assert!(!kills.claim(process(900), []));
    }

    #[test]
    fn the_kernel_does_not_kill_the_smaller_one() {
        let mut kills = Kills::default();
        kills.counted(at(0), 0);
        kills.counted(at(10), 1);
        assert!(!kills.claim(process(2), [process(300)]));
        let preferred = Candidate { oom_score_adj: 500, ..process(2) };
        assert!(kills.claim(preferred, [process(300)]), "it was told to be killed first");
    }

    #[test]
    fn a_peak_below_our_own_is_not_known() {
        assert_eq!(peak(6 * MIB, 6 * MIB), None);
        assert_eq!(peak(90 * MIB, 6 * MIB), Some(90 * MIB));
    }
}
