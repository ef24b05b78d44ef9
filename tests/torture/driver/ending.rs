//! Ends the session in the middle of a run, in one of the ways in which sessions end, and begins the next one. The session
//! must end by itself, leave no process, and lose no line. The next one must inherit nothing from it.

use std::time::Duration;

use rustix::process::Signal;

use super::Driver;
use crate::cast::Kind;
use crate::expect::Part;
use crate::harness::until_ok;
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
    /// The container is killed, some time after it was told to end, if it was.
    Killed(Option<Duration>),
}

impl Driver {
    pub(super) fn end_session(&mut self) {
        let ending = self.any_ending();
        self.end_in(ending);
    }

    pub(super) fn kill_container(&mut self) {
        let told = self.random.bool().then(|| Duration::from_millis(self.random.u64(..300)));
        self.end_in(Ending::Killed(told));
    }

    fn end_in(&mut self, ending: Ending) {
        self.end_faults();
        let (Some(guard), Some(supervisor)) = (self.stage.guard(), self.stage.supervisor()) else { return };
        self.note(format!("end the session: {ending:?}"));
        if self.parts.iter().any(|part| part.kind == Kind::Counts && part.is_unknown()) {
            // The supervisor knows neither the app nor where its output goes: its manifest and every copy of it are lost.
            self.lines.unheard_all();
        }
        match ending {
            Ending::Drain => self.stage.drain(),
            Ending::Told(how) => signal(guard, how),
            Ending::ToldAfterADeath(how) => {
                signal(supervisor, Signal::KILL);
                signal(guard, how);
            }
            Ending::ToldWhileFrozen(how) => {
                // A supervisor that cannot read any more loses what is still in the pipe.
                self.count_as_unheard();
                signal(supervisor, Signal::STOP);
                signal(guard, how);
            }
            Ending::Killed(told) => {
                if let Some(pause) = told {
                    signal(guard, Signal::TERM);
                    std::thread::sleep(pause);
                }
                self.count_as_unheard();
                signal(guard, Signal::KILL);
            }
        }
        until_ok("the session has ended:", || {
            let left = self.stage.supervising();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:#?}")) }
        });
        let left = || self.left();
        match ending {
            // The kernel has killed them, but not collected all of them yet.
            Ending::Killed(_) => until_ok("a killed container is gone:", || match left() {
                left if left.is_empty() => Ok(()),
                left => Err(format!("{left:#?}")),
            }),
            _ => assert!(left().is_empty(), "the session was ended ({ending:?}) and left {:#?}", left()),
        }
        if self.log_of_round().contains("did not end in time") {
            // On a machine this busy, the apps could not be stopped within the budget, and the guard killed everything.
            self.tally.killed_in_time += 1;
            self.lines.unheard_all();
        }
        self.lines.session_ended().unwrap_or_else(|why| panic!("lines of the session that was ended: {why}"));
        self.tally.sessions_ended += 1;
        self.begin_session();
    }

    fn count_as_unheard(&mut self) {
        self.counting().into_iter().for_each(|process| self.lines.unheard(process.inner));
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

    /// Apps that were held or given up in the previous session are wanted in this one, on the machine or in a container.
    fn begin_session(&mut self) {
        self.parts.iter_mut().for_each(Part::session_began);
        self.stage.contained = self.containers && self.random.bool();
        self.tally.containers += u64::from(self.stage.contained);
        self.harmed = false;
        self.revive();
    }
}
