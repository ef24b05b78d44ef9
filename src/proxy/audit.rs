//! The audit log of the proxy: one line for each refusal, with host, rule and kind of request, and the counters. A page
//! can ask for the same host by the million, so repeats within ten seconds share a line. Never logs a path or a query.

use std::sync::Mutex;

use tokio::time::Instant;

use crate::host::sync::lock;
use crate::model::proxy::denial::Denial;
use crate::model::proxy::request::WantedHost;
use crate::model::proxy::tally::Tally;
use crate::model::repeats::Repeats;
use crate::model::url;

/// How many hosts are logged separately within ten seconds.
const HOSTS: usize = 256;

/// Counts and logs what the proxy does.
pub struct Audit {
    began: Instant,
    tally: Mutex<Tally>,
    refusals: Mutex<Repeats<(Option<String>, String)>>,
}

impl Default for Audit {
    fn default() -> Self {
        Audit { began: Instant::now(), tally: Mutex::default(), refusals: Mutex::new(Repeats::new(HOSTS)) }
    }
}

impl Audit {
    /// Changes the counters.
    pub fn count(&self, change: impl FnOnce(&mut Tally)) {
        change(&mut lock(&self.tally));
    }

    /// The counters as OpenMetrics text.
    pub fn metrics(&self) -> String {
        lock(&self.tally).text()
    }

    /// Counts and logs a request that was not served. `kind` is its method.
    pub fn deny(&self, denial: &Denial, origin: Option<&WantedHost>, kind: &str, began: Instant) {
        self.count(|tally| tally.deny(denial));
        let host = origin.and_then(|origin| url::host(&origin.url()));
        let (rule, ms) = (denial.word(), began.elapsed().as_millis() as u64);
        let now = self.began.elapsed();
        let Some(more) = lock(&self.refusals).count(now, (host.clone(), rule.clone()), (None, rule.clone())) else {
            return;
        };
        let (more, status, kind) = ((more > 0).then_some(more), denial.status(), kind_of(kind));
        let named = host.as_deref().unwrap_or("no host");
        match denial.is_refusal() {
            true => tracing::warn!(
                event = "proxy.refused",
                host,
                rule,
                kind,
                more,
                status,
                ms,
                "refused {named}: {}",
                denial.text()
            ),
            false => tracing::info!(
                event = "proxy.failed",
                host,
                rule,
                kind,
                more,
                status,
                ms,
                "failed {named}: {}",
                denial.text()
            ),
        }
    }
}

/// A method is a client's own text, so only known ones are logged.
fn kind_of(method: &str) -> &'static str {
    const KNOWN: [&str; 8] = ["CONNECT", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];
    KNOWN.into_iter().find(|known| *known == method).unwrap_or("other")
}
