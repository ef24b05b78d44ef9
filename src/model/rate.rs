//! Rate limits: one bucket per address, one for all requests without the token, and one for all requests with it, so
//! that strangers cannot use up the callers' share. Pure: the caller passes the time.

use core::net::IpAddr;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// The size of a bucket, and how many requests it regains per second.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Requests that an idle client may send at once.
    pub burst: f64,
    /// Requests that it regains each second.
    pub per_second: f64,
}

/// Limit for one address, which may be one user or a dashboard behind a proxy.
pub const ADDRESS: Rate = Rate { burst: 20.0, per_second: 5.0 };
/// Limit for all requests without the token together, and for all with it: as many as a browser can handle.
pub const ALL: Rate = Rate { burst: 100.0, per_second: 25.0 };

/// How many addresses are remembered. The first to be forgotten is the stranger that has been idle longest.
const ADDRESSES: usize = 1024;

/// The buckets of one server, by address or by another key of its clients.
#[derive(Debug)]
pub struct RateLimiter<K = IpAddr> {
    address: Rate,
    all: Rate,
    strangers: Bucket,
    known: Bucket,
    addresses: HashMap<K, Address>,
}

#[derive(Debug)]
struct Address {
    bucket: Bucket,
    known: bool,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Duration,
}

impl<K: Hash + Eq + Clone> RateLimiter<K> {
    /// Limits each address to `address`; all strangers together, and all callers together, to `all`.
    pub fn new(address: Rate, all: Rate) -> Self {
        let (strangers, known) = (Bucket::full(all), Bucket::full(all));
        RateLimiter { address, all, strangers, known, addresses: HashMap::new() }
    }

    /// Lets this address ask once more, or says how many seconds it has to wait. Only a request without the token is
    /// charged to all strangers.
    pub fn admit(&mut self, now: Duration, address: K, has_token: bool) -> Result<(), u64> {
        if self.addresses.len() >= ADDRESSES && !self.addresses.contains_key(&address) {
            let first = self.addresses.iter().min_by_key(|(_, one)| (one.known, one.bucket.at));
            first.map(|(address, _)| address.clone()).and_then(|address| self.addresses.remove(&address));
        }
        let stranger = Address { bucket: Bucket::full(self.address), known: false };
        let one = self.addresses.entry(address).or_insert(stranger);
        one.bucket.take(self.address, now)?;
        one.known |= has_token;
        let all = if has_token { &mut self.known } else { &mut self.strangers };
        all.take(self.all, now)
    }

    /// Whether this address has sent the token before.
    pub fn knows(&self, address: &K) -> bool {
        self.addresses.get(address).is_some_and(|one| one.known)
    }
}

impl Bucket {
    fn full(rate: Rate) -> Self {
        Bucket { left: rate.burst, at: Duration::ZERO }
    }

    fn take(&mut self, rate: Rate, now: Duration) -> Result<(), u64> {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.left = (self.left + passed * rate.per_second).min(rate.burst);
        self.at = now;
        if self.left < 1.0 {
            return Err(((1.0 - self.left) / rate.per_second).ceil() as u64);
        }
        self.left -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: Rate = Rate { burst: 2.0, per_second: 0.5 };
    const MANY: Rate = Rate { burst: 1e6, per_second: 1e6 };

    fn address(last: u32) -> IpAddr {
        IpAddr::V4(last.into())
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_burst_is_free_and_the_next_waits() {
        let mut limiter = RateLimiter::new(TWO, MANY);
        assert_eq!([0, 0, 0].map(|now| limiter.admit(at(now), address(1), false)), [Ok(()), Ok(()), Err(2)]);
        assert_eq!(limiter.admit(at(0), address(2), false), Ok(()));
        assert_eq!([2, 2].map(|now| limiter.admit(at(now), address(1), true)), [Ok(()), Err(2)]);
    }

    #[test]
    fn all_together_have_a_limit_too() {
        for has_token in [false, true] {
            let mut limiter = RateLimiter::new(MANY, TWO);
            let admitted = [1, 2, 3].map(|peer| limiter.admit(at(0), address(peer), has_token));
            assert_eq!(admitted, [Ok(()), Ok(()), Err(2)]);
        }
    }

    #[test]
    fn strangers_take_nothing_from_a_caller_not_even_from_one_who_comes_for_the_first_time() {
        let mut limiter = RateLimiter::new(MANY, TWO);
        let strangers: Vec<_> = (1..=ADDRESSES as u32).map(|peer| limiter.admit(at(1), address(peer), false)).collect();
        assert_eq!(strangers.iter().filter(|admitted| admitted.is_ok()).count(), 2);
        assert_eq!([1, 1, 1].map(|now| limiter.admit(at(now), address(0), true)), [Ok(()), Ok(()), Err(2)]);
        assert!(limiter.knows(&address(0)) && !limiter.knows(&address(1)));
        for peer in 1..=2000 {
            let _ = limiter.admit(at(2), address(peer), false);
        }
        assert!(limiter.knows(&address(0)), "strangers made it forget a caller");
    }

    #[test]
    fn strangers_cost_no_memory() {
        let mut limiter = RateLimiter::new(TWO, MANY);
        for peer in 0..10_000 {
            let _ = limiter.admit(Duration::from_millis(peer.into()), address(peer), false);
        }
        assert_eq!(limiter.addresses.len(), ADDRESSES);
    }
}
