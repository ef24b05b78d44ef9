//! A manifest file as it was found: what `check` starts from. Owns no reading and no parsing.

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
