//! `check`: reads the manifests and prints every mistake, without a supervisor.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::print::{problem, say, say_json};
use super::{VerbEnd, session};
use crate::daemon;
use crate::model::loading::problem::{Problem, Severity};

/// Prints every mistake in the manifests of these folders. A missing folder is an error here, although a running
/// supervisor waits for it.
pub fn check(mut folders: Vec<PathBuf>, json: bool) -> anyhow::Result<VerbEnd> {
    if folders.is_empty() {
        folders.push(session::own_folder()?);
    }
    let (files, mut problems) = daemon::check(&folders);
    let is_folder = |problem: &&mut Problem| folders.iter().any(|folder| Path::new(&problem.file) == folder);
    for missing in problems.iter_mut().filter(is_folder) {
        missing.severity = Severity::Error;
        missing.help = "name the folder that holds the manifests".into();
    }
    tell_problems((files, problems), json)
}

/// Prints the number of files and their problems. The result is `Refused` if any problem is an error.
pub fn tell_problems((files, problems): (usize, Vec<Problem>), json: bool) -> anyhow::Result<VerbEnd> {
    let errors = problems.iter().filter(|problem| problem.is_error()).count();
    if json {
        say_json(&json!({ "ok": errors == 0, "files": files, "problems": problems }))?;
    } else {
        for found in &problems {
            say(&format!("{}\n", problem(found)))?;
        }
        say(&summary(files, errors, problems.len() - errors))?;
        if files == 0 && problems.is_empty() {
            say("manifests end in `.ron`: `kasm-void new NAME -- COMMAND` writes a first one")?;
        }
    }
    Ok(if errors == 0 { VerbEnd::Done } else { VerbEnd::Refused })
}

fn summary(files: usize, errors: usize, warnings: usize) -> String {
    let counted = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let found = match (errors, warnings) {
        (0, 0) => "no problems".into(),
        (0, _) => counted(warnings, "warning"),
        (_, 0) => counted(errors, "error"),
        _ => format!("{}, {}", counted(errors, "error"), counted(warnings, "warning")),
    };
    format!("{} checked: {found}", counted(files, "file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_does_not_exist_is_an_error() {
        let missing = tempfile::tempdir().unwrap().path().join("nowhere");
        assert_eq!(check(vec![missing], true).unwrap(), VerbEnd::Refused);
    }

    #[test]
    fn only_errors_refuse() {
        let (error, warning) = (Problem::whole("a.ron", "no"), Problem::whole("a.ron", "hm").warning());
        assert_eq!(tell_problems((1, vec![warning.clone()]), true).unwrap(), VerbEnd::Done);
        assert_eq!(tell_problems((2, vec![warning, error]), true).unwrap(), VerbEnd::Refused);
        assert_eq!(summary(3, 0, 0), "3 files checked: no problems");
        assert_eq!(summary(1, 2, 1), "1 file checked: 2 errors, 1 warning");
    }
}
