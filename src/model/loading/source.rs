//! A manifest file as it was found: the input of `check`. Does not read or parse.

use crate::model::loading::problem::Problem;

/// One manifest file, whether it could be read or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The file name without `.ron`: the app's name.
    pub name: String,
    /// The path to show in problems.
    pub file: String,
    /// The absolute path of the folder that holds the file: `${here}` in its text.
    pub folder: String,
    /// The content, or why it could not be read; in that case the app keeps its last good version.
    pub text: Result<String, String>,
}

impl Source {
    /// The content, or the problem to report if it could not be read.
    pub fn read(&self) -> Result<&str, Vec<Problem>> {
        self.text.as_deref().map_err(|why| vec![Problem::whole(&self.file, why.clone())])
    }
}

/// The sources that count: the last one of each name. `sources` are sorted by name, with all layers of a name in order.
pub fn effective(sources: &[Source]) -> impl Iterator<Item = &Source> {
    let next = sources.iter().skip(1).map(Some).chain([None]);
    let counts = |(source, next): &(&Source, Option<&Source>)| next.is_none_or(|next| next.name != source.name);
    sources.iter().zip(next).filter(counts).map(|(source, _)| source)
}
