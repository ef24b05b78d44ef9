//! `env_files`: files with variables for an app. Form and check.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::model::manifest::fields::Fields;

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

/// What was found where an env file should be.
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
        deserializer.deserialize_any(PathOrFields)
    }
}

struct PathOrFields;

impl<'de> Visitor<'de> for PathOrFields {
    type Value = EnvFileForm;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a path or EnvFile(path: \"…\", optional: true)")
    }

    fn visit_str<E>(self, path: &str) -> Result<EnvFileForm, E> {
        Ok(EnvFileForm { path: path.into(), optional: false })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<EnvFileForm, A::Error> {
        let (mut path, mut optional) = (None, false);
        while let Some(Name(name)) = fields.next_key()? {
            match name.as_str() {
                "path" => path = Some(fields.next_value()?),
                "optional" => optional = fields.next_value()?,
                _ => return Err(A::Error::custom(format!("there is no field `{name}` of `EnvFile`"))),
            }
        }
        let path = path.ok_or_else(|| A::Error::custom("the field `path` of `EnvFile` is missing"))?;
        Ok(EnvFileForm { path, optional })
    }

    /// `EnvFile()`
    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<EnvFileForm, A::Error> {
        Err(A::Error::custom("the field `path` of `EnvFile` is missing"))
    }
}

/// The name of a field, as RON writes it: without quotes.
struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Name;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the name of a field")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(Name(name.into()))
            }
        }
        deserializer.deserialize_identifier(Text)
    }
}
