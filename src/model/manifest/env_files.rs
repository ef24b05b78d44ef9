//! `env_files`: files with variables for an app. Form and check.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use serde::{Deserialize, Deserializer, Serialize};

use crate::model::manifest::fields::Fields;
use crate::model::manifest::text_or_struct::text_or_struct;

/// `EnvFile(…)` as written. A path in quotes is short for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename = "EnvFile")]
pub struct EnvFileForm {
    /// The file. A relative path is one from the manifest's folder.
    pub path: String,
    /// Whether the file may be missing.
    pub optional: bool,
}

/// A file with variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvFile {
    /// An absolute path.
    pub path: String,
    /// Whether it may be missing.
    pub optional: bool,
}

/// The result of reading an env file, as a hash that shows whether it has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenFile {
    /// Of the text, or of the reason why there is none.
    hash: u64,
    /// It could not be read for a reason that passes without a change of the file.
    pub may_pass: bool,
}

impl SeenFile {
    /// Notes what was read.
    pub fn of(read: &Result<Option<String>, Unread>) -> Self {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(read);
        SeenFile { hash, may_pass: read.as_ref().is_err_and(|unread| unread.may_pass) }
    }
}

/// Why a file was not read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Unread {
    /// As the end of a sentence that begins with the file's name.
    pub reason: String,
    /// The machine lacks something just now, such as descriptors. No change of the file will tell that this has passed.
    pub may_pass: bool,
}

impl From<String> for Unread {
    fn from(reason: String) -> Self {
        Unread { reason, may_pass: false }
    }
}

/// Checks the list in `env_files`. `folder` is the manifest's.
pub fn check(list: Vec<EnvFileForm>, folder: &str, fields: &mut Fields<'_>) -> Vec<EnvFile> {
    fields.each("env_files", list, |fields, EnvFileForm { path, optional }| {
        let path = fields.text("", path);
        if path.is_empty() {
            fields.error("", "the path is empty", "name a file");
        }
        let path = if path.starts_with('/') { path } else { format!("{folder}/{path}") };
        EnvFile { path, optional }
    })
}

impl<'de> Deserialize<'de> for EnvFileForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let of_path = |path| EnvFileForm { path, optional: false };
        text_or_struct(deserializer, of_path, |Written { path, optional }| EnvFileForm { path, optional })
    }
}

/// The fields of `EnvFile(…)`.
#[derive(Deserialize)]
#[serde(rename = "EnvFile", deny_unknown_fields)]
struct Written {
    path: String,
    #[serde(default)]
    optional: bool,
}
