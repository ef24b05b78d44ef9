//! `check` and `plan` without a supervisor: what one that was started here, with nothing running yet, would find
//! and do.

use std::path::PathBuf;

use super::manifests::{self, Environment};
use crate::host::load;
use crate::model::loading::check::{Checked, Checker};
use crate::model::loading::problem::Problem;
use crate::model::protocol::PlanReport;
use crate::model::supervisor::Supervisor;

/// How many files these folders hold, and all that is wrong with them.
pub fn check(folders: &[PathBuf]) -> (usize, Vec<Problem>) {
    let loaded = load::load(folders);
    let checked = manifests::check(&mut Checker::default(), &loaded, loaded.complete, &Environment::inherited());
    (loaded.sources.len(), checked.problems)
}

/// What a supervisor would do with these folders.
pub fn plan(folders: &[PathBuf]) -> PlanReport {
    Supervisor::default().plan(&checked(folders))
}

fn checked(folders: &[PathBuf]) -> Checked {
    let loaded = load::load(folders);
    manifests::check(&mut Checker::default(), &loaded, loaded.complete, &Environment::inherited())
}
