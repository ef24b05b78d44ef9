//! The lines of the ledger: one JSON value each, and what a ledger says when all its lines are read in order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::host::proc::{Leader, Pid};
use crate::host::sys::ExitRecord;
use crate::model::machine::SavedApp;
use crate::model::protocol::Crash;
use crate::model::supervisor::{SavedSession, SessionState};

/// The version of the format. Other versions are not read.
pub const VERSION: u32 = 2;
/// Crashes kept per app.
pub(super) const CRASHES: usize = 10;

/// One line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Line {
    Head {
        version: u32,
        /// See `host::session`.
        #[serde(default)]
        session: String,
    },
    Session(SessionState),
    App {
        name: String,
        leader: Option<(Pid, u64)>,
        saved: SavedApp,
    },
    Gone(String),
    /// A leader has exited. What follows from that is in a later line.
    Ended {
        pid: Pid,
        status: i32,
        peak: u64,
    },
    Crash {
        app: String,
        crash: Crash,
    },
}

/// What an earlier supervisor left.
#[derive(Debug, Default, PartialEq)]
pub struct Inherited {
    /// What the supervisor's model had saved.
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

pub(super) fn text(line: &Line) -> String {
    let mut text = serde_json::to_string(line).unwrap_or_default(); // strings and numbers alone cannot fail
    text.push('\n');
    text
}

/// Parses the text of a ledger for this session, as [`Ledger::open`] does. Public for the fuzz targets.
pub fn parse(text: &str, session: &str) -> Result<Inherited, String> {
    let mut lines = text.split_inclusive('\n').enumerate();
    match lines.next().map(|(_, line)| serde_json::from_str(line)) {
        Some(Ok(Line::Head { version: VERSION, session: its })) if its == session => {}
        // None of its processes is alive, and its requests no longer apply.
        Some(Ok(Line::Head { version: VERSION, .. })) => {
            return Ok(Inherited { another_session: true, ..Inherited::default() });
        }
        Some(Ok(Line::Head { version, .. })) => return Err(format!("its version is {version}, and ours {VERSION}")),
        Some(_) => return Err("its first line is not a ledger header".into()),
        None => return Err("it is empty".into()),
    }
    let mut inherited = Inherited::default();
    let mut apps = BTreeMap::new();
    for (number, line) in lines {
        match serde_json::from_str(line) {
            Ok(line) => take(&mut inherited, &mut apps, line),
            Err(_) if !line.ends_with('\n') => {} // its writer was killed half-way
            Err(error) => return Err(format!("line {}: {error}", number + 1)),
        }
    }
    inherited.session.apps = apps;
    Ok(inherited)
}

fn take(inherited: &mut Inherited, apps: &mut BTreeMap<String, SavedApp>, line: Line) {
    match line {
        Line::Head { .. } => {}
        Line::Session(session) => inherited.session.session = session,
        Line::App { name, leader, saved } => {
            match leader {
                Some((pid, started)) => {
                    inherited.leaders.insert(name.clone(), Leader { pid, started, ended: None });
                    inherited.sessions.insert(name.clone(), (pid, started));
                }
                None => drop(inherited.leaders.remove(&name)),
            }
            apps.insert(name, saved);
        }
        Line::Gone(name) => {
            apps.remove(&name);
            inherited.leaders.remove(&name);
            inherited.sessions.remove(&name);
            inherited.crashes.retain(|(app, _)| *app != name);
        }
        Line::Ended { pid, status, peak } => {
            let its = inherited.leaders.values_mut().filter(|leader| leader.pid == pid);
            its.for_each(|leader| leader.ended = Some(ExitRecord { pid, status, peak }));
        }
        Line::Crash { app, crash } => {
            let of_app = |(name, _): &&(String, Crash)| *name == app;
            if inherited.crashes.iter().filter(of_app).count() == CRASHES
                && let Some(oldest) = inherited.crashes.iter().position(|(name, _)| *name == app)
            {
                inherited.crashes.remove(oldest);
            }
            inherited.crashes.push((app, crash));
        }
    }
}
