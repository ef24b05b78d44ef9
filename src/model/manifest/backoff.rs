//! `backoff`: how long to wait before the next start. Form, defaults, check and arithmetic.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::manifest::fields::{A_DAY, Fields};
use crate::model::manifest::quantity::Span;

/// The range of waits, and of the time after which a run counts as stable. Without a lower bound, a program that exits
/// at once would be restarted as fast as the machine can.
const WAIT: RangeInclusive<Duration> = Duration::from_millis(1)..=A_DAY;
const WINDOW: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 60 * 60);
/// The most `times` of `give_up`: that many recent exits are kept in memory.
const TIMES: RangeInclusive<u32> = 1..=1_000;

/// `Backoff(…)` as written.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename = "Backoff", deny_unknown_fields, default)]
pub struct BackoffForm {
    /// The first wait.
    pub first: Option<String>,
    /// Each wait is the previous one multiplied by this.
    pub factor: Option<f64>,
    /// The longest wait, without jitter.
    pub max: Option<String>,
    /// Each wait is lengthened by a random fraction of itself, at most this.
    pub jitter: Option<f64>,
    /// An app that exits after running this long is restarted at once, and the next wait is `first` again.
    pub stable_after: Option<String>,
    /// When to stop trying; never by default.
    pub give_up: Option<GiveUpForm>,
}

/// `give_up` as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "GiveUp", deny_unknown_fields)]
pub enum GiveUpForm {
    /// Try for as long as the session lasts.
    Never,
    /// At the `times`-th unexpected exit within the window.
    After {
        /// 1 to 1000.
        times: u32,
        /// From 1 s to 30 days.
        within: String,
    },
}

/// How long to wait before the next start.
#[derive(Debug, Clone, PartialEq)]
pub struct Backoff {
    /// The first wait.
    pub first: Duration,
    /// Each wait is the previous one multiplied by this.
    pub factor: f64,
    /// The longest wait, without jitter.
    pub max: Duration,
    /// Each wait is lengthened by a random fraction of itself, at most this.
    pub jitter: f64,
    /// An app that exits after running this long is restarted at once, and the next wait is `first` again.
    pub stable_after: Duration,
    /// When to stop trying.
    pub give_up: GiveUp,
}

/// When to give up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUp {
    /// Try for as long as the session lasts.
    Never,
    /// At the `times`-th unexpected exit within the window.
    After {
        /// 1 to 1000.
        times: u32,
        /// From 1 s to 30 days.
        within: Duration,
    },
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff {
            first: Duration::from_secs(1),
            factor: 2.0,
            max: Duration::from_secs(30),
            jitter: 0.1,
            stable_after: Duration::from_secs(2),
            give_up: GiveUp::Never,
        }
    }
}

impl BackoffForm {
    /// Fills in defaults and reports values that are out of range, and a `first` longer than `max`.
    pub fn check(self, fields: &mut Fields<'_>) -> Backoff {
        let BackoffForm { first, factor, max, jitter, stable_after, give_up } = self;
        let default = Backoff::default();
        let written = first.is_some();
        let checked = Backoff {
            first: fields.duration("first", first, default.first, WAIT),
            factor: fields.number("factor", factor.unwrap_or(default.factor), 1.0..=100.0),
            max: fields.duration("max", max, default.max, WAIT),
            jitter: fields.number("jitter", jitter.unwrap_or(default.jitter), 0.0..=1.0),
            stable_after: fields.duration("stable_after", stable_after, default.stable_after, WAIT),
            give_up: give_up.map_or(default.give_up, |form| fields.within("give_up", |fields| form.check(fields))),
        };
        if checked.first > checked.max {
            let message =
                format!("the first wait ({}) is longer than `max` ({})", Span(checked.first), Span(checked.max));
            fields.mismatch(if written { "first" } else { "max" }, message, "");
        }
        checked
    }
}

impl GiveUpForm {
    fn check(self, fields: &mut Fields<'_>) -> GiveUp {
        match self {
            GiveUpForm::Never => GiveUp::Never,
            GiveUpForm::After { times, within } => GiveUp::After {
                times: fields.number("times", times, TIMES),
                within: fields.duration("within", Some(within), *WINDOW.end(), WINDOW),
            },
        }
    }
}

impl Backoff {
    /// The wait before start number `attempt` (1 = the first retry). `chance` is a random number in 0..1.
    pub fn wait(&self, attempt: u32, chance: f64) -> Duration {
        let steps = attempt.saturating_sub(1).min(1_000) as i32;
        let unjittered = self.first.as_secs_f64() * self.factor.powi(steps);
        let capped = unjittered.min(self.max.as_secs_f64());
        Duration::try_from_secs_f64(capped * (1.0 + self.jitter * chance)).unwrap_or(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn waits_grow_by_the_factor_up_to_the_maximum() {
        let backoff = Backoff { first: Duration::from_secs(3), jitter: 0.0, ..Backoff::default() };
        let waits: Vec<u64> = (1..=6).map(|attempt| backoff.wait(attempt, 0.9).as_secs()).collect();
        assert_eq!(waits, [3, 6, 12, 24, 30, 30]);
    }

    proptest! {
        #[test]
        fn no_wait_exceeds_the_maximum_and_its_jitter(first in 0u64..100_000, factor in 1.0f64..100.0, max in 0u64..100_000, jitter in 0.0f64..=1.0, attempt: u32, chance in 0.0f64..1.0) {
            let backoff = Backoff { first: Duration::from_millis(first), factor, max: Duration::from_millis(max), jitter, ..Backoff::default() };
            let most = Duration::from_secs_f64(max as f64 / 1e3 * (1.0 + jitter)) + Duration::from_millis(1);
            prop_assert!(backoff.wait(attempt, chance) <= most);
        }
    }
}
