//! `check` and `plan` without a supervisor: what one that was started here, with nothing running yet, would find
//! and do.

use std::path::PathBuf;

use super::manifests::{self, Environment};
use crate::host::load;
use crate::model::loading::check::{Checked, Checker};
use crate::model::loading::problem::Problem;
use crate::model::protocol::PlanReport;
use crate::model::supervisor::Supervisor;

/// All problems of all manifests in these folders.
pub fn check(folders: &[PathBuf]) -> Vec<Problem> {
    checked(folders).problems
}

/// What a supervisor would do with these folders.
pub fn plan(folders: &[PathBuf]) -> PlanReport {
    Supervisor::default().plan(&checked(folders))
}

fn checked(folders: &[PathBuf]) -> Checked {
    manifests::check(&mut Checker::default(), &load::load(folders), &Environment::inherited())
}
