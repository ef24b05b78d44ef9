//! Decides whether the lock and sockets of an X display may be removed. Gathers nothing: the facts come from
//! `daemon::files::display_lock`.
//!
//! An X server refuses to start while its lock names a live process, even if that process is not an X server. After a
//! hard restart with the same /tmp, pids start from 1 again, and an old lock soon names a live process. So the display
//! itself is asked: it is up if it accepts a client, and down if it does not.

use std::fmt;

/// Facts about a display before it is started.
#[derive(Debug, Clone, Copy)]
pub struct DisplayFacts {
    /// It accepts a client, by its socket file or its abstract socket.
    pub answers: bool,
    /// There are files to remove.
    pub leftovers: bool,
    /// The pid in the lock, if it could be read.
    pub pid: Option<i32>,
    /// The process with that pid is an X server for this display, which is about to listen.
    pub starting: bool,
}

/// The decision about the lock and sockets of a display.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisplayVerdict {
    /// There is nothing to remove.
    Nothing,
    /// Leave them: the display is in use.
    Keep(DisplayHolder),
    /// Remove them: nobody uses the display.
    Remove,
}

/// Why a display's lock must stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisplayHolder {
    /// An X server accepts clients there.
    Answers,
    /// The X server with this pid is about to.
    Starting(i32),
}

impl fmt::Display for DisplayHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DisplayHolder::Answers => f.write_str("an X server answers there"),
            DisplayHolder::Starting(pid) => write!(f, "pid {pid} is an X server that starts there"),
        }
    }
}

/// Decides whether the lock and sockets of a display may be removed.
pub fn judge(facts: DisplayFacts) -> DisplayVerdict {
    match facts {
        DisplayFacts { answers: true, .. } => DisplayVerdict::Keep(DisplayHolder::Answers),
        DisplayFacts { starting: true, pid: Some(pid), .. } => DisplayVerdict::Keep(DisplayHolder::Starting(pid)),
        DisplayFacts { leftovers: true, .. } => DisplayVerdict::Remove,
        _ => DisplayVerdict::Nothing,
    }
}

/// Whether these arguments start an X server for display `number`. Without a display argument, that is `:0`.
pub fn serves(arguments: &[String], number: u16) -> bool {
    let display = |word: &String| word.strip_prefix(':').and_then(|number| number.parse::<u16>().ok());
    arguments.iter().skip(1).find_map(display).unwrap_or(0) == number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_display_that_does_not_answer_is_cleared() {
        for bits in 0..16 {
            let is = |bit: u8| bits & (1 << bit) != 0;
            let facts = DisplayFacts { answers: is(0), leftovers: is(1), pid: is(2).then_some(7), starting: is(3) };
            let up = facts.answers || facts.starting && facts.pid.is_some();
            let verdict = judge(facts);
            assert_eq!(matches!(verdict, DisplayVerdict::Keep(_)), up, "{facts:?}");
            assert_eq!(verdict == DisplayVerdict::Remove, facts.leftovers && !up, "{facts:?}");
        }
    }

    #[test]
    fn a_server_is_known_by_the_display_it_was_told() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(serves(&words("Xtigervnc :7 -geometry 1280x800"), 7));
        assert!(serves(&words("/usr/bin/Xvfb -screen 0 800x600x24 :12"), 12));
        assert!(serves(&words("X"), 0));
        assert!(!serves(&words("Xtigervnc :71"), 7));
        assert!(!serves(&words("Xtigervnc :8 -desktop :7"), 7));
        assert!(!serves(&words("X"), 7));
    }
}
