//! Finds out which process the kernel killed because memory ran out, and the peak memory of a process.
//!
//! The kernel only counts such kills and does not report the victim. So a death by SIGKILL is attributed to a kill that
//! was counted at about the same time. Each kill is used at most once, and only if no survivor was a better victim.

use std::time::Duration;

/// A process with much memory may take this long to exit after it was killed.
const TAKES_TO_DIE: Duration = Duration::from_secs(2);

/// The kills that are not attributed to a death yet.
#[derive(Debug, Default)]
pub struct Kills {
    counted: Option<u64>,
    /// When each kill was noticed.
    open: Vec<Duration>,
}

/// The facts by which the kernel chooses a victim: its memory, weighted by `oom_score_adj`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Resident memory in bytes; for a dead process, its peak.
    pub resident: u64,
    /// -1000 to 1000. The kernel prefers a victim with a higher value.
    pub oom_score_adj: i32,
}

impl Candidate {
    /// Whether the kernel would have chosen this process first, whatever the size of the machine.
    fn goes_before(self, other: Candidate) -> bool {
        self.resident > other.resident && self.oom_score_adj >= other.oom_score_adj
    }
}

impl Kills {
    /// Records the number of kills that the kernel has counted. Kills before the first call are ignored.
    pub fn counted(&mut self, now: Duration, total: u64) {
        let new = total.saturating_sub(self.counted.replace(total).unwrap_or(total));
        self.open.retain(|noticed| now.saturating_sub(*noticed) <= TAKES_TO_DIE);
        self.open.extend((0..new.min(1000)).map(|_| now));
    }

    /// Whether a process that has just died may have been the victim of a kill.
    pub fn any_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Whether a process that died of SIGKILL was the victim of a kill. If so, that kill is used up.
    pub fn claim(&mut self, victim: Candidate, survivors: impl IntoIterator<Item = Candidate>) -> bool {
        if self.open.is_empty() || survivors.into_iter().any(|survivor| survivor.goes_before(victim)) {
            return false;
        }
        self.open.remove(0);
        true
    }
}

/// The peak memory in bytes of a process whose `rusage` reports `measured`. A program that we start inherits our own
/// peak in that number, so the peak is unknown if the program stayed below ours.
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
