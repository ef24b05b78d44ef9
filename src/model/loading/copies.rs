//! Copies of the last good manifests: which are kept, and which a supervisor uses that has never seen a manifest good.

use std::collections::BTreeSet;

use crate::model::loading::check::{Checked, WORKSPACE};
use crate::model::loading::source::{Source, effective};

/// The copies to keep after a check. All others are removed if the check was complete.
#[derive(Debug, PartialEq, Eq)]
pub struct Keep<'a> {
    /// Good manifests: name and text.
    pub good: Vec<(&'a str, &'a str)>,
    /// Manifests whose earlier copy stays as it is.
    pub unchanged: BTreeSet<&'a str>,
}

/// The copies that are used instead of manifests which are broken or gone.
#[derive(Debug, PartialEq, Eq)]
pub struct Recalled {
    /// Good versions of manifests that are broken now, under the name of the broken file; and of `workspace.ron`, broken
    /// or not, which the checker only uses if it has no good one.
    pub broken: Vec<Source>,
    /// Apps that run, and whose manifest was deleted while no supervisor was running. The layers of `workspace.ron` that
    /// they need come last.
    pub gone: Vec<Source>,
}

/// Which copies to keep after `sources` were checked. A broken manifest keeps its copy. So does `workspace.ron` when it is
/// deleted, because it stays in use.
pub fn keep<'a>(sources: &'a [Source], checked: &Checked) -> Keep<'a> {
    let is_broken = |source: &Source| {
        let has_error = checked.problems.iter().any(|problem| problem.is_error() && problem.file == source.file);
        has_error || checked.stale.contains_key(&source.name)
    };
    let mut keep = Keep { good: Vec::new(), unchanged: BTreeSet::from([WORKSPACE]) };
    for source in effective(sources) {
        match &source.text {
            Ok(text) if !is_broken(source) => keep.good.push((&source.name, text)),
            _ => drop(keep.unchanged.insert(&source.name)),
        }
    }
    keep
}

/// Which copies a new supervisor uses. `checked` is what it made of `sources`, `running` are the apps that it inherits,
/// and `copy` looks up the copy of a manifest by its name.
pub fn recall<'a>(
    sources: &[Source],
    checked: &Checked,
    running: impl Iterator<Item = &'a str>,
    copy: impl Fn(&str) -> Option<Source>,
) -> Recalled {
    let named: BTreeSet<&str> = sources.iter().map(|source| source.name.as_str()).collect();
    let is_good = |source: &&Source| source.name != WORKSPACE && checked.apps.contains_key(&source.name);
    let instead_of = |source: &Source| Some(Source { text: copy(&source.name)?.text, ..source.clone() });
    let mut broken: Vec<Source> = effective(sources).filter(|source| !is_good(source)).filter_map(instead_of).collect();
    let mut gone: Vec<Source> = running.filter(|name| !named.contains(name)).filter_map(&copy).collect();
    match named.contains(WORKSPACE) {
        true => gone.extend(sources.iter().filter(|source| source.name == WORKSPACE).cloned()),
        false => {
            let workspace = copy(WORKSPACE);
            gone.extend(workspace.clone());
            broken.extend(workspace);
        }
    }
    Recalled { broken, gone }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::loading::check::Checker;
    use crate::model::loading::surroundings::{FileKind, Surroundings};

    const GOOD: &str = r#"App(command: "/bin/true")"#;
    const BROKEN: &str = "App(";

    fn source(name: &str, text: &str) -> Source {
        Source { name: name.into(), file: format!("{name}.ron"), folder: "/manifests".into(), text: Ok(text.into()) }
    }

    fn checked(sources: &[Source]) -> Checked {
        let env = Default::default();
        let around = Surroundings {
            env: &env,
            home: None,
            look: &|_| FileKind::Program,
            read: &|_| Ok(None),
            run_as: &|_, _| Err("nobody".into()),
            uid: 0,
        };
        Checker::default().check(sources, true, &around)
    }

    fn copy(name: &str) -> Option<Source> {
        let text = if name == WORKSPACE { "Workspace()" } else { GOOD };
        (name != "new").then(|| Source {
            name: name.into(),
            file: format!("copies/{name}"),
            folder: "/copies".into(),
            text: Ok(text.into()),
        })
    }

    fn recalled(sources: &[Source], running: &[&str]) -> (Vec<String>, Vec<String>) {
        let Recalled { broken, gone } = recall(sources, &checked(sources), running.iter().copied(), copy);
        let files = |sources: Vec<Source>| sources.into_iter().map(|source| source.file).collect();
        (files(broken), files(gone))
    }

    #[test]
    fn good_texts_are_kept_and_broken_ones_keep_their_copy() {
        let unread = Source { text: Err("no permission".into()), ..source("unread", "") };
        let sources = [source("bad", BROKEN), source("good", GOOD), unread];
        let keep = keep(&sources, &checked(&sources));
        assert_eq!(keep.good, [("good", GOOD)]);
        assert_eq!(
            keep.unchanged,
            BTreeSet::from(["bad", "unread", WORKSPACE]),
            "and the session's own, which is gone"
        );
    }

    #[test]
    fn a_good_manifest_is_never_replaced_by_its_copy() {
        let sources = [source("good", GOOD), source(WORKSPACE, "Workspace()")];
        let (broken, gone) = recalled(&sources, &["good"]);
        assert_eq!((broken, gone), (vec!["workspace.ron".into()], vec!["workspace.ron".into()]));
    }

    #[test]
    fn a_broken_manifest_is_replaced_under_its_own_file() {
        let (broken, gone) = recalled(&[source("bad", BROKEN), source("new", BROKEN)], &[]);
        assert_eq!(broken, ["bad.ron", "copies/workspace"], "`new` never was good");
        assert_eq!(gone, ["copies/workspace"]);
    }

    #[test]
    fn an_app_that_runs_without_a_manifest_is_known_by_its_copy() {
        let (broken, gone) =
            recalled(&[source("good", GOOD), source(WORKSPACE, "Workspace()")], &["good", "left", "new"]);
        assert_eq!(broken, ["workspace.ron"]);
        assert_eq!(gone, ["copies/left", "workspace.ron"]);
    }
}
