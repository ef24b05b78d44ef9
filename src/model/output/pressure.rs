//! Backpressure, for output that arrives faster than it can be written: how much may wait in the queue, when to empty
//! the app's pipe before its content is in the file, and when to drop output.

use std::time::Duration;

/// The most bytes to read from a pipe at once.
pub const CHUNK: usize = 256 << 10;

/// The most bytes of all apps together that may wait to be written.
pub const BUDGET: usize = 8 << 20;

/// The bytes that an app with nothing in the queue may add when other apps have used up the budget.
pub const RESERVE: usize = 4 << 10;

/// A chunk that takes longer than this to be written loses its protection: it is removed from the pipe, so that the output
/// behind it can be read. It is lost if the supervisor dies before it is in the file.
pub const SLOW: Duration = Duration::from_secs(1);

/// The same limit while the pipe is filling, so that the app may soon be blocked.
pub const SLOW_WHILE_FILLING: Duration = Duration::from_millis(50);

/// The same limit while the main loop waits for the last output of an app that has just died.
pub const SLOW_AT_A_DEATH: Duration = Duration::from_millis(20);

/// The part that has to wait until a chunk has moved from its pipe into the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldUp {
    /// The main loop, which needs the last output of an app that has just died.
    Loop,
    /// The app, soon: its pipe is filling.
    App,
    /// Only those who look at the output.
    Readers,
}

/// Whether a pipe with this many bytes may soon block its writer. A pipe counts in pages, and small writes may leave half
/// of each page empty.
pub fn is_filling(bytes: usize, capacity: usize) -> bool {
    bytes >= capacity / 4
}

/// How many bytes an app may add to a queue of `queued` bytes, `own` of which are its own.
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
    /// It goes into the queue.
    Queue {
        /// It also stays in the pipe until it is in the file.
        protected: bool,
    },
    /// It is dropped and counted.
    Drop,
}

/// Decides where the next chunk goes. `room`: bytes that fit into the queue now. `dropping`: the output before it was
/// dropped. `urgent`: it cannot wait.
pub fn admission(room: usize, dropping: bool, urgent: bool) -> Admission {
    match (room, dropping) {
        (0, false) if !urgent => Admission::Wait,
        (0, _) => Admission::Drop,
        // After a drop, the content of the pipe no longer shows what is missing in the file.
        (_, dropping) => Admission::Queue { protected: !dropping },
    }
}

/// How much longer to wait until a chunk is in the file; `None` if it loses its protection now.
pub fn patience(waited: Duration, held_up: HeldUp) -> Option<Duration> {
    let limit = match held_up {
        HeldUp::Loop => SLOW_AT_A_DEATH,
        HeldUp::App => SLOW_WHILE_FILLING,
        HeldUp::Readers => SLOW,
    };
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
        for (held_up, limit) in
            [(HeldUp::Loop, SLOW_AT_A_DEATH), (HeldUp::App, SLOW_WHILE_FILLING), (HeldUp::Readers, SLOW)]
        {
            assert_eq!(patience(Duration::ZERO, held_up), Some(limit));
            assert_eq!(patience(limit / 2, held_up), Some(limit - limit / 2));
            assert_eq!(patience(limit, held_up), None);
            assert_eq!(patience(2 * limit, held_up), None);
        }
    }

    #[test]
    fn a_pipe_fills_before_it_is_full() {
        assert!(!is_filling(0, 65_536) && !is_filling(16_383, 65_536));
        assert!(is_filling(16_384, 65_536) && is_filling(65_536, 65_536));
    }
}
