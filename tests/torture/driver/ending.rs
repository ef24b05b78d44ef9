//! Ends the session in the middle of a run, in one of the ways in which sessions end, and begins the next one. The session
//! must end by itself, leave no process, and lose no line. The next one must inherit nothing from it.

use rustix::process::Signal;

use super::Driver;
use crate::expect::Part;
use crate::harness::until_ok;
use crate::sight;
use crate::stage::signal;

/// The ways to end a session.
#[derive(Debug, Clone, Copy)]
enum Ending {
    Drain,
    /// Sends this signal to the guard, like `docker stop`.
    Told(Signal),
    /// The same, just after the supervisor was killed.
    ToldAfterADeath(Signal),
    /// The same, while the supervisor is frozen.
    ToldWhileFrozen(Signal),
}

impl Driver {
    pub(super) fn end_session(&mut self) {
        self.end_faults();
        let (Some(guard), Some(supervisor)) = (self.stage.guard(), self.stage.supervisor()) else { return };
        let ending = self.any_ending();
        self.note(format!("end the session: {ending:?}"));
        match ending {
            Ending::Drain => self.stage.drain(),
            Ending::Told(how) => signal(guard, how),
            Ending::ToldAfterADeath(how) => {
                signal(supervisor, Signal::KILL);
                signal(guard, how);
            }
            Ending::ToldWhileFrozen(how) => {
                // A supervisor that cannot read any more loses what is still in the pipe.
                self.counting().into_iter().for_each(|pid| self.lines.unheard(pid));
                signal(supervisor, Signal::STOP);
                signal(guard, how);
            }
        }
        until_ok("the session has ended:", || {
            let left = self.stage.supervising();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:#?}")) }
        });
        let left = sight::processes(self.stage.root());
        assert!(left.is_empty(), "the session was ended ({ending:?}) and left {left:#?}");
        self.tally.sessions_ended += 1;
        self.begin_session();
    }

    fn any_ending(&mut self) -> Ending {
        let how = [Signal::TERM, Signal::INT, Signal::QUIT][self.random.usize(..3)];
        match self.random.u32(..5) {
            0 => Ending::Drain,
            1 => Ending::Told(how),
            2 | 3 => Ending::ToldAfterADeath(how),
            _ => Ending::ToldWhileFrozen(how),
        }
    }

    /// Apps that were held or given up in the previous session are wanted in this one.
    fn begin_session(&mut self) {
        self.parts.iter_mut().for_each(Part::session_began);
        self.revive();
    }
}
