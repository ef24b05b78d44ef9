//! `warnings`: sentences that `status` and `doctor` show while a switch is off, for settings that people must not forget.

use serde::{Deserialize, Serialize};

use crate::model::manifest::fields::Fields;
use crate::model::manifest::switch::switch;

/// `Warning(…)` as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "Warning", deny_unknown_fields)]
pub struct WarningForm {
    /// The switch. While it is on, nothing is shown.
    #[serde(deserialize_with = "switch")]
    pub unless: String,
    /// The sentence to show: the risk, and how to end it.
    pub text: String,
}

/// The sentences that are to be shown.
pub fn check(warnings: Vec<WarningForm>, fields: &mut Fields<'_>) -> Vec<String> {
    let shown = fields.each("warnings", warnings, |fields, WarningForm { unless, text }| {
        let is_fine = fields.switch("unless", unless, "no warning is shown");
        let text = fields.text("text", text);
        (!is_fine).then_some(text)
    });
    shown.into_iter().flatten().collect()
}
