//! Surroundings: what a check may know of the machine it runs on.

use std::collections::BTreeMap;

/// The environment, the home folder, and which files there are.
pub struct Surroundings<'a> {
    pub env: &'a BTreeMap<String, String>,
    /// `None`: the user has none, and `~` cannot be filled in.
    pub home: Option<&'a str>,
    /// What there is at an absolute path, links followed.
    pub look: &'a dyn Fn(&str) -> FileKind,
}

/// What there is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// Nothing, or nothing that we may look at.
    Nothing,
    /// A file that we may execute.
    Program,
    File,
    Folder,
    /// A device, a socket, a pipe.
    Special,
}

impl Surroundings<'_> {
    pub fn is_program(&self, path: &str) -> bool {
        (self.look)(path) == FileKind::Program
    }

    /// The program of that name on PATH; else the PATH that was searched.
    pub fn on_path(&self, name: &str) -> Result<String, &str> {
        let path = self.env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
        on_path(name, path, |file| self.is_program(file)).ok_or(path)
    }
}

/// Where programs are looked for when there is no PATH, as shells do.
pub const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The first program of that name in a folder of `path`. Relative folders are passed over: they would mean another
/// program elsewhere.
pub fn on_path(name: &str, path: &str, is_program: impl Fn(&str) -> bool) -> Option<String> {
    let folders = path.split(':').filter(|folder| folder.starts_with('/'));
    folders.map(|folder| format!("{folder}/{name}")).find(|file| is_program(file))
}
