//! Variables: what the env files of an app set for it.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::loading::dotenv::{Mistake, Variables};
use crate::model::loading::surroundings::Surroundings;
use crate::model::manifest::env_files::{EnvFile, SeenFile};
use crate::model::manifest::environment;
use crate::model::manifest::fields::Fields;

/// The variables of env files, in their order, and what was found of each file. Variables that are `hidden` from the app
/// are left out.
pub fn of_files(
    files: Vec<EnvFile>,
    hidden: &BTreeSet<String>,
    fields: &mut Fields<'_>,
    around: &Surroundings<'_>,
) -> (BTreeMap<String, String>, BTreeMap<String, SeenFile>) {
    let inherited = |name: &str| around.env.get(name).filter(|_| !hidden.contains(name)).cloned();
    let mut variables = Variables::new(&inherited);
    let mut seen = BTreeMap::new();
    for (i, EnvFile { path, optional }) in files.into_iter().enumerate() {
        let field = format!("env_files[{i}]");
        let read = (around.read)(&path);
        seen.insert(path.clone(), SeenFile::of(&read));
        match read {
            Ok(Some(text)) => {
                if let Err(Mistake { line, message, help }) = variables.read(&text) {
                    fields.error(&field, format!("{path}, line {line}: {message}"), help);
                }
            }
            Ok(None) if optional => {}
            Ok(None) => {
                let help = "create it; if it may be missing, write EnvFile(path: \"…\", optional: true)";
                fields.error(&field, format!("`{path}` does not exist"), help);
            }
            Err(unread) => fields.error(&field, format!("`{path}` {}", unread.reason), ""),
        }
    }
    let mut values = variables.into_values();
    values.retain(|name, _| !hidden.contains(name));
    if let Some(name) = values.keys().find(|name| environment::is_reserved(name)) {
        fields.error(
            "env_files",
            format!("they set `{name}`, which is reserved for the supervisor"),
            "remove it there",
        );
    }
    (values, seen)
}
