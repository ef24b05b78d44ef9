//! `limits`: what an app may use. Form and check.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::model::manifest::fields::Fields;

/// Less than a mebibyte is less than any program needs to start.
const MAX_RSS: RangeInclusive<u64> = 1 << 20..=16 << 40;

/// `Limits(…)` as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename = "Limits", deny_unknown_fields, default)]
pub struct LimitsForm {
    /// -20 to 19.
    pub nice: Option<i32>,
    /// -1000 to 1000: which process is killed first when memory runs out.
    pub oom_score_adj: Option<i32>,
    /// The tree's resident memory; an app that needs more is restarted, class `TooMuchMemory`.
    pub max_rss: Option<String>,
}

/// What an app may use; `None` leaves it as the supervisor has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    pub nice: Option<i32>,
    pub oom_score_adj: Option<i32>,
    /// The tree's resident memory in bytes.
    pub max_rss: Option<u64>,
}

impl LimitsForm {
    pub fn check(self, fields: &mut Fields<'_>) -> Limits {
        let LimitsForm { nice, oom_score_adj, max_rss } = self;
        Limits {
            nice: nice.map(|nice| fields.number("nice", nice, -20..=19)),
            oom_score_adj: oom_score_adj.map(|score| fields.number("oom_score_adj", score, -1000..=1000)),
            max_rss: max_rss.map(|text| fields.size("max_rss", text, *MAX_RSS.end(), MAX_RSS)),
        }
    }
}
