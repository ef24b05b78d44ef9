//! The audit log: who asked for what, and what came of it. Never logs a token, a path or a query.

use std::net::IpAddr;
use std::time::Instant;

use super::callers::Caller;
use crate::http::Peer;

/// When a request arrived, and its id.
#[derive(Debug, Clone)]
pub struct Arrived {
    at: Instant,
    pub id: String,
}

impl Arrived {
    pub fn now() -> Self {
        Arrived { at: Instant::now(), id: format!("{:016x}", fastrand::u64(..)) }
    }

    pub fn ms(&self) -> u64 {
        self.at.elapsed().as_millis() as u64
    }
}

/// The fields of an audit line.
#[derive(Debug, Clone, Copy, Default)]
pub struct Audited<'a> {
    pub peer: Option<&'a Peer>,
    /// The caller, if it was let in.
    pub caller: Option<&'a Caller>,
    pub workspace: Option<&'a str>,
    /// The host of the URL.
    pub host: Option<&'a str>,
    /// The size that was asked for.
    pub replicas: Option<u32>,
    /// Similar requests since the last line that have no line of their own.
    pub more: u64,
}

impl Audited<'_> {
    pub fn write(self, verdict: &str, status: u16, arrived: &Arrived) {
        let Audited { caller, workspace, host, replicas, more, .. } = self;
        tracing::info!(
            event = "gateway.request",
            request = arrived.id,
            peer = self.address().map(|address| address.to_string()),
            caller = caller.map(|caller| caller.name.as_str()),
            by = caller.map(|caller| caller.by),
            workspace,
            host,
            replicas,
            verdict,
            more = (more > 0).then_some(more),
            status,
            ms = arrived.ms(),
            "{verdict}{}",
            workspace.map_or_else(String::new, |workspace| format!(": {workspace}"))
        );
    }

    fn address(&self) -> Option<IpAddr> {
        match self.peer? {
            Peer::Tcp(address) => Some(address.ip().to_canonical()),
            Peer::Unix { .. } => None,
        }
    }
}
