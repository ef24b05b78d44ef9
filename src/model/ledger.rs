//! The lines of the ledger, and what a supervisor inherits by them. The last line about an app counts. Pure: where the
//! lines are kept, and in which form, is the concern of `daemon::state`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::exit::ExitRecord;
use super::machine::SavedApp;
use super::protocol::Crash;
use super::supervisor::{SavedSession, SessionState};
use super::tree::Pid;

/// The version of the lines. Other versions are not read.
pub const VERSION: u32 = 2;

/// Crashes kept per app.
pub const CRASHES: usize = 10;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Line {
    /// The first line.
    Head {
        /// [`VERSION`] of its writer.
        version: u32,
        /// See `host::session`.
        #[serde(default)]
        session: String,
    },
    /// The state of the session itself.
    Session(SessionState),
    /// The state of an app.
    App {
        /// Its name.
        name: String,
        /// Pid and start time of its leader, if there is one.
        leader: Option<(Pid, u64)>,
        /// The saved state of its machine.
        saved: SavedApp,
    },
    /// This app and its manifest are gone.
    Gone(String),
    /// A leader has exited. What follows from that is in a later line.
    Ended {
        /// Its pid.
        pid: Pid,
        /// The wait status, as in `wait(2)`.
        status: i32,
        /// Peak resident memory in bytes.
        peak: u64,
    },
    /// An app has crashed.
    Crash {
        /// Its name.
        app: String,
        /// The crash.
        crash: Crash,
    },
}

/// The process that led an app's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Leader {
    /// Its pid.
    pub pid: Pid,
    /// Start time in clock ticks since boot. Together with the pid it identifies a process uniquely.
    pub started: u64,
    /// How it exited, if that was recorded.
    pub ended: Option<ExitRecord>,
}

/// The data that an earlier supervisor left.
#[derive(Debug, Clone, Default, PartialEq, Hash)]
pub struct Inherited {
    /// The saved data of the supervisor's model.
    pub session: SavedSession,
    /// The leaders that were alive, or whose exit was recorded, by app.
    pub leaders: BTreeMap<String, Leader>,
    /// The last leader of each app: pid and start time. The leader may be gone while its process session still has
    /// members.
    pub sessions: BTreeMap<String, (Pid, u64)>,
    /// Oldest first.
    pub crashes: Vec<(String, Crash)>,
    /// There was a ledger of another session, which is over. Nothing of it is inherited.
    pub another_session: bool,
}

impl Inherited {
    /// The data to inherit when only the first line has been read. The other lines count only if this is not
    /// [`Inherited::another_session`]: otherwise none of its processes is alive, and its requests no longer apply. The
    /// error says why the ledger cannot be used.
    pub fn below(head: &Line, session: &str) -> Result<Inherited, String> {
        match head {
            Line::Head { version: VERSION, session: its } => {
                Ok(Inherited { another_session: its != session, ..Inherited::default() })
            }
            Line::Head { version, .. } => Err(format!("its version is {version}, and ours {VERSION}")),
            _ => Err("its first line is not a ledger header".into()),
        }
    }

    /// The lines to begin a new ledger with: all that was inherited counts until it is known to be over. What belongs to
    /// an app follows its own line.
    pub fn lines(&self) -> Vec<Line> {
        let app = |(name, saved): (&String, &SavedApp)| {
            let known = self.leaders.get(name);
            let leader = known.map(|leader| (leader.pid, leader.started));
            let ended = known.and_then(|leader| leader.ended);
            let ended = ended.map(|ExitRecord { pid, status, peak }| Line::Ended { pid, status, peak });
            std::iter::once(Line::App { name: name.clone(), leader, saved: saved.clone() }).chain(ended)
        };
        let crash = |(app, crash): &(String, Crash)| Line::Crash { app: app.clone(), crash: crash.clone() };
        let session = std::iter::once(Line::Session(self.session.session));
        session.chain(self.session.apps.iter().flat_map(app)).chain(self.crashes.iter().map(crash)).collect()
    }

    /// Takes in the next line.
    pub fn take(&mut self, line: Line) {
        match line {
            Line::Head { .. } => {}
            Line::Session(session) => self.session.session = session,
            Line::App { name, leader, saved } => {
                match leader {
                    Some((pid, started)) => {
                        let same = |leader: &&Leader| (leader.pid, leader.started) == (pid, started);
                        let ended = self.leaders.get(&name).filter(same).and_then(|leader| leader.ended);
                        self.leaders.insert(name.clone(), Leader { pid, started, ended });
                        self.sessions.insert(name.clone(), (pid, started));
                    }
                    None => drop(self.leaders.remove(&name)),
                }
                self.session.apps.insert(name, saved);
            }
            Line::Gone(name) => {
                self.session.apps.remove(&name);
                self.leaders.remove(&name);
                self.sessions.remove(&name);
                self.crashes.retain(|(app, _)| *app != name);
            }
            Line::Ended { pid, status, peak } => {
                let its = self.leaders.values_mut().filter(|leader| leader.pid == pid);
                its.for_each(|leader| leader.ended = Some(ExitRecord { pid, status, peak }));
            }
            Line::Crash { app, crash } => {
                let of_app = |(name, _): &&(String, Crash)| *name == app;
                if self.crashes.iter().filter(of_app).count() == CRASHES
                    && let Some(oldest) = self.crashes.iter().position(|(name, _)| *name == app)
                {
                    self.crashes.remove(oldest);
                }
                self.crashes.push((app, crash));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::app::App;
    use crate::model::machine::AppMachine;

    #[test]
    fn a_ledger_that_is_begun_anew_says_the_same() {
        let saved = AppMachine::new(App::new("web", &["/usr/bin/web"]).into()).saved();
        let app = |leader| Line::App { name: "web".into(), leader, saved: saved.clone() };
        let session = Line::Session(SessionState { staged: true, draining: None });
        let mut inherited = Inherited::default();
        for line in [session, app(Some((70, 1234))), Line::Ended { pid: 70, status: 9, peak: 4096 }] {
            inherited.take(line);
        }
        let mut again = Inherited::default();
        inherited.lines().into_iter().for_each(|line| again.take(line));
        assert_eq!(again, inherited);
        again.take(app(Some((70, 1234))));
        assert_eq!(again, inherited, "how it ended is known until there is another leader");
        again.take(app(Some((71, 1240))));
        assert_eq!(again.leaders["web"], Leader { pid: 71, started: 1240, ended: None });
    }
}
