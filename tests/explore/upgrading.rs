//! Upgrades of the explored session: the binaries that there are, and what becomes of a supervisor started from one.

use kasm_void::model::guard::Binary;

/// What a supervisor is started from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// The one with which the session was started.
    #[default]
    Installed,
    Newer,
    /// It never comes up.
    Hangs,
    /// It exits before it is ready.
    Fails,
    /// It cannot be executed.
    Broken,
}

impl Version {
    /// What people may upgrade to.
    pub const OTHERS: [Version; 4] = [Version::Newer, Version::Hangs, Version::Fails, Version::Broken];

    pub fn path(self) -> String {
        format!("/bin/{self:?}")
    }

    pub fn of(binary: &Binary) -> Version {
        let others = Version::OTHERS.into_iter();
        others.into_iter().find(|version| version.path() == binary.path).unwrap_or_default()
    }
}
