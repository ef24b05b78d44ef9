//! `after`: the apps that an app waits for before it starts, and whether it follows them. Form and check.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use crate::model::manifest::text_or_struct::text_or_struct;

/// An element of `after` as written: `"display"`, or `After(app: "display", …)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum AfterForm {
    /// Only the name.
    Name(String),
    /// With a condition.
    Condition(ConditionForm),
}

/// `After(…)` as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "After", deny_unknown_fields)]
pub struct ConditionForm {
    /// The other app.
    pub app: String,
    /// What this app waits for.
    #[serde(default)]
    pub until: UntilForm,
    /// Whether this app is up only as long as that holds.
    #[serde(default)]
    pub follow: bool,
}

/// `until` as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum UntilForm {
    /// The other app is ready.
    #[default]
    Running,
    /// The other app has a process, ready or not.
    Started,
    /// The other app has ended with exit code 0.
    Succeeded,
}

/// An app that another one waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct After {
    /// Its name.
    pub app: String,
    /// The condition for the start of the app that names it.
    pub until: Until,
    /// The other one is stopped when this no longer holds, and starts again when it does.
    pub follow: bool,
}

/// What an app waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The other app is ready, or will not be without a request. This is what a plain name means.
    Settled,
    /// See [`UntilForm::Running`].
    Running,
    /// See [`UntilForm::Started`].
    Started,
    /// See [`UntilForm::Succeeded`].
    Succeeded,
}

impl After {
    /// What a plain name in `after` means.
    pub fn name(app: &str) -> Self {
        After { app: app.into(), until: Until::Settled, follow: false }
    }
}

impl AfterForm {
    /// There is nothing to check in one element alone.
    pub fn check(self) -> After {
        match self {
            AfterForm::Name(app) => After::name(&app),
            AfterForm::Condition(ConditionForm { app, until, follow }) => {
                let until = match until {
                    UntilForm::Running => Until::Running,
                    UntilForm::Started => Until::Started,
                    UntilForm::Succeeded => Until::Succeeded,
                };
                After { app, until, follow }
            }
        }
    }
}

/// As `inspect` shows it.
impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let until = match self.until {
            Until::Settled => "",
            Until::Running => " (until Running",
            Until::Started => " (until Started",
            Until::Succeeded => " (until Succeeded",
        };
        let end = match (self.until, self.follow) {
            (Until::Settled, _) => "",
            (_, true) => ", followed)",
            (_, false) => ")",
        };
        write!(f, "{}{until}{end}", self.app)
    }
}

impl<'de> Deserialize<'de> for AfterForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_struct(deserializer, AfterForm::Name, AfterForm::Condition)
    }
}
