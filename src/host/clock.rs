//! Moments in the future.

use std::time::{Duration, Instant};

/// The moment `span` from now, or thirty years from now if `span` is longer. `Instant` cannot hold every sum, and would
/// panic.
pub fn from_now(span: Duration) -> Instant {
    const LONGEST: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    let now = Instant::now();
    now.checked_add(span.min(LONGEST)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_ever_is_far_away_and_no_panic() {
        assert!(from_now(Duration::MAX) > Instant::now() + Duration::from_secs(3600));
        assert!(from_now(Duration::ZERO) <= Instant::now());
    }
}
