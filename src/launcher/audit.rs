//! What is written down of a request: who, which host, what became of it. Never a token, a path or a query.

use crate::http::Peer;

use super::verdict::Also;

/// What is known of a request.
#[derive(Clone, Copy, Default)]
pub struct Line<'a> {
    pub peer: Option<&'a Peer>,
    pub request: &'a str,
    pub host: Option<&'a str>,
    pub also: &'a [Also],
}

impl Line<'_> {
    pub fn write(self, verdict: &str, status: u16, ms: u64) {
        let also: Vec<&str> = self.also.iter().map(|also| also.word()).collect();
        tracing::info!(
            event = "launcher.request",
            request = self.request,
            peer = self.from(),
            host = self.host,
            verdict,
            also = (!also.is_empty()).then(|| also.join(",")),
            status,
            ms,
            "{verdict}: {}",
            self.host.unwrap_or("no page")
        );
    }

    /// Somebody asks every few seconds, so only who wants to know is told.
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
