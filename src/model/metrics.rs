//! Formats a snapshot as OpenMetrics text. Owns the names and help texts of the metrics; measures nothing itself.

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::model::protocol::{AppStatus, Snapshot, StateName};

/// The content type, without which Prometheus rejects a scrape.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics at one moment, ordered by app.
pub fn text(snapshot: &Snapshot) -> String {
    let mut registry = Registry::with_prefix("kasm_void");
    registry.register_collector(Box::new(Moment(snapshot.clone())));
    let mut text = String::new();
    // Writing into a string only fails if a collector fails, and ours only returns errors of the string.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Moment(Snapshot);

impl Collector for Moment {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
        let Snapshot { apps, problems, draining, staging: _ } = &self.0;
        let encoder = &mut encoder;
        encoder
            .encode_descriptor("build", "Version of the running supervisor", None, MetricType::Info)?
            .encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        let found =
            encoder.encode_descriptor("manifest_problems", "Problems found in the manifests", None, MetricType::Gauge);
        found?.encode_gauge(&(problems.len() as i64))?;
        let drain =
            encoder.encode_descriptor("draining", "1 while all apps are being stopped", None, MetricType::Gauge);
        drain?.encode_gauge(&i64::from(*draining))?;

        for (at, (name, help, unit)) in GAUGES.iter().enumerate() {
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            for app in apps {
                match &gauges(app)[at] {
                    Gauge::Absent => {}
                    Gauge::Whole(number) => family.encode_family(&app_label(app))?.encode_gauge(number)?,
                    Gauge::Part(number) => family.encode_family(&app_label(app))?.encode_gauge(number)?,
                }
            }
        }
        states(encoder, apps)?;
        starts(encoder, apps)
    }
}

/// The gauges of an app: name, help and unit.
const GAUGES: [(&str, &str, Option<Unit>); 6] = [
    ("app_up", "1 while the app is running and ready", None),
    ("app_stale", "1 while the manifest is broken and its last good version is in use", None),
    ("app_warnings", "Warnings that the app's manifest shows now, as for a guard that is switched off", None),
    ("app_failures", "Failed starts in a row; 5 or more are a crash loop", None),
    ("app_uptime", "Time since the app became ready", Some(Unit::Seconds)),
    ("app_memory", "Resident memory of the app", Some(Unit::Bytes)),
];

enum Gauge {
    /// The app has no such number now.
    Absent,
    Whole(i64),
    Part(f64),
}

/// The values of [`GAUGES`]. Destructures the status, so that a new number does not compile until it is a metric or is
/// left out here.
fn gauges(app: &AppStatus) -> [Gauge; GAUGES.len()] {
    let AppStatus {
        state,
        uptime_ms,
        failures,
        memory_bytes,
        stale,
        warnings,
        // A label, and the counter in `starts`.
        name: _,
        restarts: _,
        // No numbers to watch.
        about: _,
        detail: _,
        pid: _,
        adopted: _,
        run: _,
        last_exit: _,
        next_retry_ms: _,
        log_trouble: _,
        actions: _,
        // No counter: it falls when a process of the tree ends without its parent.
        cpu_ms: _,
    } = app;
    [
        Gauge::Whole(i64::from(*state == StateName::Running)),
        Gauge::Whole(i64::from(stale.is_some())),
        Gauge::Whole(warnings.len() as i64),
        Gauge::Whole(i64::from(*failures)),
        uptime_ms.map_or(Gauge::Absent, |ms| Gauge::Part(ms as f64 / 1e3)),
        memory_bytes.map_or(Gauge::Absent, |bytes| Gauge::Whole(bytes as i64)),
    ]
}

fn app_label(app: &AppStatus) -> [(&'static str, &str); 1] {
    [("app", &app.name)]
}

/// One series for each state, with the value 1 for the current one, so that a graph shows changes without gaps.
fn states(encoder: &mut DescriptorEncoder, apps: &[AppStatus]) -> Result<(), Error> {
    let mut family =
        encoder.encode_descriptor("app_state", "1 for the state the app is in", None, MetricType::Gauge)?;
    for app in apps {
        for &state in StateName::ALL {
            let labels = [("app", app.name.clone()), ("state", state.to_string())];
            family.encode_family(&labels)?.encode_gauge(&i64::from(app.state == state))?;
        }
    }
    Ok(())
}

fn starts(encoder: &mut DescriptorEncoder, apps: &[AppStatus]) -> Result<(), Error> {
    let help = "Restarts after exits that were not requested";
    let mut family = encoder.encode_descriptor("app_restarts", help, None, MetricType::Counter)?;
    for app in apps {
        family.encode_family(&app_label(app))?.encode_counter::<[(&str, &str); 0], _, u64>(&app.restarts, None)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str, state: StateName) -> AppStatus {
        AppStatus { restarts: 2, ..AppStatus::of(name, state) }
    }

    #[test]
    fn a_snapshot_reads_as_open_metrics() {
        let running = AppStatus { uptime_ms: Some(1500), memory_bytes: Some(4096), ..app("a", StateName::Running) };
        let apps = vec![running, AppStatus { failures: 7, ..app("b", StateName::GaveUp) }];
        let text = text(&Snapshot { apps, problems: vec!["x".into()], draining: false, staging: false });
        for line in [
            concat!("kasm_void_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "# TYPE kasm_void_app_restarts counter",
            "kasm_void_app_restarts_total{app=\"a\"} 2",
            "kasm_void_app_up{app=\"a\"} 1",
            "kasm_void_app_up{app=\"b\"} 0",
            "kasm_void_app_failures{app=\"b\"} 7",
            "kasm_void_app_state{app=\"b\",state=\"GaveUp\"} 1",
            "kasm_void_app_state{app=\"b\",state=\"Running\"} 0",
            "# UNIT kasm_void_app_uptime_seconds seconds",
            "kasm_void_app_uptime_seconds{app=\"a\"} 1.5",
            "kasm_void_app_memory_bytes{app=\"a\"} 4096",
            "kasm_void_manifest_problems 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
        assert!(!text.contains("uptime_seconds{app=\"b\"}"), "an app that is down has no uptime:\n{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn no_name_can_forge_a_metric() {
        let apps = vec![app("a\"} 1\nforged 1\n#\\", StateName::Running)];
        let text = text(&Snapshot { apps, ..Snapshot::default() });
        assert!(!text.lines().any(|line| line.starts_with("forged")), "{text}");
    }
}
