//! `check` and `plan` without a supervisor: what a supervisor started here, with nothing running yet, would find and
//! do.

use std::path::PathBuf;

use super::manifests::{self, Environment};
use crate::host::load;
use crate::model::loading::check::{Checked, Checker};
use crate::model::loading::problem::Problem;
use crate::model::protocol::PlanReport;
use crate::model::supervisor::Supervisor;

/// The number of manifests in these folders, and everything wrong with them.
pub fn check(folders: &[PathBuf]) -> (usize, Vec<Problem>) {
    let loaded = load::load(folders);
    let checked = manifests::check(&mut Checker::default(), &loaded, loaded.complete, &Environment::inherited());
    (loaded.sources.len(), checked.problems)
}

/// The plan of a supervisor that is started on these folders.
pub fn plan(folders: &[PathBuf]) -> PlanReport {
    Supervisor::default().plan(&checked(folders))
}

fn checked(folders: &[PathBuf]) -> Checked {
    let loaded = load::load(folders);
    manifests::check(&mut Checker::default(), &loaded, loaded.complete, &Environment::inherited())
}
