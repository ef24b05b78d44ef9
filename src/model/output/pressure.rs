//! What happens to output that comes faster than it can be written: how much of it may wait, when the app's pipe is
//! emptied before its content is in the file, and when output is dropped.

use std::time::Duration;

/// The most that is read from a pipe at once.
pub const CHUNK: usize = 256 << 10;

/// Output waiting to be written, of all apps together.
pub const BUDGET: usize = 8 << 20;

/// What an app with nothing in the queue may put there when others have used up the budget.
pub const RESERVE: usize = 4 << 10;

/// A chunk that takes longer than this to be written loses its protection: it leaves the pipe, so that the app has
/// room, and is lost if the supervisor dies before it is in the file.
pub const SLOW: Duration = Duration::from_millis(50);

/// The same where the whole loop waits: an app has just died, and its last output is wanted.
pub const SLOW_AT_A_DEATH: Duration = Duration::from_millis(20);

/// Bytes an app may add to a queue that holds `queued`, of which `own` are its own.
pub fn allowance(budget: usize, queued: usize, own: usize) -> usize {
    if queued < budget {
        CHUNK
    } else if own == 0 {
        RESERVE
    } else {
        0
    }
}

/// Where the next chunk goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It stays in the pipe until the queue has room.
    Wait,
    /// Into the queue. `protected`: it also stays in the pipe until it is in the file.
    Queue { protected: bool },
    /// Nowhere: it is counted.
    Drop,
}

/// `room`: bytes the queue takes now. `dropping`: output before this was dropped. `urgent`: it cannot wait.
pub fn admission(room: usize, dropping: bool, urgent: bool) -> Admission {
    match (room, dropping) {
        (0, false) if !urgent => Admission::Wait,
        (0, _) => Admission::Drop,
        // What was dropped makes the pipe's content no proof of what is in the file.
        (_, dropping) => Admission::Queue { protected: !dropping },
    }
}

/// How much longer a chunk is waited for that is on its way to the file; `None`: it loses its protection.
pub fn patience(waited: Duration, at_a_death: bool) -> Option<Duration> {
    let limit = if at_a_death { SLOW_AT_A_DEATH } else { SLOW };
    limit.checked_sub(waited).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_a_little_room_for_others() {
        assert_eq!(allowance(BUDGET, 0, 0), CHUNK);
        assert_eq!(allowance(BUDGET, BUDGET - 1, BUDGET - 1), CHUNK);
        assert_eq!(allowance(BUDGET, BUDGET, 0), RESERVE);
        assert_eq!(allowance(BUDGET, BUDGET, 1), 0);
    }

    #[test]
    fn output_waits_for_room_unless_it_is_urgent_or_some_was_dropped() {
        let table = [
            ((0, false, false), Admission::Wait),
            ((0, false, true), Admission::Drop),
            ((0, true, false), Admission::Drop),
            ((0, true, true), Admission::Drop),
            ((1, false, false), Admission::Queue { protected: true }),
            ((1, false, true), Admission::Queue { protected: true }),
            ((1, true, false), Admission::Queue { protected: false }),
            ((1, true, true), Admission::Queue { protected: false }),
        ];
        for ((room, dropping, urgent), expected) in table {
            assert_eq!(admission(room, dropping, urgent), expected, "{room} {dropping} {urgent}");
        }
    }

    #[test]
    fn nobody_is_waited_for_without_an_end() {
        assert_eq!(patience(Duration::ZERO, false), Some(SLOW));
        assert_eq!(patience(SLOW_AT_A_DEATH, false), Some(SLOW - SLOW_AT_A_DEATH));
        assert_eq!(patience(SLOW_AT_A_DEATH, true), None);
        assert_eq!(patience(SLOW, false), None);
        assert_eq!(patience(2 * SLOW, true), None);
    }
}
