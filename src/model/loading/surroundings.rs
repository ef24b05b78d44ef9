//! Surroundings: everything a check may know about the machine it runs on.

use std::collections::BTreeMap;

use crate::model::accounts::RunAs;
use crate::model::manifest::env_files::Unread;

/// The environment, the home folder, and ways to look at files and to read them.
pub struct Surroundings<'a> {
    /// The supervisor's environment, as far as it is UTF-8.
    pub env: &'a BTreeMap<String, String>,
    /// `None` if the user has none; then `~` cannot be replaced.
    pub home: Option<&'a str>,
    /// Returns the kind of file at an absolute path, following links.
    pub look: &'a dyn Fn(&str) -> FileKind,
    /// Reads the text of an env file at an absolute path; `None` if it does not exist.
    pub read: &'a dyn Fn(&str) -> Result<Option<String>, Unread>,
    /// Looks up a user and a group of this machine, by name or number.
    pub run_as: &'a UserLookUp,
    /// Our own user.
    pub uid: u32,
}

/// Looks up a user and, if it is given, a group. The error says which of them is missing.
pub type UserLookUp = dyn Fn(&str, Option<&str>) -> Result<RunAs, String>;

/// The kind of file at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// Nothing exists there, or we may not look at it.
    Nothing,
    /// A file that we may execute.
    Program,
    /// A file that we may not execute.
    File,
    /// A folder.
    Folder,
    /// A device, a socket, a pipe.
    Special,
}

impl Surroundings<'_> {
    /// Whether there is a program at this absolute path.
    pub fn is_program(&self, path: &str) -> bool {
        (self.look)(path) == FileKind::Program
    }

    /// The program of that name on PATH, or else the PATH that was searched.
    pub fn on_path(&self, name: &str) -> Result<String, &str> {
        let path = self.env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
        on_path(name, path, |file| self.is_program(file)).ok_or(path)
    }
}

/// The search path to use if PATH is not set, as in shells.
pub const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The first program of that name in a folder of `path`. Relative folders are skipped: they would name another program
/// in another working folder.
pub fn on_path(name: &str, path: &str, is_program: impl Fn(&str) -> bool) -> Option<String> {
    let folders = path.split(':').filter(|folder| folder.starts_with('/'));
    folders.map(|folder| format!("{folder}/{name}")).find(|file| is_program(file))
}
