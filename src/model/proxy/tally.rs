//! The proxy's counters, and their text for a scrape. Owns the names and help texts of the proxy's metrics.

use core::fmt::Error;
use std::collections::BTreeMap;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::denial::Denial;

/// Counters since the proxy was started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tunnels that are open now.
    pub tunnels_open: u64,
    /// Tunnels that were opened.
    pub tunnels: u64,
    /// Requests that were passed on and answered.
    pub forwarded: u64,
    /// Bytes from clients to servers, in tunnels.
    pub sent: u64,
    /// Bytes from servers to clients, in tunnels.
    pub received: u64,
    /// Requests that were not served, by their word.
    denied: BTreeMap<String, u64>,
}

impl Tally {
    /// Counts a request that was not served.
    pub fn deny(&mut self, denial: &Denial) {
        *self.denied.entry(denial.word()).or_default() += 1;
    }

    /// All counters as OpenMetrics text.
    pub fn text(&self) -> String {
        let mut registry = Registry::with_prefix("kasm_void_proxy");
        registry.register_collector(Box::new(Counted(self.clone())));
        let mut text = String::new();
        // Writing into a string only fails if a collector fails, and ours only returns errors of the string.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }
}

#[derive(Debug)]
struct Counted(Tally);

impl Collector for Counted {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
        let Tally { tunnels_open, tunnels, forwarded, sent, received, denied } = &self.0;
        let encoder = &mut encoder;
        encoder
            .encode_descriptor("tunnels", "Tunnels that are open", None, MetricType::Gauge)?
            .encode_gauge(&(*tunnels_open as i64))?;
        counters(
            encoder,
            ("requests", "Requests that were served, by kind", None),
            "kind",
            [("tunnel", *tunnels), ("forward", *forwarded)],
        )?;
        let help = "Requests that were not served, by the policy's rule or by what failed";
        let denied = denied.iter().map(|(word, count)| (word.as_str(), *count));
        counters(encoder, ("refusals", help, None), "rule", denied)?;
        let bytes = ("tunnel", "Bytes through tunnels", Some(Unit::Bytes));
        counters(encoder, bytes, "direction", [("sent", *sent), ("received", *received)])
    }
}

/// A family of counters with one label.
fn counters<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, unit): (&str, &str, Option<Unit>),
    label: &str,
    values: impl IntoIterator<Item = (&'a str, u64)>,
) -> Result<(), Error> {
    let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
    for (value, count) in values {
        let labels = [(label, value)];
        family.encode_family(&labels)?.encode_counter::<[(&str, &str); 0], _, u64>(&count, None)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_read_as_open_metrics() {
        let mut tally = Tally { tunnels_open: 2, tunnels: 3, sent: 10, received: 20, ..Tally::default() };
        tally.deny(&Denial::Late);
        tally.deny(&Denial::Late);
        let text = tally.text();
        for line in [
            "# TYPE kasm_void_proxy_tunnels gauge",
            "kasm_void_proxy_tunnels 2",
            "kasm_void_proxy_requests_total{kind=\"tunnel\"} 3",
            "kasm_void_proxy_requests_total{kind=\"forward\"} 0",
            "kasm_void_proxy_refusals_total{rule=\"late\"} 2",
            "kasm_void_proxy_tunnel_bytes_total{direction=\"received\"} 20",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
    }
}
