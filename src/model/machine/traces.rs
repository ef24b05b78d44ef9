//! The traces that an app leaves when it exits with 0, and whether a person may have closed its window. Most programs exit
//! with 0 both when their window is closed and when something else ends them.

use std::time::Duration;

/// A person who closes a window uses the mouse or the keyboard, no longer than this before the app has exited.
const CLOSING_TAKES: Duration = Duration::from_secs(60);

/// The traces that were found after an app had exited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Traces {
    /// The app's display accepts clients, or the app has none.
    pub display: bool,
    /// How long ago somebody used the display's mouse or keyboard; `None` if that is not known.
    pub idle: Option<Duration>,
    /// The browser's lock is still on its profile. A browser removes the lock when its window is closed, but not when it
    /// gets TERM.
    pub lock: bool,
}

impl Traces {
    /// Whether a person may have closed the window of an app that exited this long before the traces were found.
    pub fn allow_a_person(&self, exited: Duration) -> bool {
        // Somebody who used the display after the exit may have used it before, too.
        let used = self.idle.is_none_or(|idle| idle <= exited + CLOSING_TAKES);
        self.display && !self.lock && used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_closes_a_window_without_a_display_or_without_touching_it() {
        let secs = Duration::from_secs;
        let closed = Traces { display: true, idle: None, lock: false };
        assert!(closed.allow_a_person(secs(0)), "nothing is known against it");
        assert!(!Traces { display: false, ..closed }.allow_a_person(secs(0)));
        assert!(!Traces { lock: true, ..closed }.allow_a_person(secs(0)));
        for (idle, exited, allowed) in [(0, 0, true), (60, 0, true), (61, 0, false), (62, 5, true), (66, 5, false)] {
            let traces = Traces { idle: Some(secs(idle)), ..closed };
            assert_eq!(traces.allow_a_person(secs(exited)), allowed, "idle for {idle} s, exited {exited} s ago");
        }
    }
}
