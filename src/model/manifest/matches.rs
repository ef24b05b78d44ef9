//! `matches`: which live process is an app, however it was started. Form, check and the comparison.

use serde::{Deserialize, Serialize};

use crate::model::manifest::fields::Fields;
use crate::model::manifest::pattern::{Case, Pattern};

/// `Match(…)` as it is written. A live process of our user is this app when its command line (arguments joined by
/// a space) matches `cmdline` and not `exclude`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "Match", deny_unknown_fields)]
pub struct MatchForm {
    /// Regex over the command line.
    pub cmdline: String,
    /// Regex; command lines that match it are helpers, never the app.
    #[serde(default)]
    pub exclude: Option<String>,
}

impl MatchForm {
    pub fn check(self, fields: &mut Fields<'_>) -> Matcher {
        let MatchForm { cmdline, exclude } = self;
        if cmdline.is_empty() {
            let help = "begin it with the program's path, as in \"^/usr/bin/xterm\"";
            fields.error("cmdline", "an empty pattern matches every process", help);
        }
        Matcher {
            cmdline: fields.pattern("cmdline", cmdline, Case::Sensitive),
            exclude: exclude.map(|text| fields.pattern("exclude", text, Case::Sensitive)),
        }
    }
}

/// The compiled `matches`.
#[derive(Debug, Clone, PartialEq)]
pub struct Matcher {
    pub cmdline: Pattern,
    pub exclude: Option<Pattern>,
}

impl Matcher {
    /// `cmdline`: the process's arguments joined by single spaces.
    pub fn is(&self, cmdline: &str) -> bool {
        self.cmdline.is_match(cmdline) && !self.exclude.as_ref().is_some_and(|exclude| exclude.is_match(cmdline))
    }
}
