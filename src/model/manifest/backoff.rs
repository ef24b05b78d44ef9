//! Backoff: how long to wait before the next start. Type, defaults, check and arithmetic.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::manifest::quantity::Span;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Backoff {
    /// The first wait.
    pub first: Span,
    /// Each wait is the one before times this.
    pub factor: f64,
    /// No wait is longer.
    pub max: Span,
    /// Each wait is lengthened by a random share of itself, up to this.
    pub jitter: f64,
    /// An app that lived this long and dies is started at once, and the next wait is `first` again.
    pub stable_after: Span,
    pub give_up: GiveUp,
}

/// When to stop trying.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum GiveUp {
    Never,
    /// At the `times`-th unexpected exit within the window.
    After {
        times: u32,
        within: Span,
    },
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff {
            first: Span::secs(1),
            factor: 2.0,
            max: Span::secs(30),
            jitter: 0.1,
            stable_after: Span::secs(2),
            give_up: GiveUp::After { times: 10, within: Span::secs(600) },
        }
    }
}

impl Backoff {
    /// The wait before start number `attempt` (1 = the first retry). `chance` is a random number in 0..1.
    pub fn wait(&self, attempt: u32, chance: f64) -> Duration {
        let steps = attempt.saturating_sub(1).min(1_000) as i32;
        let unjittered = self.first.0.as_secs_f64() * self.factor.powi(steps);
        let capped = unjittered.min(self.max.0.as_secs_f64());
        Duration::try_from_secs_f64(capped * (1.0 + self.jitter * chance)).unwrap_or(self.max.0)
    }

    /// What is wrong with it: (field, what, way out).
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if !(self.factor.is_finite() && (1.0..=100.0).contains(&self.factor)) {
            problems
                .push(("factor", format!("a factor of {} cannot make waits longer: use 1.0 to 100.0", self.factor)));
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            problems.push(("jitter", format!("a jitter of {} is not a share: use 0.0 to 1.0", self.jitter)));
        }
        if self.first > self.max {
            problems.push(("first", format!("the first wait ({}) is longer than `max` ({})", self.first, self.max)));
        }
        if let GiveUp::After { times: 0, .. } = self.give_up {
            problems.push((
                "give_up.times",
                "0 times would give up before the first start: use 1 or more, or `Never`".into(),
            ));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn waits_grow_by_the_factor_up_to_the_maximum() {
        let backoff = Backoff { first: Span::secs(3), jitter: 0.0, ..Backoff::default() };
        let waits: Vec<u64> = (1..=6).map(|attempt| backoff.wait(attempt, 0.9).as_secs()).collect();
        assert_eq!(waits, [3, 6, 12, 24, 30, 30]);
    }

    proptest! {
        #[test]
        fn no_wait_exceeds_the_maximum_and_its_jitter(first in 0u64..100_000, factor in 1.0f64..100.0, max in 0u64..100_000, jitter in 0.0f64..=1.0, attempt: u32, chance in 0.0f64..1.0) {
            let backoff = Backoff { first: Span::millis(first), factor, max: Span::millis(max), jitter, ..Backoff::default() };
            let most = Duration::from_secs_f64(max as f64 / 1e3 * (1.0 + jitter)) + Duration::from_millis(1);
            prop_assert!(backoff.wait(attempt, chance) <= most);
        }
    }
}
