//! `limits`: the resources that an app may use. Form and check.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::model::manifest::fields::Fields;

/// Any program needs at least a mebibyte to start.
const MAX_RSS: RangeInclusive<u64> = 1 << 20..=16 << 40;

/// `Limits(…)` as written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename = "Limits", deny_unknown_fields, default)]
pub struct LimitsForm {
    /// -20 to 19.
    pub nice: Option<i32>,
    /// -1000 to 1000. With a higher value, the kernel kills the app earlier when memory runs out.
    pub oom_score_adj: Option<i32>,
    /// Resident memory of the whole tree; an app that uses more is restarted, class `TooMuchMemory`.
    pub max_rss: Option<String>,
}

/// The resources that an app may use. With `None` it inherits the supervisor's value, or has no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// -20 to 19.
    pub nice: Option<i32>,
    /// -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Resident memory of the whole tree, in bytes.
    pub max_rss: Option<u64>,
}

impl LimitsForm {
    /// Reports values that are out of range.
    pub fn check(self, fields: &mut Fields<'_>) -> Limits {
        let LimitsForm { nice, oom_score_adj, max_rss } = self;
        Limits {
            nice: nice.map(|nice| fields.number("nice", nice, -20..=19)),
            oom_score_adj: oom_score_adj.map(|score| fields.number("oom_score_adj", score, -1000..=1000)),
            max_rss: max_rss.map(|text| fields.size("max_rss", text, *MAX_RSS.end(), MAX_RSS)),
        }
    }
}
