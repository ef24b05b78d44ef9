//! The gateway's metrics. Owns their names and help texts. No label has a value from outside.

use std::sync::Mutex;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::board::Board;
use crate::host::sync::lock;
use crate::model::gateway::view::{ClusterHealth, WorkspaceStatus};

/// Bounds of the buckets, in seconds. A launcher answers within 8 s, and is given 10.
const BOUNDS: [f64; 8] = [0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 8.0, 10.0];

/// Everything that is counted.
pub struct Counts {
    registry: Mutex<Registry>,
    requests: Family<ByVerdict, Counter>,
    launches: Histogram,
    workspaces: Family<ByStatus, Gauge>,
    pages: Gauge,
    cluster: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByVerdict {
    verdict: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByStatus {
    status: &'static str,
}

impl Default for Counts {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("kasm_void_gateway");
        let (requests, workspaces) = (Family::default(), Family::default());
        let (launches, pages, cluster) = (Histogram::new(BOUNDS), Gauge::default(), Gauge::default());
        registry.register("requests", "Requests by what came of them", requests.clone());
        let help = "Time to answer a request to open a page";
        registry.register_with_unit("launch", help, Unit::Seconds, launches.clone());
        registry.register("workspaces", "Workspaces by status", workspaces.clone());
        registry.register("pages", "Pages that follow the list", pages.clone());
        registry.register("cluster_live", "1 while every change of the cluster arrives", cluster.clone());
        Counts { registry: Mutex::new(registry), requests, launches, workspaces, pages, cluster }
    }
}

impl Counts {
    /// Counts a request.
    pub fn count(&self, verdict: &'static str) {
        self.requests.get_or_create(&ByVerdict { verdict }).inc();
    }

    /// Counts a request to open a page, which took this long.
    pub fn launched(&self, took: Duration) {
        self.launches.observe(took.as_secs_f64());
    }

    /// All metrics as OpenMetrics text.
    pub fn text(&self, board: &Board) -> String {
        let mut counted = WorkspaceStatus::ALL.map(|status| (status, 0));
        board.with(|list| {
            for view in list.views() {
                counted.iter_mut().filter(|(status, _)| *status == view.status).for_each(|(_, count)| *count += 1);
            }
        });
        for (status, count) in counted {
            self.workspaces.get_or_create(&ByStatus { status: status.word() }).set(count);
        }
        self.pages.set(board.pages() as i64);
        let live = board.with(|list| list.health().is_none_or(|health| *health == ClusterHealth::Live));
        self.cluster.set(live.into());
        let mut text = String::new();
        let _ = encode(&mut text, &lock(&self.registry)); // writing into a string cannot fail
        text
    }
}
