//! `env`: the variables set for an app. Checks their names.

use std::collections::BTreeMap;

use crate::model::manifest::fields::Fields;

/// The prefix of variables that mark which app a process belongs to.
const OURS: &str = "KASM_VOID_";

/// Whether the supervisor itself sets variables of such a name.
pub fn is_reserved(name: &str) -> bool {
    name.starts_with(OURS)
}

/// Checks the map in `env`.
pub fn check(env: BTreeMap<String, String>, fields: &mut Fields<'_>) -> BTreeMap<String, String> {
    for name in env.keys() {
        let field = format!("env.{name}");
        if name.is_empty() || name.contains(['=', '\0']) {
            fields.error(&field, format!("`{name}` cannot be the name of a variable"), "");
        } else if is_reserved(name) {
            let help = format!("choose a name that does not begin with {OURS}");
            fields.error(&field, format!("`{name}` is reserved for the supervisor"), help);
        }
    }
    fields.map("env", env)
}
