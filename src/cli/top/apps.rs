//! The apps of the live view: their order, the filter, the selected one, and how busy each one is.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cli::status::urgency;
use crate::model::protocol::{AppStatus, Snapshot};

/// A shorter time says little about how busy an app is: the kernel counts in hundredths of a second.
const SHORTEST_SAMPLE: Duration = Duration::from_millis(500);

/// All apps, trouble first, with one of them selected.
#[derive(Debug, Default)]
pub struct AppList {
    snapshot: Snapshot,
    /// Indices into the snapshot: the apps that pass the filter, in the order on the screen.
    visible: Vec<usize>,
    filter: String,
    /// By name, because the order changes.
    selected: Option<String>,
    usage: BTreeMap<String, Usage>,
}

/// The CPU use of one app.
#[derive(Debug, Clone, Copy)]
struct Usage {
    /// The CPU time at the beginning of the sample, in milliseconds, and when that was.
    from: (u64, Duration),
    /// Percent of one CPU in the last sample. `None` before the first is complete.
    percent: Option<f64>,
}

impl AppList {
    /// Takes the apps as they are at `now`.
    pub fn update(&mut self, snapshot: Snapshot, now: Duration) {
        let measured = snapshot.apps.iter().filter_map(|app| Some((app.name.clone(), app.cpu_ms?)));
        self.usage = measured.map(|(name, cpu)| (name.clone(), next_usage(self.usage.get(&name), cpu, now))).collect();
        self.snapshot = snapshot;
        self.arrange();
    }

    fn arrange(&mut self) {
        let apps = &self.snapshot.apps;
        let wanted = self.filter.to_lowercase();
        let position = self.position();
        let mut visible: Vec<usize> =
            (0..apps.len()).filter(|at| apps[*at].name.to_lowercase().contains(&wanted)).collect();
        visible.sort_by_key(|at| (urgency(&apps[*at]), &apps[*at].name));
        self.visible = visible;
        if self.position().is_none() {
            // The selected app is gone: the one that took its place is the nearest.
            let near = position.unwrap_or(0).min(self.visible.len().saturating_sub(1));
            self.selected = self.visible.get(near).map(|at| self.snapshot.apps[*at].name.clone());
        }
    }

    /// The apps on the screen, in order.
    pub fn visible(&self) -> impl ExactSizeIterator<Item = &AppStatus> {
        self.visible.iter().map(|at| &self.snapshot.apps[*at])
    }

    pub fn len(&self) -> usize {
        self.visible.len()
    }

    /// The session, with every app, also those that the filter hides.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub fn selected(&self) -> Option<&AppStatus> {
        self.position().map(|at| &self.snapshot.apps[self.visible[at]])
    }

    /// Where the selected app is on the screen, counted from 0.
    pub fn position(&self) -> Option<usize> {
        let selected = self.selected.as_ref()?;
        self.visible.iter().position(|at| self.snapshot.apps.get(*at).is_some_and(|app| app.name == *selected))
    }

    pub fn knows(&self, name: &str) -> bool {
        self.snapshot.apps.iter().any(|app| app.name == name)
    }

    /// Selects the app this many rows further down.
    pub fn select_by(&mut self, rows: isize) {
        let last = self.visible.len().saturating_sub(1);
        let next = self.position().unwrap_or(0).saturating_add_signed(rows).min(last);
        self.selected = self.visible.get(next).map(|at| self.snapshot.apps[*at].name.clone());
    }

    /// Shows only the apps whose name contains this text.
    pub fn filter(&mut self, text: String) {
        self.filter = text;
        self.arrange();
    }

    /// The text of the filter.
    pub fn text(&self) -> &str {
        &self.filter
    }

    /// How busy an app is, in percent of one CPU.
    pub fn cpu(&self, app: &AppStatus) -> Option<f64> {
        self.usage.get(&app.name)?.percent
    }
}

fn next_usage(before: Option<&Usage>, cpu: u64, now: Duration) -> Usage {
    match before {
        // A new run begins at 0.
        Some(before) if cpu >= before.from.0 => {
            let took = now.saturating_sub(before.from.1);
            if took < SHORTEST_SAMPLE {
                return *before;
            }
            let percent = (cpu - before.from.0) as f64 / 10.0 / took.as_secs_f64();
            Usage { from: (cpu, now), percent: Some(percent) }
        }
        _ => Usage { from: (cpu, now), percent: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::app;
    use crate::model::protocol::StateName;

    fn snapshot(apps: &[(&str, StateName)]) -> Snapshot {
        Snapshot { apps: apps.iter().map(|(name, state)| app(name, *state)).collect(), ..Snapshot::default() }
    }

    fn names(list: &AppList) -> Vec<&str> {
        list.visible().map(|app| app.name.as_str()).collect()
    }

    #[test]
    fn trouble_is_on_top_and_the_selection_stays_with_its_app() {
        let mut list = AppList::default();
        list.update(snapshot(&[("a", StateName::Running), ("b", StateName::Running)]), Duration::ZERO);
        list.select_by(1);
        assert_eq!((names(&list), list.position()), (vec!["a", "b"], Some(1)));
        list.update(snapshot(&[("a", StateName::Running), ("b", StateName::GaveUp)]), Duration::ZERO);
        assert_eq!((names(&list), list.position()), (vec!["b", "a"], Some(0)));
        list.update(snapshot(&[("a", StateName::Running)]), Duration::ZERO);
        assert_eq!(list.selected().map(|app| app.name.as_str()), Some("a"));
        list.update(Snapshot::default(), Duration::ZERO);
        assert!(list.selected().is_none());
        list.select_by(-3);
        assert!(list.selected().is_none());
    }

    #[test]
    fn a_filter_hides_the_others() {
        let mut list = AppList::default();
        list.update(snapshot(&[("browser", StateName::Running), ("web", StateName::Running)]), Duration::ZERO);
        list.filter("WE".into());
        assert_eq!((names(&list), list.selected().map(|app| app.name.as_str())), (vec!["web"], Some("web")));
        list.filter("nothing".into());
        assert!(names(&list).is_empty() && list.selected().is_none());
        list.filter(String::new());
        assert_eq!(list.len(), 2);
    }

    #[test]
    fn cpu_is_the_time_used_between_two_looks() {
        let mut list = AppList::default();
        let busy = |cpu| {
            let mut snapshot = snapshot(&[("a", StateName::Running)]);
            snapshot.apps[0].cpu_ms = Some(cpu);
            snapshot
        };
        let shown = |list: &AppList| list.cpu(list.selected().unwrap());
        for (cpu, at, expected) in [
            (100, 0, None),
            (150, 100, None), // too soon to say
            (600, 1000, Some(50.0)),
            (600, 2000, Some(0.0)),
            (10, 3000, None), // another run
            (2010, 4000, Some(200.0)),
        ] {
            list.update(busy(cpu), Duration::from_millis(at));
            assert_eq!(shown(&list), expected, "{cpu} at {at}");
        }
    }
}
