//! Predicts the state of each app at a quiet point from everything that was done to it. If two orders of events are both
//! correct, the prediction is `Unsure` instead of a guess.

use kasm_void::model::protocol::{AppStatus, StateName};

use crate::cast::{Edition, Kind};

/// One app, its manifest on disk, and what was asked for it.
#[derive(Debug, Clone)]
pub struct Part {
    pub kind: Kind,
    pub edition: Edition,
    pub disk: Disk,
    wanted: Wanted,
    /// The supervisor may or may not have seen the last change before the next action.
    shaky: bool,
    /// It may still run as an earlier edition.
    version_unsure: bool,
    /// The manifest was missing at the last quiet point or since, so no good version of it may be known.
    removed_lately: bool,
    /// Quiet points until the latest good manifest has certainly been copied. The disk may have been full.
    unkept: u8,
    /// How often a request was made for it or its manifest was written.
    pub touches: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    Good,
    /// Not a valid manifest: the last good one counts.
    Broken,
    Absent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Up,
    Held,
    Unsure,
    /// The supervisor cannot know, because it started while the manifest was broken.
    Unknown,
}

/// The expected state at a quiet point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    Up {
        version: Option<u32>,
    },
    Down,
    /// Not in the status.
    Gone,
    /// Up or down, but the status must match the processes.
    Coherent,
    /// Nothing beyond the invariants.
    Anything,
}

impl Part {
    pub fn new(kind: Kind) -> Self {
        let edition = Edition { version: 1, remark: 0, enabled: true };
        Part {
            kind,
            edition,
            disk: Disk::Good,
            wanted: Wanted::Up,
            shaky: false,
            version_unsure: false,
            removed_lately: false,
            unkept: 0,
            touches: 0,
        }
    }

    /// Whether the supervisor has seen every change.
    pub fn is_calm(&self) -> bool {
        !self.shaky && self.disk == Disk::Good
    }

    pub fn expected(&self) -> Expected {
        let version = (!self.version_unsure).then_some(self.edition.version);
        match (self.wanted, self.disk, self.edition.enabled) {
            (Wanted::Unknown, ..) => Expected::Anything,
            (_, Disk::Absent, _) => Expected::Gone,
            (Wanted::Unsure, ..) => Expected::Coherent,
            (Wanted::Held, ..) | (.., false) => Expected::Down,
            (Wanted::Up, ..) => Expected::Up { version },
        }
    }

    /// A quiet point was reached, so the supervisor has seen every change.
    pub fn calmed(&mut self) {
        (self.shaky, self.removed_lately) = (false, self.disk == Disk::Absent);
        self.unkept = self.unkept.saturating_sub(1);
    }

    /// The copy of its manifest was deleted. While a good manifest is on the disk, another copy is made.
    pub fn copy_lost(&mut self) {
        self.unkept = 2;
    }

    /// The manifest that was just written may not have been copied.
    pub fn unkept(&mut self) {
        self.unkept = 2;
    }

    /// A new session has begun. It knows only what is on the disk.
    pub fn session_began(&mut self) {
        self.touches += 1;
        self.wanted = if self.disk == Disk::Broken { Wanted::Unknown } else { Wanted::Up };
        (self.shaky, self.version_unsure, self.removed_lately) = (false, false, self.disk == Disk::Absent);
    }

    /// A good manifest was written and a start succeeded.
    pub fn certain(&mut self) {
        self.touches += 1;
        (self.disk, self.wanted) = (Disk::Good, Wanted::Up);
        (self.shaky, self.version_unsure, self.removed_lately) = (false, false, false);
        self.edition.enabled = true;
    }

    pub fn is_certain(&self) -> bool {
        !matches!(self.expected(), Expected::Coherent | Expected::Anything) && !self.version_unsure
    }

    /// The supervisor may not know the app at all.
    pub fn is_unknown(&self) -> bool {
        self.wanted == Wanted::Unknown
    }

    /// A valid manifest with this edition was written.
    pub fn written(&mut self, edition: Edition) {
        self.touches += 1;
        if edition.enabled != self.edition.enabled || self.disk == Disk::Absent {
            self.unsettle();
        }
        if self.wanted == Wanted::Unknown {
            self.wanted = Wanted::Unsure;
        }
        // Another version counts as a change, whichever version runs now.
        self.version_unsure &= edition.version == self.edition.version;
        (self.edition, self.disk) = (edition, Disk::Good);
    }

