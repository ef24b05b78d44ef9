//! Reads the states of apps out of a workspace's metrics: the inverse of `model::metrics`. Accepts any text, because it
//! comes from the network.

use std::collections::BTreeMap;

use super::view::AppView;
use crate::model::protocol::StateName;

/// The most apps that are read. More would be a fault of the workspace.
const MOST: usize = 256;
/// The longest name of an app, in bytes.
const LONGEST: usize = 128;

/// The apps in a text of OpenMetrics, ordered by name. Series that are not ours, or not readable, are skipped.
pub fn read(text: &str) -> Vec<AppView> {
    let mut apps: BTreeMap<String, AppView> = BTreeMap::new();
    let mut known: Vec<String> = Vec::new();
    for Series { name, labels, value } in text.lines().filter_map(series) {
        let Some(app) = labels.iter().find(|(name, _)| name == "app").map(|(_, app)| app) else { continue };
        if app.len() > LONGEST || (apps.len() >= MOST && !apps.contains_key(app)) {
            continue;
        }
        let blank = AppView { name: app.clone(), state: StateName::Stopped, restarts: 0, failures: 0 };
        let view = apps.entry(app.clone()).or_insert(blank);
        match name {
            "kasm_void_app_state" if value == 1.0 => {
                let state = labels.iter().find(|(name, _)| name == "state").and_then(|(_, state)| state_of(state));
                if let Some(state) = state {
                    view.state = state;
                    known.push(app.clone());
                }
            }
            "kasm_void_app_restarts_total" => view.restarts = value as u64, // saturates
            "kasm_void_app_failures" => view.failures = value as u64,
            _ => {}
        }
    }
    apps.retain(|name, _| known.contains(name));
    apps.into_values().collect()
}

struct Series<'a> {
    name: &'a str,
    labels: Vec<(String, String)>,
    value: f64,
}

/// Reads `name{label="value",…} number …`.
fn series(line: &str) -> Option<Series<'_>> {
    let (name, mut rest) = line.split_once('{')?;
    if name.starts_with('#') {
        return None;
    }
    let mut labels = Vec::new();
    loop {
        let (label, after) = rest.split_once("=\"")?;
        let (value, after) = quoted(after)?;
        labels.push((label.to_owned(), value));
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => {
                rest = after.strip_prefix('}')?;
                break;
            }
        }
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Series { name, labels, value })
}

/// A label's value up to its closing quotation mark, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in text.char_indices() {
        match (escaped, c) {
            (true, 'n') => value.push('\n'),
            (true, c) => value.push(c),
            (false, '\\') => {}
            (false, '"') => return Some((value, &text[at + 1..])),
            (false, c) => value.push(c),
        }
        escaped = !escaped && c == '\\';
    }
    None
}

fn state_of(word: &str) -> Option<StateName> {
    serde_json::from_value(word.into()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::metrics;
    use crate::model::protocol::{AppStatus, Snapshot};

    fn app(name: &str, state: StateName, restarts: u64) -> AppStatus {
        let json = serde_json::json!({
            "name": name, "about": "", "state": state, "detail": "", "pid": null, "adopted": false, "run": 1,
            "uptime_ms": null, "restarts": restarts, "failures": 3, "last_exit": null, "next_retry_ms": null,
            "stale": null, "actions": [],
        });
        serde_json::from_value(json).expect("an app")
    }

    proptest! {
        #[test]
        fn what_a_supervisor_writes_is_read(names in proptest::collection::btree_set("[ -~é\n]{1,20}", 0..5), restarts in 0..1_000_000u64) {
            let states = [StateName::Running, StateName::Backoff, StateName::GaveUp];
            let apps: Vec<_> = names.iter().zip(states.iter().cycle()).map(|(name, state)| app(name, *state, restarts)).collect();
            let text = metrics::text(&Snapshot { apps: apps.clone(), ..Snapshot::default() });
            let wanted: Vec<_> = apps.into_iter()
                .map(|app| AppView { name: app.name, state: app.state, restarts: app.restarts, failures: 3 })
                .collect();
            prop_assert_eq!(read(&text), wanted);
        }

        #[test]
        fn no_text_breaks_it(text in "(kasm_void_app_state)?[{}\"=,\\\\ a-z0-9\n]{0,200}") {
            let _ = read(&text);
        }
    }

    #[test]
    fn a_workspace_cannot_fill_the_gateway() {
        let text: String =
            (0..100_000).map(|n| format!("kasm_void_app_state{{app=\"{n}\",state=\"Running\"}} 1\n")).collect();
        assert_eq!(read(&text).len(), MOST);
    }
}
