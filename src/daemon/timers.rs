//! All timers of all apps in one table, and the next moment the loop must wake up.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use crate::model::machine::Timer;
use crate::model::supervisor::AppId;

#[derive(Default)]
pub struct Timers {
    order: BTreeSet<(Instant, AppId, Timer)>,
    armed: HashMap<(AppId, Timer), (Instant, u64)>,
}

impl Timers {
    /// Arms a timer and replaces the app's timer of the same kind. `run` is returned when it fires.
    pub fn arm(&mut self, app: AppId, timer: Timer, run: u64, at: Instant) {
        self.disarm(app, timer);
        self.order.insert((at, app, timer));
        self.armed.insert((app, timer), (at, run));
    }

    pub fn disarm(&mut self, app: AppId, timer: Timer) {
        if let Some((at, _)) = self.armed.remove(&(app, timer)) {
            self.order.remove(&(at, app, timer));
        }
    }

    /// When the next timer is due.
    pub fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, ..)| *at)
    }

    /// Removes and returns a timer that is due.
    pub fn fire(&mut self, now: Instant) -> Option<(AppId, Timer, u64)> {
        let (at, app, timer) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.order.pop_first();
        let (_, run) = self.armed.remove(&(app, timer))?;
        Some((app, timer, run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn timers_fire_in_order_and_a_rearmed_one_fires_once() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = Timers::default();
        timers.arm(AppId(1), Timer::Retry, 1, at(30));
        timers.arm(AppId(2), Timer::Grace, 7, at(20));
        timers.arm(AppId(1), Timer::Retry, 2, at(10));
        timers.disarm(AppId(3), Timer::Health);
        assert_eq!(timers.next(), Some(at(10)));
        assert_eq!(timers.fire(at(9)), None);
        let fired: Vec<_> = std::iter::from_fn(|| timers.fire(at(60))).collect();
        assert_eq!(fired, [(AppId(1), Timer::Retry, 2), (AppId(2), Timer::Grace, 7)]);
        assert_eq!(timers.next(), None);
    }
}
