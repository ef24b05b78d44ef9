//! Layers: if several folders hold a file of the same name, the last one counts, unless an earlier folder locks the
//! name. An operator's folder can use locks to keep a user's folder from replacing files that guard the session.

use std::collections::BTreeSet;

use crate::model::loading::parse::{self, Read};
use crate::model::loading::problem::Problem;
use crate::model::loading::source::Source;
use crate::model::manifest::workspace::WorkspaceForm;

/// The names that one folder locks for all later folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// The folder's index in the order of folders.
    folder: usize,
    /// The folder's `workspace.ron`, for messages.
    file: String,
    names: Names,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Names {
    These(BTreeSet<String>),
    /// The `workspace.ron` is broken, so its locks are unknown: every name counts as locked.
    Any,
}

impl Lock {
    /// The lock that a folder's `workspace.ron` holds, if any.
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

/// The `workspace.ron` that locks the file `name` of this folder, if any.
pub fn locked_out<'a>(locks: &'a [Lock], name: &str, folder: usize) -> Option<&'a str> {
    locks.iter().find(|lock| lock.holds(name, folder)).map(|lock| lock.file.as_str())
}

/// The problem reported for a file that is locked out.
pub fn ignored(file: &str, by: &str) -> Problem {
    Problem::whole(file, format!("this file is ignored: {by} locks its name"))
        .help("remove this file, or take the name out of `locked` there")
        .warning()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace(text: &str) -> Source {
        Source {
            name: "workspace".into(),
            file: "operator/workspace.ron".into(),
            folder: "/operator".into(),
            text: Ok(text.into()),
        }
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
