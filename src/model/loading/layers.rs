//! Layers: several folders may hold a file of the same name. Decides which one counts: the last, unless an earlier
//! folder locks the name. So an operator's folder can keep a person's folder from replacing what guards the session.

use std::collections::BTreeSet;

use crate::model::loading::parse::{self, Read};
use crate::model::loading::problem::Problem;
use crate::model::loading::source::Source;
use crate::model::manifest::workspace::WorkspaceForm;

/// The names that one folder locks against the folders after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// The folder's place in the order of folders.
    folder: usize,
    /// Its `workspace.ron`, for messages.
    file: String,
    names: Names,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Names {
    These(BTreeSet<String>),
    /// Its `workspace.ron` is broken, and nobody knows what it locks.
    Any,
}

impl Lock {
    /// What the `workspace.ron` of a folder locks, if anything.
    pub fn of(folder: usize, workspace: &Source) -> Option<Lock> {
        let form = workspace.read().ok().and_then(|text| {
            let Read { value, .. } = parse::read::<WorkspaceForm>(&workspace.file, text);
            value
        });
        let names = match form {
            Some(form) if form.locked.is_empty() => return None,
            Some(form) => Names::These(form.locked.into_iter().collect()),
            None => Names::Any,
        };
        Some(Lock { folder, file: workspace.file.clone(), names })
    }

    fn holds(&self, name: &str, folder: usize) -> bool {
        let named = match &self.names {
            Names::These(names) => names.contains(name),
            Names::Any => true,
        };
        named && folder > self.folder
    }
}

/// Whether the file `name` of this folder is locked out, and by which `workspace.ron`.
pub fn locked_out<'a>(locks: &'a [Lock], name: &str, folder: usize) -> Option<&'a str> {
    locks.iter().find(|lock| lock.holds(name, folder)).map(|lock| lock.file.as_str())
}

/// What is said of a file that is locked out.
pub fn ignored(file: &str, by: &str) -> Problem {
    Problem::whole(file, format!("this file is ignored: {by} locks its name"))
        .help("remove it, or have the name taken out of `locked` there")
        .warning()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace(text: &str) -> Source {
        Source { name: "workspace".into(), file: "operator/workspace.ron".into(), text: Ok(text.into()) }
    }

    #[test]
    fn a_lock_holds_against_later_folders_only() {
        let locks = [Lock::of(1, &workspace(r#"Workspace(locked: ["workspace", "nav-shim"])"#)).unwrap()];
        for (name, folder, is_locked) in [
            ("nav-shim", 0, false),
            ("nav-shim", 1, false),
            ("nav-shim", 2, true),
            ("workspace", 3, true),
            ("web", 2, false),
        ] {
            assert_eq!(locked_out(&locks, name, folder).is_some(), is_locked, "{name} in {folder}");
        }
    }

    #[test]
    fn a_folder_whose_locks_cannot_be_read_locks_everything() {
        let broken = Lock::of(0, &workspace("Workspace(locked")).unwrap();
        assert!(broken.holds("web", 1) && !broken.holds("web", 0));
        assert_eq!(Lock::of(0, &workspace("Workspace()")), None);
        let typo = Lock::of(0, &workspace(r#"Workspace(locked: ["web"], metric: "x")"#)).unwrap();
        assert!(typo.holds("web", 1) && !typo.holds("other", 1), "a mistake elsewhere hides no lock");
    }
}
