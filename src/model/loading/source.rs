//! A manifest file as it was found: what `check` starts from. Owns no reading and no parsing.

use crate::model::loading::problem::Problem;

/// One manifest file, read or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The file name without `.ron`: the app's name.
    pub name: String,
    /// The path as problems show it.
    pub file: String,
    /// The content, or why there is none: then the app keeps its last good version.
    pub text: Result<String, String>,
}

impl Source {
    /// The content, or the problem that there is none.
    pub fn read(&self) -> Result<&str, Vec<Problem>> {
        self.text.as_deref().map_err(|why| vec![Problem::whole(&self.file, why.clone())])
    }
}
