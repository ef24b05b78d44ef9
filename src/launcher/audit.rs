//! The audit log: peer, host and verdict of each request. Never logs a token, a path or a query.
//!
//! Each request with the token has its own line. Requests without it could be sent by the million and would push the
//! other lines out of the log. They have one line per address, verdict and ten seconds, with a count.

use std::net::IpAddr;
use std::time::Duration;

use super::verdict::Also;
use crate::http::{Peer, network};
use crate::model::repeats::Repeats;

/// How many strangers are counted separately. Further ones share a line.
const STRANGERS: usize = 64;

/// The fields of an audit line.
#[derive(Clone, Copy, Default)]
pub struct AuditLine<'a> {
    pub peer: Option<&'a Peer>,
    pub request: &'a str,
    pub host: Option<&'a str>,
    pub also: &'a [Also],
    /// Similar requests since the last line that have no line of their own.
    pub more: u64,
}

impl AuditLine<'_> {
    pub fn write(self, verdict: &str, status: u16, ms: u64) {
        let also: Vec<&str> = self.also.iter().map(|also| also.word()).collect();
        tracing::info!(
            event = "launcher.request",
            request = self.request,
            peer = self.from(),
            host = self.host,
            verdict,
            also = (!also.is_empty()).then(|| also.join(",")),
            more = (self.more > 0).then_some(self.more),
            status,
            ms,
            "{verdict}: {}",
            self.host.unwrap_or("no page")
        );
    }

    /// Logged at debug level, because probes come every few seconds.
    pub fn write_healthz(self, ms: u64) {
        let (request, peer) = (self.request, self.from());
        tracing::debug!(event = "launcher.request", request, peer, verdict = "healthy", status = 200, ms, "healthy");
    }

    fn from(&self) -> Option<String> {
        match self.peer? {
            Peer::Tcp(address) => Some(address.ip().to_canonical().to_string()),
            Peer::Unix { uid } => Some(format!("uid {uid}")),
        }
    }
}

/// Counts the requests of strangers. Pure: the caller passes the time.
#[derive(Debug)]
pub struct Strangers(Repeats<(Option<IpAddr>, &'static str)>);

impl Default for Strangers {
    fn default() -> Self {
        Strangers(Repeats::new(STRANGERS))
    }
}

impl Strangers {
    /// Counts a request. If it gets a line, returns how many requests since the last line got none; otherwise `None`.
    pub fn count(&mut self, now: Duration, peer: Option<&Peer>, verdict: &'static str) -> Option<u64> {
        let address = match peer {
            Some(Peer::Tcp(address)) => Some(network(address.ip())),
            _ => None,
        };
        self.0.count(now, (address, verdict), (None, verdict))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;

    fn peer(number: u32) -> Peer {
        Peer::Tcp(SocketAddr::from((Ipv4Addr::from_bits(number), 1)))
    }

    #[test]
    fn a_stranger_has_a_line_for_ten_seconds_and_the_next_one_has_the_count() {
        let mut strangers = Strangers::default();
        let mut ask =
            |seconds, number, verdict| strangers.count(Duration::from_secs(seconds), Some(&peer(number)), verdict);
        assert_eq!([0, 1, 9].map(|now| ask(now, 1, "not_found")), [Some(0), None, None]);
        assert_eq!((ask(9, 1, "unauthorized"), ask(9, 2, "not_found")), (Some(0), Some(0)));
        assert_eq!((ask(10, 1, "not_found"), ask(11, 1, "not_found")), (Some(2), None));
    }

    #[test]
    fn a_crowd_of_strangers_writes_few_lines() {
        let mut strangers = Strangers::default();
        let lines = (0..300_000).filter(|number| {
            let now = Duration::from_micros(u64::from(*number) * 16);
            strangers.count(now, Some(&peer(*number)), "not_found").is_some()
        });
        assert!(lines.count() <= STRANGERS + 1);
    }
}