    pub fn broken(&mut self) {
        self.touches += 1;
        if self.disk == Disk::Absent || self.removed_lately {
            // The app is not started, or is still there because the removal was not seen. A good manifest written in
            // between may not have been seen either.
            self.wanted = Wanted::Unknown;
        }
        if self.shaky {
            // The previous edition may or may not have been seen.
            self.version_unsure = true;
            self.asked_who_knows_what();
        }
        self.unsettle();
        self.disk = Disk::Broken;
    }

    pub fn removed(&mut self) {
        self.touches += 1;
        self.unsettle();
        if self.wanted == Wanted::Unknown {
            self.wanted = Wanted::Unsure;
        }
        self.disk = Disk::Absent;
        self.removed_lately = true;
    }

    /// An earlier request may be forgotten together with the edition that it was made for.
    fn unsettle(&mut self) {
        self.shaky = true;
        if self.wanted == Wanted::Held {
            self.wanted = Wanted::Unsure;
        }
    }

    /// A start, a restart or an action was accepted.
    pub fn asked_up(&mut self) {
        self.asked(Wanted::Up);
    }

    /// A stop was accepted.
    pub fn asked_down(&mut self) {
        self.asked(Wanted::Held);
    }

    fn asked(&mut self, wanted: Wanted) {
        self.touches += 1;
        let plain = !self.shaky && self.disk != Disk::Absent && self.edition.enabled;
        self.wanted = match self.wanted {
            Wanted::Unknown => Wanted::Unknown,
            _ if plain => wanted,
            _ => Wanted::Unsure,
        };
    }

    /// Two clients asked for different things at once, or there was no answer.
    pub fn asked_who_knows_what(&mut self) {
        self.touches += 1;
        if self.wanted != Wanted::Unknown {
            self.wanted = Wanted::Unsure;
        }
    }

    /// It may run as an older edition: the last one was written, but may not be seen before the next action.
    pub fn edited_lately(&mut self) {
        self.shaky = true;
    }

    /// The supervisor died, and the state folder was harmed before: the next one may know only what it sees.
    pub fn forgotten(&mut self) {
        self.touches += 1;
        // A manifest that was removed just before: if no supervisor has seen that, what is left belongs to no app.
        if self.disk == Disk::Broken || (self.disk == Disk::Absent && self.shaky) {
            self.wanted = Wanted::Unknown;
        }
        self.asked_who_knows_what();
    }

    pub fn supervisor_died(&mut self) {
        // Broken so soon that the last good manifest may not have been copied.
        if self.disk == Disk::Broken && (self.shaky || self.unkept > 0) {
            self.wanted = Wanted::Unknown;
        }
    }

    /// The next supervisor has read the manifest that is on the disk now.
    pub fn supervisor_began(&mut self) {
        if self.disk == Disk::Broken && self.unkept > 0 {
            self.wanted = Wanted::Unknown;
        }
    }
}

impl Expected {
    /// Why this expectation does not hold; `None` if it holds. `tree` is the number of the app's processes, `argv` is the
    /// leader's.
    pub fn broken_by(
        &self,
        kind: Kind,
        status: Option<&AppStatus>,
        tree: usize,
        argv: Option<&[String]>,
    ) -> Option<String> {
        let Some(status) = status else {
            return match self {
                Expected::Anything => None,
                Expected::Gone if tree == 0 => None,
                Expected::Gone => Some(format!("its manifest is gone, and {tree} processes of it are alive")),
                _ => Some("it is not in the status".into()),
            };
        };
        match (self, status.state) {
            (Expected::Anything, _) => None,
            (Expected::Gone, state) => Some(format!("its manifest is gone, and it is {state}")),
            (Expected::Down, state) if state != StateName::Stopped => {
                Some(format!("it should be down, and is {state}"))
            }
            (_, StateName::Stopped) if tree > 0 => Some(format!("it is Stopped, and {tree} processes of it are alive")),
            (Expected::Up { .. }, StateName::Stopped | StateName::Stopping | StateName::GaveUp) => {
                Some(format!("it should be up, and is {}", status.state))
            }
            // It may be up or down.
            _ if kind.comes_and_goes() => None,
            (_, StateName::Running) => self.running_wrong(kind, tree, argv),
            (_, StateName::Stopped) => None,
            (_, state) => Some(format!("it is still {state}")),
        }
    }

    fn running_wrong(&self, kind: Kind, tree: usize, argv: Option<&[String]>) -> Option<String> {
        let Some(argv) = argv else { return Some("it is Running, and its process is not there".into()) };
        if tree > kind.most_processes() {
            return Some(format!("{tree} processes of it are alive"));
        }
        match self {
            Expected::Up { version: Some(version) } if !argv.contains(&format!("v{version}")) => {
                Some(format!("it should run as v{version}, and runs as {argv:?}"))
            }
            _ => None,
        }
    }
}
