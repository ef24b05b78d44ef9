//! Overlay: several folders may have a `workspace.ron`. The last one counts, as with every manifest, with two
//! additions: a variable that any of them hides is hidden, and a warning lists what the last one leaves out.

use crate::model::loading::locator::Locator;
use crate::model::loading::parse::{self, Read};
use crate::model::loading::problem::Problem;
use crate::model::loading::resolve;
use crate::model::loading::source::Source;
use crate::model::loading::surroundings::Surroundings;
use crate::model::manifest::fields::Whole;
use crate::model::manifest::workspace::{Workspace, WorkspaceForm};

/// The session's settings from the layers of `workspace.ron`, in order; the last one counts. There is no value if a
/// layer is broken, because it may hide variables.
pub fn workspace(layers: &[&Source], around: &Surroundings<'_>) -> Read<Workspace> {
    let mut problems = Vec::new();
    let mut value: Option<Workspace> = None;
    let mut beneath: Option<(&Source, WorkspaceForm)> = None;
    for layer in layers {
        let read = one(layer, around);
        problems.extend(read.problems);
        let Some((form, workspace)) = read.value else { continue };
        if let Some((below, left_out)) = beneath.as_ref().map(|(below, lower)| (below, form.leaves_out(lower))) {
            problems.extend(warning(layer, below, &left_out));
        }
        let hidden = value.map(|lower| lower.env_hidden).unwrap_or_default();
        let env_hidden = workspace.env_hidden.union(&hidden).cloned().collect();
        value = Some(Workspace { env_hidden, ..workspace });
        beneath = Some((layer, form));
    }
    let is_broken = problems.iter().any(Problem::is_error);
    Read { value: value.filter(|_| !is_broken), problems }
}

fn warning(layer: &Source, below: &Source, left_out: &[String]) -> Option<Problem> {
    let message = format!("this replaces {}, and leaves out {}", below.file, left_out.join(", "));
    let help = "copy what is still needed; variables that either of them hides stay hidden";
    Some(Problem::whole(&layer.file, message).help(help).warning()).filter(|_| !left_out.is_empty())
}

/// One layer: the form and its checked settings.
fn one(source: &Source, around: &Surroundings<'_>) -> Read<(WorkspaceForm, Workspace)> {
    let Read { value, mut problems } = match source.read() {
        Ok(text) => parse::read::<WorkspaceForm>(&source.file, text),
        Err(problems) => return Read { value: None, problems },
    };
    let Some(form) = value else { return Read { value: None, problems } };
    let whole = if problems.is_empty() { Whole::Yes } else { Whole::No };
    let locator = Locator::new(source).after(problems.len());
    let (workspace, found) = resolve::workspace((form.clone(), whole), &locator, around);
    problems.extend(found);
    let is_broken = problems.iter().any(Problem::is_error);
    Read { value: Some((form, workspace)).filter(|_| !is_broken), problems }
}
