//! Surroundings: what a check may know of the machine it runs on.

use std::collections::BTreeMap;

/// The environment, the home folder, and which files there are.
pub struct Surroundings<'a> {
    pub env: &'a BTreeMap<String, String>,
    pub home: &'a str,
    /// Whether this absolute path is a file that we may execute.
    pub executable: &'a dyn Fn(&str) -> bool,
}
